"""Unicycles in formation against a rollout step by step, differentiated by complex steps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, MapProblem, Params, create
from estimators.base.differentiation import Loss
from estimators.base.tree import detached
from tests.support.formations import Numbers, complex_step, formation_problem, goals, joined, loss
from tests.support.oracle import central_difference

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


def slopes(goal: Any, controls: Numbers) -> Numbers:
    """The gradient in the controls [M, 2N] by hand, analytic in them; no differentiation."""
    agents, horizon = len(controls), controls.shape[1] // 2
    paths = [
        positions(start, own.reshape(-1, 2))
        for start, own in zip(goal.start, controls, strict=True)
    ]
    places = np.array(paths) - goal.offsets[:, None]
    q, r, rho = goal.weights
    pull = q * (np.array(paths) - goal.reference)
    pull = pull + rho * (places - places.mean(0))
    gradient: Numbers = r * controls
    for agent in range(agents):
        own = controls[agent].reshape(-1, 2)
        vx, vy = goal.start[agent, 2:]
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


def own_hessian(goal: Any, controls: Numbers) -> Numbers:
    shape = controls.shape

    def gradient(flat: Numbers) -> Numbers:
        return slopes(goal, flat.reshape(shape)).reshape(-1)

    return complex_step(gradient, controls.reshape(-1))


def test_losses_are_those_of_a_rollout_step_by_step() -> None:
    problem, params = formation_problem(TASK, check=True)
    for each, goal in zip((problem.inner_loss, problem.outer_loss), goals(TASK), strict=True):
        value = loss(positions, goal, params[WEIGHT].numpy().T)
        assert float(each(params)) == pytest.approx(value, rel=1e-13)


def test_gradients_and_hessians_are_those_of_complex_steps() -> None:
    problem, params = formation_problem(TASK, index=1)
    controls = params[WEIGHT].numpy().T
    losses = problem.inner_loss, problem.outer_loss
    for each, goal in zip(losses, goals(TASK, 1), strict=True):

        def value(flat: Numbers, goal: Any = goal) -> Numbers:
            return loss(positions, goal, flat.reshape(controls.shape))

        def own(flat: Tensor, each: Loss = each) -> Tensor:
            return each({WEIGHT: flat.reshape(controls.shape).T})

        exact = complex_step(value, controls.reshape(-1))
        by_hand = slopes(goal, controls.astype(complex)).real.reshape(-1)
        np.testing.assert_allclose(by_hand, exact, rtol=0, atol=1e-13 * np.abs(exact).max())
        flat = torch.from_numpy(controls.copy()).reshape(-1)
        gradient = jacobian(own, flat)
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-13 * np.abs(exact).max())
        exact = own_hessian(goal, controls)
        np.testing.assert_allclose(hessian(own, flat), exact, atol=1e-12 * np.abs(exact).max())


def test_the_meta_gradient_is_that_of_complex_steps_through_the_loop() -> None:
    for steps in (0, 1, 5):
        problem, params = formation_problem(TASK, depth=steps, index=2)
        controls = params[WEIGHT].numpy().T

        def adapted_loss(flat: Numbers, problem: BilevelProblem = problem) -> Numbers:
            (inner, outer), moved = goals(TASK, 2), flat.reshape(2, -1)
            for _ in range(problem.steps):
                moved = moved - problem.alpha * slopes(inner, moved)
            return loss(positions, outer, moved)

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


ILQR = "unicycle(agents=2, horizon=4, inner='ilqr')"


def driven(state: Numbers, control: Numbers) -> Numbers:
    """Position, speed and heading of one agent after a step."""
    x, y, speed, heading = state
    speed, heading = speed + DT * control[0], heading + DT * control[1]
    return np.array(
        [x + DT * speed * np.cos(heading), y + DT * speed * np.sin(heading), speed, heading]
    )


def rolled_out(states: Numbers, controls: Numbers) -> list[Numbers]:
    """States of all agents [M, 4], before the first step and after each."""
    found = [states]
    for now in controls.swapaxes(0, 1):
        found.append(np.array([driven(*each) for each in zip(found[-1], now, strict=True)]))
    return found


def first_states(goal: Any) -> Numbers:
    along, across = goal.start[:, 2:].T
    motion = np.stack([np.hypot(along, across), np.arctan2(across, along)], axis=1)
    return np.concatenate([goal.start[:, :2], motion], axis=1)


def quadratic_model(
    goal: Any, states: Numbers, controls: Numbers, change: Numbers
) -> tuple[Numbers, Numbers]:
    """Matrix and vector of the loss's model in changes of controls [M, n, 2] of the last n steps.

    Positions are linearised at a trajectory that begins at `states`, in the controls and in the
    change of that state; derivatives by complex steps.
    """
    agents, steps = controls.shape[:2]
    q, r, rho = goal.weights

    def places(x: Numbers) -> Numbers:
        own = x[: 4 * agents].reshape(agents, 4), x[4 * agents :].reshape(agents, steps, 2)
        path = np.stack(rolled_out(*own)[1:], axis=1)
        return np.asarray(path[..., :2]).reshape(-1)

    point = np.concatenate([states.reshape(-1), controls.reshape(-1)])
    slopes = complex_step(places, point)
    moved = places(point).reshape(agents, steps, 2)
    moved = moved + (slopes[:, : 4 * agents] @ change.reshape(-1)).reshape(moved.shape)
    apart = np.kron(np.eye(agents) - 1 / agents, np.eye(2 * steps))
    off = (moved - goal.reference[:, -steps:]).reshape(-1)
    gap = apart @ (moved - goal.offsets[:, None]).reshape(-1)
    gamma = slopes[:, 4 * agents :]
    one = np.eye(2 * agents * steps)
    matrix = gamma.T @ (q * np.eye(len(gamma)) + rho * apart) @ gamma + r * one
    return matrix, gamma.T @ (q * off + rho * gap) + r * controls.reshape(-1)


def ilqr(goal: Any, controls: Numbers) -> Numbers:
    """A sweep as control by lookahead: each step begins the best plan of the linearised rest."""
    agents, horizon = len(controls), controls.shape[1] // 2
    controls = controls.reshape(agents, horizon, 2)
    before = rolled_out(first_states(goal), controls)
    state, chosen = before[0], []
    for t in range(horizon):
        rest = controls[:, t:]
        matrix, vector = quadratic_model(goal, before[t], rest, state - before[t])
        change = -np.linalg.solve(matrix, vector).reshape(rest.shape)
        chosen.append(rest[:, 0] + change[:, 0])
        state = np.array([driven(*each) for each in zip(state, chosen[-1], strict=True)])
    return np.stack(chosen, axis=1).reshape(agents, -1)


def test_a_sweep_of_ilqr_is_the_best_policy_of_the_linearised_dynamics() -> None:
    for index in range(3):
        problem, params = formation_problem(ILQR, "controls", index=index)
        assert isinstance(problem, MapProblem)
        (inner, _), controls = goals(TASK, index), params["controls"].numpy()
        for _ in range(3):
            moved = problem.inner_map(params, 0)
            controls = ilqr(inner, controls)
            np.testing.assert_allclose(moved["controls"], controls, rtol=0, atol=1e-11)
            assert torch.equal(moved["log_weights"], params["log_weights"])
            params = moved


def test_weights_of_a_sweep_are_those_of_the_model() -> None:
    problem, params = formation_problem(ILQR, "controls")
    assert isinstance(problem, MapProblem)
    logs = torch.tensor([0.5, -0.3, 0.7], dtype=torch.float64)
    moved = problem.inner_map(params | {"log_weights": logs}, 0)["controls"]
    inner, _ = goals(TASK)
    weighted = inner._replace(weights=inner.weights * np.exp(logs.numpy()))
    np.testing.assert_allclose(moved, ilqr(weighted, params["controls"].numpy()), atol=1e-11)


def test_ilqr_converges_to_where_the_inner_gradient_vanishes() -> None:
    for index in range(1, 4):
        problem, params = formation_problem(
            "unicycle(inner='ilqr')", "controls", depth=20, index=index
        )
        controls = problem.adapt(params)["controls"].detach().numpy()
        inner, _ = goals("unicycle", index)
        start = np.linalg.norm(slopes(inner, params["controls"].numpy()))
        assert np.linalg.norm(slopes(inner, controls)) < 1e-8 * start


def test_the_jacobian_of_ilqr_at_a_minimiser_is_identity_less_a_newton_quotient() -> None:
    problem, params = formation_problem(ILQR, "controls", depth=40, index=1)
    assert isinstance(problem, MapProblem)
    found, inner_map = detached(problem.adapt(params)), problem.inner_map
    controls, (inner, _) = found["controls"].numpy(), goals(TASK, 1)
    own = jacobian(lambda u: inner_map(found | {"controls": u}, 0)["controls"], found["controls"])
    states, size = first_states(inner), controls.size
    matrix, _ = quadratic_model(inner, states, controls.reshape(2, -1, 2), 0 * states)
    exact = np.eye(size) - np.linalg.solve(matrix, own_hessian(inner, controls))
    np.testing.assert_allclose(own.reshape(size, size), exact, rtol=0, atol=1e-7)
    assert np.abs(np.linalg.eigvals(exact)).max() < 0.5


def test_the_meta_gradient_through_ilqr_is_that_of_finite_differences() -> None:
    problem, params = formation_problem(ILQR, "controls", depth=3)
    shape = params["controls"].shape

    def adapted_loss(theta: Tensor) -> float:
        moved = {"controls": theta[:-3].reshape(shape), "log_weights": theta[-3:]}
        with torch.no_grad():
            return float(problem.outer_loss(problem.adapt(moved)))

    theta = torch.from_numpy(joined(params))
    exact = central_difference(adapted_loss, theta, torch.eye(len(theta)).double())
    for name in ("maml", "adjoint", "binom(order=3)", "truncated(order=3)"):
        gradient = joined(create(name)(problem, params).gradient)
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-7 * float(exact.abs().max()))


def test_the_linearised_loss_has_the_hessian_of_gauss_and_newton() -> None:
    for task in (TASK, ILQR):
        problem, params = formation_problem(task, "controls", index=1)
        assert isinstance(problem, MapProblem)
        assert problem.linearised is not None
        linearised, (inner, _) = problem.linearised(params), goals(TASK, 1)
        value = problem.inner_loss(params)
        torch.testing.assert_close(linearised(params), value, rtol=1e-13, atol=0)
        controls, states = params["controls"].numpy().reshape(2, -1, 2), first_states(inner)
        matrix, vector = quadratic_model(inner, states, controls, 0 * states)

        def of_controls(u: Tensor, loss: Loss = linearised, theta: Params = params) -> Tensor:
            return loss(theta | {"controls": u})

        found = hessian(of_controls, params["controls"]).reshape(matrix.shape)
        np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-11)
        slope = jacobian(of_controls, params["controls"]).reshape(-1)
        np.testing.assert_allclose(slope, vector, rtol=0, atol=1e-11)
