"""What the parts of a module do in one evaluation of a loss: to name the one that is at fault."""

import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from estimators.base.differentiation import Loss
from estimators.base.module_loss import ModuleLoss
from estimators.base.tree import Params


class Call(NamedTuple):
    """A call of a part of the module.

    Attributes:
        part: its name; "" is the module itself.
        inputs: positional.
        outputs: the tensors among them.
        drew: whether it, or a part of it, has drawn random numbers.
    """

    part: str
    inputs: tuple[Any, ...]
    outputs: list[Tensor]
    drew: bool


def record_calls(loss: ModuleLoss, params: Params) -> list[Call]:
    """Evaluate a loss and return the calls in the order in which they ended: inner ones first."""
    calls: list[Call] = []
    begun: list[object] = []

    def before(_part: nn.Module, _inputs: object) -> None:
        begun.append(generator_states(loss.module))

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def record(_part: nn.Module, inputs: tuple[Any, ...], outputs: object) -> None:
            drew = begun.pop() != generator_states(loss.module)
            calls.append(Call(name, inputs, tensors(outputs), drew))

        return record

    hooks = []
    for name, part in loss.module.named_modules():
        hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after(name))]
    try:
        loss(params)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def tensors(data: object) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)]


def generator_states(module: nn.Module) -> list[object]:
    """Return the states of all generators that a module may draw from, to compare."""
    states: list[object] = [torch.get_rng_state().numpy().tobytes(), random.getstate()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    if "numpy" in sys.modules:
        states.append(str(sys.modules["numpy"].random.get_state(legacy=False)["state"]))
    states += [each.get_state().numpy().tobytes() for each in _own_generators(module)]
    return states


@contextmanager
def generators_kept(module: nn.Module) -> Generator[None]:
    """Put all generators that a module may draw from back where they were, if a block fails."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    states = torch.cuda.get_rng_state_all() if used else []
    own = [(each, each.get_state()) for each in [torch.default_generator, *_own_generators(module)]]
    state, numpy = random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
    except BaseException:
        for generator, before in own:
            generator.set_state(before)
        if used:
            torch.cuda.set_rng_state_all(states)
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
        raise


def _own_generators(module: nn.Module) -> list[torch.Generator]:
    values = (value for part in module.modules() for value in vars(part).values())
    return [value for value in values if isinstance(value, torch.Generator)]


class _Coarsest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the coarsest floating-point type that operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: torch.dtype = torch.float64

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors(result):
            if tensor.is_floating_point() and tensor.dtype.itemsize < self.found.itemsize:
                self.found = tensor.dtype
        return result


def lowest_precision(loss: Loss, params: Params) -> torch.dtype:
    """Return the coarsest type that a loss computes in."""
    mode = _Coarsest()
    with torch.no_grad(), mode:
        loss(params)
    return mode.found
