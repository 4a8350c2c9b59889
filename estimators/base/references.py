"""What modules and criteria refer to, in a form that shows later whether it has changed."""

from contextlib import suppress
from functools import partial
from math import inf
from types import FunctionType

from torch import Tensor, nn

PLAIN = bool | int | float | str | None
_MOST_BYTES = 4096  # of the arrays that are compared
_LONGEST = 16  # of the lists whose items are compared
STANDARD = frozenset(vars(nn.Module()))


def is_watched(name: str, value: object) -> bool:
    """Return whether an attribute of a module is one that it may compute with."""
    known = isinstance(value, PLAIN | Tensor | tuple | list | dict | FunctionType)
    return name not in STANDARD and (known or hasattr(value, "tobytes"))


def version(value: object) -> object:
    """Return what every write to a tensor, or to tensors and plain values in a list, changes."""
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    if isinstance(value, tuple | list | dict) and len(value) <= _LONGEST:
        items = value.values() if isinstance(value, dict) else value
        return [item if isinstance(item, PLAIN) else (id(item), version(item)) for item in items]
    if hasattr(value, "tobytes") and getattr(value, "nbytes", inf) <= _MOST_BYTES:
        return value.tobytes()  # an array of numpy's
    return None


def references(function: object) -> list[tuple[object, object]]:
    """Return what a criterion refers to, with versions: cells, bound arguments, its own state."""
    held: list[object] = []
    if isinstance(function, nn.Module):
        for part in function.modules():
            held += [v for name, v in vars(part).items() if is_watched(name, v)]
            held += part._buffers.values()
            held += [p for p in part._parameters.values() if p is not None and not p.requires_grad]
    elif isinstance(function, partial):
        held += [*function.args, *function.keywords.values()]
        return references(function.func) + [(value, version(value)) for value in held]
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # empty yet
            held.append(cell.cell_contents)
    return [(value, version(value)) for value in held]


def is_same(one: tuple[object, object], other: tuple[object, object]) -> bool:
    """Return whether a value with its version is still the same."""
    (value, before), (now, after) = one, other
    alike = type(value) is type(now) and isinstance(value, PLAIN | tuple)
    nan = value != value and now != now if isinstance(value, float) else False
    return before == after and (value is now or nan or (alike and value == now))
