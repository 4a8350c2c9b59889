"""Tells what the gate has found: on the terminal, in Markdown, in JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.gate.compare import Change, Judgement, summed_up
from harness.matrix.metrics import metric_of
from harness.support.markdown import plain

_TITLES = {0: "No regression", 1: "Regression", 2: "Could not be measured"}
_MOST = 50  # rows of a table; JSON has all


def tell(judgement: Judgement, console: Console) -> None:
    """Prints the changes."""
    if judgement.changes:
        table = Table(*_HEAD, box=None, pad_edge=False)
        for change in judgement.changes[:_MOST]:
            style = "red" if change in judgement.regressions else ""
            table.add_row(*map(Text, _row(change)), style=style)
        console.print(table)
        if len(judgement.changes) > _MOST:
            console.print(f"... and {len(judgement.changes) - _MOST} more.")
        console.print()
    for note in judgement.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{_TITLES[judgement.exit_code]} from {judgement.base} to {judgement.head}. "
        f"{summed_up(judgement)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def write(judgement: Judgement, folder: Path) -> list[Path]:
    """Writes gate.md, for a pull request, and gate.json, for machines."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"gate.md": markdown(judgement), "gate.json": as_json(judgement)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def markdown(judgement: Judgement) -> str:
    """Returns what was found as GitHub's Markdown."""
    lines = [
        f"## {_TITLES[judgement.exit_code]}: {plain(judgement.base)} to {plain(judgement.head)}",
        "",
        summed_up(judgement),
    ]
    if judgement.changes:
        lines += ["", f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD)]
        rows = [[plain(text) for text in _row(one)] for one in judgement.changes[:_MOST]]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        if len(judgement.changes) > _MOST:
            lines += ["", f"... and {len(judgement.changes) - _MOST} more."]
    lines += ["", *(f"- {plain(note)}" for note in judgement.notes)] if judgement.notes else []
    return "\n".join(lines) + "\n"


def as_json(judgement: Judgement) -> str:
    """Returns what was found as JSON; a number that is none is null."""
    told: dict[str, Any] = asdict(judgement) | {"exit_code": judgement.exit_code}
    told["changes"] = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in (asdict(change) | {"ratio": change.ratio}).items()
        }
        for change in judgement.changes
    ]
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_HEAD = ("", "cell", "metric", "base", "head", "ratio", "")


def _row(change: Change) -> list[str]:
    verdict = f"{change.verdict}, accepted" if change.accepted else change.verdict
    about = "; ".join(part for part in (change.about, change.accepted) if part)
    label = metric_of(change.metric).label
    numbers = [metric_of(change.metric).text(value) for value in (change.base, change.head)]
    ratio = f"{change.ratio:.3g}" if math.isfinite(change.ratio) else ""
    return [verdict, change.cell, label, *numbers, ratio, about]
