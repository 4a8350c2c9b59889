"""`metagrad merge`: all comes, once, whole; what is broken, foreign or at odds stays out."""

import fcntl
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from estimators.errors import OptionError
from harness.commands.merge import merge as command
from harness.history.asv_results import load_asv
from harness.history.kernel_times import with_kernel_times
from harness.results import staging
from harness.results.journal import EventFile, Journal
from harness.results.merge import Merged, merge
from harness.results.runs import read_run
from harness.results.store import Problem, journals, load
from harness.results.trainings import Training, TrainingJournal, trainings
from harness.running.processes import fresh_processes
from tests.asv_files import HEADLINE, MATRIX, write_asv
from tests.histories import SCORES, A, B, cell, write_run
from tests.invocation import invoke
from tests.kernel_files import KERNELS, of_commit, write
from tests.store_runs import fingerprint
from tests.stores import environment

TWO = [1.0] * 4
LATER, EARLIER = (datetime(2026, 1, day, tzinfo=UTC) for day in (2, 1))


def train(store: Path, machine: str = "ci") -> Path:
    journal = TrainingJournal.create(store)
    axes: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5, "seed": 0}
    axes |= {"step_size": 0.01, "device": "cpu", "dtype": "float32", "outer": {"steps": 5}}
    journal.start(environment(A, machine=machine), Training("maml", **axes))
    journal.evaluation(5, "test", {"outer_loss": [1.0, 2.0]}, seconds=1.0)
    journal.end()
    return journal.path


def filled(folder: Path, machine: str = "ci") -> Path:
    """A store with results of all kinds."""
    write_run(folder, A, {cell(): SCORES}, machine=machine)
    write_run(folder, B, {cell(): SCORES, cell("fomaml"): SCORES}, machine=machine)
    train(folder, machine)
    for commit in (A, B):
        write_asv(folder / "asv", commit, {MATRIX + "hvps": TWO}, machine=machine)
    write(folder / "benchmarks" / "any-name.json", of_commit(KERNELS, A, 1.0, machine=machine))
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """What is in the files of a store, by the path in it; hidden files, too."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def problems(store: Path) -> list[Problem]:
    """What the readers of a store have to complain of."""
    found = load(store)[1] if (store / "runs").exists() else []
    asv, more = load_asv(store / "asv")
    return found + more + trainings(store)[1] + with_kernel_times(asv, store / "benchmarks")[1]


def told(merged: Merged) -> list[str]:
    return [one.what for one in merged.left_out]


def test_all_kinds_of_results_come(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    write_run(store, A, {cell(): SCORES}, machine="here")
    before, mine = fingerprint(source), contents(store)
    code, out, err = invoke(command, source, "--store", store)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "machine runs trainings asv benchmarks",
        "ci 2 1 2 1",
        f"Into {store}: 6 came, 0 there already, 0 left out.",
    ]
    assert fingerprint(source) == before
    expected = contents(source)
    kernels = expected.pop("benchmarks/any-name.json")
    found = contents(store)
    (name,) = (path for path in found if path.startswith("benchmarks/2026"))
    assert found == mine | expected | {name: kernels}
    assert not problems(store)
    assert len(load(store)[0]) == len(load(source)[0]) + len(SCORES)


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    merge([source], store)
    before = fingerprint(store)
    code, out, err = invoke(command, source, source, "--store", store)
    assert (code, err) == (0, "")
    assert out == f"Into {store}: 0 came, 12 there already, 0 left out.\n"
    assert fingerprint(store) == before


def test_several_sources_come_at_once(tmp_path: Path) -> None:
    sources = [filled(tmp_path / name, machine=name) for name in ("one", "two")]
    timed = write(tmp_path / "timed.json", of_commit(KERNELS, B, 2.0, machine="three"))
    code, out, _ = invoke(command, *sources, timed, "--store", tmp_path / "store")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:-1]]
    counts = ["2", "1", "2", "1"]
    assert rows == [["one", *counts], ["three", "1"], ["two", *counts]]
    assert set(load(tmp_path / "store")[0]["machine"]) == {"one", "two"}


def test_the_run_that_was_written_to_last_stays_that(tmp_path: Path) -> None:
    write_run(tmp_path / "from", A, {cell(): SCORES})
    (old,) = journals(tmp_path / "from")
    os.utime(old, (1.0, 1.0))
    merge([tmp_path / "from"], tmp_path / "store")
    (copy,) = journals(tmp_path / "store")
    assert copy.stat().st_mtime_ns == 10**9


def test_another_run_of_the_same_name_gets_a_name_of_its_own(tmp_path: Path) -> None:
    one, other, store = (tmp_path / name for name in ("one", "other", "store"))
    write_run(one, A, {cell(): SCORES}, name="x", machine="one")
    write_run(other, A, {cell(): {"hvps": [5.0]}}, name="x", machine="other")
    merge([one, other], store)
    names = [path.name for path in journals(store)]
    assert len(names) == 2
    assert "x.jsonl" in names
    assert len(load(store)[0]) == len(SCORES) + 1
    assert (store / "runs" / "x.jsonl").read_bytes() == (one / "runs" / "x.jsonl").read_bytes()
    assert merge([one, other], store).there == 2
    # Brought back, neither comes to its origin again, whatever it is called.
    assert merge([store], other).came.total() == 1
    assert merge([store], other).there == 2
    assert len(journals(other)) == 2
    assert not problems(other)


def journal(store: Path, lines: int = 2) -> Path:
    """A run without an end."""
    made = Journal.create(store)
    made.start(environment(A), cells=1)
    for number in range(lines - 1):
        made.resume({"n": number})
    made.close()
    return made.path


def test_a_run_that_has_gone_on_takes_the_place_of_its_copy(tmp_path: Path) -> None:
    store = tmp_path / "store"
    path = journal(tmp_path / "from")
    merge([tmp_path / "from"], store)
    (copy,) = journals(store)
    older = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"event": "end"}\n')
    assert merge([tmp_path / "from"], store).came["runs", "here"] == 1
    assert journals(store) == [copy]
    assert read_run(copy).ended
    path.write_bytes(older)  # and its older state does not come back
    assert merge([tmp_path / "from"], store).there == 1
    assert read_run(copy).ended


def test_a_run_that_went_on_in_both_places_is_kept_twice(tmp_path: Path) -> None:
    path = journal(tmp_path / "from")
    store = tmp_path / "store"
    merge([tmp_path / "from"], store)
    for number, one in enumerate((path, journals(store)[0])):
        with one.open("ab") as file:
            file.write(b'{"event": "resume", "in": %d}\n' % number)
    mine = journals(store)[0].read_bytes()
    for _ in range(2):
        merge([tmp_path / "from"], store)
        assert {one.read_bytes() for one in journals(store)} == {mine, path.read_bytes()}
        assert len(journals(store)) == 2


def test_a_torn_last_line_does_not_come(tmp_path: Path) -> None:
    store = tmp_path / "store"
    paths = [journal(tmp_path / "from"), train(tmp_path / "from")]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(path.read_bytes() + b'{"event": "resu')
    assert merge([tmp_path / "from"], store).came.total() == 2
    assert list(contents(store).values()) == whole
    assert not problems(store)
    assert merge([tmp_path / "from"], store).there == 2


def test_a_run_that_writes_keeps_its_file(tmp_path: Path) -> None:
    path = journal(tmp_path / "from")
    store = tmp_path / "store"
    merge([tmp_path / "from"], store)
    with path.open("ab") as file:
        file.write(b'{"event": "end"}\n')
    (copy,) = journals(store)
    before = copy.read_bytes()
    writing = EventFile(copy, new=False)
    merged = merge([tmp_path / "from"], store)
    assert (merged.exit_code, merged.came.total()) == (2, 0)
    assert told(merged) == [f"it has gone on, and so does its copy {copy} just now"]
    assert copy.read_bytes() == before
    writing.close()
    assert merge([tmp_path / "from"], store).exit_code == 0
    assert copy.read_bytes() == path.read_bytes()


def test_a_run_that_has_not_begun_is_nothing(tmp_path: Path) -> None:
    source = tmp_path / "from"
    journal(source)
    for name, content in (("a", b""), ("b", b'{"event": "start", "at"'), ("c", b'{"ev')):
        (source / "runs" / f"{name}.jsonl").write_bytes(content)
        (tmp_path / "store" / "runs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / "runs" / "empty.jsonl").touch()
    merged = merge([source], tmp_path / "store")
    assert (merged.came.total(), merged.there, merged.left_out) == (1, 0, [])
    (source / "runs" / "d.jsonl").write_bytes(b"other")
    merged = merge([source], tmp_path / "store")
    assert (merged.came.total(), merged.there, len(merged.left_out)) == (0, 1, 1)


def asv(folder: Path, values: Any, started: datetime, **changed: Any) -> Path:
    return write_asv(folder / "asv", A, values, started_at=started, **changed)


HVPS, FLOPS = MATRIX + "hvps", MATRIX + "flops"
ONE_FAILED = [1.0, None, 1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "started", "there", "came", "exit_code"),
    [
        ({HVPS: [2.0] * 4}, LATER, True, True, 0),  # newer, and as much
        ({HVPS: TWO, FLOPS: TWO}, EARLIER, True, True, 0),  # more of the same
        ({HVPS: TWO, FLOPS: TWO}, LATER, True, True, 0),
        ({HVPS: [math.nan] * 4}, LATER, True, True, 0),  # skipped is an answer
        ({HVPS: TWO}, EARLIER, True, False, 0),  # the same
        ({HVPS: ONE_FAILED}, EARLIER, True, False, 0),  # less of the same
        ({HVPS: ONE_FAILED}, LATER, True, False, 2),  # newer, and less
        ({FLOPS: TWO}, LATER, True, False, 2),  # newer, and other
        ({HVPS: [2.0] * 4}, EARLIER, True, False, 2),  # of the same time, and other
        ({HVPS: ONE_FAILED, FLOPS: TWO}, EARLIER, True, False, 2),  # either has more
        ({FLOPS: TWO}, LATER, False, True, 0),
    ],
)
def test_asv_is_replaced_by_what_covers_it(
    tmp_path: Path, values: Any, started: datetime, there: bool, came: bool, exit_code: int
) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    new = asv(source, values, started)
    target = store / new.relative_to(source)
    if there:
        asv(store, {HVPS: TWO}, EARLIER)
    before = target.read_bytes() if there else b""
    if exit_code:
        code, out, err = invoke(command, source, "--store", store)
        assert err == (
            f"metagrad: {new}: neither it nor {target} has all that the other tells; "
            "it is left out\n"
        )
        assert out.endswith(": 0 came, 0 there already, 1 left out.\n")
    else:
        code = merge([source], store).exit_code
    assert code == exit_code
    assert target.read_bytes() == (new.read_bytes() if came else before)


def test_skipped_results_of_asv_are_there_when_they_are(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    for folder in (source, store):
        asv(folder, {HVPS: [math.nan] * 4}, EARLIER)
    merged = merge([source], store)
    assert (merged.came.total(), merged.there, merged.left_out) == (0, 1, [])


def test_asv_of_another_machine_of_the_same_name_stays_out(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    asv(source, {HVPS: TWO}, EARLIER)
    write_asv(store / "asv", B, {HVPS: TWO})
    about = {"machine": "here", "version": 1, "arch": "x86_64", "num_cpu": "2"}
    for folder, cpu in ((source, "one"), (store, "other")):
        write(folder / "asv" / "here" / "machine.json", about | {"cpu": cpu, "ram": cpu})
    before = contents(store)
    merged = merge([source], store)
    assert merged.exit_code == 2
    assert "asv knows machines by name" in told(merged)[0]
    assert contents(store) == before
    # A few bytes of memory more or less, or another kernel, are no other machine.
    write(source / "asv" / "here" / "machine.json", about | {"cpu": "other", "os": "newer"})
    assert merge([source], store).came["asv", "here"] == 1
    assert contents(store).items() > before.items()


def test_asv_learns_of_benchmarks_that_it_has_not_heard_of(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    write_asv(source / "asv", A, {HEADLINE: [1.0, 2.0]})
    write_asv(store / "asv", B, {HVPS: TWO}, machine="there")
    merge([source], store)
    suite = json.loads((store / "asv" / "benchmarks.json").read_text())
    assert {HEADLINE, HVPS, "version"} <= set(suite)
    table, _ = load_asv(store / "asv")
    assert set(table.loc[table["metric"] == HEADLINE, "unit"]) == {"seconds"}
    assert not problems(store)


SHORT = b'{"event": "start", "schema": 2}\n'
OTHER = json.dumps({"event": "start", "schema": 99, "environment": environment(A)}).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("runs/x.jsonl", b"not JSON\n", "not a run that can be read: the first line is not"),
        ("runs/x.jsonl", b"no line", "not a run that can be read: it has no whole line"),
        ("runs/x.jsonl", SHORT, "not a run that can be read: line 1: an event lacks what"),
        ("runs/x.jsonl", OTHER, "it has schema 99"),
        ("trainings/x.jsonl", b"\xff\n", "not a training that can be read"),
        ("trainings/x.jsonl", b"no line", "not a training that can be read: it has no whole"),
        ("trainings/x.jsonl", SHORT, "not a training that can be read"),
        ("asv/ci/x.json", b"{", "not results that asv can read"),
        ("asv/ci/x.json", b"[]", "not results that asv can read"),
        ("asv/other/x.json", b"{}", "1 results are left out: "),
        ("asv/benchmarks.json", b"{", "names of parameters are not known"),
        ("benchmarks/x.json", b"{}", "not a file that pytest-benchmark writes"),
    ],
)
def test_what_cannot_be_read_stays_out_and_the_rest_comes(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_bytes(content)
    code, out, err = invoke(command, source, "--store", store)
    assert (code, err.count("\n")) == (1, 1)
    assert what in err
    assert err.startswith(f"metagrad: {(source / name).parent}")
    assert err.endswith("; it is left out\n")
    assert out.endswith(": 6 came, 0 there already, 1 left out.\n")
    assert not problems(store)
    assert content not in contents(store).values()


def test_a_run_with_a_broken_line_stays_out(tmp_path: Path) -> None:
    # Commands that need all of a store refuse it for such a line.
    path = journal(tmp_path / "from")
    path.write_bytes(path.read_bytes() + b"broken\n")
    merged = merge([tmp_path / "from"], tmp_path / "store")
    assert (merged.exit_code, told(merged)) == (2, ["line 3 is not a JSON object"])
    assert not contents(tmp_path / "store")


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    elsewhere = filled(tmp_path / "elsewhere", machine="secret")
    expected = len(contents(source))
    for kind, suffix in (("runs", "jsonl"), ("asv/ci", "json"), ("benchmarks", "json")):
        target = next((elsewhere / "runs").iterdir())
        (source / kind / f"link.{suffix}").symlink_to(target)
        os.mkfifo(source / kind / f"pipe.{suffix}")
        (source / kind / f"folder.{suffix}").mkdir()
    (source / "asv" / "secret").symlink_to(elsewhere / "asv" / "secret")
    (source / "trainings").rename(source / "moved")
    (source / "trainings").symlink_to(elsewhere / "trainings")
    merged = merge([source], store)
    assert sorted(told(merged)) == [
        *["a symbolic link, which is not followed"] * 5,
        *["not a regular file"] * 6,
    ]
    assert merged.exit_code == 1
    assert len(contents(store)) == expected - 1
    assert not any(b"secret" in content for content in contents(store).values())


def test_machines_of_one_name_are_told(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    write_run(source, A, {cell(): SCORES}, machine="ci", fingerprint="f00d")
    write_run(store, A, {cell(): SCORES}, machine="ci", fingerprint="beef")
    for _ in range(2):
        code, out, _ = invoke(command, source, "--store", store)
        assert code == 0
        assert out.splitlines()[-1] == "2 machines are called ci: their figures stay apart."
    assert set(load(store)[0]["fingerprint"]) == {"f00d", "beef"}


@pytest.mark.parametrize(
    ("source", "store", "what"),
    [
        ("store", "store", "store is the store that results are to come to"),
        ("link", "store", "link is the store that results are to come to"),
        ("store/../store", "store", "is the store that results are to come to"),
        ("store", "link", "store is the store that results are to come to"),
        ("missing", "store", "there is no missing"),
        ("empty", "store", "no results in empty; name a folder with runs, trainings, asv or"),
        ("file.txt", "store", "no results in file.txt"),
        ("store", "file.txt", "file.txt is no folder"),
        ("store", "file.txt/below", "cannot write to file.txt/below: Not a directory"),
    ],
)
def test_slips_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, store: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(Path("store"))
    Path("link").symlink_to("store")
    Path("empty").mkdir()
    Path("file.txt").touch()
    before = fingerprint(tmp_path)
    with pytest.raises(OptionError) as raised:
        invoke(command, source, "--store", store)
    assert what in str(raised.value)
    assert fingerprint(tmp_path) == before


def test_a_slip_in_one_source_brings_nothing_of_the_others(tmp_path: Path) -> None:
    source = filled(tmp_path / "from")
    with pytest.raises(OptionError, match="there is no"):
        merge([source, tmp_path / "missing"], tmp_path / "store")
    assert not (tmp_path / "store").exists()


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
        patched.setattr("harness.results.merge.put", _after(3, _interrupt))
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
    from harness.results import merge as module

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


def test_the_command_line_ends_with_its_code(tmp_path: Path) -> None:
    """As a user calls it, in a process of its own."""
    source = filled(tmp_path / "from")
    code = "import sys; from harness.commands.merge import merge; from pathlib import Path; "
    code += "sys.exit(merge([Path('from')], Path('store')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Into store: 6 came, 0 there already, 0 left out.\n")
    assert len(contents(tmp_path / "store")) == len(contents(source))
