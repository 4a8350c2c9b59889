"""`metagrad data check`, and image data sets from the command line on."""

import os
import pickle
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_regressions.file_regression import FileRegressionFixture

from estimators.base.errors import UserError
from estimators.base.registry import Spec
from harness.cli import main
from harness.commands.data import check
from harness.commands.options import console
from harness.commands.train import train
from harness.store.trainings import trainings
from harness.tasks import TASKS, inspect_folder
from harness.tasks.miniimagenet import MiniImageNet
from harness.tasks.omniglot import Omniglot
from harness.tasks.reading.decoded import decoded
from harness.tasks.tieredimagenet import TieredImageNet
from tests.support.image_sets import (
    WRITERS,
    Payload,
    classes,
    colour,
    equal,
    family,
    truncate,
    write_cache_pickles,
    write_csv,
    write_omniglot,
    write_tree,
)
from tests.support.invocation import invoke

ARGUMENTS = ("--estimator", "fomaml", "--model", "conv4-16", "--depth", "1", "--test-depth", "1")
FEW = ("--validate-every", "2", "--validation-tasks", "2", "--test-tasks", "3", "--steps", "4")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with neither data nor cache."""
    monkeypatch.delenv("METAGRAD_DATA", raising=False)
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    decoded.cache_clear()
    yield tmp_path
    decoded.cache_clear()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the numbers of the tiny sets official, and their classes large enough."""
    for one in (MiniImageNet, TieredImageNet):
        monkeypatch.setattr(one, "official", ((3, 19), (2, 13), (4, 25)))
    monkeypatch.setattr(Omniglot, "official", ((8, 48), (4, 24)))
    monkeypatch.setattr(inspect_folder, "SMALLEST_CLASS", 6)


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


def advice(out: str) -> tuple[str | None, str]:
    """The data folder and the task of the command that is recommended."""
    words = shlex.split(out.splitlines()[-1].partition(": ")[2])
    root = words[0].removeprefix("METAGRAD_DATA=") if "=" in words[0] else None
    return root, words[words.index("--task") + 1]


@pytest.mark.usefixtures("small")
def test_every_layout_is_recognised_and_read_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = []
    for layout, (name, write) in WRITERS.items():
        here = write(folder / layout / name)
        with monkeypatch.context() as patch:
            if name == "images":  # or it would be taken for one of these
                patch.setattr(MiniImageNet, "official", ())
                patch.setattr(TieredImageNet, "official", ())
            code, out, err = invoke(check, here)
        assert (code, err) == (0, ""), layout
        table = rows(out)
        root, task = advice(out)
        assert root == str(folder / layout), layout
        assert Spec.parse(task).name == name, layout
        monkeypatch.setenv("METAGRAD_DATA", root)
        images = family(task, queries=5)
        for split, short in {"train": "train", "validation": "val", "test": "test"}.items():
            counts = [len(pixels) for pixels in classes(short).values()]
            assert table[split] == [str(len(counts)), str(sum(counts)), "6", "7", "84x84"], layout
            assert images.counts(split).tolist() == counts, layout
            for number, count in enumerate(counts):
                pixels = images.pictures(split, number, np.arange(count))
                colours = [colour(short, number, place) for place in range(count)]
                expected = np.array(colours, np.uint8)[:, :, None, None]
                assert (pixels[:, :, :-1] == expected).all(), layout
        tasks.append(images.sample(1))
    assert all(equal(tasks[0], task) for task in tasks[1:])


@pytest.mark.usefixtures("small")
def test_omniglot_is_recognised(folder: Path) -> None:
    write_omniglot(folder / "data" / "omniglot" / "omniglot-py")
    code, out, _ = invoke(check, "data/omniglot")
    assert code == 0
    assert rows(out)["background"] == ["8", "48", "6", "6", "105x105"]
    assert rows(out)["evaluation"] == ["4", "24", "6", "6", "105x105"]
    assert advice(out) == (None, "omniglot:5way-1shot")  # in the folder of data sets already


def test_the_whole_report(folder: Path, file_regression: FileRegressionFixture) -> None:
    here = write_cache_pickles(folder / "data" / "mini")
    (here / "mini-imagenet-cache-val.pkl").unlink()
    (here / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(Payload(folder / "run")))
    code, out, _ = invoke(check, "data/mini")
    assert code == 1
    assert not (folder / "run").exists()
    progress, _, report = out.partition("miniimagenet, as ")
    assert "mini" not in progress
    file_regression.check(f"miniimagenet, as {report}", extension=".txt")
    task = advice(out)[1]
    assert task == "miniimagenet(folder='mini', queries=5, ways=3)"
    TASKS.create(task).sample(0)


def test_a_tree_is_recognised_by_its_name_or_by_its_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(folder / "my shots", size=20)
    for path in (folder / "my shots").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    code, out, _ = invoke(check, "my shots")
    assert code == 1  # few images
    task = "images(channels=1, folder='my shots', queries=5, size=20, ways=2)"
    assert advice(out) == (str(folder), task)
    _, out, _ = invoke(check, write_tree(folder / "mini-ImageNet"))
    assert out.count("the official one has") == 3
    shutil.move(folder / "mini-ImageNet", folder / "other")
    _, out, _ = invoke(check, "other")
    assert Spec.parse(advice(out)[1]).name == "images"
    monkeypatch.setattr(MiniImageNet, "official", ((3, 1), (2, 1), (4, 1)))
    _, out, _ = invoke(check, "other")
    assert Spec.parse(advice(out)[1]).name == "miniimagenet"


def test_every_broken_or_blank_image_is_named(folder: Path) -> None:
    here = write_tree(folder / "tree", size=20)
    truncate(here / "train" / "train-1" / "2.png")
    (here / "test" / "test-0" / "0.png").write_text("no image")
    drawing = Image.linear_gradient("L").resize((20, 20))
    for name, mode, shade in (
        ("1.png", "RGB", "black"),
        ("3.png", "RGB", "red"),
        ("4.png", "L", 7),
    ):
        icon = Image.new(mode, (20, 20), shade)
        icon.putalpha(drawing)
        icon.save(here / "test" / "test-0" / name)
    code, out, _ = invoke(check, here)
    assert code == 1
    assert f"- {here}/train/train-1/2.png is not a whole image" in out
    assert f"- {here}/test/test-0/0.png is not a whole image" in out
    assert "- test has 3 images of one colour" in out
    assert out.count("of one colour") == 1
    assert f"{here}/test/test-0/1.png" in out
    assert "once that is mended" in out
    for path in (here / "train").rglob("*.png"):
        path.write_bytes(b"")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert out.count("is not a whole image") == 19  # of 20 lines
    assert "more findings" in out
    assert rows(out)["train"] == ["3", "19", "6", "7", "-"]


def test_missing_and_shared_parts_are_named(folder: Path) -> None:
    here = write_tree(folder / "tree", size=4)
    shutil.rmtree(here / "val")
    shutil.copytree(here / "train" / "train-1", here / "test" / "train-1")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert "no validation split" in out
    assert "train and test share 1 classes, as train-1" in out
    lists = write_csv(folder / "mini")
    with (lists / "test.csv").open("a") as file:
        file.write("train-0-1.png,test-0\n./train-0-0.png,test-0\n")
    code, out, _ = invoke(check, lists)
    assert code == 1
    assert f"train and test share 2 images, as {lists}/images/train-0-0.png" in out
    assert "validation share" not in out


def test_a_folder_that_fits_no_layout(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(folder / "empty" / "below", size=4)
    monkeypatch.setattr("sys.argv", ["metagrad", "data", "check", "empty"])
    monkeypatch.setattr(console, "width", 200)  # a narrow terminal breaks words
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert len(err.splitlines()) == 1
    assert "- but empty/below looks like images" in out
    words = {*out.replace(";", "").split()}
    for layout in (layout for one in inspect_folder.FAMILIES for layout in one.layouts):
        required = " ".join(layout.required(part) for part in layout.parts)
        assert {*layout.about.split(), *required.split()} <= words


def test_a_path_that_is_no_readable_folder(folder: Path) -> None:
    cases: list[tuple[Callable[[Path], object], str]] = [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.write_text("text"), "is no folder"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ]
    for number, (make, message) in enumerate(cases):
        make(folder / f"here{number}")
        with pytest.raises(UserError, match=rf"here{number}\b.*{message}"):
            invoke(check, f"here{number}")


def test_closed_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(folder / "tree", size=4)
    (folder / "data" / "closed").mkdir(parents=True)

    def denied(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", denied)
        with pytest.raises(UserError, match=r"tree.*Permission denied"):
            invoke(check, "tree")
    monkeypatch.setattr(Path, "stat", denied)  # there is nothing in them
    for one in inspect_folder.FAMILIES:
        with pytest.raises(UserError, match="nothing to read in"):
            TASKS.create(one.family, folder="closed").sample(0)
    with pytest.raises(UserError, match="no known data set"):
        invoke(check, "data")


def test_names_are_shown_in_printable_characters(folder: Path) -> None:
    for name, shown in ((os.fsdecode(b"\xff\xfe"), r"\xff\xfe"), ("\x1b[2J\n", r"\x1b[2J\n")):
        here = write_tree(folder / f"tree {len(name)}", size=4)
        strange = here / "train" / name
        strange.mkdir()
        (strange / "0.png").write_bytes(b"")
        code, out, _ = invoke(check, here)
        assert code == 1
        assert f"{shown} has 1" in out
        assert f"train/{shown}/0.png is not a whole image" in out
        assert "\x1b[2J" not in out


@pytest.mark.slow
def test_a_training_on_images_of_ones_own(folder: Path) -> None:
    write_tree(folder / "data" / "mine", size=16)
    task = "images(folder='mine', size=16, ways=2, queries=3)"
    code, out, _ = invoke(train, *ARGUMENTS, *FEW, "--task", task)
    assert code == 0
    assert "%" in out.splitlines()[-1]
    table = trainings(folder / "results")[0]
    assert {*table["split"].dropna()} >= {"train", "validation", "test"}
    code, out, _ = invoke(train, *ARGUMENTS, *FEW, "--task", task)
    assert "done already" in out
    (folder / "data" / "mine" / "train" / "train-0" / "0.png").unlink()
    decoded.cache_clear()
    code, out, _ = invoke(train, *ARGUMENTS, *FEW, "--task", task)
    assert code == 0
    assert "done already" not in out
    assert len(trainings(folder / "results")[0]["training"].unique()) == 2
