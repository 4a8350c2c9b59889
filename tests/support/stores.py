"""A small store as a run would leave it, without running one."""

from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import Journal, Result
from harness.store.trainings import Split, Training, TrainingJournal

MARKUP = "<script>alert('reason')</script> </script> ![x](http://evil.example/x.png)"
NOTE = "one sample was disturbed"
COMMITS = ("a" * 40, "b" * 40)
DEPTHS = (2, 5)
TASKS = (("sinusoid", "mlp-40-40"), ("quadratic", "linear"))
BIASES = {"maml": 1e-17, "adjoint": 0.0, "fomaml": 0.3, "imaml": 0.9, "reptile": 5.0}


def environment(commit: str, **changed: Any) -> dict[str, Any]:
    """Return what a run says of its surroundings."""
    made = {
        **{"commit": commit, "changes": "", "machine": "here", "system": "Linux"},
        **{"processor": "some <b>processor</b>", "cores": 2, "memory": 2**34},
        **{"python": "3.11.7", "threads": "1", "packages": {"torch": "2.6"}, "devices": []},
    }
    return made | changed


def journal_result(
    journal: Journal,
    stage: str,
    cell: Cell,
    outcome: Outcome,
    samples: Samples | None = None,
    *notes: str,
) -> None:
    """Journals how a stage of one cell ended."""
    journal.results(stage, [Result(cell, outcome, samples or {}, notes)])


def write_run(
    store: Path,
    commit: str,
    estimators: dict[str, float],
    tasks: tuple[tuple[str, str], ...] = TASKS,
    **changed: Any,
) -> None:
    """Journals a run in which each estimator has the given bias."""
    journal = Journal.create(store)
    journal.start(environment(commit, **changed), cells=len(estimators))
    for task, model in tasks:
        for depth in DEPTHS:
            for estimator, bias in estimators.items():
                cell = Cell.of(estimator=estimator, task=task, model=model, depth=depth)
                if reason := cell.unsupported_reason():
                    journal_result(journal, "plan", cell, Outcome(Status.SKIPPED, reason))
                    continue
                _measure(journal, cell, bias)
    failed = Cell.of(estimator="imaml(lam=7.0)", task="sinusoid", model="mlp-40-40", depth=5)
    journal_result(journal, "score", failed, Outcome(Status.FAILED, MARKUP, "Traceback"))
    late = Cell.of(estimator="imaml(lam=8.0)", task="sinusoid", model="mlp-40-40", depth=5)
    scores = {"bias": [0.5, 0.6], "hvps": [5.0]}
    journal_result(journal, "score", late, Outcome(Status.OK), scores, NOTE)
    journal_result(journal, "time", late, Outcome(Status.TIMEOUT, "not done after 1 s"))
    journal.end()


def write_store(store: Path) -> Path:
    """Write two commits; the second one has uncommitted changes, the newest date and binom."""
    write_run(store, COMMITS[0], BIASES, tasks=TASKS[:1])
    orders = {f"{name}(order={order})": 0.3 / 4**order for name in ORDERED for order in (1, 3)}
    write_run(store, COMMITS[1], BIASES | orders, changes="0123456789ab")
    return store


ORDERED = ("truncated", "binom")


def _measure(journal: Journal, cell: Cell, bias: float) -> None:
    scores = {"bias": [bias, 1.5 * bias], "peak_memory": [4096.0 * cell.depth]}
    scores |= {"flops": [2e6 * cell.depth], "hvps": [float(cell.depth)], "serial_depth": [1.0]}
    journal_result(journal, "score", cell, Outcome(Status.OK), scores)
    times = [0.001 * cell.depth * factor for factor in (1.0, 1.1, 1.3)]
    ratios = [3.0 * cell.depth * factor for factor in (1.0, 1.1, 1.3)]
    timed = {"time": times, "time_ratio": ratios}
    journal_result(journal, "time", cell, Outcome(Status.OK), timed)


def train(store: Path, estimator: str, mean: float, seed: int = 0, **changed: Any) -> None:
    """Journal a training on the sinusoid at depth 5; `splits` are those that it has."""
    journal = TrainingJournal.create(store)
    splits = changed.pop("splits", ("validation", "test"))
    setting: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5}
    setting |= {"step_size": 0.01, "device": "cpu", "dtype": "float32", "seed": seed}
    setting |= {"outer": {"optimiser": "adam", "steps": 20}} | changed
    journal.start(environment(COMMITS[0]), Training(estimator, **setting))
    evaluated: dict[Split, tuple[int, ...]] = {"validation": (0, 10, 20), "test": (20,)}
    for split, steps in evaluated.items():
        for step in steps if split in splits else ():
            values = [mean, mean - 0.1, mean + 0.01 * seed + 0.001 * step]
            journal.evaluation(step, split, {"accuracy": values}, seconds=1.0)
    journal.end()
