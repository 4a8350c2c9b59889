"""`metagrad regressions`: what got worse at which commit, and the exit code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from estimators.base.errors import OptionError, UserError
from harness.commands.options import console
from harness.commands.regressions import regressions
from harness.matrix.metrics import Samples
from harness.store.table import StoreError
from tests.support.histories import cell, write_run
from tests.support.invocation import invoke
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.repositories import git, three_commits
from tests.support.store_runs import fingerprint


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the terminal was like when the console was made is not known here."""
    monkeypatch.setattr(console, "_width", 200)


def told(store: Path, *arguments: object) -> tuple[int, list[str]]:
    """Exit code, and the lines of standard output; there is none of standard error."""
    code, out, err = invoke(regressions, "--store", store, *arguments)
    assert err == ""
    return code, out.splitlines()


def listed(store: Path, *arguments: object) -> list[dict[str, Any]]:
    code, out, _ = invoke(regressions, "--store", store, "--format", "json", *arguments)
    document = json.loads(out, parse_constant=pytest.fail)
    assert document["schema"] == 1
    rows: list[dict[str, Any]] = document["changes"]
    assert code == int(any(row["verdict"] == "worse" and row["lasting"] for row in rows))
    return rows


def write_runs(
    store: Path, metric: str, lines: Mapping[str, Sequence[float]], **changed: Any
) -> None:
    """A run for each commit, of estimators."""
    for number, values in enumerate(zip(*lines.values(), strict=True)):
        samples: list[Samples] = [
            {metric: [value, 1.01 * value, 1.02 * value] if metric == "time" else [value]}
            for value in values
        ]
        cells = {cell(name): one for name, one in zip(lines, samples, strict=True)}
        write_run(store, f"{number:x}" * 40, cells, at=f"2026-01-{number + 1:02}", **changed)


def test_what_another_branch_has_made_worse_is_not_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashes = three_commits(tmp_path)
    monkeypatch.chdir(folder)
    for commit, flops in zip(hashes, (2e6, 2e6, 3e6), strict=True):
        write_run(tmp_path, commit, {cell(): {"flops": [flops]}})
    assert told(tmp_path)[0] == 1
    git(folder, "checkout", "-q", hashes[1])
    code, out, err = invoke(regressions, "--store", tmp_path)
    assert (code, err) == (0, "metagrad: 1 commits of other branches are left out\n")
    assert out == "Changes over 2 commits: 0 for the worse, 0 lasting.\n"


def test_a_regression_is_told_with_all_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashes = three_commits(tmp_path)
    monkeypatch.chdir(folder)
    write_run(tmp_path, hashes[0], {cell(): {"flops": [2_093_000.0]}})
    write_run(tmp_path, hashes[2], {cell(): {"flops": [2_593_000.0]}})
    code, lines = told(tmp_path)
    assert code == 1
    assert " ".join(lines[0].split()) == (
        "commit subject machine cell metric before after ratio p / noise since unmeasured"
    )
    assert lines[1].split() == [
        *("worse", hashes[2][:8], "third", "here", cell().id, "FLOPs"),
        *("2.09", "M", "2.59", "M", "1.24", "exact", "lasting", "1"),
    ]
    assert lines[2:] == ["Changes over 2 commits: 1 for the worse, 1 lasting."]
    (row,) = listed(tmp_path)
    assert row == {
        **{"verdict": "worse", "commit": hashes[2], "subject": "third", "machine": "here"},
        **{"fingerprint": "f00d", "cell": cell().id, "metric": "flops", "unit": "FLOP"},
        **{"before": 2_093_000.0, "after": 2_593_000.0, "ratio": 2_593_000.0 / 2_093_000.0},
        **{"p": None, "noise": None, "lasting": True, "previous": hashes[0], "unmeasured": 1},
    }


def test_what_was_made_up_for_is_listed_and_does_not_last(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7, 5]})
    code, lines = told(tmp_path)
    assert code == 0
    assert [line.split()[0] for line in lines[1:-1]] == ["worse"]
    assert "undone" in lines[1]
    assert told(tmp_path, "--lasting") == (
        0,
        ["Changes over 3 commits: 1 for the worse, 0 lasting."],
    )
    verdicts = [(row["verdict"], row["commit"][0]) for row in listed(tmp_path, "--all")]
    assert verdicts == [("better", "2"), ("worse", "1")]  # newest first


def test_what_is_better_or_neither_is_listed_when_asked_for(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 4]})
    write_runs(tmp_path, "curvature", {"fomaml": [5, 6]})
    assert told(tmp_path) == (0, ["Changes over 2 commits: 0 for the worse, 0 lasting."])
    assert {row["verdict"] for row in listed(tmp_path, "--all")} == {"better", "other"}
    assert told(tmp_path, "--all")[0] == 0


def test_a_noisy_step_has_a_probability(tmp_path: Path) -> None:
    write_runs(tmp_path, "time", {"maml": [1.0, 1.01, 1.0, 1.01, 2.0, 2.01, 2.0, 2.01]})
    code, lines = told(tmp_path)
    assert code == 1
    assert "1.01 s 2.02 s" in " ".join(lines[1].split())
    (row,) = listed(tmp_path)
    assert row["commit"] == "4" * 40
    assert 0 < row["p"] < 0.05
    assert row["noise"] > 4


@pytest.mark.parametrize(
    ("metric", "values", "shown"),
    [
        ("flops", [2_093_000, 2_093_001], "2093000 FLOP 2093001 FLOP 1.00000048"),
        ("peak_memory", [4096, 8192], "4 KiB 8 KiB 2 "),
        ("peak_memory", [409_600_000, 409_600_001], "409600000 B 409600001 B 1 exact"),
        ("hvps", [1999, 2001], "1,999 2,001 1.001"),
        ("bias", [1e-17, 0.25], "1e-17 0.25 2.5e+16"),
        ("hvps", [0, 5], "0 5 inf"),
    ],
)
def test_numbers_can_be_told_apart(
    tmp_path: Path, metric: str, values: list[float], shown: str
) -> None:
    write_runs(tmp_path, metric, {"maml": values})
    code, lines = told(tmp_path)
    assert code == 1
    assert shown in " ".join(lines[1].split())


def test_metrics_can_be_chosen(tmp_path: Path) -> None:
    for number in range(2):
        samples: Samples = {"hvps": [5.0 + number], "flops": [7.0], "bias": [0.1 * (1 + number)]}
        write_run(tmp_path, str(number) * 40, {cell(): samples}, at=f"2026-01-0{number + 1}")
    assert {row["metric"] for row in listed(tmp_path)} == {"hvps", "bias"}
    assert {row["metric"] for row in listed(tmp_path, "--metric", "hvps")} == {"hvps"}
    both = listed(tmp_path, "--metric", "hvps", "--metric", "bias")
    assert {row["metric"] for row in both} == {"hvps", "bias"}
    assert told(tmp_path, "--metric", "flops")[0] == 0
    with pytest.raises(OptionError, match=r"unknown metric 'hvp'; did you mean hvps\?"):
        told(tmp_path, "--metric", "hvp")


def test_cells_can_be_chosen(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7], "binom(order=2)": [8, 9]})
    write(tmp_path / "benchmarks" / "x.json", of_commit(KERNELS, "0" * 40, 1.0))
    (row,) = listed(tmp_path, "--only", "estimator=binom*,depth>=5")
    assert "binom" in row["cell"]
    assert len(listed(tmp_path, "--only", "estimator=binom*", "--only", "estimator=maml")) == 2
    with pytest.raises(OptionError, match="--only depth=7 matches nothing; depth is 5"):
        told(tmp_path, "--only", "depth=7")


def test_machines_are_told_apart(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7]}, fingerprint="f00d")
    write_runs(tmp_path, "hvps", {"maml": [5, 5]}, fingerprint="beef", machine="there")
    code, lines = told(tmp_path)
    assert (code, len(lines)) == (1, 3)
    assert " here " in lines[1]
    write_runs(tmp_path, "hvps", {"maml": [5, 8]}, fingerprint="beef")
    _, lines = told(tmp_path)
    assert " here (beef) " in lines[1]
    assert " here (f00d) " in lines[2]


def test_text_from_elsewhere_is_printed_as_it_is(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7]}, machine="[red]x[/red] [/]")
    assert "[red]x[/red] [/]" in told(tmp_path)[1][1]


def test_kernels_without_runs_are_enough(tmp_path: Path) -> None:
    for number in range(6):
        found = of_commit(KERNELS, str(number) * 40, 1.0 + (number > 2))
        write(tmp_path / "benchmarks" / f"{number}.json", found)
    (row,) = listed(tmp_path, "--metric", "test_x.test_x")
    assert (row["commit"], row["ratio"], row["unit"]) == ("3" * 40, 2.0, "s")
    assert any("1 s 2 s" in " ".join(line.split()) for line in told(tmp_path)[1])


def test_the_same_store_is_told_in_the_same_words(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {name: [5, 7, 9] for name in ("maml", "fomaml", "reptile")})
    before = fingerprint(tmp_path)
    outputs = {invoke(regressions, "--store", tmp_path, "--all")[1] for _ in range(2)}
    assert len(outputs) == 1
    assert listed(tmp_path) == listed(tmp_path)
    assert fingerprint(tmp_path) == before


def test_unreadable_files_are_told_and_left_out(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7]})
    bad = [tmp_path / name for name in ("runs/bad.jsonl", "benchmarks/bad.json")]
    for path in bad:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not JSON\n")
    code, out, err = invoke(regressions, "--store", tmp_path, "--format", "json")
    assert (code, len(json.loads(out)["changes"])) == (1, 1)
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("metagrad: ") for line in lines)
    assert all(line.endswith("; it is left out") for line in lines)


NOTHING = "at two commits on one machine; {} commits have results"


def test_too_little_to_tell_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no results in"):
        told(tmp_path / "missing")
    write_run(tmp_path, "a" * 40, {cell(): {"hvps": [5.0]}}, machine="one")
    with pytest.raises(UserError, match=NOTHING.format(1)):
        told(tmp_path)
    write_run(tmp_path, "b" * 40, {cell(): {"hvps": [6.0]}}, machine="two")
    with pytest.raises(UserError, match=NOTHING.format(2)):
        told(tmp_path)
    write_run(tmp_path, "b" * 40, {cell(): {"hvps": [6.0]}}, machine="one", changes="0" * 12)
    with pytest.raises(UserError, match=NOTHING.format(2)):
        told(tmp_path)
    write_run(tmp_path, "b" * 40, {cell(): {"hvps": [6.0]}}, machine="one")
    assert told(tmp_path)[0] == 1
    with pytest.raises(UserError, match=NOTHING.format(0)):
        told(tmp_path, "--metric", "time")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'csv'.*table or json"):
        told(tmp_path, "--format", "csv")
