"""The large store is one that could have been measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.cell import Cell
from harness.matrix.metrics import METRICS
from harness.store.table import long_table, read_runs
from reports.tables.cells import cells
from tests.support.large_store import write_large_store

ON_CUDA = {"reserved_memory", "utilisation"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_store(tmp_path_factory.mktemp("large"), commits=60, measurements=30_000)


@pytest.fixture(scope="module")
def long(store: Path) -> pd.DataFrame:
    runs, problems = read_runs(store)
    assert problems == []
    assert {run.schema for run in runs} == {2}
    assert [run.ended for run in runs].count(False) == 1
    return long_table(runs)


def test_it_has_what_was_asked_for(long: pd.DataFrame) -> None:
    measured = long[long["metric"] != ""]
    assert 30_000 <= len(measured) < 31_000
    assert not measured.duplicated(["run", "cell", "metric"]).any()
    assert long["commit"].nunique() == 60
    assert set(long["machine"]) == {"bench-01", "laptop"}
    assert long["changes"].nunique() == 2
    assert set(measured["metric"]) == set(METRICS) - ON_CUDA - {"accuracy"}
    outcomes = {"ok", "skipped", "failed", "diverged", "out-of-memory", "crashed"}
    assert set(long["outcome"]) >= outcomes - {"crashed", "failed"}
    assert measured["notes"].str.contains("others used").any()
    assert measured["value"].notna().all()


def test_its_cells_have_the_names_that_cells_have(long: pd.DataFrame) -> None:
    names = long["cell"].drop_duplicates()
    assert len(names) > 100
    assert [Cell.parse(name).id for name in names] == list(names)
    one = long.drop_duplicates("cell")
    assert [Cell.parse(name).depth for name in one["cell"]] == list(one["depth"])
    for axis in ("task", "model", "depth", "estimator"):
        assert long[axis].nunique() > 3


def test_numbers_are_those_of_one_store(long: pd.DataFrame) -> None:
    table = cells(long)
    bounded = table[table["bound"].notna()]
    assert (bounded["bias"] <= bounded["bound"]).all()
    ok = table[table["outcome"] == "ok"]
    assert (ok["time_ratio_low"] < ok["time_ratio_high"]).all()
    # What is deterministic is the same at every commit.
    steady = [name for name, metric in METRICS.items() if not metric.noisy]
    assert (ok.groupby("cell")[steady].nunique() <= 1).all(axis=None)
    assert (ok.groupby("cell")["time"].nunique() > 1).any()
    batch = ok["systematic_bias"] ** 2 + ok["error_spread"] ** 2 / 8
    assert np.allclose(ok["batch_bias"] ** 2, batch)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    first, again, other = (
        write_large_store(tmp_path / name, commits=3, measurements=900, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    files = [sorted((store / "runs").iterdir()) for store in (first, again, other)]
    contents = [{path.name: path.read_bytes() for path in paths} for paths in files]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.slow
def test_many_measurements_of_one_commit_are_of_many_seeds(tmp_path: Path) -> None:
    store = write_large_store(tmp_path, commits=1, measurements=10_000)
    long = long_table(read_runs(store)[0])
    assert (long["metric"] != "").sum() >= 10_000
    assert long["seed"].nunique() > 1
