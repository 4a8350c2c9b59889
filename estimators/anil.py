"""Almost no inner loop: only the head is adapted."""

from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from estimators.base.differentiation import differentiate, evaluate
from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.phases import Phase, marked_outer_loss, phase
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.methods.options import Compilable
from estimators.programs.compiled import CompiledProblem


@register("anil")
@dataclass(frozen=True)
class Anil(Compilable):
    """d outer_loss(body, head_K) / d (body, head) after K steps on the head only.

    head_{k+1} = head_k - alpha grad_head inner_loss(body, head_k). Its own objective is that outer
    loss; its meta-gradient is exact for it, the dependence of the steps on the body included.
    Cost: below (3K+1) inner gradients, the less the smaller the head; K HVPs, all serial, with the
    graphs of all K steps.

    Attributes:
        head: the name of a parameter or of the module that is adapted, as "fc"; "" is the last
            module: the last parameter, and those whose names share all but what follows the last
            dot.

    Source: Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", ICLR 2020, section 4.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda p: 0.5 * ((p["body"] * p["head"] - 1) ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> anil = create("anil(head='head')")
        >>> anil(problem, {"body": torch.ones(1), "head": torch.zeros(1)}).adapted["body"]
        tensor([1.])
    """

    head: str = ""

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(nan, steps, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        outer_loss, adapted, gradient = self._differentiated(problem, params)
        return MetaGradient(gradient, outer_loss, adapted, problem.steps, problem.steps)

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params:
        """Return the gradient of the outer loss after K steps on the head.

        Args:
            problem: the bilevel problem.
            params: theta; float64 for a reference.
        """
        with torch.enable_grad():
            return self._differentiated(problem, params)[2]

    def names(self, params: Params) -> list[str]:
        """Return the names of the head's parameters.

        Args:
            params: theta.

        Raises:
            OptionError: there is none of that name.
        """
        *_, last = params
        prefix = self.head or last.rpartition(".")[0] or last
        names = [name for name in params if name == prefix or name.startswith(prefix + ".")]
        if not names:
            raise OptionError(f"anil: no parameter is {prefix!r}; there is {', '.join(params)}")
        return names

    def _differentiated(
        self, problem: BilevelProblem, params: Params
    ) -> tuple[Tensor, Params, Params]:
        names = self.names(params)
        if isinstance(problem, CompiledProblem):
            return problem.exact_in(params, names)

        def outer(theta: Params) -> tuple[Tensor, Params]:
            on_the_head = replace(
                problem, inner_loss=lambda head: problem.inner_loss({**theta, **head})
            )
            start = on_the_head.start({name: theta[name] for name in names})
            body = {name: value.clone() for name, value in theta.items()}
            head = on_the_head.unroll(start, problem.steps).params
            adapted = {**body, **head}
            loss = marked_outer_loss(lambda: evaluate(problem.outer_loss, adapted), head.values())
            return loss, adapted

        with phase(Phase.META_GRADIENT):
            outer_loss, adapted, (gradient,) = differentiate(outer, params)
        return outer_loss, adapted, gradient
