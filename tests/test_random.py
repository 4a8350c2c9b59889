"""Random estimators: their expectation, variance and cost by enumeration, and their generators."""

from collections.abc import Iterator
from itertools import product
from weakref import ref

import pytest
import torch
from torch import Tensor

from estimators import (
    BilevelProblem,
    MetaGradient,
    OptionError,
    Params,
    create,
    estimate_batch,
    meta_backward,
    module_problem,
)
from estimators.base.random import signs, uniform
from harness.conformance.cases import case
from tests.support.cases import EXACT, every_case, oracle
from tests.support.modules import mlp, regression
from tests.support.oracle import flatten, relative_error, unflatten

SPECS = ["roulette(rate=0.6)", "ufom(q=0.3)", "forward-gradient(n=2)"]
every_random = pytest.mark.parametrize("spec", SPECS)
STEPS = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outcomes(
    spec: str, name: str, points: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MetaGradient]:
    """Yield an estimate for each of the numbers that are drawn in place of a uniform one."""
    estimator, example = create(spec), case(name)
    for point in points:
        module = type(estimator).__module__
        monkeypatch.setattr(f"{module}.uniform", lambda *_, point=point: point)
        yield estimator(example.problem(STEPS), example.params)


def moments(chances: list[float], results: list[MetaGradient]) -> tuple[Tensor, float]:
    """Return the expectation of an estimate and the trace of its covariance."""
    pairs = list(zip(chances, (flatten(each.gradient) for each in results), strict=True))
    mean = torch.stack([chance * value for chance, value in pairs]).sum(0)
    return mean, sum(chance * float((value - mean).square().sum()) for chance, value in pairs)


@every_case
def test_roulette_is_unbiased_with_the_variance_of_its_telescope(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, reference = 0.6, oracle(name, STEPS)
    tails = [rate**length for length in range(STEPS + 1)] + [0.0]
    chances = [tails[n] - tails[n + 1] for n in range(STEPS + 1)]
    points = [(tails[n] + tails[n + 1]) / 2 for n in range(STEPS + 1)]
    results = list(outcomes(f"roulette(rate={rate})", name, points, monkeypatch))
    terms = [reference.truncated(n) - reference.truncated(n - 1) for n in range(1, STEPS + 1)]
    for length, result in enumerate(results):
        parts = [reference.outer_gradient]
        parts += [term / tails[n] for n, term in enumerate(terms[:length], start=1)]
        assert relative_error(result.gradient, torch.stack(parts).sum(0)) < EXACT
        assert result.hvps == result.serial_depth == length
    mean, variance = moments(chances, results)
    assert relative_error(unflatten(mean, reference.theta), reference.exact()) < EXACT
    # The covariance of the indicators of N >= i and N >= j, over both their probabilities.
    expected = sum(
        float(one @ other) * (1 / tails[min(i, j)] - 1)
        for (i, one), (j, other) in product(enumerate(terms, start=1), repeat=2)
    )
    assert variance == pytest.approx(expected, rel=1e-9, abs=1e-15)


@every_case
def test_ufom_is_unbiased_with_the_variance_of_a_coin(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, reference = 0.3, oracle(name, STEPS)
    results = list(outcomes(f"ufom(q={q})", name, [0.29, 0.31], monkeypatch))
    mean, variance = moments([q, 1 - q], results)
    assert relative_error(unflatten(mean, reference.theta), reference.exact()) < EXACT
    assert relative_error(results[1].gradient, reference.outer_gradient) < EXACT
    assert [result.hvps for result in results] == [STEPS, 0]
    apart = float((reference.exact() - reference.outer_gradient).square().sum())
    assert variance == pytest.approx((1 / q - 1) * apart, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("name", "count"), [("quartic", 1), ("linear", 2)])
def test_forward_gradient_is_unbiased_with_the_variance_of_random_signs(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, reference = case(name), oracle(name, STEPS)
    size = len(flatten(example.params))
    corners = [torch.tensor(each).double() for each in product((1.0, -1.0), repeat=size)]
    results = []
    for choice in product(corners, repeat=count):
        drawn = iter(unflatten(corner, example.params) for corner in choice)
        monkeypatch.setattr("estimators.forward_gradient.signs", lambda *_, it=drawn: next(it))
        estimator = create(f"forward-gradient(n={count})")
        results.append(estimator(example.problem(STEPS), example.params))
    exact = reference.exact()
    mean, variance = moments([1 / len(results)] * len(results), results)
    assert relative_error(unflatten(mean, example.params), exact) < EXACT
    assert variance == pytest.approx((size - 1) / count * float(exact.square().sum()), rel=1e-9)
    assert (results[0].hvps, results[0].serial_depth) == (count * STEPS, STEPS)


def test_costs_are_expectations(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = 0.6
    points = [(index + 0.5) / 10_000 for index in range(10_000)]
    lengths = [sum(point < rate**n for n in range(1, STEPS + 1)) for point in points]
    stated = create(f"roulette(rate={rate})").cost(STEPS)
    assert stated
    assert stated.hvps == stated.serial_depth == pytest.approx(sum(lengths) / 10_000, rel=1e-3)
    assert stated.gradients == pytest.approx(STEPS + 1 + stated.hvps)
    cost = create("ufom(q=0.3)").cost(STEPS)
    assert cost
    assert (cost.hvps, cost.gradients) == pytest.approx((0.3 * STEPS, STEPS + 1 + 0.3 * STEPS))
    cost = create("forward-gradient(n=3)").cost(STEPS)
    assert cost
    assert (cost.hvps, cost.serial_depth, cost.gradients) == (3 * STEPS, STEPS, 2 * STEPS + 1)


@every_random
def test_all_randomness_is_the_generators(spec: str) -> None:
    example, estimator = case("mlp"), create(spec)
    problem = example.problem(STEPS)

    def draws(**options: torch.Generator) -> list[Tensor]:
        results = (estimator(problem, example.params, **options) for _ in range(20))
        return [flatten(result.gradient) for result in results]

    torch.manual_seed(3)
    before = torch.get_rng_state()
    some = draws(generator=generator())
    torch.testing.assert_close(draws(generator=generator()), some, rtol=0, atol=0)
    assert len({tuple(draw.tolist()) for draw in some}) > 1
    assert torch.equal(torch.get_rng_state(), before)
    by_default = draws()
    torch.manual_seed(3)
    torch.testing.assert_close(draws(), by_default, rtol=0, atol=0)
    others = torch.Generator().manual_seed(3)
    torch.testing.assert_close(draws(generator=others), by_default, rtol=0, atol=0)


@every_random
def test_problems_of_a_meta_batch_have_draws_of_their_own(spec: str) -> None:
    model = mlp()
    problem = module_problem(
        model,
        torch.nn.functional.mse_loss,
        regression(0),
        regression(1),
        step_size=0.1,
        steps=2,
    )
    estimator, source = create(spec), generator(1)
    apart = [estimator(problem, dict(model.named_parameters()), generator=source) for _ in range(6)]
    assert len({tuple(flatten(each.gradient).tolist()) for each in apart}) > 1
    mean = torch.stack([flatten(each.gradient) for each in apart]).mean(0)
    meta_backward(estimator, [problem] * 6, model, generator=generator(1))
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert relative_error(grads, mean) < EXACT
    with pytest.raises(OptionError, match="random"):
        estimate_batch(estimator, [problem] * 2, dict(model.named_parameters()), batching="vmap")


def test_estimators_that_are_not_random_take_a_generator() -> None:
    example = case("mlp")
    for name in ("maml", "adjoint", "fomaml", "reptile"):
        source = generator()
        before = source.get_state()
        estimator = create(name)
        one = estimator(example.problem(2), example.params, generator=source)
        other = estimator(example.problem(2), example.params)
        torch.testing.assert_close(one.gradient, other.gradient, rtol=0, atol=0)
        assert torch.equal(source.get_state(), before)
        assert not estimator.is_random


def test_numbers_are_drawn_the_same_in_any_precision() -> None:
    like = {"a": torch.zeros(3, 4), "b": torch.zeros(())}
    single = signs(like, generator())
    double = signs({name: value.double() for name, value in like.items()}, generator())
    assert {name: value.dtype for name, value in single.items()} == dict.fromkeys(
        like, torch.float32
    )
    assert all(torch.equal(single[name].double(), double[name]) for name in like)
    assert set(flatten(double).tolist()) == {-1.0, 1.0}
    source = generator()
    numbers = [uniform(like, source) for _ in range(1000)]
    assert 0 <= min(numbers) < 0.01 < 0.99 < max(numbers) < 1
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            assert uniform(like, generator()) == numbers[0]
    finally:
        torch.set_default_dtype(before)


def test_no_iterate_is_kept_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    example, most = case("mlp"), 0

    class Watched(BilevelProblem):
        def trajectory(self, params: Params) -> Iterator[Params]:
            nonlocal most
            watches = []
            for phi in super().trajectory(params):
                watches.append(ref(phi["first"]))
                yield phi
                del phi
                most = max(most, sum(watch() is not None for watch in watches))

    problem = Watched(example.inner_loss, example.outer_loss, example.step_size, 10)
    for module in ("roulette", "ufom"):
        monkeypatch.setattr(f"estimators.{module}.uniform", lambda *_: 0.999)
    for spec in SPECS:
        most = 0
        create(spec)(problem, example.params)
        assert most <= 2, spec


def test_options_out_of_range_are_refused() -> None:
    for spec, message in (
        ("roulette(rate=0)", "between 0 and 1"),
        ("roulette(rate=1)", "between 0 and 1"),
        ("ufom(q=1.5)", "between 0 and 1"),
        ("forward-gradient(n=0)", "1 or more"),
    ):
        with pytest.raises(OptionError, match=message):
            create(spec)


@every_random
def test_generators_of_another_type_are_refused(spec: str) -> None:
    example = case("mlp")
    for wrong in (0, 42, "cpu"):
        with pytest.raises(OptionError, match=r"torch\.Generator"):
            create(spec)(example.problem(2), example.params, generator=wrong)  # type: ignore[arg-type]
