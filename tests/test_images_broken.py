"""Broken image data sets: one line says what is wrong and where, and nothing of them is run."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from estimators.base.errors import OptionError
from harness.tasks import TASKS
from harness.tasks.reading.decoded import decoded
from tests.support.image_sets import (
    NESTED,
    write_cache_pickles,
    write_csv,
    write_npz,
    write_omniglot,
    write_png_pickles,
    write_tree,
)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a data set is read from, in an empty folder of data sets."""
    monkeypatch.setenv("METAGRAD_DATA", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    decoded.cache_clear()
    yield tmp_path / "here"
    decoded.cache_clear()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


TRAIN = "mini-imagenet-cache-train.pkl"
LABELS = "train_labels.pkl"


def with_(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | changes


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def with_header(path: Path, shape: tuple[int, ...]) -> None:
    """Writes a .npz of one byte that claims another shape."""
    header = io.BytesIO()
    description: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"x")


def listing(folder: Path, *rows: str) -> None:
    (folder / "train.csv").write_text("filename,label\n" + "".join(f"{row}\n" for row in rows))


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def deleted(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


BROKEN: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], object], str]] = {
    "truncated PNG": (
        "images",
        write_tree,
        lambda d: truncated(d / "train" / "train-1" / "2.png"),
        r"train/train-1/2.png is not a whole image: ",
    ),
    "text for an image": (
        "images",
        write_tree,
        lambda d: (d / "train" / "train-1" / "2.png").write_text("no image"),
        r"train/train-1/2.png is not a whole image: its format is unknown",
    ),
    "empty image": (
        "images",
        write_tree,
        lambda d: (d / "train" / "train-1" / "2.png").write_bytes(b""),
        r"train/train-1/2.png is not a whole image: its format is unknown",
    ),
    "EPS for an image": (
        "images",
        write_tree,
        lambda d: Image.new("RGB", (8, 8)).save(d / "train" / "train-1" / "2.png", "EPS"),
        r"train/train-1/2.png is not a whole image: its format is unknown",
    ),
    "floating-point image": (
        "images",
        write_tree,
        lambda d: Image.new("F", (8, 8)).save(d / "train" / "train-1" / "2.png", "TIFF"),
        r"train/train-1/2.png has floating-point pixels; 8 or 16 bits are read",
    ),
    "image of 32 bits": (
        "images",
        write_tree,
        lambda d: Image.new("I", (8, 8), 200).save(d / "train" / "train-1" / "2.png", "TIFF"),
        r"train/train-1/2.png has 32-bit or signed pixels; 8 or 16 bits are read",
    ),
    "empty class": (
        "images",
        write_tree,
        lambda d: (d / "train" / "empty").mkdir(),
        r"class empty of the train split has 0 images",
    ),
    "no classes": (
        "images",
        lambda d: d,
        lambda d: (d / "train").mkdir(parents=True),
        r"here/train has no folders, where there is one for each class",
    ),
    "no images at all": (
        "images",
        lambda d: d,
        lambda d: (d / "train" / "empty").mkdir(parents=True),
        r"here: the classes of train have no images",
    ),
    "missing split": (
        "images",
        write_tree,
        lambda d: (d / "train").rename(d / "training"),
        r"images: .*/here has no folder train",
    ),
    "empty folder": ("images", lambda d: d, lambda d: d.mkdir(), r"images: nothing to read in"),
    "no characters": (
        "omniglot",
        lambda d: d,
        lambda d: (d / "images_background").mkdir(parents=True),
        r"images_background has no folders <alphabet>/<character>",
    ),
    "no evaluation": (
        "omniglot(split='alphabet')",
        lambda d: write_omniglot(d, evaluation=()),
        lambda d: (d / "images_background").rename(d / "images_evaluation"),
        r"omniglot: .*/here has no folder images_background",
    ),
    "listed image missing": (
        "miniimagenet",
        write_csv,
        lambda d: deleted(d / "images", *(f"train-0-{k}.png" for k in range(3))),
        r"train.csv lists train-0-0.png, which is not in .*images, nor are 2 others",
    ),
    "list that leads up": (
        "miniimagenet",
        write_csv,
        lambda d: listing(d, "../images/train-0-0.png,a"),
        r"train.csv, line 2: ../images/train-0-0.png is not below the folder images",
    ),
    "list that leads away": (
        "miniimagenet",
        write_csv,
        lambda d: listing(d, f"{d}/images/train-0-0.png,a"),
        r"train.csv, line 2: /.*/train-0-0.png is not below the folder images",
    ),
    "image listed twice": (
        "miniimagenet",
        write_csv,
        lambda d: listing(d, "train-0-0.png,a", "./train-0-0.png,a"),
        r"train.csv, line 3: ./train-0-0.png is listed for a second time",
    ),
    "image listed for two classes": (
        "miniimagenet",
        write_csv,
        lambda d: listing(d, "train-0-0.png,a", "train-0-0.png,b"),
        r"train.csv, line 3: train-0-0.png is listed for a second time",
    ),
    "no columns": (
        "miniimagenet",
        write_csv,
        lambda d: (d / "train.csv").write_text("file,class\na.png,b\n"),
        r"train.csv has no columns filename and label",
    ),
    "short row": (
        "miniimagenet",
        write_csv,
        lambda d: (d / "train.csv").write_text("filename,label\na.png\n"),
        r"train.csv, line 2: filename or label missing",
    ),
    "empty list": (
        "miniimagenet",
        write_csv,
        lambda d: (d / "train.csv").write_text("filename,label\n"),
        r"train.csv lists no images",
    ),
    "list that is no text": (
        "miniimagenet",
        write_csv,
        lambda d: (d / "train.csv").write_bytes(b"\xff\xfe\x00"),
        r"cannot read .*train.csv: ",
    ),
    "text for a pickle": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: (d / TRAIN).write_text("hello"),
        r"train.pkl is not a whole pickle: ",
    ),
    "truncated pickle": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: truncated(d / TRAIN),
        r"train.pkl is not a whole pickle: ",
    ),
    "folder for a pickle": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: made_a_folder(d / TRAIN),
        r"cannot read .*train.pkl: Is a directory",
    ),
    "pickle of something else": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: (d / TRAIN).write_bytes(pickle.dumps([1, 2])),
        r"train.pkl holds no dictionary",
    ),
    "pickle of other things": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: (d / TRAIN).write_bytes(pickle.dumps({"weights": 1})),
        r"train.pkl has weights; what is wanted is image_data with class_dict",
    ),
    "images of another kind": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: rewrite(d / TRAIN, with_(image_data=np.zeros((19, 3, 84, 84)))),
        r"are float64 \[19, 3, 84, 84\], not uint8 \[images, height, width, 3\]",
    ),
    "places out of range": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: rewrite(d / TRAIN, with_(class_dict={"a": range(19), "b": [19]})),
        r"class b has image 19, where there are 19 images",
    ),
    "image of two classes": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: rewrite(d / TRAIN, with_(class_dict={"a": list(range(19)), "b": [4]})),
        r"image 4 is in a and in b",
    ),
    "image of no class": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: rewrite(d / TRAIN, with_(class_dict={"a": list(range(18))})),
        r"image 18 is in no class",
    ),
    "classes without places": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: rewrite(d / TRAIN, with_(class_dict={"a": 3})),
        r"class a has no list of places of images",
    ),
    "labels of another length": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / LABELS, with_(label_specific=np.zeros(18, int))),
        r"train_labels.pkl has 18 labels for 19 images",
    ),
    "labels below 0": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / LABELS, with_(label_specific=np.full(19, -1))),
        r"train_labels.pkl has the label -1; labels are 0 or more",
    ),
    "labels of another kind": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / LABELS, with_(label_specific=[[1], [2, 3]])),
        r"labels of .*train_labels.pkl are no list of whole numbers or names",
    ),
    "labels without end": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: (d / LABELS).write_bytes(NESTED),
        r"labels of .*train_labels.pkl are no list of whole numbers or names",
    ),
    "labels that are not whole": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / LABELS, with_(label_specific=np.full(19, 0.5))),
        r"labels of .*train_labels.pkl are no list of whole numbers or names",
    ),
    "no labels": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / LABELS, lambda _: {"other": 1}),
        r"train_labels.pkl has other; what is wanted is label_specific or labels",
    ),
    "broken PNG in a pickle": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / "train_images_png.pkl", lambda files: [*files[:-1], files[-1][:90]]),
        r"train_images_png.pkl, image 18 is not a whole image: ",
    ),
    "no PNGs in a pickle": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: rewrite(d / "train_images_png.pkl", lambda files: [*files[:-1], "text"]),
        r"train_images_png.pkl, image 18 is no array of bytes",
    ),
    "truncated npz": (
        "tieredimagenet",
        write_npz,
        lambda d: truncated(d / "train_images.npz"),
        r"train_images.npz is not a whole .npz file: ",
    ),
    "npz of something else": (
        "tieredimagenet",
        write_npz,
        lambda d: np.savez(d / "train_images.npz", other=np.zeros(3)),
        r"train_images.npz has no array that is called images",
    ),
    "npz of less than nothing": (
        "tieredimagenet",
        write_npz,
        lambda d: with_header(d / "train_images.npz", (-1, 84, 84, 3)),
        r"the images of .*train_images.npz are uint8 \[-1, 84, 84, 3\], not uint8",
    ),
    "npz of negative sides": (
        "tieredimagenet",
        write_npz,
        lambda d: with_header(d / "train_images.npz", (19, -84, -84, 3)),
        r"the images of .*train_images.npz are uint8 \[19, -84, -84, 3\], not uint8",
    ),
    "npz of huge images": (
        "tieredimagenet",
        write_npz,
        lambda d: with_header(d / "train_images.npz", (19, 2**32, 2**32, 3)),
        r"are uint8 \[19, 4294967296, 4294967296, 3\], .* of at most 256 MiB each",
    ),
    "npz of objects": (
        "tieredimagenet",
        write_npz,
        lambda d: np.savez(d / "train_images.npz", images=np.array([Payload(d / "run")])),
        r"the images of .*train_images.npz are object \[1\], not uint8",
    ),
    "malicious pickle": (
        "miniimagenet",
        write_cache_pickles,
        lambda d: (d / TRAIN).write_bytes(pickle.dumps({"image_data": Payload(d / "run")})),
        r"train.pkl asks for posix.mkdir, which no pickle of images needs; nothing of it was run",
    ),
    "malicious labels": (
        "tieredimagenet",
        write_png_pickles,
        lambda d: (d / LABELS).write_bytes(pickle.dumps({"labels": Payload(d / "run")}, 0)),
        r"train_labels.pkl asks for posix.mkdir, which no pickle of images needs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told_in_one_line(name: str, data: Path) -> None:
    spec, write, breakage, message = BROKEN[name]
    write(data)
    breakage(data)
    with pytest.raises(OptionError, match=message) as told:
        TASKS.create(spec, folder="here", ways=2, queries=5).sample(0)
    assert "\n" not in str(told.value)
    assert not (data / "run").exists()
    assert not [*data.parent.glob("cache/images/*.tmp")]


def test_a_missing_split_takes_no_other_with_it(data: Path) -> None:
    write_cache_pickles(data)
    (data / "mini-imagenet-cache-val.pkl").unlink()
    family = TASKS.create("miniimagenet(ways=2, queries=5, folder='here')")
    family.sample(0)
    family.sample(0, "test")
    message = "has no mini-imagenet-cache-val.pkl or mini-imagenet-cache-validation.pkl"
    with pytest.raises(OptionError, match=message):
        family.sample(0, "validation")
