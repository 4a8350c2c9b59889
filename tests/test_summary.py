"""The table that a run ends with."""

from pathlib import Path

from pytest_regressions.file_regression import FileRegressionFixture
from rich.console import Console

from harness.store.summary import print_summary
from harness.store.table import load_sound
from tests.support.stores import COMMITS, write_store


def test_a_run_ends_with_a_table_for_each_setting(
    tmp_path: Path, file_regression: FileRegressionFixture
) -> None:
    """Cells that failed or timed out, disturbed timings and own objectives are among them."""
    table = load_sound(write_store(tmp_path))
    console = Console(width=100)
    with console.capture() as printed:
        print_summary(table[table["commit"] == COMMITS[1]], console)
    file_regression.check(printed.get())
