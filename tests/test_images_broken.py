"""Broken image data sets: one line says what is wrong and where, and nothing of them is run."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from estimators.errors import OptionError
from harness.tasks import TASKS
from harness.tasks.reading.decoded import decoded
from harness.tasks.reading.names import shown
from harness.tasks.reading.pickles import _scalar, unpickled
from tests.image_sets import (
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


def numpy_function(name: str, *arguments: object) -> bytes:
    """A pickle that calls something of numpy with these arguments."""
    module, _, function = name.rpartition(".")
    called = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + called + b"R."


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


NESTED = b"\x80\x02)" + b"2\x86" * 40 + b"."  # pairs, each of the one before twice: 2^40 places
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


PLAIN: dict[str, Any] = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big-endian": np.arange(5, dtype=">i4"),
    "names": np.array(["a", "bc"]),
    "byte names": np.array([b"a", b"bc"]),
    "objects": np.array(["a", 3], dtype=object),
    "empty": np.zeros((0, 3)),
    "places": range(3, 9, 2),
    "numbers": [1, 2.5, True, None, np.int64(3), np.float32(0.5), 2**70],
    "containers": (OrderedDict(a=1), {1, 2}, frozenset({3}), b"x", bytearray(b"y")),
    "text": {"é": "ü"},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    wanted: dict[str, Any] = PLAIN | {"lists": defaultdict(list, {"a": [1]})}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(wanted, protocol))
    found = unpickled(tmp_path / "file.pkl")
    assert [*found] == [*wanted]
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype.kind == value.dtype.kind
            assert found[name].tolist() == value.tolist()
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    # {'images': numpy.array([[1, 2], [250, 4]], 'u1'), 'n': numpy.int64(7)}, as Python 2.7 and
    # numpy 1.16 wrote it: byte strings, long-gone module names.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        + b"(K\x01K\x02K\x02\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89U\x04\x01\x02\xfa\x04tb"
    )
    scalar = (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(U\x02i8K\x00K\x01tR"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"U\x08\x07\x00\x00\x00\x00\x00\x00\x00\x86R"
    )
    a_set = b"c__builtin__\nset\n]K\x01a\x85R"
    items = (b"U\x06images", array, b"U\x01n", scalar, b"U\x03set", a_set)
    content = b"\x80\x02}(" + b"".join(items) + b"u."
    (tmp_path / "file.pkl").write_bytes(content)
    found = unpickled(tmp_path / "file.pkl")
    assert found["images"].tolist() == [[1, 2], [250, 4]]
    assert found["images"].dtype == np.uint8
    assert (found["n"], found["set"]) == (7, {1})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.view\x93.", "numpy.ndarray.view"),
        (numpy_function("numpy.dtype", "u1,O"), "the numpy.dtype 'u1,O'"),
        (numpy_function("numpy.dtype", "V8"), "the numpy.dtype 'V8'"),
        (numpy_function("numpy.dtype", {"names": []}), "the numpy.dtype {'names': .*"),
        (numpy_function("_codecs.encode", "a", "zip"), "the encoding 'zip'"),
        (numpy_function("numpy.core.multiarray.scalar", "O", b"12345678"), "an array of 'O'"),
        (pickle.dumps(np.zeros(3, "u1,O")), "the numpy.dtype .*V9.*"),
        (numpy_function("builtins.bytearray", 2_500_000_000), "a bytearray of 2500000000"),
        (numpy_function("builtins.bytes", 2_500_000_000), "a bytes of 2500000000"),
        (numpy_function("builtins.list", range(10**9)), r"a list of range\(0, 1000000000\)"),
        (numpy_function("__builtin__.tuple", range(10**9)), r"a tuple of range\(0, 1000000000\)"),
        (numpy_function("builtins.set", range(10**9)), r"a set of range\(0, 1000000000\)"),
        (numpy_function("builtins.str", [1]), r"a str of \[1\]"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "4294967295 places in memory"),
        (b"(lp4294967295\n.", "4294967295 places in memory"),
        (
            b"U\x03abc0\x8e\x02\x00\x00\x00\x00\x00\x00\x00..r\xff\xff\xff\x0f.",
            "268435455 places in memory",
        ),
        (b"cos\n\x1b[2J\n.", r"os.\\x1b\[2J"),
    ],
)
def test_what_a_pickle_must_not_ask_for(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(content)
    with pytest.raises(OptionError, match=f"file.pkl asks for {what}, which no pickle"):
        unpickled(tmp_path / "file.pkl")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"cnumpy\nndarray\n(I3\ntR.", id="a made array"),
        pytest.param(
            numpy_function("numpy.core.multiarray._reconstruct", None)[:-1]
            + b"(K\x01K\x02\x85cnumpy\ndtype\n(U\x01OK\x00K\x01tR\x89U\x1012345678abcdefghtb.",
            id="objects from bytes",
        ),
        pytest.param(
            numpy_function("numpy.core.multiarray._reconstruct", None)[:-1]
            + b"(K\x01K\x63\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89U\x02abtb.",
            id="more than there is",
        ),
        pytest.param(b"\x80\x04P1\n.", id="a persistent thing"),
    ],
)
def test_nonsense_is_no_whole_pickle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(content)
    with pytest.raises(OptionError, match=r"file.pkl (is not a whole pickle|asks for)"):
        unpickled(tmp_path / "file.pkl")


def test_fuzzed_pickles_end_in_one_line(tmp_path: Path) -> None:
    whole = pickle.dumps(PLAIN, 2)
    chance = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in chance.integers(len(content), size=3):
            content[place] = chance.integers(256)
        (tmp_path / "file.pkl").write_bytes(content)
        try:
            unpickled(tmp_path / "file.pkl")
        except OptionError:
            continue


def test_what_a_pickle_may_call_stays_as_it_is(tmp_path: Path) -> None:
    # scalar.__dict__ = {"__defaults__": (1,)}, and the same as an attribute.
    for state in (b"}U\x0c__defaults__K\x01\x85s", b"N}U\x0c__defaults__K\x01\x85s\x86"):
        content = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + state + b"b."
        (tmp_path / "file.pkl").write_bytes(content)
        with pytest.raises(OptionError, match=r"file.pkl asks for another _scalar, which"):
            unpickled(tmp_path / "file.pkl")
        assert _scalar.__defaults__ is None
        assert "__defaults__" not in vars(_scalar)


def test_shared_containers_are_gone_through_once(tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(NESTED)
    found, depth = unpickled(tmp_path / "file.pkl"), 0
    while found:
        assert found[0] is found[1]
        found, depth = found[0], depth + 1
    assert depth == 40
    shared = [np.arange(3)]
    (tmp_path / "file.pkl").write_bytes(pickle.dumps([(shared, 1), (shared, 2)]))
    one, other = unpickled(tmp_path / "file.pkl")
    assert one[0] is other[0]
    assert one[0][0].tolist() == [0, 1, 2]


def test_names_are_shown_in_printable_characters() -> None:
    assert shown("Ångström 鳥") == "Ångström 鳥"
    assert shown("a\n\x1b[2J\u202eb") == r"a\n\x1b[2J\u202eb"
    assert shown(b"\xe9\x07") == r"é\x07"
    assert shown(np.int64(3)) == "3"
    assert len(shown([[[[[[[[["x" * 1000]]]]]]]]])) < 100
