"""Every way in which an estimator can go wrong, in one run of the real command."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.matrix.outcome import Status
from harness.store.runs import CellResult, Run, read_run
from tests.support import commands
from tests.support.commands import COMMAND, FAULTY, TINY, estimators

pytestmark = pytest.mark.slow

TIME_LIMIT = 15  # seconds: all but those that never end must keep it on a busy machine
MEMORY_LIMIT = 1  # GiB
PRINTED = 1024  # MiB
MOST = 600  # MiB, of the runner with its imports, and of what it may add to that


def place(code: str) -> str:
    lines = FAULTY.read_text(encoding="utf-8").splitlines()
    (index,) = (index for index, line in enumerate(lines) if line.strip() == code)
    names = [line[4:].partition("(")[0] for line in lines[:index] if line.startswith("def ")]
    return f" (faulty.py:{index + 1} in {names[-1]})"


# Status, and begin and end of the reason.
LATE = f"not done after {TIME_LIMIT} s"
LARGE = f"it took more than {1024 * MEMORY_LIMIT:,} MiB"
SWELLING = place('taken.append(torch.ones(size // 4) if tensors else b"\\1" * size)')
DIED = "the worker process ended by"
FAULTS = {
    "spins": (Status.TIMEOUT, LATE, place("sum(itertools.repeat(0))")),
    "stubborn": (
        Status.TIMEOUT,
        LATE,
        place("ctypes.PyDLL(None).read(quiet, ctypes.create_string_buffer(1), 1)"),
    ),
    "swells": (Status.OUT_OF_MEMORY, LARGE, SWELLING),
    "swells(tensors=True)": (Status.OUT_OF_MEMORY, LARGE, SWELLING),
    "huge": (
        Status.OUT_OF_MEMORY,
        "RuntimeError: ",
        place("torch.empty(2**50, dtype=torch.uint8)"),
    ),
    "segfaults": (Status.CRASHED, f"{DIED} SIGSEGV", place("ctypes.string_at(0)")),
    "aborts": (Status.CRASHED, f"{DIED} SIGABRT", place("os.abort()")),
    "kills-itself": (Status.CRASHED, f"{DIED} SIGKILL", "SIGKILL"),
    "closes": (Status.CRASHED, f"{DIED} exit code 1", "exit code 1"),
    "raises-speechless": (Status.FAILED, "SpeechlessError", place("raise SpeechlessError")),
    "raises-at-length": (
        Status.FAILED,
        "ValueError: what a long story what a long story",
        " ..." + place(r'raise ValueError("what a long\nstory " * 555_556)'),
    ),
    "returns(what='none')": (Status.FAILED, "AttributeError: 'NoneType' object", ")"),
    "returns(what='word')": (Status.FAILED, "TypeError: 'str' object", ")"),
}
HARMLESS = (
    *("good", "forks", "threads", "wants-no-cuda", f"prints(mebibytes={PRINTED})"),
    *("returns(what='tensor')", "returns(what='numpy')"),
)


@dataclass(frozen=True)
class Finished:
    """A finished command, what it printed, and the processes that it left."""

    folder: Path
    code: int
    memory: int
    errors: str
    run: Run
    left: list[psutil.Process]

    @property
    def cells(self) -> dict[str, CellResult]:
        return {cell.axes["estimator"]: cell for cell in self.run.cells}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("faults")
    limits = ("--time-limit", str(TIME_LIMIT), "--memory-limit", str(MEMORY_LIMIT))
    arguments = (*TINY, "--depth", "1", "--jobs", "4", *limits, *estimators(*FAULTS, *HARMLESS))
    with (folder / "out").open("w") as out, (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [COMMAND, "run", *arguments],
            cwd=folder,
            env=os.environ | commands.variables(folder),
            stdout=out,
            stderr=errors,
        )
    memory = 0
    while (code := process.poll()) is None:
        # ru_maxrss would be no less than ours, from which it was forked.
        with suppress(psutil.NoSuchProcess):
            memory = max(memory, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.05)
    assert memory
    left = commands.processes(folder)
    (path,) = (folder / "results" / "runs").glob("*.jsonl")
    text = (folder / "errors").read_text(encoding="utf-8")
    yield Finished(folder, code, memory, text, read_run(path), left)
    for orphan in commands.processes(folder):
        orphan.kill()


def test_each_fault_has_its_outcome_and_place(finished: Finished) -> None:
    for estimator, (status, begin, end) in FAULTS.items():
        cell = finished.cells[estimator]
        assert cell.status is status, estimator
        assert cell.reason.startswith(begin), estimator
        assert cell.reason.endswith(end), estimator
        assert len(cell.reason.splitlines()) == 1, estimator
        assert len(cell.reason) < 1000, estimator
        assert len(cell.end.traceback) < 30_000, estimator
        assert set(cell.stages) == {"score"}, estimator
        assert cell.end.transient == (estimator == "kills-itself"), estimator


def test_cells_beside_them_are_measured(finished: Finished) -> None:
    bias = finished.cells["good"].samples["bias"]
    for estimator in HARMLESS:
        cell = finished.cells[estimator]
        assert (cell.status, cell.reason) == (Status.OK, ""), estimator
        assert set(cell.stages) == {"score", "time"}, estimator
        assert len(cell.samples["time"]) == 7, estimator
        hvps = 3 if "returns" in estimator else 0
        assert (cell.samples["bias"], cell.samples["hvps"]) == (bias, [hvps]), estimator


def test_the_command_ends_well_and_leaves_nothing(finished: Finished) -> None:
    assert (finished.code, finished.errors) == (1, "")
    assert finished.run.ended
    assert not finished.run.faults
    assert len(finished.run.cells) == len(FAULTS) + len(HARMLESS)
    assert f"{DIED} SIGSEGV" in (finished.folder / "out").read_text(encoding="utf-8")
    _, alive = psutil.wait_procs(finished.left, timeout=20)  # the fork server takes a while to end
    assert not alive
    assert not [*(finished.folder / "tmp").iterdir()]


def test_output_of_estimators_fills_neither_memory_nor_files(finished: Finished) -> None:
    assert finished.memory < MOST * 2**20 < PRINTED * 2**20
    size = sum(path.stat().st_size for path in finished.folder.rglob("*") if path.is_file())
    assert size < 2**20
