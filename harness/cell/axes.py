"""The facts about one axis of the benchmark matrix: name, label, kind and place in ids."""

from dataclasses import MISSING, Field, dataclass
from typing import Any

_METADATA = "axis"


@dataclass(frozen=True)
class Axis:
    """One axis, made from a field of `Cell`.

    Attributes:
        name: attribute of `Cell`.
        key: name of it in journals, tables, conditions and commands.
        label: what people read.
        kind: str, int or float.
        default: MISSING where a cell must say it.
        mark: what stands before the value in an id.
        least: the lowest number allowed.
        most: the highest number allowed.
        late: not in an id or journal where it has its default: older ones lack it.
    """

    name: str
    key: str
    label: str
    kind: type
    default: Any
    mark: str = ""
    least: float | None = None
    most: float | None = None
    late: bool = False

    @classmethod
    def of(cls, field: "Field[Any]") -> "Axis":
        """Read the axis that a field of `Cell` describes."""
        facts = dict(field.metadata[_METADATA])
        key = facts.pop("key", field.name)
        assert isinstance(field.type, type)
        return cls(field.name, key, kind=field.type, default=field.default, **facts)

    def out_of_range(self, value: Any) -> str:
        """Return what is wrong with a number; "" if nothing is."""
        if self.least is not None and value < self.least:
            return f"{self.key} {value} must be {self.least:g} or more"
        if self.most is not None and value > self.most:
            return f"{self.key} {value} must be {self.most:,.0f} or less"
        return ""

    @property
    def required(self) -> bool:
        """Whether a cell must say it."""
        return self.default is MISSING


def axis(label: str, **facts: Any) -> dict[str, Any]:
    """Return the metadata of a field of `Cell`; `facts` are attributes of `Axis`."""
    return {_METADATA: {"label": label, **facts}}
