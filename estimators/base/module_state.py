"""What a module holds: other tensors in its parameters' places, and what may not change later."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from operator import is_, itemgetter
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from estimators.base.errors import OptionError
from estimators.base.module_filling import LOCK, Filled, Place, refuse_name
from estimators.base.references import PLAIN, STANDARD, is_same, is_watched, version
from estimators.base.tree import Params

_Attribute = tuple[str, str]  # name of the part, name of the attribute
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_FILLED = ("_parameters", "_modules")
_CONTAINERS = (*_FILLED, "_buffers", *_HOOKS)
_Reader = Callable[[dict[str, Any]], tuple[Any, ...]]


Kind = tuple[object, ...]
"""Hashable: what problems have in common that one check of them is enough for."""
Snapshot = dict[_Attribute, tuple[object, object]]
"""Attributes and frozen parameters with a version: what every write to a tensor or list changes."""


class ModuleState:
    """The state of a module: where its parameters and buffers are, and what else it reads.

    Tied tensors have several names and places, and are one parameter. It belongs to the module as
    it is built now, and keeps no module alive.

    Args:
        module: left as it is.

    Raises:
        OptionError: the module's parameters cannot be replaced by other tensors.

    Attributes:
        structure: names of parts, parameters and buffers, each with its first name.
        checked_kinds: of loss that were found right.
        last_seen: returns what `seen_of` has returned, for as long as anybody has it.
        written_by_forward: attributes that a forward pass changes.
    """

    def __init__(self, module: nn.Module) -> None:
        _refuse_wrappers(module)
        parts = dict(module.named_modules())
        self._parts = {name: ref(part) for name, part in parts.items()}
        self._types = {name: type(part).__name__ for name, part in parts.items()}
        self._built = self._build()
        self._counts = [len(vars(part)) for part in parts.values()]
        self._places: dict[str, list[Place]] = {}
        self._first_names: dict[str, str] = {}
        self._buffers: dict[str, Place] = {}
        self._copies: dict[str, tuple[Tensor, object, Tensor]] = {}
        shared: dict[int, tuple[str, list[Place]]] = {}
        first_parts: dict[int, str] = {}
        for prefix, part in module.named_modules(remove_duplicate=False):
            first_parts.setdefault(id(part), prefix)
            for name, (tensors, leaf) in _entries(prefix, part):
                first, places = shared.setdefault(id(tensors[leaf]), (name, []))
                if not any(held is tensors and at == leaf for held, at in places):
                    places.append((tensors, leaf))
                self._places[name], self._first_names[name] = places, first
                if tensors is part._buffers and name == first:
                    self._buffers[name] = tensors, leaf
        every = module.named_modules(remove_duplicate=False)
        self.structure = (
            tuple([(name, first_parts[id(part)]) for name, part in every]),
            tuple(self._first_names.items()),
        )
        self._own: Params = dict(module.named_parameters())
        self._watched = [
            (name, attribute)
            for name, part in parts.items()
            for attribute, value in vars(part).items()
            if is_watched(attribute, value)
        ]
        objects = {
            n: vars(p).keys() - STANDARD - {a for m, a in self._watched if m == n}
            for n, p in parts.items()
        }
        self._objects = [(name, sorted(names)) for name, names in objects.items() if names]
        read: dict[str, list[str]] = {name: [*_CONTAINERS, "training"] for name in parts}
        for name, attribute in self._watched:
            read[name].append(attribute)
        self._readers = [(itemgetter(*names), ref(parts[name])) for name, names in read.items()]
        self.checked_kinds: set[Kind] = set()
        self.last_seen: Callable[[], Seen | None] = lambda: None
        self.written_by_forward: set[_Attribute] = set()

    def fits(self) -> bool:
        """Return whether the module still has the same parts and parameters."""
        modules, tensors = self._build()
        return (
            len(modules) == len(self._built[0])
            and all(was() is now() for was, now in zip(self._built[0], modules, strict=True))
            and len(tensors) == len(self._built[1])
            and all(map(is_, self._built[1], tensors))
        )

    def has_all(self) -> bool:
        """Return whether no part was given further attributes."""
        return [len(self._vars(part)) for part in self._parts] == self._counts

    def _build(self) -> tuple[list[ref[nn.Module]], list[object]]:
        """Return parts, and parameters with the names of buffers."""
        modules: list[ref[nn.Module]] = []
        rest: list[object] = []
        with LOCK:
            for part in self._parts:
                held = self._vars(part)
                modules += [ref(child) for child in held["_modules"].values() if child is not None]
                rest += held["_parameters"].values()
                rest += [name for name, value in held["_buffers"].items() if value is not None]
        return modules, rest

    def _vars(self, part: str) -> dict[str, Any]:
        module = self._parts[part]()
        return (
            {"_modules": {}, "_parameters": {}, "_buffers": {}} if module is None else vars(module)
        )

    @property
    def settings(self) -> tuple[object, ...]:
        """Modes, hooks and plain attributes: what makes a module another function."""
        held = [self._vars(part) for part in self._parts]
        modes = [attributes.get("training") for attributes in held]
        hooks = [len(attributes.get(kind, ())) for attributes in held for kind in _HOOKS]
        plain = [
            bool(value) if isinstance(value, float) else value  # one that is annealed is no other
            for part, name in self._watched
            if (part, name) not in self.written_by_forward
            and isinstance(value := self._vars(part).get(name), PLAIN)
        ]
        counts = [len(attributes) for attributes in held]
        return (*modes, *counts, *hooks, *plain)

    def parts(self) -> list[nn.Module]:
        """Return the parts, each once."""
        parts = [part() for part in self._parts.values()]
        return [part for part in parts if part is not None]

    def hooks(self) -> list[object]:
        """Return the functions that are called with parts."""
        every = [self._vars(part).get(kind, {}) for part in self._parts for kind in _HOOKS]
        return [hook for hooks in every for hook in hooks.values()]

    def objects(self) -> list[dict[str, object]]:
        """Return for each part that has any what code may reach besides `attributes`, by name."""
        return [{n: self._vars(part).get(n) for n in names} for part, names in self._objects]

    def attributes(self) -> list[object]:
        """Return what a forward pass may read besides parameters and buffers."""
        return [self._vars(part).get(name) for part, name in self._watched]

    @property
    def parameters(self) -> Params:
        """The module's own parameters by name, frozen ones included."""
        return self._own

    def buffers(self, *, shared: bool) -> Params:
        """Return copies of the module's buffers, by name.

        Args:
            shared: whether to return the same copy until the buffer changes.
        """
        found = {}
        with LOCK:
            for name, (held, leaf) in self._buffers.items():
                buffer: Any = held[leaf]
                kept = self._copies.get(name)
                if (
                    not shared
                    or kept is None
                    or kept[0] is not buffer
                    or kept[1] != buffer._version
                ):
                    kept = self._copies[name] = buffer, version(buffer), buffer.clone()
                found[name] = kept[2]
        return found

    def filled(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Put tensors in the places of parameters and buffers while a block runs.

        What `torch.func.functional_call` does, without its search for tied weights at each call.
        Other threads wait. Activation checkpoints find the same tensors when they compute again.

        Args:
            tensors: by name; the module's own stand in for the others.

        Raises:
            OptionError: a name is unknown.
        """
        return Filled(self._places, tensors)

    def check_names(self, params: Mapping[str, Tensor]) -> None:
        """Refuse parameters that are not the module's, and any that are missing or misshapen.

        Args:
            params: theta.

        Raises:
            OptionError: names the parameter.
        """
        given = set()
        for name, value in params.items():
            first = self._first_names.get(name) or refuse_name(name, self._places)
            own = self._own.get(first)
            if own is None:
                raise OptionError(f"{name!r} is a buffer, no parameter: theta is trainable(module)")
            if value.shape != own.shape:
                raise OptionError(
                    f"parameter {name!r} has shape {tuple(value.shape)}, which in the module is "
                    f"{tuple(own.shape)}"
                )
            if first in given:
                raise OptionError(f"{name!r} and {first!r} are one parameter, tied: give it once")
            given.add(first)
        if len(given) < len(self._own):
            rest = [name for name in self._own if name not in given]
            missing = [name for name in rest if self._own[name].requires_grad]
            if missing:
                raise OptionError(
                    f"parameter {missing[0]!r} is missing: theta has a tensor for each that "
                    "requires a gradient; freeze those that shall stay by requires_grad_(False)"
                )

    def snapshot(self) -> Snapshot:
        """Return what a forward pass may read besides other parameters and buffers."""
        held = {at: self._vars(at[0]).get(at[1]) for at in self._watched}
        held |= {_split(n): value for n, value in self._own.items() if not value.requires_grad}
        return {at: (value, version(value)) for at, value in held.items()}

    def readers(self) -> list[tuple[_Reader, nn.Module]]:
        """Return the parts, and what reads the containers and watched attributes of each."""
        parts = [(read, part()) for read, part in self._readers]
        return [(read, part) for read, part in parts if part is not None]

    def changed(self, since: Snapshot) -> list[_Attribute]:
        """Return what is not as in a snapshot."""
        now = self.snapshot()
        found = [at for at in since if at in now and not is_same(since[at], now[at])]
        for part, count in zip(self._parts, self._counts, strict=True):
            attributes = self._vars(part)
            if len(attributes) != count:
                names = [name for name, value in attributes.items() if is_watched(name, value)]
                found += [(part, name) for name in names if (part, name) not in now]
        return found

    @contextmanager
    def attributes_kept(self) -> Generator[None]:
        """Put attributes back after a block: a table that is made at the first call, say."""
        before = [(held := self._vars(part), dict(held)) for part in self._parts]
        lists = [(v, [*v]) for _, kept in before for v in kept.values() if isinstance(v, list)]
        try:
            yield
        finally:
            for items, kept_items in lists:
                items[:] = kept_items
            for held, kept in before:
                for name in held.keys() - kept.keys():
                    del held[name]
                held.update(kept)

    @contextmanager
    def attributes_of(self, snapshot: Snapshot) -> Generator[None]:
        """Have attributes as in a snapshot for a block; what was written in place stays so."""
        with self.attributes_kept():
            known = set(self._watched)
            for part, name in self.changed(snapshot):
                held = self._vars(part)
                if (part, name) in known:
                    held[name] = snapshot[part, name][0]
                elif name not in held["_parameters"]:
                    del held[name]
            yield

    def title(self, part: str) -> str:
        """Return the words for a part of the module, such as "LSTM 'rnn'"."""
        return f"{self._types[part]} {part!r}" if part else f"the module ({self._types[part]})"


class Seen:
    """A module as it was at a moment; problems that are made while it stays so share the object.

    Attributes:
        state: of the module.
        snapshot: see `ModuleState.snapshot`.
        passed: kinds of problem that were found right while the module was so.
    """

    def __init__(self, state: ModuleState) -> None:
        self.state = state
        self.passed: set[Kind] = set()
        readers = state.readers()
        self._parts = [part for _, part in readers]
        self._attributes = [(read, vars(part)) for read, part in readers]
        every = [vars(part) for part in self._parts]
        self._dictionaries = every + [held[n] for held in every for n in _CONTAINERS if n in held]
        self._filled = [held[name] for held in every for name in _FILLED if held[name]]
        self._buffers = [held["_buffers"] for held in every if held["_buffers"]]
        self._parameters = [*state.parameters.values()]
        self._objects, self._others = self._look()
        self.snapshot = state.snapshot()
        mutable = [seen for seen in self.snapshot.values() if not isinstance(seen[0], PLAIN)]
        self._mutable = [value for value, _ in mutable]
        self._versions = [before for _, before in mutable]

    def is_current(self) -> bool:
        """Return whether the module is as it was for certain, by a look at less than `changed`.

        The same objects are in the same places, and have the same versions. So it still `fits`,
        nothing has `changed`, and its `settings` are those of then.
        """
        objects, others = self._look()
        return (
            len(objects) == len(self._objects)
            and others == self._others
            and all(map(is_, objects, self._objects))
            and [*map(version, self._mutable)] == self._versions
        )

    def _look(self) -> tuple[list[object], list[object]]:
        """Return objects that changes replace, and lengths, flags and names that they change.

        Of the dictionaries of back then, which are still the module's if they are among the
        objects of now.
        """
        with LOCK:
            objects: list[object] = [*map(vars, self._parts)]
            try:
                for read, attributes in self._attributes:
                    objects += read(attributes)
            except KeyError:  # one was deleted
                return [], [object()]
            for held in self._filled:
                objects += held.values()
            others: list[object] = [*map(len, self._dictionaries)]
            others += [parameter.requires_grad for parameter in self._parameters]
            for buffers in self._buffers:
                others += [name for name, value in buffers.items() if value is not None]
        return objects, others


def seen_of(module: nn.Module) -> Seen:
    """Return what a module is now.

    Args:
        module: left as it is.

    Raises:
        OptionError: see `ModuleState`.
    """
    known = _states.get(id(module))
    last = known[1].last_seen() if known is not None and known[0]() is module else None
    if last is not None and last.is_current():
        return last
    state = state_of(module)
    seen = Seen(state)
    state.last_seen = ref(seen)
    return seen


def state_of(module: nn.Module) -> ModuleState:
    """Return the state of a module; the same object for as long as the module is built alike.

    Args:
        module: left as it is.

    Raises:
        OptionError: see `ModuleState`.
    """
    if not isinstance(module, nn.Module):
        what = module.__name__ if isinstance(module, type) else f"a {type(module).__name__}"
        raise OptionError(f"expected an nn.Module, not {what}")
    known = _states.get(id(module))  # not by equality, which a module may define
    if known is not None and known[0]() is module and known[1].fits() and known[1].has_all():
        return known[1]
    with LOCK:
        state = ModuleState(module)
    key = id(module)
    _states[key] = ref(module, lambda _: _states.pop(key, None)), state
    return state


_states: dict[int, tuple[ref[nn.Module], ModuleState]] = {}


def _refuse_wrappers(module: nn.Module) -> None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise OptionError(f"{type(module).__name__}: pass the module that it wraps, .module")
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise OptionError(f"{name or 'the module'!r} is a script: pass the nn.Module it is of")
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            raise OptionError(
                "the module is compiled, and torch.compile has no second derivatives: pass the "
                "module itself, and compiled=True to an estimator"
            )
        for leaf, (tensors, key) in _entries(name, part):
            if is_lazy(tensors[key]):  # type: ignore[arg-type]
                raise OptionError(
                    f"lazy parameter {leaf!r} has no shape yet: call the module once on a batch"
                )


def _entries(prefix: str, part: nn.Module) -> Generator[tuple[str, Place]]:
    for tensors in (part._parameters, part._buffers):
        for leaf, tensor in tensors.items():
            if tensor is not None:
                yield (f"{prefix}.{leaf}" if prefix else leaf), (tensors, leaf)  # type: ignore


def _split(name: str) -> _Attribute:
    part, _, leaf = name.rpartition(".")
    return part, leaf
