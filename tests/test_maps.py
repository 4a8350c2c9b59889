"""Inner maps other than gradient descent, and frozen parameters, against dense Jacobians."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, MapProblem, Params, create, frozen
from estimators.base.differentiation import Loss
from estimators.base.errors import OptionError
from estimators.base.meta_batch import estimate_batch

SIZE, STEPS = 3, 4
MATRIX = torch.tensor([[0.5, 0.4, -0.2], [-0.3, 0.6, 0.1], [0.2, -0.5, 0.7]], dtype=torch.float64)
THETA = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)


def turn(w: Tensor, step: int) -> Tensor:
    """Map a vector by no gradient descent: the Jacobian is not symmetric, and differs by step."""
    return MATRIX @ w + 0.1 * (step + 1) * torch.sin(w.roll(1))


def outer(params: Params) -> Tensor:
    return (params["w"] ** 4).sum() + params["w"].prod()


def turning(steps: int = STEPS) -> MapProblem:
    return MapProblem(
        outer, outer, steps=steps, inner_map=lambda params, k: {"w": turn(params["w"], k)}
    )


def dense(kept: int = STEPS) -> list[Tensor]:
    """Return the transposed Jacobians of all steps, and g last; written out by hand."""
    w, jacobians = THETA, []
    for step in range(STEPS):
        moving = torch.diag(0.1 * (step + 1) * torch.cos(w.roll(1)))
        jacobians.append((MATRIX + moving @ torch.eye(SIZE, dtype=w.dtype).roll(1, 0)).T)
        w = turn(w, step)
    g = 4 * w**3 + torch.stack([w[1] * w[2], w[0] * w[2], w[0] * w[1]])
    return [*jacobians[STEPS - kept :], g]


def expanded(order: int) -> Tensor:
    """Return the sum of all products of at most `order` of the B_k', B_k = I - dF_k."""
    *jacobians, g = dense()
    unit = torch.eye(SIZE, dtype=g.dtype)
    total = torch.zeros_like(g)
    for size in range(order + 1):
        for chosen in combinations(range(STEPS), size):
            term = g
            for k in reversed(chosen):
                term = -(unit - jacobians[k]) @ term
            total += term
    return total


def product(matrices: list[Tensor]) -> Tensor:
    *jacobians, vector = matrices
    for jacobian in reversed(jacobians):
        vector = jacobian @ vector
    return vector


@pytest.mark.parametrize("name", ["maml", "maml(checkpoint='sqrt')", "adjoint", "binom(order=4)"])
def test_exact_estimators_follow_a_map_that_is_no_gradient(name: str) -> None:
    estimate = create(name)(turning(), {"w": THETA})
    torch.testing.assert_close(estimate.gradient["w"], product(dense()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", range(STEPS + 1))
def test_truncation_goes_through_the_last_steps_of_a_map(order: int) -> None:
    estimate = create(f"truncated(order={order})")(turning(), {"w": THETA})
    torch.testing.assert_close(estimate.gradient["w"], product(dense(order)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", range(STEPS + 1))
def test_the_binomial_expansion_is_one_in_identity_less_jacobian(order: int) -> None:
    estimate = create(f"binom(order={order})")(turning(), {"w": THETA})
    torch.testing.assert_close(estimate.gradient["w"], expanded(order), rtol=1e-11, atol=1e-14)


def test_mixed_is_exact_for_its_objective_on_a_map() -> None:
    mixed = create("mixed(weights='geometric')")
    exact = mixed.own_exact_gradient(turning(), {"w": THETA})
    estimate = mixed(turning(), {"w": THETA}).gradient
    assert exact is not None
    torch.testing.assert_close(estimate, exact, rtol=1e-12, atol=0)


def test_fomaml_is_the_outer_gradient_at_the_end_of_a_map() -> None:
    estimate = create("fomaml")(turning(), {"w": THETA})
    torch.testing.assert_close(estimate.gradient["w"], dense()[-1], rtol=1e-12, atol=0)


def test_depth_0_of_a_map_is_the_outer_gradient_at_the_start() -> None:
    for name in ("maml", "adjoint", "fomaml", "truncated(order=0)", "binom(order=0)", "mixed"):
        estimate = create(name)(turning(0), {"w": THETA})
        assert torch.equal(estimate.adapted["w"], THETA), name


@pytest.mark.parametrize("name", ["maml", "adjoint"])
def test_momentum_as_auxiliary_state_is_momentum(name: str) -> None:
    def inner(params: Params) -> Tensor:
        return (params["w"] ** 4).sum() + (params["w"] * params["w"].roll(1)).sum()

    def heavy_ball(params: Params, step: int) -> Params:
        w, v = params["w"], params["v"]
        v = 0.9 * v + 4 * w**3 + w.roll(1) + w.roll(-1)
        return {"w": w - 0.05 * v, "v": v}

    as_map = MapProblem(
        inner,
        outer,
        steps=STEPS,
        inner_map=heavy_ball,
        auxiliary={"v": torch.zeros(SIZE, dtype=torch.float64)},
    )
    built_in = BilevelProblem(inner, outer, step_size=0.05, steps=STEPS, momentum=0.9)
    one, other = (create(name)(problem, {"w": THETA}) for problem in (as_map, built_in))
    assert one.gradient.keys() == one.adapted.keys() == {"w"}
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.adapted, other.adapted, rtol=1e-12, atol=0)


# Frozen parameters: inner loss exp(h) w'Mw/2 + sum w^4, of which only w is adapted.

ALPHA = 0.07
SYMMETRIC = MATRIX @ MATRIX.T
PARAMS = {"w": THETA, "h": torch.tensor(0.4, dtype=torch.float64)}


def weighted(params: Params) -> Tensor:
    w = params["w"]
    return 0.5 * params["h"].exp() * (w @ SYMMETRIC @ w) + (w**4).sum()


def both(params: Params) -> Tensor:
    return outer(params) * params["h"].cos()


def with_a_hyperparameter() -> MapProblem:
    return frozen(BilevelProblem(weighted, both, step_size=ALPHA, steps=STEPS), ["h"])


def joint() -> list[Tensor]:
    """Return the transposed Jacobians of (w, h) -> (w - alpha grad, h), and g last, by hand."""
    w, h, found = THETA, PARAMS["h"], []
    for _ in range(STEPS):
        jacobian = torch.eye(SIZE + 1, dtype=w.dtype)
        jacobian[:SIZE, :SIZE] -= ALPHA * (h.exp() * SYMMETRIC + torch.diag(12 * w**2))
        jacobian[:SIZE, SIZE] -= ALPHA * h.exp() * (SYMMETRIC @ w)
        found.append(jacobian.T)
        w = w - ALPHA * (h.exp() * (SYMMETRIC @ w) + 4 * w**3)
    slope = 4 * w**3 + torch.stack([w[1] * w[2], w[0] * w[2], w[0] * w[1]])
    value = (w**4).sum() + w.prod()
    return [*found, torch.cat([slope * h.cos(), -(value * h.sin())[None]])]


def joined(gradient: Params) -> Tensor:
    return torch.cat([gradient["w"], gradient["h"][None]])


@pytest.mark.parametrize("name", ["maml", "adjoint", "truncated(order=4)", "binom(order=4)"])
def test_frozen_parameters_get_their_exact_meta_gradient(name: str) -> None:
    estimate = create(name)(with_a_hyperparameter(), PARAMS)
    torch.testing.assert_close(joined(estimate.gradient), product(joint()), rtol=1e-12, atol=0)


def test_frozen_parameters_are_left_where_they_are() -> None:
    adapted = create("maml")(with_a_hyperparameter(), PARAMS).adapted
    assert adapted["h"] == PARAMS["h"]
    assert not torch.equal(adapted["w"], PARAMS["w"])


def test_truncation_with_a_frozen_parameter() -> None:
    estimate = create("truncated(order=2)")(with_a_hyperparameter(), PARAMS)
    expected = product(joint()[STEPS - 2 :])
    torch.testing.assert_close(joined(estimate.gradient), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name", ["imaml", "krylov(products=2)", "reptile", "anil", "lazy", "hybrid(order=1, window=2)"]
)
def test_estimators_of_gradient_descent_alone_refuse_maps(name: str) -> None:
    with pytest.raises(OptionError, match="inner"):
        create(name)(turning(), {"w": THETA})
    with pytest.raises(OptionError, match="frozen"):
        create(name)(with_a_hyperparameter(), PARAMS)


@pytest.mark.parametrize(
    "name",
    [
        "maml(compiled=True)",
        "hf-maml",
        "adjoint(engine='forward')",
        "binom(order=1, batching='vmap')",
        "mixed(engine='func')",
    ],
)
def test_options_of_gradient_descent_are_refused_on_maps(name: str) -> None:
    with pytest.raises(OptionError, match="gradient descent"):
        create(name)(turning(), {"w": THETA})


@pytest.mark.parametrize("names", [[], ["x"], ["w", "h"]])
def test_wrong_names_of_frozen_parameters_are_refused(names: list[str]) -> None:
    with pytest.raises(OptionError, match="frozen"):
        create("maml")(frozen(BilevelProblem(weighted, both, 0.1, 1), names), PARAMS)


@pytest.mark.parametrize(
    "result", [{}, {"w": THETA, "more": THETA}, {"w": THETA[:2]}, {"w": THETA.float()}, None]
)
def test_a_map_must_return_what_it_is_given(result: Params) -> None:
    problem = MapProblem(outer, outer, steps=1, inner_map=lambda params, k: result)
    with pytest.raises(OptionError, match="inner_map"):
        create("maml")(problem, {"w": THETA})


@pytest.mark.parametrize("name", ["fomaml", "truncated(order=0)", "maml", "adjoint", "mixed"])
def test_the_outer_loss_gets_auxiliary_entries(name: str) -> None:
    """w_1 = w/2, v_1 = w; w_2 = 5w/4, v_2 = 3w/2, of which the outer loss takes the product."""

    def both_move(params: Params, step: int) -> Params:
        return {"w": 0.5 * params["w"] + params["v"], "v": params["v"] + params["w"]}

    def products(params: Params) -> Tensor:
        return (params["w"] * params["v"]).sum()

    nothing = {"v": torch.zeros(SIZE, dtype=torch.float64)}
    problem = MapProblem(outer, products, steps=2, inner_map=both_move, auxiliary=nothing)
    slope = {"maml": 3.75, "adjoint": 3.75, "mixed": (1.0 + 3.75) / 2}.get(name, 1.5)
    estimate = create(name)(problem, {"w": THETA})
    torch.testing.assert_close(estimate.gradient["w"], slope * THETA, rtol=1e-12, atol=0)


def test_entries_may_be_swapped_doubled_or_made_anew_by_a_map() -> None:
    theta = {"a": THETA, "b": 2 * THETA}

    def loss(params: Params) -> Tensor:
        return (params["a"] ** 2).sum() + params["b"].sum()

    swapped = lambda p, k: {"a": p["b"], "b": p["a"]}  # ruff: ignore[lambda-assignment]
    doubled = lambda p, k: {"a": p["b"], "b": p["b"]}  # ruff: ignore[lambda-assignment]
    renewed = lambda p, k: {"a": p["a"], "b": THETA}  # ruff: ignore[lambda-assignment]
    one, none = torch.ones_like(THETA), torch.zeros_like(THETA)
    slopes = {
        swapped: (one, 4 * THETA),
        doubled: (none, 4 * THETA + 1),
        renewed: (2 * THETA, none),
    }
    for inner_map, (a, b) in slopes.items():
        problem = MapProblem(loss, loss, steps=3, inner_map=inner_map)
        for name in ("maml", "maml(checkpoint='sqrt')", "adjoint", "binom(order=3)"):
            gradient = create(name)(problem, theta).gradient
            torch.testing.assert_close(gradient, {"a": a, "b": b}, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["maml", "maml(checkpoint='sqrt')", "adjoint", "binom(order=1)"])
def test_a_map_that_is_not_differentiable_is_refused(name: str) -> None:
    problem = MapProblem(outer, outer, steps=2, inner_map=lambda p, k: {"w": p["w"].detach() / 2})
    with pytest.raises(OptionError, match="differentiable"):
        create(name)(problem, {"w": THETA})


@pytest.mark.parametrize("name", ["maml", "adjoint", "fomaml", "binom(order=1)", "mixed"])
def test_a_map_that_writes_to_what_it_is_given_is_refused(name: str) -> None:
    @torch.no_grad()
    def halve(params: Params, step: int) -> Params:
        params["w"].mul_(0.5)
        return params

    with pytest.raises(OptionError, match="write"):
        create(name)(MapProblem(outer, outer, steps=2, inner_map=halve), {"w": THETA})


def test_a_map_that_moves_what_is_frozen_is_refused() -> None:
    def both_move(params: Params, step: int) -> Params:
        return {"w": params["w"] / 2, "h": params["h"] * 2}

    problem = MapProblem(outer, outer, steps=1, inner_map=both_move, frozen=("h",))
    with pytest.raises(OptionError, match="'h'"):
        create("maml")(problem, PARAMS)


def test_parameters_of_a_map_are_not_frozen_by_gradient_descent() -> None:
    with pytest.raises(OptionError, match="map already"):
        frozen(with_a_hyperparameter(), ["w"])


def test_a_name_is_no_list_of_names() -> None:
    with pytest.raises(OptionError, match="list"):
        frozen(BilevelProblem(weighted, both, 0.1, 1), "h")
    with pytest.raises(OptionError, match="names"):
        replace(turning(), frozen="w")  # type: ignore[arg-type]


def test_auxiliary_entries_that_are_no_tensors_are_refused() -> None:
    every: list[Any] = [{"v": 0.0}, [THETA], None]
    for wrong in every:
        with pytest.raises(OptionError, match="auxiliary"):
            replace(turning(), auxiliary=wrong)


def test_auxiliary_state_may_not_take_the_name_of_a_parameter() -> None:
    problem = MapProblem(outer, outer, steps=1, inner_map=lambda p, k: p, auxiliary={"w": THETA})
    with pytest.raises(OptionError, match="auxiliary"):
        create("maml")(problem, {"w": THETA})


def test_a_meta_batch_of_maps_is_taken_one_by_one() -> None:
    problems = [turning(), turning()]
    mean = estimate_batch(create("maml"), problems, {"w": THETA})
    torch.testing.assert_close(mean.gradient["w"], product(dense()), rtol=1e-12, atol=0)
    with pytest.raises(OptionError, match="loop"):
        estimate_batch(create("maml"), problems, {"w": THETA}, batching="vmap")


# Implicit differentiation of the frozen parameter.


def joint_hessian(w: Tensor, h: Tensor) -> Tensor:
    """Return the second derivatives of `weighted` in (w, h), by hand."""
    hessian = torch.zeros(SIZE + 1, SIZE + 1, dtype=w.dtype)
    hessian[:SIZE, :SIZE] = h.exp() * SYMMETRIC + torch.diag(12 * w**2)
    hessian[:SIZE, SIZE] = hessian[SIZE, :SIZE] = h.exp() * (SYMMETRIC @ w)
    return hessian


@pytest.mark.parametrize("steps", [0, 2, STEPS])
def test_implicit_differentiation_is_its_formula_wherever_the_inner_loop_ends(steps: int) -> None:
    problem = frozen(BilevelProblem(weighted, both, step_size=ALPHA, steps=steps), ["h"])
    result = create("implicit")(problem, PARAMS)
    w, h = result.adapted["w"], PARAMS["h"]
    g = 4 * w**3 + torch.stack([w[1] * w[2], w[0] * w[2], w[0] * w[1]])
    hessian = joint_hessian(w, h)
    solved = torch.linalg.solve(hessian[:SIZE, :SIZE], g * h.cos())
    value = -((w**4).sum() + w.prod()) * h.sin() - hessian[SIZE, :SIZE] @ solved
    torch.testing.assert_close(result.gradient["h"], value, rtol=1e-9, atol=0)
    assert not result.gradient["w"].any()


def test_implicit_differentiation_is_exact_where_the_inner_loop_has_converged() -> None:
    def inner(params: Params) -> Tensor:
        w = params["w"]
        return 0.5 * params["h"].exp() * (w @ w) + (w**4).sum() - w.sum()

    problem = frozen(BilevelProblem(inner, both, step_size=0.1, steps=200), ["h"])
    exact = create("adjoint")(problem, PARAMS).gradient
    estimate = create("implicit")(problem, PARAMS).gradient
    torch.testing.assert_close(estimate["h"], exact["h"], rtol=1e-9, atol=0)
    assert exact["w"].norm() < 1e-9


def test_implicit_differentiation_by_few_steps_of_conjugate_gradients_is_not_exact() -> None:
    few, many = (create(f"implicit(cg_steps={n})")(with_a_hyperparameter(), PARAMS) for n in (1, 9))
    assert few.hvps == 2
    assert many.hvps <= SIZE + 2
    assert (few.gradient["h"] - many.gradient["h"]).abs() > 1e-4


def test_gauss_newton_takes_the_linearised_loss() -> None:
    def linearised(point: Params) -> Loss:
        """Leave the curvature of the fourth powers out, and keep the slope at the point."""
        cubes = (4 * point["w"] ** 3).detach()

        def loss(params: Params) -> Tensor:
            w = params["w"]
            return 0.5 * params["h"].exp() * (w @ SYMMETRIC @ w) + cubes @ w

        return loss

    problem = replace(with_a_hyperparameter(), linearised=linearised)
    result = create("implicit(hessian='gauss-newton')")(problem, PARAMS)
    w, h = result.adapted["w"], PARAMS["h"]
    g = (4 * w**3 + torch.stack([w[1] * w[2], w[0] * w[2], w[0] * w[1]])) * h.cos()
    mixed = h.exp() * (SYMMETRIC @ w)
    slope = -((w**4).sum() + w.prod()) * h.sin()
    expected = slope - mixed @ torch.linalg.solve(h.exp() * SYMMETRIC, g)
    torch.testing.assert_close(result.gradient["h"], expected, rtol=1e-9, atol=0)


def test_what_implicit_differentiation_cannot_take_is_refused() -> None:
    plain = BilevelProblem(weighted, both, 0.1, 1)
    for problem in (plain, replace(with_a_hyperparameter(), frozen=())):
        with pytest.raises(OptionError, match="frozen"):
            create("implicit")(problem, PARAMS)
    with pytest.raises(OptionError, match="linearise"):
        create("implicit(hessian='gauss-newton')")(with_a_hyperparameter(), PARAMS)
    for options in ("hessian='half'", "cg_steps=0", "tolerance=1.0"):
        with pytest.raises(OptionError, match="implicit"):
            create(f"implicit({options})")


def test_implicit_differentiation_of_an_outer_loss_of_auxiliary_entries_is_refused() -> None:
    def halve(params: Params, step: int) -> Params:
        return params | {"w": params["w"] / 2}

    problem = MapProblem(
        weighted,
        lambda params: (params["w"] * params["v"]).sum() + both(params),
        steps=1,
        inner_map=halve,
        auxiliary={"v": THETA},
        frozen=("h",),
    )
    with pytest.raises(OptionError, match="auxiliary"):
        create("implicit")(problem, PARAMS)


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"step_size": 0.1}])
def test_a_map_has_its_own_momentum_and_step_size(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="momentum"):
        replace(turning(), **options)
