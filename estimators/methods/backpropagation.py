"""Back-propagation of the outer gradient along the inner loop, shared by several estimators."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor

from estimators.base.differentiation import differentiate, evaluate
from estimators.base.estimator import MetaGradient
from estimators.base.phases import Phase, marked_outer_loss, phase
from estimators.base.problem import BilevelProblem, State
from estimators.base.tree import Params, axpy, detached, inner, scaled
from estimators.hvp import curvature_at, kernels_for
from estimators.programs.compiled import CompiledProblem, Points


def through_graph(problem: BilevelProblem, params: Params, last: int) -> MetaGradient:
    """Back-propagate through the last inner steps, unrolled; memory grows with them.

    Args:
        problem: the bilevel problem.
        params: theta.
        last: how many steps, 0 to K; the velocity before them is held fixed.
    """
    if isinstance(problem, CompiledProblem):
        return problem.exact(params, last)
    for state in replace(problem, steps=problem.steps - last).states(params):
        start = state

    def outer(params: Params, *sizes: Params) -> tuple[Tensor, Params]:
        end = _with(problem, sizes).unroll(start._replace(params=params), last)
        loss = marked_outer_loss(
            lambda: evaluate(problem.outer_loss, end.params), end.params.values()
        )
        return loss, end.params

    with phase(Phase.META_GRADIENT):
        outer_loss, adapted, gradients = differentiate(outer, start.params, *_sizes(problem))
    return MetaGradient(gradients[0], outer_loss, adapted, last, last, *gradients[1:])


def through_segments(
    problem: BilevelProblem, params: Params, length: int, stride: int
) -> MetaGradient:
    """Back-propagate through all inner steps, with the graph of `length` of them at a time.

    Args:
        problem: the bilevel problem.
        params: theta.
        length: steps a segment, 1 or more; each segment's graph is rebuilt from its start.
        stride: a multiple of that; the state before every `stride`-th step is stored, and the
            starts of other segments are computed again from there.
    """
    if isinstance(problem, CompiledProblem):
        return problem.exact(params, problem.steps)
    end, starts = descent_and_back(problem, params, length, stride)
    outer_loss, g = problem.outer_gradient(end.params)
    pulled = [g, scaled(0.0, end.velocity), *(scaled(0.0, sizes) for sizes in _sizes(problem))]
    for k, start in starts:
        steps = min(length, problem.steps - k)
        params_back, velocity_back, *sizes_back = _pull(
            problem, start, steps, State(pulled[0], pulled[1])
        )
        sums = (axpy(1.0, new, old) for new, old in zip(sizes_back, pulled[2:], strict=True))
        pulled = [params_back, velocity_back, *sums]
    steps = problem.steps
    return MetaGradient(pulled[0], outer_loss, detached(end.params), steps, steps, *pulled[2:])


def descent_and_back(
    problem: BilevelProblem, params: Params, length: int, stride: int
) -> tuple[State, Iterator[tuple[int, State]]]:
    """Run the inner loop, and return its last state and the way back.

    Args:
        problem: the bilevel problem.
        params: theta.
        length: see `through_segments`.
        stride: likewise.

    Returns:
        The state after K steps; and k with the state before step k, for each multiple k of
        `length` below K, the last first.
    """
    stored: list[State] = []
    for k, state in enumerate(problem.states(params)):
        if k % stride == 0 and k < problem.steps:
            stored.append(state._replace(params=detached(state.params)))

    def back() -> Iterator[tuple[int, State]]:
        while stored:
            first = stored.pop()
            start = len(stored) * stride
            between = (min(stride, problem.steps - start) - 1) // length
            segment = replace(problem, steps=between * length).states_from(first)
            states = list(islice(segment, 0, None, length))
            while states:
                yield start + (len(states) - 1) * length, states.pop()

    return state, back()


def _pull(problem: BilevelProblem, start: State, steps: int, vector: State) -> tuple[Params, ...]:
    """Return the derivatives of <state after `steps`, vector> by `start` and step sizes."""

    def projected(params: Params, velocity: Params, *sizes: Params) -> tuple[Tensor, Params]:
        end = _with(problem, sizes).unroll(State(params, velocity, start.step), steps)
        value = inner(end.params, vector.params)
        if end.velocity:
            value = value + inner(end.velocity, vector.velocity)
        return value, {}

    return differentiate(projected, start.params, start.velocity, *_sizes(problem))[2]


def _sizes(problem: BilevelProblem) -> tuple[Params, ...]:
    return (problem.step_size,) if isinstance(problem.step_size, dict) else ()


def _with(problem: BilevelProblem, sizes: tuple[Params, ...]) -> BilevelProblem:
    return replace(problem, step_size=sizes[0]) if sizes else problem


def through_iterates(
    problem: BilevelProblem,
    iterates: Sequence[Params],
    vector: Params,
    engine: str,
    *,
    first: int = 0,
) -> Params:
    """Apply A_k = I - alpha H_k for each iterate, the last one first, one graph at a time.

    Args:
        problem: the bilevel problem; plain gradient descent, or a map.
        iterates: phi_k in the order of the inner loop.
        vector: the outer gradient.
        engine: for the Hessian-vector products.
        first: k of the first one.

    Returns:
        A_first ... A_last vector.
    """
    with kernels_for(engine):
        for k in reversed(range(len(iterates))):
            operator = curvature_at(problem, first + k, iterates[k], engine=engine)
            vector = axpy(-problem.alpha, operator.product(vector, last=True), vector)
    return vector


def adapt(problem: BilevelProblem, params: Params) -> tuple[Points, Params, Tensor, Params]:
    """Run the inner loop and take the outer gradient at its end.

    Args:
        problem: the bilevel problem.
        params: theta.

    Returns:
        The points phi_0..phi_{K-1}, phi_K, the outer loss there and its gradient g.
    """
    if isinstance(problem, CompiledProblem):
        return problem.descend(params)
    *points, end = problem.trajectory(params)
    outer_loss, g = problem.outer_gradient(end)
    return [detached(phi) for phi in points], detached(end), outer_loss, g


def adapt_in_segments(
    problem: BilevelProblem, params: Params, bounds: Sequence[tuple[int, int]]
) -> tuple[list[Params], Params, Tensor, Params]:
    """Run the inner loop and take the outer gradient at its end, as `adapt`; keep means only.

    Args:
        problem: the bilevel problem.
        params: theta.
        bounds: k of the first step and behind the last step of each segment; they follow on one
            another from 0 to K.

    Returns:
        The mean of phi_k over each segment, phi_K, the outer loss there and its gradient g.
    """
    if isinstance(problem, CompiledProblem):
        states, adapted, outer_loss, g = problem.descend(params)
        rows = [states[start:stop].mean(0) for start, stop in bounds]
        return [problem.kind.layout.unflatten(row) for row in rows], adapted, outer_loss, g
    iterates = problem.trajectory(params)
    means: list[Params] = []
    for start, stop in bounds:
        total = detached(next(iterates))
        for _ in range(start + 1, stop):
            total = axpy(1.0, detached(next(iterates)), total)
        means.append(scaled(1 / (stop - start), total) if stop - start > 1 else total)
    (end,) = iterates
    outer_loss, g = problem.outer_gradient(end)
    return means, detached(end), outer_loss, g
