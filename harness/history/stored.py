"""The history of a store: its runs, and what asv and pytest-benchmark have kept in it."""

from pathlib import Path

import pandas as pd

from harness.asv.results import load_asv
from harness.history.kernel_times import FOLDER, with_kernel_times
from harness.history.series import history
from harness.store.table import Problem


def stored_history(
    store: Path, long: pd.DataFrame, repository: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads the series of a store.

    Returns:
        The table of `harness.history.series.series`, and which files beside the runs could not be
        read.
    """
    asv, problems = load_asv(store / "asv")
    asv, more = with_kernel_times(asv, store / FOLDER)
    return history(long, asv, repository), problems + more


def files_beside_runs(store: Path) -> list[Path]:
    """Returns the files that a history is read from, runs apart."""
    return [*(store / "asv").rglob("*.json"), *(store / FOLDER).glob("*.json")]
