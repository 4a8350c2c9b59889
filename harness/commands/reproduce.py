"""The measurements behind each figure and table of the papers that are reproduced.

At the scale "quick" they take embedded data and minutes on two cores; at the scale "paper" the
paper's numbers of steps and the user's own images, where the harness has the paper's tasks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from harness.commands.measure import measure_cells, went_wrong
from harness.commands.options import print_line
from harness.commands.train import train_with_progress
from harness.matrix import plan
from harness.matrix.plan import Planned
from harness.training import plan as training_plan
from harness.training.config import TrainingConfig

Scale = Literal["quick", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True)
class Sources:
    """The measurements that a figure or table needs.

    Attributes:
        cells: a preset of `metagrad run`; "" for none.
        samples: time samples of each of its cells; 0: no times.
        trainings: a preset of `metagrad train`; "" for none.
        device: that it trains on; cells are on the devices of their preset.
    """

    cells: str = ""
    samples: int = 0
    trainings: str = ""
    device: str = "cpu"

    def planned(self) -> list[Planned]:
        """Return the cells; none where no preset is named."""
        return plan.expand(plan.preset(self.cells)) if self.cells else []

    def configs(self) -> list[TrainingConfig]:
        """Return the trainings; none where no preset is named."""
        if not self.trainings:
            return []
        preset = training_plan.preset(self.trainings)
        return training_plan.configs(preset | {"devices": [self.device]})


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
    "one-step": {"quick": Sources("one-step", trainings="one-step")},
}
"""By name, which is also that of its files, and scale."""


def needed(names: Iterable[str], scale: Scale) -> list[Sources]:
    """Return the sources of some figures and tables, each once."""
    sources = dict.fromkeys(EXPERIMENTS[name][scale] for name in names)
    return [source for source in sources if source != Sources()]


def measure(source: Sources, store: Path, jobs: int | None, *, fresh: bool = False) -> bool:
    """Measure and train what the store has not yet, and return whether all of it went well."""
    from harness.running.executor import Settings
    from harness.running.resume import finished
    from harness.store.runs import read_run

    planned, configs = source.planned(), source.configs()
    complete = True
    if planned:
        settings = Settings(jobs=jobs or Settings.jobs, samples=source.samples)
        path = None if fresh else finished(store, planned, settings)
        if path:
            print_line(f"{source.cells}: measured already, in {path}; --fresh measures anew.")
        else:
            path, _ = measure_cells(planned, settings, store, fresh=fresh)
        complete = not went_wrong(read_run(path))
    if configs:
        results = train_with_progress(configs, store, (), jobs=jobs, fresh=fresh)
        complete = complete and all(result.test for result in results)
    return complete
