"""What a case is: a module, a loss, data, and whether it is to be right or refused."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from estimators.base.module_loss import Batch

law: Any = torch.distributions  # which bears no types
Draw = Callable[[torch.Generator], Tensor]
Loss = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """A module whose forward is a function of itself; tensors among its parts are buffers."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self._function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Any:
        return self._function(self, inputs)


def normal(*shape: int) -> Draw:
    return lambda source: torch.randn(*shape, generator=source, dtype=torch.float64)


def whole(high: int, *shape: int) -> Draw:
    return lambda source: torch.randint(high, shape, generator=source)


def positive(*shape: int) -> Draw:
    return lambda source: 0.2 + torch.rand(*shape, generator=source, dtype=torch.float64)


def shares(*shape: int) -> Draw:
    return lambda source: normal(*shape)(source).softmax(-1)


def signs(*shape: int) -> Draw:
    return lambda source: normal(*shape)(source).sign()


def classes(*labels: int) -> Draw:
    return lambda _: torch.tensor(labels)


NUMBERS = normal(6)
VECTORS, SEQUENCES, TOKENS = normal(6, 3), normal(4, 5, 3), whole(7, 4, 5)
SIGNALS, IMAGES, VOLUMES = normal(4, 2, 8), normal(4, 2, 6, 6), normal(2, 2, 4, 4, 4)


def fit(outputs: Tensor, targets: Tensor) -> Any:
    """Regress on a weighted mean of all outputs, of whatever shape; the weights have no pattern."""
    flat = outputs.flatten(1)
    width = flat.shape[1]
    weights = torch.cos(3.0 * torch.arange(1, width + 1, dtype=flat.dtype)) / width**0.5
    return (flat @ weights - targets[: len(flat)]).square().mean()


@dataclass(frozen=True)
class Case:
    """A module and its loss.

    Attributes:
        build: the module.
        inputs: draws the inputs of a batch.
        targets: draws its targets.
        loss: the criterion, made for a module, as it may hold it.
        refused: what the message has to match, where the case must be refused; all of several.
        way_out: whether `hf-maml`, which needs no second derivative, must be right all the same.
        held: a parameter with a row that is never trained.
        flat: the second derivative is zero, so that a first-order estimate is right.
        step_size: alpha.
    """

    build: Callable[[], nn.Module]
    inputs: Draw
    targets: Draw = NUMBERS
    loss: Callable[[Any], Loss] = lambda _: fit
    refused: tuple[str, ...] = ()
    way_out: bool = False
    held: tuple[str, int] | None = None
    flat: bool = False
    step_size: float = 0.1


def before(version: str, *refused: str) -> tuple[str, ...]:
    """Return what a refusal has to match where torch is older; nothing where it can be right."""
    return refused if torch.__version__ < version else ()


def layer(
    build: Callable[[], nn.Module], inputs: Draw = VECTORS, *refused: str, **more: Any
) -> Case:
    """Return a case of a module, which any loss will do for."""
    return Case(build, inputs, refused=refused, **more)


def loss(criterion: Loss, targets: Draw, outputs: int = 2, *refused: str, **more: Any) -> Case:
    """Return a case of a loss, which a small network will do for."""
    return Case(partial(mlp, outputs), VECTORS, targets, lambda _: criterion, refused, **more)


def penalty(criterion: Callable[[Any], Loss], *refused: str, **more: Any) -> Case:
    """Return a case of a loss that is made for the module."""
    return Case(mlp, VECTORS, normal(6, 2), criterion, refused, **more)


def mlp(outputs: int = 2, activation: nn.Module | None = None) -> nn.Sequential:
    """Return a network of four hidden units, with a copy of an activation."""
    middle = deepcopy(activation) if activation else nn.Tanh()
    return nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, outputs))


@dataclass(frozen=True)
class Example:
    """A case with its module, at a theta where no kink is, and its data."""

    case: Case
    module: nn.Module
    criterion: Loss
    support: Batch
    query: Batch

    @classmethod
    def of(cls, case: Case, dtype: torch.dtype = torch.float64) -> "Example":
        """Draw the parameters and the data: the same numbers in any precision."""
        source = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = case.build().double()
            with torch.no_grad():
                for p in module.parameters():
                    if not is_lazy(p):
                        p.add_(torch.randn(p.shape, generator=source, dtype=p.dtype), alpha=0.2)
            module = module.to(dtype) if dtype == torch.float32 else module
            criterion = case.loss(module)
        support, query = (_batch(case, source, dtype) for _ in range(2))
        return cls(case, module, criterion, support, query)

    def after(self, theta: list[Tensor], steps: int) -> tuple[float, Tensor]:
        """Descend as one would by hand, within the module itself.

        Returns:
            The outer loss after `steps` steps, and its gradient there: first derivatives only.
        """
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        with self._kept(parameters):
            for parameter, value in zip(parameters, theta, strict=True):
                parameter.data.copy_(value)
            for _ in range(steps):
                slopes = self._gradient(parameters, self.support)[1]
                for parameter, slope in zip(parameters, slopes, strict=True):
                    parameter.data -= self.case.step_size * slope
            outer_loss, slopes = self._gradient(parameters, self.query)
        return outer_loss, torch.cat([slope.reshape(-1) for slope in slopes])

    def _gradient(self, parameters: list[nn.Parameter], batch: Batch) -> tuple[float, list[Tensor]]:
        value = self.criterion(self.module(batch[0]), batch[1])
        slopes = torch.autograd.grad(value, parameters, materialize_grads=True)
        dense = [slope.to_dense() if slope.is_sparse else slope for slope in slopes]
        return float(value), dense

    @contextmanager
    def _kept(self, parameters: list[nn.Parameter]) -> Generator[None]:
        before = [parameter.detach().clone() for parameter in parameters]
        try:
            yield
        finally:
            for parameter, value in zip(parameters, before, strict=True):
                parameter.data.copy_(value)


def _batch(case: Case, source: torch.Generator, dtype: torch.dtype) -> Batch:
    inputs, targets = case.inputs(source), case.targets(source)
    return _typed(inputs, dtype), _typed(targets, dtype)


def _typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    return data.to(dtype) if data.is_floating_point() else data
