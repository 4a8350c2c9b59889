"""Checks of random estimators."""

import torch

from estimators import Params, RandomEstimator
from estimators.base.tree import axpy, norm, scaled
from harness.conformance.behaviour import same_bits
from harness.conformance.cases import Case, exact_gradient
from harness.conformance.check import check_on_cases
from harness.conformance.messages import NotApplicable, Violation
from harness.conformance.subject import Subject, copied, seeded
from harness.probes.gram import chance_without_bias, gram, squared_bias

_SEEDS = 200  # some estimators rarely give another estimate than usual
_BLOCKS, _EACH = 50, 10  # sums over draws are less skewed than draws
_LEVEL = 1e-4
_FLIPS = 99_999


@check_on_cases("mlp")
def draws_come_from_the_generator(subject: Subject, example: Case) -> None:
    """If random: other generators give other bits, and torch's default one is what None means."""
    if not subject.estimator.is_random:
        raise NotApplicable("it is not random")
    before = torch.get_rng_state()
    one = subject.run(example).gradient
    if not torch.equal(torch.get_rng_state(), before):
        raise Violation("torch's default generator is drawn from, in place of the one given")
    others = (subject.run(example, seed=seed).gradient for seed in range(1, _SEEDS))
    if all(_same(one, other) for other in others):
        raise Violation(
            f"{_SEEDS} generators give the same estimate; if it is not random, derive it from "
            "Estimator"
        )
    problem, params = example.problem(subject.depth), copied(example.params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        by_default = subject.estimator(problem, params).gradient
    given = subject.estimator(problem, params, generator=seeded(1)).gradient
    if not _same(by_default, given):
        raise Violation("without a generator it does not draw from torch's default one")


@check_on_cases("mlp")
def mean_is_exact_if_unbiased(subject: Subject, example: Case) -> None:
    """If is_unbiased: the mean over draws is the exact meta-gradient."""
    estimator = subject.estimator
    if not isinstance(estimator, RandomEstimator) or not estimator.is_unbiased:
        raise NotApplicable("it does not say so")
    exact = exact_gradient(example.name, subject.depth)
    blocks: list[Params] = []
    for index in range(_BLOCKS):
        total = scaled(-float(_EACH), exact)
        for seed in range(index * _EACH, (index + 1) * _EACH):
            total = axpy(1.0, subject.run(example, seed=seed).gradient, total)
        blocks.append(total)
    products = gram(blocks)
    if chance_without_bias([products], _FLIPS) <= _LEVEL:
        size = squared_bias(products) ** 0.5 / _EACH / norm(exact)
        raise Violation(
            f"the mean of {_BLOCKS * _EACH} draws is {size:.2g} off (relative), more than chance "
            "explains"
        )


def _same(one: Params, other: Params) -> bool:
    return all(same_bits(value, other[name]) for name, value in one.items())
