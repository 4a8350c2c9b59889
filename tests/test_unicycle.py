"""Unicycles in formation against a rollout step by step, differentiated by complex steps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, create
from estimators.base.differentiation import Loss
from tests.support.formations import Numbers, complex_step, formation_problem, goal, loss

hessian: Any = torch.autograd.functional.hessian  # they have no types
jacobian: Any = torch.autograd.functional.jacobian
WEIGHT = "1.weight"
TASK = "unicycle(agents=2, horizon=4)"
DT = 0.2


def positions(start: Numbers, controls: Numbers) -> Numbers:
    """Positions of one agent after each step, in a loop over steps."""
    (x, y), (along, across) = start[:2], start[2:]
    speed, heading = np.hypot(along, across), np.arctan2(across, along)
    path = []
    for acceleration, turn in controls:
        heading, speed = heading + DT * turn, speed + DT * acceleration
        x, y = x + DT * speed * np.cos(heading), y + DT * speed * np.sin(heading)
        path.append([x, y])
    return np.array(path)


def slopes(target: object, controls: Numbers) -> Numbers:
    """The gradient in the controls [M, 2N] by hand, analytic in them; no differentiation."""
    which = goal(target)
    agents, horizon = len(controls), controls.shape[1] // 2
    paths = [
        positions(start, own.reshape(-1, 2))
        for start, own in zip(which.start, controls, strict=True)
    ]
    places = np.array(paths) - which.offsets[:, None]
    q, r, rho = which.weights
    pull = q * (np.array(paths) - which.reference)
    pull = pull + rho * (places - places.mean(0))
    gradient: Numbers = r * controls
    for agent in range(agents):
        own = controls[agent].reshape(-1, 2)
        vx, vy = which.start[agent, 2:]
        speed, heading = np.hypot(vx, vy), np.arctan2(vy, vx)
        for t in range(horizon):
            v = speed + DT * own[: t + 1, 0].sum()
            h = heading + DT * own[: t + 1, 1].sum()
            later = pull[agent, t:].sum(0)  # all that the step at t moves
            forward, sideways = np.array([np.cos(h), np.sin(h)]), np.array([-np.sin(h), np.cos(h)])
            for s in range(t + 1):
                gradient[agent, 2 * s] += DT**2 * (later @ forward)
                gradient[agent, 2 * s + 1] += DT**2 * v * (later @ sideways)
    return gradient


def own_hessian(problem: object, controls: Numbers) -> Numbers:
    shape = controls.shape

    def gradient(flat: Numbers) -> Numbers:
        return slopes(problem, flat.reshape(shape)).reshape(-1)

    return complex_step(gradient, controls.reshape(-1))


def test_losses_are_those_of_a_rollout_step_by_step() -> None:
    problem, params = formation_problem(TASK, check=True)
    for each in (problem.inner_loss, problem.outer_loss):
        value = loss(positions, goal(each), params[WEIGHT].numpy().T)
        assert float(each(params)) == pytest.approx(value, rel=1e-13)


def test_gradients_and_hessians_are_those_of_complex_steps() -> None:
    problem, params = formation_problem(TASK, index=1)
    controls = params[WEIGHT].numpy().T
    for each in (problem.inner_loss, problem.outer_loss):

        def value(flat: Numbers, each: Loss = each) -> Numbers:
            return loss(positions, goal(each), flat.reshape(controls.shape))

        def own(flat: Tensor, each: Loss = each) -> Tensor:
            return each({WEIGHT: flat.reshape(controls.shape).T})

        exact = complex_step(value, controls.reshape(-1))
        by_hand = slopes(each, controls.astype(complex)).real.reshape(-1)
        np.testing.assert_allclose(by_hand, exact, rtol=0, atol=1e-13 * np.abs(exact).max())
        flat = torch.from_numpy(controls.copy()).reshape(-1)
        gradient = jacobian(own, flat)
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-13 * np.abs(exact).max())
        exact = own_hessian(each, controls)
        np.testing.assert_allclose(hessian(own, flat), exact, atol=1e-12 * np.abs(exact).max())


def test_the_meta_gradient_is_that_of_complex_steps_through_the_loop() -> None:
    for steps in (0, 1, 5):
        problem, params = formation_problem(TASK, depth=steps, index=2)
        controls = params[WEIGHT].numpy().T

        def adapted_loss(flat: Numbers, problem: BilevelProblem = problem) -> Numbers:
            moved = flat.reshape(2, -1)
            for _ in range(problem.steps):
                moved = moved - problem.alpha * slopes(problem.inner_loss, moved)
            return loss(positions, goal(problem.outer_loss), moved)

        exact = complex_step(adapted_loss, controls.reshape(-1))
        gradient = create("maml")(problem, params).gradient[WEIGHT].numpy().T.reshape(-1)
        error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
        assert error <= 1e-12, steps


def test_the_inner_hessian_varies_and_is_indefinite_at_the_start() -> None:
    lowest = []
    for index in range(4):
        problem, params = formation_problem("unicycle", depth=5, index=index)
        *_, last = problem.trajectory(params)
        ends = [
            hessian(lambda weight, p=problem: p.inner_loss({WEIGHT: weight}), phi[WEIGHT].detach())
            for phi in (params, last)
        ]
        assert float((ends[0] - ends[1]).norm() / ends[0].norm()) > 0.1
        lowest.append(float(torch.linalg.eigvalsh(ends[0].reshape(60, 60))[0]))
    assert max(lowest) < 0
