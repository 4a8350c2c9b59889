"""Everything that is known of one cell, and of the machine and code behind runs."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.matrix.metrics import METRICS, metric_of
from harness.store.runs import CellResult
from reports.tables.snapshot import Snapshot

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Details:
    """One cell of one run: how it ended, the facts of machine and code, and a row each metric."""

    result: CellResult
    environment: dict[str, str]
    metrics: pd.DataFrame


def details(snapshot: Snapshot, run: str, cell: str) -> Details:
    """Return everything that a run has of a cell."""
    journal = snapshot.runs[run]
    result = next(one for one in journal.cells if one.id == cell)
    environment = facts(journal.made_with(result), journal.started)
    return Details(result, environment, _metrics(snapshot, run, cell))


def environments(snapshot: Snapshot, table: pd.DataFrame) -> list[dict[str, str]]:
    """Return the facts of the newest run of each version in a table."""
    newest = table.sort_values(["started", "run"]).drop_duplicates("version", keep="last")
    environments = []
    for name, fingerprint in zip(newest["run"], newest["fingerprint"], strict=True):
        run = snapshot.runs[name]
        known = [*run.machines.values(), run.environment]
        environment = next(one for one in known if one.get("fingerprint", "") == fingerprint)
        environments.append(facts(environment, run.started))
    return environments


def facts(environment: dict[str, Any], started: str) -> dict[str, str]:
    """Return the parts of an environment that a reader may want to know, by name.

    Journals may come from other versions and other people: a value that is missing or of another
    kind than is written here is unknown.
    """
    changed = " (uncommitted changes)" if _text(environment, "changes") else ""
    cores, memory = _number(environment, "cores"), _number(environment, "memory")
    processor = _text(environment, "processor") or _UNKNOWN
    known = {
        "commit": (_text(environment, "commit") or _UNKNOWN) + changed,
        "newest run": started,
        "machine": _text(environment, "machine"),
        "processor": processor + (f", {cores} cores" if cores else ""),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else _UNKNOWN,
        "devices": ", ".join(["cpu", *_texts(environment, "devices")]),
        "plug-ins": ", ".join(_texts(environment, "plugins") or ["none"]),
        **{name: _text(environment, name) for name in ("system", "threads", "python")},
    }
    packages = environment.get("packages")
    for name, version in packages.items() if isinstance(packages, dict) else ():
        if version and isinstance(version, str):
            known.setdefault(name, version)
    return known


def _text(environment: dict[str, Any], name: str) -> str:
    value = environment.get(name)
    return value if isinstance(value, str) else ""


def _number(environment: dict[str, Any], name: str) -> float:
    value: Any = environment.get(name)
    return value if type(value) in (int, float) and math.isfinite(value) else 0


def _texts(environment: dict[str, Any], name: str) -> list[str]:
    """Return the texts of a list, or the names of an object."""
    values = environment.get(name)
    known = values if isinstance(values, list | dict) else []
    return [one for one in known if isinstance(one, str)]


def _metrics(snapshot: Snapshot, run: str, cell: str) -> pd.DataFrame:
    long = snapshot.long
    rows = long[(long["run"] == run) & (long["cell"] == cell) & (long["metric"] != "")]
    shown = []
    for row in rows.to_dict("records"):
        metric = metric_of(row["metric"])
        shown.append(
            {
                "metric": metric.label,
                **{name: row[name] / metric.scale for name in ("value", "low", "high")},
                "unit": metric.shown_unit or row["unit"],
                "samples": len(row["samples"]),
                "about": metric.about or "not known to this version",
            }
        )
    columns = ["metric", "value", "low", "high", "unit", "samples", "about"]
    return pd.DataFrame(shown, columns=columns)


def in_order(result: CellResult) -> pd.DataFrame:
    """Return the samples of times, in the order in which they were taken, in shown units."""
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
