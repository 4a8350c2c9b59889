"""Bilevel problems of an `nn.Module`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from estimators.base.errors import OptionError
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, detached

Batch = tuple[Tensor, Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ModuleLoss:
    """Loss of a module on one batch, as a function of its parameters.

    Attributes:
        module: called through `torch.func.functional_call`; its own parameters stand in for those
            that a call is not given: the frozen ones.
        criterion: maps the module's outputs and the targets to a scalar tensor.
        batch: inputs and targets.
        buffers: the module's, by name; each call gets copies, so that one does not change the
            next.
    """

    module: nn.Module
    criterion: Criterion
    batch: Batch
    buffers: Params = field(default_factory=dict)

    def __call__(self, params: Params) -> Tensor:
        """Return the scalar loss at `params`."""
        inputs, targets = self.batch
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        return self.criterion(functional_call(self.module, buffers | params, (inputs,)), targets)


def module_problem(
    module: nn.Module,
    criterion: Criterion,
    support: Batch,
    query: Batch,
    *,
    step_size: float | Params,
    steps: int,
    momentum: float = 0.0,
) -> BilevelProblem:
    """Return the problem of adapting a module to a support set, judged by a query set.

    Args:
        module: maps inputs to outputs; left as it is.
        criterion: maps outputs and targets to a scalar tensor, as `torch.nn.functional.mse_loss`.
        support: inputs and targets to adapt to.
        query: inputs and targets of the outer loss.
        step_size: see `BilevelProblem`.
        steps: K.
        momentum: see `BilevelProblem`.

    Raises:
        OptionError: a normalisation layer would change its running statistics at every call, or
            a dropout layer would draw anew.

    Example:
        >>> import torch
        >>> from estimators import create
        >>> model, mse = torch.nn.Linear(2, 1), torch.nn.functional.mse_loss
        >>> batch = torch.ones(4, 2), torch.zeros(4, 1)
        >>> problem = module_problem(model, mse, batch, batch, step_size=0.1, steps=3)
        >>> create("maml")(problem, trainable(model)).gradient["weight"].shape
        torch.Size([1, 2])
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
            raise OptionError(
                f"{type(layer).__name__} {name!r} keeps running statistics, which every inner "
                "step would change: build it with track_running_stats=False, or call .eval() on it"
            )
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise OptionError(
                f"{type(layer).__name__} {name!r} draws anew at every call, and estimators take "
                "gradient and curvature of one step in several: call .eval() on it"
            )
    buffers = dict(module.named_buffers())
    return BilevelProblem(
        ModuleLoss(module, criterion, support, buffers),
        ModuleLoss(module, criterion, query, buffers),
        step_size,
        steps,
        momentum,
    )


def trainable(module: nn.Module) -> Params:
    """Return the parameters of a module that require a gradient, by name, detached."""
    return detached({name: p for name, p in module.named_parameters() if p.requires_grad})
