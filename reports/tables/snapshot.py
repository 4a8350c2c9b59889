"""The content of a store, read once."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pandas as pd

from harness.history.kernel_times import kernel_files
from harness.profiling import FOLDER as PROFILES
from harness.store.events import Problem
from harness.store.runs import Run
from harness.store.table import StoreError, long_table, read_runs
from harness.store.trainings import FOLDER as TRAININGS
from harness.store.trainings import trainings
from reports.tables.cells import cells, in_few_parts
from reports.tables.findings import findings
from reports.tables.over_commits import History
from reports.tables.overview import contents


@dataclass(frozen=True)
class Snapshot:
    """The content of a store at one time; all readers share it, and nobody changes it."""

    store: Path
    runs: dict[str, Run]
    long: pd.DataFrame  # the table of `harness.store.table.long_table`
    cells: pd.DataFrame  # the table of `reports.tables.cells.cells`
    problems: list[Problem]  # files that could not be read
    missing: str = ""  # why there are no runs

    @cached_property
    def findings(self) -> list[str]:
        """Sentences on the newest commit."""
        return findings(self.cells)

    @cached_property
    def contents(self) -> dict[str, str]:
        """The size and age of the store."""
        return contents(self.cells, self.long)

    @cached_property
    def trainings(self) -> tuple[pd.DataFrame, list[Problem]]:
        """The evaluations of all trainings, and the files that could not be read."""
        return trainings(self.store)

    @cached_property
    def history(self) -> History:
        """The runs, and times of kernels, over the commits of the repository in this folder."""
        return History.read(self.store, self.long, Path.cwd())


def read(store: Path) -> Snapshot:
    """Read the runs of a store; the rest is read when it is first used."""
    try:
        runs, problems = read_runs(store)
    except StoreError as error:
        nothing = pd.DataFrame()
        return Snapshot(store, {}, nothing, cells(nothing), [], str(error))
    long = long_table(runs)
    table = in_few_parts(cells(long))
    return Snapshot(store, {run.name: run for run in runs}, long, table, problems)


def stamp(store: Path) -> str:
    """Return a digest that changes whenever a file of the store does."""
    paths = [path for name in ("runs", TRAININGS) for path in (store / name).glob("*.jsonl")]
    paths += kernel_files(store)
    paths += (store / PROFILES).glob("*/profile.json")
    files = []
    for path in sorted(paths):
        with suppress(OSError):  # a file that is gone or closed to us cannot be read either
            facts = path.stat()
            files.append((str(path), facts.st_mtime_ns, facts.st_size))
    return sha256(repr(files).encode()).hexdigest()
