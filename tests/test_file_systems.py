"""Stores on file systems that lack something: locks, `fsync`, renaming, room, permission."""

import errno
import fcntl
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from estimators.base.errors import UserError
from harness.cli import main
from harness.commands.options import warn
from harness.matrix.outcome import outcome_of
from harness.store.folder import prepare
from harness.store.journal import EventFile, Journal
from harness.store.runs import read_run
from harness.store.trainings import trainings
from harness.support import files
from tests.support.stores import COMMITS, write_run

UNSUPPORTED = [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL]
WITHOUT_LOCKS = """
import errno, fcntl, os

def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

fcntl.flock = flock
"""
TINY = "--task quadratic --model linear --depth 1 --estimator fomaml"


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def call(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    warn.cache_clear()
    monkeypatch.setattr(sys, "argv", ["metagrad", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_store_without_locks_is_written_to_after_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    (line,) = prepare(tmp_path)
    assert "lock" in line
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.3})
    (path,) = (tmp_path / "runs").iterdir()
    assert read_run(path).cells
    EventFile(path, new=False).close()


def test_runs_trainings_and_merges_go_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    Path("old.py").write_text(WITHOUT_LOCKS, encoding="utf-8")  # in worker processes
    steps = "--steps 1 --meta-batch 1 --validation-tasks 1 --test-tasks 2 --validate-every 1"
    for command in (
        f"run {TINY} --tasks 1 --samples 0 --import old.py",
        f"train {TINY} {steps} --import old.py",
        "merge results --store other",
    ):
        assert call(monkeypatch, command) == 0
        out, err = capsys.readouterr()
        assert (out.count("lock"), err) == (1, "")
    for store in ("results", "other"):
        runs = [*Path(store, "runs").iterdir()]
        assert [len(read_run(path).cells) for path in runs] == [1]
        assert set(trainings(Path(store))[0]["split"]) == {"train", "validation", "test"}


def test_a_store_without_sync_is_written_to_after_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    (line,) = prepare(tmp_path)
    assert "power cut" in line
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.3})


@pytest.mark.parametrize(
    ("where", "name", "number", "word"),
    [
        (os, "fsync", errno.ENOSPC, "No space"),
        (os, "fsync", errno.EIO, "rror"),
        (Path, "replace", errno.EPERM, "rename"),
        (Path, "mkdir", errno.EROFS, "Read-only"),
        (Path, "mkdir", errno.EACCES, "denied"),
    ],
)
def test_a_store_that_cannot_be_kept_is_refused_before_anything_is_measured(
    where: object,
    name: str,
    number: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, name, failing(number))
    with pytest.raises(UserError, match=word) as raised:
        prepare(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert not [*tmp_path.iterdir()]


def test_a_file_or_a_dead_link_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    (tmp_path / "source" / "runs").mkdir(parents=True)
    for command in (f"run {TINY}", f"train {TINY}", "merge source"):
        for store in ("file", "link", "file/below"):
            assert call(monkeypatch, f"{command} --store {store}") == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert store in err


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_journal_that_could_not_be_begun_is_not_left_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):  # ruff: ignore[pytest-raises-with-multiple-statements]
        patch.setattr(os, name, failing(errno.ENOSPC))
        Journal.create(tmp_path).start({}, cells=1)
    assert not [*(tmp_path / "runs").iterdir()]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_that_is_used_up_is_a_full_disk(number: int) -> None:
    assert outcome_of(OSError(number, "no more")).disk_full


def test_without_locks_no_folder_for_temporary_files_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("multiprocessing.util.Finalize", lambda *_, **__: None)
    make = files.temporary_folder.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(errno.ENOSYS))
        first = make()
        assert make() != first
    assert first.exists()
    make()  # with locks
    assert not first.exists()


def test_nowhere_for_temporary_files_is_a_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="TMPDIR"):
        files.temporary_folder.__wrapped__()
