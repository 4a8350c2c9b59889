"""A store on a full disk, one that may not be written, and one that several runs write to."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.matrix.outcome import Status
from harness.store.runs import read_run
from harness.store.table import load_sound
from tests.support.commands import TINY, Command, estimators, finish, journals, stages

SLOW = "dawdles(seconds=0.1)"
NAMES = ("fomaml", SLOW, "maml", "reptile")
ARGUMENTS = (*TINY, "--jobs", "1", *estimators(*NAMES), "--depth", "1")
FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take whatever room there is; return the file that does."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    assert not shutil.disk_usage(disk).free
    return filler


def test_folder_for_temporary_files_with_too_long_a_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    with Command(tmp_path, *ARGUMENTS, tmp=long) as command:
        assert command.code() == 2
    (line,) = command.errors
    assert str(long) in line


def assert_whole(path: Path) -> None:
    """Check that every cell is there once, and that each ended well."""
    run = read_run(path)
    assert (run.ended, run.faults) == (True, [])
    assert {cell.status for cell in run.cells} == {Status.OK}
    assert Counter(cell.axes["estimator"] for cell in run.cells) == Counter(NAMES)
    assert set(Counter(stages(path)).values()) == {1}


def test_run_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    arguments = (*ARGUMENTS, "--store", str(disk))
    with Command(tmp_path, *arguments) as command:
        command.wait_for(lambda: any(map(stages, journals(disk))))
        filler = fill(disk)
        assert command.code() == 2
    ((path, before),) = journals(disk).items()
    (line,) = command.errors
    assert f"{path}: {FULL}" in line
    assert read_run(path).cells

    code, (line,) = finish(tmp_path, *arguments)  # no room yet
    assert code == 2
    assert f"{disk}: {FULL}" in line
    ((_, still),) = journals(disk).items()
    assert still == before

    filler.unlink()
    assert finish(tmp_path, *arguments) == (0, [])
    ((_, after),) = journals(disk).items()
    assert after.startswith(before)
    assert_whole(path)


def test_full_disk_for_temporary_files_leaves_no_result(tmp_path: Path, disk: Path) -> None:
    def in_need() -> bool:
        return bool([*disk.glob("metagrad.*")])

    with Command(tmp_path, *ARGUMENTS, tmp=disk) as command:
        command.wait_for(in_need)
        filler = fill(disk)
        assert command.code() == 2
    (line,) = command.errors
    assert "disk is full" in line
    (path,) = journals(tmp_path / "results")
    assert not read_run(path).cells

    filler.unlink()
    with Command(tmp_path, *ARGUMENTS, tmp=disk) as command:
        assert command.code() == 0
    assert_whole(path)
    assert not in_need()


def test_store_without_permission_ends_in_one_line(tmp_path: Path) -> None:
    as_others: tuple[str, ...] = ()
    if os.getuid() == 0:  # to whom permissions mean nothing, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root is refused nothing here")
        without = "-dac_override,-dac_read_search"
        as_others = ("setpriv", "--bounding-set", without, "--inh-caps", without)
    store = tmp_path / "locked"
    store.mkdir(mode=0o500)
    code, (line,) = finish(tmp_path, *ARGUMENTS, "--store", str(store), prefix=as_others)
    assert code == 2
    assert f"{store}: Permission denied" in line
    assert not [*store.iterdir()]


def test_runs_side_by_side_in_one_store_do_not_mix(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    store = tmp_path / "results"
    arguments = ("--store", str(store), *ARGUMENTS)
    with Command(folder("first"), *arguments) as first:
        first.wait_for(lambda: any(map(stages, journals(store))))
        first.send(signal.SIGKILL)
        first.code()
    ((killed, before),) = journals(store).items()
    others = (*arguments[:-1], "2")
    with (
        Command(folder("second"), *arguments) as second,
        Command(folder("third"), *arguments) as third,
        Command(folder("fourth"), *others) as fourth,
    ):
        for command in (second, third, fourth):
            assert command.code() == 0, command.errors

    # One went on with what had been killed; the others could not, and began runs of their own.
    after = journals(store)
    assert len(after) == 3
    assert after[killed].startswith(before)
    for path in after:
        assert_whole(path)
    table = load_sound(store)
    assert not table.duplicated(["run", "cell", "metric"]).any()
    assert sorted(table.groupby("run")["depth"].unique().explode()) == [1, 1, 2]
