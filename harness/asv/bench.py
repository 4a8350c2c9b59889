"""Run asv on commits and show its progress."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from rich.console import Console

from estimators.base.errors import UserError
from harness.store.folder import prepare
from harness.store.runs import last_progress
from harness.support.git import git_text, shallow
from harness.support.progress import Show, progress_bar

_PERCENT = re.compile(r"\[\s*([\d.]+)%\]\s*\W*(.*)")
_ASV_RANGES = ("NEW", "ALL", "EXISTING")
_NONE_LEFT = "No commit hashes selected"  # asv ends with 1 then
_MEASURED = 0.85  # of the bar; the rest is asv's look-ups


HEAD = "HEAD^!"
"""The current commit as a range of git."""


def run_asv(store: Path, console: Console, commits: str = HEAD) -> list[Path]:
    """Measure commits with asv; return the journals, oldest first: none if all have results."""
    count = _check_checkout(console, commits)
    for line in prepare(store):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    _asv("machine", "--yes")
    runs = store / "runs"
    before = _stamps(runs)
    environment = os.environ | {"METAGRAD_STORE": str(store.resolve())}
    words = [commits] if commits == HEAD else [commits, "--skip-existing-commits"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asv", "run", *words, "--show-stderr"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    log: deque[str] = deque(maxlen=200)
    reader = threading.Thread(target=_read, args=(process, log), daemon=True)
    reader.start()
    try:
        with progress_bar(console) as show:
            while process.poll() is None:
                _show(show, _written_since(before, runs), log, count)
                time.sleep(0.3)
            show(1.0, 1.0, "done")
    except KeyboardInterrupt:
        process.wait()
        raise UserError(
            f"stopped; results so far are in {runs}, and the same command goes on from there"
        ) from None
    reader.join()
    journals = _written_since(before, runs)
    # Exit code 2: asv came to its end and a cell has failed; the table says which, and why.
    none_left = process.returncode == 0 or any(_NONE_LEFT in line for line in log)
    if not journals and commits != HEAD and none_left:
        return []
    if process.returncode not in (0, 2) or not journals:
        console.print("".join(log), markup=False, highlight=False)
        raise UserError(f"asv ended with exit code {process.returncode}; its last lines are above")
    return journals


def _stamps(runs: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(runs.glob("*.jsonl"))}


def _written_since(before: dict[Path, int], runs: Path) -> list[Path]:
    """Return the journals that are new or, where a run went on, longer than before."""
    return [path for path, stamp in _stamps(runs).items() if before.get(path) != stamp]


def _check_checkout(console: Console, commits: str) -> int:
    """Print what will be measured; return the number of commits."""
    if not Path("asv.conf.json").exists():
        raise UserError("no asv.conf.json here; run this in the folder of the checkout")
    head = git_text("rev-parse", "--short", "HEAD")
    if head is None:
        raise UserError(
            "asv measures commits, and this folder is no git checkout with one; "
            "`metagrad run quick` measures the files as they are"
        )
    text, count = f"commit {head.strip()}", 1
    if commits not in (HEAD, *_ASV_RANGES):
        listed = git_text("rev-list", "--count", "--end-of-options", commits, "--")
        if listed is None or not int(listed):
            raise UserError(f"no commits {commits!r} in this repository{shallow()}")
        count = int(listed)
        text = f"{count} commits of {commits}"
    elif commits != HEAD:
        text = f"commits of {commits}"
    console.print(f"Measuring {text} in asv's environment.", highlight=False, markup=False)
    if changed := git_text("status", "--porcelain"):
        console.print(
            f"{len(changed.splitlines())} uncommitted changes are not part of it; "
            "`metagrad run quick` measures the files as they are.",
            style="yellow",
        )
    return count


def _asv(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asv", *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UserError(f"asv {' '.join(arguments)}: {done.stdout}{done.stderr}".strip())


def _read(process: "subprocess.Popen[str]", log: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.append(line)


def _show(show: Show, journals: list[Path], log: deque[str], count: int) -> None:
    """Show the stage: asv's environment, then the matrix, then asv's benchmarks.

    Each of several commits starts with the environment, and has a separate journal.
    """
    # Lines without a name are the progress of a benchmark named before.
    reached = [match for line in list(log) if (match := _PERCENT.match(line)) and match[2]]
    percent = max((float(match[1]) / 100 for match in reached), default=0.0)
    doing = reached[-1][2] if reached else ""
    progress = last_progress(journals[-1]) if journals else None
    if progress is None:
        stage = "exact gradients" if journals else "asv creates its environment, about a minute"
        show(0.0, None, stage)
    elif count > 1:
        before = len(journals) - 1
        share = min(before + _MEASURED * progress.done / progress.total, count)
        show(share, count, f"commit {before + 1} of {count}: {progress.doing}")
    elif progress.done < progress.total:
        show(_MEASURED * progress.done / progress.total, 1.0, progress.doing)
    else:
        show(_MEASURED + (1 - _MEASURED) * percent, 1.0, f"asv: {doing}")
