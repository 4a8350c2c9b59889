"""Options that many estimators share: how products are computed, and compilation."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil, sqrt

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Estimator, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params
from estimators.hvp import ENGINES, Hessian, hessian_at
from estimators.programs.compiled import CompiledProblem, compiled_estimate

AUTO = "auto"
_SMALL = 20_000  # entries: their products are bound by launches, not by arithmetic


@dataclass(frozen=True, kw_only=True)
class Compilable(Estimator):
    """An estimator that can run by compiled programs.

    Attributes:
        compiled: compile the inner loop, the outer gradient and products, once for all tasks, step
            sizes and depths, and again for other shapes, dtypes, loss functions, and numbers in
            these (make them tensors). That takes from ten seconds to a minute; programs are kept on
            disk, and ready in a second when they are wanted again. Needs a C++ compiler.
    """

    compiled: bool = False

    @property
    def batchable(self) -> bool:
        """True: programs that can be compiled only add, scale and multiply by Hessians."""
        return True

    def _run(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        if self.compiled:
            return compiled_estimate(self, problem, params)
        return super()._run(problem, params, generator)


@dataclass(frozen=True, kw_only=True)
class TakesProducts(Estimator):
    """An estimator that takes Hessian-vector products.

    Attributes:
        engine: how a product is computed: "reverse", "forward", "func", "finite-difference" (see
            `estimators.hvp`), or "auto": the one measured to be best for the device and model
            (defaults.toml).
    """

    engine: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine not in (AUTO, *ENGINES):
            raise OptionError(f"engine={self.engine!r} is none of {', '.join((AUTO, *ENGINES))}")
        if getattr(self, "compiled", False) and self.engine != AUTO:
            raise OptionError(f"engine={self.engine!r} and compiled=True do not go together")

    @property
    def batchable(self) -> bool:
        """Whether no finite differences are taken, whose step depends on all problems."""
        return self.engine != "finite-difference"

    def graphs(self, points: int) -> int:
        """Return how many gradients are taken only as graphs, for products at some points.

        Args:
            points: one or more products are taken at each of these.
        """
        return 0 if self.engine == "finite-difference" else points

    def engine_for(self, params: Params) -> str:
        """Return the engine to use at these parameters.

        Args:
            params: theta.
        """
        return measured_default(params).engine if self.engine == AUTO else self.engine

    def hessian_at(self, problem: BilevelProblem, point: Params) -> Hessian:
        """Return the Hessian of the inner loss at a point, compiled where the problem is.

        Args:
            problem: the bilevel problem.
            point: left as it is.
        """
        if isinstance(problem, CompiledProblem):
            return problem.hessian_at(point)
        return hessian_at(problem.inner_loss, point, engine=self.engine_for(point))


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Estimator):
    """An estimator that can compute part of the inner loop again instead of storing it.

    Attributes:
        checkpoint: "none", or "sqrt": every ceil(sqrt(K))-th iterate is stored.
    """

    checkpoint: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint not in ("none", "sqrt"):
            raise OptionError(
                f'{self.title}: checkpoint={self.checkpoint!r} is neither "none" nor "sqrt"'
            )

    def stride(self, steps: int) -> int:
        """Return how many steps apart the iterates are that are stored, 1 or more.

        Args:
            steps: K.
        """
        return ceil(sqrt(steps)) or 1 if self.checkpoint == "sqrt" else 1


@dataclass(frozen=True)
class Default:
    """The meaning of "auto" for one kind of device and model.

    Attributes:
        engine: for products.
        batching: of independent products.
        from_width: least number of independent products for that; fewer are taken in a loop.
    """

    engine: str
    batching: str
    from_width: int = 1


def measured_default(params: Params) -> Default:
    """Return the meaning of "auto" for a device and model.

    Args:
        params: theta; a model with a kernel of three or more dimensions is "convolutional", any
            other "small" up to 20,000 entries, or else "dense".
    """
    device = next(iter(params.values())).device.type
    kind = "dense"
    if any(value.dim() > 2 for value in params.values()):
        kind = "convolutional"
    elif sum(value.numel() for value in params.values()) <= _SMALL:
        kind = "small"
    table = _table()
    return table.get(device, table["cpu"])[kind]


@cache
def _table() -> dict[str, dict[str, Default]]:
    text = files(__package__).joinpath("defaults.toml").read_text(encoding="utf-8")
    return {
        device: {kind: Default(**row) for kind, row in rows.items()}
        for device, rows in tomllib.loads(text).items()
    }
