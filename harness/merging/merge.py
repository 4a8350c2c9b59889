"""Copy results of other machines into a store."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from estimators.base.errors import OptionError, UserError
from harness.history import kernel_times
from harness.history.kernel_times import parse_kernels
from harness.merging.staging import place, read_regular, staging
from harness.profiling import FOLDER as PROFILES
from harness.store import trainings
from harness.store.events import Problem, first_event, has_begun, parse_event
from harness.store.folder import prepare
from harness.store.journal import EventFile
from harness.store.runs import parse_run
from harness.store.trainings import parse_training

RUNS, TRAININGS, ASV, KERNELS = ("runs", trainings.FOLDER, "asv", kernel_times.FOLDER)
KINDS = (RUNS, TRAININGS, PROFILES, ASV, KERNELS)
"""Folders of a store, each with results of one kind."""

_MACHINE = "machine.json"
_SUITE = "benchmarks.json"
_SAME_MACHINE = ("arch", "cpu", "num_cpu")  # memory and system change with every other kernel


@dataclass
class Merged:
    """Result of a merge."""

    added: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and machine
    warnings: list[str] = field(default_factory=list)  # of the store's file system
    present: int = 0  # files that were in the store already
    # Files that are not in the store now, and why.
    left_out: list[Problem] = field(default_factory=list)
    # Machines by name, where several have one name.
    same_name: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all files are in the store; 1: some are not; 2: none is."""
        if not self.added and not self.present:
            return 2
        return int(bool(self.left_out))


def merge(sources: Sequence[Path], store: Path) -> Merged:
    """Copy runs, trainings, profiles, asv's results and kernel times into a store.

    A file appears whole or not at all, and readers can use the store meanwhile. It is copied as it
    is, except a torn last line of a killed run; and only if it can be read. A run or training is
    identified by its first line (time and machine of its start). One that has gone on since it was
    copied replaces the copy; one that went on differently in both places is kept twice; another of
    the same name gets a new name. Of a cell's profiles the newest is kept. Kernel times are named
    by their content. Files of asv, which only asv reads, are copied where there are none; those of
    another machine of the same name are left out, since asv tells machines apart by name only.

    Raises:
        UserError: the store cannot be written. Files copied before stay; the merge can be repeated.
    """
    for source in sources:
        _check(source, store)
    merged = Merged(warnings=prepare(store))
    try:
        with staging(store) as drafts:
            for source in sources:
                _Merging(source, store, drafts, merged).work()
        merged.same_name = _same_name(store / RUNS)
    except OSError as error:
        raise UserError(
            f"cannot write to {store}: {error.strerror or error}; files copied so far are whole, "
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
        raise OptionError(f"{source} is the store to copy into")


class _Merging:
    """A merge of one source."""

    def __init__(self, source: Path, store: Path, drafts: Path, merged: Merged) -> None:
        self._source, self._store, self._drafts, self._merged = source, store, drafts, merged

    def work(self) -> None:
        if self._source.is_dir():
            self._journals(RUNS, lambda name, content: parse_run(name, content).faults)
            self._journals(TRAININGS, lambda name, content: parse_training(name, content).faults)
            self._profiles()
            self._asv()
            self._kernel_times(self._files(self._source / KERNELS, ".json"))
        else:  # named by the user, who may mean the target of a link
            self._kernel_times([self._source.resolve()])

    def _journals(self, kind: str, faults_of: Callable[[str, bytes], list[str]]) -> None:
        known: dict[bytes, list[Path]] = defaultdict(list)  # by first line
        for path in _regular_journals(self._store / kind):
            with path.open("rb") as file:
                known[file.readline()].append(path)
        for path in self._files(self._source / kind, ".jsonl"):
            if (read := self._read(path)) is None or not has_begun(read[0]):
                continue
            content, modified = _whole_lines(read[0]), read[1]
            copies = known[content[: content.find(b"\n") + 1]] if content else []
            if any(copy.read_bytes().startswith(content) for copy in copies):
                self._merged.present += 1
                continue
            try:
                faults = faults_of(path.stem, content or read[0])
            except (ValueError, LookupError, TypeError, ArithmeticError) as error:
                faults = [f"not a journal that can be read: {error}"]
            older = [one for one in copies if content.startswith(_whole_lines(one.read_bytes()))]
            if faults:
                self._leave_out(path, faults[0])
            elif older:
                self._replace_journal(path, older[0], content, modified)
            elif target := self._new_journal(path, content):
                place(target, content, modified, self._drafts)
                copies.append(target)
                self._add(kind, _machine_of(target)[0])

    def _new_journal(self, path: Path, content: bytes) -> Path | None:
        """Return a name for a journal that the store does not have; None if there is none."""
        target = self._store / path.parent.name / path.name
        if _is_taken(target):
            digest = hashlib.sha256(content).hexdigest()[:8]
            target = target.with_stem(f"{target.stem}-{digest}")
        if _is_taken(target):
            self._leave_out(path, f"{target} has its name and other contents")
            return None
        return target

    def _replace_journal(self, path: Path, older: Path, content: bytes, modified: int) -> None:
        """Replace an older state of a journal, unless a run writes to it."""
        try:
            held = EventFile(older, new=False)
        except BlockingIOError:
            held = None
        if held and content.startswith(_whole_lines(older.read_bytes())):  # as before the lock
            place(older, content, modified, self._drafts)
            self._add(older.parent.name, _machine_of(older)[0])
        else:
            self._leave_out(path, f"it has gone on, and so does its copy {older} just now")
        if held:
            held.close()

    def _profiles(self) -> None:
        sources = [one for one in self._folders(self._source / PROFILES) if one.name[0] != "."]
        if not sources:
            return
        # They import torch, which other results need not wait for.
        from harness.profiling.folder import FILES

        for source in sources:
            draft = self._drafts / PROFILES / source.name
            for path in self._entries(source):
                if path.name in FILES and (read := self._read(path)):
                    place(draft / path.name, *read, self._drafts)
            try:
                machine = _place_profile(draft, self._store / PROFILES / source.name)
            except FileNotFoundError as error:
                self._leave_out(source, f"it has no {Path(error.filename).name}")
            except (OSError, ValueError) as error:
                self._leave_out(source, str(error).replace(str(draft), str(source)))
            else:
                self._add(PROFILES, machine)

    def _asv(self) -> None:
        folder, target = self._source / ASV, self._store / ASV
        for machine in self._folders(folder):
            paths = self._files(machine, ".json")
            mine, its = (_about(one / machine.name / _MACHINE) for one in (target, folder))
            if mine and any(mine.get(key) != its.get(key) for key in _SAME_MACHINE):
                what = "another machine of that name is in the store, and asv knows no more of it"
                self._leave_out(machine, what)
                continue
            for path in sorted(paths, key=lambda one: one.name != _MACHINE):
                self._asv_file(path, target / machine.name / path.name)
        if (folder / _SUITE).is_file():
            self._asv_file(folder / _SUITE, target / _SUITE)

    def _asv_file(self, path: Path, target: Path) -> None:
        """Copy a file where there is none; what asv writes anew by itself is no result."""
        is_result = path.name not in (_MACHINE, _SUITE)
        if (read := self._read(path)) is None:
            return
        if parse_event(read[0]) is None:
            self._leave_out(path, "not a JSON object")
        elif not target.exists():
            place(target, *read, self._drafts)
            if is_result:
                self._add(ASV, path.parent.name)
        elif is_result and target.read_bytes() != read[0]:
            self._leave_out(path, f"{target} has its name and other contents")
        elif is_result:
            self._merged.present += 1

    def _kernel_times(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if (read := self._read(path)) is None:
                continue
            try:
                kernels = parse_kernels(read[0])
            except ValueError as error:
                self._leave_out(path, str(error))
                continue
            digest = hashlib.sha256(read[0]).hexdigest()[:8]
            target = self._store / KERNELS / f"{kernels.started:%Y%m%dT%H%M%S}-{digest}.json"
            if target.exists():
                self._merged.present += 1
            else:
                place(target, *read, self._drafts)
                self._add(KERNELS, kernels.machine)

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

    def _add(self, kind: str, machine: str | None) -> None:
        """Count a file as added; as present where it has no machine, since it was not copied."""
        if machine is None:
            self._merged.present += 1
        else:
            self._merged.added[kind, machine] += 1

    def _leave_out(self, path: Path, what: str) -> None:
        self._merged.left_out.append(Problem(path, what))


def _place_profile(draft: Path, target: Path) -> str | None:
    """Move a profile into a store; return its machine, or None if the store has one as new."""
    from harness.profiling.folder import read_profile, read_summary, replaced_when_whole

    new, old = read_profile(draft).summary, None
    with suppress(OSError, ValueError):  # no profile: an error when it is to be replaced
        old = read_summary(target)
    if old is not None:
        if old["environment"].get("fingerprint") != new["environment"].get("fingerprint"):
            machine = old["environment"]["machine"]
            raise ValueError(f"the store has a profile of its cell, made on {machine}")
        if old["at"] >= new["at"]:
            return None
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_whole(target, new["cell"]) as folder:
        for path in draft.iterdir():
            path.rename(folder / path.name)
    return str(new["environment"]["machine"])


def _about(path: Path) -> dict[str, object]:
    """Return what asv has stored about a machine; an empty dict where it cannot be read."""
    with suppress(OSError, ValueError):
        return parse_event(read_regular(path)[0]) or {}
    return {}


def _whole_lines(content: bytes) -> bytes:
    """Return a journal without a torn last line."""
    return content[: content.rfind(b"\n") + 1]


def _is_taken(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _regular_journals(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.jsonl")) if path.is_file()]


def _machine_of(path: Path) -> tuple[str, str]:
    """Return name and fingerprint of the machine of a journal, "" where unknown."""
    environment = first_event(path).get("environment")
    facts = environment if isinstance(environment, dict) else {}
    return str(facts.get("machine", "")), str(facts.get("fingerprint", ""))


def _same_name(folder: Path) -> dict[str, int]:
    """Return the names that several machines have, with their numbers."""
    machines = {_machine_of(path) for path in _regular_journals(folder)}
    count = Counter(name for name, _ in machines if name)
    return {name: count[name] for name in sorted(count) if count[name] > 1}
