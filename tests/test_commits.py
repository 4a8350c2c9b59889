"""The order of commits: git's, and what stands in where git does not know."""

from pathlib import Path

import pandas as pd
import pytest

from harness.history.commits import commits
from tests.support.repositories import git, three_commits

A, B, C = ("a" * 40, "b" * 40, "c" * 40)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, list[str]]:
    return three_commits(tmp_path)


def test_order_is_that_of_git(repository: tuple[Path, list[str]]) -> None:
    folder, (first, second, third) = repository
    table = commits({third: "2026-04-01", first: "2026-04-03", second: ""}, folder, {})
    assert table["commit"].to_list() == [first, second, third]
    assert table["subject"].to_list() == ["first", "second: ü", "third"]
    assert table["number"].to_list() == table["position"].to_list() == [0, 1, 2]
    assert table["date"].iloc[0] == pd.Timestamp("2026-03-01T10:00", tz="UTC")
    table = commits({first: "", third: ""}, folder / ".git", {})
    assert table["number"].to_list() == [0, 2], "unmeasured commits count"
    assert table["position"].to_list() == [0, 1]
    assert commits({}, folder, {}).empty


def test_commits_that_git_does_not_know_stand_by_their_dates(
    repository: tuple[Path, list[str]],
) -> None:
    folder, (first, second, third) = repository
    started = dict.fromkeys([second, third, first], "2026-05-01T00:00:00+00:00")
    started |= {A: "2026-01-01T00:00:00+00:00", B: "2026-06-01T00:00:00+00:00"}
    started |= {C: "2026-06-02T00:00:00+00:00", "--output=x": "", "HEAD": ""}
    asv = {C: pd.Timestamp("2026-03-01T10:30", tz="UTC")}
    table = commits(started, folder, asv).set_index("commit")
    assert [*table.index] == [A, first, C, second, third, B, "--output=x", "HEAD"]
    assert table.loc[[A, B, C], "subject"].to_list() == ["", "", ""]
    assert table.loc[C, "date"] == asv[C]
    assert table["date"].isna()[A]
    assert table.loc[[A, B, C], "number"].isna().all()
    assert not (folder / "x").exists()


def test_a_branch_that_was_merged_comes_before_the_merge(
    repository: tuple[Path, list[str]],
) -> None:
    folder, (first, second, third) = repository
    git(folder, "checkout", "-q", "-b", "side", first)
    git(folder, "commit", "-q", "--allow-empty", "-m", "aside", date="2026-03-05T10:00:00+0000")
    aside = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", third)
    git(folder, "merge", "-q", "--no-ff", "-m", "merge", "side", date="2026-03-05T11:00:00+0000")
    merge = git(folder, "rev-parse", "HEAD")
    table = commits(dict.fromkeys([merge, aside, third, second, first], ""), folder, {})
    assert table["commit"].to_list() == [first, second, third, aside, merge]


def test_without_git_the_first_run_decides_the_order(
    repository: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (first, _, third) = repository
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", f"{folder.parent}:{folder}")
    for path, place in (
        (None, folder.parent),  # no repository
        (None, folder / "nowhere"),
        (str(folder), folder),  # no git
    ):
        if path:
            monkeypatch.setenv("PATH", path)
        table = commits({third: "2026-01-01T00:00:00Z", first: "2026-01-02T00:00:00Z"}, place, {})
        assert table["commit"].to_list() == [third, first], place
        assert table["date"].isna().all()
