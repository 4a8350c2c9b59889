"""What runs were made with."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store.runs import read_run

_UNKNOWN = "unknown"


def environments(store: Path, table: pd.DataFrame) -> list[dict[str, str]]:
    """Reads what the runs behind a table were made with, the newest run of each version.

    Returns:
        For each version its facts, by name. A version is left out whose newest run has gone since
        the table was made, or cannot be read any more.
    """
    newest = table.sort_values(["started", "run"]).drop_duplicates("version", keep="last")
    found = []
    for run, started, fingerprint in newest[["run", "started", "fingerprint"]].itertuples(
        index=False
    ):
        with suppress(OSError, ValueError):
            read = read_run(store / "runs" / f"{run}.jsonl")
            all_made = [*read.machines.values(), read.environment]
            made = next(one for one in all_made if one.get("fingerprint", "") == fingerprint)
            found.append(facts(made, started))
    return found


def facts(made: dict[str, Any], started: str) -> dict[str, str]:
    """Returns what a reader may want to know of an environment, by name.

    Journals come from other versions, too, and from who knows where: what is missing or not of the
    kind that is written here counts as not known.
    """
    changed = " (uncommitted changes)" if _text(made, "changes") else ""
    cores, memory = _number(made, "cores"), _number(made, "memory")
    packages = made.get("packages")
    versions = packages.items() if isinstance(packages, dict) else ()
    told = {
        "commit": (_text(made, "commit") or _UNKNOWN) + changed,
        "newest run": started,
        "machine": _text(made, "machine"),
        "processor": (_text(made, "processor") or _UNKNOWN) + (f", {cores} cores" if cores else ""),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else _UNKNOWN,
        "devices": ", ".join(["cpu", *_texts(made, "devices")]),
        "plug-ins": ", ".join(_texts(made, "plugins") or ["none"]),
        "system": _text(made, "system"),
        "threads": _text(made, "threads"),
        "python": _text(made, "python"),
    }
    for name, version in versions:
        if version and isinstance(version, str):
            told.setdefault(name, version)
    return told


def _text(made: dict[str, Any], name: str) -> str:
    value = made.get(name)
    return value if isinstance(value, str) else ""


def _number(made: dict[str, Any], name: str) -> float:
    value: Any = made.get(name)
    return value if type(value) in (int, float) and math.isfinite(value) else 0


def _texts(made: dict[str, Any], name: str) -> list[str]:
    """Returns the texts of a list, or the names of an object."""
    values = made.get(name)
    return (
        [one for one in values if isinstance(one, str)] if isinstance(values, list | dict) else []
    )
