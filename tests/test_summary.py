"""The table that a run ends with."""

from pathlib import Path

import pytest
from rich.console import Console

from harness.store.summary import print_summary
from harness.store.table import load_sound
from tests.support.stores import COMMITS, NOTE, write_store


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    table = load_sound(write_store(tmp_path))
    console = Console(width=200)
    with console.capture() as printed:
        print_summary(table[table["commit"] == COMMITS[1]], console)
    return [line.rstrip() for line in printed.get().splitlines()]


def test_what_was_measured_of_a_cell_that_went_wrong_is_shown(lines: list[str]) -> None:
    row = next(line.split() for line in lines if line.startswith("imaml(lam=8.0)"))
    assert row[1] == "0.55"
    assert "timeout" in row
    failed = next(line.split() for line in lines if line.startswith("imaml(lam=7.0)"))
    assert failed == ["imaml(lam=7.0)", "failed"]
    assert "1 × timeout: not done after 1 s" in lines


def test_disturbed_timings_have_a_star_and_a_line(lines: list[str]) -> None:
    (told,) = (line for line in lines if line.startswith("* "))
    assert told.endswith(f"were disturbed, such as: {NOTE}")


def test_each_setting_has_a_table_with_its_title(lines: list[str]) -> None:
    titles = [line for line in lines if "alpha=" in line]
    assert "sinusoid, mlp-40-40, K=5, alpha=0.01, cpu, float32, seed 0" in titles
    assert len(titles) == len(set(titles)) == 4
