"""The two revisions that are compared: commits, or stored results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from estimators.base.errors import UserError
from harness.gate.checkout import Checkout, install, resolve
from harness.gate.measuring import Cells, measure
from harness.gate.plugins import outside_plugins
from harness.store.runs import Run, read_run
from harness.store.table import read_runs
from harness.support.progress import progress_bar


@dataclass(frozen=True)
class StoredResults:
    """Results, and the environments of their runs."""

    cells: Cells
    environments: list[dict[str, Any]]

    def values(self, field: str) -> set[str]:
        """Return the values of a field in all environments, as text."""
        values = [one.get(field) for one in self.environments]
        return {value if isinstance(value, str) else repr(value) for value in values}


@dataclass(frozen=True)
class Revision:
    """The base or the head of a comparison."""

    name: str  # for people
    checkout: Checkout | None = None
    stored: StoredResults | None = None
    outside: Sequence[str] = ()  # plug-ins that the commit takes from the environment


def open_revision(ref: str, plugins: Sequence[str], console: Console) -> Revision:
    """Read stored results (a file, or a folder of results), or install a commit."""
    if ref and (Path(ref).is_file() or (Path(ref) / "runs").is_dir()):
        return Revision(ref, stored=read_stored(Path(ref)))
    commit = resolve(ref)
    name = commit[:8] if commit.startswith(ref) else f"{ref} ({commit[:8]})"
    with console.status(f"Installing {commit[:8]}"):
        checkout = install(commit, console)
    return Revision(name, checkout, outside=outside_plugins(checkout, plugins))


def read_stored(path: Path) -> StoredResults:
    """Read the results of a run, or of all runs in a folder."""
    if path.is_dir():
        runs, problems = read_runs(path)
        if problems:
            raise UserError(f"{problems[0]}; mend it or move it out of the store")
    else:
        try:
            runs = [read_run(path)]
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
    cells = {cell.id: cell for run in runs for cell in run.cells}
    stored = StoredResults(cells, [made for run in runs for made in _environments(run)])
    if len(stored.values("fingerprint")) > 1:
        raise UserError(f"{path} has results of several machines; name the run to compare")
    return stored


def _environments(run: Run) -> list[dict[str, Any]]:
    """Return the environments in which the cells of a run were measured."""
    return [run.made_with(cell) for cell in run.measured] or [run.environment]


def results(
    revision: Revision, selection: Sequence[str], plugins: tuple[str, ...], console: Console
) -> Cells:
    """Return the results of a revision; measure those that are missing."""
    if revision.stored:
        return revision.stored.cells
    assert revision.checkout
    line = f"{revision.name}: {revision.checkout.subject}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    with progress_bar(console) as show:
        return measure(
            revision.checkout,
            selection,
            plugins=plugins,
            on_progress=lambda progress: show(progress.done, progress.total, progress.doing),
        )


def check_pair(base: Revision, head: Revision) -> list[str]:
    """Return remarks on two revisions that are to be compared, a line each."""
    if base.stored and head.stored:
        return _differences(base.stored, head.stored)
    notes = [
        f"{one.name}: {one.checkout.lacks}."
        for one in (base, head)
        if one.checkout and one.checkout.lacks
    ]
    if base.checkout and head.checkout:
        for name in dict.fromkeys([*base.outside, *head.outside]):
            lacking = [one.name for one in (base, head) if name in one.outside]
            if len(lacking) == 1:
                raise UserError(f"{lacking[0]} lacks --import {name}")
            notes.append(f"{name} is not part of either commit, and is the same for both.")
    return notes


def _differences(base: StoredResults, head: StoredResults) -> list[str]:
    """Return differences of stored results other than the code, a line each."""
    notes = []
    for field, what in (
        ("fingerprint", "on different machines"),
        ("packages", "with different packages"),
        ("torch", "with different builds of torch"),
        ("threads", "with different numbers of threads"),
    ):
        if base.values(field) != head.values(field):
            notes.append(f"Base and head were measured {what}: numbers may differ for that reason.")
    for name, one in (("base", base), ("head", head)):
        if one.values("changes") != {""}:
            notes.append(f"The {name} was measured with uncommitted changes.")
        if len(one.values("commit")) > 1:
            notes.append(f"The {name} has results of several commits, each cell's newest.")
    return notes
