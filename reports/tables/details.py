"""Everything that is known of one cell."""

from dataclasses import dataclass

import pandas as pd

from harness.matrix.metrics import METRICS
from harness.store.runs import CellResult, read_run
from reports.tables.environments import facts
from reports.tables.snapshot import Snapshot


@dataclass(frozen=True)
class Details:
    """One cell of one run.

    Attributes:
        result: how each stage of it ended.
        environment: what the cell was made with, by name.
        metrics: "metric", "value", "low", "high", "unit", "samples" (how many) and "about", a row
            each; in the units that are shown.
    """

    result: CellResult
    environment: dict[str, str]
    metrics: pd.DataFrame


def details(snapshot: Snapshot, run: str, cell: str) -> Details:
    """Reads what a run has of a cell.

    Raises:
        ValueError: the run cannot be read any more.
        OSError: its file is gone.
    """
    read = read_run(snapshot.store / "runs" / f"{run}.jsonl")
    result = next((one for one in read.cells if one.id == cell), None)
    if result is None:
        raise ValueError("it has no such cell any more")
    made_with = facts(read.made_with(result), read.started)
    return Details(result, made_with, _metrics(snapshot, run, cell))


def _metrics(snapshot: Snapshot, run: str, cell: str) -> pd.DataFrame:
    long = snapshot.long
    rows = long[(long["run"] == run) & (long["cell"] == cell) & (long["metric"] != "")]
    shown = []
    for row in rows.to_dict("records"):
        known = METRICS.get(row["metric"])
        size = known.scale if known else 1.0
        shown.append(
            {
                "metric": known.label if known else row["metric"],
                **{name: row[name] / size for name in ("value", "low", "high")},
                "unit": known.shown_unit if known else row["unit"],
                "samples": len(row["samples"]),
                "about": known.about if known else "not known to this version",
            }
        )
    columns = ["metric", "value", "low", "high", "unit", "samples", "about"]
    return pd.DataFrame(shown, columns=columns)


def in_order(result: CellResult) -> pd.DataFrame:
    """Returns the samples of times, in the order in which they were taken.

    Returns:
        Columns "metric" (a label), "sample" (from 1) and "value", in the unit of `METRICS`.
    """
    return pd.DataFrame(
        [
            {
                "metric": METRICS[name].title,
                "sample": number,
                "value": value / METRICS[name].scale,
            }
            for name, values in result.samples.items()
            if name in METRICS and METRICS[name].noisy and len(values) > 1
            for number, value in enumerate(values, start=1)
        ],
        columns=["metric", "sample", "value"],
    )
