"""How far an estimate is from the exact meta-gradient, in float64."""

import math
from collections.abc import Sequence
from itertools import chain
from operator import mul
from statistics import fmean

from torch import Tensor

from estimators import BilevelProblem, Estimator, Params
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import axpy, dot, leaves, norm, scaled
from estimators.bounds import Bounded
from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Diverged
from harness.probes import enumeration
from harness.probes.draws import repeated
from harness.probes.gram import (
    bias_limit,
    chance_without_bias,
    gram,
    known_squares,
    mean_square,
    squared_bias,
    variance,
)
from harness.probes.references import load_reference
from harness.probes.second_truth import SecondTruth
from harness.probes.target import Target

_ROUNDING = 1e-9  # a known bias below that is none


def bias(target: Target) -> Samples:
    """Score an estimator against the exact meta-gradient of each of a cell's tasks.

    Of each task: error = ||estimate - exact|| / ||exact||, and 1 - cosine of the angle between
    them; the theory's bound on that error, bound(x) ||g|| / ||exact||, with g the outer gradient
    and x the task's own alpha lambda_max. Of all tasks together: see `BatchError`.

    A random estimator makes `REPEATS` estimates a task. Its bias is that of their mean, without the
    part that is due to so few draws; `spread` and `rmse` are of one estimate, and `bias_limit` and
    `bias_chance` say how sure the bias is: see `harness.probes.gram`. The cosine is the mean over
    draws, and the errors of all tasks together are those of the first draws, as in a training.

    Curvature and bounds are left out if not all are finite. Without exact meta-gradients there is
    only what needs none: the outer loss, and the error for an objective of the estimator's own.

    Raises:
        Diverged: an estimate is not finite.
    """
    reference = load_reference(target.reference, target.cell.device)
    estimator = target.estimator
    exacts: list[Params | None] = [*reference.gradients] or [None] * target.cell.num_tasks
    samples: Samples = {"outer_loss": []}
    seconds: list[float] = []
    unknown: list[float] = []
    bounds: list[float] = []
    errors, own = Errors(), Errors()
    batch = BatchError()
    problems, params = target.float64_problems()
    for index, (problem, exact, curvature) in enumerate(
        zip(problems, exacts, reference.curvature, strict=True)
    ):
        every = enumeration.all_estimates(estimator, problem, params)
        weights = [weight for weight, _ in every]
        draws = repeated(estimator, problem, params, target.cell.seed, index)
        result = next(draws)
        drawn = (estimate for _, estimate in every) if every else chain([result], draws)
        estimates = [estimate.gradient for estimate in drawn]
        if not all(math.isfinite(norm(estimate)) for estimate in estimates):
            raise Diverged(f"the estimate of task {index} is not finite")
        samples["outer_loss"].append(float(result.outer_loss))
        own_exact = estimator.own_exact_gradient(problem, params)
        if own_exact is not None:
            own.add(estimates, own_exact, weights)
            if not math.isfinite(own.by_task()["bias"][-1]):
                raise Diverged(
                    f"the exact gradient of its own objective, task {index}, is not finite"
                )
        if exact is None:
            continue
        errors.add(estimates, exact, weights)
        batch.add(result.gradient, exact)
        second = reference.second_truth(index)
        if second:
            seconds.append(_bias_to_second(estimates, second, weights))
            unknown.append(second.error)
        bound = error_bound(target.cell, estimator, curvature)
        if bound is not None:
            outer = outer_gradient(problem, result.adapted)
            bounds.append(ratio(bound * norm(outer), norm(exact)))
    apart = own.by_task()
    samples |= {"own_bias": apart["bias"], "own_spread": apart.get("spread", [])}
    samples |= {"bias_t2": seconds, "t2_error": unknown}
    for name, values in (("curvature", reference.curvature), ("bound", bounds)):
        if all(map(math.isfinite, values)):
            samples[name] = values
    target.notes += reference.notes
    return {
        name: values
        for name, values in (samples | errors.samples() | batch.samples()).items()
        if values
    }


def error_bound(cell: Cell, estimator: Estimator, alpha_lambda_max: float) -> float | None:
    """Bound ||estimate - exact|| / ||g||, given the largest curvature along the inner loop.

    Only ||alpha H_k|| is measured, so that of the assumptions in `estimators.bounds` only
    `Bounded` is honest: networks have negative curvature, for which the others do not hold.
    """
    known = math.isfinite(alpha_lambda_max)
    assumption = Bounded(alpha_lambda_max / cell.step_size if known else 0.0)
    bound = estimator.error_bound(assumption, cell.step_size, cell.depth)
    return bound if known or bound is None else math.inf


class Errors:
    """The errors of one or more estimates of each task, relative to the exact meta-gradients."""

    def __init__(self) -> None:
        self._samples: Samples = {"bias": [], "cosine_distance": []}
        self._grams: list[Tensor] = []
        self._known: list[float] = []

    def add(self, estimates: list[Params], exact: Params, weights: Sequence[float] = ()) -> None:
        """Add a task; all have as many estimates.

        With weights, these are the probabilities of all estimates that there can be, and bias and
        spread are known.
        """
        samples, length = self._samples, norm(exact)
        distances = [cosine_distance(estimate, exact) for estimate in estimates]
        shares = weights or [1 / len(estimates)] * len(estimates)
        samples["cosine_distance"].append(sum(map(mul, shares, distances)))
        if len(estimates) == 1:
            samples["bias"].append(relative_error(estimates[0], exact))
            return
        errors = [axpy(-1.0, exact, estimate) for estimate in estimates]
        if weights:
            squares = known_squares(errors, weights)
        else:
            products = gram(errors)
            squares = squared_bias(products), variance(products), mean_square(products)
        for name, square in zip(("bias", "spread", "rmse"), squares, strict=True):
            samples.setdefault(name, []).append(ratio(math.sqrt(max(0.0, square)), length))
        if weights:
            self._known.append(samples["bias"][-1])
        elif length:
            self._grams.append(products / length**2)

    def by_task(self) -> Samples:
        """Return the figures by name, one sample a task."""
        return self._samples

    def samples(self) -> Samples:
        """Return these, and how sure the bias of all tasks is."""
        if self._known:
            largest = max(self._known)
            limit = math.sqrt(fmean(bias**2 for bias in self._known))
            sure = {"bias_limit": [limit], "bias_chance": [float(largest < _ROUNDING)]}
            return self._samples | sure
        if not self._grams:
            return self._samples
        sure = {
            "bias_limit": [bias_limit(self._grams)],
            "bias_chance": [chance_without_bias(self._grams)],
        }
        return self._samples | sure


def bias_of(estimates: list[Params], exact: Params, weights: Sequence[float] = ()) -> float:
    """Return the relative error of an estimate, or the bias of several; see `Errors.add`."""
    errors = Errors()
    errors.add(estimates, exact, weights)
    return errors.by_task()["bias"][0]


def _bias_to_second(estimates: list[Params], truth: SecondTruth, weights: Sequence[float]) -> float:
    """Return the relative bias to T2, without the part that is due to few draws, of T2's too."""
    bias, length = bias_of(estimates, truth.gradient, weights), norm(truth.gradient)
    if not truth.variance or not length:
        return bias
    return math.sqrt(max(0.0, bias**2 - truth.variance / length**2))


class BatchError:
    r"""The error of a meta-batch's mean, and its parts; holds only sums.

    A step of meta-training follows the mean over its tasks. With e_t = estimate_t - exact_t over
    tasks t = 1..T, drawn at random, and G = ||mean_t exact_t||:

    - batch_bias = ||mean e|| / G, the relative error of the mean; batch_cosine_distance is
      1 - cosine of the angle between mean_t estimate_t and mean_t exact_t;
    - error_spread = s / G, s^2 = 1/(T-1) sum_t ||e_t - mean e||^2: the standard deviation of the
      error over tasks, which a mean over T tasks divides by sqrt(T);
    - systematic_bias = sqrt(max(0, ||mean e||^2 - s^2/T)) / G: what no number of tasks averages
      away. ||mean e||^2 is ||E e||^2 + E s^2/T in expectation, so that ahead of the root this is
      unbiased, but for the floor at 0.

    Hence batch_bias^2 = systematic_bias^2 + error_spread^2 / T, where the floor is not met.

    Example:
        >>> import torch
        >>> batch = BatchError()
        >>> for error in (1.0, 3.0):
        ...     exact = {"w": torch.tensor([10.0, 0.0])}
        ...     batch.add({"w": torch.tensor([10.0 + error, 0.0])}, exact)
        >>> samples = batch.samples()
        >>> samples["batch_bias"], round(samples["error_spread"][0] ** 2, 9)
        ([0.2], 0.02)
    """

    def __init__(self) -> None:
        self._tasks = 0
        self._error: Params = {}
        self._exact: Params = {}
        self._squares = 0.0

    def add(self, estimate: Params, exact: Params) -> None:
        """Add a task."""
        error = axpy(-1.0, exact, estimate)
        self._tasks += 1
        if self._tasks == 1:
            self._error, self._exact = error, exact
            return
        # Welford's recurrence, since sums of squares cancel where all errors are nearly the same.
        apart = axpy(-1.0, self._error, error)
        self._error = axpy(1 / self._tasks, apart, self._error)
        self._squares += (self._tasks - 1) / self._tasks * dot(apart, apart)
        from_mean = axpy(-1.0, self._exact, exact)
        self._exact = axpy(1 / self._tasks, from_mean, self._exact)

    def samples(self) -> Samples:
        """Return the figures by name, one sample each; spread and systematic part if T > 1."""
        if not self._tasks:
            return {}
        estimate = axpy(1.0, self._error, self._exact)
        error, length = norm(self._error), norm(self._exact)
        samples = {
            "batch_bias": [ratio(error, length)],
            "batch_cosine_distance": [cosine_distance(estimate, self._exact)],
        }
        if self._tasks > 1:
            variance = self._squares / (self._tasks - 1)
            systematic = math.sqrt(max(0.0, error**2 - variance / self._tasks))
            samples["systematic_bias"] = [ratio(systematic, length)]
            samples["error_spread"] = [ratio(math.sqrt(variance), length)]
        return samples


def outer_gradient(problem: BilevelProblem, adapted: Params) -> Params:
    """Return g, the gradient of the outer loss at phi_K."""
    return value_and_gradient(problem.outer_loss, leaves(adapted))[1]


def relative_error(estimate: Params, exact: Params) -> float:
    """Return ||estimate - exact|| / ||exact||; 0 when both are zero."""
    return ratio(norm(axpy(-1.0, exact, estimate)), norm(exact))


def ratio(size: float, length: float) -> float:
    """Return size / length; 0 where the size is 0, whatever the length."""
    if size == 0:
        return 0.0
    return size / length if length else math.inf


def cosine_distance(estimate: Params, exact: Params) -> float:
    """Return 1 - cos of the angle between two gradients, without cancellation.

    For unit vectors, 1 - cos = ||a - b||^2 / 2.
    """
    lengths = norm(estimate), norm(exact)
    if 0 in lengths:
        return 0.0 if lengths[0] == lengths[1] else 1.0
    apart = axpy(-1.0, scaled(1 / lengths[1], exact), scaled(1 / lengths[0], estimate))
    return 0.5 * dot(apart, apart)
