"""Measure the repeatable metrics of each cell at a commit, or read them where that was done."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estimators.base.errors import UserError
from harness.environment import environment
from harness.gate.checkout import Checkout
from harness.matrix.outcome import Status
from harness.store.journal import Progress
from harness.store.runs import CellResult, Run, last_progress, read_run

Cells = dict[str, CellResult]

# Facts of an environment on which numbers depend.
_SAME = (
    *("fingerprint", "packages", "python", "torch", "flags", "threads", "threading", "variables"),
)
_COMMAND = "import sys; from harness.cli import main; sys.exit(main())"


def measure(
    checkout: Checkout,
    selection: Sequence[str],
    *,
    plugins: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Cells:
    """Return the results of a commit, except times, by its own `metagrad run` with its own code.

    They are stored with the checkout. If all went well they are read from there the next time that
    the same words are given, on this machine and with these packages.

    Raises:
        UserError: it could not be measured to the end.
    """
    words = [*selection, *(word for name in plugins for word in ("--import", name))]
    stored = checkout.results / f"{_digest(checkout, words)}.jsonl"
    if stored.exists() and (run := _read(stored, checkout)) and _went_well(run):
        return {cell.id: cell for cell in run.cells}
    with (
        tempfile.TemporaryDirectory(prefix="measuring-", dir=checkout.results) as store,
        tempfile.TemporaryFile("w+") as errors,
    ):
        code = _run(checkout, [*words, "--samples", "0", "--store", store], errors, on_progress)
        journals = [*Path(store, "runs").glob("*.jsonl")]
        run = _read(journals[0], checkout) if journals else None
        if run is None:
            errors.seek(0)
            why = errors.read().strip().splitlines()[-1:] or [f"exit code {code}"]
            also = f" ({checkout.lacks})" if checkout.lacks else ""
            raise UserError(f"{checkout.commit[:8]} cannot be measured: {why[0]}{also}")
        journals[0].replace(stored)
    return {cell.id: cell for cell in run.cells}


def _run(
    checkout: Checkout, words: Sequence[str], errors: Any, on_progress: Callable[[Progress], None]
) -> int:
    """Run `metagrad run` of a commit to its end; return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND, "run", *words],
        cwd=checkout.work,
        env=checkout.environment | {"COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=errors,  # a file: nobody reads a pipe meanwhile
    )
    try:
        while process.poll() is None:
            for path in Path(words[-1], "runs").glob("*.jsonl"):
                if progress := last_progress(path):
                    on_progress(progress)
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode


def _read(path: Path, checkout: Checkout) -> Run | None:
    """Return a run; None if it has no end, or is of another commit."""
    try:
        run = read_run(path)
    except (OSError, ValueError):
        return None
    return run if run.ended and run.environment["commit"] == checkout.commit else None


def _went_well(run: Run) -> bool:
    return all(cell.status in (Status.OK, Status.SKIPPED) for cell in run.cells)


def _digest(checkout: Checkout, words: Sequence[str]) -> str:
    """Return a digest of everything on which numbers depend, except the commit."""
    current = environment()
    facts = {name: current.get(name) for name in _SAME}
    if not checkout.has("harness"):
        facts["source"] = current["source"]
    text = json.dumps([facts, list(words)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
