"""How metrics are shown: the units people read, made from those that are stored."""

from dataclasses import dataclass

from harness.matrix.metrics import METRICS

# Stored unit: unit to show, and how many stored ones it is.
_SHOWN = {"B": ("MiB", 2.0**20), "s": ("ms", 1e-3), "FLOP": ("MFLOP", 1e6)}
# A share is read in per cent.
_PER_CENT = ("accuracy",)
# A number without a unit still needs a word that says what it counts.
_BARE = {"time_ratio": "×", "bias": "relative error"}


@dataclass(frozen=True)
class Quantity:
    """A metric as it is shown.

    Attributes:
        name: of the metric, and of its column in the table of cells.
        label: what people read.
        unit: what it is shown in; empty for a plain count.
        size: how many stored units make one shown unit.
        about: one sentence.
    """

    name: str
    label: str
    unit: str
    size: float
    about: str

    @property
    def title(self) -> str:
        """Label and unit, for axes, tooltips and table heads."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def _quantity(name: str) -> Quantity:
    metric = METRICS[name]
    unit, size = ("%", 0.01) if name in _PER_CENT else _SHOWN.get(metric.unit, (metric.unit, 1.0))
    return Quantity(name, metric.label, unit or _BARE.get(name, ""), size, metric.about)


QUANTITIES: dict[str, Quantity] = {name: _quantity(name) for name in METRICS}
