"""What the parts of a module do in one evaluation of a loss: to name the one that is at fault."""

import random
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

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
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Generator):
                states.append(value.get_state().numpy().tobytes())
    return states
