"""The commands that repeat a cell, read by the command line itself."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import cli
from harness.cell import AXES, Cell
from harness.matrix.plan import Planned
from harness.store.table import load
from reports.tables.cells import cells
from reports.tables.repeat import command, profile_command
from tests.support.large_store import write_large_store

CELLS = [
    Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=5),
    Cell.of(
        estimator="binom(order=2, batching='chunk(3)')",
        task="sinusoid(shots=3)",
        model="mlp-40-40(init='torch')",
        depth=20,
        step_size=1e-05,
        device="cuda:1",
        dtype="float64",
        seed=3,
        num_tasks=1,
        trained=100,
    ),
    Cell.of(estimator="fomaml", task="quadratic", model="linear", depth=0, step_size=0.3),
    Cell.of(estimator="fomaml", task="glyphs:5way-1shot", model="conv4-32", depth=1, num_tasks=80),
]


def row(cell: Cell) -> dict[str, Any]:
    """What the table of cells has of it."""
    return cell.as_dict() | {"cell": cell.id}


class Stop(Exception):
    """Ends a command once its plan is made."""


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    """The plan that a command makes, which is then not run."""
    plan: list[Planned] = []

    def stop(planned: list[Planned], *, named: bool) -> None:
        assert named
        plan.extend(planned)
        raise Stop

    monkeypatch.setattr("harness.matrix.plan.refuse_impossible", stop)
    return plan


def run(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "metagrad"
    with pytest.raises(Stop):
        cli.app(words, standalone_mode=False)


def test_the_command_plans_exactly_the_cell_and_names_what_is_not_default(
    planned: list[Planned],
) -> None:
    lines = [command(row(cell)) for cell in CELLS]
    for line, cell in zip(lines, CELLS, strict=True):
        run(line)
        assert planned.pop().cell == cell
        assert not planned
    assert lines[0] == "metagrad run --task sinusoid --model mlp-40-40 --depth 5 --estimator maml"
    words = shlex.split(lines[1])
    axes = {f"--{key.replace('_', '-')}" for key in AXES}
    assert {word for word in words if word.startswith("--")} == axes
    assert words[words.index("--step-size") + 1] == "1e-05"
    assert lines[2].endswith(" --estimator fomaml --step-size 0.3")
    assert lines[3].endswith(" --estimator fomaml --tasks 80")
    # That of a plug-in's task is not known here.
    assert command(row(CELLS[0]) | {"task": "of-a-plug-in"}).endswith(" --step-size 0.01")


def test_cells_of_a_store_are_repeated(tmp_path: Path, planned: list[Planned]) -> None:
    long, _ = load(write_large_store(tmp_path, commits=1, measurements=1_500))
    table = cells(long).drop_duplicates(["task", "model", "device", "depth"])
    assert len(table) > 2
    for _, one in table.iterrows():
        run(command(one))
        assert planned.pop().cell.id == one["cell"]
        assert not planned


def test_the_profile_command_names_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def stop(text: str) -> Cell:
        found.append(text)
        raise Stop

    monkeypatch.setattr(Cell, "parse", stop)
    for cell in CELLS:
        run(profile_command(pd.Series(row(cell))))
        assert found.pop() == cell.id
