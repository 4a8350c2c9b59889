"""Merges that are killed, interrupted or run out of disk, and are repeated."""

import fcntl
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from estimators.base.errors import UserError
from harness.commands.merge import merge as command
from harness.merging import staging
from harness.merging.merge import merge
from harness.running.processes import fresh_processes
from tests.support.histories import SCORES, A, cell, write_run
from tests.support.invocation import invoke
from tests.support.merge_stores import contents, filled, problems


def test_one_merge_at_a_time(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    store.mkdir()
    handle = os.open(store, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another merge"):
        merge([source], store)
    assert not contents(store)
    os.close(handle)
    assert merge([source], store).exit_code == 0


def test_a_full_disk_leaves_whole_files(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, allowed[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            merge([source], store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert contents(store).items() <= contents(source).items()
    assert merge([source], store).exit_code == 0
    assert not problems(store)


class _Places:
    """Replacement of `place` that calls a function once, at a given step of the merge.

    A file has three steps: before it is written, amid that, and before it gets its name.
    """

    def __init__(self, step: int, stop: Callable[[], None]) -> None:
        self.left, self.stop = step, stop

    def __call__(self, target: Path, content: bytes, modified: int, drafts: Path) -> None:
        for share in (0, 2, 1):
            self.left -= 1
            if not self.left:
                if share:
                    (drafts / f".draft-{target.name}").write_bytes(content[: len(content) // share])
                self.stop()
        staging.place(target, content, modified, drafts)


def test_an_interruption_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    with monkeypatch.context() as patched:
        stop = partial(signal.raise_signal, signal.SIGINT)
        patched.setattr("harness.merging.merge.place", _Places(3 * 3 + 2, stop))
        with pytest.raises(UserError, match="stopped"):
            invoke(command, source, "--store", store)
    assert len(contents(store)) == 3
    assert not (store / ".merge").exists()
    assert merge([source], store).present == 3


def _kill_at_steps(source: Path, folder: Path, stride: int) -> None:
    """Merge into a copy of a store for each step, in a process that kills itself there.

    The last copy is that of a merge that came to its end.
    """
    from harness.merging import merge as module

    for step in count(1, stride):
        store = shutil.copytree(folder / "before", folder / "killed" / f"{step:03}")
        child = os.fork()  # this process is fresh, and has no threads
        if child:
            if not os.waitpid(child, 0)[1]:
                return
            continue
        module.place = _Places(  # type: ignore[attr-defined]
            step, partial(os.kill, os.getpid(), signal.SIGKILL)
        )
        module.merge([source], store)
        os._exit(0)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_can_be_repeated(tmp_path: Path, stride: int) -> None:
    source, before = filled(tmp_path / "from"), tmp_path / "before"
    write_run(before, A, {cell(): SCORES}, machine="here")
    context: Any = fresh_processes()
    process = context.Process(target=_kill_at_steps, args=(source, tmp_path, stride))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    *killed, whole = sorted((tmp_path / "killed").iterdir())
    mine, expected = contents(before), contents(whole)
    assert len(expected) == len(mine) + len(contents(source))
    assert len(killed) == math.ceil(3 * len(contents(source)) / stride)
    reached = set()
    for store in killed:
        found = {k: v for k, v in contents(store).items() if not k.startswith(".merge/")}
        assert mine.items() <= found.items() <= expected.items()
        assert not problems(store)
        reached.add(len(found))
        assert merge([source], store).exit_code == 0
        assert contents(store) == expected
    if stride == 1:
        assert reached == set(range(len(mine), len(expected)))
