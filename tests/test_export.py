"""`metagrad export`: each format read back is the table, and a file is whole or not there."""

import json
import math
import resource
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from estimators.base.errors import OptionError, UserError
from harness.cell import AXES
from harness.commands.export import export as command
from harness.matrix.outcome import Outcome, Status
from harness.store.export import export
from harness.store.journal import Journal, Result
from harness.store.runs import read_run
from harness.store.table import COLUMNS, StoreError, load_sound
from tests.support.invocation import invoke
from tests.support.store_runs import START, cell, results, write_events
from tests.support.stores import MARKUP, environment, write_run, write_store

NUMBERS = ("value", "low", "high")
# Text that a reader of CSV could take for something else.
TRICKY = 'NA, "quoted"\nnext; null \u2202'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all kinds of outcomes, infinities, and parts of a later version."""
    folder = write_store(tmp_path_factory.mktemp("store"))
    journal = Journal.create(folder)
    journal.start(environment("c" * 40, more={"x": [1.5]}), cells=2)
    odd = {"bias": [1 / 3, math.inf], "time": [math.nan], "of-a-later-version": [1.0, 2.0]}
    journal.results("score", [Result(cell(), Outcome(Status.OK), odd, ["a note"])])
    journal.results("score", [Result(cell("maml"), Outcome(Status.FAILED, TRICKY))])
    journal.end()
    later = results(id="y", cell=cell().as_dict() | {"curvature": "high", "outcome": "mine"})
    write_events(folder / "runs" / "later.jsonl", [START, later])
    return folder


def test_parquet_is_the_table(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    assert export(store, out) == []
    table = load_sound(store)
    read = pd.read_parquet(out)
    assert read.columns.to_list() == list(COLUMNS)
    pd.testing.assert_frame_equal(read.drop(columns="samples"), table.drop(columns="samples"))
    samples = pq.read_table(out)["samples"].to_pylist()
    assert any(same(one, [math.nan]) for one in samples)
    assert same(samples, table["samples"].to_list())


def test_csv_is_the_table(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert export(store, out) == []
    table = load_sound(store)
    texts = {name: str for name in COLUMNS if table[name].dtype == "str" or name == "samples"}
    read = pd.read_csv(
        out, dtype=texts, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, "")
    )
    assert read.columns.to_list() == list(COLUMNS)
    samples = [json.loads(text) if text else None for text in read["samples"]]
    pd.testing.assert_frame_equal(read.drop(columns="samples"), table.drop(columns="samples"))
    assert samples == [strict(one) for one in table["samples"]]
    assert TRICKY in set(read["reason"])
    assert MARKUP in set(read["reason"])


def test_json_is_the_table_and_what_has_no_column(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    assert export(store, out) == []
    document = json.loads(out.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    table = load_sound(store)
    rows: list[dict[str, Any]] = document["rows"]
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        assert {name: row[name] for name in COLUMNS} == {
            str(name): strict(value) for name, value in expected.items()
        }
    assert [row["curvature"] for row in rows if "curvature" in row] == ["high"]
    assert [row["outcome"] for row in rows if "curvature" in row] == ["ok"]
    assert document["schema"] == 1
    runs = {run["run"]: run for run in document["runs"]}
    assert list(runs) == list(dict.fromkeys(table["run"]))
    for name, run in runs.items():
        known = read_run(store / "runs" / f"{name}.jsonl")
        assert run["environment"] == known.environment
        assert (run["started"], run["schema"]) == (known.started, known.schema)
    assert any(run["environment"].get("more") == {"x": [1.5]} for run in document["runs"])


def strict(value: Any) -> Any:
    """Returns what strict JSON makes of a value."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def same(found: Any, expected: Any) -> bool:
    """Compares lists of samples, NaN being NaN."""
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected or (found != found and expected != expected))


def test_standard_output_is_what_a_file_is(store: Path, tmp_path: Path) -> None:
    for form in ("csv", "json"):
        out = tmp_path / f"x.{form}"
        export(store, out)
        code, stdout, stderr = invoke(command, "--store", store, "--format", form)
        assert (code, stderr) == (0, "")
        assert stdout == out.read_text(encoding="utf-8")


def test_the_format_goes_before_the_suffix(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    assert invoke(command, "--store", store, "--out", out, "--format", "json") == (0, "", "")
    assert json.loads(out.read_text(encoding="utf-8"))["schema"] == 1


def test_cells_without_samples_alone_can_be_exported(tmp_path: Path) -> None:
    write_events(tmp_path / "runs" / "x.jsonl", [START, results(status="skipped", samples={})])
    for form in ("csv", "parquet", "json"):
        assert export(tmp_path, tmp_path / f"x.{form}") == []
    assert pq.read_table(tmp_path / "x.parquet")["outcome"].to_pylist() == ["skipped"]
    write_events(tmp_path / "runs" / "x.jsonl", [START])
    for form in ("csv", "parquet", "json"):
        assert export(tmp_path, tmp_path / f"x.{form}", force=True) == []
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0
    assert set(AXES) < set(pq.read_table(tmp_path / "x.parquet").column_names)


def test_broken_files_are_told_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "a" * 40, {"fomaml": 0.2})
    whole = len(load_sound(tmp_path))
    (tmp_path / "runs" / "bad.jsonl").write_text("not JSON\n")
    out = tmp_path / "x.csv"
    code, stdout, stderr = invoke(command, "--store", tmp_path, "--out", out)
    assert (code, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"metagrad: {tmp_path / 'runs' / 'bad.jsonl'}: not a run that can be ")
    assert len(pd.read_csv(out)) == whole


def test_a_file_is_not_replaced_unless_forced(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("mine")
    with pytest.raises(OptionError, match=r"x\.csv.*--force"):
        invoke(command, "--store", store, "--out", out)
    assert out.read_text() == "mine"
    assert invoke(command, "--store", store, "--out", out, "--force")[0] == 0
    assert len(pd.read_csv(out)) == len(load_sound(store))


def test_wrong_options_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    for arguments, named in (
        *((["--out", "x.txt"], "'txt'"), (["--out", "x"], "''"), (["--format", "xml"], "'xml'")),
        (["--format", "parquet"], "parquet"),
        (["--out", "folder.csv", "--force"], "folder.csv: Is a directory"),
    ):
        with pytest.raises(UserError) as raised:
            invoke(command, "--store", store, *arguments)
        assert named in str(raised.value)
        assert [one.name for one in tmp_path.iterdir()] == ["folder.csv"], arguments


def test_an_empty_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no results in"):
        export(tmp_path, tmp_path / "x.csv")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_older_file(store: Path, tmp_path: Path) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    for form in ("csv", "parquet", "json"):
        out = tmp_path / f"x.{form}"
        out.write_text("mine")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, allowed[1]))
        try:
            with pytest.raises(UserError, match=rf"{out}: File too large"):
                export(store, out, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        assert out.read_text() == "mine"
        assert [one.name for one in tmp_path.iterdir()] == [out.name]
        out.unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full in this system")
def test_standard_output_to_a_full_disk_is_told(store: Path) -> None:
    with (
        suppress(OSError),  # of what is left to write when the file is closed
        Path("/dev/full").open("w", encoding="utf-8") as full,
        redirect_stdout(full),
        pytest.raises(UserError, match="standard output: No space left"),
    ):
        export(store)


def test_numbers_keep_all_digits(store: Path, tmp_path: Path) -> None:
    numbers = load_sound(store)["value"].to_numpy()
    for form, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        out = tmp_path / f"x.{form}"
        export(store, out)
        np.testing.assert_array_equal(read(out)["value"].to_numpy(), numbers)
