"""What the harness makes of random estimators: their bias, spread and cost, always the same."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import Estimator, MetaGradient, create
from estimators.base.tree import axpy, norm
from harness.cell import Cell
from harness.conformance.cases import case
from harness.matrix.metrics import LEVEL, Samples, probes
from harness.matrix.outcome import Diverged
from harness.matrix.problems import bilevel_problem
from harness.probes import draws
from harness.probes.bias import bias
from harness.probes.counts import counts
from harness.probes.draws import FEW, REPEATS, Estimates, generator_of, repeated
from harness.probes.flops import count_flops, flops
from harness.probes.memory import peak_memory
from harness.probes.references import load_reference, save_reference
from harness.probes.target import Target
from harness.probes.time import series_of
from harness.running.estimate import CostModel
from harness.running.executor import Settings
from harness.training.config import TrainingConfig
from harness.training.trainer import Trainer

SPECS = ["roulette(rate=0.6)", "ufom(q=0.3)", "forward-gradient(n=2)"]
every_random = pytest.mark.parametrize("spec", SPECS)
SETTINGS = [("quadratic", "linear"), ("sinusoid", "mlp-40-40(init='torch')")]


def target_of(folder: Path, spec: str, task: str, model: str, **axes: Any) -> Target:
    cell = Cell.of(estimator=spec, task=task, model=model, depth=3, **axes)
    path = folder / "reference.pt"
    if not path.exists():
        save_reference(cell.group, path)
    return Target(cell, path)


@every_random
@pytest.mark.parametrize(("task", "model"), SETTINGS)
def test_bias_is_zero_and_spread_is_that_of_the_draws(
    spec: str, task: str, model: str, tmp_path: Path
) -> None:
    target = target_of(tmp_path, spec, task, model)
    target.cell = replace(target.cell, num_tasks=4)
    save_reference(target.cell.group, tmp_path / "few.pt")
    target = Target(target.cell, tmp_path / "few.pt")
    samples = bias(target)
    assert samples["bias_chance"][0] > LEVEL
    assert samples["bias_limit"][0] > math.sqrt(fmean(each**2 for each in samples["bias"]))
    for each in ("bias", "spread", "rmse", "cosine_distance"):
        assert len(samples[each]) == 4
    problems, params = target.float64_problems()
    exacts = load_reference(target.reference, "cpu").gradients
    for index, (problem, exact) in enumerate(zip(problems, exacts, strict=True)):
        results = repeated(target.estimator, problem, params, target.cell.seed, index)
        errors = torch.stack([flat(axpy(-1.0, exact, one.gradient)) for one in results])
        assert len(errors) == REPEATS
        length = norm(exact)
        spread = float(errors.var(0, correction=1).sum().sqrt()) / length
        assert samples["spread"][index] == pytest.approx(spread)
        rmse = float(errors.square().sum(1).mean().sqrt()) / length
        assert samples["rmse"][index] == pytest.approx(rmse)
        square = float(errors.mean(0).square().sum()) / length**2 - spread**2 / REPEATS
        assert samples["bias"][index] ** 2 == pytest.approx(max(0.0, square), abs=1e-9)


def flat(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in params.values()])


def test_spread_beside_the_estimators_own_objective(tmp_path: Path) -> None:
    """The mean over depths 1 to 3 is the objective of `mixed`: of exact estimates at each."""
    spec, task = "lvc(through='mixed')", "mdp(actions=2, episodes=3, horizon=3, states=3)"
    target = target_of(tmp_path, spec, task, "linear", num_tasks=2)
    samples = bias(target)
    problems, params = target.float64_problems()
    for index, problem in enumerate(problems):
        exact = create("maml")
        each = [exact(replace(problem, steps=k), params).gradient for k in (1, 2, 3)]
        length = float(torch.stack([*map(flat, each)]).mean(0).norm())
        draws = repeated(target.estimator, problem, params, target.cell.seed, index)
        drawn = torch.stack([flat(one.gradient) for one in draws])
        expected = float(drawn.var(0, correction=1).sum().sqrt()) / length
        assert samples["own_spread"][index] == pytest.approx(expected)
        assert samples["own_spread"][index] != pytest.approx(samples["spread"][index])
    assert "own_spread" not in bias(target_of(tmp_path, "lvc", task, "linear", num_tasks=2))


class Scaled(Estimator):
    """A random estimator, of which only a part is taken: it is biased."""

    is_random = True

    def estimate(self, problem: Any, params: Any) -> MetaGradient:
        raise NotImplementedError

    def __call__(self, problem: Any, params: Any, **options: Any) -> MetaGradient:
        drawn = create("roulette(rate=0.9)")(problem, params, **options)
        gradient = {name: 0.5 * value for name, value in drawn.gradient.items()}
        return replace(drawn, gradient=gradient)


def test_bias_is_found_and_numbers_that_are_not_finite_end_a_cell(tmp_path: Path) -> None:
    target = target_of(tmp_path, "roulette(rate=0.9)", "quadratic", "linear")
    target.estimator = Scaled()
    samples = bias(target)
    assert samples["bias_chance"][0] < LEVEL
    assert fmean(samples["bias"]) == pytest.approx(0.5, rel=0.2)
    assert samples["bias_limit"][0] > 0.5
    steep = target_of(tmp_path, "roulette(rate=0.9)", "quadratic", "linear")
    steep.estimator = type("Steep", (Scaled,), {"__call__": not_finite})()
    with pytest.raises(Diverged):
        bias(steep)


def not_finite(self: Estimator, problem: Any, params: Any, **options: Any) -> MetaGradient:
    """Return an estimate that is not finite in some draws."""
    drawn = create("ufom(q=0.3)")(problem, params, **options)
    factor = math.inf if drawn.hvps else 1.0
    return replace(drawn, gradient={k: factor * value for k, value in drawn.gradient.items()})


def test_estimators_that_are_not_random_pay_nothing(tmp_path: Path) -> None:
    target = target_of(tmp_path, "truncated(order=1)", "quadratic", "linear")
    assert not {"spread", "rmse", "bias_limit", "bias_chance"} & bias(target).keys()
    assert len(list(target.estimates)) == len(target.estimates) == 1
    assert counts(target) == {"hvps": [1], "serial_depth": [1]}


@every_random
def test_everything_but_time_repeats_to_the_bit(spec: str, tmp_path: Path) -> None:
    def measured() -> Samples:
        target = target_of(tmp_path, spec, "quadratic", "linear", seed=3)
        found: Samples = {}
        for _, probe in probes():
            found |= probe(target)
        return {name: values for name, values in found.items() if name != "resident_memory"}

    torch.manual_seed(1)
    first = measured()
    torch.manual_seed(2)
    assert measured() == first
    assert first["retained_memory"] == [0]


@every_random
def test_costs_are_means_over_draws_that_are_spread_evenly(spec: str, tmp_path: Path) -> None:
    target = target_of(tmp_path, spec, "sinusoid", "mlp-40-40")
    cost = target.estimator.cost(3)
    assert cost
    found = counts(target)
    taken = [result.hvps for result in target.estimates]
    assert len(taken) == FEW
    assert found["hvps"] == [fmean(taken)]
    # Of eight draws by themselves the mean is off by a third, often.
    assert found["hvps"][0] == pytest.approx(cost.hvps, abs=1 / FEW * 3)
    every = [
        count_flops(partial(create(spec), target.problem, target.params, generator=generator))
        for generator in map(states_of, range(FEW))
    ]
    assert flops(target)["flops"] == [fmean(every)]
    largest = max(
        peak_memory(
            partial(create(spec), target.problem, target.params, generator=states_of(index)), "cpu"
        )
        for index in range(FEW)
    )
    assert peak_memory(target.estimates, "cpu") == largest


def states_of(index: int) -> torch.Generator:
    """Return the generator of one of the fixed draws."""
    return torch.Generator().manual_seed(draws._seeds()[index])


def test_draws_are_spread_evenly_and_keys_are_apart() -> None:
    states = map(states_of, range(FEW))
    firsts = [float(torch.rand((), dtype=torch.float64, generator=state)) for state in states]
    assert [int(number * FEW) for number in firsts] == list(range(FEW))
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (10**6, 3)]
    numbers = {float(torch.rand((), generator=generator_of(*key))) for key in keys}
    assert len(numbers) == len(keys)


def test_a_sample_of_time_is_the_mean_of_the_same_draws() -> None:
    example, calls = case("mlp"), []

    class Counted(Scaled):
        def __call__(self, problem: Any, params: Any, **options: Any) -> MetaGradient:
            calls.append(float(torch.rand((), generator=options["generator"])))
            return create("fomaml")(problem, params)

    series = series_of(Estimates(Counted(), example.problem(2), example.params), "cpu")
    series.clock.start = lambda: None  # type: ignore[method-assign]
    series.clock.stop = lambda: 80.0  # type: ignore[method-assign]
    series.runs = 2
    series.sample()
    assert len(calls) == 2 * FEW
    assert calls[:FEW] == calls[FEW:]
    assert series.seconds == [80.0 / (2 * FEW)]


def test_repeats_are_part_of_what_a_run_is_said_to_take() -> None:
    costs = CostModel(Settings())
    cells = [
        Cell.of(estimator=spec, task="quadratic", model="linear", depth=20)
        for spec in ("forward-gradient(n=1)", "adjoint")
    ]
    random, single = (costs.score(cell) for cell in cells)
    assert random > single  # both take as many products a call


@every_random
def test_a_training_that_goes_on_ends_at_the_same_bits(spec: str, tmp_path: Path) -> None:
    cell = Cell.of(estimator=spec, task="sinusoid", model="mlp-40-40", depth=2)
    short: dict[str, Any] = {"validate_every": 2, "validation_tasks": 2, "test_tasks": 2}

    def taken(folder: str, *ends: int, seed: int = 0) -> list[Tensor]:
        for end in ends:
            config = TrainingConfig(replace(cell, seed=seed), steps=5, **short)
            trainer = Trainer(config, None, tmp_path / folder, "the same")
            for _ in trainer.steps():
                if trainer.state.step == end:
                    break
            trainer._save()
        return [value.detach().clone() for value in trainer._params.values()]

    whole = taken("whole", 5)
    torch.manual_seed(5)
    assert all(map(torch.equal, whole, taken("parts", 1, 3, 5)))
    assert not all(map(torch.equal, whole, taken("others", 5, seed=1)))


def test_the_bias_along_a_training_is_that_of_repeats(tmp_path: Path) -> None:
    cell = Cell.of(estimator="ufom(q=0.3)", task="sinusoid", model="mlp-40-40", depth=2)
    config = TrainingConfig(
        cell, steps=1, validation_tasks=2, test_tasks=2, bias_every=200, bias_tasks=2
    )
    trainer = Trainer(config, None, tmp_path / "checkpoint", "any")
    samples = trainer._bias()
    assert {name: len(values) for name, values in samples.items()} == {
        **{"bias": 2, "spread": 2, "rmse": 2, "cosine_distance": 2, "curvature": 2}
    }
    assert samples["rmse"][0] > samples["bias"][0]


def test_problems_in_another_type_have_the_same_draws() -> None:
    cell = Cell.of(estimator="roulette(rate=0.6)", task="quadratic", model="linear", depth=3)
    products = []
    for dtype in (torch.float32, torch.float64):
        problem, params = bilevel_problem(cell, 0, dtype=dtype, device="cpu")
        estimator = create(cell.estimator)
        products.append([one.hvps for one in repeated(estimator, problem, params, 0, 0)])
    assert products[0] == products[1]
