"""`metagrad data check`, and image data sets from the command line on."""

import os
import pickle
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from estimators.base.errors import OptionError
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
    write_cache_pickles,
    write_csv,
    write_omniglot,
    write_tree,
)
from tests.support.invocation import invoke
from tests.test_images_broken import BROKEN, TRAIN, Payload, truncated

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
    """Lets the tiny sets be the official ones, of classes that are large enough."""
    official = {"train": (3, 19), "validation": (2, 13), "test": (4, 25)}
    for family in inspect_folder.FAMILIES[1:3]:
        monkeypatch.setattr(family, "official", official)
    monkeypatch.setattr(Omniglot, "official", {"background": (8, 48), "evaluation": (4, 24)})
    monkeypatch.setattr(inspect_folder, "SMALLEST_CLASS", 6)


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


def advice(out: str) -> tuple[str | None, str]:
    """The data folder and the task of the command that is recommended."""
    line = out.splitlines()[-1]
    assert line.startswith("To use it: ")
    words = shlex.split(line.removeprefix("To use it: "))
    root = words[0].removeprefix("METAGRAD_DATA=") if "=" in words[0] else None
    return root, words[words.index("--task") + 1]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", WRITERS)
def test_what_is_there_is_told(layout: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, write = WRITERS[layout]
    if family == "images":
        monkeypatch.setattr(MiniImageNet, "official", {})  # or it would be taken for that
        monkeypatch.setattr(TieredImageNet, "official", {})
    here = write(folder / "sets" / family)
    code, out, err = invoke(check, here)
    assert (code, err) == (0, "")
    assert f"{family}, as " in out
    assert f", in {here}\n" in out
    table = rows(out)
    assert table["split"] == ["classes", "images", "fewest", "most", "pixels"]
    assert table["train"] == ["3", "19", "6", "7", "84x84"]
    assert table["validation"] == ["2", "13", "6", "7", "84x84"]
    assert table["test"] == ["4", "25", "6", "7", "84x84"]
    assert "Every image can be read." in out
    root, task = advice(out)
    assert root == str(folder / "sets")
    assert Spec.parse(task).name == family
    assert task == (
        f"{family}(ways=2)" if family != "images" else "images(folder='images', ways=2)"
    )
    monkeypatch.setenv("METAGRAD_DATA", root)
    for split in ("train", "validation", "test"):
        TASKS.create(task, queries=5).sample(0, split)


@pytest.mark.usefixtures("small")
def test_omniglot_is_told(folder: Path) -> None:
    write_omniglot(folder / "data" / "omniglot" / "omniglot-py")
    code, out, _ = invoke(check, "data/omniglot")
    assert code == 0
    assert rows(out)["background"] == ["8", "48", "6", "6", "105x105"]
    assert rows(out)["evaluation"] == ["4", "24", "6", "6", "105x105"]
    assert advice(out) == (None, "omniglot:5way-1shot")  # where data are looked for anyway


def test_numbers_that_are_not_the_official_ones_are_told(folder: Path) -> None:
    code, out, _ = invoke(check, write_cache_pickles(folder / "mini"))
    assert code == 1
    assert "- train has 3 classes and 19 images; the official one has 64 and 38400" in out
    assert "- test has 4 of 4 classes with fewer than the 16 images of one shot and 15" in out
    assert ": test-1 has 6" in out
    root, task = advice(out)
    assert task == "miniimagenet(folder='mini', queries=5, ways=2)"
    assert TASKS.create(task.replace("'mini'", repr(f"{root}/mini"))).sample(0, "validation")


def test_a_small_grey_tree_is_told_with_its_options(folder: Path) -> None:
    write_tree(folder / "my shots", size=20)
    for path in (folder / "my shots").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    code, out, _ = invoke(check, "my shots")
    assert code == 1  # few images
    root, task = advice(out)
    assert root == str(folder)
    assert task == "images(channels=1, folder='my shots', queries=5, size=20, ways=2)"
    assert "84x84" not in out


def test_a_tree_is_known_by_its_name_or_by_its_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = invoke(check, write_tree(folder / "mini-ImageNet"))
    assert out.count("the official one has") == 3
    shutil.move(folder / "mini-ImageNet", folder / "other")
    _, out, _ = invoke(check, "other")
    assert "images, as {train,val,test}/<class>/<image>, in other" in out
    numbers = {"train": (3, 1), "validation": (2, 1), "test": (4, 1)}
    monkeypatch.setattr(MiniImageNet, "official", numbers)
    _, out, _ = invoke(check, "other")
    assert "miniimagenet, as {train,val,test}/<class>/<image>, in other" in out


def test_every_broken_image_is_named(folder: Path) -> None:
    here = write_tree(folder / "tree")
    truncated(here / "train" / "train-1" / "2.png")
    (here / "test" / "test-0" / "0.png").write_text("no image")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert f"- {here}/train/train-1/2.png is not a whole image: " in out
    assert f"- {here}/test/test-0/0.png is not a whole image: its format is unknown" in out
    assert "Every image can be read" not in out
    assert "To use it, once that is mended: METAGRAD_DATA=" in out
    for path in (here / "train").rglob("*.png"):
        path.write_bytes(b"")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert out.count("is not a whole image") == 19
    assert "- train has 3 of 3 classes with fewer than" in out
    assert "- and 3 more findings" in out
    assert rows(out)["train"] == ["3", "19", "6", "7", "-"]


def test_what_is_missing_or_shared_is_told(folder: Path) -> None:
    here = write_tree(folder / "tree")
    shutil.rmtree(here / "val")
    shutil.copytree(here / "train" / "train-1", here / "test" / "train-1")
    (here / "train" / "empty").mkdir()
    code, out, _ = invoke(check, here)
    assert code == 1
    assert "- there is no validation split: no folder val or validation" in out
    assert "- train and test share 1 classes, as train-1: " in out
    assert ": empty has 0" in out


def test_one_part_that_cannot_be_read_takes_no_other_down(folder: Path) -> None:
    here = write_cache_pickles(folder / "mini")
    (here / TRAIN).write_bytes(pickle.dumps(Payload(folder / "run")))
    code, out, _ = invoke(check, here)
    assert code == 1
    assert f"- train cannot be read: {here / TRAIN} asks for posix.mkdir" in out
    assert rows(out)["train"] == ["-"] * 5
    assert rows(out)["test"][:2] == ["4", "25"]
    assert not (folder / "run").exists()


TOLD_OTHERWISE = {
    "empty class": "train has 1 of 4 classes with fewer than .* empty has 0",
    "no images at all": "train has 1 of 1 classes with fewer than .* empty has 0",
    "missing split": "there is no train split: no folder train",
    "no evaluation": "there is no background split: no folder images_background",
    "empty folder": "no data set that is known in .*/here; what it lacks is above",
}
"""Of the broken sets, what is told of them where it is not what drawing a task tells."""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told(name: str, folder: Path) -> None:
    _, write, breakage, message = BROKEN[name]
    here = folder / "here"
    write(here)
    breakage(here)
    try:
        code, told, _ = invoke(check, here)
    except OptionError as error:
        code, told = 1, str(error)
        assert "\n" not in told
    assert code == 1
    assert re.search(TOLD_OTHERWISE.get(name, message), told)
    assert not (here / "run").exists()


def test_what_fits_nothing_is_told_for_each_layout(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(folder / "empty" / "below")
    monkeypatch.setattr("sys.argv", ["metagrad", "data", "check", "empty"])
    monkeypatch.setattr(console, "width", 200)  # a narrow terminal breaks words
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err == "metagrad: no data set that is known in empty; what it lacks is above\n"
    layouts = [layout for family in inspect_folder.FAMILIES for layout in family.layouts]
    assert "- but empty/below looks like images" in out
    words = {*out.replace(";", "").split()}
    for layout in layouts:
        wanted = " ".join(layout.wanted(part) for part in layout.parts)
        assert {*layout.about.split(), *wanted.split()} <= words


def hidden(path: Path) -> None:
    path.mkdir()
    path.chmod(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot read here: No such file or directory"),
        (lambda path: path.write_text("text"), "here is no folder; name the one it lies in"),
        (lambda path: path.symlink_to(path), "cannot read here: Too many levels of symbolic links"),
        pytest.param(
            hidden,
            "cannot read here: Permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything"),
        ),
    ],
)
def test_what_is_no_folder_is_told(
    make: Callable[[Path], object], message: str, folder: Path
) -> None:
    make(folder / "here")
    with pytest.raises(OptionError, match=message):
        invoke(check, "here")


def test_a_folder_that_cannot_be_listed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(folder / "tree")

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(OptionError, match=r"cannot read .*tree.*: Permission denied"):
        invoke(check, "tree")


def test_what_lies_in_a_closed_folder_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data" / "closed").mkdir(parents=True)

    def denied(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", denied)
    for family in inspect_folder.FAMILIES:
        with pytest.raises(OptionError, match="nothing to read in"):
            TASKS.create(family.family, folder="closed").sample(0)
    with pytest.raises(OptionError, match="no data set that is known in data"):
        invoke(check, "data")


def test_names_that_are_no_text_are_told(folder: Path) -> None:
    here = write_tree(folder / "tree", size=4)
    strange = here / "train" / os.fsdecode(b"\xff\xfe")
    strange.mkdir()
    for place in range(2):
        (strange / f"{place}.png").write_bytes(b"")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert r"\xff\xfe has 2" in out
    assert "/1.png is not a whole image" in out


def test_names_are_told_without_codes_for_the_terminal(folder: Path) -> None:
    here = write_tree(folder / "tree", size=4)
    strange = here / "train" / "\x1b[2J\n"
    strange.mkdir()
    (strange / "0.png").write_bytes(b"")
    _, out, _ = invoke(check, here)
    assert r"\x1b[2J\n has 1" in out
    assert r"train/\x1b[2J\n/0.png is not a whole image" in out
    assert "\x1b[2J" not in out


def test_an_image_in_two_lists_is_told(folder: Path) -> None:
    here = write_csv(folder / "mini")
    with (here / "test.csv").open("a") as file:
        file.write("train-0-1.png,test-0\n./train-0-0.png,test-0\n")
    code, out, _ = invoke(check, here)
    assert code == 1
    assert "- train and test share 2 images, as train-0-0.png: a test on them" in out
    assert "validation share" not in out


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
    assert "was made with other code, packages, machine or data" in out
    assert "done already" not in out


def test_a_training_without_its_data_leaves_nothing(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"omniglot: nothing to read in .*data/omniglot"):
        invoke(train, *ARGUMENTS, *FEW, "--task", "omniglot:5way-1shot")
    assert not [*folder.glob("results/trainings/*.jsonl")]
