"""Machine and code of runs, in journals of other versions and other people."""

from pathlib import Path
from typing import Any

from reports import static
from reports.tables.details import environments, facts
from reports.tables.snapshot import read
from tests.support.stores import COMMITS, environment, write_run

STARTED = "2026-01-02T03:04:05+00:00"
WRONG: tuple[Any, ...] = (
    *(None, 7, -1.5, "16 GB", True, [], [1], [None], [{"name": "a GPU"}], {}, {"torch": 1}),
)


def test_facts_are_those_of_the_journal() -> None:
    made = environment("c" * 40, changes="0123", devices=["a GPU"], plugins={"mine": "abc"})
    assert facts(made, STARTED) == {
        **{"commit": f"{'c' * 40} (uncommitted changes)", "newest run": STARTED},
        **{"machine": "here", "processor": "some <b>processor</b>, 2 cores"},
        **{"memory": "16.0 GiB", "devices": "cpu, a GPU", "plug-ins": "mine", "system": "Linux"},
        **{"threads": "1", "python": "3.11.7", "torch": "2.6"},
    }
    found = facts({"commit": "", "changes": "", "machine": "here"}, STARTED)
    assert found["commit"] == found["processor"] == found["memory"] == "unknown"
    assert (found["devices"], found["plug-ins"]) == ("cpu", "none")
    # No package takes the place of another fact.
    found = facts(environment("c" * 40, packages={"machine": "9.9", "numpy": "2.0"}), STARTED)
    assert (found["machine"], found["numpy"]) == ("here", "2.0")


def test_values_of_another_kind_are_passed_over() -> None:
    usual = facts(environment("c" * 40), STARTED)
    names = ("processor", "cores", "memory", "devices", "plugins", "system", "threads", "python")
    for name in (*names, "packages"):
        for wrong in WRONG:
            found = facts(environment("c" * 40, **{name: wrong}), STARTED)
            assert found.keys() <= usual.keys(), (name, wrong)
            assert all(isinstance(value, str) for value in found.values()), (name, wrong)
            same = usual.keys() - {name, "plug-ins", "processor", "torch"}
            assert {key: found[key] for key in same} == {key: usual[key] for key in same}


def test_the_report_shows_a_foreign_journal(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "memory": "16 GB",
        "devices": [{"name": "a GPU"}],
        "packages": [1],
        "cores": None,
    }
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.4}, **wrong)
    assert "Measured on here" in static.render(tmp_path).page


def test_each_version_has_the_facts_of_its_newest_run(tmp_path: Path) -> None:
    for commit in COMMITS:
        write_run(tmp_path, commit, {"fomaml": 0.4})
    snapshot = read(tmp_path)
    commits = [facts["commit"] for facts in environments(snapshot, snapshot.cells)]
    assert sorted(commits) == [*COMMITS]
