"""`metagrad run` in processes of its own, for tests that end it in every way there is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import psutil

from harness import cli
from harness.running.processes import fresh_processes

COMMAND = Path(sys.executable).with_name("metagrad")
FAULTY = Path(__file__).with_name("faulty.py")
TINY = ("--task", "quadratic", "--model", "linear", "--tasks", "1", "--import", str(FAULTY))
PATIENCE = 120.0  # seconds, for what takes a few on a machine with nothing else to do
_MARK = "METAGRAD_TESTED_IN"


def variables(folder: Path, tmp: Path | None = None) -> dict[str, str]:
    """Return variables of processes that keep all their files in a folder, and mark them."""
    tmp = tmp or folder / "tmp"
    tmp.mkdir(exist_ok=True)
    return {"TMPDIR": str(tmp), "METAGRAD_CACHE": str(folder / "cache"), _MARK: str(folder)}


def estimators(*names: str) -> list[str]:
    return [part for name in names for part in ("--estimator", name)]


class Command:
    """`metagrad run` as it goes on in a folder, its output in the files `out` and `errors` there.

    It is forked from a process that has imported torch, since most of a start goes into that.
    """

    def __init__(self, folder: Path, *arguments: str, tmp: Path | None = None) -> None:
        self.folder = folder
        context: Any = fresh_processes()
        changed = variables(folder, tmp)
        self.process: BaseProcess = context.Process(target=_run, args=(folder, changed, arguments))
        self.process.start()

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    @property
    def over(self) -> bool:
        return not self.process.is_alive()

    @property
    def errors(self) -> list[str]:
        """The lines of its standard error."""
        return (self.folder / "errors").read_text(encoding="utf-8").splitlines()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        assert self.process.pid
        if not self.over:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def code(self) -> int:
        """Wait for its end; return the exit code."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for something that happens before its end."""
        met = False

        def met_or_over() -> bool:
            nonlocal met
            met = condition()  # which may pass as it came
            return met or self.over

        wait_for(met_or_over)
        assert met, self.errors


def _run(folder: Path, changed: dict[str, str], arguments: tuple[str, ...]) -> NoReturn:
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.update(changed)
    tempfile.tempdir = None  # forget the one of the process that we were forked from
    # A shell may have started the tests with some of these ignored, a fork server blocks them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for stream, name in ((1, "out"), (2, "errors")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.argv = ["metagrad", "run", *arguments]
    cli.main()
    raise AssertionError("it has to exit")


def finish(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Run the command as a user does; return its exit code and the lines of its errors."""
    done = subprocess.run(
        [*prefix, COMMAND, "run", *arguments],
        cwd=folder,
        env=os.environ | variables(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


def processes(folder: Path) -> list[psutil.Process]:
    """Return what a command in this folder has started: fork server, workers, their children."""
    result = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == str(folder):
                result.append(process)
        except psutil.Error:  # another user's, or just gone
            continue
    return result


def journals(store: Path) -> dict[Path, bytes]:
    """Return the whole lines of all runs of a store."""
    runs = {path: path.read_bytes() for path in (store / "runs").glob("*.jsonl")}
    return {path: content[: content.rfind(b"\n") + 1] for path, content in runs.items()}


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def stages(path: Path) -> list[tuple[str, str]]:
    """Return the cell and the stage of each result in a journal."""
    return [
        (result["id"], event["stage"])
        for event in events(path)
        if event["event"] == "results"
        for result in event["results"]
    ]
