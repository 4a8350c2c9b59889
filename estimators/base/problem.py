"""The bilevel problem that every estimator differentiates, and its inner loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.base.attention import plain_attention
from estimators.base.differentiation import Loss, gradient_at, value_and_gradient
from estimators.base.errors import OptionError
from estimators.base.phases import Phase, phase
from estimators.base.tree import Params, axpy, leaves, require_gradients


class State(NamedTuple):
    """A state of the inner loop.

    Attributes:
        params: phi_k.
        velocity: v_k, the direction of the step that led here; empty without momentum.
        step: k.
    """

    params: Params
    velocity: Params
    step: int = 0


@dataclass(frozen=True)
class BilevelProblem:
    r"""Adaptation by gradient descent on one loss, and a second loss that evaluates it.

    phi_0 = theta,  v_{k+1} = mu v_k + grad inner_loss(phi_k),  phi_{k+1} = phi_k - alpha v_{k+1},
    k = 0..K-1; the meta-gradient is d outer_loss(phi_K) / d theta. Plain gradient descent, which
    every estimator is made for, has one number alpha and mu = 0.

    Attributes:
        inner_loss: loss on the support set; maps `dict[str, Tensor]` to a scalar tensor, the same
            at every call: estimators evaluate it more than once at a point.
        outer_loss: loss on the query set; likewise.
        step_size: alpha: a positive number, or for each parameter a tensor of its shape, or of
            one that broadcasts to it (Meta-SGD: Li et al. 2017, arXiv 1707.09835).
        steps: K >= 0, the depth.
        momentum: mu, 0 <= mu < 1.

    Raises:
        OptionError: a number is out of its range.

    Example:
        >>> import torch
        >>> loss = lambda params: (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.1, steps=2)
        >>> [round(phi["w"].item(), 2) for phi in problem.trajectory({"w": torch.ones(1)})]
        [1.0, 0.8, 0.64]
    """

    inner_loss: Loss
    outer_loss: Loss
    step_size: float | Params
    steps: int
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.step_size, dict):
            if not all(isinstance(size, Tensor) for size in self.step_size.values()):
                raise OptionError("a step_size by parameter must be a dict of tensors")
        elif not isinstance(self.step_size, Real) or isinstance(self.step_size, bool):
            kind = type(self.step_size).__name__
            raise OptionError(f"step_size must be a number or a dict of tensors, not a {kind}")
        elif not 0 < self.step_size < inf:
            raise OptionError(f"step_size={self.step_size} must be positive and finite")
        else:
            object.__setattr__(self, "step_size", float(self.step_size))
        if not isinstance(self.steps, Integral) or isinstance(self.steps, bool):
            raise OptionError(f"steps={self.steps!r} must be a whole number")
        if self.steps < 0:
            raise OptionError(f"steps={self.steps} must be 0 or more")
        object.__setattr__(self, "steps", int(self.steps))
        if not isinstance(self.momentum, Real) or not 0 <= self.momentum < 1:
            raise OptionError(f"momentum={self.momentum!r} must be 0 or more and below 1")
        object.__setattr__(self, "momentum", float(self.momentum))

    @property
    def plain(self) -> bool:
        """Whether the inner loop is plain gradient descent with one step size."""
        return not isinstance(self.step_size, dict) and not self.momentum

    @property
    def alpha(self) -> float:
        """The one step size of plain gradient descent.

        Raises:
            OptionError: the inner loop is not plain gradient descent.
        """
        if isinstance(self.step_size, dict) or self.momentum:
            raise OptionError("the inner loop is not plain gradient descent with one step size")
        return self.step_size

    def start(self, params: Params) -> State:
        """Return the state before the first step."""
        if not self.momentum:
            return State(params, {})
        return State(params, {name: torch.zeros_like(value) for name, value in params.items()})

    def states(self, params: Params) -> Iterator[State]:
        """Return the state after 0, ..., K steps; each step's graph is freed before the next.

        Args:
            params: theta; left as it is.

        Returns:
            States whose parameters require a gradient and share no graph.
        """
        return self.states_from(self.start(params))

    def states_from(self, state: State) -> Iterator[State]:
        """Yield a state, and those after 1, ..., K further steps; see `states`.

        Args:
            state: left as it is.
        """
        state = state._replace(params=leaves(state.params))
        yield state
        step = phase(Phase.INNER_LOOP)
        for _ in range(self.steps):
            with step:
                state = self._next(state, create_graph=False)
                require_gradients(state.params)
            yield state

    def trajectory(self, params: Params) -> Iterator[Params]:
        """Yield phi_0, ..., phi_K as leaves; each step's graph is freed before the next.

        Args:
            params: theta; left as it is.

        Yields:
            Parameters that require a gradient and share no graph.
        """
        for state in self.states(params):
            yield state.params

    def adapt(self, params: Params) -> Params:
        """Return phi_K; no iterate but the last is kept.

        Args:
            params: theta; left as it is.
        """
        return self.end(params)

    def end(self, params: Params) -> Params:
        """Return the last of `trajectory`; an inner map's auxiliary entries are among it.

        Args:
            params: theta; left as it is.
        """
        for phi in self.trajectory(params):
            end = phi
        return end

    def unroll(self, state: State, steps: int) -> State:
        """Take `steps` inner steps and keeps the graph through all of them.

        Args:
            state: where to start; its parameters require a gradient.
            steps: how many steps.

        Returns:
            The state after the last step, differentiable with respect to the first.
        """
        with plain_attention():  # here once, not at each step
            step = phase(Phase.INNER_LOOP)
            for _ in range(steps):
                with step:
                    state = self._next(state, create_graph=True)
        return state

    def outer_gradient(self, params: Params) -> tuple[Tensor, Params]:
        """Return the outer loss, detached, and its gradient g.

        Args:
            params: where, such as phi_K; they require a gradient.
        """
        with phase(Phase.OUTER_GRADIENT):
            return value_and_gradient(self.outer_loss, params)

    def _next(self, state: State, *, create_graph: bool) -> State:
        """Take an inner step; without a graph, to tensors that nobody else refers to."""
        slopes = gradient_at(self.inner_loss, state.params, create_graph=create_graph)
        if create_graph:
            return self._step(state, slopes)
        with torch.set_grad_enabled(False):  # a third of the time of `no_grad`
            return self._step(state, slopes)

    def _step(self, state: State, gradient: Params) -> State:
        direction = axpy(self.momentum, state.velocity, gradient) if self.momentum else gradient
        velocity = direction if self.momentum else {}
        if isinstance(self.step_size, dict):
            sizes = self.step_size
            moved = {n: value - sizes[n] * direction[n] for n, value in state.params.items()}
            return State(moved, velocity, state.step + 1)
        moved = axpy(-self.step_size, direction, state.params)
        return State(moved, velocity, state.step + 1)
