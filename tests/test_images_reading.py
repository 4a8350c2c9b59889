"""Image data sets: each layout is read right, and nothing else is read."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from estimators.base.errors import OptionError, UserError
from harness.cell import Cell
from harness.matrix.problems import TASKS_A_SEED
from harness.tasks import TASKS, digits
from harness.tasks.digits import Digits
from harness.tasks.images import Images
from harness.tasks.omniglot import split_characters
from harness.tasks.reading.decoded import decoded
from tests.support.image_sets import (
    colour,
    equal,
    family,
    strokes,
    write_cache_pickles,
    write_csv,
    write_omniglot,
    write_tree,
)

SPLITS = {"train": "train", "validation": "val", "test": "test"}


def test_both_spellings_of_validation(data: Path) -> None:
    for spelling in ("val", "validation"):
        write_tree(data / f"tree-{spelling}", size=4, names={"val": spelling})
        write_cache_pickles(data / f"pickles-{spelling}", validation=spelling)
        for name, folder in (("images", "tree"), ("miniimagenet", "pickles")):
            images = family(name, folder=f"{folder}-{spelling}", ways=2, queries=3)
            assert len(images.counts("validation")) == 2, (name, spelling)
    shutil.copytree(data / "tree-val" / "val", data / "tree-val" / "validation")
    decoded.cache_clear()
    with pytest.raises(UserError, match="tree-val has val/ and validation/"):
        family("images", folder="tree-val", ways=2).sample(0, "validation")


def test_omniglot_is_shrunk_inverted_and_turned_and_split_by_alphabet(data: Path) -> None:
    write_omniglot(data / "omniglot" / "omniglot-py", "GFEDCBA", "ZY", characters=3)
    upright = family("omniglot", rotations=False, split="alphabet", ways=2, queries=5)
    turned = family("omniglot", split="alphabet", ways=2, queries=5)
    for split, alphabets in {"train": "ABCDE", "validation": "FG", "test": "YZ"}.items():
        count = len(upright.counts(split))
        names = [upright.class_name(split, number) for number in range(count)]
        assert {name[0] for name in names} == {*alphabets}
        assert [turned.class_name(split, k) for k in range(4 * count)] == names * 4
        for number in range(4 * count):
            image = turned.pictures(split, number, np.arange(2))
            straight = upright.pictures(split, number % count, np.arange(2))
            assert np.array_equal(image, np.rot90(straight, number // count, axes=(2, 3)))
    (image,) = upright.pictures("train", 2, np.array([3]))
    assert upright.class_name("train", 2) == "A/character03"
    assert image.shape == (1, 28, 28)
    assert image[0, 5, 0] == 255  # ink
    assert image[0, -2, -2] == 0
    assert image.mean() / 255 == pytest.approx(1 - strokes(6, 2, 3).mean(), abs=0.01)
    inputs = upright.sample(0).query[0]
    assert inputs.shape == (10, 1, 28, 28)
    assert [inputs.min().item(), inputs.max().item()] == [0, 1]


def test_omniglot_as_in_the_split_of_vinyals(data: Path) -> None:
    background = tuple(f"alphabet{k // 32}/character{k % 32:02}" for k in range(964))
    evaluation = tuple(f"other{k // 33}/character{k % 33:02}" for k in range(659))
    parts = (("background", background), ("evaluation", evaluation))
    members = {split: split_characters("vinyals", split, parts) for split in SPLITS}
    assert [len(one) for one in members.values()] == [1100, 100, 423]
    assert len({*members["train"], *members["validation"], *members["test"]}) == 1623
    first = [("background", 647), ("background", 725), ("background", 936)]
    assert [members[split][0] for split in SPLITS] == first  # for ever
    write_omniglot(data / "omniglot", "ABCDEF", "YZ")  # 32 characters
    images = family("omniglot", ways=2, queries=5, rotations=False)
    assert [len(images.counts(split)) for split in SPLITS] == [21, 2, 9]


def test_omniglot_with_a_character_or_an_alphabet_in_both_parts(data: Path) -> None:
    write_omniglot(data / "characters", ("Greek", "Latin"), ("Greek",))
    write_omniglot(data / "alphabets", "ABC", ("Z",))
    evaluation = data / "alphabets" / "images_evaluation"
    (evaluation / "A").mkdir()
    (evaluation / "Z" / "character01").rename(evaluation / "A" / "other")
    assert len(family("omniglot", folder="alphabets").counts("test")) > 0
    for folder, rule, name in (
        ("characters", "vinyals", "character Greek/character01"),
        ("characters", "alphabet", "character Greek/character01"),
        ("alphabets", "alphabet", "alphabet A"),
    ):
        images = family("omniglot", folder=folder, ways=2, queries=5, split=rule)
        for split in SPLITS:
            with pytest.raises(UserError, match=f"{name} .*images_(background|evaluation)"):
                images.sample(0, split)


def test_omniglot_by_alphabet_needs_one_part_at_a_time(data: Path) -> None:
    write_omniglot(data / "omniglot", "ABC", ())
    images = family("omniglot", ways=2, queries=5, split="alphabet")
    assert images.sample(0).support[0].shape == (2, 1, 28, 28)
    with pytest.raises(UserError, match="images_evaluation"):
        images.sample(0, "test")
    (data / "omniglot" / "images_background").rename(data / "omniglot" / "images_evaluation")
    decoded.cache_clear()
    images.sample(0, "test")
    with pytest.raises(UserError, match="images_background"):
        images.sample(0)


def test_characters_whose_names_are_no_text_stay_apart(data: Path) -> None:
    write_omniglot(data / "omniglot", "A", "Z")
    greek = data / "omniglot" / "images_background" / "A"
    for number, name in ((1, b"\xff"), (2, b"\xfe")):
        (greek / f"character{number:02}").rename(greek / os.fsdecode(name))
    images = family("omniglot", rotations=False)
    assert sum(len(images.counts(split)) for split in SPLITS) == 8
    assert {r"A/\xff", r"A/\xfe"} < {*images.part("background").names}


def test_images_are_resized_and_made_grey(data: Path) -> None:
    write_tree(data / "tree", size=10)
    images = family("images", folder="tree", size=16, channels=1, ways=3, queries=3)
    assert images.input_shape == (1, 16, 16)
    (image,) = images.pictures("train", 1, np.array([2]))
    red, green, blue = colour("train", 1, 2)
    assert image[:, :8] == pytest.approx(0.299 * red + 0.587 * green + 0.114 * blue, abs=1)


def test_pixels_of_other_kinds(data: Path) -> None:
    images = family("images", folder="tree", size=4, ways=2, queries=3)
    for mode, value, pixel in (
        ("1", 1, (255, 255, 255)),
        ("L", 9, (9, 9, 9)),
        ("LA", (9, 0), (9, 9, 9)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("P", 0, (0, 0, 0)),
        ("I;16", 9 * 256 + 7, (9, 9, 9)),
        ("I;16B", 65535, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ):
        shutil.rmtree(data, ignore_errors=True)
        write_tree(data / "tree", size=4)
        kind = "TIFF" if mode in ("I;16B", "CMYK") else "PNG"
        Image.new(mode, (4, 4), value).save(data / "tree" / "train" / "train-0" / "0.png", kind)
        decoded.cache_clear()
        (image,) = images.pictures("train", 0, np.array([0]))
        assert tuple(image[:, 0, 0].tolist()) == pixel, mode


def test_photographs_are_upright_and_may_be_in_several_sizes(data: Path) -> None:
    folder = write_tree(data / "tree", size=4) / "train" / "train-0"
    picture = Image.fromarray(np.array([[0, 0], [200, 200]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    picture.save(folder / "0.png", "PNG", exif=exif)
    picture.save(folder / "1.png", "TIFF", exif=exif)
    whole = Image.new("RGB", (4, 4), (9, 9, 9))
    whole.save(folder / "2.png", "MPO", save_all=True, append_images=[whole])
    images = family("images", folder="tree", size=2, channels=1).pictures("train", 0, np.arange(3))
    assert images.tolist() == [[[[200, 0], [200, 0]]], [[[200, 0], [200, 0]]], [[[9, 9], [9, 9]]]]


def test_what_is_no_image_is_ignored(data: Path) -> None:
    train = write_tree(data / "tree", size=4) / "train"
    (train / "notes.txt").write_text("not a class")
    for name in (".hidden", "__MACOSX", "@eaDir", "lost+found", "System Volume Information"):
        (train / name / "train-0").mkdir(parents=True)
        (train / "train-0" / name).mkdir()
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt"):
        (train / "train-0" / name).write_bytes(b"not an image")
    (train / "train-0" / "folder.png").mkdir()
    images = family("images", folder="tree", size=4)
    assert images.counts("train").tolist() == [7, 6, 6]


def test_spaces_around_what_a_list_holds(data: Path) -> None:
    table = write_csv(data / "mini") / "train.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    table.write_text("".join(f" {a},{b}{' ' * (k % 3)}\n\n" for k, (a, b) in enumerate(rows)))
    assert_read_as_written()


def assert_read_as_written() -> None:
    decoded.cache_clear()
    images = family("miniimagenet", folder="mini", ways=2, queries=3)
    assert images.part("train").names == ("train-0", "train-1", "train-2")
    assert images.counts("train").tolist() == [7, 6, 6]


def test_lists_as_other_programs_write_them(data: Path) -> None:
    table = write_csv(data / "mini") / "train.csv"
    text = table.read_text()
    rows = [row.split(",") for row in text.splitlines()]
    quoted = "".join(f'"{a}", "{b}"\n' for a, b in rows)
    for content in (
        "\ufeff" + text,
        text.replace("\n", "\r\n"),
        text.replace("\n", "\r"),
        text.replace("filename,label", "FileName,Label"),
        text.replace("train-0\n", "train-0\N{NO-BREAK SPACE}\n"),
        "".join(f"{place},{b},{a},\n" for place, (a, b) in enumerate(rows)).replace("0,", "n,", 1),
        quoted,
    ):
        table.write_bytes(content.encode())
        assert_read_as_written()


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


def test_a_family_needs_its_data_only_to_draw_tasks(data: Path) -> None:
    for name in ("omniglot", "miniimagenet:5way-1shot", "tieredimagenet"):
        cell = Cell.of(estimator="maml", task=name, model="conv4-32", depth=5)
        assert Cell.parse(cell.id) == cell
        folder = data / name.partition(":")[0]
        message = f"{folder}, .*METAGRAD_DATA .*{data}.*metagrad data check {folder}"
        with pytest.raises(UserError, match=message):
            TASKS.create(name).sample(0)


def test_tasks_that_the_data_are_too_few_for_are_refused(data: Path) -> None:
    write_tree(data / "tree", size=8)
    for options, message in (
        ({"ways": 4}, "images: ways=4 .* 3 classes of the train split"),
        ({"queries": 6}, "images: class train-1 .* 6 images, and shots=1 and queries=6"),
    ):
        some = {"ways": 2, "queries": 3, "size": 8} | options
        with pytest.raises(OptionError, match=message):
            Images(folder="tree", **some).sample(0)
    few = Images(folder="tree", ways=2, queries=3, size=8)
    few.sample(4293 * TASKS_A_SEED + TASKS_A_SEED - 1, "validation")
    with pytest.raises(OptionError, match="seed=4294967296"):  # could meet another split
        few.sample(2**32)


def test_digits_are_those_of_scikit_learn() -> None:
    known = load_digits()
    splits = {"train": (0, 1, 2, 3), "validation": (4, 5, 6), "test": (7, 8, 9)}
    for split, labels in splits.items():
        for number, label in enumerate(labels):
            small = known.images[known.target == label]
            images = Digits().pictures(split, number, np.arange(len(small)))
            assert np.array_equal(images[:, 0], small.repeat(2, axis=1).repeat(2, axis=2))
            assert Digits().counts(split)[number] == len(small)
    inputs, targets = Digits().sample(0).query
    assert inputs.shape == (45, 1, 16, 16)
    assert [inputs.min().item(), inputs.max().item()] == [0, 1]
    assert targets.bincount().tolist() == [15] * 3


def test_scikit_learn_is_needed_only_to_draw_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._images.cache_clear()
    family = TASKS.create("digits")
    with pytest.raises(ImportError, match="sklearn"):
        family.sample(0)
