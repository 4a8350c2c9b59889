"""`metagrad regressions`: what got worse at which commit, and the exit code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from estimators.base.errors import OptionError, UserError
from harness.commands.options import console
from harness.commands.regressions import regressions
from harness.store.table import StoreError
from tests.support.histories import cell, write_run
from tests.support.invocation import invoke
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.repositories import git, three_commits
from tests.support.store_runs import fingerprint


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 200)


def report(store: Path, *arguments: object) -> tuple[int, list[str]]:
    """Return the exit code and the lines of standard output, with single spaces."""
    code, out, err = invoke(regressions, "--store", store, *arguments)
    assert err == ""
    return code, [" ".join(line.split()) for line in out.splitlines()]


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
    """Write a run for each commit, with a value for each estimator."""
    for number, values in enumerate(zip(*lines.values(), strict=True)):
        cells = {cell(name): {metric: [one]} for name, one in zip(lines, values, strict=True)}
        write_run(store, f"{number:x}" * 40, cells, at=f"2026-01-{number + 1:02}", **changed)


def test_a_regression_is_listed_with_all_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashes = three_commits(tmp_path)
    monkeypatch.chdir(folder)
    write_run(tmp_path, hashes[0], {cell(): {"flops": [2_093_000.0]}})
    write_run(tmp_path, hashes[2], {cell(): {"flops": [2_593_000.0]}})
    code, (_, line, last) = report(tmp_path)
    assert code == 1
    assert line.split() == [
        *("worse", hashes[2][:8], "third", "here", cell().id, "FLOPs"),
        *("2.09", "M", "2.59", "M", "1.24", "exact", "lasting", "1"),
    ]
    assert last == "Changes over 2 commits: 1 for the worse, 1 lasting."
    assert listed(tmp_path) == [
        {
            **{"verdict": "worse", "commit": hashes[2], "subject": "third", "machine": "here"},
            **{"fingerprint": "f00d", "cell": cell().id, "metric": "flops", "unit": "FLOP"},
            **{"before": 2_093_000.0, "after": 2_593_000.0, "ratio": 2_593_000.0 / 2_093_000.0},
            **{"p": None, "noise": None, "lasting": True, "previous": hashes[0], "unmeasured": 1},
        }
    ]
    # On a branch without the third commit.
    git(folder, "checkout", "-q", hashes[1])
    write_run(tmp_path, hashes[1], {cell(): {"flops": [2_093_000.0]}})
    code, out, err = invoke(regressions, "--store", tmp_path)
    assert (code, out) == (0, "Changes over 2 commits: 0 for the worse, 0 lasting.\n")
    assert err == "metagrad: 1 commits of other branches are left out\n"


def test_changes_that_are_undone_better_or_neither(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7, 5]})
    write_runs(tmp_path, "curvature", {"fomaml": [5, 5, 6]})
    code, (_, line, _) = report(tmp_path)
    assert code == 0
    assert line.startswith("worse ")
    assert "undone" in line
    assert report(tmp_path, "--lasting") == (
        0,
        ["Changes over 3 commits: 1 for the worse, 0 lasting."],
    )
    verdicts = [(row["verdict"], row["commit"][0]) for row in listed(tmp_path, "--all")]
    assert sorted(verdicts) == [("better", "2"), ("other", "2"), ("worse", "1")]
    assert verdicts[-1] == ("worse", "1")  # newest first
    assert report(tmp_path, "--all")[0] == 0


def test_numbers_can_be_told_apart(tmp_path: Path) -> None:
    cases: list[tuple[str, list[float], str]] = [
        ("flops", [2_093_000, 2_093_001], "2093000 FLOP 2093001 FLOP 1.00000048"),
        ("peak_memory", [4096, 8192], "4 KiB 8 KiB 2 "),
        ("peak_memory", [409_600_000, 409_600_001], "409600000 B 409600001 B 1 exact"),
        ("hvps", [1999, 2001], "1,999 2,001 1.001"),
        ("bias", [1e-17, 0.25], "1e-17 0.25 2.5e+16"),
        ("hvps", [0, 5], "0 5 inf"),
    ]
    for number, (metric, values, shown) in enumerate(cases):
        store = tmp_path / str(number)
        write_runs(store, metric, {"maml": values})
        code, lines = report(store)
        assert code == 1
        assert shown in lines[1], metric


def test_metrics_and_cells_can_be_chosen(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {"maml": [5, 7], "binom(order=2)": [8, 9]})
    write_runs(tmp_path, "bias", {"fomaml": [0.1, 0.2], "reptile": [0.1, 0.1]})
    write(tmp_path / "benchmarks" / "x.json", of_commit(KERNELS, "0" * 40, 1.0))
    for words, expected in (
        ("", {"hvps", "bias"}),
        ("--metric hvps", {"hvps"}),
        ("--metric hvps --metric bias", {"hvps", "bias"}),
        ("--only estimator=reptile", set()),
    ):
        assert {row["metric"] for row in listed(tmp_path, *words.split())} == expected, words
    (row,) = listed(tmp_path, "--only", "estimator=binom*,depth>=5")
    assert "binom" in row["cell"]
    assert len(listed(tmp_path, "--only", "estimator=binom*", "--only", "estimator=maml")) == 2
    for option, value, named in (
        ("--metric", "hvp", "did you mean hvps"),
        ("--only", "depth=7", "depth=7 matches nothing; depth is 5"),
        ("--format", "csv", "'csv'.*table or json"),
    ):
        with pytest.raises(OptionError, match=named):
            report(tmp_path, option, value)


def test_machines_are_kept_apart_and_shown_as_they_are_called(tmp_path: Path) -> None:
    odd = "[red]x[/red] [/]"
    write_runs(tmp_path, "hvps", {"maml": [5, 7]}, fingerprint="f00d", machine=odd)
    write_runs(tmp_path, "hvps", {"maml": [5, 5]}, fingerprint="beef", machine="there")
    code, (_, line, _) = report(tmp_path)
    assert code == 1
    assert f" {odd} " in line
    write_runs(tmp_path, "hvps", {"maml": [5, 8]}, fingerprint="beef", machine=odd)
    _, lines = report(tmp_path)
    assert f" {odd} (beef) " in lines[1]
    assert f" {odd} (f00d) " in lines[2]


def test_a_noisy_step_has_a_probability(tmp_path: Path) -> None:
    for number in range(8):  # kernels without runs are enough
        times = of_commit(KERNELS, str(number) * 40, 1.0 + (number > 3))
        write(tmp_path / "benchmarks" / f"{number}.json", times)
    (row,) = listed(tmp_path, "--metric", "test_x.test_x")
    assert (row["commit"], row["ratio"], row["unit"]) == ("4" * 40, 2.0, "s")
    assert 0 < row["p"] < 0.05
    assert row["noise"] > 4
    assert "1 s 2 s" in report(tmp_path)[1][1]


def test_a_store_is_only_read_and_its_unreadable_files_are_left_out(tmp_path: Path) -> None:
    write_runs(tmp_path, "hvps", {name: [5, 7, 9] for name in ("maml", "fomaml", "reptile")})
    bad = [tmp_path / name for name in ("runs/bad.jsonl", "benchmarks/bad.json")]
    for path in bad:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not JSON\n")
    before = fingerprint(tmp_path)
    words = ("--store", tmp_path, "--format", "json")
    first, second = (invoke(regressions, *words) for _ in range(2))
    assert first == second
    code, out, err = first
    assert (code, len(json.loads(out)["changes"])) == (1, 6)
    assert [str(path) in line for path, line in zip(bad, err.splitlines(), strict=True)] == [
        True
    ] * 2
    assert fingerprint(tmp_path) == before


def test_too_few_commits_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no results in"):
        report(tmp_path / "missing")
    for commit, value, count, changed in (
        ("a", 5.0, 1, {"machine": "one"}),
        ("b", 6.0, 2, {"machine": "two"}),
        ("b", 6.0, 2, {"machine": "one", "changes": "0" * 12}),
    ):
        write_run(tmp_path, commit * 40, {cell(): {"hvps": [value]}}, **changed)
        with pytest.raises(UserError, match=f"{count} commits have results"):
            report(tmp_path)
    write_run(tmp_path, "b" * 40, {cell(): {"hvps": [6.0]}}, machine="one")
    assert report(tmp_path)[0] == 1
    with pytest.raises(UserError, match="0 commits have results"):
        report(tmp_path, "--metric", "time")
