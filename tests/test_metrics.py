"""The metric table: one entry is all that a metric needs."""

from pathlib import Path

import pytest

from estimators.base.tree import norm
from harness.cell import Cell
from harness.matrix.metrics import METRICS, Metric, Samples, probes
from harness.probes.references import save_reference
from harness.probes.target import Target
from harness.running.measures import score

CELL = Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=2, num_tasks=2)
TIMED = {"accuracy", "time", "time_ratio", "utilisation"}


def test_every_entry_is_measured_or_timed() -> None:
    timed = {name for name in METRICS if name in TIMED or name.startswith("time_")}
    assert {name for name, metric in METRICS.items() if not metric.probe} == timed
    assert len(probes()) == len({one.probe for one in METRICS.values()} - {""})
    assert [probe.__name__ for probe in probes()][:2] == ["resident_memory", "counts"]


def test_an_entry_with_a_probe_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def length(target: Target) -> Samples:
        return {"length": [norm(target.estimate().gradient)]}

    entry = Metric("length", "length", "Euclidean norm of the estimate.", probe=length)
    monkeypatch.setitem(METRICS, "length", entry)
    save_reference(CELL.group, tmp_path / "exact.pt")
    samples = score(CELL, tmp_path / "exact.pt")
    assert samples["length"][0] > 0
    assert {"bias", "flops", "peak_memory", "hvps"} <= samples.keys()
