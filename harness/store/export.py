"""Write the long table of a store to a file for other programs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimators.base.errors import OptionError, UserError
from harness.cell import AXES
from harness.store.events import Problem
from harness.store.runs import Run
from harness.store.table import COLUMNS, long_table, read_runs
from harness.support.files import atomic_file

SCHEMA = 1
"""Version of the JSON document."""

STDOUT = Path("-")


def export(
    store: Path, out: Path = STDOUT, form: str | None = None, *, force: bool = False
) -> list[Problem]:
    """Write one row per run, cell and metric: columns `harness.store.table.COLUMNS`.

    Samples are a list of numbers in Parquet and JSON, and the text of a JSON list in CSV. JSON also
    has parts of a cell that are no columns, and the environment of each run. It is an object of
    "schema", "runs" and "rows", in which null stands for numbers that are not finite.

    Returns:
        Files and lines of the store that could not be read, and are left out.

    Raises:
        OptionError: the format is unknown, or the file exists.
        UserError: it cannot be written.
    """
    form = form or ("csv" if out == STDOUT else out.suffix.removeprefix("."))
    if form not in _WRITERS:
        raise OptionError(
            f"unknown format {form!r} of {out}; give one of {', '.join(_WRITERS)} with --format, "
            "or as the suffix of the file"
        )
    if out == STDOUT and form == "parquet":
        raise OptionError("parquet needs a file; name one with --out")
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is no file; - is standard output")
    if not force and out != STDOUT and out.exists():
        raise OptionError(f"{out} exists; --force replaces it")
    runs, problems = read_runs(store)

    try:
        if out == STDOUT:
            _WRITERS[form](runs, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with atomic_file(out) as file:
                _WRITERS[form](runs, file)
    except OSError as error:
        name = "to standard output" if out == STDOUT else out
        raise UserError(f"cannot write {name}: {error.strerror or error}") from error
    return problems


def write_csv(table: pd.DataFrame, file: BinaryIO) -> None:
    """Write a long table; samples are the text of a JSON list."""
    texts = [
        "" if samples is None else orjson.dumps(samples).decode() for samples in table["samples"]
    ]
    table.assign(samples=texts).to_csv(file, index=False, lineterminator="\n")


def write_parquet(table: pd.DataFrame, file: BinaryIO) -> None:
    """Write a long table; samples are a list of numbers."""
    samples = pa.array(table["samples"].to_list(), pa.list_(pa.float64()))
    others = table.drop(columns="samples")
    whole = pa.Table.from_pandas(others, preserve_index=False).append_column("samples", samples)
    pq.write_table(whole.select(list(COLUMNS)), file, compression="zstd")


def _write_json(runs: list[Run], file: BinaryIO) -> None:
    more = {
        (run.name, cell.id): others
        for run in runs
        for cell in run.cells
        if (others := {key: part for key, part in cell.axes.items() if key not in AXES})
    }
    rows: list[dict[Any, Any]] = long_table(runs).to_dict("records")
    document = {
        "schema": SCHEMA,
        "runs": [
            {
                "run": run.name,
                "started": run.started,
                "schema": run.schema,
                "environment": run.environment,
                "machines": run.machines,
            }
            for run in runs
        ],
        # A column goes before a part of the same name.
        "rows": [more.get((row["run"], row["cell"]), {}) | row for row in rows],
    }
    file.write(orjson.dumps(document))
    file.write(b"\n")


_WRITERS: dict[str, Callable[[list[Run], BinaryIO], None]] = {
    "csv": lambda runs, file: write_csv(long_table(runs), file),
    "parquet": lambda runs, file: write_parquet(long_table(runs), file),
    "json": _write_json,
}
