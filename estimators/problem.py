"""The bilevel problem that every estimator differentiates, and its inner loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from estimators.errors import OptionError
from estimators.tree import Params, leaves

Loss = Callable[[Params], Tensor]


def evaluate(loss: Loss, params: Params) -> Tensor:
    """Evaluates a loss and checks that it can be used.

    Args:
        loss: maps parameters to a scalar tensor.
        params: where.

    Raises:
        OptionError: the loss is not a scalar; or it is not differentiable in the parameters,
            while gradients are enabled.
    """
    value = loss(params)
    if value.dim() != 0:
        raise OptionError(f"a loss must be a scalar tensor, not of shape {tuple(value.shape)}")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise OptionError("a loss must be differentiable in the parameters that it is given")
    return value


def value_and_gradient(
    loss: Loss, params: Params, *, create_graph: bool = False
) -> tuple[Tensor, Params]:
    """Evaluates a loss and its gradient.

    Args:
        loss: maps parameters to a scalar tensor.
        params: tensors that require a gradient.
        create_graph: keep the gradient differentiable, for Hessian-vector products.

    Returns:
        The scalar loss (detached unless `create_graph`) and the gradient, keyed and shaped as
        `params`; zero for a parameter that the loss does not use.

    Raises:
        OptionError: the loss is not a scalar, or does not depend on the parameters at all.
    """
    value = evaluate(loss, params)
    tensors = list(params.values())
    grads = torch.autograd.grad(value, tensors, create_graph=create_graph, materialize_grads=True)
    return (value if create_graph else value.detach()), dict(zip(params, grads, strict=True))


@dataclass(frozen=True)
class BilevelProblem:
    r"""Adapt by gradient descent on one loss, be judged by another.

    phi_0 = theta,  phi_{k+1} = phi_k - alpha * grad inner_loss(phi_k),  k = 0..K-1;
    the meta-gradient is d outer_loss(phi_K) / d theta.

    Attributes:
        inner_loss: loss on the support set; maps `dict[str, Tensor]` to a scalar tensor.
        outer_loss: loss on the query set; likewise.
        step_size: alpha > 0, the same for all parameters.
        steps: K >= 0, the depth.

    Raises:
        OptionError: the step size is not positive, or the depth is negative.

    Example:
        >>> import torch
        >>> loss = lambda params: (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.1, steps=2)
        >>> [round(phi["w"].item(), 2) for phi in problem.trajectory({"w": torch.ones(1)})]
        [1.0, 0.8, 0.64]
    """

    inner_loss: Loss
    outer_loss: Loss
    step_size: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.step_size < inf:
            raise OptionError(f"step_size={self.step_size} must be positive and finite")
        if self.steps < 0:
            raise OptionError(f"steps={self.steps} must be 0 or more")

    def trajectory(self, params: Params) -> Iterator[Params]:
        """Yields phi_0, ..., phi_K as leaves; each step's graph is freed before the next.

        Args:
            params: theta; left as it is.

        Yields:
            Parameters that require a gradient and share no graph.
        """
        current = leaves(params)
        yield current
        for _ in range(self.steps):
            _, grads = value_and_gradient(self.inner_loss, current)
            current = leaves(_descend(current, grads, self.step_size))
            yield current

    def unroll(self, params: Params, steps: int) -> Params:
        """Takes `steps` inner steps and keeps the graph through all of them.

        Args:
            params: where to start; tensors that require a gradient.
            steps: how many steps.

        Returns:
            The parameters after the last step, differentiable with respect to `params`.
        """
        current = params
        for _ in range(steps):
            _, grads = value_and_gradient(self.inner_loss, current, create_graph=True)
            current = _descend(current, grads, self.step_size)
        return current


def _descend(params: Params, grads: Params, step_size: float) -> Params:
    return {name: torch.sub(value, grads[name], alpha=step_size) for name, value in params.items()}
