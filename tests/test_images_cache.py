"""Image data sets are decoded once, anew when they have changed, and never more than that."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.matrix.problems import origin
from harness.tasks.image_files import ImageFiles
from harness.tasks.reading.decoded import decoded
from harness.tasks.reading.pictures import Picture
from tests.support.image_sets import (
    as_png,
    equal,
    family,
    truncate,
    write_cache_pickles,
    write_csv,
    write_omniglot,
    write_tree,
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the images that were decoded."""
    places: list[str] = []
    whole = Picture.open

    def open_and_note(picture: Picture) -> Image.Image:
        places.append(picture.where)
        return whole(picture)

    monkeypatch.setattr(Picture, "open", open_and_note)
    return places


@pytest.fixture
def tree(data: Path) -> ImageFiles:
    """A family that reads tiny images in folders."""
    write_tree(data / "tree", size=8)
    return family("images", folder="tree", size=8, ways=2, queries=3)


def files_in(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def test_a_set_is_decoded_once(tree: ImageFiles, opened: list[str]) -> None:
    task = tree.sample(0)
    assert len(opened) == 19  # only those of the training split
    tree.sample(1)
    decoded.cache_clear()  # as in a new process
    assert equal(family("images", folder="tree", size=8, ways=2, queries=3).sample(0), task)
    assert len(opened) == 19
    images = tree.part("train").images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    tree.sample(0, "test")
    assert len(opened) == 19 + 25
    family("images", folder="tree", size=9, ways=2, queries=3).sample(0)
    assert len(opened) == 19 + 25 + 19


def test_changed_files_are_other_data_and_are_decoded_anew(data: Path, tmp_path: Path) -> None:
    write_tree(data / "tree", size=16)
    tree = family("images", folder="tree", size=16)
    tree.part("train")
    before = files_in(tmp_path / "cache")
    task = "images(folder='tree', size=16, ways=2, queries=3)"
    cell = Cell.of(estimator="maml", task=task, model="conv4-16", depth=1)
    origins = [origin(cell)]
    assert origin(cell) == origins[0]
    empty = data / "tree" / "train" / "empty"
    image = data / "tree" / "train" / "train-1" / "0.png"
    image.write_bytes(as_png(np.full((16, 16, 3), 77, np.uint8)))
    os.utime(image, ns=(1, 1))
    changes: list[tuple[Callable[[], object], list[int]]] = [
        (decoded.cache_clear, [7, 6, 6]),
        (empty.mkdir, [0, 7, 6, 6]),
        (empty.rmdir, [7, 6, 6]),
        (image.unlink, [7, 5, 6]),
    ]
    for change, counts in changes:
        change()
        decoded.cache_clear()
        assert tree.counts("train").tolist() == counts
        if counts == [7, 6, 6]:
            assert tree.pictures("train", 1, np.array([0])).min() == 77
        origins.append(origin(cell))
        after = files_in(tmp_path / "cache")
        assert len(after) == 2
        assert not {*before} & {*after}  # of no use any more, so they were deleted
        before = after
    assert len({*map(repr, origins)}) == 4


def test_changes_in_other_layouts(data: Path) -> None:
    empty = write_omniglot(data / "omniglot") / "images_background" / "Greek" / "empty"
    characters = family("omniglot")
    for change, present in ((empty.mkdir, True), (empty.rmdir, False)):
        change()
        decoded.cache_clear()
        assert (0 in characters.part("background").counts) == present
    write_csv(data / "lists")
    write_cache_pickles(data / "pickles")
    for folder, name in (
        ("lists", "images/test-0-0.png"),
        ("pickles", "mini-imagenet-cache-val.pkl"),
    ):
        mini = family("miniimagenet", folder=folder)
        unchanged = mini.data()
        assert unchanged == mini.data()
        os.utime(data / folder / name, ns=(1, 1))
        assert mini.data() != unchanged


def test_a_folder_spelled_otherwise_is_the_same_data(
    tree: ImageFiles, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    digests = set()
    for spelling in (data, data / ".." / "data", tmp_path / "link", Path("data")):
        monkeypatch.setenv("METAGRAD_DATA", str(spelling))
        digests.add(tree.data())
    data.rename(tmp_path / "moved")
    monkeypatch.setenv("METAGRAD_DATA", str(tmp_path / "moved"))
    assert len({*digests, tree.data()}) == 1


def test_broken_cache_is_made_anew(tree: ImageFiles, tmp_path: Path, opened: list[str]) -> None:
    task = tree.sample(0)
    harms: list[Callable[[Path], object]] = [truncate, Path.unlink]
    harms += [lambda path: np.save(path.open("wb"), np.zeros((3, 3), np.uint8))]
    harms += [lambda path: path.write_bytes(b"")]
    for harm in harms:
        for suffix in (".npy", ".json"):
            (path,) = (path for path in files_in(tmp_path / "cache") if path.suffix == suffix)
            harm(path)
            for _ in range(2):  # the second time, nothing is broken
                decoded.cache_clear()
                assert equal(tree.sample(0), task), (harm, suffix)
            assert len(opened) == 2 * 19, (harm, suffix)
            del opened[19:]


def test_without_a_cache_images_stay_in_memory(
    tree: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    task = tree.sample(0)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("harness.tasks.reading.decoded._LARGEST_IN_MEMORY", 19 * 3 * 64)
    decoded.cache_clear()
    assert equal(tree.sample(0), task)
    assert not isinstance(tree.part("train").images, np.memmap)
    tree.sample(1)
    assert len(opened) == 2 * 19
    decoded.cache_clear()
    monkeypatch.setattr("harness.tasks.reading.decoded._LARGEST_IN_MEMORY", 19 * 3 * 64 - 1)
    with pytest.raises(UserError, match=r"tree: train .*/file/images: Not a dir.*METAGRAD_CACHE"):
        tree.sample(0)


def test_a_file_system_that_maps_nothing_into_memory(
    tree: ImageFiles, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    task = tree.sample(0)
    monkeypatch.setattr("mmap.mmap", unsupported)
    decoded.cache_clear()
    assert equal(tree.sample(0), task)
    assert len(opened) == 19


def test_a_disk_that_is_full_leaves_nothing_behind(
    tree: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", full)
    assert tree.sample(0).support[0].shape == (2, 3, 8, 8)
    assert files_in(tmp_path / "cache") == []


def test_only_drafts_of_long_ago_are_deleted(tree: ImageFiles, tmp_path: Path) -> None:
    tree.sample(0)
    path = next(path for path in files_in(tmp_path / "cache") if path.suffix == ".npy")
    old, new = (path.with_name(f".{start}-{path.name}") for start in ("01234567", "89abcdef"))
    other = path.with_name(".01234567-another-part.npy")
    for file in (old, new, other):
        file.write_bytes(b"")
        os.utime(file, (0, 0))
    os.utime(new)
    path.unlink()
    decoded.cache_clear()
    tree.sample(0)
    assert [file.exists() for file in (old, new, other, path)] == [False, True, True, True]


def test_processes_that_decode_at_the_same_time_agree(
    tree: ImageFiles, data: Path, tmp_path: Path
) -> None:
    fresh = decoded.__wrapped__  # each call is what another process would do
    with ThreadPoolExecutor(4) as pool:
        parts = [
            *pool.map(lambda _: fresh(tree.layouts[0], data / "tree", "train", tree.form), range(8))
        ]
    assert all(np.array_equal(one.images, parts[0].images) for one in parts)
    assert [path.suffix for path in files_in(tmp_path / "cache")] == [".json", ".npy"]
