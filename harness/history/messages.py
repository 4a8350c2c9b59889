"""Print changes along the commits, or write them as JSON."""

import math
from typing import Any

import orjson
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.matrix.metrics import METRICS
from harness.support.units import number_text

SCHEMA = 1
"""Version of the JSON document."""

_GONE = {"worse": "undone since", "better": "lost since", "other": "gone since"}
_FIELDS = (
    *("verdict", "commit", "subject", "machine", "fingerprint", "cell", "metric", "unit"),
    *("before", "after", "ratio", "p", "noise", "lasting", "previous", "unmeasured"),
)


def print_changes(changes: pd.DataFrame, console: Console) -> None:
    """Print a row for each change."""
    names = changes[["machine", "fingerprint"]].drop_duplicates()["machine"]
    several = set(names[names.duplicated()])
    table = Table(box=None, pad_edge=False)
    for head in ("", "commit", "subject", "machine", "cell", "metric"):
        # Columns that distinguish rows are folded on a narrow screen, not cut.
        table.add_column(head, no_wrap=head == "commit", overflow="fold")
    for head in ("before", "after", "ratio", "p / noise"):
        table.add_column(head, justify="right")
    table.add_column("since")
    table.add_column("unmeasured", justify="right")
    for row in changes.to_dict("records"):
        regression = row["verdict"] == "worse" and row["lasting"]
        texts = [str(text) for text in _texts(row, named=row["machine"] in several)]
        table.add_row(*map(escape, texts), style="red" if regression else "")
    console.print(table, highlight=False)


def as_json(changes: pd.DataFrame, commits: int) -> str:
    """Return changes as JSON, in which null stands for NaN."""
    # Column by column: rows of a frame would make floats of its integers.
    columns = {name: changes[name].to_list() for name in _FIELDS}
    rows: list[dict[str, Any]] = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    document = {"schema": SCHEMA, "commits": commits, "changes": rows}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def _texts(row: dict[Any, Any], *, named: bool) -> tuple[object, ...]:
    machine = f"{row['machine']} ({row['fingerprint']})" if named else row["machine"]
    exact = math.isnan(row["p"])
    return (
        row["verdict"],
        row["commit"][:8],
        row["subject"],
        machine,
        row["cell"],
        METRICS[row["metric"]].label if row["metric"] in METRICS else row["metric"],
        *_pair(row["before"], row["after"], row["unit"]),
        _ratio(row["ratio"]),
        "exact" if exact else f"{row['p']:.2g} / {row['noise']:.3g}",
        "lasting" if row["lasting"] else _GONE[row["verdict"]],
        row["unmeasured"] or "",
    )


def _pair(before: float, after: float, unit: str) -> tuple[str, str]:
    """Return two numbers for people, with all digits where fewer would hide a change."""
    short = number_text(before, unit), number_text(after, unit)
    if short[0] != short[1]:
        return short
    long = [f"{value:.12g} {unit}".strip() for value in (before, after)]
    return long[0], long[1]


def _ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    short = f"{ratio:.3g}"
    return f"{ratio:.9g}" if short == "1" else short
