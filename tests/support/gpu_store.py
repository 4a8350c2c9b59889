"""A store of one run on a CPU and two GPUs; what is made up differs from device to device."""

from pathlib import Path

from harness.cell import Cell
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import Journal
from tests.support.stores import environment, journal_result

MILLISECONDS = {"cpu": 80.0, "cuda:0": 2.0, "cuda:1": 4.0}
UTILISATION = {"cuda:0": 90.0, "cuda:1": 45.0}
ABSENT = "cuda:2: there are 2 GPUs, cuda:0 to cuda:1"
MODELS = ("mlp-40-40", "mlp-100-100")
ESTIMATORS = ("maml", "fomaml", "truncated(order=1)", "binom(order=1)", "binom(order=2)")
DEPTHS = (2, 5)


def write_gpu_store(store: Path) -> Path:
    journal = Journal.create(store)
    made = environment("c" * 40, devices=["NVIDIA H200", "NVIDIA T4"])
    journal.start(made, cells=len(MODELS) * 2 * 4 * len(ESTIMATORS))
    for model in MODELS:
        for depth in DEPTHS:
            for device in (*MILLISECONDS, "cuda:2"):
                for place, estimator in enumerate(ESTIMATORS, 1):
                    cell = Cell.of(
                        estimator=estimator,
                        task="sinusoid",
                        model=model,
                        depth=depth,
                        device=device,
                    )
                    _measure(journal, cell, place)
    journal.end()
    return store


def _measure(journal: Journal, cell: Cell, place: int) -> None:
    if cell.device not in MILLISECONDS:
        journal_result(journal, "plan", cell, Outcome(Status.SKIPPED, ABSENT))
        return
    milliseconds = MILLISECONDS[cell.device] * place
    scores = {"bias": [place / 10, place / 9], "peak_memory": [1e5 * milliseconds]}
    scores |= {"baseline_memory": [1e4 * len(cell.model)], "hvps": [5.0], "serial_depth": [1.0]}
    journal_result(journal, "score", cell, Outcome(Status.OK), scores)
    times = [milliseconds / 1e3 * factor for factor in (1.0, 1.0, 1.1)]
    timed = {"time": times, "time_ratio": [10 * one for one in times]}
    for phase in ("inner_loop", "outer_gradient", "meta_gradient"):
        timed[f"time_{phase}"] = [one / 3 for one in times]
    if cell.device in UTILISATION:
        timed["utilisation"] = [UTILISATION[cell.device]] * 5
    journal_result(journal, "time", cell, Outcome(Status.OK), timed)
