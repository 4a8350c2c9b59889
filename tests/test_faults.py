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

TIME_LIMIT = 15  # seconds: others than those that never end must keep it on a busy machine
MEMORY_LIMIT = 1  # GiB
PRINTED = 1024  # MiB
KEPT = 600  # MiB, of the runner with all that it has imported, and of what it may add to that


def line_of(code: str) -> int:
    lines = FAULTY.read_text(encoding="utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, start=1) if line.strip() == code)
    return number


def place(code: str) -> str:
    return f" (faulty.py:{line_of(code)} in go_wrong)"


# What ends how, and what its one line begins and ends with.
LATE = f"not done after {TIME_LIMIT} s"
LARGE = f"it took more than {1024 * MEMORY_LIMIT:,} MiB"
HUGE = place("torch.empty(2**50, dtype=torch.uint8)")
SWELLING = place('taken.append(torch.ones(size // 4) if self.tensors else b"\\1" * size)')
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
    "huge": (Status.OUT_OF_MEMORY, "RuntimeError: ", HUGE),
    "segfaults": (Status.CRASHED, f"{DIED} SIGSEGV", place("ctypes.string_at(0)")),
    "aborts": (Status.CRASHED, f"{DIED} SIGABRT", place("os.abort()")),
    "kills-itself": (Status.CRASHED, f"{DIED} SIGKILL", "SIGKILL"),
    "closes": (Status.CRASHED, f"{DIED} exit code 1", "exit code 1"),
    "raises": (Status.FAILED, "KeyError: ", place(r'raise KeyError("no such\nparameter")')),
    "raises-speechless": (Status.FAILED, "SpeechlessError", place("raise SpeechlessError")),
    "raises-at-length": (
        Status.FAILED,
        "ValueError: what a long story what a long story",
        " ..." + place(r'raise ValueError("what a long\nstory " * 555_556)'),
    ),
    "returns(what='none')": (Status.FAILED, "AttributeError: 'NoneType' object", " in score)"),
    "returns(what='word')": (Status.FAILED, "TypeError: 'str' object", " in score)"),
    "nan": (Status.DIVERGED, "the estimate of task 0 is not finite", ""),
}
HARMLESS = (
    *("good", "forks", "threads", "wants-no-cuda", f"prints(mebibytes={PRINTED})"),
    *("returns(what='tensor')", "returns(what='numpy')"),
)


@dataclass(frozen=True)
class Finished:
    """What a run leaves."""

    folder: Path
    code: int
    memory: int
    told: str
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
    with (folder / "out").open("w") as out, (folder / "told").open("w") as told:
        process = subprocess.Popen(
            [COMMAND, "run", *arguments],
            cwd=folder,
            env=os.environ | commands.variables(folder),
            stdout=out,
            stderr=told,
        )
    code, memory = process.poll(), 0
    while code is None:
        # ru_maxrss would be no less than ours, from which it was forked.
        with suppress(psutil.NoSuchProcess):
            memory = max(memory, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.05)
        code = process.poll()
    assert memory
    left = commands.processes(folder)
    (path,) = (folder / "results" / "runs").glob("*.jsonl")
    yield Finished(
        folder,
        code,
        memory,
        (folder / "told").read_text(encoding="utf-8"),
        read_run(path),
        left,
    )
    for orphan in commands.processes(folder):
        orphan.kill()


@pytest.mark.parametrize("estimator", FAULTS)
def test_fault_has_its_outcome_and_one_line_of_where_and_why(
    finished: Finished, estimator: str
) -> None:
    status, begins, ends = FAULTS[estimator]
    cell = finished.cells[estimator]
    assert cell.status is status
    assert cell.reason.startswith(begins)
    assert cell.reason.endswith(ends)
    assert len(cell.reason.splitlines()) == 1
    assert len(cell.reason) < 1000
    assert len(cell.end.traceback) < 30_000
    assert set(cell.stages) == {"score"}


@pytest.mark.parametrize("estimator", HARMLESS)
def test_cell_beside_them_is_measured(finished: Finished, estimator: str) -> None:
    cell = finished.cells[estimator]
    assert (cell.status, cell.reason) == (Status.OK, "")
    assert set(cell.stages) == {"score", "time"}
    assert len(cell.samples["time"]) == 7
    hvps = 3 if "returns" in estimator else 0
    assert (cell.samples["bias"], cell.samples["hvps"]) == (
        finished.cells["good"].samples["bias"],
        [hvps],
    )


def test_command_ends_well_and_tells_that_some_went_wrong(finished: Finished) -> None:
    assert (finished.code, finished.told) == (1, "")
    assert finished.run.ended
    assert not finished.run.faults
    assert len(finished.run.cells) == len(FAULTS) + len(HARMLESS)
    table = (finished.folder / "out").read_text(encoding="utf-8")
    assert f"{DIED} SIGSEGV" in table


def test_no_process_outlives_the_run(finished: Finished) -> None:
    # The fork server takes a moment to take torch down.
    _, alive = psutil.wait_procs(finished.left, timeout=20)
    assert not alive


def test_no_file_outlives_the_run(finished: Finished) -> None:
    assert not [*(finished.folder / "tmp").glob("metagrad-*")]
    assert not [*(finished.folder / "tmp").glob("pymp-*")]


def test_what_estimators_print_fills_neither_memory_nor_files(finished: Finished) -> None:
    assert finished.memory < KEPT * 2**20 < PRINTED * 2**20
    size = sum(path.stat().st_size for path in finished.folder.rglob("*") if path.is_file())
    assert size < 2**20
