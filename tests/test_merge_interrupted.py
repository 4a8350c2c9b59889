"""Merges that are killed, stopped, or run out of disk, and are made again."""

import fcntl
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from estimators.base.errors import OptionError
from harness.commands.merge import merge as command
from harness.merging import staging
from harness.merging.merge import merge
from harness.running.processes import fresh_processes
from tests.support.histories import SCORES, A, cell, write_run
from tests.support.invocation import invoke
from tests.support.merge_stores import contents, filled, problems


def test_a_folder_without_a_file_is_nothing_done(tmp_path: Path) -> None:
    (tmp_path / "from" / "runs").mkdir(parents=True)
    assert merge([tmp_path / "from"], tmp_path / "store").exit_code == 2


def test_two_merges_wait_for_one_another(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    store.mkdir()
    handle = os.open(store, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(OptionError, match=r"another merge into .* is at work"):
        merge([source], store)
    assert not contents(store)
    os.close(handle)
    assert merge([source], store).exit_code == 0


def test_a_full_disk_is_told_and_leaves_whole_files(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, allowed[1]))
    try:
        with pytest.raises(OptionError, match=r"cannot write to .*: File too large; what has come"):
            merge([source], store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert contents(store).items() <= contents(source).items()
    assert merge([source], store).exit_code == 0
    assert not problems(store)


def test_an_interruption_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    with monkeypatch.context() as patched:
        patched.setattr("harness.merging.merge.put", _after(3, _interrupt))
        with pytest.raises(OptionError, match="stopped; what has come is whole"):
            invoke(command, source, "--store", store)
    assert len(contents(store)) == 3
    assert not (store / ".merge").exists()
    assert merge([source], store).there == 3


def _interrupt() -> None:
    raise KeyboardInterrupt


def _after(times: int, ended: Callable[[], None]) -> Callable[[Path, Path], None]:
    """`put`, with something that happens instead when it has done its work some times."""

    def put(draft: Path, target: Path) -> None:
        nonlocal times
        if not times:
            ended()
        times -= 1
        staging.put(draft, target)

    return put


def _kill_at_every_step(source: Path, folder: Path) -> None:
    """Merges into a copy of a store for each step, in a process that kills itself there.

    Steps are: before a file is written, amid that, and before it gets its name. The last copy is
    that of a merge that came to its end.
    """
    from harness.merging import merge as module

    for step in count(1):
        store = shutil.copytree(folder / "before", folder / "killed" / f"{step:03}")
        child = os.fork()  # this process is fresh, and has no threads
        if child:
            if not os.waitpid(child, 0)[1]:
                return
            continue
        steps = _Steps(step)
        for name in ("put", "write_synced"):
            setattr(module, name, getattr(steps, name))
        module.merge([source], store)
        os._exit(0)


@dataclass
class _Steps:
    """What a merge does to files, until it is killed.

    Attributes:
        left: how many steps are left.
    """

    left: int

    def _step(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, draft: Path, target: Path) -> None:
        self._step()
        staging.put(draft, target)

    def write_synced(self, path: Path, content: bytes, written: int) -> None:
        self._step()
        if self.left == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: len(content) // 2])
        self._step()
        staging.write_synced(path, content, written)


def test_killed_at_every_step_it_can_be_made_again(tmp_path: Path) -> None:
    source, before = filled(tmp_path / "from"), tmp_path / "before"
    write_run(before, A, {cell(): SCORES}, machine="here")
    context: Any = fresh_processes()
    process = context.Process(target=_kill_at_every_step, args=(source, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    *killed, whole = sorted((tmp_path / "killed").iterdir())
    mine, expected = contents(before), contents(whole)
    assert len(expected) == len(mine) + len(contents(source))
    # Two steps to write each file, and one to give it its name.
    assert len(killed) == 3 * len(contents(source))
    reached = set()
    for store in killed:
        found = {k: v for k, v in contents(store).items() if not k.startswith(".merge/")}
        assert mine.items() <= found.items() <= expected.items()
        assert not problems(store)
        reached.add(len(found))
        assert merge([source], store).exit_code == 0
        assert contents(store) == expected
    assert reached == set(range(len(mine), len(expected)))
