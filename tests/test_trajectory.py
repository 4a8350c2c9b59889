"""Double integrators in formation: closed forms, options, and what each loss is made of."""

import pickle
import re
from functools import partial
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from estimators import MapProblem, OptionError, create
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.models import MODELS
from harness.tasks import TASKS
from harness.tasks.trajectory import Trajectory
from tests.support.formations import Numbers, complex_step, formation_problem, goals, joined, loss

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


def quadratic_form(family: Trajectory, goal: Any, weights: Any) -> tuple[Numbers, Numbers]:
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
            inner, outer = goals(task)
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
        losses = problem.inner_loss, problem.outer_loss
        for each, goal in zip(losses, goals(task), strict=True):
            value = loss(partial(positions, family), goal, params[WEIGHT].numpy().T)
            assert float(each(params)) == pytest.approx(value, rel=1e-13), task


def test_the_documented_curvature_is_that_of_the_hessian() -> None:
    for task in ("trajectory", "trajectory(horizon=20)", "trajectory(horizon=5, rho=40.0, dt=0.4)"):
        family, (inner, _) = TASKS.create(task), goals(task)
        assert isinstance(family, Trajectory)
        largest = np.linalg.eigvalsh(quadratic_form(family, inner, inner.weights)[0])[-1]
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

    def expected(goal: Any, logs: Numbers) -> float:
        return float(loss(partial(positions, family), goal, controls, logs))

    inner, outer = goals("trajectory(agents=2, horizon=4)")
    value = float(problem.inner_loss(moved))
    assert value == pytest.approx(expected(inner, logs), rel=1e-13)
    assert value != pytest.approx(expected(inner, 0 * logs), rel=0.1)
    assert torch.equal(problem.outer_loss(moved), problem.outer_loss(params))
    assert float(problem.outer_loss(params)) == pytest.approx(expected(outer, logs), rel=1e-13)


def test_the_meta_gradient_of_weights_is_that_of_the_loop_on_the_controls() -> None:
    family, steps = Trajectory(agents=2, horizon=3), 4
    task = "trajectory(agents=2, horizon=3)"
    problem, params = formation_problem(task, "controls", depth=steps)
    inner, outer = goals(task)
    shape = params["controls"].shape

    def adapted_loss(theta: Numbers) -> Numbers:
        controls, logs = theta[:-3], theta[-3:]
        hessian, slope = quadratic_form(family, inner, inner.weights * np.exp(logs))
        for _ in range(steps):
            controls = controls - family.step_size * (hessian @ controls + slope)
        return loss(partial(positions, family), outer, controls.reshape(shape))

    exact = complex_step(adapted_loss, joined(params))
    result = create("maml")(problem, params)
    gradient = joined(result.gradient)
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    assert float(result.gradient["log_weights"].abs().min()) > 0
    assert torch.equal(result.adapted["log_weights"], params["log_weights"])


def admm(
    family: Trajectory, goal: Any, state: Numbers, logs: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """One sweep on (u, w), flat, and its matrix, from the formulas; dense."""
    m, size = family.agents, 2 * family.horizon
    phi, gamma = (np.kron(np.eye(m), part) for part in integrator(family.horizon, family.dt))
    mean = np.kron(np.full((m, m), 1 / m), np.eye(size))
    one = np.eye(m * size)
    q, r, rho = goal.weights * np.exp(logs)
    places = np.repeat(goal.offsets, family.horizon, axis=0).reshape(-1)
    drift = phi @ goal.start.reshape(-1)
    local = np.linalg.solve((q + rho) * gamma.T @ gamma + r * one, gamma.T)
    v = gamma @ state[: m * size] + drift - places + state[m * size :]
    c = (v + mean @ v) / 2
    w = v - c
    u = local @ (q * (goal.reference.reshape(-1) - drift) + rho * (c - w + places - drift))
    of_controls = [rho * local @ mean @ gamma, rho * local @ mean]
    of_duals = [(one - mean) @ gamma / 2, (one - mean) / 2]
    matrix = np.block([of_controls, of_duals])
    return u, w, matrix


def minimiser(family: Trajectory, goal: Any, logs: Numbers) -> Numbers:
    hessian, slope = quadratic_form(family, goal, goal.weights * np.exp(logs))
    return -np.linalg.solve(hessian, slope)


def admm_task(task: str) -> str:
    return task[:-1] + ", inner='admm')" if "(" in task else "trajectory(inner='admm')"


def test_a_sweep_of_admm_is_its_formula_and_a_contraction() -> None:
    for task in SETTINGS:
        family = TASKS.create(task)
        assert isinstance(family, Trajectory)
        problem, params = formation_problem(admm_task(task), "controls")
        assert isinstance(problem, MapProblem)
        duals = torch.randn_like(problem.auxiliary["duals"])
        logs, (inner, _) = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64), goals(task)
        moved = problem.inner_map(params | {"duals": duals, "log_weights": logs}, 0)
        state = np.concatenate([params["controls"].numpy().reshape(-1), duals.numpy().reshape(-1)])
        u, w, matrix = admm(family, inner, state, logs.numpy())
        np.testing.assert_allclose(moved["controls"].reshape(-1), u, atol=1e-12 * np.abs(u).max())
        np.testing.assert_allclose(moved["duals"].reshape(-1), w, atol=1e-12)
        q, _, rho = inner.weights * np.exp(logs.numpy())
        contraction = max(0.5, rho / (q + rho))
        assert np.abs(np.linalg.eigvals(matrix)).max() <= contraction + 1e-12


def test_the_meta_gradient_through_admm_has_its_closed_form() -> None:
    task, steps = "trajectory(agents=2, horizon=3)", 4
    family = Trajectory(agents=2, horizon=3)
    problem, params = formation_problem(admm_task(task), "controls", depth=steps)
    (inner, outer), size = goals(task), params["controls"].numel()

    def adapted(theta: Numbers) -> Numbers:
        u, w = theta[:-3], np.zeros(size)
        for _ in range(steps):
            u, w, _ = admm(family, inner, np.concatenate([u, w]), theta[-3:])
        return u

    theta = joined(params)
    exact = complex_step(
        lambda theta: loss(partial(positions, family), outer, adapted(theta).reshape(2, -1)), theta
    )
    for name in ("maml", "adjoint", "binom(order=4)", "truncated(order=4)"):
        gradient = joined(create(name)(problem, params).gradient)
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    *_, matrix = admm(family, inner, np.zeros(2 * size), np.zeros(3))
    hessian, slope = quadratic_form(family, outer, outer.weights)
    g = np.concatenate([hessian @ adapted(theta) + slope, np.zeros(size)])
    closed = (np.linalg.matrix_power(matrix.T, steps) @ g)[:size]
    np.testing.assert_allclose(exact[:size], closed, atol=1e-12 * np.abs(exact).max())


def test_admm_converges_to_the_minimiser_of_the_inner_loss() -> None:
    for task in (*SETTINGS, "trajectory(agents=2, rho=30.0)"):
        family = TASKS.create(task)
        assert isinstance(family, Trajectory)
        problem, params = formation_problem(admm_task(task), "controls", depth=100)
        params["log_weights"] += 0.2

        def at_minimiser(logs: Numbers, family: Trajectory = family, task: str = task) -> Numbers:
            inner, outer = goals(task)
            controls = minimiser(family, inner, logs).reshape(family.agents, -1)
            return loss(partial(positions, family), outer, controls)

        result = create("maml")(problem, params)
        logs = params["log_weights"].numpy()
        end = result.adapted["controls"].numpy().reshape(-1)
        np.testing.assert_allclose(end, minimiser(family, goals(task)[0], logs), atol=1e-9)
        np.testing.assert_allclose(result.gradient["controls"], 0, atol=1e-9)
        exact = complex_step(at_minimiser, logs)
        np.testing.assert_allclose(result.gradient["log_weights"], exact, rtol=1e-8, atol=1e-9)


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
            ("inner='sqp'", "inner='sqp' is neither"),
        ):
            with pytest.raises(OptionError, match=re.escape(message)) as caught:
                TASKS.create(f"{name}({options})")
            assert "\n" not in str(caught.value)
            assert str(caught.value).startswith(f"{name}: "), options
    with pytest.raises(OptionError, match="dt=nan"):
        Trajectory(dt=nan)


def test_solvers_are_of_their_families_and_of_the_model_controls() -> None:
    for task in ("trajectory(inner='ilqr')", "unicycle(inner='admm')"):
        with pytest.raises(OptionError, match="neither"):
            TASKS.create(task)
    for task in ("trajectory(inner='admm')", "unicycle(inner='ilqr')"):
        with pytest.raises(OptionError, match="use the model controls"):
            formation_problem(task, "linear")
        cell = Cell.of(estimator="maml", task=task, model="controls", depth=1, step_size=0.5)
        with pytest.raises(OptionError, match="no step size"):
            bilevel_problem(cell, 0, dtype=torch.float64, device="cpu")


def test_solvers_that_diverge_end_in_numbers_that_are_not_finite() -> None:
    for task in ("trajectory(inner='admm')", "unicycle(inner='ilqr')"):
        problem, params = formation_problem(task, "controls", depth=3)
        for name, value in (("log_weights", 800.0), ("controls", inf), ("controls", nan)):
            wrong = params | {name: torch.full_like(params[name], value)}
            for estimator in ("maml", "adjoint", "truncated(order=1)"):
                result = create(estimator)(problem, wrong)
                assert not torch.isfinite(result.outer_loss), (task, name)


def test_controls_are_of_these_families_only() -> None:
    with pytest.raises(OptionError, match="controls"):
        MODELS.create("controls").build(TASKS.create("sinusoid"), seed=0)
    module = MODELS.create("controls").build(TASKS.create("trajectory(horizon=4)"), seed=0)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert shapes == {"controls": (3, 8), "log_weights": (3,)}
    assert not module.get_parameter("log_weights").any()
