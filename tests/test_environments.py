"""What runs were made with, as journals of other versions and makers have it."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.store.table import load_sound
from reports import static
from reports.tables.cells import cells
from reports.tables.environments import environments, facts
from tests.support.stores import COMMITS, environment, write_run

STARTED = "2026-01-02T03:04:05+00:00"
WRONG: tuple[Any, ...] = (
    None,
    7,
    -1.5,
    "16 GB",
    True,
    [],
    [1],
    [None],
    [{"name": "a GPU"}],
    {},
    {"torch": 1},
)


def test_facts_are_those_of_the_journal() -> None:
    made = environment("c" * 40, changes="0123", devices=["a GPU"], plugins={"mine": "abc"})
    assert facts(made, STARTED) == {
        **{"commit": f"{'c' * 40} (uncommitted changes)", "newest run": STARTED},
        **{"machine": "here", "processor": "some <b>processor</b>, 2 cores"},
        **{"memory": "16.0 GiB", "devices": "cpu, a GPU", "plug-ins": "mine", "system": "Linux"},
        **{"threads": "1", "python": "3.11.7", "torch": "2.6"},
    }


def test_what_is_missing_is_not_known() -> None:
    told = facts({"commit": "", "changes": "", "machine": "here"}, STARTED)
    assert told["commit"] == told["processor"] == told["memory"] == "unknown"
    assert (told["devices"], told["plug-ins"]) == ("cpu", "none")


@pytest.mark.parametrize(
    "name",
    [
        *("processor", "cores", "memory", "devices", "plugins", "system", "threads", "python"),
        "packages",
    ],
)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_of_another_kind_is_passed_over(name: str, wrong: Any) -> None:
    usual = facts(environment("c" * 40), STARTED)
    told = facts(environment("c" * 40, **{name: wrong}), STARTED)
    assert told.keys() <= usual.keys()
    assert all(isinstance(value, str) for value in told.values())
    same = usual.keys() - {name, "plug-ins", "processor", "torch"}
    assert {key: told[key] for key in same} == {key: usual[key] for key in same}


def test_no_package_takes_the_place_of_another_fact() -> None:
    made = environment("c" * 40, packages={"machine": "9.9", "numpy": "2.0"})
    told = facts(made, STARTED)
    assert (told["machine"], told["numpy"]) == ("here", "2.0")


def test_the_report_takes_a_foreign_journal(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "memory": "16 GB",
        "devices": [{"name": "a GPU"}],
        "packages": [1],
        "cores": None,
    }
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.4}, **wrong)
    assert "Measured on here" in static.render(tmp_path).page


@pytest.mark.parametrize("change", ["gone", "broken", "other"])
def test_a_run_that_has_changed_since_is_left_out(tmp_path: Path, change: str) -> None:
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.4})
    write_run(tmp_path, COMMITS[1], {"fomaml": 0.4})
    table = cells(load_sound(tmp_path))
    run = table.loc[table["commit"] == COMMITS[1], "run"].iloc[0]
    journal = tmp_path / "runs" / f"{run}.jsonl"
    if change == "gone":
        journal.unlink()
    else:
        journal.write_text("" if change == "broken" else json.dumps({"event": "start"}) + "\n")
    (left,) = environments(tmp_path, table)
    assert left["commit"] == COMMITS[0]
