"""A cell: one point of the benchmark matrix, and its name."""

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS
from harness.cell.axes import Axis, axis

DTYPES = ("float32", "float64")
MOST_TRAINED = 200_000  # the tasks that a seed has for meta-training last that long
_DEVICE = re.compile(r"cpu|cuda:(0|[1-9]\d*)")


@dataclass(frozen=True)
class Cell:
    """One point of the matrix; make it with `Cell.of`, which checks and normalises.

    Each field is an axis: what reads, writes, selects and shows cells follows from the fields.

    Attributes:
        estimator: canonical estimator specification; empty in the name of a group.
        task: canonical task specification.
        model: canonical model specification.
        depth: K, inner steps.
        step_size: alpha.
        device: "cpu" or "cuda:N".
        dtype: "float32" or "float64", of everything but bias, which is always float64.
        seed: of the initial parameters and of the tasks.
        num_tasks: how many tasks bias is taken over.
        trained: steps of exact meta-training before anything is measured.
    """

    estimator: str = field(metadata=axis("estimator"))
    task: str = field(metadata=axis("task"))
    model: str = field(metadata=axis("model"))
    depth: int = field(metadata=axis("depth K", mark="K", least=0))
    step_size: float = field(metadata=axis("step size", mark="alpha"))
    device: str = field(default="cpu", metadata=axis("device"))
    dtype: str = field(default="float32", metadata=axis("dtype"))
    seed: int = field(default=0, metadata=axis("seed", mark="seed", least=0))
    num_tasks: int = field(default=8, metadata=axis("tasks", key="tasks", mark="tasks", least=1))
    trained: int = field(
        default=0,
        metadata=axis("meta-training steps", mark="trained", least=0, most=MOST_TRAINED, late=True),
    )

    @classmethod
    def of(
        cls,
        *,
        estimator: str,
        task: str,
        model: str,
        depth: int,
        step_size: float | None = None,
        **more: Any,
    ) -> "Cell":
        """Check every part and return the cell in its canonical form.

        Args:
            estimator: estimator specification.
            task: task specification.
            model: model specification.
            depth: K >= 0.
            step_size: alpha > 0; the task's own when None.
            **more: other attributes; the device may also be "cuda", the first one.

        Returns:
            The cell.

        Raises:
            OptionError: a part is wrong, or model and task do not go together.

        Example:
            >>> Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=5).step_size
            0.01
        """
        from harness.models import MODELS  # with torch, which readers of cells can do without
        from harness.tasks import TASKS

        family = TASKS.create(task)
        reason = MODELS.create(model).unsupported_reason(family)
        if reason:
            raise OptionError(f"model {model} does not fit task {task}: {reason}")
        ESTIMATORS.create(estimator)
        alpha = family.step_size if step_size is None else float(step_size)
        if not 0 < alpha < math.inf:
            raise OptionError(f"step size {alpha} must be positive and finite")
        more |= {"device": "cuda:0"} if more.get("device") == "cuda" else {}
        cell = cls(
            ESTIMATORS.canonical(estimator),
            TASKS.canonical(task),
            MODELS.canonical(model),
            depth,
            alpha,
            **more,
        )
        if not _DEVICE.fullmatch(cell.device):
            raise OptionError(f"unknown device {cell.device!r}; write cpu, cuda or cuda:1")
        if cell.dtype not in DTYPES:
            raise OptionError(f"unknown dtype {cell.dtype!r}; there is {', '.join(DTYPES)}")
        for one in AXES.values():
            if wrong := one.out_of_range(getattr(cell, one.name)):
                raise OptionError(wrong)
        return cell

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """Read the name of a cell; the inverse of `id`.

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
        said = zip(_IN_ID, match.groups(), strict=True)
        return cls.of(**{one.name: one.kind(value) for one, value in said if value is not None})

    @property
    def id(self) -> str:
        """Readable name, the same for ever; an axis added later is left out at its default.

        Example:
            >>> Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=5).id
            'sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8'
        """
        values = [(one, getattr(self, one.name)) for one in _IN_ID]
        return "/".join(
            f"{one.mark}{value}" for one, value in values if not (one.late and value == one.default)
        )

    @property
    def group(self) -> "Cell":
        """The cell without its estimator: what a float64 reference and a timing belong to."""
        return replace(self, estimator="")

    @property
    def chain(self) -> "Cell":
        """The meta-training that cells share, however far each of them goes along it."""
        return replace(self, estimator="", device="cpu", dtype="float64", num_tasks=1, trained=0)

    def unsupported_reason(self) -> str | None:
        """Return why the estimator cannot work at this depth; None when it can."""
        return ESTIMATORS.create(self.estimator).unsupported_reason(self.depth)

    def as_dict(self) -> dict[str, Any]:
        """Return the values of all axes by key, ready for JSON."""
        return {key: getattr(self, one.name) for key, one in AXES.items()}


AXES: dict[str, Axis] = {one.key: one for one in map(Axis.of, fields(Cell))}
"""The axes of the matrix by key, in the order of columns."""

# The order of ids: the setting, the estimator in it, the rest.
_FIRST = ("task", "model", "depth", "step_size", "estimator")
_IN_ID = (*(AXES[key] for key in _FIRST), *(AXES[key] for key in AXES if key not in _FIRST))

# How a value reads in an id. A slash ends a specification, unless it is within quotes.
_PATTERNS = {
    float: r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)",
    int: r"(\d{1,18})",
    str: r"""((?:[^/'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+)""",
}


def _pattern() -> str:
    text = ""
    for one in _IN_ID:
        part = ("/" if text else "") + one.mark + _PATTERNS[one.kind]
        text += f"(?:{part})?" if one.late else part
    return text


_ID = re.compile(_pattern(), re.ASCII)
