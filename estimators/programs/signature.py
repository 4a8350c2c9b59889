"""The parts of losses: what a program is made for, and the tensors that are its inputs."""

import types
from collections.abc import Hashable, Iterable
from contextlib import suppress
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from estimators.base.agreement import ModuleReference
from estimators.base.differentiation import Loss
from estimators.base.errors import OptionError
from estimators.base.meta_batch import StackedLoss
from estimators.base.module_loss import ModuleLoss
from estimators.base.module_state import ModuleState, Seen, state_of
from estimators.base.references import PLAIN, STANDARD, is_watched

_CONSTANT = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_LIBRARIES = ("torch", "numpy", "math", "builtins", "functools", "operator", "typing")
_plain: WeakKeyDictionary[Seen, tuple[Hashable, ...]] = WeakKeyDictionary()
_LONGEST = 4096  # bytes of an array that is a constant of a program


class Signature:
    """All that losses compute with, split into tensors and the rest.

    Losses of one key differ in the values of their tensors only, which are in one order.

    Args:
        *losses: of one problem.

    Attributes:
        key: the rest: code, numbers, shapes, settings.
        tensors: in the order in which they were found, each once.

    Raises:
        OptionError: a loss holds something that cannot be looked into.
    """

    def __init__(self, *losses: Loss) -> None:
        self._parts: list[Hashable] = []
        self._places: dict[int, int] = {}
        self._alive: list[object] = []  # so that no identity is given to two things
        self.tensors: list[Tensor] = []
        self._add_all(losses)
        self.key: Hashable = tuple(self._parts)

    def text(self) -> str:
        """Return the key in a form that is the same in another process."""
        return _text(self.key)

    def _add(self, thing: Any) -> None:
        if isinstance(thing, Tensor):
            place = self._places.setdefault(id(thing), len(self.tensors))
            if place == len(self.tensors):
                self.tensors.append(thing)
            self._parts += place, thing.shape, thing.dtype, thing.device
        elif isinstance(thing, _CONSTANT):
            self._parts.append((type(thing), thing if thing == thing else "nan"))
        elif id(thing) in self._places:
            self._parts.append(self._places[id(thing)])
        else:
            self._places[id(thing)] = len(self._places)
            self._alive.append(thing)
            self._add_object(thing)

    def _add_all(self, things: Iterable[Any]) -> None:
        for thing in things:
            self._add(thing)

    def _add_object(self, thing: Any) -> None:
        if isinstance(thing, ModuleLoss):
            self._add_module_loss(thing, thing.batch)
        elif isinstance(thing, StackedLoss):
            self._parts.append(StackedLoss)
            self._add_module_loss(thing.each, thing.batch)
            self._add(thing.buffers)
        elif isinstance(thing, nn.Module):
            self._add_module(thing, state_of(thing), None)
            self._add_all(thing.parameters())
            self._add_all(thing.buffers())
        elif isinstance(thing, list | tuple | dict):
            self._parts += type(thing), len(thing)
            self._add_all(thing)
            if isinstance(thing, dict):
                self._add_all(thing.values())
        elif isinstance(thing, partial):
            self._add_all((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, types.FunctionType):
            self._add_function(thing)
        elif isinstance(thing, types.MethodType):
            self._add_instance(thing.__self__, thing.__func__.__name__)
        elif isinstance(thing, types.BuiltinFunctionType | type | types.ModuleType):
            self._parts.append(thing)
        elif hasattr(thing, "tobytes") and getattr(thing, "nbytes", _LONGEST + 1) <= _LONGEST:
            self._parts += str(thing.dtype), thing.shape, thing.tobytes()
        else:
            self._add_instance(thing, "__call__")

    def _add_module_loss(self, loss: ModuleLoss, batch: object) -> None:
        self._add_all(batch if isinstance(batch, tuple) else tree_leaves(batch))
        self._parts.append(loss.wants_params)
        self._add(loss.buffers)
        self._add(loss.criterion)
        if id(loss.module) not in self._places:
            self._places[id(loss.module)] = len(self._places)
            self._add_module(loss.module, loss.state, loss.seen)
            self._add_all([p for p in loss.state.parameters.values() if not p.requires_grad])

    def _add_module(self, module: nn.Module, state: ModuleState, seen: Seen | None) -> None:
        self._parts.append(ModuleReference(module))
        plain = _plain.get(seen) if seen is not None and seen.is_current() else None
        if plain is None:
            held, begin = state.attributes(), len(self._parts)
            self._parts.append(state.settings)
            self._add_all(held)
            if seen is not None and all(isinstance(value, PLAIN) for value in held):
                _plain[seen] = tuple(self._parts[begin:])
        else:
            self._parts += plain
        for part in state.parts_of_users():
            names = self._add_methods(type(part), "forward")
            for name, value in vars(part).items():
                if (
                    _is_reached(name, names)
                    and not is_watched(name, value)
                    and name not in STANDARD
                ):
                    self._add(name)
                    self._add(value)

    def _add_instance(self, thing: Any, entry: str) -> None:
        """Add what a method of an object may reach; all of an object that has no such method."""
        held = getattr(thing, "__dict__", None)
        names = self._add_methods(type(thing), entry)
        if held is None:
            raise OptionError(
                f"a loss that holds a {type(thing).__name__} cannot be compiled: hold numbers and "
                "tensors in its place"
            )
        for name, value in held.items():
            if not names or _is_reached(name, names):
                self._add(name)
                self._add(value)

    def _add_methods(self, kind: type, entry: str) -> frozenset[str]:
        """Add what a method may reach through its class, and return all names in it."""
        functions, names = _methods(kind, entry)
        self._parts += kind, entry
        self._add_all(functions)
        if functions:
            values = (getattr(kind, name, None) for name in sorted(names))
            self._add_all(value for value in values if isinstance(value, (*_CONSTANT, Tensor)))
        return names if functions else frozenset()

    def _add_function(self, function: types.FunctionType) -> None:
        self._parts.append(function.__code__)
        self._add_all(function.__defaults__ or ())
        self._add_all((function.__kwdefaults__ or {}).values())
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # empty yet
                self._add(cell.cell_contents)
        if not _is_library(function.__module__):
            for name in _names(function.__code__):
                self._add_global(name, function)

    def _add_global(self, name: str, function: types.FunctionType) -> None:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            if not _is_library(value.__name__):
                for attribute in _names(function.__code__):
                    held = getattr(value, attribute, None)
                    if isinstance(held, (*_CONSTANT, Tensor)):
                        self._add(held)
        elif value is not None and not _is_library(getattr(value, "__module__", None)):
            self._add(value)


def _is_reached(name: str, names: frozenset[str]) -> bool:
    return name in names or "getattr" in names or "__dict__" in names


def _is_library(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] in _LIBRARIES


@cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of globals and attributes in a function and those within it, sorted."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return tuple(sorted(set(code.co_names).union(*map(_names, inner))))


@cache
def _methods(kind: type, entry: str) -> tuple[tuple[types.FunctionType, ...], frozenset[str]]:
    """Return the methods that one method may call, a library's aside, and all names in them."""
    waiting, names, found = [entry], {entry}, []
    while waiting:
        name = waiting.pop()
        for each in kind.__mro__:
            value = vars(each).get(name)
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and not _is_library(each.__module__):
                found.append(function)
                new = [other for other in _names(function.__code__) if other not in names]
                names.update(new)
                waiting += new
    return tuple(found), frozenset(names)


def _text(part: Hashable) -> str:
    if isinstance(part, tuple):
        return f"({','.join(map(_text, part))})"
    if isinstance(part, frozenset):
        return f"{{{','.join(sorted(map(_text, part)))}}}"
    if isinstance(part, types.CodeType):
        fixed = part.co_code, part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars
        counts = part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags
        return f"{fixed}{counts}{_text(part.co_consts)}"
    if isinstance(part, type | types.BuiltinFunctionType):
        return f"{part.__module__}.{part.__qualname__}"
    if isinstance(part, ModuleReference | types.ModuleType):
        return type(part).__name__
    return repr(part)
