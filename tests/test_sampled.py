"""Meta-gradients through drawn inner steps, against sums over all outcomes written out in numpy."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimators import (
    BilevelProblem,
    Episodes,
    MetaGradient,
    SampledProblem,
    create,
    module_problem,
)
from estimators.base.errors import OptionError
from estimators.methods.surrogates import surrogate_of
from harness.probes import enumeration, second_truth
from harness.probes.enumeration import estimates
from harness.probes.gram import known_squares
from harness.tasks.tabular import Tabular, sampled

Array = NDArray[Any]

ALPHA, PULLS, STEPS = 1.0, 2, 2
THETA = np.array([0.1, -0.2, 0.3])
INNER, OUTER = np.array([1.0, 0.2, -0.5]), np.array([0.8, 0.5, -0.7])
PARAMS = {"weight": torch.from_numpy(THETA[:, None])}
EXACT_OUTER = "sampled='inner+hessian'"


def bandit(steps: int = STEPS, pulls: int = PULLS) -> SampledProblem:
    module = torch.nn.Linear(1, 3, bias=False).double()
    inputs = torch.ones(1, 1, dtype=torch.float64)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return -(outputs.softmax(-1) * targets).sum(-1).mean()

    rewards = [torch.from_numpy(each[None]) for each in (INNER, OUTER)]
    problem = module_problem(
        module, loss, *[(inputs, each) for each in rewards], step_size=ALPHA, steps=steps
    )
    return sampled(problem, 1.0, lambda loss: Tabular(loss.outputs, loss.batch[1], None, pulls, 1))


def softmax(x: Array) -> Array:
    e = np.exp(x)
    return np.asarray(e / e.sum())


def slope(phi: Array, rewards: Array) -> Array:
    """Return the gradient of J."""
    pi = softmax(phi)
    return np.asarray(pi * (rewards - pi @ rewards))


def curvature(phi: Array, rewards: Array) -> Array:
    """Return the Hessian of J."""
    pi, d = softmax(phi), slope(phi, rewards)
    return np.asarray(np.diag(d) - np.outer(d, pi) - np.outer(pi, d))


def drawn_slope(phi: Array, pulls: tuple[int, ...]) -> Array:
    pi = softmax(phi)
    return np.asarray(np.mean([INNER[a] * (np.eye(3)[a] - pi) for a in pulls], axis=0))


def drawn_curvature(phi: Array, pulls: tuple[int, ...], surrogate: str) -> Array:
    """Return the second derivative of a surrogate: that of log pi, and the scores' products."""
    pi = softmax(phi)
    terms = []
    for a in pulls:
        score = np.eye(3)[a] - pi
        second = np.outer(pi, pi) - np.diag(pi)
        terms.append(INNER[a] * (second + (surrogate != "naive") * np.outer(score, score)))
    return np.asarray(np.mean(terms, axis=0))


def outcomes(theta: Array) -> Iterator[tuple[Any, list[Array], list[tuple[int, ...]]]]:
    """Yield the probability, the iterates and the pulls of each way through the inner loop."""
    every = list(product(range(3), repeat=PULLS))
    for way in product(every, repeat=STEPS):
        phi, probability, path = theta, 1.0, []
        for pulls in way:
            path.append(phi)
            probability = probability * np.prod(softmax(phi)[list(pulls)])
            phi = phi + ALPHA * drawn_slope(phi, pulls)
        yield probability, [*path, phi], list(way)


def moments(surrogate: str, *, corrected: bool = False, exact: bool = False) -> tuple[Array, float]:
    """Return mean and variance of the estimate of the gradient of -J(phi_K)."""
    weights, found = [], []
    for probability, path, way in outcomes(THETA):
        reward = softmax(path[-1]) @ OUTER
        vector = slope(path[-1], OUTER)
        for phi, pulls in zip(reversed(path[:-1]), reversed(way), strict=True):
            second = curvature(phi, INNER) if exact else drawn_curvature(phi, pulls, surrogate)
            score = sum((np.eye(3)[a] - softmax(phi) for a in pulls), np.zeros(3))
            vector = vector + ALPHA * second @ vector + corrected * reward * score
        weights.append(probability)
        found.append(-vector)
    mean = np.array(weights) @ np.array(found)
    return mean, float(np.array(weights) @ ((np.array(found) - mean) ** 2).sum(1))


def first_truth() -> Array:
    path = [THETA]
    for _ in range(STEPS):
        path.append(path[-1] + ALPHA * slope(path[-1], INNER))
    vector = slope(path[-1], OUTER)
    for phi in reversed(path[:-1]):
        vector = vector + ALPHA * curvature(phi, INNER) @ vector
    return np.asarray(-vector)


def second_truth_by_hand() -> Array:
    """Differentiate the expected return after drawn steps, by complex steps."""
    found = []
    for place in range(3):
        theta = THETA + 1e-30j * np.eye(3)[place]
        value = sum(p * (softmax(path[-1]) @ OUTER) for p, path, _ in outcomes(theta))
        found.append(-np.imag(value) / 1e-30)
    return np.array(found)


def enumerated(spec: str, problem: SampledProblem | None = None) -> tuple[Array, float]:
    """Return mean and variance of an estimator of the library."""
    pairs = list(estimates(create(spec), problem or bandit(), PARAMS))
    weights = np.array([weight for weight, _ in pairs])
    found = np.array([flat(estimate) for _, estimate in pairs])
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    mean = weights @ found
    return mean, float(weights @ ((found - mean) ** 2).sum(1))


def flat(estimate: MetaGradient) -> Array:
    return np.asarray(estimate.gradient["weight"].numpy().ravel())


@pytest.mark.parametrize("surrogate", ["naive", "dice", "lvc", "loaded-dice"])
@pytest.mark.parametrize("corrected", [False, True])
def test_enumeration_is_the_sum_over_all_outcomes(surrogate: str, corrected: bool) -> None:
    correction = ", correction=True" if corrected else ""
    mean, variance = enumerated(f"{surrogate}({EXACT_OUTER}{correction})")
    expected, spread = moments(surrogate, corrected=corrected)
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)
    assert variance == pytest.approx(spread, rel=1e-10)


def test_exact_hessians_in_drawn_steps() -> None:
    mean, variance = enumerated("dice(sampled='inner')")
    expected, spread = moments("dice", exact=True)
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)
    assert variance == pytest.approx(spread, rel=1e-10)


def test_the_first_truth_is_that_of_exact_steps() -> None:
    exact = flat(create("maml")(bandit(), PARAMS))
    np.testing.assert_allclose(exact, first_truth(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(-exact, [0.24686, -0.03909, -0.20777], atol=5e-6)


@pytest.mark.parametrize("parts", ["inner+hessian", "inner+hessian+outer"])
def test_naive_with_the_correction_is_unbiased_for_the_second_truth(parts: str) -> None:
    mean, _ = enumerated(f"naive(sampled='{parts}', correction=True)")
    np.testing.assert_allclose(mean, second_truth_by_hand(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(-mean, [0.23702, -0.03034, -0.20668], atol=5e-6)


@pytest.mark.parametrize(
    ("spec", "first", "second", "spread"),
    [
        (f"naive({EXACT_OUTER}, through='fomaml')", 0.254, 0.229, 0.13),
        (f"naive({EXACT_OUTER})", 0.309, 0.276, 0.26),
        (f"naive({EXACT_OUTER}, correction=True)", 0.041, 0.000, 1.76),
        (f"dice({EXACT_OUTER})", 0.059, 0.018, 0.19),
        (f"dice({EXACT_OUTER}, correction=True)", 0.228, 0.277, 2.1),
        ("dice(sampled='inner')", 0.045, 0.010, 0.13),
    ],
)
def test_known_biases_to_both_truths(spec: str, first: float, second: float, spread: float) -> None:
    mean, variance = enumerated(spec)
    one, other = first_truth(), second_truth_by_hand()
    assert np.linalg.norm(mean - one) / np.linalg.norm(one) == pytest.approx(first, abs=6e-4)
    assert np.linalg.norm(mean - other) / np.linalg.norm(other) == pytest.approx(second, abs=6e-4)
    assert variance**0.5 / np.linalg.norm(one) == pytest.approx(spread, abs=0.05)


def test_drawing_the_hessian_or_the_outer_gradient_alone_has_no_bias() -> None:
    for parts in ("hessian", "outer"):
        mean, variance = enumerated(f"dice(sampled='{parts}')")
        np.testing.assert_allclose(mean, first_truth(), rtol=0, atol=1e-12)
        assert variance > 0


def test_variances_of_independent_parts_add_up_at_one_step() -> None:
    """At K=1 phi_1 is exact with drawn Hessian and outer gradient, which multiply."""
    parts = {s: enumerated(f"dice(sampled='{s}')", bandit(1))[1] for s in ("hessian", "outer")}
    both = enumerated("dice(sampled='hessian+outer')", bandit(1))[1]
    assert both > sum(parts.values())


def test_order_k_through_truncation_and_binom_is_back_propagation_through_all_steps() -> None:
    whole = enumerated(f"dice({EXACT_OUTER})")
    for through in ("adjoint", "truncated(order=2)", "binom(order=2)"):
        mean, variance = enumerated(f'dice({EXACT_OUTER}, through="{through}")')
        np.testing.assert_allclose(mean, whole[0], rtol=0, atol=1e-12)
        assert variance == pytest.approx(whole[1], rel=1e-9)


def test_binom_of_order_1_over_drawn_steps() -> None:
    """In expectation the expansion cut at order 1, of the drawn curvatures."""
    expected = np.zeros(3)
    for probability, path, way in outcomes(THETA):
        g = slope(path[-1], OUTER)
        seconds = [
            drawn_curvature(phi, pulls, "lvc") for phi, pulls in zip(path[:-1], way, strict=True)
        ]
        expected -= probability * (g + ALPHA * sum(second @ g for second in seconds))
    mean, _ = enumerated(f'lvc({EXACT_OUTER}, through="binom(order=1)")')
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)


# Both truths, as the harness finds them.


def test_the_second_truth_is_enumerated_where_that_is_possible() -> None:
    truth = second_truth.second_truth(bandit(), PARAMS, 0)
    assert truth.variance == 0
    np.testing.assert_allclose(truth.gradient["weight"].numpy().ravel(), second_truth_by_hand())


@pytest.mark.parametrize("steps", [1, 2])
def test_draws_agree_with_the_enumerated_second_truth(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = second_truth.second_truth(bandit(steps), PARAMS, 0)
    monkeypatch.setattr(enumeration, "MOST", 0)
    drawn = second_truth.second_truth(bandit(steps), PARAMS, 0)
    apart = (drawn.gradient["weight"] - known.gradient["weight"]).norm()
    assert 0 < drawn.error < 0.1
    assert apart < 3 * drawn.variance**0.5
    naively = enumerated(f"naive({EXACT_OUTER}, correction=True)", bandit(steps))[1]
    assert drawn.variance * second_truth.DRAWS < 0.3 * naively


def test_outcomes_are_listed_once_for_an_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Tabular] = []
    outcomes = Tabular.outcomes

    def noted(environment: Tabular) -> Sequence[Episodes]:
        listed.append(environment)
        return outcomes(environment)

    monkeypatch.setattr(Tabular, "outcomes", noted)
    assert len(list(estimates(create("dice"), bandit(1), PARAMS))) == 81
    assert len(listed) == 2


@pytest.mark.parametrize("spec", ["roulette(rate=0.5)", "ufom(q=0.5)", "forward-gradient(n=2)"])
def test_estimates_by_other_draws_than_episodes_are_not_enumerated(spec: str) -> None:
    assert not enumeration.all_estimates(create(spec), bandit(), PARAMS)


def test_outer_episodes_that_are_too_many_are_not_enumerated_at_depth_0() -> None:
    assert not enumeration.all_estimates(create("dice"), bandit(0, pulls=20), PARAMS)


def test_all_estimates_are_enumerated_up_to_a_limit() -> None:
    dice = create(f"dice({EXACT_OUTER})")
    assert len(enumeration.all_estimates(dice, bandit(), PARAMS)) == 81
    assert not enumeration.all_estimates(dice, bandit(4), PARAMS)
    assert not enumeration.all_estimates(dice, bandit(pulls=20), PARAMS)
    assert not enumeration.all_estimates(create("maml"), bandit(), PARAMS)


def test_known_squares_are_those_of_all_outcomes() -> None:
    errors = [{"w": torch.tensor([value], dtype=torch.float64)} for value in (1.0, 4.0)]
    assert known_squares(errors, [0.8, 0.2]) == pytest.approx((1.6**2, 0.8 * 0.36 + 0.2 * 5.76, 4))


# Surrogates over several actions, literally.


@pytest.mark.parametrize("surrogate", ["naive", "dice", "lvc", "loaded-dice"])
def test_derivatives_of_surrogates_are_their_formulas(surrogate: str) -> None:
    rng = np.random.default_rng(0)
    n, length, size, discount, decay = 3, 4, 2, 0.7, 0.6
    first, second = rng.normal(size=(n, length, size)), rng.normal(size=(n, length, size, size))
    second = second + second.swapaxes(-1, -2)
    rewards = rng.normal(size=(n, length))

    def value(x: Tensor) -> Tensor:
        linear = torch.from_numpy(first) @ x
        quadratic = torch.einsum("ntij,i,j->nt", torch.from_numpy(second), x, x) / 2
        chosen = surrogate_of(surrogate, decay)
        return chosen(linear + quadratic - 1, torch.from_numpy(rewards), discount)

    slopes, hessian = np.zeros(size), np.zeros((size, size))
    for i in range(n):
        for t in range(length):
            ahead = sum(discount ** (s - t) * rewards[i, s] for s in range(t, length))
            weight = discount**t * ahead / n
            slopes += weight * first[i, t]
            if surrogate == "naive":
                hessian += weight * second[i, t]
            elif surrogate == "lvc":
                hessian += weight * (second[i, t] + np.outer(first[i, t], first[i, t]))
            elif surrogate == "dice":
                load = first[i, : t + 1].sum(0)
                term = np.outer(load, load) + second[i, : t + 1].sum(0)
                hessian += discount**t * rewards[i, t] / n * term
            else:
                load = sum(decay ** (t - s) * first[i, s] for s in range(t + 1))
                rest = load - first[i, t]
                term = np.outer(load, load) - np.outer(rest, rest) + second[i, t]
                hessian += weight * term
    origin = torch.zeros(size, dtype=torch.float64)
    found = torch.func.grad(value)(origin), torch.func.hessian(value)(origin)
    np.testing.assert_allclose(found[0], slopes, atol=1e-12)
    np.testing.assert_allclose(found[1], hessian, atol=1e-12)


# An environment of several states.


def small_mdp(episodes: int, horizon: int) -> tuple[Tabular, Tensor]:
    rng = np.random.default_rng(1)
    transitions = rng.random((3, 2, 3)) + 0.1
    transitions /= transitions.sum(-1, keepdims=True)
    weight = torch.from_numpy(rng.normal(size=(2, 3)))
    rewards, ahead = torch.from_numpy(rng.random((3, 2))), torch.from_numpy(transitions)
    return Tabular(lambda params: params["weight"].T, rewards, ahead, episodes, horizon), weight


def test_episodes_follow_policy_and_transitions() -> None:
    environment, weight = small_mdp(40_000, 3)
    episodes = environment.draw({"weight": weight}, torch.Generator().manual_seed(0))
    policy = weight.T.softmax(-1)
    states, actions = episodes.observations, episodes.actions
    for state in range(3):
        visits = states == state
        share = actions[visits].double().mean()
        assert share == pytest.approx(float(policy[state, 1]), abs=0.01)
        for action in range(2):
            moved = states[:, 1:][(visits & (actions == action))[:, :-1]]
            counts = torch.bincount(moved, minlength=3) / len(moved)
            assert environment.transitions is not None
            expected = environment.transitions[state, action]
            torch.testing.assert_close(counts.double(), expected, atol=0.015, rtol=0)
    assert torch.equal(episodes.rewards, environment.rewards[states, actions])


def test_drawn_gradients_have_the_expectation_of_exact_ones() -> None:
    environment, weight = small_mdp(60_000, 3)
    episodes = environment.draw({"weight": weight}, torch.Generator().manual_seed(0))

    def drawn(weight: Tensor) -> Tensor:
        taken = environment.log_probabilities({"weight": weight}, episodes)
        return surrogate_of("dice", 0.0)(taken, episodes.rewards, 0.8)

    def exact(weight: Tensor) -> Tensor:
        policy = weight.T.softmax(-1)
        state, total = torch.full((3,), 1 / 3, dtype=torch.float64), torch.zeros(())
        for step in range(3):
            total = total + 0.8**step * state @ (policy * environment.rewards).sum(-1)
            state = torch.einsum("s,sa,sat->t", state, policy, environment.transitions)
        return total

    for derivative in (torch.func.grad, torch.func.hessian):
        one, other = derivative(drawn)(weight), derivative(exact)(weight)
        assert (one - other).norm() < 0.1 * other.norm()


# What is refused.


@pytest.mark.parametrize(
    "spec",
    [
        "dice(sampled='')",
        "dice(sampled='outer+inner')",
        "dice(sampled='all')",
        "dice(sampled='hessian', correction=True)",
        "loaded-dice(decay=1.5)",
        "dice(decay=0.5)",
        "dice(through='imaml')",
        "dice(through='dice')",
        "dice(through='hf-maml')",
        "dice(through='maml(compiled=True)')",
        "dice(through='nothing')",
        "naive(surrogate='other')",
    ],
)
def test_wrong_options_are_refused(spec: str) -> None:
    with pytest.raises(OptionError):
        create(spec)


def test_a_problem_without_episodes_is_refused() -> None:
    exact = bandit()
    problem = BilevelProblem(exact.inner_loss, exact.outer_loss, step_size=1.0, steps=1)
    with pytest.raises(OptionError, match="SampledProblem"):
        create("dice")(problem, PARAMS)


def test_a_depth_that_its_estimator_does_not_support_is_refused() -> None:
    with pytest.raises(OptionError, match="order"):
        create("dice(through='truncated(order=3)')")(bandit(), PARAMS)


@pytest.mark.parametrize("through", ["fomaml", "truncated(order=0)", "binom(order=0)"])
def test_the_correction_needs_derivatives_of_the_steps(through: str) -> None:
    with pytest.raises(OptionError, match="correction"):
        create(f'naive(correction=True, through="{through}")')(bandit(), PARAMS)


def test_environments_with_many_outcomes_are_not_enumerated() -> None:
    with pytest.raises(OptionError, match="outcomes"):
        next(estimates(create("dice"), bandit(pulls=20), PARAMS))


def test_the_outer_loss_is_the_exact_one_at_the_adapted_parameters() -> None:
    problem = bandit()
    result = create("dice")(problem, PARAMS, generator=torch.Generator().manual_seed(3))
    assert torch.equal(result.outer_loss, problem.outer_loss(result.adapted).detach())
    assert result.adapted.keys() == result.gradient.keys() == {"weight"}
