"""Image data sets on disk: each layout is read right, decoded once, and nothing else is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.matrix.problems import TASKS_A_SEED
from harness.tasks import TASKS
from harness.tasks.images import Images
from harness.tasks.omniglot import _members
from tests.support.image_sets import (
    WRITERS,
    classes,
    colour,
    equal,
    family,
    strokes,
    write_cache_pickles,
    write_omniglot,
    write_png_pickles,
    write_tree,
)

SPLITS = {"train": "train", "validation": "val", "test": "test"}


def colours(batch: torch.Tensor) -> list[tuple[int, ...]]:
    """The one colour of each image."""
    assert torch.equal(batch.amax(dim=(2, 3)), batch.amin(dim=(2, 3)))
    return [tuple(image) for image in (255 * batch[:, :, 0, 0]).round().int().tolist()]


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_read_right(layout: str, data: Path) -> None:
    name, write = WRITERS[layout]
    write(data / "here")
    few = family(name, folder="here", ways=2, shots=2, queries=4)
    everything = {}
    for split, short in SPLITS.items():
        numbers = range(len(classes(short)))
        counts = [len(images) for images in classes(short).values()]
        assert few.counts(split).tolist() == counts
        everything[split] = {
            tuple(image[:, 0, 0].tolist())
            for number in numbers
            for image in few.pictures(split, number, np.arange(counts[number]))
        }
        assert everything[split] == {
            colour(short, number, place) for number in numbers for place in range(counts[number])
        }
        for seed in range(3):
            task = few.sample(seed, split)
            assert equal(task, few.sample(seed, split))
            assert not equal(task, few.sample(seed + 10, split))
            inputs = torch.cat([task.support[0], task.query[0]])
            targets = torch.cat([task.support[1], task.query[1]])
            assert inputs.dtype == torch.float64
            assert inputs.shape == (12, 3, 84, 84)
            assert targets.tolist() == [0, 0, 1, 1, *[0] * 4, *[1] * 4]
            shown = colours(inputs)
            assert len({*shown}) == 12
            # The class decides the first colour, in steps of 7.
            pairs = {(c[0], int(t)) for c, t in zip(shown, targets, strict=True)}
            assert len(pairs) == len({first for first, _ in pairs}) == 2
            assert {*shown} <= everything[split]
    assert len(set.union(*everything.values())) == sum(map(len, everything.values()))


def test_layouts_give_the_same_tasks(data: Path) -> None:
    tasks = []
    for layout, (name, write) in WRITERS.items():
        write(data / layout)
        tasks.append(family(name, folder=layout, ways=3, queries=3).sample(1))
    assert all(equal(tasks[0], task) for task in tasks[1:])


@pytest.mark.parametrize("spelling", ["val", "validation"])
def test_both_spellings_of_validation(spelling: str, data: Path) -> None:
    write_tree(data / "tree", names={"val": spelling})
    write_cache_pickles(data / "pickles", validation=spelling)
    for name, folder in (("images", "tree"), ("miniimagenet", "pickles")):
        found = family(name, folder=folder, ways=2, queries=3)
        assert len(found.counts("validation")) == 2
    write_tree(data / "both")
    shutil.copytree(data / "both" / "val", data / "both" / "validation")
    with pytest.raises(OptionError, match="both has val and validation; keep one of them"):
        family("images", folder="both", ways=2).sample(0, "validation")


def test_column_shaped_png_files(data: Path) -> None:
    write_png_pickles(data / "tieredimagenet", column=True)
    assert len(family("tieredimagenet").counts("test")) == 4


def test_omniglot_is_shrunk_and_inverted(data: Path) -> None:
    write_omniglot(data / "omniglot" / "omniglot-py")
    found = family("omniglot", ways=2, queries=5, split="alphabet", rotations=False)
    (image,) = found.pictures("train", 2, np.array([3]))
    paper = strokes(0, 2, 3)
    assert image.shape == (1, 28, 28)
    assert image[0, 5, 0] == 255  # ink
    assert image[0, -2, -2] == 0
    share = 1 - paper.mean()
    assert image.mean() / 255 == pytest.approx(share, abs=0.01)
    inputs = found.sample(0).query[0]
    assert inputs.shape == (10, 1, 28, 28)
    assert [inputs.min().item(), inputs.max().item()] == [0, 1]


def test_omniglot_turned_is_another_class_of_the_same_split(data: Path) -> None:
    write_omniglot(data / "omniglot")
    upright = family("omniglot", rotations=False, split="alphabet", ways=2, queries=5)
    turned = family("omniglot", split="alphabet", ways=2, queries=5)
    for split in SPLITS:
        count = len(upright.counts(split))
        assert len(turned.counts(split)) == 4 * count
        for number in range(4 * count):
            image = turned.pictures(split, number, np.arange(2))
            straight = upright.pictures(split, number % count, np.arange(2))
            assert np.array_equal(image, np.rot90(straight, number // count, axes=(2, 3)))
            assert turned.class_name(split, number) == upright.class_name(split, number % count)


def test_omniglot_by_alphabet(data: Path) -> None:
    write_omniglot(data / "omniglot", "GFEDCBA", "ZY", characters=2)
    found = family("omniglot", split="alphabet", rotations=False, ways=2, queries=5)
    alphabets = {
        split: "".join(
            sorted({found.class_name(split, k)[0] for k in range(len(found.counts(split)))})
        )
        for split in SPLITS
    }
    assert alphabets == {"train": "ABCDE", "validation": "FG", "test": "YZ"}


def test_omniglot_as_in_the_split_of_vinyals() -> None:
    background = tuple(f"alphabet{k // 32}/character{k % 32:02}" for k in range(964))
    evaluation = tuple(f"other{k // 33}/character{k % 33:02}" for k in range(659))
    parts = (("background", background), ("evaluation", evaluation))
    found = {split: _members("vinyals", split, parts) for split in SPLITS}
    assert [len(members) for members in found.values()] == [1100, 100, 423]
    assert len({*found["train"], *found["validation"], *found["test"]}) == 1623
    # For ever the same.
    assert [found[split][0] for split in SPLITS] == FIRST


FIRST = [("background", 647), ("background", 725), ("background", 936)]


def test_omniglot_of_both_sets_by_default(data: Path) -> None:
    write_omniglot(data / "omniglot", "ABCDEF", "YZ")  # 32 characters
    found = family("omniglot", ways=2, queries=5, rotations=False)
    assert [len(found.counts(split)) for split in SPLITS] == [21, 2, 9]
    assert equal(found.sample(3), found.sample(3))


@pytest.mark.parametrize("split", [*SPLITS])
def test_omniglot_with_a_character_in_both_parts(split: str, data: Path) -> None:
    write_omniglot(data / "omniglot", ("Greek", "Latin"), ("Greek",))
    message = (
        "omniglot: the character Greek/character01 of images_evaluation is in images_background"
    )
    for rule in ("vinyals", "alphabet"):
        with pytest.raises(OptionError, match=message):
            family("omniglot", ways=2, queries=5, split=rule).sample(0, split)


@pytest.mark.parametrize("split", [*SPLITS])
def test_omniglot_with_an_alphabet_in_both_parts(split: str, data: Path) -> None:
    write_omniglot(data / "omniglot", "ABC", ("Z",))
    below = data / "omniglot" / "images_evaluation"
    (below / "A").mkdir()
    (below / "Z" / "character01").rename(below / "A" / "other")
    assert len(family("omniglot").counts("test")) > 0
    with pytest.raises(OptionError, match="omniglot: the alphabet A is in images_background and"):
        family("omniglot", ways=2, queries=5, split="alphabet").sample(0, split)


def test_omniglot_needs_no_evaluation_to_train_by_alphabet(data: Path) -> None:
    write_omniglot(data / "omniglot", "ABC", ())
    found = family("omniglot", ways=2, queries=5, split="alphabet")
    assert found.sample(0).support[0].shape == (2, 1, 28, 28)
    with pytest.raises(OptionError, match="has no folder images_evaluation"):
        found.sample(0, "test")


def test_characters_whose_names_are_no_text_stay_apart(data: Path) -> None:
    write_omniglot(data / "omniglot", "A", "Z")
    greek = data / "omniglot" / "images_background" / "A"
    for number, name in ((1, b"\xff"), (2, b"\xfe")):
        (greek / f"character{number:02}").rename(greek / os.fsdecode(name))
    found = family("omniglot", rotations=False)
    assert sum(len(found.counts(split)) for split in SPLITS) == 8
    assert {r"A/\xff", r"A/\xfe"} < {*found.part("background").names}


def test_images_are_resized_and_made_grey(data: Path) -> None:
    write_tree(data / "tree", size=10)
    found = family("images", folder="tree", size=16, channels=1, ways=3, queries=3)
    assert found.input_shape == (1, 16, 16)
    (image,) = found.pictures("train", 1, np.array([2]))
    red, green, blue = colour("train", 1, 2)
    assert image == pytest.approx(0.299 * red + 0.587 * green + 0.114 * blue, abs=1)


@pytest.mark.parametrize(
    ("mode", "value", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 9, (9, 9, 9)),
        ("LA", (9, 0), (9, 9, 9)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("P", 0, (0, 0, 0)),
        ("I;16", 9 * 256 + 7, (9, 9, 9)),
        ("I;16B", 65535, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_pixels_of_other_kinds(mode: str, value: int, seen: tuple[int, ...], data: Path) -> None:
    write_tree(data / "tree", size=4)
    kind = "TIFF" if mode in ("I;16B", "CMYK") else "PNG"
    Image.new(mode, (4, 4), value).save(data / "tree" / "train" / "train-0" / "0.png", kind)
    found = family("images", folder="tree", size=4, ways=2, queries=3)
    (image,) = found.pictures("train", 0, np.array([0]))
    assert tuple(image[:, 0, 0].tolist()) == seen


def test_images_are_turned_upright(data: Path) -> None:
    write_tree(data / "tree", size=4)
    picture = Image.fromarray(np.array([[0, 0], [200, 200]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # it was taken with the camera turned by 90 degrees
    for name, kind in (("0.png", "PNG"), ("1.png", "TIFF")):
        path = data / "tree" / "train" / "train-0" / name
        picture.save(path, kind, exif=exif)
    found = family("images", folder="tree", size=2, channels=1)
    for image in found.pictures("train", 0, np.array([0, 1])):
        assert image.tolist() == [[[200, 0], [200, 0]]]


def test_photographs_in_several_sizes_are_jpeg(data: Path) -> None:
    write_tree(data / "tree", size=4)
    path = data / "tree" / "train" / "train-0" / "0.png"
    whole = Image.new("RGB", (4, 4), (9, 9, 9))
    whole.save(path, "MPO", save_all=True, append_images=[whole])
    found = family("images", folder="tree", size=4)
    assert set(found.pictures("train", 0, np.array([0])).flat) == {9}


def test_what_is_no_image_is_let_be(data: Path) -> None:
    write_tree(data / "tree", size=4)
    (data / "tree" / "train" / "notes.txt").write_text("not a class")
    (data / "tree" / "train" / ".hidden").mkdir()
    for name in ("Thumbs.db", "._0.png", "notes.txt"):
        (data / "tree" / "train" / "train-0" / name).write_bytes(b"not an image")
    found = family("images", folder="tree", size=4)
    assert found.counts("train").tolist() == [7, 6, 6]


def test_the_folder_may_lie_anywhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "elsewhere" / "tree", size=8)
    write_tree(tmp_path / "here" / "data" / "tree", size=8)
    absolute = Images(folder=str(tmp_path / "elsewhere" / "tree"), ways=2, queries=3, size=8)
    task = absolute.sample(0)
    monkeypatch.delenv("METAGRAD_DATA")
    monkeypatch.chdir(tmp_path / "here")
    assert equal(Images(folder="tree", ways=2, queries=3, size=8).sample(0), task)
    monkeypatch.setenv("METAGRAD_DATA", str(tmp_path / "elsewhere"))
    assert equal(Images(folder="tree", ways=2, queries=3, size=8).sample(0), task)


@pytest.mark.parametrize("name", ["omniglot", "miniimagenet:5way-1shot", "tieredimagenet"])
def test_a_family_needs_its_data_only_to_draw_tasks(name: str, data: Path) -> None:
    cell = Cell.of(estimator="maml", task=name, model="conv4-32", depth=5)
    assert Cell.parse(cell.id) == cell
    folder = name.partition(":")[0]
    message = (
        f"{folder}: nothing to read in {data / folder}, where .* is wanted; METAGRAD_DATA names "
        f"the folder of data sets .now {data}., and `metagrad data check {data / folder}` tells"
    )
    with pytest.raises(OptionError, match=message):
        TASKS.create(name).sample(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images", "images: option 'folder' is missing"),
        ("images(folder='tree', size=0)", "images: size=0 is not between 1 and 1024"),
        ("images(folder='tree', channels=2)", "images: channels=2 is neither 1 .grey. nor 3"),
        ("images(folder='tree', ways=1)", "images: ways=1 leaves nothing to tell apart"),
        ("images(folder='tree', shots=0)", "images: shots=0 is not at least 1"),
        ("omniglot(queries=0)", "omniglot: queries=0 is not at least 1"),
        ("omniglot(split='lake')", "omniglot: split='lake' is neither"),
        ("digits(ways=4)", "digits: ways=4 is more than the 3 digits of the validation split"),
        ("miniimagenet(folder=3)", "miniimagenet: folder=3 must be a string"),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TASKS.create(text)


def test_seeds_that_could_meet_another_split_are_refused(data: Path) -> None:
    write_tree(data / "tree", size=8)
    found = family("images", folder="tree", size=8, ways=2, queries=3)
    found.sample(4293 * TASKS_A_SEED + TASKS_A_SEED - 1, "validation")
    with pytest.raises(OptionError, match="seed=4294967296 of a task is above 4294967295"):
        found.sample(2**32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 4}, "images: ways=4 is more than the 3 classes of the train split"),
        (
            {"queries": 6},
            "images: class train-1 of the train split has 6 images, and shots=1 and queries=6 want",
        ),
    ],
)
def test_a_split_that_is_too_small_is_told(
    options: dict[str, int], message: str, data: Path
) -> None:
    write_tree(data / "tree", size=8)
    with pytest.raises(OptionError, match=message):
        Images(folder="tree", **({"ways": 2, "queries": 3, "size": 8} | options)).sample(0)
