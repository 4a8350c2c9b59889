"""Brings results of other machines into a store."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from estimators.base.errors import OptionError
from harness.asv.files import covers, same_machine
from harness.asv.results import load_asv
from harness.history import kernel_times
from harness.history.kernel_times import read_kernel_times
from harness.merging.journals import (
    by_first_line,
    first_line,
    has_copy,
    machine_of,
    namesakes,
    whole_lines,
)
from harness.merging.staging import put, read_regular, staging, write_synced
from harness.profiling import FOLDER as PROFILES
from harness.store import trainings
from harness.store.journal import EventFile
from harness.store.runs import parsed
from harness.store.table import Problem, read_runs

RUNS, TRAININGS, ASV, KERNELS = ("runs", trainings.FOLDER, "asv", kernel_times.FOLDER)
KINDS = (RUNS, TRAININGS, PROFILES, ASV, KERNELS)
"""Folders of a store, each with results of a kind."""

_ABOUT = "machine.json"
_SUITE = "benchmarks.json"
_START = b'{"event": "start"'
_READERS: dict[str, Callable[[Path], list[Problem]]] = {
    RUNS: lambda store: read_runs(store)[1],
    TRAININGS: lambda store: trainings.trainings(store)[1],
}


@dataclass
class Merged:
    """What a merge has brought.

    Attributes:
        came: how many files, by kind and machine.
        there: how many were in the store already.
        left_out: files that are not in the store now, and why.
        namesakes: how many machines the store has under one name, where there are several.
    """

    came: Counter[tuple[str, str]] = field(default_factory=Counter)
    there: int = 0
    left_out: list[Problem] = field(default_factory=list)
    namesakes: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all of it is in the store; 1: some of it is not; 2: none of it is."""
        if not self.came and not self.there:
            return 2
        return int(bool(self.left_out))


def merge(sources: Sequence[Path], store: Path) -> Merged:
    """Copies runs, trainings, asv's results and times of kernels into a store.

    A file is there whole or not at all, and readers can look at the store meanwhile. It is copied
    as it is, but for a last line that was torn when its run was killed; and only if it can be
    read. A run or training is known by its first line, which tells when and on what it began. One
    that has gone on since it was copied takes the place of its copy; one that went on otherwise in
    both places is kept twice; another one of the same name gets a name of its own. A file of asv
    takes the place of another if it covers it (see `covers`), and is left out if neither does; so
    is what asv has of another machine of the same name, since asv tells machines apart by name
    only. Of a cell's profiles the newest is kept. Times of kernels are named by their contents.

    Raises:
        OptionError: a source is not there, has no results or is the store; or the store cannot be
            written. What has come before stays, and the merge can be made again.
    """
    for source in sources:
        _check(source, store)
    merged = Merged()
    try:
        with staging(store) as stage:
            for number, source in enumerate(sources):
                _Merging(source, store, stage / str(number), merged).work()
        merged.namesakes = namesakes(store / RUNS)
    except OSError as error:
        raise OptionError(
            f"cannot write to {store}: {error.strerror or error}; what has come is whole, "
            "and the same command goes on from there"
        ) from error
    return merged


def _check(source: Path, store: Path) -> None:
    if not source.exists():
        raise OptionError(f"there is no {source}")
    if store.exists() and not store.is_dir():
        raise OptionError(f"{store} is no folder")
    if source.is_file() and source.suffix == ".json":
        return
    if not source.is_dir() or not any((source / kind).is_dir() for kind in KINDS):
        raise OptionError(
            f"no results in {source}; name a folder with {', '.join(KINDS[:-1])} or {KINDS[-1]} "
            "in it, or a .json file of pytest-benchmark"
        )
    if store.exists() and source.samefile(store):
        raise OptionError(f"{source} is the store that results are to come to")


class _Merging:
    """Brings what one source has."""

    def __init__(self, source: Path, store: Path, stage: Path, merged: Merged) -> None:
        self._source, self._store, self._stage, self._merged = source, store, stage, merged

    def work(self) -> None:
        if self._source.is_dir():
            self._journals(RUNS)
            self._journals(TRAININGS)
            self._profiles()
            self._asv()
            self._kernel_times(self._files(self._source / KERNELS, ".json"))
        else:  # named by the user, who may mean what a link leads to
            self._kernel_times([self._source.resolve()])

    def _journals(self, kind: str) -> None:
        known = by_first_line(self._store / kind)
        drafts: dict[Path, Path] = {}
        for path in self._files(self._source / kind, ".jsonl"):
            if (read := self._read(path)) is None:
                continue
            content, written = whole_lines(read[0]), read[1]
            if not content and (read[0].startswith(_START) or _START.startswith(read[0])):
                continue  # killed before its first line: nothing
            if has_copy(content, known):
                self._merged.there += 1
                continue
            draft = self._stage / kind / path.name
            write_synced(draft, content or read[0], written)
            drafts[draft] = path
        faults = {one.path: one.what for one in _READERS[kind](self._stage)} if drafts else {}
        for draft, path in drafts.items():
            if draft in faults:
                self._leave_out(path, faults[draft])
            else:
                self._place_journal(draft, path, known)

    def _place_journal(self, draft: Path, path: Path, known: dict[bytes, list[Path]]) -> None:
        content = draft.read_bytes()
        first = first_line(content)
        if has_copy(content, known):  # of a file that came just now
            self._merged.there += 1
            return
        machine = machine_of(draft)[0]
        folder = self._store / draft.parent.name
        older = [one for one in known[first] if content.startswith(whole_lines(one.read_bytes()))]
        if older:
            if not self._replace(older[0], draft, content):
                self._leave_out(path, f"it has gone on, and so does its copy {older[0]} just now")
                return
        else:
            target = folder / path.name
            if target.exists() or target.is_symlink():
                digest = hashlib.sha256(content).hexdigest()[:8]
                target = target.with_stem(f"{target.stem}-{digest}")
            if target.exists() or target.is_symlink():
                self._leave_out(path, f"{target} has its name and other contents")
                return
            put(draft, target)
            known[first].append(target)
        self._merged.came[draft.parent.name, machine] += 1

    def _replace(self, older: Path, draft: Path, content: bytes) -> bool:
        """Puts a journal in the place of its older state, unless a run writes to that."""
        try:
            held = EventFile(older, new=False)
        except BlockingIOError:
            return False
        try:
            if content.startswith(whole_lines(older.read_bytes())):  # as before it was locked
                put(draft, older)
                return True
        finally:
            held.close()
        return False

    def _profiles(self) -> None:
        sources = [one for one in self._folders(self._source / PROFILES) if one.name[0] != "."]
        if not sources:
            return
        # They import torch, which other results need not wait for.
        from harness.merging.profiles import place_profile
        from harness.profiling.folder import FILES

        for source in sources:
            stage = self._stage / PROFILES / source.name
            for path in self._entries(source):
                if path.name in FILES and (read := self._read(path)):
                    write_synced(stage / path.name, *read)
            try:
                machine = place_profile(stage, self._store / PROFILES / source.name)
            except (OSError, ValueError, OptionError) as error:
                self._leave_out(source, str(error).replace(str(stage), str(source)))
                continue
            if machine is None:
                self._merged.there += 1
            else:
                self._merged.came[PROFILES, machine] += 1

    def _asv(self) -> None:
        folder, stage = self._source / ASV, self._stage / ASV
        for machine in self._folders(folder):
            for path in self._files(machine, ".json"):
                if read := self._read(path):
                    write_synced(stage / machine.name / path.name, *read)
        if not stage.exists():
            return
        suite = folder / _SUITE
        if suite.is_file() and (read := self._read(suite)):
            write_synced(stage / _SUITE, *read)
        faults: dict[Path, str] = {}
        for problem in load_asv(stage)[1]:
            faults.setdefault(problem.path, problem.what)
        for machine in sorted(one for one in stage.iterdir() if one.is_dir()):
            self._asv_of_machine(machine, folder / machine.name, faults)
        if stage / _SUITE in faults:
            self._leave_out(suite, faults[stage / _SUITE])
        elif (stage / _SUITE).exists():
            self._place_suite(stage / _SUITE)

    def _asv_of_machine(self, stage: Path, source: Path, faults: dict[Path, str]) -> None:
        paths = sorted(set(stage.glob("*.json")) - {stage / _ABOUT})
        about, target = stage / _ABOUT, self._store / ASV / stage.name
        if not paths:
            return
        if about in faults:
            self._leave_out(source / _ABOUT, faults[about])
            return
        if not (target / _ABOUT).exists():
            put(about, target / _ABOUT)  # first: without it no file of the machine can be read
        elif not same_machine(about, target / _ABOUT):
            what = f"another machine than that of {target / _ABOUT}: asv knows machines by name"
            self._leave_out(source / _ABOUT, f"{len(paths)} results are of {what}")
            return
        for path in paths:
            self._place_asv(path, source / path.name, target / path.name, faults.get(path, ""))

    def _place_asv(self, draft: Path, source: Path, target: Path, fault: str) -> None:
        if fault:
            self._leave_out(source, fault)
        elif target.exists() and covers(target, draft):
            self._merged.there += 1
        elif not target.exists() or covers(draft, target):
            put(draft, target)
            self._merged.came[ASV, draft.parent.name] += 1
        else:
            self._leave_out(source, f"neither it nor {target} has all that the other tells")

    def _place_suite(self, draft: Path) -> None:
        """Adds what asv knows of benchmarks that the store has not heard of."""
        target = self._store / ASV / _SUITE
        if not target.exists():
            put(draft, target)
            return
        mine = parsed(target.read_bytes())
        its = parsed(draft.read_bytes()) or {}
        if mine is not None and not its.keys() <= mine.keys():
            both = draft.with_name(f"both-{_SUITE}")
            content = orjson.dumps(its | mine, option=orjson.OPT_INDENT_2)
            write_synced(both, content, target.stat().st_mtime_ns)
            put(both, target)

    def _kernel_times(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if (read := self._read(path)) is None:
                continue
            try:
                told = read_kernel_times(read[0])
            except ValueError as error:
                self._leave_out(path, str(error))
                continue
            digest = hashlib.sha256(read[0]).hexdigest()[:8]
            name = f"{told.started:%Y%m%dT%H%M%S}-{digest}.json"
            if (self._store / KERNELS / name).exists():
                self._merged.there += 1
                continue
            write_synced(self._stage / KERNELS / name, *read)
            put(self._stage / KERNELS / name, self._store / KERNELS / name)
            self._merged.came[KERNELS, told.machine] += 1

    def _folders(self, folder: Path) -> list[Path]:
        return [path for path in self._entries(folder) if path.is_dir() and self._is_own(path)]

    def _files(self, folder: Path, suffix: str) -> list[Path]:
        return [path for path in self._entries(folder) if path.suffix == suffix]

    def _entries(self, folder: Path) -> list[Path]:
        if not folder.is_dir() or not self._is_own(folder):
            return []
        try:
            return sorted(folder.iterdir())
        except OSError as error:
            self._leave_out(folder, f"cannot be read: {error.strerror or error}")
            return []

    def _is_own(self, folder: Path) -> bool:
        if folder.is_symlink():
            self._leave_out(folder, "a symbolic link, which is not followed")
            return False
        return True

    def _read(self, path: Path) -> tuple[bytes, int] | None:
        try:
            return read_regular(path)
        except OSError as error:
            self._leave_out(path, f"cannot be read: {error.strerror or error}")
        except ValueError as error:
            self._leave_out(path, str(error))
        return None

    def _leave_out(self, path: Path, what: str) -> None:
        self._merged.left_out.append(Problem(path, what))
