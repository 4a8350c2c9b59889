"""A store as it is at one moment."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pandas as pd

from harness.store.events import Problem
from harness.store.table import journals, load
from reports.tables.cells import cells
from reports.tables.findings import findings
from reports.tables.overview import contents

Stamp = str


@dataclass(frozen=True)
class Snapshot:
    """What a store holds; all that look at it share it, and nobody changes it.

    Attributes:
        store: the folder.
        long: the table of `harness.store.table.load`.
        cells: the table of `reports.tables.cells.cells`.
        problems: what could not be read.
    """

    store: Path
    long: pd.DataFrame
    cells: pd.DataFrame
    problems: list[Problem]

    @cached_property
    def findings(self) -> list[str]:
        """What stands out; see `reports.tables.findings.findings`."""
        return findings(self.cells)

    @cached_property
    def contents(self) -> dict[str, str]:
        """What the store holds; see `reports.tables.overview.contents`."""
        return contents(self.cells, self.long)


def read(store: Path) -> Snapshot:
    """Reads a store.

    Raises:
        StoreError: it is missing, cannot be read, or holds no run.
    """
    long, problems = load(store)
    return Snapshot(store, long, in_few_parts(cells(long)), problems)


def in_few_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table of which rows are taken in a tenth of the time.

    pandas keeps each column of strings apart, and takes rows from each part anew. Objects lie
    together, and a copy puts together what was made column by column.
    """
    return table.astype(dict.fromkeys(table.select_dtypes("str"), object)).copy()


def stamp(store: Path) -> Stamp:
    """Returns what changes whenever a run is added to a store or goes on.

    Raises:
        StoreError: it is missing, cannot be read, or holds no run.
    """
    return stamp_of(journals(store))


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """Returns what changes whenever one of some files does."""
    found = []
    for path in sorted(paths):
        with suppress(OSError):  # what cannot be looked at cannot be read, which is told elsewhere
            facts = path.stat()
            found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return sha256(repr(found).encode()).hexdigest()
