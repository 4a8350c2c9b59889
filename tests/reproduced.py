"""A store as `metagrad reproduce all --scale quick` leaves it, with numbers that are made up.

Errors: truncated(order=L) has 10**-(L/4) at the start, so that its order 4 has .1; binom 10**-L,
its order 4 having 1e-4; after training binom has 10. Accuracies fall from MAML's 80 % by a point
with each estimator of the preset.
"""

from collections import defaultdict
from pathlib import Path

from harness.reproduction import EXPERIMENTS
from harness.results.journal import Journal, Result, Samples
from harness.results.trainings import Split, TrainingJournal
from reports.tables.cells import family_and_order
from tests.store_runs import OK
from tests.stores import environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ACCURACY = 0.8


def write_cells(store: Path, name: str) -> None:
    """Journals the cells of a figure."""
    planned = EXPERIMENTS[name]["quick"].planned()
    journal = Journal.create(store)
    journal.start(environment(COMMIT), cells=len(planned))
    for plan in planned:
        cell = plan.cell
        family, order = family_and_order(cell.estimator)
        samples: Samples = {
            "bias": [_error(family, order or 0, cell.trained)] * cell.tasks,
            "curvature": [0.2 + cell.trained / 800] * cell.tasks,
            **{"hvps": [order or 0], "serial_depth": [order or 0]},
            "peak_memory": [2.0**20 * (10 if family == "maml" else 4)],
        }
        journal.results("score", [Result(cell, OK, samples)])
        seconds = 0.2 if family == "maml" else 0.1 * (1 + (order or 0))
        times: Samples = {"time": [seconds] * 7, "time_ratio": [100 * seconds] * 7}
        journal.results("time", [Result(cell, OK, times)])
    journal.end()


def write_trainings(store: Path) -> None:
    """Journals the trainings of the tables."""
    place: defaultdict[str, int] = defaultdict(lambda: len(place))
    for recipe in EXPERIMENTS["table1"]["quick"].recipes():
        journal = TrainingJournal.create(store)
        journal.start(environment(COMMIT), recipe.training)
        name, seed = recipe.cell.estimator, recipe.cell.seed
        reached = ACCURACY - 0.01 * place[name] + 0.001 * seed
        splits: tuple[tuple[Split, tuple[int, ...]], ...] = (
            *(("train", (0, recipe.steps)), ("validation", (0, recipe.steps))),
            ("test", (recipe.steps,)),
        )
        for split, steps in splits:
            for step in steps:
                value = reached if step else 0.3
                samples = {"accuracy": [value, value + 0.002], "outer_loss": [1 - value] * 2}
                if split == "train":
                    samples["bias"] = [0.1 * place[name]]
                journal.evaluation(step, split, samples, seconds=1.0)
        journal.end()


def write_all(store: Path) -> None:
    """Journals everything."""
    for name in ("fig3a", "fig4"):
        write_cells(store, name)
    write_trainings(store)


def _error(family: str, order: int, trained: int) -> float:
    if family == "maml":
        return 0.0
    if family == "truncated":
        return float(10.0 ** (-order / 4))
    if family == "binom" and trained:
        return 10.0
    return float(10.0**-order)
