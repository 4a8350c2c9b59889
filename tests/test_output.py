"""Standard output and error: other encodings, closed pipes, full disks."""

import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from harness import cli
from harness.commands.options import console
from harness.conformance.report import print_report
from harness.conformance.suite import Finding, Verdict
from harness.support.streams import lasting_streams
from tests.support.stores import COMMITS, write_run

LONG = "a line that is printed\n" * 10_000  # more than a pipe holds
Call = Callable[..., int]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command line beside a small store, with a file of its own as standard output."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "results", COMMITS[0], {"fomaml": 0.3})

    def call(command: str, file: int, encoding: str = "utf-8") -> int:
        monkeypatch.setattr(sys, "argv", ["metagrad", *command.split()])
        stream = io.TextIOWrapper(io.FileIO(file, "w"), encoding, write_through=True)
        with redirect_stdout(stream), pytest.raises(SystemExit) as ended:
            cli.main()
        stream.detach()
        return int(ended.value.code or 0)

    return call


def opened(path: str | Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_takes_what_is_printed(encoding: str, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert call("summary", opened(file), encoding) == 0
    assert ("+-" if encoding == "ascii" else "±") in file.read_text(encoding=encoding)
    assert call("list", opened(file), encoding) == 0
    text = file.read_text(encoding=encoding)
    assert "sinusoid" in text


def test_verdicts_can_be_told_apart_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    findings = [Finding(verdict, verdict, verdict) for verdict in Verdict]
    with lasting_streams():
        print_report("mine", findings, [], console)
    marks = {line.split()[0] for line in content.getvalue().decode().splitlines()[1:4]}
    assert len(marks) == 3


def test_a_file_name_that_is_no_text_is_printed(
    call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out"
    runs = tmp_path / "results" / "runs"
    (run,) = runs.iterdir()
    run.rename(runs / os.fsdecode(b"caf\xe9.jsonl"))
    write_run(tmp_path / "results", COMMITS[0], {"fomaml": 0.3})
    assert call("export", opened(file)) == 1
    assert call("report --out page", opened(file)) == 1
    assert capfd.readouterr().err.count("caf?") == 2
    assert "caf?" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_work_goes_on_when_nobody_reads_on(call: Call, tmp_path: Path) -> None:
    assert call("summary", closed_pipe()) == 0
    assert call("export", closed_pipe()) == 0
    assert call("report --out page", closed_pipe()) == 0
    assert (tmp_path / "page" / "index.html").exists()
    (tmp_path / "results" / "runs" / "x.jsonl").write_bytes(b"{}\n")
    assert call("export", closed_pipe()) == 1  # what the command found, as ever


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full in this system")
def test_output_that_is_lost_is_told(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("summary", opened("/dev/full")) == 2
    assert "standard output: No space" in capfd.readouterr().err


def test_a_pipe_that_does_not_wait_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(writer, "w")))
    read: list[str] = []
    with os.fdopen(reader, encoding="utf-8") as pipe:
        thread = threading.Timer(0.1, lambda: read.append(pipe.read()))
        thread.start()
        with lasting_streams():
            sys.stdout.write(LONG)
        os.close(writer)
        thread.join()
    assert read == [LONG]


def test_closed_streams_are_no_obstacle(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["metagrad", "summary"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
