"""Image data sets are decoded once, anew when they have changed, and never more than that."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.matrix.problems import origin
from harness.tasks.reading.decoded import decoded
from harness.tasks.reading.pictures import Picture
from tests.support.image_sets import as_png, equal, family, write_omniglot, write_tree


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the images that were decoded lie."""
    found: list[str] = []
    whole = Picture.open

    def open_and_note(picture: Picture) -> Image.Image:
        found.append(picture.where)
        return whole(picture)

    monkeypatch.setattr(Picture, "open", open_and_note)
    return found


def test_a_set_is_decoded_once(data: Path, opened: list[str]) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    task = found.sample(0)
    assert len(opened) == 19  # of the training split alone
    found.sample(1)
    decoded.cache_clear()  # as in a new process
    assert equal(family("images", folder="tree", size=8, ways=2, queries=3).sample(0), task)
    assert len(opened) == 19
    images = found.part("train").images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    found.sample(0, "test")
    assert len(opened) == 19 + 25
    family("images", folder="tree", size=9, ways=2, queries=3).sample(0)
    assert len(opened) == 19 + 25 + 19


def files_in(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def test_changed_files_are_decoded_anew(data: Path, tmp_path: Path) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    found.sample(0)
    before = files_in(tmp_path / "cache")
    path = data / "tree" / "train" / "train-1" / "0.png"
    path.write_bytes(as_png(np.full((8, 8, 3), 77, np.uint8)))
    os.utime(path, ns=(1, 1))
    decoded.cache_clear()
    assert found.pictures("train", 1, np.array([0])).min() == 77
    after = files_in(tmp_path / "cache")
    assert len(after) == len(before) == 2
    assert not {*before} & {*after}  # what is of no use any more was deleted


def test_changed_files_are_other_data(data: Path) -> None:
    write_tree(data / "tree", size=16)
    cell = Cell.of(
        estimator="maml",
        task="images(folder='tree', size=16, ways=2, queries=3)",
        model="conv4-16",
        depth=1,
    )
    (data / "tree" / "train" / "empty").mkdir()
    origins = [origin(cell)]
    assert origin(cell) == origins[0]
    (data / "tree" / "train" / "empty").rmdir()
    origins.append(origin(cell))
    (data / "tree" / "train" / "train-1" / "0.png").unlink()
    origins.append(origin(cell))
    assert len({*map(repr, origins)}) == 3


def test_a_folder_spelled_otherwise_is_the_same_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(data / "tree", size=4)
    (tmp_path / "link").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    found = family("images", folder="tree", size=4)
    digests = set()
    for spelling in (data, data / ".." / "data", tmp_path / "link", Path("data")):
        monkeypatch.setenv("METAGRAD_DATA", str(spelling))
        digests.add(found.data())
    data.rename(tmp_path / "moved")
    monkeypatch.setenv("METAGRAD_DATA", str(tmp_path / "moved"))
    assert len({*digests, found.data()}) == 1


@pytest.mark.parametrize("name", ["images", "omniglot"])
def test_a_class_without_images_is_no_longer_one_when_it_is_gone(name: str, data: Path) -> None:
    if name == "images":
        empty = write_tree(data / "here", size=8) / "train" / "@eaDir"
    else:
        empty = write_omniglot(data / "here") / "images_background" / "Greek" / "@eaDir"
    empty.mkdir()
    found = family(name, folder="here", ways=2, queries=3)
    part = found.layouts[0].parts[0]
    assert 0 in found.part(part).counts
    empty.rmdir()
    decoded.cache_clear()
    assert 0 not in found.part(part).counts


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((3, 3), np.uint8))


def deleted(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("breakage", [truncated, emptied, replaced, deleted])
def test_broken_cache_is_made_anew(
    breakage: Callable[[Path], None], suffix: str, data: Path, tmp_path: Path, opened: list[str]
) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    task = found.sample(0)
    (path,) = [path for path in files_in(tmp_path / "cache") if path.suffix == suffix]
    breakage(path)
    decoded.cache_clear()
    assert equal(found.sample(0), task)
    assert len(opened) == 2 * 19
    decoded.cache_clear()
    found.sample(0)
    assert len(opened) == 2 * 19


def test_without_a_cache_images_stay_in_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    task = found.sample(0)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    decoded.cache_clear()
    assert equal(found.sample(0), task)
    assert not isinstance(found.part("train").images, np.memmap)
    found.sample(1)
    assert len(opened) == 2 * 19


def test_a_disk_that_is_full_leaves_nothing_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", full)
    assert found.sample(0).support[0].shape == (2, 3, 8, 8)
    assert files_in(tmp_path / "cache") == []


def test_much_is_not_kept_in_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("harness.tasks.reading.decoded._MOST_IN_MEMORY", 19 * 3 * 64)
    assert found.sample(0).support[0].shape == (2, 3, 8, 8)
    decoded.cache_clear()
    monkeypatch.setattr("harness.tasks.reading.decoded._MOST_IN_MEMORY", 19 * 3 * 64 - 1)
    message = (
        r"tree: train decoded is 0.0 GiB, which cannot be kept in .*/file/images: "
        "Not a directory; METAGRAD_CACHE names the folder of the cache"
    )
    with pytest.raises(OptionError, match=message):
        found.sample(0)


def test_what_was_decoded_of_a_folder_that_is_gone_is_deleted(data: Path, tmp_path: Path) -> None:
    for name in ("one", "other", "third"):
        write_tree(data / name, size=8)
    for name in ("one", "other"):
        family("images", folder=name, size=8).part("train")
    assert len(files_in(tmp_path / "cache")) == 4
    shutil.rmtree(data / "one")
    (tmp_path / "cache" / "images" / "broken.json").write_text("[")
    family("images", folder="third", size=8).part("train")
    folders = [
        json.loads(path.read_text())["folder"]
        for path in files_in(tmp_path / "cache")
        if path.suffix == ".json" and path.name != "broken.json"
    ]
    assert sorted(folders) == [str(data / "other"), str(data / "third")]
    assert len(files_in(tmp_path / "cache")) == 5


def test_only_unfinished_files_of_long_ago_are_deleted(data: Path, tmp_path: Path) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    found.sample(0)
    path = next(path for path in files_in(tmp_path / "cache") if path.suffix == ".npy")
    old, new = (path.with_name(f"{path.stem}{end}.tmp") for end in ("old", "new"))
    other = path.with_name("of-another-part.npy")
    for file in (old, new, other):
        file.write_bytes(b"")
    os.utime(old, (0, 0))
    path.unlink()
    decoded.cache_clear()
    found.sample(0)
    assert [file.exists() for file in (old, new, other, path)] == [False, True, True, True]


def test_processes_that_decode_at_the_same_time_agree(data: Path, tmp_path: Path) -> None:
    write_tree(data / "tree", size=32)
    found = family("images", folder="tree", size=32, ways=2, queries=3)
    layout, folder = found.layouts[0], data / "tree"
    fresh = decoded.__wrapped__  # each call is what a process of its own would do
    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(lambda _: fresh(layout, folder, "train", found.form), range(8))]
    assert all(np.array_equal(one.images, made[0].images) for one in made)
    assert [path.suffix for path in files_in(tmp_path / "cache")] == [".json", ".npy"]
