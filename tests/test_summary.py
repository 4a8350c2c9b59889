"""The table that a run ends with."""

from pathlib import Path

from rich.console import Console

from harness.store.summary import print_summary
from harness.store.table import load_sound
from tests.support.stores import COMMITS, NOTE, write_store


def test_a_run_ends_with_a_table_for_each_setting(tmp_path: Path) -> None:
    table = load_sound(write_store(tmp_path))
    console = Console(width=200)
    with console.capture() as printed:
        print_summary(table[table["commit"] == COMMITS[1]], console)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    titles = [line for line in lines if "alpha=" in line]
    assert "sinusoid, mlp-40-40, K=5, alpha=0.01, cpu, float32, seed 0" in titles
    assert len(titles) == len(set(titles)) == 4
    # What was measured of a cell that went wrong is shown.
    row = next(line.split() for line in lines if line.startswith("imaml(lam=8.0)"))
    assert row[1] == "0.55"
    assert "timeout" in row
    failed = next(line.split() for line in lines if line.startswith("imaml(lam=7.0)"))
    assert failed == ["imaml(lam=7.0)", "failed"]
    assert "1 × timeout: not done after 1 s" in lines
    # Disturbed timings have a star and a line.
    (disturbed,) = (line for line in lines if line.startswith("* "))
    assert NOTE in disturbed
