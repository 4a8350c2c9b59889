"""Unpickles data sets without running anything that is in the pickle.

A pickle names functions, and unpickling calls them: whoever wrote one can have anything run. Here
a name stands for what is in `_ALLOWED` or for nothing. numpy's arrays are put together by
functions of this file: numpy's own crash on some pickles, and take descriptions of memory on trust.
"""

import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.errors import OptionError


def unpickled(path: Path) -> Any:
    """Returns what a pickle holds: arrays, numbers, strings, and containers of them.

    Pickles of Python 2 are read too; their byte strings become strings, as do bytes that are keys
    of the outermost dictionary.

    Args:
        path: the file.

    Raises:
        OptionError: it cannot be read, is no pickle, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        content = _plain(content)
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


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


class _Forbidden(Exception):
    """What a pickle must not ask for."""


class _Dtype:
    """Stands for a numpy.dtype of plain numbers, strings or objects."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in "biufSUO":
            raise _Forbidden(f"the numpy.dtype {name!r}")
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
    objects = np.empty(len(content), kind)
    for place, one in enumerate(content):
        objects[place] = _plain(one)
    return objects.reshape(shape, order=order)


def _plain(value: Any) -> Any:
    """Puts arrays in the place of what stands for them, in lists and dictionaries too."""
    if isinstance(value, _Array):
        return value.real
    if isinstance(value, dict):
        for key, one in value.items():
            value[key] = _plain(one)
    elif isinstance(value, list):
        value[:] = map(_plain, value)
    elif isinstance(value, tuple):
        return tuple(map(_plain, value))
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


_ALLOWED: dict[str, Callable[..., Any] | str] = {
    "numpy.ndarray": "ndarray",  # an argument of the next: what it stands for is not called
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    **{
        f"builtins.{one.__name__}": one
        for one in (
            bool,
            bytearray,
            bytes,
            dict,
            float,
            frozenset,
            int,
            list,
            range,
            set,
            str,
            tuple,
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        spelled = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        found = _ALLOWED.get(f"{spelled}.{name}")
        if found is None:
            raise _Forbidden(f"{module}.{name}")
        return found
