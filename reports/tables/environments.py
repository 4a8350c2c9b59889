"""What runs were made with."""

from pathlib import Path
from typing import Any

import pandas as pd

from harness.results.runs import read_run


def environments(store: Path, table: pd.DataFrame) -> list[dict[str, str]]:
    """Reads what the runs behind a table were made with, the newest run of each version.

    Args:
        store: the folder of results.
        table: rows of `cells`.

    Returns:
        For each version its facts, by name.
    """
    newest = table.sort_values(["started", "run"]).drop_duplicates("version", keep="last")
    return [
        facts(read_run(store / "runs" / f"{run}.jsonl").environment, started)
        for run, started in zip(newest["run"], newest["started"], strict=True)
    ]


def facts(made: dict[str, Any], started: str) -> dict[str, str]:
    """Returns what a reader may want to know of an environment, by name.

    Args:
        made: as a journal has it.
        started: when the run began.
    """
    packages = made.get("packages") or {}
    told = {
        "commit": (made["commit"] or "unknown")
        + (" (uncommitted changes)" if made["changes"] else ""),
        "newest run": started,
        "machine": made["machine"],
        "processor": f"{made.get('processor', '')}, {made.get('cores', '')} cores",
        "memory": f"{(made.get('memory') or 0) / 2**30:.1f} GiB",
        "devices": ", ".join(["cpu", *made.get("devices", [])]),
        "plug-ins": ", ".join(made.get("plugins") or ["none"]),
        "system": made.get("system", ""),
        "threads": made.get("threads", ""),
        "python": made.get("python", ""),
        **{name: version for name, version in packages.items() if version},
    }
    return {name: str(value) for name, value in told.items()}
