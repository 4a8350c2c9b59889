"""What repeats exactly, of each cell at a commit: measured, unless it is in the store already."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from estimators.errors import OptionError
from harness.environment import environment
from harness.gate.trees import Tree
from harness.results.journal import Progress
from harness.results.runs import CellResult, Run, first_event, last_progress, read_run
from harness.results.store import read_runs

Cells = dict[str, CellResult]

_SAME = ("fingerprint", "packages", "threads")  # of an environment, for numbers to be the same
_COMMAND = "import sys; from harness.cli import main; sys.exit(main())"


def stored(path: Path) -> Cells:
    """Returns stored results.

    Args:
        path: the journal of a run, or a folder of results, of which each cell's newest counts.

    Raises:
        OptionError: it cannot be read.
        StoreError: likewise.
    """
    if path.is_dir():
        runs, problems = read_runs(path)
        if problems:
            raise OptionError(f"{problems[0]}; mend it or move it out of the store")
    else:
        try:
            runs = [read_run(path)]
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} cannot be read: {error}") from None
    return {cell.id: cell for run in runs for cell in run.cells}


def measured(
    tree: Tree,
    selection: Sequence[str],
    store: Path,
    *,
    wanted: frozenset[str],
    plugins: tuple[str, ...] = (),
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Cells:
    """Returns what a commit gives, all but times: by its own `metagrad run`, with its own code.

    Args:
        tree: the commit.
        selection: arguments of `metagrad run` that say what to measure.
        store: where results go, and may be already.
        wanted: names of the cells that a stored run must have to be taken instead.
        plugins: modules that register more.
        tell: is told how far it is.

    Raises:
        OptionError: nothing could be measured.
    """
    runs = store / "runs"
    paths = sorted(runs.glob("*.jsonl"), reverse=True)
    here = environment(store, plugins)
    for path in paths:
        run = _read(path) if wanted and _began_at(path) == tree.commit else None
        if run and _is_of(run, tree.commit, here) and wanted <= _scored(run):
            return {cell.id: cell for cell in run.cells}
    before = {path: path.stat().st_mtime_ns for path in paths}
    command = [sys.executable, "-P", "-c", _COMMAND, "run", *selection, "--samples", "0"]
    command += [word for name in plugins for word in ("--import", name)]
    process = subprocess.Popen(
        [*command, "--store", str(store.resolve())],
        cwd=tree.work,
        env=tree.environment | {"COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None:
            if (fresh := _written(runs, before)) and (progress := last_progress(fresh)):
                tell(progress)
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    _, errors = process.communicate()
    made = _written(runs, before)
    cells = {cell.id: cell for cell in read_run(made).cells} if made else {}
    # Where none of its cells went well it ends like a command that could not begin.
    if process.returncode not in (0, 1) and not cells:
        why = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise OptionError(f"{tree.commit[:8]} cannot be measured: {why[0]}")
    return cells


def _written(runs: Path, before: dict[Path, int]) -> Path | None:
    """Returns the newest journal that was written since."""
    paths = sorted(runs.glob("*.jsonl"), reverse=True)
    return next((one for one in paths if before.get(one) != one.stat().st_mtime_ns), None)


def _began_at(path: Path) -> str:
    """Returns the commit of a run; "" where it is not known. Quicker than reading all of it."""
    try:
        return str(first_event(path)["environment"]["commit"])
    except (OSError, LookupError, TypeError):
        return ""


def _read(path: Path) -> Run | None:
    try:
        return read_run(path)
    except (OSError, ValueError):
        return None


def _is_of(run: Run, commit: str, here: dict[str, object]) -> bool:
    made = run.environment
    same = all(made.get(name) == here.get(name) for name in _SAME)
    return run.ended and made["commit"] == commit and not made["changes"] and same


def _scored(run: Run) -> set[str]:
    return {cell.id for cell in run.cells if {"score", "plan"} & cell.stages.keys()}
