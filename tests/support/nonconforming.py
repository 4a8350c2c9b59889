"""A plug-in whose estimators each break one rule; the name of the class says which."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from estimators import (
    BilevelProblem,
    Cost,
    Estimator,
    MetaGradient,
    OptionError,
    Params,
    RandomEstimator,
    create,
    register,
)
from estimators.base.differentiation import value_and_gradient
from estimators.base.random import uniform
from estimators.base.tree import leaves, norm, scaled


class Honest(Estimator):
    """First-order MAML, which breaks none."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        return create("fomaml")(problem, params)


def rule_breaker(name: str) -> Any:
    """Register a class, which becomes a frozen dataclass, under a name."""
    return lambda cls: register(name)(dataclass(frozen=True)(cls))


def with_gradient(right: MetaGradient, change: Callable[[str, Tensor], Tensor]) -> MetaGradient:
    return replace(right, gradient={k: change(k, v) for k, v in right.gradient.items()})


# How a result is spoiled, from the right one, the problem and the parameters.
SPOILED: dict[str, Callable[[MetaGradient, BilevelProblem, Params], Any]] = {
    "returns-a-dict": lambda right, _, params: right.gradient,
    "forgets-a-key": lambda right, _, params: replace(
        right, gradient=dict(list(right.gradient.items())[:-1])
    ),
    "flattens": lambda right, _, params: with_gradient(right, lambda _, v: v.reshape(-1)),
    "always-double": lambda right, _, params: with_gradient(right, lambda _, v: v.double()),
    "counts-with-tensors": lambda right, _, params: replace(right, hvps=torch.tensor(0)),  # type: ignore[arg-type]
    "counts-backwards": lambda right, _, params: replace(right, hvps=-1),
    # 0 / 0 where there is no gradient
    "not-finite": lambda right, _, params: with_gradient(right, lambda _, v: v / v),
    "loss-before": lambda right, problem, params: replace(
        right, outer_loss=problem.outer_loss(params).detach()
    ),
    "decays-weights": lambda right, _, params: with_gradient(right, lambda k, v: v + params[k]),
    "imprecise": lambda right, _, params: with_gradient(
        right, lambda _, v: v.bfloat16().float() if v.dtype == torch.float32 else v
    ),
    "stumbles-on-scalars": lambda right, _, params: right if all(map(len, params.values())) else 0,
    "one-step-short": lambda _, problem, params: create("fomaml")(
        replace(problem, steps=problem.steps - (problem.steps > 1)), params
    ),
    "hides-products": lambda _, problem, params: replace(
        create("adjoint")(problem, params), hvps=0, serial_depth=0
    ),
    "returns-its-input": lambda right, _, params: with_gradient(
        right, lambda k, v: torch.zeros_like(v) if k == "idle" else params[k]
    ),
    "rolls-dice": lambda right, _, params: replace(
        right, gradient=scaled(1 + 1e-12 * float(torch.rand(())), right.gradient)
    ),
    "follows-autocast": lambda right, _, params: with_gradient(
        right, lambda _, v: v @ torch.eye(v.shape[-1], dtype=v.dtype) if v.dim() == 2 else v
    ),
    "fails-without-steps": lambda right, problem, params: replace(
        right, gradient=scaled(problem.steps / problem.steps, right.gradient)
    ),
}


def spoil(name: str) -> None:
    """Register an estimator whose result is spoiled."""

    @rule_breaker(name)
    class Spoiled(Honest):
        def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
            result: MetaGradient = SPOILED[name](super().estimate(problem, params), problem, params)
            return result


for _name in SPOILED:
    spoil(_name)


@rule_breaker("honest")
class HonestOne(Honest):
    """Breaks none."""


@rule_breaker("raises-quietly")
class RaisesQuietly(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        raise KeyError("no such\nparameter")


@rule_breaker("understates-its-cost")
class UnderstatesItsCost(Honest):
    def cost(self, steps: int) -> Cost:
        return Cost(steps + 1, min(steps, 3), min(steps, 3))

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        return create("adjoint")(problem, params)


class Drawn(RandomEstimator):
    """First-order MAML of a random length."""

    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        right = create("fomaml")(problem, params)
        return replace(right, gradient=scaled(uniform(params, generator), right.gradient))


@rule_breaker("draws-elsewhere")
class DrawsElsewhere(Drawn):
    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        return super().draw(problem, params, None)


@rule_breaker("never-draws")
class NeverDraws(Drawn):
    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        return create("fomaml")(problem, params)


@rule_breaker("claims-to-be-unbiased")
class ClaimsToBeUnbiased(Drawn):
    is_unbiased: ClassVar[bool] = True


@rule_breaker("understates-its-mean-cost")
class UnderstatesItsMeanCost(Drawn):
    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        return create("ufom(q=0.5)")(problem, params, generator=generator)

    def cost(self, steps: int) -> Cost:
        return Cost(steps + 1, 0.1 * steps, 0.1 * steps)


@rule_breaker("own-gradient-of-nothing")
class OwnGradientOfNothing(Honest):
    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params:
        return {}


@rule_breaker("changes-parameters")
class ChangesParameters(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        for value in params.values():
            value.mul_(1.001)
        return right


@rule_breaker("changes-grad")
class ChangesGrad(Honest):
    def __call__(
        self, problem: BilevelProblem, params: Mapping[str, Tensor], **_: object
    ) -> MetaGradient:
        right = super().__call__(problem, params)
        for name, value in params.items():
            value.grad = right.gradient[name].clone()
        return right


@rule_breaker("needs-gradients-on")
class NeedsGradientsOn(Honest):
    def __call__(
        self, problem: BilevelProblem, params: Mapping[str, Tensor], **_: object
    ) -> MetaGradient:
        if not torch.is_grad_enabled():
            raise RuntimeError("element 0 of tensors does not require grad")
        return super().__call__(problem, params)


@rule_breaker("leaves-gradients-off")
class LeavesGradientsOff(Honest):
    def __call__(
        self, problem: BilevelProblem, params: Mapping[str, Tensor], **_: object
    ) -> MetaGradient:
        right = super().__call__(problem, params)
        torch.set_grad_enabled(False)
        return right


@rule_breaker("returns-a-graph")
class ReturnsAGraph(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        phi = leaves(problem.adapt(params))
        loss, gradient = value_and_gradient(problem.outer_loss, phi, create_graph=True)
        end = {name: value.detach() for name, value in phi.items()}
        gradient = {name: value.detach() for name, value in gradient.items()}
        return MetaGradient(gradient, loss, end, 0, 0)


_HOARD: list[Params] = []


@rule_breaker("hoards")
class Hoards(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        _HOARD.append({name: value.clone() for name, value in right.gradient.items()})
        return right


@rule_breaker("goes-in-circles")
class GoesInCircles(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        circle: list[Any] = [value.clone() for value in right.gradient.values()]
        circle.append(circle)
        return right


@register("mutable")
@dataclass
class MutableOne(Honest):
    factor: float = 1.0


@register("no-dataclass")
class NoDataclass(Honest):
    pass


@rule_breaker("never-equal")
class NeverEqual(Honest):
    cache: object = field(default_factory=object, init=False)


@rule_breaker("unreadable-option")
class UnreadableOption(Honest):
    limit: float = math.nan


@rule_breaker("refuses-in-silence")
class RefusesInSilence(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        if problem.steps > 4:
            raise OptionError("too deep; 4 at most")
        return super().estimate(problem, params)


@rule_breaker("ignores-its-reason")
class IgnoresItsReason(Honest):
    def unsupported_reason(self, steps: int) -> str | None:
        return "too deep" if steps > 4 else None

    def __call__(
        self, problem: BilevelProblem, params: Mapping[str, Tensor], **_: object
    ) -> MetaGradient:
        return create("fomaml")(problem, params)


@rule_breaker("sums-vectors")
class SumsVectors(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        whole = replace(
            problem,
            inner_loss=lambda p: problem.inner_loss(p).sum(),
            outer_loss=lambda p: problem.outer_loss(p).sum(),
        )
        return super().estimate(whole, params)


@rule_breaker("shrugs")
class Shrugs(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        try:
            return super().estimate(problem, params)
        except OptionError as error:
            if "differentiable" not in str(error):
                raise
            return super().estimate(replace(problem, steps=0), params)


@rule_breaker("forgets-momentum")
class ForgetsMomentum(Honest):
    supports_momentum: ClassVar[bool] = True

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        return super().estimate(replace(problem, momentum=0.0), params)


@rule_breaker("clips")
class Clips(Honest):
    @property
    def batchable(self) -> bool:
        return True

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        return replace(right, gradient=scaled(1 / max(1e-3, norm(right.gradient)), right.gradient))


@rule_breaker("small-models-only")
class SmallModelsOnly(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        big = [name for name, value in params.items() if value.numel() > 1000]
        if big:
            raise MemoryError(f"no room for {big[0]}")
        return super().estimate(problem, params)


@rule_breaker("fits-nothing")
class FitsNothing(Honest):
    def unsupported_reason(self, steps: int) -> str | None:
        return "not today"


@rule_breaker("refuses-everything")
class RefusesEverything(Honest):
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        raise OptionError("not today; tomorrow")


@rule_breaker("reason-is-a-flag")
class ReasonIsAFlag(Honest):
    def unsupported_reason(self, steps: int) -> str | None:
        return steps > 4 or None  # type: ignore[return-value]


@rule_breaker("unhashable")
class Unhashable(Honest):
    layers: list[str] = field(default_factory=list)


@rule_breaker("has-no-estimate")
class HasNoEstimate(Estimator):
    pass


@register("made-of-nothing")  # type: ignore[arg-type]
def nothing() -> None:
    pass


@register("cannot-be-made")
def cannot_be_made() -> Estimator:
    raise KeyError("anything")
