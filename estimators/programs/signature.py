"""The parts of losses: what a program is made for, and the tensors that are its inputs."""

import operator
import sys
import types
from abc import ABC
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dis import get_instructions
from enum import Enum
from functools import cache, cached_property, partial
from logging import Logger
from typing import Any, Generic, Protocol
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
from estimators.base.references import PLAIN

_CONSTANT = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    types.EllipsisType,
    Enum,
    torch.dtype,
    torch.device,
)
_LIBRARIES = frozenset({"torch", "numpy"}) | sys.stdlib_module_names
_STATELESS = frozenset({object, ABC, Generic, Protocol})
_plain: WeakKeyDictionary[Seen, tuple[Hashable, ...]] = WeakKeyDictionary()
_LONGEST = 4096  # bytes of an array that is a constant of a program

_OPERATORS = {name for name in vars(operator) if name.startswith("__")} - {"__eq__", "__ne__"}
_IMPLICIT = {  # names of methods that are called without them
    *_OPERATORS.difference(("__doc__", "__name__", "__file__")),
    *(f"__r{name[2:]}" for name in _OPERATORS),
    *("__call__", "__getattr__", "__getattribute__", "__get__", "__enter__", "__exit__"),
    *("__len__", "__iter__", "__next__", "__bool__", "__float__", "__int__"),
    *("__str__", "__format__"),
    *("__torch_function__", "forward", "backward", "jvp", "vmap", "setup_context"),
}
_ANY_NAME = frozenset(
    ("getattr", "__dict__", "vars", "globals", "dir", "attrgetter", "asdict", "astuple", "fields")
)


class _Space:
    """Attributes by name, those of which are parts that are named in code."""

    def __init__(self, held: Mapping[str, Any], *, of_instance: bool) -> None:
        self.held, self.of_instance = held, of_instance
        self.found: set[str] = set()


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
        self._names = set(_IMPLICIT)  # of globals and attributes in all code that is reached
        self._spaces: list[_Space] = []
        self.tensors: list[Tensor] = []
        self._add_all(losses)
        self._add_named()
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
            self._parts.append((type(thing), repr(thing) if isinstance(thing, float) else thing))
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
            if not _is_library(type(thing)):
                self._add_instance(thing)
        elif isinstance(thing, set | frozenset) and all(isinstance(i, _CONSTANT) for i in thing):
            self._parts += type(thing), *sorted(map(repr, thing))
        elif isinstance(thing, Logger):
            self._parts.append(Logger)
        elif isinstance(thing, partial):
            self._add_all((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, types.FunctionType):
            self._add_function(thing)
        elif isinstance(thing, types.MethodType):
            self._add_all((thing.__func__, thing.__self__))
        elif isinstance(thing, types.BuiltinFunctionType):
            owner = thing.__self__
            if owner is None or isinstance(owner, type | types.ModuleType):
                self._parts.append(thing)
            else:
                self._parts.append(thing.__name__)
                self._add(owner)
        elif isinstance(thing, type):
            self._parts.append(thing)
            if not _is_library(type(thing)):
                self._add(type(thing))
            for each in thing.__mro__:
                if not _is_library(each):
                    self._spaces.append(_Space(vars(each), of_instance=False))
        elif isinstance(thing, types.ModuleType):
            self._parts.append(thing)
            if not _is_library(thing):
                self._spaces.append(_Space(vars(thing), of_instance=False))
        elif isinstance(thing, property):
            self._add(thing.fget)
        elif isinstance(thing, staticmethod | classmethod):
            self._add(thing.__func__)
        elif isinstance(thing, cached_property):
            self._add(thing.func)
        elif hasattr(type(thing), "tobytes") and getattr(thing, "nbytes", _LONGEST + 1) <= _LONGEST:
            self._parts += str(thing.dtype), thing.shape, thing.tobytes()
        else:
            self._add_instance(thing)

    def _add_module_loss(self, loss: ModuleLoss, batch: object) -> None:
        self._add_all(batch if isinstance(batch, tuple) else tree_leaves(batch))
        self._parts.append(loss.wants_params)
        self._add(loss.buffers)
        self._add(loss.criterion)
        if id(loss.module) not in self._places:
            self._places[id(loss.module)] = len(self._places)
            seen = loss.seen if loss.seen is not None and loss.seen.is_current() else None
            state = seen.state if seen else state_of(loss.module)
            self._add_module(loss.module, state, seen)
            self._add_all([p for p in state.parameters.values() if not p.requires_grad])

    def _add_module(self, module: nn.Module, state: ModuleState, seen: Seen | None) -> None:
        """Add what a module computes with but parameters and buffers.

        Args:
            module: is held weakly.
            state: of the module.
            seen: the module as it is; None where that is not known.
        """
        plain = None if seen is None else _plain.get(seen)
        if plain is None:
            held = state.attributes()
            plain = ModuleReference(module), state.structure, state.settings
            if all(map(_is_fixed, held)):
                plain += (repr(held),)
                if seen is not None:
                    _plain[seen] = plain
            else:
                self._add_all(held)
        self._parts += plain
        self._add_all(state.hooks())
        self._add_all(map(type, state.parts()))
        self._spaces += [_Space(held, of_instance=True) for held in state.objects()]

    def _add_instance(self, thing: Any) -> None:
        """Add what code may reach of an object: all where a library's code has a part in it."""
        kind = type(thing)
        self._add(kind)
        held = {**getattr(thing, "__dict__", {})}
        slots = [
            name
            for each in kind.__mro__
            for name, value in vars(each).items()
            if isinstance(value, types.MemberDescriptorType)
        ]
        for name in slots:
            with suppress(AttributeError):  # empty yet
                held[name] = getattr(thing, name)
        if not (hasattr(thing, "__dict__") or slots or isinstance(thing, list | tuple | dict)):
            raise OptionError(
                f"a loss that holds a {kind.__name__} cannot be compiled: hold numbers and "
                "tensors in its place"
            )
        if any(_is_library(each) and each not in _STATELESS for each in kind.__mro__):
            self._add_all(held)
            self._add_all(held.values())
        else:
            self._spaces.append(_Space(held, of_instance=True))

    def _add_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._parts.append(code)
        self._add_all(function.__defaults__ or ())
        self._add_all((function.__kwdefaults__ or {}).values())
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # empty yet
                self._add(cell.cell_contents)
        if _is_library(function):
            return
        self._names.update(_names(code))
        known = function.__globals__
        for name in _names(code):
            if name in known:
                self._parts.append(name)
                self._add(known[name])
        for name in _imports(code):
            for module in (name, f"{known.get('__package__')}.{name}"):
                if module in sys.modules:
                    self._add(sys.modules[module])
        if function.__dict__:
            self._spaces.append(_Space(function.__dict__, of_instance=True))

    def _add_named(self) -> None:
        """Add the attributes that are named in code, of which some have code that names others."""
        while True:
            count = len(self._spaces), len(self._names)
            for space in self._spaces:
                named = (space.held.keys() & self._names) - space.found
                space.found |= named
                for name in sorted(named):
                    self._parts.append(name)
                    self._add(space.held[name])
                if space.of_instance and not self._names.isdisjoint(_ANY_NAME):
                    rest = space.held.keys() - space.found
                    space.found |= rest
                    for name in sorted(rest):
                        self._parts.append(name)
                        with suppress(OptionError):  # which is not named, and hardly meant
                            self._add(space.held[name])
            if count == (len(self._spaces), len(self._names)):
                return


def _is_fixed(value: object) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_fixed, value)))


def _is_library(thing: Any) -> bool:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return name is not None and name.partition(".")[0] in _LIBRARIES


@cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of globals and attributes in a function and those within it, sorted."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    found = set(code.co_names).union(*map(_names, inner))
    if not found.isdisjoint(_ANY_NAME):
        found.update(each for each in code.co_consts if isinstance(each, str))
    return tuple(sorted(found))


@cache
def _imports(code: types.CodeType) -> tuple[str, ...]:
    """Return the names in a function, and those within it, if it imports."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    imports = any(each.opname == "IMPORT_NAME" for each in get_instructions(code))
    own = code.co_names if imports else ()
    return (*own, *(name for each in inner for name in _imports(each)))


def _text(part: Hashable) -> str:
    if isinstance(part, tuple):
        return f"({','.join(map(_text, part))})"
    if isinstance(part, frozenset):
        return f"{{{','.join(sorted(map(_text, part)))}}}"
    if isinstance(part, types.CodeType):
        fixed = part.co_code, part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars
        counts = part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags
        return f"{fixed}{counts}{part.co_exceptiontable!r}{_text(part.co_consts)}"
    if isinstance(part, type | types.BuiltinFunctionType):
        return f"{part.__module__}.{part.__qualname__}"
    if isinstance(part, ModuleReference | types.ModuleType):
        return type(part).__name__
    return repr(part)
