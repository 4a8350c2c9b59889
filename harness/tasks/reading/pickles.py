"""Unpickles data sets without running anything that is in the pickle.

A pickle names functions, and unpickling calls them: whoever wrote one can have anything run. Here
a name stands for what is in `_ALLOWED` or for nothing. numpy's arrays are put together by
functions of this file: numpy's own crash on some pickles, and take descriptions of memory on trust.
"""

import os
import pickle
import reprlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.reading.memo import largest_place
from harness.tasks.reading.names import shown


def unpickled(path: Path) -> Any:
    """Returns what a pickle holds: arrays, numbers, strings, and containers of them.

    Pickles of Python 2 are read too; their byte strings become strings, as do bytes that are keys
    of the outermost dictionary.

    Raises:
        OptionError: it cannot be read, is no pickle, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            _check_places(file)
            content = _plain(_Unpickler(file, encoding="latin1").load(), {})
    except _Forbidden as error:
        raise OptionError(
            f"{path} asks for {error}, which no pickle of images needs; nothing of it was run"
        ) from None
    except MemoryError:
        raise OptionError(f"{path} does not fit into memory") from None
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle fails in many ways
        why = str(error) or type(error).__name__
        raise OptionError(f"{path} is not a whole pickle: {why}") from None
    if isinstance(content, dict):
        return {_text(key): value for key, value in content.items()}
    return content


def _check_places(file: BinaryIO) -> None:
    """Goes through the file and back to its beginning.

    Raises:
        _Forbidden: it names more places in memory than it has bytes.
    """
    if (place := largest_place(file)) > os.fstat(file.fileno()).st_size:
        raise _Forbidden(f"{place} places in memory")
    file.seek(0)


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


_Memo = dict[int, tuple[object, object]]
"""By the id of a container, the container, so that no other gets its id, and its plain form."""


class _Forbidden(Exception):
    """What a pickle must not ask for."""


class _Dtype:
    """Stands for a numpy.dtype of plain numbers, strings or objects."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in "biufSUO":
            raise _Forbidden(f"the numpy.dtype {reprlib.repr(name)}")
        self.real = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *compound = state[:5]
        if any(part is not None for part in compound):
            raise _Forbidden("a compound numpy.dtype")
        self.real = self.real.newbyteorder(order)


class _Array:
    """Stands for a numpy.ndarray, until the pickle gives its state."""

    real: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.real = _array(content, dtype, shape, "F" if fortran else "C")


def _array(content: Any, dtype: object, shape: Any, order: Any) -> NDArray[Any]:
    kind = _real(dtype)
    if kind.kind != "O":
        return np.frombuffer(_bytes(content), kind).reshape(shape, order=order)
    if not isinstance(content, list):
        raise _Forbidden("an array of objects that are not listed")
    objects = np.empty(len(content), kind)
    memo: _Memo = {}
    for place, one in enumerate(content):
        objects[place] = _plain(one, memo)
    return objects.reshape(shape, order=order)


def _plain(value: Any, memo: _Memo) -> Any:
    """Puts arrays in the place of what stands for them, in lists and dictionaries too."""
    if isinstance(value, _Array):
        return value.real
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in memo:
        return memo[id(value)][1]
    if isinstance(value, tuple):
        new = tuple([_plain(one, memo) for one in value])
        memo[id(value)] = value, new
        return new
    memo[id(value)] = value, value
    if isinstance(value, dict):
        for key, one in value.items():
            value[key] = _plain(one, memo)
    else:
        value[:] = [_plain(one, memo) for one in value]
    return value


def _bytes(content: Any) -> Any:
    """What Python 2 wrote as a string of bytes comes as one of characters."""
    return content.encode("latin1") if isinstance(content, str) else content


def _real(dtype: object) -> "np.dtype[Any]":
    if not isinstance(dtype, _Dtype):
        raise _Forbidden(f"an array of {dtype!r}")
    return dtype.real


def _dtype(name: object, *_: object) -> _Dtype:
    return _Dtype(name)


def _empty_array(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: object, content: Any) -> Any:
    return np.frombuffer(_bytes(content), _real(dtype), count=1)[0]


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Forbidden(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _Allowed:
    """Stands for what a pickle may call; unlike a function, it has nothing that can be changed."""

    __slots__ = ("_call", "_kinds")

    def __init__(self, call: Callable[..., Any], kinds: tuple[type, ...] = (object,)) -> None:
        self._call, self._kinds = call, kinds

    def __call__(self, *arguments: object) -> Any:
        for one in arguments:
            if not isinstance(one, self._kinds):
                raise _Forbidden(f"a {self._call.__name__} of {reprlib.repr(one)}")
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Forbidden(f"another {self._call.__name__}")


_TEXT = (str, bytes, bytearray)
_CONTAINERS = (*_TEXT, list, tuple, set, frozenset, dict)
_ALLOWED: dict[str, _Allowed | str] = {
    "numpy.ndarray": "ndarray",  # an argument of the next: what it stands for is not called
    "numpy.core.multiarray._reconstruct": _Allowed(_empty_array),
    "numpy.core.multiarray.scalar": _Allowed(_scalar),
    "numpy.core.numeric._frombuffer": _Allowed(_array),
    "numpy.dtype": _Allowed(_dtype),
    "_codecs.encode": _Allowed(_encoded),
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        spelled = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        found = _ALLOWED.get(f"{spelled}.{name}")
        if found is None:
            raise _Forbidden(shown(f"{module}.{name}"))
        return found
