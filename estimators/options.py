"""Options that many estimators share: how products are computed, and compilation."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch

from estimators.compilation import compiled_estimate
from estimators.errors import OptionError
from estimators.estimator import Estimator, MetaGradient
from estimators.hvp import ENGINES
from estimators.problem import BilevelProblem
from estimators.tree import Params

AUTO = "auto"
_CHUNK = re.compile(r"chunk\(([1-9]\d*)\)")


@dataclass(frozen=True, kw_only=True)
class Compilable(Estimator):
    """An estimator that can run as one compiled program.

    Attributes:
        compiled: compile the whole estimate with torch.compile, at the first call and again for
            other shapes, dtypes and loss functions. That takes from half a minute to minutes;
            then small models run several times as fast. Needs a C++ compiler on the CPU.
    """

    compiled: bool = False

    @property
    def separable(self) -> bool:
        """Whatever can be compiled adds, scales and multiplies by Hessians alone."""
        return True

    def _run(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        if self.compiled:
            return compiled_estimate(self, problem, params)
        return super()._run(problem, params)


@dataclass(frozen=True, kw_only=True)
class TakesProducts(Estimator):
    """An estimator that takes Hessian-vector products.

    Attributes:
        engine: how a product is computed: "reverse", "forward", "func", "finite-difference" (see
            `estimators.hvp`), or "auto": what was measured to be best on the kind of device and
            model at hand (defaults.toml).
    """

    engine: str = AUTO

    def __post_init__(self) -> None:
        if self.engine not in (AUTO, *ENGINES):
            raise OptionError(f"engine={self.engine!r} is none of {', '.join((AUTO, *ENGINES))}")
        if getattr(self, "compiled", False) and self.engine not in (AUTO, "func"):
            raise OptionError(f"compiled=True works with engine='func', not {self.engine!r}")

    @property
    def separable(self) -> bool:
        """The step of a finite difference depends on all problems of a stack."""
        return self.engine != "finite-difference"

    def engine_for(self, params: Params) -> str:
        """Returns the engine to use at these parameters.

        Args:
            params: theta.
        """
        return measured_default(params)["engine"] if self.engine == AUTO else self.engine


def check_batching(text: str) -> None:
    """Refuses what is no way of batching.

    Args:
        text: the option's value.

    Raises:
        OptionError: it is none of auto, loop, vmap and chunk(n).
    """
    if text not in (AUTO, "loop", "vmap") and not _CHUNK.fullmatch(text):
        raise OptionError(f"batching={text!r} is none of auto, loop, vmap, chunk(2), chunk(3), ...")


def at_once(batching: str, params: Params, *, order: int) -> int | None:
    """Returns how many products are to be taken in one go.

    Args:
        batching: "auto", "loop", "vmap" or "chunk(n)".
        params: theta; "auto" looks at them.
        order: L; all products of order 1 are independent, which "auto" makes use of.

    Returns:
        1 for a loop, n for chunks, None for no limit.
    """
    default = measured_default(params)["batching_order_1" if order == 1 else "batching"]
    text = default if batching == AUTO else batching
    match = _CHUNK.fullmatch(text)
    if match:
        return int(match[1])
    return 1 if text == "loop" else None


def measured_default(params: Params) -> dict[str, str]:
    """Returns the options that "auto" stands for on the kind of device and model at hand.

    Args:
        params: theta; a model with a kernel of three or more dimensions is "convolutional",
            any other "dense".
    """
    if torch.compiler.is_compiling():
        return {"engine": "func", "batching": "loop", "batching_order_1": "loop"}
    device = next(iter(params.values())).device.type
    convolutional = any(value.dim() > 2 for value in params.values())
    table = _table()
    return table.get(device, table["cpu"])["convolutional" if convolutional else "dense"]


@cache
def _table() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads(files(__package__).joinpath("defaults.toml").read_text(encoding="utf-8"))
