"""`metagrad merge`: results are copied once and whole; broken or conflicting files stay out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.commands.merge import merge as command
from harness.merging.merge import merge
from harness.profiling.folder import FILES, SUMMARY, folder_of, read_profile
from harness.store.journal import EventFile
from harness.store.runs import read_run
from harness.store.table import journals, load
from tests.support.histories import SCORES, A, B, cell, write_run
from tests.support.invocation import invoke
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.merge_stores import (
    contents,
    filled,
    journal,
    problems,
    reasons,
    train,
    write_asv,
)
from tests.support.profile_files import write_profile
from tests.support.store_runs import fingerprint
from tests.support.stores import environment

AXES: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 2}
PROFILED = [Cell.of(estimator=name, **AXES) for name in ("fomaml", "maml")]


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_all_kinds_of_results_are_copied_once(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    write_run(store, A, {cell(): SCORES}, machine="here")
    (run,) = journals(store)
    run.rename(run.with_name("mine.jsonl"))
    newest = journals(source)[-1]
    os.utime(newest, (1.0, 1.0))
    before, mine = fingerprint(source), contents(store)
    code, out, err = invoke(command, source, "--store", store)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "machine runs trainings profiles asv benchmarks",
        "ci 2 1 2 1",
        f"Into {store}: 6 added, 0 present already, 0 left out.",
    ]
    assert fingerprint(source) == before
    expected, files = contents(source), contents(store)
    kernels = expected.pop("benchmarks/any-name.json")
    (name,) = (path for path in files if path.startswith("benchmarks/2026"))
    assert files == mine | expected | {name: kernels}
    assert (store / "runs" / newest.name).stat().st_mtime_ns == 10**9
    assert not problems(store)
    assert len(load(store)[0]) == len(load(source)[0]) + len(SCORES)
    # All of it is present then.
    before = fingerprint(store)
    code, out, err = invoke(command, source, source, "--store", store)
    assert (code, err) == (0, "")
    assert out == f"Into {store}: 0 added, 12 present already, 0 left out.\n"
    assert fingerprint(store) == before


def test_several_sources_at_once(tmp_path: Path) -> None:
    sources = [filled(tmp_path / name, machine=name) for name in ("one", "two")]
    timed = write(tmp_path / "timed.json", of_commit(KERNELS, B, 2.0, machine="three"))
    code, out, _ = invoke(command, *sources, timed, "--store", tmp_path / "store")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:-1]]
    counts = ["2", "1", "2", "1"]
    assert rows == [["one", *counts], ["three", "1"], ["two", *counts]]
    assert set(load(tmp_path / "store")[0]["machine"]) == {"one", "two"}


def test_runs_and_machines_of_the_same_name(tmp_path: Path) -> None:
    one, other, store = (tmp_path / name for name in ("one", "other", "store"))
    write_run(one, A, {cell(): SCORES}, name="x", machine="ci", fingerprint="f00d")
    write_run(other, A, {cell(): {"hvps": [5.0]}}, name="x", machine="ci", fingerprint="beef")
    for _ in range(2):
        code, out, _ = invoke(command, one, other, "--store", store)
        assert code == 0
        assert out.splitlines()[-1].startswith("2 machines have the name ci")
        table = load(store)[0]
        assert len(table) == len(SCORES) + 1
        assert set(table["fingerprint"]) == {"f00d", "beef"}
    assert (store / "runs" / "x.jsonl").read_bytes() == (one / "runs" / "x.jsonl").read_bytes()
    # Brought back, neither comes to its origin again, whatever it is called.
    assert merge([store], other).added.total() == 1
    assert merge([store], other).present == 2
    assert len(journals(other)) == 2
    assert not problems(other)


def test_a_run_that_has_gone_on_replaces_its_copy(tmp_path: Path) -> None:
    path, store = journal(tmp_path / "from"), tmp_path / "store"
    merge([tmp_path / "from"], store)
    (copy,) = journals(store)
    older = path.read_bytes()
    append(path, b'{"event": "end"}\n')
    writing = EventFile(copy, new=False)  # as a run that goes on in the store
    merged = merge([tmp_path / "from"], store)
    assert (merged.exit_code, merged.added.total()) == (2, 0)
    assert [one.path for one in merged.left_out] == [path]
    assert copy.read_bytes() == older
    writing.close()
    assert merge([tmp_path / "from"], store).added["runs", "here"] == 1
    assert journals(store) == [copy]
    assert copy.read_bytes() == path.read_bytes()
    path.write_bytes(older)  # and its older state does not come back
    assert merge([tmp_path / "from"], store).present == 1
    assert read_run(copy).ended


def test_a_run_that_went_on_in_both_places_is_there_twice(tmp_path: Path) -> None:
    path, store = journal(tmp_path / "from"), tmp_path / "store"
    merge([tmp_path / "from"], store)
    for number, one in enumerate((path, journals(store)[0])):
        append(one, b'{"event": "resume", "in": %d}\n' % number)
    mine = journals(store)[0].read_bytes()
    for _ in range(2):
        merge([tmp_path / "from"], store)
        assert {one.read_bytes() for one in journals(store)} == {mine, path.read_bytes()}
        assert len(journals(store)) == 2


def test_a_torn_last_line_is_not_copied(tmp_path: Path) -> None:
    store = tmp_path / "store"
    paths = [journal(tmp_path / "from"), train(tmp_path / "from")]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        append(path, b'{"event": "resu')
    assert merge([tmp_path / "from"], store).added.total() == 2
    assert list(contents(store).values()) == whole
    assert not problems(store)
    assert merge([tmp_path / "from"], store).present == 2


def test_a_run_that_has_not_begun_is_nothing(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    journal(source)
    for name, content in (("a", b""), ("b", b'{"event": "start", "at"'), ("c", b'{"ev')):
        (source / "runs" / f"{name}.jsonl").write_bytes(content)
    (store / "runs").mkdir(parents=True)
    (store / "runs" / "empty.jsonl").touch()
    merged = merge([source], store)
    assert (merged.added.total(), merged.present, merged.left_out) == (1, 0, [])
    (source / "empty" / "runs").mkdir(parents=True)
    assert merge([source / "empty"], store).exit_code == 2, "nothing done"


SHORT = b'{"event": "start", "schema": 2}\n'
START = {"event": "start", "schema": 2, "at": "", "environment": environment(A)}
OTHER = json.dumps(START | {"schema": 99}).encode() + b"\n"
WRONG = json.dumps(START).encode() + b'\n{"event": "results"}\n'
UNREADABLE = {
    "runs/a.jsonl": b"not JSON\n",
    "runs/b.jsonl": b"no line",
    "runs/c.jsonl": SHORT,
    "runs/d.jsonl": OTHER,
    "runs/e.jsonl": WRONG,
    "runs/f.jsonl": json.dumps(START).encode() + b"\nbroken\n",  # refused by other commands
    "trainings/a.jsonl": b"\xff\n",
    "trainings/b.jsonl": b"no line",
    "trainings/c.jsonl": SHORT,
    "asv/ci/a.json": b"{",
    "asv/ci/b.json": b"[]",
    "benchmarks/x.json": b"{}",
}


def test_unreadable_files_stay_out_and_the_rest_is_copied(tmp_path: Path) -> None:
    source, store = filled(tmp_path / "from"), tmp_path / "store"
    for name, content in UNREADABLE.items():
        (source / name).write_bytes(content)
    code, out, err = invoke(command, source, "--store", store)
    assert code == 1
    lines = err.splitlines()
    assert all(any(str(source / name) in line for line in lines) for name in UNREADABLE), err
    assert len(lines) == len(UNREADABLE)
    assert f": 6 added, 0 present already, {len(UNREADABLE)} left out." in out
    assert not problems(store)
    assert not {*UNREADABLE.values()} & {*contents(store).values()}


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
    assert sorted(reasons(merged)) == [
        *["a symbolic link, which is not followed"] * 5,
        *["not a regular file"] * 6,
    ]
    assert merged.exit_code == 1
    assert len(contents(store)) == expected - 1
    assert not any(b"secret" in content for content in contents(store).values())


def test_of_a_cell_the_newest_whole_profile_is_kept(tmp_path: Path) -> None:
    (source, other), store = (tmp_path / "from", tmp_path / "other"), tmp_path / "store"
    fomaml = PROFILED[0]
    for one in PROFILED:
        write_profile(source, one, at="2026-01-02T00:00:00+00:00")
    write_profile(other, fomaml, at="2026-01-03T00:00:00+00:00")
    older, newer = (read_profile(folder_of(fomaml, one)).summary for one in (source, other))
    (source / "profiles" / ".profile-0123").mkdir()  # one that is being written
    first = merge([source], store)
    assert (first.added.total(), first.present, first.left_out) == (2, 0, [])
    assert read_profile(folder_of(fomaml, store)).summary == older
    assert merge([other], store).added.total() == 1
    profile = read_profile(folder_of(fomaml, store))
    assert profile.summary == newer
    assert {path.name for path in profile.folder.iterdir()} == set(FILES)
    again = merge([source, other], store)
    assert (again.added.total(), again.present, again.left_out) == (0, 3, [])


def test_broken_and_foreign_folders_of_profiles_are_left(tmp_path: Path) -> None:
    (source, other), store = (tmp_path / "from", tmp_path / "other"), tmp_path / "store"
    fomaml, maml = PROFILED
    for one in PROFILED:
        write_profile(source, one)
    (folder_of(maml, source) / "stacks.txt").unlink()
    (folder_of(fomaml, source) / SUMMARY).write_text("{}")
    left_out = merge([source], store).left_out
    assert [one.path for one in left_out] == sorted(folder_of(one, source) for one in PROFILED)
    assert not any(".merge" in one.what for one in left_out)  # where the copy lay
    folder_of(maml, store).mkdir(parents=True)
    (folder_of(maml, store) / "mine.txt").touch()
    write_profile(other, maml)
    (problem,) = merge([other], store).left_out
    assert problem.path == folder_of(maml, other)
    assert [*contents(store)] == [f"profiles/{folder_of(maml, store).name}/mine.txt"]


def test_a_profile_of_another_machine_takes_no_place(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    write_profile(mine, PROFILED[1], at="2026-01-01T00:00:00")
    write_profile(theirs, PROFILED[1], at="2026-01-02T00:00:00")
    file = folder_of(PROFILED[1], theirs) / SUMMARY
    summary = json.loads(file.read_text())
    summary["environment"] |= {"fingerprint": "beef", "machine": "gpu-box"}
    file.write_text(json.dumps(summary))
    before = fingerprint(mine)
    code, _, err = invoke(command, theirs, "--store", mine)
    assert code == 2
    assert str(file.parent) in err
    assert fingerprint(mine) == before


def test_wrong_sources_and_stores_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(Path("store"))
    Path("link").symlink_to("store")
    Path("empty").mkdir()
    Path("file.txt").touch()
    before = fingerprint(tmp_path)
    for source, store, named in (
        *(("store", "store", "store"), ("link", "store", "link"), ("store", "link", "store")),
        *(("store/../store", "store", "store"), ("missing", "store", "missing")),
        *(("empty", "store", "profiles"), ("file.txt", "store", "no results in file.txt")),
        *(("store", "file.txt", "file.txt"), ("store", "file.txt/below", "Not a directory")),
        ("store missing", "new", "missing"),  # nothing comes of the others
    ):
        with pytest.raises(UserError) as raised:
            invoke(command, *source.split(), "--store", store)
        assert named in str(raised.value), (source, store)
        assert fingerprint(tmp_path) == before, (source, store)


def test_files_of_asv_are_copied_where_there_are_none(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    write_asv(source, A, "here", cpu="one", ram="1")
    write_asv(store, B, "here", cpu="one", ram="2")
    assert merge([source], store).added["asv", "here"] == 1
    # A few bytes of memory more or less are no other machine.
    assert '"2"' in (store / "asv" / "here" / "machine.json").read_text()
    newer = write_asv(source, B, "here", cpu="one")
    newer.write_text('{"results": {"more": []}}')
    before = contents(store)
    merged = merge([source], store)
    assert [problem.path for problem in merged.left_out] == [newer]
    write_asv(source, B, "here", cpu="another")
    merged = merge([source], store)
    assert [problem.path for problem in merged.left_out] == [source / "asv" / "here"]
    assert contents(store) == before
