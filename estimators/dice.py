"""Meta-gradients through inner steps along drawn policy gradients."""

from dataclasses import dataclass, field, replace

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, Estimator, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.random import RandomEstimator
from estimators.base.registry import create, register
from estimators.base.sampled_problem import SampledProblem
from estimators.base.tree import Params
from estimators.methods.drawn_steps import DrawnSteps
from estimators.methods.surrogates import SURROGATES, surrogate_of

_PARTS = ("inner", "hessian", "outer")
_DECAY = 0.9


@register("naive", surrogate="naive")
@register("dice", surrogate="dice")
@register("lvc", surrogate="lvc")
@register("loaded-dice", surrogate="loaded-dice")
@dataclass(frozen=True)
class ThroughSamples(RandomEstimator):
    r"""-Ahat_0 Ahat_1 ... Ahat_{K-1} ghat, along inner steps by policy gradients of drawn episodes.

    phi_{k+1} = phi_k + alpha ghat(phi_k; tau_k), where ghat is the first derivative of a surrogate
    of the return J, and Ahat_k = I + alpha times its second one, on the same episodes tau_k, drawn
    at phi_k. The last ghat is that of the query at phi_K. The surrogates differ in the second
    derivative only: with A_t the discounted return from t on and box(x) = exp(x - sg(x)), sg being
    constants,

    - naive: sum_t gamma^t A_t log pi_t;
    - dice: sum_t gamma^t box(sum_{s<=t} log pi_s) r_t, unbiased for the Hessian of J;
    - lvc: sum_t gamma^t (pi_t / sg(pi_t)) A_t;
    - loaded-dice: sum_t gamma^t [box(w_t) - box(w_t - log pi_t)] A_t, with the loads
      w_t = decay w_{t-1} + log pi_t.

    None has a baseline. The estimate has a bias to both truths (`SampledProblem`), but for naive
    with a correction, whose expectation is T2. Only problems with environments are taken. The
    outer loss of the result is the exact one at the adapted parameters.
    Cost: that of `through`, with gradients of surrogates.

    Attributes:
        surrogate: whose name the estimator has.
        decay: of loaded-dice alone, 0 (lvc) to 1 (dice); None is .9.
        correction: add -J(phi_K) sum_k grad log p(tau_k), since theta decides what is drawn: that
            of E-MAML.
        sampled: which parts are drawn, the others being exact, as in "inner+hessian" or "outer":
            the steps' direction ("inner"), its derivative ("hessian"), the outer gradient.
        through: the estimator that back-propagates through the drawn steps: one that takes inner
            maps, such as "truncated(order=1)", "binom(order=2)" or "mixed".

    Source: naive: Finn et al. 2017. dice: Foerster et al., "DiCE: The Infinitely Differentiable
    Monte Carlo Estimator", ICML 2018. lvc: Rothfuss et al., "ProMP: Proximal Meta-Policy Search",
    ICLR 2019. loaded-dice: Farquhar, Whiteson, Foerster, "Loaded DiCE", NeurIPS 2019. Correction:
    Al-Shedivat et al., ICLR 2018; Stadie et al., "The Importance of Sampling in
    Meta-Reinforcement Learning" (E-MAML), NeurIPS 2018.

    Example:
        >>> from estimators import create
        >>> create("lvc(sampled='inner+hessian', through='binom(order=2)')").cost(5).hvps
        8
    """

    surrogate: str
    decay: float | None = None
    correction: bool = False
    sampled: str = "inner+hessian+outer"
    through: str = "maml"
    _inner: Estimator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.surrogate not in SURROGATES:
            names = ", ".join(map(repr, SURROGATES))
            raise OptionError(f"surrogate={self.surrogate!r} is none of {names}")
        if self.decay is not None and self.surrogate != "loaded-dice":
            raise OptionError(f"{self.title}: decay={self.decay} is an option of loaded-dice alone")
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise OptionError(f"{self.title}: decay={self.decay} must be in 0..1")
        parts = self.sampled.split("+")
        if parts != [part for part in _PARTS if part in parts]:
            raise OptionError(
                f"{self.title}: sampled={self.sampled!r} must be of 'inner', 'hessian' and "
                "'outer', in this order, as in 'inner+outer'"
            )
        if self.correction and "inner" not in parts:
            raise OptionError(
                f"{self.title}: correction=True is for sampled inner steps, not for "
                f"sampled={self.sampled!r}"
            )
        inner = create(self.through)
        inner.refuse_unsupported_map()
        object.__setattr__(self, "_inner", inner)

    @property
    def title(self) -> str:
        """See `Estimator.title`."""
        return self.surrogate

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        reason = self._inner.unsupported_reason(steps)
        cost = self._inner.cost(steps)
        if not reason and self.correction and steps and cost and not cost.hvps:
            return (
                f"{self.title}: correction=True is a derivative of the steps, of which "
                f"through={self.through!r} takes none"
            )
        return reason

    def cost(self, steps: int) -> Cost | None:
        """See `Estimator.cost`."""
        return self._inner.cost(steps)

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params | None:
        """Return that of `through`, with exact inner steps.

        Args:
            problem: the bilevel problem.
            params: theta.
        """
        return self._inner.own_exact_gradient(problem, params)

    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        """See `RandomEstimator.draw`.

        Raises:
            OptionError: nothing can be drawn, since the problem has no environments.
        """
        if not isinstance(problem, SampledProblem):
            raise OptionError(
                f"{self.title} draws episodes, which this problem has none of: it takes a "
                "SampledProblem, such as the tasks bandit and mdp(horizon=10)"
            )
        steps = DrawnSteps(
            problem,
            generator,
            surrogate=surrogate_of(self.surrogate, _DECAY if self.decay is None else self.decay),
            parts=self.sampled.split("+"),
            corrected=self.correction,
        )
        result = self._inner(steps.problem(params), params)
        with torch.no_grad():
            return replace(result, outer_loss=problem.outer_loss(result.adapted))
