"""What each figure and table of the binomial method's paper is made from.

At the scale "quick" that is embedded data and minutes on two cores; at the scale "paper" the
paper's numbers of steps and the user's own images.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from harness.matrix import plan
from harness.matrix.plan import Planned
from harness.training import plan as training_plan
from harness.training.config import TrainingConfig

Scale = Literal["quick", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True)
class Sources:
    """What is measured for a figure or table.

    Attributes:
        cells: a preset of `metagrad run`; "" for none.
        samples: time samples of each of its cells; 0: no times are told.
        trainings: a preset of `metagrad train`; "" for none.
        device: where it trains; cells are on the devices of their preset.
    """

    cells: str = ""
    samples: int = 0
    trainings: str = ""
    device: str = "cpu"

    def planned(self) -> list[Planned]:
        """Returns the cells; none where no preset is named."""
        return plan.expand(plan.preset(self.cells)) if self.cells else []

    def recipes(self) -> list[TrainingConfig]:
        """Returns the trainings; none where no preset is named."""
        if not self.trainings:
            return []
        return training_plan.recipes(training_plan.preset(self.trainings) | {"device": self.device})


_TRAININGS: dict[Scale, Sources] = {
    "quick": Sources(trainings="accuracy"),
    "paper": Sources(trainings="paper"),
}

EXPERIMENTS: dict[str, dict[Scale, Sources]] = {
    "fig2": {"quick": Sources(), "paper": Sources()},
    "fig3a": {"quick": Sources("fig3"), "paper": Sources("fig3-paper")},
    "fig3b": {"quick": Sources("fig3"), "paper": Sources("fig3-paper")},
    "fig4": {"quick": Sources("fig4", 7), "paper": Sources("fig4-paper", 7)},
    "fig5": _TRAININGS,
    "table1": _TRAININGS,
    "table2": _TRAININGS,
}
"""By name, which is also that of its files."""


def needed(names: Iterable[str], scale: Scale) -> list[Sources]:
    """Returns all that is measured for some figures and tables, each thing once."""
    every = dict.fromkeys(EXPERIMENTS[name][scale] for name in names)
    return [one for one in every if one != Sources()]
