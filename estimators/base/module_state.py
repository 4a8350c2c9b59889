"""What a module holds: other tensors in its parameters' places, and what may not change later."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from difflib import get_close_matches
from operator import is_
from threading import RLock
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import checkpoint

from estimators.base.errors import OptionError
from estimators.base.tree import Params

_Place = tuple[dict[str, Tensor | None], str]
_PLAIN = Tensor | bool | int | float | str | None
Snapshot = tuple[list[object], list[int]]
"""Values, and of tensors a version, which every write counts up."""


class ModuleState:
    """The state of a module: where its parameters and buffers are, and what else it reads.

    Tied tensors have several names and places, and are one parameter. It belongs to the module as
    it is built now, and holds none of it but what the module holds itself.

    Args:
        module: left as it is.
        lock: held while the module has other tensors; its own where another thread may look.

    Raises:
        OptionError: the module's parameters cannot be replaced by other tensors.
    """

    def __init__(
        self, module: nn.Module, lock: AbstractContextManager[object] | None = None
    ) -> None:
        _refuse_wrappers(module)
        self._lock = lock or RLock()
        self._parts = {name: vars(part) for name, part in module.named_modules()}
        self._types = {name: type(part).__name__ for name, part in module.named_modules()}
        self._built = self._build()
        self._places: dict[str, list[_Place]] = {}
        self._first_names: dict[str, str] = {}
        self._buffers: dict[str, _Place] = {}
        shared: dict[int, tuple[str, list[_Place]]] = {}
        for prefix, part in module.named_modules(remove_duplicate=False):
            for name, (tensors, leaf) in _entries(prefix, part):
                first, places = shared.setdefault(id(tensors[leaf]), (name, []))
                if not any(held is tensors and at == leaf for held, at in places):
                    places.append((tensors, leaf))
                self._places[name], self._first_names[name] = places, first
                if tensors is part._buffers and name == first:
                    self._buffers[name] = tensors, leaf
        self._own: Params = dict(module.named_parameters())
        self._watched = [  # what a forward pass may read: numbers, texts, flags and tensors
            (part, name)
            for part, attributes in self._parts.items()
            for name, value in attributes.items()
            if name not in _STANDARD and isinstance(value, _PLAIN)
        ]

    def fits(self) -> bool:
        """Return whether the module is still built as it was."""
        return self._built == self._build()

    def _build(self) -> list[int]:
        inside = ("_modules", "_parameters", "_buffers")
        return [
            number
            for attributes in self._parts.values()
            for number in (
                len(attributes),
                *[id(value) for kind in inside for value in attributes[kind].values()],
            )
        ]

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether each part is in training mode."""
        return tuple([attributes["training"] for attributes in self._parts.values()])

    @property
    def parameters(self) -> Params:
        """The module's own parameters by name, frozen ones included."""
        return self._own

    def buffers(self) -> Params:
        """Return copies of the module's buffers, by name."""
        with self._lock:
            return {name: held[at].clone() for name, (held, at) in self._buffers.items()}  # type: ignore[union-attr]

    @contextmanager
    def filled(self, tensors: Mapping[str, Tensor], *, alone: bool = True) -> Generator[None]:
        """Put tensors in the places of parameters and buffers while a block runs.

        What `torch.func.functional_call` does, without its search for tied weights at each call.
        Activation checkpoints find the same tensors when they compute again, later.

        Args:
            tensors: by name; the module's own stand in for the others.
            alone: keep other threads from the module meanwhile.

        Raises:
            OptionError: a name is unknown.
        """
        if torch.compiler.is_compiling():
            with self._swapped(tensors):
                yield
            return
        token = _filling.set((self, tensors))
        try:
            with self._lock if alone else nullcontext(), self._swapped(tensors):
                yield
        finally:
            _filling.reset(token)

    @contextmanager
    def _swapped(self, tensors: Mapping[str, Tensor]) -> Generator[None]:
        before: list[tuple[dict[str, Tensor | None], str, Tensor | None]] = []
        try:
            for name, tensor in tensors.items():
                for held, leaf in self._places.get(name) or self._unknown(name):
                    before.append((held, leaf, held[leaf]))
                    held[leaf] = tensor
            yield
        finally:
            for held, leaf, own in reversed(before):
                held[leaf] = own

    def check_names(self, params: Mapping[str, Tensor]) -> None:
        """Refuse parameters that are not the module's, and any that are missing or misshapen.

        Args:
            params: theta.

        Raises:
            OptionError: names the parameter.
        """
        given = set()
        for name, value in params.items():
            first = self._first_names.get(name) or self._unknown(name)
            own = self._own.get(first)
            if own is None:
                raise OptionError(f"{name!r} is a buffer, no parameter: theta is trainable(module)")
            if value.shape != own.shape:
                raise OptionError(
                    f"parameter {name!r} has shape {tuple(value.shape)}, which in the module is "
                    f"{tuple(own.shape)}"
                )
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
        """Return the attributes and frozen parameters, and of tensors a version."""
        values: list[object] = [self._parts[part].get(name) for part, name in self._watched]
        values += [None if value.requires_grad else value for value in self._own.values()]
        return values, [value._version if isinstance(value, Tensor) else 0 for value in values]

    def changed(self, since: Snapshot) -> list[tuple[str, str]]:
        """Return the names of part and attribute of what is not as in a snapshot."""
        now = self.snapshot()
        if all(map(is_, since[0], now[0])) and since[1] == now[1]:
            return []
        own = [name.rpartition(".")[::2] for name in self._own]
        return [
            at
            for at, was, value, *versions in zip(
                self._watched + own, since[0], now[0], since[1], now[1], strict=True
            )
            if at in self._watched or None not in (was, value)  # frozen, or no longer, since then
            if not _alike(was, value) or versions[0] != versions[1]
        ]

    def title(self, part: str) -> str:
        """Return the words for a part of the module, such as "LSTM 'rnn'"."""
        return f"{self._types[part]} {part!r}"

    def _unknown(self, name: str) -> NoReturn:
        near = get_close_matches(name, self._places, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join([*self._places][:8])}"
        raise OptionError(f"the module has no parameter {name!r}; {hint}")


def _alike(one: object, other: object) -> bool:
    tensors = isinstance(one, Tensor) or isinstance(other, Tensor)
    return one is other or (not tensors and one == other)


def state_of(module: nn.Module) -> ModuleState:
    """Return the state of a module; the same object for as long as the module is built alike.

    Args:
        module: left as it is.

    Raises:
        OptionError: see `ModuleState`.
    """
    state = _states.get(module)
    if state is None:
        state = _states[module] = ModuleState(module)
    with state._lock:
        if not state.fits():
            state = _states[module] = ModuleState(module, state._lock)
    return state


_states: WeakKeyDictionary[nn.Module, ModuleState] = WeakKeyDictionary()


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
            if getattr(tensors[key], "_backward_hooks", None):
                raise OptionError(
                    f"parameter {leaf!r} has a hook on its gradient, which estimators would leave "
                    "out: do what it does in the criterion or in the outer optimiser"
                )
            if is_lazy(tensors[key]):  # type: ignore[arg-type]
                raise OptionError(
                    f"lazy parameter {leaf!r} has no shape yet: call the module once on a batch"
                )


def _entries(prefix: str, part: nn.Module) -> Generator[tuple[str, _Place]]:
    for tensors in (part._parameters, part._buffers):
        for leaf, tensor in tensors.items():
            if tensor is not None:
                yield (f"{prefix}.{leaf}" if prefix else leaf), (tensors, leaf)  # type: ignore


_STANDARD = frozenset(vars(nn.Module()))


_filling: ContextVar[tuple[ModuleState, Mapping[str, Tensor]] | None] = ContextVar(
    "filling", default=None
)
_begin_checkpoint: Any = getattr(checkpoint, "_checkpoint_without_reentrant_generator", None)


def _checkpoint_that_refills(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Begin an activation checkpoint whose recomputation finds the tensors of the forward pass."""
    filling = _filling.get()
    if filling is None:
        return _begin_checkpoint(function, *args, **kwargs)
    state, tensors = filling

    def again(*inputs: Any, **options: Any) -> Any:
        with state.filled(tensors):
            return function(*inputs, **options)

    return _begin_checkpoint(again, *args, **kwargs)


# Autograd computes a checkpoint again in the backward pass, when a module has its own parameters
# back. torch has no public way to say what holds then; where it changes this one, the check of
# problems refuses such modules.
if _begin_checkpoint is not None:
    setattr(checkpoint, _begin_checkpoint.__name__, _checkpoint_that_refills)
