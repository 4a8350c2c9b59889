"""Double integrators in formation: closed forms, options, and what each loss is made of."""

import math
import pickle
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from estimators import OptionError, create
from harness.models import MODELS
from harness.tasks import TASKS
from harness.tasks.trajectory import Trajectory
from tests.support.formations import Numbers, complex_step, formation_problem, goal, loss

WEIGHT = "1.weight"
SETTINGS = (
    "trajectory",
    "trajectory(agents=1, horizon=4)",
    "trajectory(agents=2, horizon=1)",
    "trajectory(agents=4, horizon=6, rho=30.0, dt=0.1, tracking=5.0, effort=3.0)",
    "trajectory(agents=2, horizon=3, rho=0.0)",
)


def integrator(horizon: int, dt: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phi [2N, 4] and Gamma [2N, 2N] of positions, by powers of the transition matrix."""
    one, zero = np.eye(2), np.zeros((2, 2))
    transition = np.block([[one, dt * one], [zero, one]])
    entry = np.concatenate([0.5 * dt**2 * one, dt * one])
    place = np.concatenate([one, zero], axis=1)
    power = np.linalg.matrix_power
    phi = np.concatenate([place @ power(transition, t + 1) for t in range(horizon)])
    gamma = np.block(
        [
            [place @ power(transition, t - s) @ entry if s <= t else zero for s in range(horizon)]
            for t in range(horizon)
        ]
    )
    return phi, gamma


def positions(family: Trajectory, start: Numbers, controls: Numbers) -> Numbers:
    phi, gamma = integrator(family.horizon, family.dt)
    return (phi @ start + gamma @ controls.reshape(-1)).reshape(-1, 2)


def quadratic_form(family: Trajectory, goal: Any, weights: Numbers) -> tuple[Numbers, Numbers]:
    """H and b, where H u + b is a loss's gradient in the controls of all agents."""
    m, size = family.agents, 2 * family.horizon
    phi, gamma = (np.kron(np.eye(m), part) for part in integrator(family.horizon, family.dt))
    apart = np.kron(np.eye(m) - 1 / m, np.eye(size))
    drift = phi @ goal.start.reshape(-1)
    places = np.repeat(goal.offsets, family.horizon, axis=0).reshape(-1)
    q, r, rho = weights
    hessian = gamma.T @ (q * np.eye(m * size) + rho * apart) @ gamma + r * np.eye(m * size)
    pull = q * (drift - goal.reference.reshape(-1)) + rho * apart @ (drift - places)
    return hessian, gamma.T @ pull


def test_the_meta_gradient_has_its_closed_form() -> None:
    for task in SETTINGS:
        family = TASKS.create(task)
        assert isinstance(family, Trajectory)
        for steps in (0, 1, 5, 20):
            problem, params = formation_problem(task, depth=steps)
            inner, outer = goal(problem.inner_loss), goal(problem.outer_loss)
            hessian, slope = quadratic_form(family, inner, inner.weights)
            controls = params[WEIGHT].numpy().T.reshape(-1)
            for _ in range(steps):
                controls = controls - problem.alpha * (hessian @ controls + slope)
            shrinkage = np.eye(len(controls)) - problem.alpha * hessian
            hessian, slope = quadratic_form(family, outer, outer.weights)
            exact = np.linalg.matrix_power(shrinkage, steps) @ (hessian @ controls + slope)
            gradient = create("maml")(problem, params).gradient[WEIGHT].numpy().T.reshape(-1)
            error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            assert error <= 1e-12, (task, steps)


def test_losses_are_those_of_the_formula() -> None:
    for task in SETTINGS:
        family = TASKS.create(task)
        assert isinstance(family, Trajectory)
        problem, params = formation_problem(task, check=True)
        for each in (problem.inner_loss, problem.outer_loss):
            value = loss(partial(positions, family), goal(each), params[WEIGHT].numpy().T)
            assert float(each(params)) == pytest.approx(value, rel=1e-13), task


def test_the_documented_curvature_is_that_of_the_hessian() -> None:
    for family in (Trajectory(), Trajectory(2, 20), Trajectory(horizon=5, rho=40.0, dt=0.4)):
        targets: Any = family.sample(0).support[1]
        arrays = targets._make(part.numpy() for part in targets)
        largest = np.linalg.eigvalsh(quadratic_form(family, arrays, arrays.weights)[0])[-1]
        strength = ((family.horizon + 0.5) * family.dt) ** 4 / 12.4
        documented = family.effort + (family.tracking + family.rho) * strength
        assert largest == pytest.approx(documented, rel=0.05)
        if family == Trajectory():
            assert family.step_size * largest == pytest.approx(0.48, abs=0.005)


def test_factors_on_weights_count_in_the_inner_loss_only() -> None:
    family = Trajectory(agents=2, horizon=4)
    problem, params = formation_problem("trajectory(agents=2, horizon=4)", "controls", check=True)
    logs = np.array([0.5, -1.0, 2.0])
    moved = params | {"log_weights": torch.from_numpy(logs)}
    controls = params["controls"].numpy()

    def expected(target: object, logs: Numbers) -> float:
        return float(loss(partial(positions, family), goal(target), controls, logs))

    inner, outer = problem.inner_loss, problem.outer_loss
    assert float(inner(moved)) == pytest.approx(expected(inner, logs), rel=1e-13)
    assert float(inner(moved)) != pytest.approx(expected(inner, 0 * logs), rel=0.1)
    assert torch.equal(outer(moved), outer(params))
    assert float(outer(params)) == pytest.approx(expected(outer, logs), rel=1e-13)


def test_the_meta_gradient_of_weights_is_that_of_the_loop_on_the_controls() -> None:
    family, steps = Trajectory(agents=2, horizon=3), 4
    problem, params = formation_problem("trajectory(agents=2, horizon=3)", "controls", depth=steps)
    inner, outer = goal(problem.inner_loss), goal(problem.outer_loss)
    shape = params["controls"].shape

    def adapted_loss(theta: Numbers) -> Numbers:
        controls, logs = theta[:-3], theta[-3:]
        hessian, slope = quadratic_form(family, inner, inner.weights * np.exp(logs))
        for _ in range(steps):
            controls = controls - problem.alpha * (hessian @ controls + slope)
        return loss(partial(positions, family), outer, controls.reshape(shape))

    theta = np.concatenate([params["controls"].numpy().reshape(-1), np.zeros(3)])
    exact = complex_step(adapted_loss, theta)
    result = create("anil(head='controls')")(problem, params)
    gradient = np.concatenate(
        [result.gradient[name].numpy().reshape(-1) for name in ("controls", "log_weights")]
    )
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    assert float(result.gradient["log_weights"].abs().min()) > 0


def test_adaptation_lowers_the_loss_that_judges_it() -> None:
    losses = []
    for index in range(20):
        problem, params = formation_problem("trajectory", depth=20, index=index)
        losses.append([problem.outer_loss(phi).item() for phi in problem.trajectory(params)])
    first, *_, last = np.mean(losses, axis=0)
    assert last < 0.5 * first


def test_tasks_follow_from_seed_and_split() -> None:
    def numbers(seed: int, split: str = "train") -> bytes:
        task = Trajectory().sample(seed, split)
        return b"".join(part.numpy().tobytes() for part in (*task.support[1], *task.query[1]))

    assert numbers(3) == numbers(3)
    assert len({numbers(3), numbers(4), numbers(3, "test"), numbers(3, "validation")}) == 4
    task = Trajectory().sample(0)
    assert torch.equal(task.support[0], torch.eye(3, dtype=torch.float64))
    assert {part.dtype for part in task.support[1]} == {torch.float64}
    again = pickle.loads(pickle.dumps(task))
    assert torch.equal(again.query[1].reference, task.query[1].reference)  # type: ignore[attr-defined]


def test_wrong_options_are_refused_in_one_line() -> None:
    for name in ("trajectory", "unicycle"):
        for options, message in (
            ("agents=0", "agents=0 must be 1 or more"),
            ("horizon=-1", "horizon=-1 must be 1 or more"),
            ("horizon=2.5", "horizon=2.5"),
            ("rho=-0.5", "rho=-0.5 must be 0 or more"),
            ("rho=1e999", "rho=inf"),
            ("tracking=-1", "tracking=-1.0 must be positive"),
            ("effort=0", "effort=0.0 must be positive"),
            ("dt=0", "dt=0.0 must be positive"),
            ("agent=2", "did you mean agents?"),
        ):
            with pytest.raises(OptionError, match=re.escape(message)) as caught:
                TASKS.create(f"{name}({options})")
            assert "\n" not in str(caught.value)
            assert str(caught.value).startswith(f"{name}: "), options
    with pytest.raises(OptionError, match="dt=nan"):
        Trajectory(dt=math.nan)


def test_controls_are_of_these_families_only() -> None:
    with pytest.raises(OptionError, match="controls"):
        MODELS.create("controls").build(TASKS.create("sinusoid"), seed=0)
    module = MODELS.create("controls").build(TASKS.create("trajectory(horizon=4)"), seed=0)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert shapes == {"controls": (3, 8), "log_weights": (3,)}
    assert not module.get_parameter("log_weights").any()
