"""Pickles of data sets: plain ones are read, whoever wrote them; nothing in one is run."""

import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators.base.errors import UserError
from harness.tasks.reading.names import printable
from harness.tasks.reading.pickles import _scalar, read_pickle
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


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    """Return a function that reads a pickle of these bytes from a file."""

    def read_bytes(content: bytes) -> Any:
        (tmp_path / "file.pkl").write_bytes(content)
        return read_pickle(tmp_path / "file.pkl")

    return read_bytes


def test_plain_pickles_are_read_in_every_protocol(read: Callable[[bytes], Any]) -> None:
    plain: dict[str, Any] = PLAIN | {"lists": defaultdict(list, {"a": [1]})}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = read(pickle.dumps(plain, protocol))
        assert [*content] == [*plain]
        for name, value in plain.items():
            if isinstance(value, np.ndarray):
                assert content[name].dtype.kind == value.dtype.kind, (name, protocol)
                assert content[name].tolist() == value.tolist(), (name, protocol)
            else:
                assert content[name] == value, (name, protocol)
                assert type(content[name]) is type(value), (name, protocol)


def test_pickles_of_python_2_are_read(read: Callable[[bytes], Any]) -> None:
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
    content = read(b"\x80\x02}(" + b"".join(items) + b"u.")
    assert content["images"].tolist() == [[1, 2], [250, 4]]
    assert content["images"].dtype == np.uint8
    assert (content["n"], content["set"]) == (7, {1})


FORBIDDEN: list[tuple[bytes, str]] = [
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
    (b"cos\n\x1b[2J\n.", r"os.\\x1b\[2J"),
]
"""Pickles, and what they ask for."""

NONSENSE = {
    "empty": b"",
    "a made array": b"cnumpy\nndarray\n(I3\ntR.",
    "objects from bytes": numpy_function("numpy.core.multiarray._reconstruct", None)[:-1]
    + b"(K\x01K\x02\x85cnumpy\ndtype\n(U\x01OK\x00K\x01tR\x89U\x1012345678abcdefghtb.",
    "objects from a buffer": b"cnumpy.core.numeric\n_frombuffer\n(U\x0812345678"
    + b"cnumpy\ndtype\n(U\x01OK\x00K\x01tRK\x01\x85U\x01CtR.",
    "more than there is": numpy_function("numpy.core.multiarray._reconstruct", None)[:-1]
    + b"(K\x01K\x63\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89U\x02abtb.",
    "another dtype": numpy_function("numpy.core.multiarray._reconstruct", None)[:-1]
    + b"(K\x01K\x01\x85U\x02u1\x89U\x01atb.",
    "a persistent thing": b"\x80\x04P1\n.",
}


def test_nothing_else_can_be_asked_for(read: Callable[[bytes], Any]) -> None:
    for content, request in FORBIDDEN:
        with pytest.raises(UserError, match=f"file.pkl asks for {request}, which no pickle"):
            read(content)
    for name, content in NONSENSE.items():
        with pytest.raises(UserError, match=r"file.pkl (is not a whole pickle|asks for)"):
            pytest.fail(f"{name} is read as {read(content)}")


def test_places_in_memory_cost_nothing(read: Callable[[bytes], Any]) -> None:
    # A table up to the place would take 64 GiB.
    assert read(b"\x80\x02]r\xff\xff\xff\xff.") == []
    assert read(b"(lp4294967295\n.") == []
    assert read(b"U\x03abc0\x8e\x02\x00\x00\x00\x00\x00\x00\x00..r\xff\xff\xff\x0f.") == b".."


def test_fuzzed_pickles_end_in_one_line(read: Callable[[bytes], Any]) -> None:
    whole = pickle.dumps(PLAIN, 2)
    chance = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in chance.integers(len(content), size=3):
            content[place] = chance.integers(256)
        with suppress(UserError):
            read(bytes(content))


def test_what_a_pickle_may_call_stays_as_it_is(read: Callable[[bytes], Any]) -> None:
    # scalar.__dict__ = {"__defaults__": (1,)}, and the same as an attribute.
    for state in (b"}U\x0c__defaults__K\x01\x85s", b"N}U\x0c__defaults__K\x01\x85s\x86"):
        content = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + state + b"b."
        with pytest.raises(UserError, match=r"file.pkl asks for another _scalar, which"):
            read(content)
        assert _scalar.__defaults__ is None
        assert "__defaults__" not in vars(_scalar)


def test_shared_containers_stay_shared(read: Callable[[bytes], Any]) -> None:
    content, depth = read(NESTED), 0
    while content:
        assert content[0] is content[1]
        content, depth = content[0], depth + 1
    assert depth == 40
    shared = [np.arange(3)]
    one, other = read(pickle.dumps([(shared, 1), (shared, 2)]))
    assert one[0] is other[0]
    assert one[0][0].tolist() == [0, 1, 2]


def test_names_are_shown_in_printable_characters() -> None:
    assert printable("Ångström 鳥") == "Ångström 鳥"
    assert printable("a\n\x1b[2J\u202eb") == r"a\n\x1b[2J\u202eb"
    assert printable(b"\xe9\x07") == r"é\x07"
    assert printable(np.int64(3)) == "3"
    assert len(printable([[[[[[[[["x" * 1000]]]]]]]]])) < 100
