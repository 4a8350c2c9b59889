"""Models and losses as people have them: each estimate is right, or refused in one clear line.

What is right is told by central differences of the whole map from theta to the outer loss, whose
inner loop is gradient descent within the module itself: first derivatives only, none of this
project's code.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from estimators import (
    BilevelProblem,
    MetaGradient,
    OptionError,
    create,
    estimate_batch,
    module_problem,
    trainable,
)
from tests.support.field.case import Example
from tests.support.field.layers import LAYERS
from tests.support.field.losses import LOSSES
from tests.support.oracle import flatten, relative_error

CASES = LAYERS | LOSSES
RIGHT = [name for name, case in CASES.items() if not case.refused]
REFUSED = [name for name, case in CASES.items() if case.refused]
STEPS, REACH = 2, 3e-5


def problem_of(
    example: Example, steps: int = STEPS, *, swapped: bool = False, **options: Any
) -> BilevelProblem:
    batches = (example.query, example.support) if swapped else (example.support, example.query)
    size = example.case.step_size
    return module_problem(
        example.module, example.criterion, *batches, step_size=size, steps=steps, **options
    )


def estimate(spec: str, example: Example, steps: int = STEPS, **options: Any) -> MetaGradient:
    return create(spec)(problem_of(example, steps, **options), trainable(example.module))


def directions(example: Example) -> list[list[Tensor]]:
    """Return three directions of length 1."""
    source = torch.Generator().manual_seed(1)
    found = []
    for _ in range(3):
        parts = [
            torch.randn(value.shape, generator=source, dtype=value.dtype)
            for value in trainable(example.module).values()
        ]
        if example.case.held:
            name, row = example.case.held
            parts[list(trainable(example.module)).index(name)][row] = 0
        length = torch.cat([part.reshape(-1) for part in parts]).norm()
        found.append([part / length for part in parts])
    return found


def slope(example: Example, direction: list[Tensor]) -> float:
    """Return the central difference of the outer loss along a direction."""
    theta = [value.clone() for value in trainable(example.module).values()]
    ahead, behind = (
        example.after([t + reach * d for t, d in zip(theta, direction, strict=True)], STEPS)[0]
        for reach in (REACH, -REACH)
    )
    return (ahead - behind) / (2 * REACH)


@contextmanager
def accepting(way_out: str) -> Generator[None]:
    """Let pass a refusal that names a way out."""
    try:
        yield
    except OptionError as error:
        if way_out not in str(error):
            raise


def along(gradient: Tensor, direction: list[Tensor]) -> float:
    return float(gradient @ torch.cat([part.reshape(-1) for part in direction]))


def state(example: Example) -> list[Any]:
    tensors = [*example.module.parameters(), *example.module.buffers(), torch.get_rng_state()]
    parameters = [id(value) for value in example.module.parameters()]
    return [parameters, *(tensor.detach().clone() for tensor in tensors if not is_lazy(tensor))]


def assert_left_alone(example: Example, before: list[Any]) -> None:
    torch.testing.assert_close(state(example), before, rtol=0, atol=0, msg="module was changed")


@pytest.mark.parametrize("name", RIGHT)
def test_exact_estimates_are_those_of_central_differences(name: str) -> None:
    example = Example.of(CASES[name])
    ways = directions(example)
    slopes = [slope(example, way) for way in ways]
    theta = [value.clone() for value in trainable(example.module).values()]
    outer_loss, first_order = example.after(theta, STEPS)
    before = state(example)
    for spec in ("maml", "adjoint"):
        result = estimate(spec, example)
        assert_left_alone(example, before)
        gradient = flatten(result.gradient)
        errors = [abs(along(gradient, way) - s) for way, s in zip(ways, slopes, strict=True)]
        assert max(errors) < 1e-7 * float(gradient.norm()), spec
        assert float(result.outer_loss) == pytest.approx(outer_loss, rel=1e-9), spec
    missing = [abs(along(first_order, way) - s) for way, s in zip(ways, slopes, strict=True)]
    curved = max(missing) > 1e-3 * float(first_order.norm())
    assert curved is not example.case.flat, "the case could not tell a wrong second derivative"
    if example.case.held:
        name, row = example.case.held
        assert not result.gradient[name][row].any()


@pytest.mark.parametrize("name", RIGHT)
def test_single_precision_is_near_double(name: str) -> None:
    for spec in ("maml", "adjoint"):
        double = estimate(spec, Example.of(CASES[name]))
        single = estimate(spec, Example.of(CASES[name], torch.float32))
        assert all(value.dtype == torch.float32 for value in single.gradient.values())
        reference = flatten(double.gradient)
        assert relative_error(single.gradient, reference.float()) < 1e-4, spec


@pytest.mark.parametrize("name", RIGHT)
def test_meta_batches_at_once_are_those_of_the_loop(name: str) -> None:
    example = Example.of(CASES[name])
    problems = [problem_of(example), problem_of(example, swapped=True)]
    params, estimator = trainable(example.module), create("maml")
    loop = estimate_batch(estimator, problems, params)
    with accepting("loop"):
        once = estimate_batch(estimator, problems, params, batching="vmap")
        assert relative_error(once.gradient, flatten(loop.gradient)) < 1e-9
        assert float(once.outer_loss) == pytest.approx(float(loop.outer_loss), rel=1e-9)


@pytest.mark.parametrize("name", RIGHT)
def test_batched_products_are_those_of_the_loop(name: str) -> None:
    example = Example.of(CASES[name])
    loop, default = (
        estimate(f"binom(order=1{batching})", example, 5) for batching in (", batching='loop'", "")
    )
    assert relative_error(default.gradient, flatten(loop.gradient)) < 1e-9


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("engine", ["forward", "func"])
def test_engines_agree_or_are_refused(name: str, engine: str) -> None:
    example = Example.of(CASES[name])
    reverse = estimate("adjoint(engine='reverse')", example)
    with accepting("engine="):
        other = estimate(f"adjoint(engine={engine!r})", example)
        assert relative_error(other.gradient, flatten(reverse.gradient)) < 1e-8


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(name: str) -> None:
    case = CASES[name]
    for spec in ("maml", "adjoint"):
        example = Example.of(case)
        before = state(example)
        with pytest.raises(OptionError) as caught:
            estimate(spec, example)
        for words in case.refused:
            assert re.search(words, str(caught.value)), (spec, words)
        assert_left_alone(example, before)


@pytest.mark.parametrize("name", [name for name in REFUSED if CASES[name].way_out])
def test_finite_differences_are_a_way_out(name: str) -> None:
    example = Example.of(CASES[name])
    gradient = flatten(estimate("hf-maml", example, check=False).gradient)
    errors = [abs(along(gradient, way) - slope(example, way)) for way in directions(example)]
    assert max(errors) < 1e-4 * float(gradient.norm())


@pytest.mark.parametrize("mode", ["written", "replaced"])
def test_problems_keep_the_buffers_that_they_were_made_with(mode: str) -> None:
    example = Example.of(CASES["parameters: mask in a buffer"])
    params, estimator = trainable(example.module), create("maml")
    problems, singles = [], []
    for task in range(2):
        mask = (torch.arange(4) % 2 == task).double()
        if mode == "written":
            example.module.get_buffer("mask").copy_(mask)
        else:
            example.module.mask = mask
        problems.append(problem_of(example))
        singles.append(flatten(estimator(problems[-1], params).gradient))
    mean = torch.stack(singles).mean(0)
    loop = estimate_batch(estimator, problems, params)
    assert relative_error(loop.gradient, mean) < 1e-12
    with accepting("loop"):
        once = estimate_batch(estimator, problems, params, batching="vmap")
        assert relative_error(once.gradient, mean) < 1e-9


@pytest.mark.parametrize(
    "name",
    [
        "activation: Dropout(p=0.5, inplace=False)",
        "activation: SyncBatchNorm(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
        "track_running_stats=True)",
        "image: residual, settled BatchNorm",
        "sequence: LSTM, dropout, evaluation mode",
        "sequence: MultiheadAttention, evaluation mode",
        "parameters: spectral_norm, evaluation mode",
    ],
)
def test_modes_that_are_changed_after_a_problem_was_made_are_seen(name: str) -> None:
    example = Example.of(CASES[name])
    problem = problem_of(example)
    example.module.train()
    with pytest.raises(OptionError, match=r"(?i)draw|statistics|writ|mode"):
        create("maml")(problem, trainable(example.module))
