"""Whether vmap gives what a loop gives: found out once for all losses of a kind."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from inspect import isfunction, ismethod
from math import isfinite, sqrt
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from estimators.base.failures import first_line, out_of_memory
from estimators.base.tree import Params, axpy, norm

_MOST = 256  # kinds that are remembered
_known: dict[Hashable, str] = {}


def fault_of_vmap(
    kind: Hashable,
    together: Callable[[], Sequence[Params]],
    apart: Callable[[], Sequence[Params]],
    *,
    on_first_fault: Callable[[str], None] | None = None,
) -> str:
    """Return why vmap cannot be used for a kind of loss; empty where it can.

    Modes that count or record what torch does see nothing of the comparison.

    Args:
        kind: see `kind_of`.
        together: returns some results by vmap.
        apart: returns the same one by one; an error here is an error of the loss.
        on_first_fault: called with the reason when it is first found.
    """
    reason = _known.get(kind)
    if reason is not None:
        return reason
    with _disable_current_modes():
        found = _compare(together, apart)
    if found is None:
        return ""
    if len(_known) >= _MOST:
        _known.clear()
    _known[kind] = found
    if found and on_first_fault:
        on_first_fault(found)
    return found


def _compare(
    together: Callable[[], Sequence[Params]], apart: Callable[[], Sequence[Params]]
) -> str | None:
    """Return how two ways to the same results differ; None where that is unknown."""
    try:
        some = together()
    except Exception as error:
        if out_of_memory(error):
            raise
        apart()
        return first_line(error)
    found = difference(some, apart(), slack=30.0)
    return f"results by vmap differ from those of a loop by {found}" if found else found


def difference(some: Sequence[Params], others: Sequence[Params], *, slack: float) -> str | None:
    """Return by how much results differ, if by more than rounding; None where that is unknown.

    Args:
        some: one way's results.
        others: the other way's.
        slack: what rounding may do, as a multiple of the root of its unit.
    """
    pairs = list(zip(some, others, strict=True))
    size = max(norm(other) for _, other in pairs)
    distance = max(norm(axpy(-1.0, one, other)) for one, other in pairs)
    if not (isfinite(size) and isfinite(distance)):
        return None
    tolerance = slack * sqrt(_rounding(some[0]))
    return f"{distance / (size or 1):.1%}" if distance > min(tolerance, 0.1) * size else ""


def _rounding(params: Params) -> float:
    """Return the unit of rounding, in reduced precision of a GPU too."""
    dtypes = {value.dtype for value in params.values()}
    device = next(iter(params.values())).device.type
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    return max(torch.finfo(dtype).eps for dtype in dtypes)


class ModuleReference(ref[nn.Module]):
    """A weak reference that equals those to the very same module, however modules compare."""

    __slots__ = ("_id",)

    def __init__(self, module: nn.Module) -> None:
        self._id = id(module)

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleReference) and self() is not None and self() is other()


def kind_of(*things: object) -> Hashable:
    """Return what losses are made of: the same for those of tasks that differ in their data only.

    That is code, flags, texts, modules (held weakly, with their flags) and shapes of tensors, also
    within closures, attributes and bound arguments; no numbers.

    Args:
        *things: losses, parameters, and whatever else makes a difference.
    """
    parts: list[Hashable] = []
    waiting, seen = [*things], set[int]()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            parts.append((thing.shape, thing.dtype, thing.device))
        elif isinstance(
            thing, str | bool | None
        ):  # numbers are data: they differ from task to task
            parts.append(thing)
        elif isinstance(thing, nn.Module):
            flags = [
                v
                for part in thing.modules()
                for v in vars(part).values()
                if v is True or v is False
            ]
            parts.append((ModuleReference(thing), *flags))
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple):
            waiting += thing
        elif isinstance(thing, partial):
            waiting += [thing.func, thing.args, thing.keywords]
        elif ismethod(thing):
            waiting += [thing.__func__, thing.__self__]
        elif isfunction(thing):
            parts.append(thing.__code__)
            waiting += [thing.__defaults__, getattr(thing, "__wrapped__", None)]
            for cell in thing.__closure__ or ():
                with suppress(ValueError):  # empty yet
                    waiting.append(cell.cell_contents)
        else:
            parts.append((ref(type(thing)), getattr(thing, "__qualname__", "")))
            if hasattr(type(thing), "made_of"):  # `ModuleLoss`, whose other attributes are notes
                waiting += thing.made_of  # type: ignore[attr-defined]
            else:
                waiting += getattr(thing, "__dict__", {}).values()
    return tuple(parts)
