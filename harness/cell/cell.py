"""A cell: one point of the benchmark matrix, and its name."""

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS
from harness.models import MODELS
from harness.tasks import TASKS

DTYPES = ("float32", "float64")
MOST_TRAINED = 200_000  # the tasks that a seed has for meta-training last that long
_DEVICE = re.compile(r"cpu|cuda:(0|[1-9]\d*)")

# A specification in a name: a slash ends it, unless it is within the quotes of an option.
_SPEC = r"""((?:[^/'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+)"""
_COUNT = r"(\d{1,18})"
_ID = re.compile(
    rf"{_SPEC}/{_SPEC}/K{_COUNT}/alpha(\d+(?:\.\d+)?(?:e[+-]?\d+)?)/{_SPEC}"
    rf"/([^/]+)/([^/]+)/seed{_COUNT}/tasks{_COUNT}(?:/trained{_COUNT})?",
    re.ASCII,
)


@dataclass(frozen=True)
class Cell:
    """One point of the matrix; make it with `Cell.of`, which checks and normalises.

    Attributes:
        estimator: canonical estimator specification; empty in the name of a group.
        task: canonical task specification.
        model: canonical model specification.
        depth: K, inner steps.
        step_size: alpha.
        device: "cpu" or "cuda:N".
        dtype: "float32" or "float64", of everything but bias, which is always float64.
        seed: of the initial parameters and of the tasks.
        tasks: how many tasks bias is taken over.
        trained: steps of exact meta-training before anything is measured.
    """

    estimator: str
    task: str
    model: str
    depth: int
    step_size: float
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    tasks: int = 8
    trained: int = 0

    @classmethod
    def of(
        cls,
        *,
        estimator: str,
        task: str,
        model: str,
        depth: int,
        step_size: float | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        tasks: int = 8,
        trained: int = 0,
    ) -> "Cell":
        """Checks every part and returns the cell in its canonical form.

        Args:
            estimator: estimator specification.
            task: task specification.
            model: model specification.
            depth: K >= 0.
            step_size: alpha > 0; the task's own when None.
            device: "cpu", "cuda" (the first one) or "cuda:N".
            dtype: "float32" or "float64".
            seed: 0 or more.
            tasks: 1 or more.
            trained: 0 to 200,000.

        Returns:
            The cell.

        Raises:
            OptionError: a part is wrong, or model and task do not go together.
        """
        family = TASKS.create(task)
        unsupported_reason = MODELS.create(model).unsupported_reason(family)
        if unsupported_reason:
            raise OptionError(f"model {model} does not fit task {task}: {unsupported_reason}")
        ESTIMATORS.create(estimator)
        device = "cuda:0" if device == "cuda" else device
        if not _DEVICE.fullmatch(device):
            raise OptionError(f"unknown device {device!r}; write cpu, cuda or cuda:1")
        if dtype not in DTYPES:
            raise OptionError(f"unknown dtype {dtype!r}; there is {', '.join(DTYPES)}")
        alpha = family.step_size if step_size is None else float(step_size)
        if not 0 < alpha < math.inf:
            raise OptionError(f"step size {alpha} must be positive and finite")
        for what, value, least in (
            ("depth", depth, 0),
            ("seed", seed, 0),
            ("tasks", tasks, 1),
            ("trained", trained, 0),
        ):
            if value < least:
                raise OptionError(f"{what} {value} must be {least} or more")
        if trained > MOST_TRAINED:
            raise OptionError(f"trained {trained} must be {MOST_TRAINED} or less")
        return cls(
            estimator=ESTIMATORS.canonical(estimator),
            task=TASKS.canonical(task),
            model=MODELS.canonical(model),
            depth=depth,
            step_size=alpha,
            device=device,
            dtype=dtype,
            seed=seed,
            tasks=tasks,
            trained=trained,
        )

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """Reads the name of a cell; the inverse of `id`.

        Args:
            text: a cell's `id`, or one whose specifications are spelled otherwise.

        Returns:
            The cell.

        Raises:
            OptionError: the text is no such name, or a part of it is wrong.

        Example:
            >>> Cell.parse("sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8").depth
            5
        """
        match = _ID.fullmatch(text)
        if not match:
            raise OptionError(
                f"cannot read the cell {text!r}; write it like "
                "sinusoid/mlp-40-40/K5/alpha0.01/binom(order=2)/cpu/float32/seed0/tasks8"
            )
        task, model, depth, alpha, estimator, device, dtype, seed, tasks, trained = match.groups(
            "0"
        )
        return cls.of(
            estimator=estimator,
            task=task,
            model=model,
            depth=int(depth),
            step_size=float(alpha),
            device=device,
            dtype=dtype,
            seed=int(seed),
            tasks=int(tasks),
            trained=int(trained),
        )

    @property
    def id(self) -> str:
        """Readable name, the same for ever; a part added later is left out at its default.

        Example:
            >>> Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=5).id
            'sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8'
        """
        return (
            f"{self.task}/{self.model}/K{self.depth}/alpha{self.step_size!r}/{self.estimator}"
            f"/{self.device}/{self.dtype}/seed{self.seed}/tasks{self.tasks}"
            + (f"/trained{self.trained}" if self.trained else "")
        )

    @property
    def group(self) -> "Cell":
        """The cell without its estimator: what a float64 reference and a timing belong to."""
        return replace(self, estimator="")

    @property
    def chain(self) -> "Cell":
        """The meta-training that cells share, however far each of them goes along it."""
        return replace(self, estimator="", device="cpu", dtype="float64", tasks=1, trained=0)

    def unsupported_reason(self) -> str | None:
        """Tells why the estimator cannot work at this depth; None when it can."""
        return ESTIMATORS.create(self.estimator).unsupported_reason(self.depth)

    def as_dict(self) -> dict[str, Any]:
        """Returns the parts, ready for JSON."""
        return asdict(self)
