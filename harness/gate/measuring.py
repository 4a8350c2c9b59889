"""What repeats exactly, of each cell at a commit: measured, unless that was done before."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estimators.base.errors import OptionError
from harness.environment import environment
from harness.gate.checkout import Tree
from harness.matrix.outcome import Status
from harness.store.journal import Progress
from harness.store.runs import CellResult, Run, last_progress, read_run

Cells = dict[str, CellResult]

# Of an environment, for numbers to be the same.
_SAME = (
    *("fingerprint", "packages", "python", "torch", "flags", "threads", "threading", "variables"),
)
_COMMAND = "import sys; from harness.cli import main; sys.exit(main())"


def measured(
    tree: Tree,
    selection: Sequence[str],
    *,
    plugins: tuple[str, ...] = (),
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Cells:
    """Returns what a commit gives, all but times: by its own `metagrad run`, with its own code.

    It is kept with the commit. Where all went well it is taken from there the next time, if it was
    asked for in the same words, on this machine and with these packages.

    Raises:
        OptionError: it could not be measured to the end.
    """
    words = [*selection, *(word for name in plugins for word in ("--import", name))]
    kept = tree.results / f"{_digest(tree, words)}.jsonl"
    if kept.exists() and (run := _run(kept, tree)) and _went_well(run):
        return {cell.id: cell for cell in run.cells}
    with (
        tempfile.TemporaryDirectory(prefix="measuring-", dir=tree.results) as store,
        tempfile.TemporaryFile("w+") as errors,
    ):
        code = _measure(tree, [*words, "--samples", "0", "--store", store], errors, tell)
        made = [*Path(store, "runs").glob("*.jsonl")]
        run = _run(made[0], tree) if made else None
        if run is None:
            errors.seek(0)
            why = errors.read().strip().splitlines()[-1:] or [f"exit code {code}"]
            raise OptionError(f"{tree.commit[:8]} cannot be measured: {why[0]}")
        made[0].replace(kept)
    return {cell.id: cell for cell in run.cells}


def _measure(
    tree: Tree, words: Sequence[str], errors: Any, tell: Callable[[Progress], None]
) -> int:
    """Runs `metagrad run` of a commit to its end; returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND, "run", *words],
        cwd=tree.work,
        env=tree.environment | {"COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=errors,  # a file: nobody reads a pipe meanwhile
    )
    try:
        while process.poll() is None:
            for path in Path(words[-1], "runs").glob("*.jsonl"):
                if progress := last_progress(path):
                    tell(progress)
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode


def _run(path: Path, tree: Tree) -> Run | None:
    """Returns a run of a commit; None if it was cut short, or is of something else."""
    try:
        run = read_run(path)
    except (OSError, ValueError):
        return None
    return run if run.ended and run.environment["commit"] == tree.commit else None


def _went_well(run: Run) -> bool:
    return all(cell.status in (Status.OK, Status.SKIPPED) for cell in run.cells)


def _digest(tree: Tree, words: Sequence[str]) -> str:
    """Returns a digest of all that numbers depend on, beside the commit."""
    here = environment()
    facts = {name: here.get(name) for name in _SAME}
    if not tree.has("harness"):
        facts["source"] = here["source"]
    told = json.dumps([facts, list(words)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
