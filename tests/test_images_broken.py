"""Broken image data sets: one line says what is wrong and where, and nothing in them is run."""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from estimators.base.errors import UserError
from harness.commands.data import check
from harness.tasks import TASKS, inspect_folder
from tests.support.image_sets import (
    NESTED,
    Payload,
    truncate,
    write_cache_pickles,
    write_csv,
    write_npz,
    write_omniglot,
    write_png_pickles,
    write_tree,
)
from tests.support.invocation import invoke

Case = tuple[str, Callable[[Path], object], str]

PNG = "train/train-1/2.png"
PICKLE = "mini-imagenet-cache-train.pkl"
PNGS = "train_images_png.pkl"
LABELS = "train_labels.pkl"
NPZ = "train_images.npz"


def as_image(mode: str, kind: str) -> Callable[[Path], object]:
    return lambda d: Image.new(mode, (8, 8)).save(d / PNG, kind)


def with_content(name: str, content: object, protocol: int = 4) -> Callable[[Path], object]:
    return lambda d: (d / name).write_bytes(pickle.dumps(content, protocol))


def changed(name: str, **changes: Any) -> Callable[[Path], object]:
    return lambda d: with_content(name, pickle.loads((d / name).read_bytes()) | changes)(d)


def malicious(name: str, key: str, protocol: int = 4) -> Callable[[Path], object]:
    return lambda d: with_content(name, {key: Payload(d / "run")}, protocol)(d)


def with_last_png(image: object) -> Callable[[Path], object]:
    return lambda d: with_content(PNGS, [*pickle.loads((d / PNGS).read_bytes())[:-1], image])(d)


def with_rows(*rows: str, header: str = "filename,label") -> Callable[[Path], object]:
    return lambda d: (d / "train.csv").write_text("".join(f"{row}\n" for row in (header, *rows)))


def with_shape(*shape: int) -> Callable[[Path], object]:
    """Return a function that writes a .npz of one byte that claims a shape."""
    header = io.BytesIO()
    description: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)

    def write(d: Path) -> None:
        with zipfile.ZipFile(d / NPZ, "w") as archive:
            archive.writestr("images.npy", header.getvalue() + b"x")

    return write


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_a_dead_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("nowhere")


def nothing(d: Path) -> Path:
    d.mkdir(parents=True)
    return d


IMAGES: list[Case] = [
    ("truncated", lambda d: truncate(d / PNG), f"{PNG} is not a whole image"),
    ("text", lambda d: (d / PNG).write_text("no image"), f"{PNG} .*format is unknown"),
    ("empty", lambda d: (d / PNG).write_bytes(b""), f"{PNG} .*format is unknown"),
    ("EPS", as_image("RGB", "EPS"), f"{PNG} .*format is unknown"),
    ("floating-point", as_image("F", "TIFF"), f"{PNG} .*floating-point"),
    ("32 bits", as_image("I", "TIFF"), f"{PNG} .*32-bit"),
    ("dead link", lambda d: into_a_dead_link(d / PNG), f"{PNG}.*: No such file"),
    ("dead class", lambda d: into_a_dead_link((d / PNG).parent), "train/train-1: No such file"),
    ("dead split", lambda d: into_a_dead_link(d / "train"), "train: No such file"),
    ("empty class", lambda d: (d / "train" / "empty").mkdir(), r"empty .*has 0|empty has 0"),
    ("missing split", lambda d: (d / "train").rename(d / "other"), r"here has no train/|no train/"),
]
EMPTY: list[Case] = [
    ("nothing", lambda d: None, r"images: nothing to read in .*/here|no known data set"),
    ("no classes", lambda d: (d / "train").mkdir(), "here/train/<class>"),
    ("no images", lambda d: (d / "train/a").mkdir(parents=True), "train have no|train .* a has 0"),
    ("too deep", lambda d: write_tree(d / "train"), "here/train/<class>.*here/train/test/test-0"),
]
OMNIGLOT: list[Case] = [
    ("no characters", lambda d: (d / "images_background").mkdir(), "<alphabet>/<character>"),
    ("no alphabets", lambda d: (d / "images_background/a").mkdir(parents=True), "<character>"),
    ("too deep", lambda d: write_omniglot(d / "images_background"), "Greek/character01"),
]
LISTS: list[Case] = [
    ("missing", with_rows("a.png,a", "b.png,a", "c.png,b"), r"train.csv lists a.png, .*2 others"),
    ("leads up", with_rows("../images/train-0-0.png,a"), "train.csv, line 2: ../images/train-0-0"),
    ("leads away", with_rows("/images/train-0-0.png,a"), "train.csv, line 2: /images/train-0-0"),
    ("twice", with_rows("train-0-0.png,a", "./train-0-0.png,a"), "train.csv, line 3: ./train-0-0"),
    ("two classes", with_rows("test-0-0.png,a", "test-0-0.png,b"), "train.csv, line 3: test-0-0"),
    ("no columns", with_rows("a.png,b", header="file,class"), "train.csv .*filename and label"),
    ("short row", with_rows("a.png"), "train.csv, line 2: .*label missing"),
    ("empty", with_rows(), "train.csv lists no images"),
    ("open quote", with_rows('"train-0-0.png,a', "train-0-1.png,a"), "cannot read .*train.csv"),
    ("stray quote", with_rows('train-0-0.png,a"', "train-0-1.png,a"), "line 2: stray quote"),
    ("text behind quotes", with_rows('train-0-0.png,"a"b'), "cannot read .*train.csv, line 2"),
    ("semicolons", with_rows("a.png;b", header="filename;label"), "commas.*filename;label"),
    ("two labels", with_rows("a.png,b,c", header="filename,label,Label"), "label,label"),
    ("comma in a label", with_rows("train-0-0.png,a, b"), "line 2 has 3 columns, not 2"),
    ("Latin-1", lambda d: (d / "train.csv").write_bytes(b"filename,label\n\xe9,a"), "not in UTF-8"),
    ("no text", lambda d: (d / "train.csv").write_bytes(b"\xff\xfe"), "cannot read .*train.csv"),
]
PICKLES: list[Case] = [
    ("text", lambda d: (d / PICKLE).write_text("hello"), "train.pkl is not a whole pickle"),
    ("truncated", lambda d: truncate(d / PICKLE), "train.pkl is not a whole pickle"),
    ("folder", lambda d: into_a_folder(d / PICKLE), "cannot read .*train.pkl: Is a directory"),
    ("dead link", lambda d: into_a_dead_link(d / PICKLE), "cannot read .*train.pkl: No such file"),
    ("list", with_content(PICKLE, [1, 2]), "train.pkl holds no dictionary"),
    ("other things", with_content(PICKLE, {"weights": 1}), "train.pkl has weights.* image_data"),
    ("other images", changed(PICKLE, image_data=np.zeros((19, 3, 9))), r"float64 \[19, 3, 9\]"),
    ("no array", changed(PICKLE, image_data=[1]), r"images of .*train.pkl are a list"),
    ("out of range", changed(PICKLE, class_dict={"a": range(18), "b": [19]}), "19 .* 19 images"),
    ("two classes", changed(PICKLE, class_dict={"a": range(18), "b": [4]}), "19 .* 19 images"),
    ("no class", changed(PICKLE, class_dict={"a": range(18)}), "18 places .* 19 images"),
    ("endless", changed(PICKLE, class_dict={"a": range(10**12)}), "places .* 19 images"),
    ("no places", changed(PICKLE, class_dict={"a": 3}), "train.pkl: a class has no list"),
    ("malicious", malicious(PICKLE, "image_data"), "train.pkl asks for posix.mkdir"),
]
TIERED: list[Case] = [
    ("few", changed(LABELS, label_specific=np.zeros(18, int)), f"{LABELS} .*18 .* 19 images"),
    ("below 0", changed(LABELS, label_specific=np.full(19, -1)), f"{LABELS} has the label -1"),
    ("lists", changed(LABELS, label_specific=[[1], [2, 3]]), f"labels of .*{LABELS} are no list"),
    ("endless", lambda d: (d / LABELS).write_bytes(NESTED), f"labels of .*{LABELS} are no list"),
    ("halves", changed(LABELS, label_specific=np.full(19, 0.5)), f"of .*{LABELS} are no list"),
    ("no labels", with_content(LABELS, {"other": 1}), f"{LABELS} has other.* label_specific"),
    ("broken PNG", with_last_png(b"\x89PNG"), f"{PNGS}, image 18 is not a whole image"),
    ("text for a PNG", with_last_png("text"), f"{PNGS}, image 18 is no array of bytes"),
    ("no PNGs", with_content(PNGS, {}), f"{PNGS} holds no list"),
    ("malicious", malicious(LABELS, "labels", 0), f"{LABELS} asks for posix.mkdir"),
]
ARCHIVES: list[Case] = [
    ("truncated", lambda d: truncate(d / NPZ), f"{NPZ} is not a whole .npz file"),
    ("other array", lambda d: np.savez(d / NPZ, other=np.zeros(3)), f"{NPZ} has no array"),
    ("short", with_shape(19, 84, 84, 3), f"{NPZ} ends within image 0"),
    ("less than nothing", with_shape(-1, 84, 84, 3), r"uint8 \[-1, 84, 84, 3\]"),
    ("negative sides", with_shape(19, -84, -84, 3), r"uint8 \[19, -84, -84, 3\]"),
    ("huge", with_shape(19, 2**32, 2**32, 3), r"uint8 \[19, 4294967296, 4294967296, 3\].*256 MiB"),
    ("objects", lambda d: np.savez(d / NPZ, images=np.array(Payload(d / "run"))), r"object \[\]"),
]
BROKEN: dict[str, tuple[str, Callable[[Path], Path], list[Case]]] = {
    "images": ("images", write_tree, IMAGES),
    "empty": ("images", nothing, EMPTY),
    "omniglot": ("omniglot", nothing, OMNIGLOT),
    "lists": ("miniimagenet", write_csv, LISTS),
    "pickles": ("miniimagenet", write_cache_pickles, PICKLES),
    "tiered": ("tieredimagenet", write_png_pickles, TIERED),
    "npz": ("tieredimagenet", write_npz, ARCHIVES),
}


@pytest.fixture(autouse=True)
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the numbers of the tiny sets official, so that only what is broken is a finding."""
    for family in inspect_folder.FAMILIES[1:3]:
        monkeypatch.setattr(family, "official", ((3, 19), (2, 13), (4, 25)))
    monkeypatch.setattr(inspect_folder, "SMALLEST_CLASS", 6)


@pytest.mark.parametrize("kind", BROKEN)
def test_one_line_says_what_is_broken(kind: str, data: Path) -> None:
    spec, write, cases = BROKEN[kind]
    for name, harm, message in cases:
        place = data / name
        here = write(place / "here")
        harm(here)
        with pytest.raises(UserError) as drawn:
            TASKS.create(spec, folder=str(here), ways=2, queries=5).sample(0)
        try:
            code, checked, _ = invoke(check, here)
        except UserError as error:
            code, checked = 1, str(error)
        for text in (str(drawn.value), checked):
            assert re.search(message, text), (name, text)
        assert "\n" not in str(drawn.value), name
        assert code == 1, name
        assert not (here / "run").exists(), name
    assert not [*data.parent.glob("cache/images/.*")]


def test_a_missing_split_takes_no_other_with_it(data: Path) -> None:
    write_cache_pickles(data / "here")
    (data / "here" / "mini-imagenet-cache-val.pkl").unlink()
    family = TASKS.create("miniimagenet(ways=2, queries=5, folder='here')")
    family.sample(0)
    family.sample(0, "test")
    with pytest.raises(UserError, match=r"cache-val.pkl or .*-validation.pkl"):
        family.sample(0, "validation")
