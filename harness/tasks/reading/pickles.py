"""Read pickled data sets without running anything that is in the pickle.

A pickle names functions, and unpickling calls them: whoever wrote one can run any code. Here only
the names in `_ALLOWED` can be called. What describes the memory of an array is checked before
numpy gets it: numpy itself trusts it and can crash.
"""

import pickle
import reprlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.tasks.reading.names import printable, unreadable


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle: arrays, numbers, strings, and containers of them.

    Pickles of Python 2 are read too; their byte strings become strings, as do bytes that are keys
    of the outermost dictionary.

    Raises:
        UserError: it cannot be read, is no pickle, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except _ForbiddenError as error:
        raise UserError(
            f"{path} asks for {error}, which no pickle of images needs; nothing in it was run"
        ) from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory") from None
    except OSError as error:
        raise UserError(unreadable(path, error)) from None
    except Exception as error:  # a broken pickle fails in many ways
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a whole pickle: {reason}") from None
    if isinstance(content, dict):
        return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
    return content


class _ForbiddenError(Exception):
    """A request in a pickle that no data set needs."""


class _Dtype:
    """Stand for a numpy.dtype of plain numbers, strings or objects."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in "biufSUO":
            raise _ForbiddenError(f"the numpy.dtype {reprlib.repr(name)}")
        self.real = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *compound = state[:5]
        if any(part is not None for part in compound):
            raise _ForbiddenError("a compound numpy.dtype")
        self.real = self.real.newbyteorder(order)


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that a pickle creates empty and fills by `__setstate__`."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        real, content = _real(dtype), _bytes(content)
        if real.kind != "O":
            flat = np.frombuffer(content, real)
        elif isinstance(content, list):
            flat = np.empty(len(content), real)
        else:
            raise _ForbiddenError("an array of objects that are not listed")
        shape = flat.reshape(shape).shape
        super().__setstate__((1, shape, real, bool(fortran), content))  # type: ignore[arg-type]


def _frombuffer(content: Any, dtype: object, shape: Any, order: Any) -> NDArray[Any]:
    return np.frombuffer(_bytes(content), _real(dtype)).reshape(shape, order=order)


def _bytes(content: Any) -> Any:
    """Return as bytes what Python 2 wrote as bytes; it is unpickled as text."""
    return content.encode("latin1") if isinstance(content, str) else content


def _real(dtype: object) -> "np.dtype[Any]":
    if not isinstance(dtype, _Dtype):
        raise _ForbiddenError(f"an array of {dtype!r}")
    return dtype.real


def _empty_array(*_: object) -> _Array:
    return _Array(0, np.uint8)


def _scalar(dtype: object, content: Any) -> Any:
    return np.frombuffer(_bytes(content), _real(dtype), count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _Allowed:
    """Stand for what a pickle may call; unlike a function, it has no attributes to change."""

    __slots__ = ("_call", "_kinds")

    def __init__(self, call: Callable[..., Any], kinds: tuple[type, ...] = (object,)) -> None:
        self._call, self._kinds = call, kinds

    def __call__(self, *arguments: object) -> Any:
        for one in arguments:
            if not isinstance(one, self._kinds):
                raise _ForbiddenError(f"a {self._call.__name__} of {reprlib.repr(one)}")
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _ForbiddenError(f"another {self._call.__name__}")


_TEXT = (str, bytes, bytearray)
_CONTAINERS = (*_TEXT, list, tuple, set, frozenset, dict)
_ALLOWED: dict[str, _Allowed | str] = {
    "numpy.ndarray": "ndarray",  # only an argument of the next, never called
    "numpy.core.multiarray._reconstruct": _Allowed(_empty_array),
    "numpy.core.multiarray.scalar": _Allowed(_scalar),
    "numpy.core.numeric._frombuffer": _Allowed(_frombuffer),
    "numpy.dtype": _Allowed(_Dtype),
    "_codecs.encode": _Allowed(_encode),
    "collections.OrderedDict": _Allowed(OrderedDict),
    "collections.defaultdict": _Allowed(defaultdict),
    "builtins.str": _Allowed(str, _TEXT),
    "builtins.xrange": _Allowed(range),  # as protocols up to 2 have it
    **{
        f"builtins.{one.__name__}": _Allowed(one, _CONTAINERS)
        for one in (bytearray, bytes, frozenset, list, set, tuple)
    },
    **{f"builtins.{one.__name__}": _Allowed(one) for one in (bool, dict, float, int, range)},
}


class _Unpickler(pickle._Unpickler):
    """Unpickle with the names in `_ALLOWED` only.

    Python's own implementation is used: the one in C makes a table as long as the largest place
    that a pickle names, so that five bytes can ask for 64 GiB.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        allowed = _ALLOWED.get(f"{full}.{name}")
        if allowed is None:
            raise _ForbiddenError(printable(f"{module}.{name}"))
        return allowed
