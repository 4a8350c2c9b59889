"""A store as `metagrad reproduce all --scale quick` leaves it, with numbers that are made up.

Errors: truncated(order=L) has 10**-(L/4) at the start, so that its order 4 has .1; binom 10**-L,
its order 4 having 1e-4; after training binom has 10. Accuracies fall from MAML's 80 % by a point
with each estimator of the preset.

The spread of drawn meta-gradients is K: the half of it where horizons are mixed, and relative to
their own objective a quarter, but for an exact outer gradient K over the root of 2.5 to 3.5, by
seed; a tenth where another estimator back-propagates. Outer losses rise by .01 with each.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from estimators.base.registry import Spec
from harness.cell import Cell
from harness.commands.reproduce import EXPERIMENTS, Scale
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import Journal, Result
from harness.store.trainings import Split, TrainingJournal
from reports.tables.cells import family_and_order
from tests.support.store_runs import OK
from tests.support.stores import environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ACCURACY = 0.8

Wanted = Callable[[Cell], bool]


def write_cells(
    store: Path,
    name: str,
    wanted: Wanted = lambda cell: True,
    commit: str = COMMIT,
    *,
    scale: Scale = "quick",
    utilisation: float | None = None,
) -> None:
    """Journals those cells of a figure that are wanted; the others have failed.

    Those on a GPU have the utilisation that is given, if any.
    """
    planned = EXPERIMENTS[name][scale].planned()
    journal = Journal.create(store)
    journal.start(environment(commit), cells=len(planned))
    for plan in planned:
        cell = plan.cell
        if not wanted(cell):
            journal.results("score", [Result(cell, Outcome(Status.FAILED, "as asked"))])
            continue
        family, order = family_and_order(cell.estimator)
        samples: Samples = {
            "bias": [_error(family, order or 0, cell.trained)] * cell.num_tasks,
            "curvature": [0.2 + cell.trained / 800] * cell.num_tasks,
            **{"hvps": [order or 0], "serial_depth": [order or 0]},
            "peak_memory": [2.0**20 * (10 if family == "maml" else 4)],
        }
        if name == "one-step":
            samples |= _spreads(cell)
        journal.results("score", [Result(cell, OK, samples)])
        seconds = 0.2 if family == "maml" else 0.1 * (1 + (order or 0))
        times: Samples = {"time": [seconds] * 7, "time_ratio": [100 * seconds] * 7}
        if utilisation is not None and cell.device != "cpu":
            times["utilisation"] = [utilisation] * 7
        journal.results("time", [Result(cell, OK, times)])
    journal.end()


def write_trainings(
    store: Path,
    wanted: Wanted = lambda cell: True,
    *,
    commit: str = COMMIT,
    name: str = "table1",
    better: float = 0.0,
    events: int = 99,
) -> None:
    """Journals those trainings of a table that are wanted, each as far as so many events."""
    place: defaultdict[str, int] = defaultdict(lambda: len(place))
    for recipe in EXPERIMENTS[name]["quick"].configs():
        estimator, seed = recipe.cell.estimator, recipe.cell.seed
        place[estimator]
        if not wanted(recipe.cell):
            continue
        journal = TrainingJournal.create(store)
        journal.start(environment(commit), recipe.training)
        reached = ACCURACY + better - 0.01 * place[estimator] + 0.001 * seed
        best = recipe.steps if seed % 2 else recipe.steps // 2
        evaluations: list[tuple[int, Split, Samples]] = [(0, "train", {"peak_memory": [1e6]})]
        for step, value in ((0, 0.3), (recipe.steps // 2, 0.5), (recipe.steps, reached)):
            judged = {"accuracy": [value, value + 0.002], "outer_loss": [1 - value] * 2}
            bias = {"bias": [0.1 * place[estimator] + (0.5 if step else 0.0)]}
            evaluations += [(step, "train", judged | bias), (step, "validation", judged)]
        tested = {"accuracy": [reached, reached + 0.002], "outer_loss": [1 - reached] * 2}
        evaluations.append((best, "test", tested))
        for step, split, samples in evaluations[:events]:
            journal.evaluation(step, split, samples, seconds=1.0)
        journal.end()


def write_all(store: Path) -> None:
    """Journals everything."""
    for name in ("fig3a", "fig4"):
        write_cells(store, name)
    write_trainings(store)
    write_cells(store, "one-step", lambda cell: cell.seed < 2)
    write_trainings(store, lambda cell: cell.seed < 2, name="one-step")


def _spreads(cell: Cell) -> Samples:
    options, depth = Spec.parse(cell.estimator).options, float(cell.depth)
    own = 4.0 if "sampled" not in options else (2.5 + 0.5 * cell.seed) ** 0.5
    through = str(options.get("through", ""))
    mixes = through == "mixed"
    scale = 0.5 if mixes else 0.1 if through else 1.0
    samples: Samples = {"spread": [scale * depth] * cell.num_tasks, "cosine_distance": [0.5]}
    return samples | ({"own_spread": [depth / own] * cell.num_tasks} if mixes else {})


def _error(family: str, order: int, trained: int) -> float:
    if family == "maml":
        return 0.0
    if family == "truncated":
        return float(10.0 ** (-order / 4))
    if family == "binom" and trained:
        return 10.0
    return float(10.0**-order)
