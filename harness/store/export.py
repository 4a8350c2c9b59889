"""Writes the long table of a store to a file that other programs read."""

import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from estimators.base.errors import OptionError
from harness.cell import AXES
from harness.store.runs import Run
from harness.store.table import COLUMNS, Problem, long_table, read_runs

SCHEMA = 1
"""Version of the JSON document."""

STDOUT = Path("-")


def export(
    store: Path, out: Path = STDOUT, form: str | None = None, *, force: bool = False
) -> list[Problem]:
    """Writes one row per run, cell and metric: columns `harness.store.table.COLUMNS`.

    Samples are a list of numbers in Parquet and JSON, and the text of a JSON list in CSV. JSON has
    more: parts of a cell that have no column, and what each run was made with. It is an object of
    "schema", "runs" and "rows", in which null stands for numbers that are not finite.

    Returns:
        What of the store could not be read, and is left out.

    Raises:
        OptionError: the format is not known, the file is there, or it cannot be written.
        StoreError: the store is missing, cannot be read, or holds no run.
        BrokenPipeError: who reads standard output has gone.
    """
    form = form or ("csv" if out == STDOUT else out.suffix.removeprefix("."))
    if form not in _WRITERS:
        raise OptionError(
            f"unknown format {form!r} of {out}; there is {', '.join(_WRITERS)}: "
            "give one with --format, or as the file's suffix"
        )
    if out == STDOUT and form == "parquet":
        raise OptionError("parquet needs a file; name one with --out")
    if not force and out != STDOUT and out.exists():
        raise OptionError(f"{out} is there already; --force replaces it")
    runs, problems = read_runs(store)

    def write(file: BinaryIO) -> None:
        _WRITERS[form](runs, file)

    if out == STDOUT:
        try:
            write(sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # as with `| head`: the command line ends without a word
            raise
        except OSError as error:
            raise OptionError(f"cannot write to standard output: {error.strerror}") from error
    else:
        _write_whole(out, write)
    return problems


def _write_whole(out: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file under another name, which it gives up when it is whole.

    Raises:
        OptionError: it cannot be written; nothing is left of it.
    """
    draft = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            write(file)
        draft.replace(out)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError):
            raise OptionError(f"cannot write {out}: {error.strerror or error}") from error
        raise


def write_csv(table: pd.DataFrame, file: BinaryIO) -> None:
    """Writes a long table; samples are the text of a JSON list."""
    texts = [
        "" if samples is None else orjson.dumps(samples).decode() for samples in table["samples"]
    ]
    table.assign(samples=texts).to_csv(file, index=False, lineterminator="\n")


def write_parquet(table: pd.DataFrame, file: BinaryIO) -> None:
    """Writes a long table; samples are a list of numbers."""
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
