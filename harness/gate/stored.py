"""Stored results, to be compared with others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimators.base.errors import OptionError
from harness.gate.measuring import Cells
from harness.store.runs import Run, read_run
from harness.store.table import read_runs


@dataclass(frozen=True)
class Stored:
    """Results, and what they were made with.

    Attributes:
        cells: results by cell.
        environments: those of all runs they are of.
    """

    cells: Cells
    environments: list[dict[str, Any]]

    def told(self, field: str) -> set[str]:
        """Returns what the runs were made with."""
        return {_text(one.get(field)) for one in self.environments}


def is_stored(text: str) -> bool:
    """Tells whether a text names stored results, not a commit: a file, or a folder of results."""
    return bool(text) and (Path(text).is_file() or (Path(text) / "runs").is_dir())


def stored(path: Path) -> Stored:
    """Returns stored results.

    Raises:
        OptionError: it cannot be read, or has results of several machines.
        StoreError: likewise.
    """
    if path.is_dir():
        runs, problems = read_runs(path)
        if problems:
            raise OptionError(f"{problems[0]}; mend it or move it out of the store")
    else:
        try:
            runs = [read_run(path)]
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} cannot be read: {error}") from None
    cells = {cell.id: cell for run in runs for cell in run.cells}
    found = Stored(cells, [made for run in runs for made in _environments(run)])
    if len(found.told("fingerprint")) > 1:
        raise OptionError(f"{path} has results of several machines; name the run to compare")
    return found


def _environments(run: Run) -> list[dict[str, Any]]:
    """Returns those in which the cells of a run were measured."""
    return [run.made_with(cell) for cell in run.measured] or [run.environment]


def differences(base: Stored, head: Stored) -> list[str]:
    """Returns what else than code two sides differ in, a line each."""
    notes = []
    for field, what in (
        ("fingerprint", "were measured on other machines"),
        ("packages", "were measured with other packages"),
        ("torch", "were measured with another build of torch"),
        ("threads", "were measured with other numbers of threads"),
    ):
        if base.told(field) != head.told(field):
            notes.append(f"Both sides {what}: numbers may differ for that alone.")
    for name, side in (("base", base), ("head", head)):
        if side.told("changes") != {""}:
            notes.append(f"The {name} was measured with uncommitted changes.")
        if len(side.told("commit")) > 1:
            notes.append(f"The {name} has results of several commits, each cell's newest.")
    return notes


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
