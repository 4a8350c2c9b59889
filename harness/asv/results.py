"""Reads asv's own result files into a long table like that of the store."""

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from asv.benchmarks import Benchmarks  # type: ignore[import-untyped]
from asv.config import Config  # type: ignore[import-untyped]
from asv.machine import Machine  # type: ignore[import-untyped]
from asv.results import Results  # type: ignore[import-untyped]
from asv.util import UserError, load_json  # type: ignore[import-untyped]

from harness.matrix.metrics import METRICS
from harness.store.table import Problem

MATRIX = "meta_gradient.Matrix.track_"
"""How the names of the benchmarks begin that look up what the runner has measured."""

POINT = ("estimator", "task", "model", "depth", "device")
"""The parts of a cell that asv stores."""

_TYPES: dict[str, Any] = {
    **{"machine": str, "commit": str, "date": "int64", "environment": str, "benchmark": str},
    **{"version": str, "started": str, "metric": str, "unit": str, "cell": str},
    **{"estimator": str, "task": str, "model": str, "depth": "Int64", "device": str},
    **{"outcome": str, "value": float, "low": float, "high": float, "count": "int64"},
    "samples": object,
}
COLUMNS = tuple(_TYPES)

_NAMES = ("estimator", "depth", "model", "device")  # of the parameters of `Matrix`
_Row = tuple[Any, ...]

# What content that is not ours can raise while it is read.
_UNREADABLE = (
    *(UserError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    RecursionError,
)


def load_asv(folder: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads all that asv has stored.

    Returns:
        A table with columns `COLUMNS`, and what could not be read. There is a row for each
        machine, commit, environment, benchmark and set of parameters. What `Matrix` tracks has
        the names of our metrics as "metric", and "cell" is "", since asv stores no more of it than
        `POINT`. Other benchmarks keep their own name and unit, and "cell" is the name with the
        parameters, as asv writes it. "outcome" is "ok", "skipped" (asv's NaN) or "failed" (asv's
        null). "low" and "high" are quartiles; "count" is how many samples there were, 0 where
        that is not stored, and "samples" is None unless asv was told to record them. "date" is
        that of the commit, "started" that of the measurement.
    """
    problems: list[Problem] = []
    told = _benchmarks(folder, problems)
    rows: list[_Row] = []
    for path, results in _files(folder, problems):
        for name in results.get_all_result_keys():
            try:
                rows += _rows(results, name, told.get(name, {}))
            except _UNREADABLE as error:
                problems.append(Problem(path, f"{name} cannot be read: {_line(error)}"))
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(_TYPES)
    dates = pd.to_datetime(table["date"], unit="ms", utc=True).astype("datetime64[ms, UTC]")
    return table.assign(date=dates), problems


def _files(folder: Path, problems: list[Problem]) -> Iterator[tuple[Path, Any]]:
    """Yields the files of results as asv reads them."""
    for machine in sorted(path for path in folder.glob("*") if path.is_dir()):
        about = machine / "machine.json"
        paths = sorted(set(machine.glob("*.json")) - {about})
        try:
            name = load_json(about, Machine.api_version)["machine"] if paths else ""
        except _UNREADABLE as error:
            problems.append(Problem(about, f"{len(paths)} results are left out: {_line(error)}"))
            continue
        for path in paths:
            try:
                results = Results.load(str(path), machine_name=name)
                _of_file(results)
            except _UNREADABLE as error:
                problems.append(Problem(path, f"not results that asv can read: {_line(error)}"))
            else:
                yield path, results


def _benchmarks(folder: Path, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """Returns what asv last found the suite to be, which may lack benchmarks of older results."""
    path = Path(Benchmarks.get_benchmark_file_path(str(folder)))
    if not path.exists():
        return {}
    config = Config()
    config.results_dir = str(folder)
    try:
        return dict(Benchmarks.load(config))
    except _UNREADABLE as error:
        problems.append(Problem(path, f"names of parameters are not known: {_line(error)}"))
        return {}


def _rows(results: Any, name: str, about: dict[str, Any]) -> list[_Row]:
    params = results.get_result_params(name)
    metric, unit = name.removeprefix(MATRIX), str(about.get("unit", ""))
    unit = METRICS[metric].unit if metric in METRICS else unit
    names = tuple(about.get("param_names", _NAMES if name.startswith(MATRIX) else ()))
    shared = (
        *_of_file(results),
        name,
        str(results.benchmark_version.get(name) or ""),
        datetime.fromtimestamp(results.started_at[name] / 1000, UTC).isoformat(),
        metric,
        unit,
    )
    read = (results.get_result_value, results.get_result_stats, results.get_result_samples)
    points = [_point(name, names, texts) for texts in product(*params)]
    measured = zip(*(one(name, params) for one in read), strict=True)
    return [
        (*shared, *point, *_measured(*one)) for point, one in zip(points, measured, strict=True)
    ]


def _of_file(results: Any) -> _Row:
    texts = (results.params["machine"], results.commit_hash, results.env_name)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("machine, commit and environment must be texts")
    if type(results.date) is not int or not 0 <= results.date < 2**48:
        raise ValueError(f"{results.date!r} is no date")
    machine, commit, environment = texts
    return machine, commit, results.date, environment


@lru_cache(maxsize=2**14)  # the same points stand in every file
def _point(name: str, names: tuple[str, ...], texts: tuple[str, ...]) -> _Row:
    """Returns the cell and its parts, from the parameters as Python writes them.

    Raises:
        ValueError: a cell of the matrix has no depth.
    """
    parts = {key: _literal(text) for key, text in zip(names, texts, strict=False)}
    task, _, model = str(parts.get("model", "")).rpartition(" ")
    depth = parts.get("depth")
    whole = type(depth) is int and abs(depth) < 2**63
    if name.startswith(MATRIX) and not whole:
        raise ValueError(f"{depth!r} is no depth")
    cell = "" if name.startswith(MATRIX) else f"{name}({', '.join(texts)})"
    return (
        cell,
        str(parts.get("estimator", "")),
        task,
        model,
        depth if whole else None,
        str(parts.get("device", "")),
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # the name of an object, which asv writes as it is
        return text


def _measured(value: Any, stats: dict[str, Any] | None, samples: list[float] | None) -> _Row:
    stats = stats or {}
    numbers = (stats.get("q_25"), stats.get("q_75"), value, *(samples or ()))
    if not {type(number) for number in numbers} <= {float, int, type(None)}:
        raise ValueError("a result is no number")
    outcome = "failed" if value is None else "skipped" if value != value else "ok"
    low, high, value = (None if number is None else float(number) for number in numbers[:3])
    return outcome, value, low, high, int(stats.get("repeat") or len(samples or ())), samples


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
