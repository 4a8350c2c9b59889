"""`metagrad export`: each format read back is the table, and a file is whole or not there."""

import json
import math
import resource
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from estimators.base.errors import UserError
from harness.cell import AXES
from harness.commands.export import export as command
from harness.matrix.outcome import Outcome, Status
from harness.store.export import export
from harness.store.journal import Journal, Result
from harness.store.runs import read_run
from harness.store.table import COLUMNS, load_sound
from tests.support.invocation import invoke
from tests.support.store_runs import START, cell, fingerprint, results, write_events
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


def without_samples(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="samples")


def test_parquet_is_the_table(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    assert export(store, out) == []
    table, read = load_sound(store), pd.read_parquet(out)
    assert read.columns.to_list() == list(COLUMNS)
    assert_frame_equal(without_samples(read), without_samples(table), check_exact=True)
    samples = pq.read_table(out)["samples"].to_pylist()
    assert "[nan]" in map(str, samples)
    assert str(samples) == str(table["samples"].to_list())  # NaN being NaN


def test_csv_is_the_table(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert export(store, out) == []
    table = load_sound(store)
    texts = {name: str for name in COLUMNS if table[name].dtype == "str" or name == "samples"}
    read = pd.read_csv(
        out, dtype=texts, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, "")
    )
    assert read.columns.to_list() == list(COLUMNS)
    assert_frame_equal(without_samples(read), without_samples(table), check_exact=True)
    samples = [json.loads(text) if text else None for text in read["samples"]]
    assert samples == [strict(one) for one in table["samples"]]
    assert {TRICKY, MARKUP} <= set(read["reason"])


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
    """Return the value that strict JSON has in place of a value."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def test_standard_output_and_formats(store: Path, tmp_path: Path) -> None:
    for form in ("csv", "json"):
        out = tmp_path / f"{form}.csv"  # an option goes before the suffix
        words = ("--store", store, "--format", form)
        assert invoke(command, *words, "--out", out) == (0, "", "")
        assert invoke(command, *words) == (0, out.read_text(encoding="utf-8"), "")
    assert json.loads(out.read_text(encoding="utf-8"))["schema"] == 1


def test_a_store_without_samples_can_be_exported(tmp_path: Path) -> None:
    write_events(tmp_path / "runs" / "x.jsonl", [START, results(status="skipped", samples={})])
    for form in ("csv", "parquet", "json"):
        assert export(tmp_path, tmp_path / f"x.{form}") == []
    assert pq.read_table(tmp_path / "x.parquet")["outcome"].to_pylist() == ["skipped"]
    write_events(tmp_path / "runs" / "x.jsonl", [START])
    for form in ("csv", "parquet", "json"):
        assert export(tmp_path, tmp_path / f"x.{form}", force=True) == []
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0
    assert set(AXES) < set(pq.read_table(tmp_path / "x.parquet").column_names)


def test_broken_files_are_left_out_with_a_message(tmp_path: Path) -> None:
    write_run(tmp_path, "a" * 40, {"fomaml": 0.2})
    whole = len(load_sound(tmp_path))
    bad = tmp_path / "runs" / "bad.jsonl"
    bad.write_text("not JSON\n")
    out = tmp_path / "x.csv"
    code, stdout, stderr = invoke(command, "--store", tmp_path, "--out", out)
    assert (code, stdout) == (1, "")
    assert [str(bad) in line for line in stderr.splitlines()] == [True]
    assert len(pd.read_csv(out)) == whole


def test_wrong_options_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    Path("x.csv").write_text("mine")
    before = fingerprint(tmp_path)
    for arguments, named in (
        *(("--out x.txt", "'txt'"), ("--out x", "''"), ("--format xml", "'xml'")),
        *(("--format parquet", "parquet"), ("--out x.csv", "--force")),
        ("--out folder.csv --force", "folder.csv is no file"),
        ("--out /dev/null --format csv --force", "/dev/null is no file"),
        ("--store empty --out y.csv", "no results in empty"),
    ):
        with pytest.raises(UserError) as raised:
            invoke(command, "--store", store, *arguments.split())
        assert named in str(raised.value)
        assert fingerprint(tmp_path) == before, arguments
    assert invoke(command, "--store", store, "--out", "x.csv", "--force")[0] == 0
    assert len(pd.read_csv("x.csv")) == len(load_sound(store))


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
def test_standard_output_to_a_full_disk_is_an_error(store: Path) -> None:
    with (
        suppress(OSError),  # of what is left to write when the file is closed
        Path("/dev/full").open("w", encoding="utf-8") as full,
        redirect_stdout(full),
        pytest.raises(UserError, match="standard output: No space left"),
    ):
        export(store)
