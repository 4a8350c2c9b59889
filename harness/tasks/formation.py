"""Trajectory optimisation by several agents: the parts that its families share."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from math import inf, pi
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import jacrev

from estimators import BilevelProblem, MapProblem, Params, frozen, trainable
from estimators.base.differentiation import Loss
from estimators.base.errors import OptionError
from harness.tasks.task import Batch, Task, TaskFamily, split_number, uniform

CONTROLS, FACTORS = "controls", "log_weights"
"""Names of the parameters of the model `controls`."""


class Goal(NamedTuple):
    """What the controls of M agents are judged by; the targets of a batch.

    Attributes:
        start: positions and velocities, [M, 4].
        reference: positions to be at after each step, [M, N, 2].
        offsets: d_i, places within the formation, [M, 2].
        weights: q, r and rho, [3].
        learned: 1 where the model's own factors on the weights count, 0 where they do not; [].
    """

    start: Tensor
    reference: Tensor
    offsets: Tensor
    weights: Tensor
    learned: Tensor


@dataclass(frozen=True)
class Formation(TaskFamily):
    """Steer agents along references and in formation, by N controls each.

    Attributes:
        agents: M.
        horizon: N, the number of controls of an agent.
        dt: time step, in seconds.
        tracking: q, weight of the distance to the reference.
        effort: r, weight of the controls.
        rho: weight of the distance to the formation.
        inner: "descent", or the solver that makes the inner steps.
        family: its name, for messages.
        solver: the name of its solver.

    Raises:
        OptionError: an option is out of its range.
    """

    agents: int = 3
    horizon: int = 10
    dt: float = 0.2
    tracking: float = 10.0
    effort: float = 1.0
    rho: float = 10.0
    inner: str = "descent"

    family: ClassVar[str]
    solver: ClassVar[str]

    def __post_init__(self) -> None:
        for option in ("agents", "horizon"):
            if getattr(self, option) < 1:
                raise OptionError(
                    f"{self.family}: {option}={getattr(self, option)} must be 1 or more"
                )
        for option in ("dt", "tracking", "effort"):
            if not 0 < getattr(self, option) < inf:
                raise OptionError(
                    f"{self.family}: {option}={getattr(self, option)} must be positive and finite"
                )
        if not 0 <= self.rho < inf:
            raise OptionError(f"{self.family}: rho={self.rho} must be 0 or more, and finite")
        if self.inner not in ("descent", self.solver):
            raise OptionError(
                f'{self.family}: inner={self.inner!r} is neither "descent" nor "{self.solver}"'
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row of the identity: which agent it is."""
        return (self.agents,)

    @property
    def outputs(self) -> int:
        """The N controls of an agent, two numbers each."""
        return 2 * self.horizon

    @abstractmethod
    def positions(self, start: Tensor, controls: Tensor) -> Tensor:
        """Return where the agents are after each step, [M, N, 2].

        Args:
            start: positions and velocities, [M, 4].
            controls: [M, N, 2].
        """

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`.

        The agents start near their places in a formation whose centre sets out at a speed of .5 to
        1.5 in any direction, and turns at -1 to 1 rad/s. The controls are optimised for one such
        rate, and judged by another that differs by up to .3 rad/s; an agent's references lie up to
        .3 beside its place, and differ too.

        Inputs are the identity, float64 [agents, agents]; targets a `Goal`. The query's has r = 0,
        and leaves out the model's own factors.
        """
        m = self.agents
        draws = 2 * uniform((seed, split_number(split)), 4 + 10 * m) - 1
        heading, speed, rate, change = draws[:4] * (pi, 0.5, 1.0, 0.3) + (0.0, 1.0, 0.0, 0.0)
        offsets, near, motion, *drifts = draws[4:].reshape(5, m, 2)
        headings, speeds = heading + 0.5 * motion[:, 0], speed + 0.4 * motion[:, 1]
        velocities = speeds * np.stack([np.cos(headings), np.sin(headings)])
        start = np.concatenate([offsets + 0.5 * near, velocities.T], axis=1)

        def batch(rate: float, drift: NDArray[np.float64], effort: float, learned: float) -> Batch:
            headings = heading + rate * self.dt * np.arange(1, self.horizon + 1)
            steps = self.dt * speed * np.stack([np.cos(headings), np.sin(headings)], axis=1)
            reference = (offsets + 0.3 * drift)[:, None] + np.cumsum(steps, axis=0)
            weights = np.array([self.tracking, effort, self.rho])
            parts = (start, reference, offsets, weights, np.array(learned))
            targets: Any = Goal(*(torch.from_numpy(part) for part in parts))
            return torch.eye(m, dtype=torch.float64, device="cpu"), targets

        return Task(
            batch(rate, drifts[0], self.effort, learned=1.0),
            batch(rate + change, drifts[1], 0.0, learned=0.0),
        )

    def loss(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Any) -> Tensor:
        """The sum of the family, with the weights of a goal.

        Args:
            outputs: controls [M, 2N]; or these and the logarithms of factors on q, r and rho [3].
            targets: a `Goal`.
        """
        goal: Goal = targets
        controls, factors = outputs if isinstance(outputs, tuple) else (outputs, None)
        weights = goal.weights if factors is None else weights_of(goal, factors)
        controls = self.by_step(controls)
        return _cost(goal, weights, controls, self.positions(goal.start, controls))

    def problem(
        self, module: nn.Module, task: Task, *, step_size: float, steps: int, check: bool = False
    ) -> BilevelProblem:
        """See `TaskFamily.problem`.

        The model `controls` has the parameters `controls` and `log_weights`; the inner loop leaves
        the latter alone, as hyperparameters. Other models are adapted by gradient descent, with all
        their parameters.

        Raises:
            OptionError: a solver was asked for and the model is another, or with a step size.
        """
        inner_goal: Any
        (_, inner_goal), (_, outer_goal) = task.support, task.query
        of_controls = [*trainable(module)] == [CONTROLS, FACTORS]
        if self.inner == "descent":
            problem = super().problem(module, task, step_size=step_size, steps=steps, check=check)
            if not of_controls:
                return problem
            linearised = partial(self.linearised, inner_goal)
            return replace(frozen(problem, [FACTORS]), linearised=linearised)
        if not of_controls:
            raise OptionError(
                f"{self.family}: inner={self.inner!r} computes controls, not weights of a network; "
                "use the model controls"
            )
        if step_size != self.step_size:
            raise OptionError(
                f"{self.family}: inner={self.inner!r} has no step size; leave out {step_size}"
            )
        return MapProblem(
            partial(self._loss_at, inner_goal),
            partial(self._loss_at, outer_goal),
            steps=steps,
            inner_map=lambda params, _: params | self.sweep(inner_goal, params),
            auxiliary=self.auxiliary(inner_goal),
            frozen=(FACTORS,),
            linearised=partial(self.linearised, inner_goal),
        )

    @abstractmethod
    def sweep(self, goal: Goal, params: Params) -> Params:
        """Return the entries that one sweep of the solver moves, differentiably in all of them.

        What diverges is not finite, and raises no error.

        Args:
            goal: of the inner loss.
            params: the model's parameters and the auxiliary entries.
        """

    def auxiliary(self, goal: Goal) -> Params:
        """Return the solver's further entries, at their start; see `MapProblem`.

        Args:
            goal: of the inner loss.
        """
        del goal
        return {}

    def linearised(self, goal: Goal, params: Params) -> Loss:
        """Return the loss of `controls` with positions linearised in the controls at a point.

        Its Hessian there is that of Gauss and Newton.

        Args:
            goal: of the loss.
            params: the point.
        """
        point = self.by_step(params[CONTROLS].detach())
        there = self.positions(goal.start, point)
        slopes = jacrev(partial(self.positions, goal.start))(point).flatten(3)

        def loss(params: Params) -> Tensor:
            controls = self.by_step(params[CONTROLS])
            positions = there + slopes @ (controls - point).flatten()
            return _cost(goal, weights_of(goal, params[FACTORS]), controls, positions)

        return loss

    def by_step(self, controls: Tensor) -> Tensor:
        """Return controls [M, 2N] as [M, N, 2].

        Args:
            controls: step after step.
        """
        return controls.reshape(self.agents, self.horizon, 2)

    def _loss_at(self, goal: Any, params: Params) -> Tensor:
        return self.loss((params[CONTROLS], params[FACTORS]), goal)


def weights_of(goal: Goal, factors: Tensor) -> Tensor:
    """Return q, r and rho times a model's own factors, where these count; [3].

    Args:
        goal: has the weights.
        factors: logarithms, [3].
    """
    return goal.weights * torch.exp(goal.learned * factors)


def _cost(goal: Goal, weights: Tensor, controls: Tensor, positions: Tensor) -> Tensor:
    places = positions - goal.offsets.unsqueeze(1)
    squares = [
        (positions - goal.reference).square().sum(),
        controls.square().sum(),
        (places - places.mean(0)).square().sum(),
    ]
    return 0.5 * (weights * torch.stack(squares)).sum()
