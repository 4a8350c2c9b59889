"""`metagrad regressions`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estimators.base.errors import OptionError, UserError
from harness.commands.options import Only, Store, console, print_error, print_left_out

if TYPE_CHECKING:
    import pandas as pd

_FORMS = ("table", "json")


def regressions(
    store: Store = Path("results"),
    metric: Annotated[
        list[str] | None, typer.Option(help="Only these metrics (`metagrad list`); repeatable.")
    ] = None,
    only: Only = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list changes that are not regressions.")
    ] = False,
    lasting: Annotated[
        bool, typer.Option("--lasting", help="Only regressions that are still present.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json", help="Output format.")
    ] = "table",
) -> int:
    """List the commits at which a stored metric got worse, newest first.

    Of the commit that is checked out in the current folder and its history, for each machine;
    results of other branches are left out. p and noise are those of the dashboard, "exact" stands
    for repeatable metrics.
    Exit code 0: no regression lasts; 1: one does; 2: there are too few results.
    """
    from harness.history.changes import changes
    from harness.history.messages import as_json, print_changes

    if form not in _FORMS:
        raise OptionError(f"unknown format {form!r}; give {' or '.join(_FORMS)}")
    rows = _selected(_history(store), metric or [], only or [])
    commits = _commits(rows)
    table = changes(rows)
    worse = table["verdict"] == "worse"
    last = int((worse & table["lasting"]).sum())
    shown = table[(worse | everything) & (table["lasting"] | (not lasting))]
    if form == "json":
        print(as_json(shown, commits))
        return int(last > 0)
    if not shown.empty:
        print_changes(shown, console)
    console.print(
        f"Changes over {commits} commits: {int(worse.sum())} for the worse, {last} lasting."
    )
    return int(last > 0)


def _history(store: Path) -> "pd.DataFrame":
    """Read a store's series; warn of what is left out: broken files, and other branches."""
    from harness.history.commits import on_other_branches
    from harness.history.series import stored_history
    from harness.store.table import StoreError, load, long_table

    missing: StoreError | None = None
    try:
        long, problems = load(store)
    except StoreError as error:  # there may be other results than runs
        missing, long, problems = error, long_table([]), []
    series, more = stored_history(store, long, Path.cwd())
    if missing and series.empty:
        raise missing
    print_left_out(problems + more)
    others = on_other_branches(series["commit"], Path.cwd())
    if others:
        print_error(f"{len(others)} commits of other branches are left out")
    return series[~series["commit"].isin(others)]


def _selected(
    series: "pd.DataFrame", metrics: Sequence[str], conditions: Sequence[str]
) -> "pd.DataFrame":
    """Select the series of some metrics and cells."""
    from estimators.base.registry import unknown
    from harness.matrix.metrics import METRICS

    known = sorted({*METRICS, *series["metric"]} - {""})
    for name in metrics:
        if name not in known:
            raise OptionError(unknown("metric", name, known))
    if metrics:
        series = series[series["metric"].isin(metrics)]
    if conditions:
        series = series[series["cell"].isin(_fitting(series, conditions))]
    return series


def _fitting(series: "pd.DataFrame", conditions: Sequence[str]) -> set[str]:
    """Return the names of the cells that match."""
    from harness.cell import AXES, Cell
    from harness.matrix.plan import Planned
    from harness.matrix.selection import select

    axes = series[["cell", *AXES]].dropna().drop_duplicates("cell").to_dict("records")
    cells = {
        str(row["cell"]): Cell(**{one.name: one.kind(row[key]) for key, one in AXES.items()})
        for row in axes
    }
    fitting = {plan.cell for plan in select([*map(Planned, cells.values())], conditions)}
    return {name for name, cell in cells.items() if cell in fitting}


def _commits(series: "pd.DataFrame") -> int:
    """Count the commits that have a number."""
    from harness.history import KEY

    measured = series[series["value"].notna()]
    counts = measured.groupby(list(KEY))["commit"].nunique()
    commits = int(measured["commit"].nunique())
    if not (counts > 1).any():
        raise UserError(
            f"no metric was measured at two commits on one machine; {commits} commits have "
            "results without uncommitted changes"
        )
    return commits
