"""The second truth of drawn inner steps: the gradient of the expected outer loss after them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators import MapProblem, Params, SampledProblem, create
from estimators.base.differentiation import evaluate, gradient_at
from estimators.base.tree import axpy, detached, dot, leaves, norm, scaled
from estimators.base.tree import inner as inner_product
from estimators.hvp import hvp
from estimators.methods.surrogates import naive
from harness.probes import enumeration
from harness.probes.draws import generator_of

DRAWS = 256
_STREAM = 2  # separates these random streams from those of estimates
_CORRECTED = "naive(sampled='inner+hessian', correction=True)"
_SCORE, _CONTROL = "sum of log-probabilities", "control variate"


@dataclass(frozen=True)
class SecondTruth:
    """T2 of a task.

    Attributes:
        gradient: of the expected outer loss after drawn steps.
        variance: of this estimate, the sum over entries; 0 where all outcomes were enumerated.
    """

    gradient: Params
    variance: float

    @property
    def error(self) -> float:
        """Its standard error over its length."""
        return self.variance**0.5 / norm(self.gradient) if self.variance else 0.0


def second_truth(problem: SampledProblem, params: Params, *key: int) -> SecondTruth:
    r"""Return T2 of a problem, by enumeration where that is possible, or of `DRAWS` draws.

    With phi_K and the score s = sum_k log p(tau_k) of drawn steps, and a control variate c of
    expectation zero at any theta, each draw is the gradient of (L - c) + sg(L - c) s, L being the
    exact outer loss at phi_K less that after exact steps. With the exact adjoints w_k, held fixed,
    c = sum_k w_k (phi_{k+1} - E[phi_{k+1} | phi_k]) takes the linear part of the noise away: what
    is left falls with the number of episodes, as without c it does not.

    Args:
        problem: its steps are drawn.
        params: theta, in float64.
        *key: of whole numbers, from which the draws follow.
    """
    if enumeration.count(problem) <= enumeration.MOST:
        total = scaled(0.0, params)
        for weight, estimate in enumeration.estimates(create(_CORRECTED), problem, params):
            total = axpy(weight, estimate.gradient, total)
        return SecondTruth(total, 0.0)
    adjoints, end = _exact(problem, params)
    mean, squares = scaled(0.0, params), 0.0
    for draw in range(1, DRAWS + 1):
        drawn = _Draw(problem, adjoints, end, generator_of(*key, _STREAM, draw)).problem(params)
        apart = axpy(-1.0, mean, create("maml")(drawn, params).gradient)
        mean = axpy(1 / draw, apart, mean)
        squares += (draw - 1) / draw * dot(apart, apart)
    return SecondTruth(mean, squares / (DRAWS - 1) / DRAWS)


def _exact(problem: SampledProblem, params: Params) -> tuple[list[Params], Tensor]:
    """Return the adjoints behind each step, along exact steps, and the outer loss at their end."""
    *points, end = (detached(phi) for phi in problem.trajectory(params))
    outer_loss, vector = problem.outer_gradient(leaves(end))
    adjoints = []
    for phi in reversed(points):
        adjoints.append(vector)
        product = hvp(problem.inner_loss, phi, vector, engine="reverse")
        vector = axpy(-problem.alpha, product, vector)
    return adjoints[::-1], outer_loss


@dataclass(frozen=True, eq=False)
class _Draw:
    """One draw of the inner loop, with its score and its control variate."""

    sampled: SampledProblem
    adjoints: list[Params]
    baseline: Tensor
    generator: torch.Generator

    def problem(self, params: Params) -> MapProblem:
        zero = next(iter(params.values())).new_zeros(())
        return MapProblem(
            self.sampled.inner_loss,
            self._outer_loss,
            steps=self.sampled.steps,
            inner_map=self._step,
            auxiliary={_SCORE: zero, _CONTROL: zero},
        )

    def _step(self, params: Params, step: int) -> Params:
        policy = _policy(params)
        environment, alpha = self.sampled.inner, self.sampled.alpha
        episodes = environment.draw(detached(policy), self.generator)

        def surrogate(policy: Params) -> Tensor:
            taken = environment.log_probabilities(policy, episodes)
            return -naive(taken, episodes.rewards, self.sampled.discount)

        drawn = gradient_at(surrogate, policy, create_graph=True)
        expected = gradient_at(self.sampled.inner_loss, policy, create_graph=True)
        noise = axpy(-1.0, expected, drawn)
        score = environment.log_probabilities(policy, episodes).sum()
        return axpy(-alpha, drawn, policy) | {
            _SCORE: params[_SCORE] + score,
            _CONTROL: params[_CONTROL] - alpha * inner_product(self.adjoints[step], noise),
        }

    def _outer_loss(self, params: Params) -> Tensor:
        rest = evaluate(self.sampled.outer_loss, _policy(params)) - self.baseline - params[_CONTROL]
        return rest + rest.detach() * params[_SCORE]


def _policy(params: Params) -> Params:
    return {name: value for name, value in params.items() if name not in (_SCORE, _CONTROL)}
