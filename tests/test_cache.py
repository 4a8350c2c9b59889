"""The cache of tensors: whole or nothing, and never too large."""

import hashlib
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.support import cache

CONTENT = {
    "gradients": [{"w": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)}, {}],
    "step": 3,
    "sizes": [0.1, float("inf")],
    "about": None,
}


@pytest.fixture(autouse=True)
def tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files, not there yet."""
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "new" / "folder"))
    return tmp_path / "new" / "folder" / "tensors"


def test_what_was_saved_is_loaded_and_nothing_else(tensors: Path) -> None:
    assert cache.load("kind", "key") is None
    cache.save("kind", "key", CONTENT)
    loaded = cache.load("kind", "key")
    assert loaded is not None
    assert torch.equal(loaded["gradients"][0]["w"], CONTENT["gradients"][0]["w"])  # type: ignore[index]
    assert loaded | {"gradients": []} == CONTENT | {"gradients": []}
    assert cache.load("kind", "other") is None
    assert cache.load("other", "key") is None
    assert [file.name for file in tensors.iterdir()] == ["kind-key.pt"]


class Code:
    """Unpickling this would run it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.abort, ()


def test_broken_file_is_as_none_and_is_replaced(tensors: Path) -> None:
    cache.save("kind", "key", CONTENT)
    (path,) = tensors.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    others = (b"no file of tensors, but whole", pickle.dumps(Code(), protocol=2))
    for broken in (
        *(whole[:middle], b"", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]),
        *(hashlib.sha256(payload).digest() + payload for payload in others),
    ):
        path.write_bytes(broken)
        assert cache.load("kind", "key") is None, broken
        cache.save("kind", "key", CONTENT)
        assert cache.load("kind", "key") is not None, broken


def test_folder_that_cannot_be_written_to_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file" / "folder"))
    cache.save("kind", "key", CONTENT)
    assert cache.load("kind", "key") is None


def test_writers_at_once_leave_a_whole_file_at_every_moment(tensors: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            cache.save("kind", "key", torch.full((20_000,), float(number)))

    write(0)
    read = 0
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, number) for number in (1, 2, 3)]
        while not all(writer.done() for writer in writers):
            loaded = cache.load("kind", "key")
            assert loaded is not None
            assert loaded.unique().numel() == 1
            read += 1
        for writer in writers:
            writer.result()
    assert read
    assert len(list(tensors.iterdir())) == 1


def test_what_was_used_least_recently_goes_first(
    tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, key in enumerate("dcba"):  # a is the oldest
        cache.save("kind", key, torch.zeros(1000))
        os.utime(tensors / f"kind-{key}.pt", (1e9 - age, 1e9 - age))
    leftover = tensors / "kind-x.tmp"
    leftover.write_bytes(bytes(4000))
    os.utime(leftover, (1e8, 1e8))
    elsewhere = tensors.parent / "glyphs.npz"
    elsewhere.write_bytes(bytes(100_000))
    os.utime(elsewhere, (1e8, 1e8))
    assert cache.load("kind", "a") is not None  # and so is the newest
    size = (tensors / "kind-a.pt").stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 3 * size)
    cache.save("kind", "e", torch.zeros(1000))
    assert sorted(file.name for file in tensors.iterdir()) == [f"kind-{k}.pt" for k in "ade"]
    assert elsewhere.exists()
    cache.save("kind", "f", torch.zeros(10_000))  # larger than everything may be together
    assert sorted(file.name for file in tensors.iterdir()) == [f"kind-{k}.pt" for k in "ade"]


def test_digest_differs_wherever_a_part_does(tmp_path: Path) -> None:
    ones, grid = torch.ones(4), torch.arange(4.0)
    (tmp_path / "one" / "sub").mkdir(parents=True)
    parts: list[tuple[Any, ...]] = [
        *((), ("a", "bc"), ("ab", "c"), ("abc",), (1,), (1.0,), ("1",)),
        *((ones,), (ones, ones), (ones.double(),), (ones.reshape(2, 2),), (ones.reshape(4, 1),)),
        *((grid.reshape(2, 2),), (grid.reshape(2, 2).T,)),
        *((torch.tensor(0.0),), (torch.tensor(-0.0),)),
        *(({"w": ones},), ({"v": ones},), ({"w": ones, "v": ones},), ({"w": ones}, {"v": ones})),
    ]
    digests = [cache.digest(*part) for part in parts]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("sub/c.toml", "2")):
        (tmp_path / "one" / name).write_text(text)
        digests.append(cache.digest(tmp_path / "one"))
    digests.append(cache.digest(tmp_path / "one" / "a.py"))
    assert len(set(digests)) == len(digests)
    assert cache.digest(ones, "a", {"w": grid}) == cache.digest(torch.ones(4), "a", {"w": grid + 0})
    assert cache.digest(grid.reshape(2, 2).T) == cache.digest(torch.tensor([[0.0, 2], [1, 3]]))
    before = cache.digest(tmp_path / "one")
    (tmp_path / "one" / "a.cpython-311.pyc").touch()
    assert cache.digest(tmp_path / "one") == before
