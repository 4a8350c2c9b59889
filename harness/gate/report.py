"""Report a comparison: on the terminal, in Markdown, in JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.gate.compare import Change, Comparison, summary
from harness.matrix.metrics import metric_of
from harness.support.files import put
from harness.support.markdown import plain

_TITLES = {0: "No regression", 1: "Regression", 2: "Could not be measured"}
_MOST = 50  # rows of a table; JSON has all


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the changes and a summary."""
    if comparison.changes:
        table = Table(*_HEAD, box=None, pad_edge=False)
        for change in comparison.changes[:_MOST]:
            style = "red" if change in comparison.regressions else ""
            table.add_row(*map(Text, _row(change)), style=style)
        console.print(table)
        if len(comparison.changes) > _MOST:
            console.print(f"... and {len(comparison.changes) - _MOST} more.")
        console.print()
    for note in comparison.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{_TITLES[comparison.exit_code]} from {comparison.base} to {comparison.head}. "
        f"{summary(comparison)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write gate.md, for a pull request, and gate.json, for machines."""
    texts = {"gate.md": markdown(comparison), "gate.json": as_json(comparison)}
    return put(folder, {name: text.encode() for name, text in texts.items()})


def markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub's Markdown."""
    lines = [
        f"## {_TITLES[comparison.exit_code]}: {plain(comparison.base)} to {plain(comparison.head)}",
        "",
        summary(comparison),
    ]
    if comparison.changes:
        lines += ["", f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD)]
        rows = [[plain(text) for text in _row(one)] for one in comparison.changes[:_MOST]]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        if len(comparison.changes) > _MOST:
            lines += ["", f"... and {len(comparison.changes) - _MOST} more."]
    lines += ["", *(f"- {plain(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(lines) + "\n"


def as_json(comparison: Comparison) -> str:
    """Return the comparison as JSON, in which null stands for NaN."""
    document: dict[str, Any] = asdict(comparison) | {"exit_code": comparison.exit_code}
    document["changes"] = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in (asdict(change) | {"ratio": change.ratio}).items()
        }
        for change in comparison.changes
    ]
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_HEAD = ("", "cell", "metric", "base", "head", "ratio", "")


def _row(change: Change) -> list[str]:
    verdict = f"{change.verdict}, accepted" if change.accepted else change.verdict
    about = "; ".join(part for part in (change.about, change.accepted) if part)
    label = metric_of(change.metric).label
    numbers = [metric_of(change.metric).text(value) for value in (change.base, change.head)]
    ratio = f"{change.ratio:.3g}" if math.isfinite(change.ratio) else ""
    return [verdict, change.cell, label, *numbers, ratio, about]
