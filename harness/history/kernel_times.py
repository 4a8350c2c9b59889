"""Reads what pytest-benchmark has stored into the table of asv's results, a row for each kernel."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store.runs import parsed
from harness.store.table import Problem

FOLDER = "benchmarks"
"""Where a store keeps the files, each as pytest-benchmark wrote it."""

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FIGURES = ("median", "q1", "q3")
_NO_TEXT = "UNSERIALIZABLE["  # how pytest-benchmark writes a parameter that JSON has no word for


@dataclass(frozen=True)
class KernelTimes:
    """One file of pytest-benchmark.

    Attributes:
        machine: its host name.
        commit: hash of the commit that was measured, which had no uncommitted changes.
        started: when, in UTC.
        rows: for each benchmark, columns of `harness.asv.results.COLUMNS`.
    """

    machine: str
    commit: str
    started: datetime
    rows: list[dict[str, Any]]


def with_kernel_times(asv: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Adds times of kernels to asv's results, beside which they stand in the history.

    A kernel is to the history what a benchmark of asv's own is: "cell" is its name with the
    parameters, as pytest writes it; "metric" its name with those that are no estimator, so that
    the estimators of a metric can be compared. "value" is the median of the rounds in seconds,
    "low" and "high" are their quartiles, "count" is how many there were. "samples" are None: rounds
    of one process share its luck, and thousands of them would tell any drift for a difference.

    Returns:
        The table with a row for each file and benchmark more, and what could not be read.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            rows += read_kernel_times(path.read_bytes()).rows
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    if not rows:
        return asv, problems
    table = pd.DataFrame(rows, columns=asv.columns, dtype=object).astype(asv.dtypes.to_dict())
    return pd.concat([asv, table], ignore_index=True), problems


def read_kernel_times(content: bytes) -> KernelTimes:
    """Reads a file of pytest-benchmark.

    Raises:
        ValueError: it is no such file, has no benchmark, or is not of a commit.
    """
    told = parsed(content) or {}
    about, machine = (_object(told, name) for name in ("commit_info", "machine_info"))
    benchmarks, node = told.get("benchmarks"), machine.get("node")
    if not (about and isinstance(node, str) and node and isinstance(benchmarks, list)):
        raise ValueError("not a file that pytest-benchmark writes")
    commit = about.get("id")
    if not isinstance(commit, str) or not _HASH.fullmatch(commit):
        raise ValueError(f"its kernels were timed at no commit ({commit!r:.80})")
    if about.get("dirty") is not False:
        raise ValueError("its kernels were timed with uncommitted changes")
    if not benchmarks:
        raise ValueError("it has no benchmark: pytest-benchmark measures with --benchmark-enable")
    started = _time(told.get("datetime"))
    if started is None:
        raise ValueError("it does not tell when its kernels were timed")
    python = machine.get("python_version", "")
    shared = {
        **{"machine": node, "commit": commit, "date": _time(about.get("time"))},
        **{"environment": f"pytest-benchmark, Python {python}", "version": ""},
        **{"started": started.isoformat(), "unit": "s", "outcome": "ok", "samples": None},
    }
    return KernelTimes(node, commit, started, [shared | _kernel(one) for one in benchmarks])


def _object(told: dict[str, Any], name: str) -> dict[str, Any]:
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _kernel(told: Any) -> dict[str, Any]:
    name = told.get("fullname") if isinstance(told, dict) else None
    if not isinstance(name, str):
        raise ValueError("a benchmark has no name")
    stats, params = (_object(told, part) for part in ("stats", "params"))
    figures: list[Any] = [stats.get(figure) for figure in _FIGURES]
    count = stats.get("rounds")
    if not all(type(one) in (int, float) and 0 <= one < float("inf") for one in figures):
        raise ValueError(f"{name[:80]} has no median or no quartiles")
    if type(count) is not int or not 0 < count < 2**63:
        raise ValueError(f"{name[:80]} has no count of rounds")
    parts = {key: str(one) for key, one in params.items()}
    depth = params.get("depth")
    return {
        **{"benchmark": name, "cell": name, "metric": _metric(name, parts)},
        **{axis: parts.get(axis, "") for axis in ("estimator", "task", "model", "device")},
        "depth": depth if type(depth) is int and abs(depth) < 2**63 else None,
        **dict(zip(("value", "low", "high"), figures, strict=True)),
        "count": count,
    }


def _metric(name: str, parts: dict[str, str]) -> str:
    """Returns what a kernel is called with all estimators, such as "test_hvp.test_one(conv4)"."""
    function = name.partition("[")[0].rpartition("/")[2].replace(".py::", ".").replace("::", ".")
    told = [
        text for key, text in parts.items() if key != "estimator" and not text.startswith(_NO_TEXT)
    ]
    return f"{function}({', '.join(told)})" if told else function
