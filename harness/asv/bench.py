"""Runs asv on commits and shows how far it is."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from rich.console import Console

from estimators.base.errors import OptionError
from harness.store.runs import last_progress
from harness.support.git import git_text, shallow
from harness.support.progress import Show, progress_bar

_PERCENT = re.compile(r"\[\s*([\d.]+)%\]\s*\W*(.*)")
_ASV_RANGES = ("NEW", "ALL", "EXISTING")
_NONE_LEFT = "No commit hashes selected"  # asv ends with 1 then
_MEASURED = 0.85  # of the bar; the rest is what asv does afterwards


HEAD = "HEAD^!"
"""The current commit, as git's ranges have it."""


def run_asv(store: Path, console: Console, commits: str = HEAD) -> list[Path]:
    """Measures commits in asv's own environment, which is made if it is missing.

    Returns:
        The journals of the runs, oldest first; none where all had results.

    Raises:
        OptionError: this is no checkout with a suite, there are no such commits, or asv could not
            measure them.
    """
    count = _check_checkout(console, commits)
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
        text=True,
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
        raise OptionError(
            f"stopped; what was finished is in {runs}, and the same command goes on from there"
        ) from None
    reader.join()
    made = _written_since(before, runs)
    # Exit code 2: asv went through, and a cell has failed; the table says which, and why.
    none_left = process.returncode == 0 or any(_NONE_LEFT in line for line in log)
    if not made and commits != HEAD and none_left:
        return []
    if process.returncode not in (0, 2) or not made:
        console.print("".join(log), markup=False, highlight=False)
        raise OptionError(
            f"asv ended with exit code {process.returncode}; its last lines are above"
        )
    return made


def _stamps(runs: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(runs.glob("*.jsonl"))}


def _written_since(before: dict[Path, int], runs: Path) -> list[Path]:
    """Returns the journals that are new or, where a run goes on, longer than before."""
    return [path for path, stamp in _stamps(runs).items() if before.get(path) != stamp]


def _check_checkout(console: Console, commits: str) -> int:
    """Tells what will be measured; returns how many commits that are.

    Raises:
        OptionError: this is no checkout with a suite, or there are no such commits.
    """
    if not Path("asv.conf.json").exists():
        raise OptionError("no asv.conf.json here; run this in the folder of the checkout")
    head = git_text("rev-parse", "--short", "HEAD")
    if head is None:
        raise OptionError(
            "asv measures commits, and this folder is no git checkout with one; "
            "`metagrad run quick` measures the files as they are"
        )
    what, count = f"commit {head.strip()}", 1
    if commits not in (HEAD, *_ASV_RANGES):
        listed = git_text("rev-list", "--count", "--end-of-options", commits, "--")
        if listed is None or not int(listed):
            raise OptionError(f"no commits {commits!r} in this repository{shallow()}")
        count = int(listed)
        what = f"commits {commits}, {count} in all,"
    elif commits != HEAD:
        what = f"commits of {commits}"
    console.print(f"Measuring {what} in asv's own environment.", highlight=False, markup=False)
    if changed := git_text("status", "--porcelain"):
        console.print(
            f"{len(changed.splitlines())} uncommitted changes are no part of it; "
            "`metagrad run quick` measures the files as they are.",
            style="yellow",
        )
    return count


def _asv(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asv", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OptionError(f"asv {' '.join(arguments)}: {done.stdout}{done.stderr}".strip())


def _read(process: "subprocess.Popen[str]", log: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.append(line)


def _show(show: Show, journals: list[Path], log: deque[str], count: int) -> None:
    """Tells the stage: asv's environment, then the matrix, then asv's own benchmarks.

    Of several commits each begins with the environment, and has a journal of its own.
    """
    # Lines without a name tell how far asv is with one that has been told.
    reached = [match for line in list(log) if (match := _PERCENT.match(line)) and match[2]]
    percent = max((float(match[1]) / 100 for match in reached), default=0.0)
    doing = reached[-1][2] if reached else ""
    progress = last_progress(journals[-1]) if journals else None
    if progress is None:
        stage = "exact gradients" if journals else "asv makes its environment, about a minute"
        show(0.0, None, stage)
    elif count > 1:
        before = len(journals) - 1
        share = min(before + _MEASURED * progress.done / progress.total, count)
        show(share, count, f"commit {before + 1} of {count}: {progress.doing}")
    elif progress.done < progress.total:
        show(_MEASURED * progress.done / progress.total, 1.0, progress.doing)
    else:
        show(_MEASURED + (1 - _MEASURED) * percent, 1.0, f"asv: {doing}")
