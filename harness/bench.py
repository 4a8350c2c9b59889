"""Runs asv on the current commit and shows how far it is."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from rich.console import Console

from estimators.errors import OptionError
from harness.results.runs import last_progress
from harness.running.progress import Show, progress_bar

_PERCENT = re.compile(r"\[\s*([\d.]+)%\]\s*\W*(.*)")
_MEASURED = 0.85  # of the bar; the rest is what asv does afterwards


def run_asv(store: Path, console: Console) -> Path:
    """Measures HEAD in asv's own environment, which is made if it is missing.

    Args:
        store: the folder of results.
        console: where progress goes.

    Returns:
        The journal of the run.

    Raises:
        OptionError: this is no checkout with a suite, or asv could not measure it.
    """
    _check_checkout(console)
    _asv("machine", "--yes")
    runs = store / "runs"
    before = _stamps(runs)
    environment = os.environ | {"METAGRAD_STORE": str(store.resolve())}
    process = subprocess.Popen(
        [sys.executable, "-m", "asv", "run", "HEAD^!", "--show-stderr"],
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
                _show(show, _written_since(before, runs), log)
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
    if process.returncode not in (0, 2) or not made:
        console.print("".join(log), markup=False, highlight=False)
        raise OptionError(
            f"asv ended with exit code {process.returncode}; its last lines are above"
        )
    return made[-1]


def _stamps(runs: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(runs.glob("*.jsonl"))}


def _written_since(before: dict[Path, int], runs: Path) -> list[Path]:
    """Returns the journals that are new or, where a run goes on, longer than before."""
    return [path for path, stamp in _stamps(runs).items() if before.get(path) != stamp]


def _check_checkout(console: Console) -> None:
    if not Path("asv.conf.json").exists():
        raise OptionError("no asv.conf.json here; run this in the folder of the checkout")
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode:
        raise OptionError(
            "asv measures commits, and this folder is no git checkout with one; "
            "`metagrad run quick` measures the files as they are"
        )
    changed = subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    commit = head.stdout.strip()
    console.print(f"Measuring commit {commit} in asv's own environment.", highlight=False)
    if changed:
        console.print(
            f"{len(changed.splitlines())} uncommitted changes are no part of it; "
            "`metagrad run quick` measures the files as they are.",
            style="yellow",
        )


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


def _show(show: Show, journals: list[Path], log: deque[str]) -> None:
    """Tells the stage: asv's environment, then the matrix, then asv's own benchmarks."""
    reached = [match for line in list(log) if (match := _PERCENT.match(line))]
    percent, doing = (float(reached[-1][1]) / 100, reached[-1][2]) if reached else (0.0, "")
    progress = last_progress(journals[-1]) if journals else None
    if progress is None:
        stage = "exact gradients" if journals else "asv makes its environment, about a minute"
        show(0.0, None, stage)
    elif progress.done < progress.total:
        show(_MEASURED * progress.done / progress.total, 1.0, progress.doing)
    else:
        show(_MEASURED + (1 - _MEASURED) * percent, 1.0, f"asv: {doing}")
