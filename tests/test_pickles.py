"""Pickles of data sets: plain ones are read, whoever wrote them; nothing in one is run."""

import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators.base.errors import OptionError
from harness.tasks.reading.names import shown
from harness.tasks.reading.pickles import _scalar, unpickled
from tests.support.image_sets import NESTED


def numpy_function(name: str, *arguments: object) -> bytes:
    """A pickle that calls something of numpy with these arguments."""
    module, _, function = name.rpartition(".")
    called = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + called + b"R."


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
