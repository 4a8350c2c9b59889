"""How a command that measures ends: with the table of what it measured."""

from typing import TYPE_CHECKING

from estimators.base.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    import pandas as pd


def base_of(against: str | None, measured: set[str]) -> str | None:
    """Returns the canonical spelling of `--against`.

    Raises:
        OptionError: it is not among what is measured.
    """
    from estimators.base.registry import ESTIMATORS

    base = ESTIMATORS.canonical(against) if against else None
    if base and base not in measured:
        raise OptionError(f"--against {base}: it is not among the estimators that are measured")
    return base


def print_end(table: "pd.DataFrame", against: str | None = None) -> int:
    """Prints a run's table.

    Returns:
        The exit code: 1 where a cell went wrong, else 0.

    Raises:
        OptionError: no cell of it was measured.
    """
    from harness.store.summary import print_summary

    print_summary(table, console, against)
    if not (table["outcome"] == "ok").any():
        raise OptionError("no cell could be measured; the reasons are above")
    return int(not table["outcome"].isin(["ok", "skipped"]).all())
