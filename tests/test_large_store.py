"""The large store is one that could have been measured."""

from pathlib import Path

import numpy as np

from harness.cell import Cell
from harness.matrix.metrics import METRICS
from harness.store.table import long_table, read_runs
from reports.tables.cells import cells
from tests.support.large_store import write_large_store

# On CUDA, of trainings, of compiled estimators.
ELSEWHERE = {"reserved_memory", "utilisation", "accuracy", "compile_time"}
ELSEWHERE |= {"spread", "own_spread", "rmse", "bias_limit", "bias_chance"}  # of random estimators
ELSEWHERE |= {"bias_t2", "t2_error"}  # of drawn inner steps


def test_a_large_store_could_have_been_measured(tmp_path: Path) -> None:
    runs, problems = read_runs(write_large_store(tmp_path, commits=50, measurements=20_000))
    assert problems == []
    assert [run.ended for run in runs].count(False) == 1
    long = long_table(runs)
    measured = long[long["metric"] != ""]
    assert 20_000 <= len(measured) < 21_000
    assert not measured.duplicated(["run", "cell", "metric"]).any()
    assert set(measured["metric"]) == set(METRICS) - ELSEWHERE
    assert measured["value"].notna().all()
    assert (long["commit"].nunique(), long["machine"].nunique()) == (50, 2)
    for name in long["cell"].unique():
        assert Cell.parse(name).id == name
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
    contents = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        store = write_large_store(tmp_path / name, commits=3, measurements=900, seed=seed)
        contents.append({path.name: path.read_bytes() for path in (store / "runs").iterdir()})
    assert contents[0] == contents[1] != contents[2]
