"""Shared ends of the estimators that propagate the outer gradient back along the inner loop."""

# Strings, since torch.compile cannot evaluate the annotations of a function that it meets.
from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from estimators.base.differentiation import differentiate, evaluate
from estimators.base.estimator import MetaGradient
from estimators.base.phases import Phase, marked_outer_loss, phase
from estimators.base.problem import BilevelProblem, State
from estimators.base.tree import Params, axpy, detached, inner, scaled
from estimators.hvp import hvp


@dataclass(frozen=True)
class Ends:
    """What back-propagation along the inner loop gives.

    Attributes:
        gradient: with respect to the parameters before the steps.
        outer_loss: scalar, at the adapted parameters.
        adapted: phi_K.
        step_size_gradient: with respect to the step sizes of those steps; None where the step
            size is one number.
    """

    gradient: Params
    outer_loss: Tensor
    adapted: Params
    step_size_gradient: Params | None = None

    def as_meta_gradient(self, hvps: int, serial_depth: int) -> MetaGradient:
        """Returns the same with what it took; see `MetaGradient`."""
        return MetaGradient(
            self.gradient,
            self.outer_loss,
            self.adapted,
            hvps,
            serial_depth,
            self.step_size_gradient,
        )


def through_graph(problem: BilevelProblem, start: State, steps: int) -> Ends:
    """Back-propagates through `steps` unrolled inner steps; memory grows with them.

    Args:
        problem: the bilevel problem.
        start: the state before those steps; its velocity is held fixed.
        steps: how many.
    """

    def outer(params: Params, *sizes: Params) -> tuple[Tensor, Params]:
        end = _with(problem, sizes).unroll(State(params, start.velocity), steps)
        loss = marked_outer_loss(
            lambda: evaluate(problem.outer_loss, end.params), end.params.values()
        )
        return loss, end.params

    with phase(Phase.META_GRADIENT):
        outer_loss, adapted, gradients = differentiate(outer, start.params, *_sizes(problem))
    return Ends(gradients[0], outer_loss, adapted, *gradients[1:])


def through_segments(problem: BilevelProblem, params: Params, length: int) -> Ends:
    """Back-propagates through all inner steps, with the graph of `length` of them at a time.

    Args:
        problem: the bilevel problem.
        params: theta.
        length: steps a segment, 1 or more; each segment's graph is rebuilt from its start.
    """
    starts: list[State] = []
    for k, state in enumerate(problem.states(params)):
        if k % length == 0:
            starts.append(State(detached(state.params), state.velocity))
    end = state
    outer_loss, g = problem.outer_gradient(end.params)
    pulled = [g, scaled(0.0, end.velocity), *(scaled(0.0, sizes) for sizes in _sizes(problem))]
    for index, start in reversed(list(enumerate(starts))):
        steps = min(length, problem.steps - index * length)
        params_back, velocity_back, *sizes_back = _pull(problem, start, steps, State(*pulled[:2]))
        sums = (axpy(1.0, new, old) for new, old in zip(sizes_back, pulled[2:], strict=True))
        pulled = [params_back, velocity_back, *sums]
    return Ends(pulled[0], outer_loss, detached(end.params), *pulled[2:])


def _pull(problem: BilevelProblem, start: State, steps: int, vector: State) -> tuple[Params, ...]:
    """Returns the derivatives of <state after `steps`, vector> by `start` and step sizes."""

    def projected(params: Params, velocity: Params, *sizes: Params) -> tuple[Tensor, Params]:
        end = _with(problem, sizes).unroll(State(params, velocity), steps)
        return inner(end.params, vector.params) + inner(end.velocity, vector.velocity), {}

    return differentiate(projected, *start, *_sizes(problem))[2]


def _sizes(problem: BilevelProblem) -> tuple[Params, ...]:
    return (problem.step_size,) if isinstance(problem.step_size, dict) else ()


def _with(problem: BilevelProblem, sizes: tuple[Params, ...]) -> BilevelProblem:
    return replace(problem, step_size=sizes[0]) if sizes else problem


def through_iterates(
    problem: BilevelProblem, iterates: list[Params], vector: Params, engine: str
) -> Params:
    """Applies A_k = I - alpha H_k for each iterate, the last one first, one graph at a time.

    Args:
        problem: the bilevel problem; plain gradient descent.
        iterates: phi_k in the order of the inner loop.
        vector: the outer gradient.
        engine: for the Hessian-vector products.

    Returns:
        A_first ... A_last vector.
    """
    for phi in reversed(iterates):
        product = hvp(problem.inner_loss, phi, vector, engine=engine)
        vector = axpy(-problem.alpha, product, vector)
    return vector


def adapt(problem: BilevelProblem, params: Params) -> tuple[list[Params], Tensor, Params]:
    """Runs the inner loop and takes the outer gradient at its end.

    Args:
        problem: the bilevel problem.
        params: theta.

    Returns:
        The iterates phi_0..phi_K, the outer loss at phi_K and its gradient g there.
    """
    iterates = list(problem.trajectory(params))
    outer_loss, g = problem.outer_gradient(iterates[-1])
    return [detached(phi) for phi in iterates], outer_loss, g
