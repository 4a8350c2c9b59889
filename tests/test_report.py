"""The static report: whole, escaped, and never half written."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from estimators.base.errors import UserError
from harness.store.table import StoreError
from reports import static
from reports.commands import report
from tests.support.stores import (
    MARKUP,
    NOTE,
    train,
    write_run,
    write_store,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def rendered(store: Path) -> static.Report:
    return static.render(store)


@pytest.fixture(scope="module")
def page(rendered: static.Report) -> str:
    return rendered.page


def test_it_has_a_part_for_every_task_and_depth(page: str) -> None:
    assert "sinusoid, mlp-40-40, cpu of here" in page
    assert "quadratic, linear, cpu of here" in page
    assert page.count("<summary>Depth 5</summary>") == 2
    # Two tasks, each with four figures over depth, ten at each of two depths, and break-even.
    assert page.count('<script type="application/json">') == 2 * (4 + 2 * 10 + 1)
    assert page.count('<a href="#break-even-with-exact-maml">') == 1
    assert "binom(order=3)" in page
    assert "not done after 1 s" in page
    assert NOTE in page
    assert f"{'b' * 40} (uncommitted changes)" in page
    assert "<dt>torch</dt><dd>2.6</dd>" in page


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert not re.search(r"<(link|img|iframe|script[^>]*\bsrc)\b", page.split("</style>")[0])
    assert not re.search(r"\b(src|href)=\"(?!#)", own)
    assert set(re.findall(r"https?://[\w./-]*", own)) <= {
        "https://vega.github.io/schema/vega-lite/v6.4.1.json",
        "http://evil.example/x.png",  # text of a reason
    } | set(re.findall(r"https://vega\.github\.io/schema/[\w./-]*", own))
    assert "default-src 'none'" in page


def test_text_from_results_is_escaped(page: str) -> None:
    assert "alert(" in page
    assert MARKUP not in page
    assert "<script>alert" not in page
    assert "<b>processor" not in page
    opened, closed = len(re.findall(r"<script[ >]", page)), page.count("</script>")
    assert opened == closed


def test_without_a_store_the_old_report_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("old")
    broken = tmp_path / "store"
    (broken / "runs").mkdir(parents=True)
    (broken / "runs" / "99990101T000000-bad.jsonl").write_text("not JSON\n")
    with pytest.raises(StoreError, match="make bench"):
        static.write(broken, out)
    with pytest.raises(StoreError, match="make bench"):
        static.write(tmp_path / "nowhere", out)
    assert (out / "index.html").read_text() == "old"
    assert [one.name for one in out.iterdir()] == ["index.html"]


def test_a_broken_file_is_listed_beside_the_rest(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    (store / "runs" / "99990101T000000-<b>bad.jsonl").write_text("not JSON\n")
    report = static.render(store)
    assert "&lt;b&gt;bad.jsonl: not a run that can be read" in report.page
    assert r"\<b\>bad\.jsonl: not a run that can be read: the first line" in report.summary
    assert "quadratic, linear, cpu of here" in report.page


def test_summary_says_what_to_use_and_what_failed(rendered: static.Report) -> None:
    lines = rendered.summary.splitlines()
    assert lines[0] == f"## Meta-gradient estimators at {'b' * 8} (uncommitted changes)"
    verdicts = [line for line in lines if line.startswith("| `sinusoid, mlp-40-40")]
    assert [line.split(" | ")[1] for line in verdicts] == ["2", "5"]
    assert all("exact" in line for line in verdicts)
    (failed,) = [line for line in lines if line.startswith("| failed")]
    # As code, and so neither markup, nor a picture from elsewhere, nor another column.
    assert "`<script>alert('reason')</script> </script> ![x](http://evil.example/x.png)`" in failed
    assert failed.count(" | ") == 3
    # Whoever draws Markdown finds tables.
    assert len([line for line in lines if line.startswith("|")]) > 10
    for before, line in pairwise(lines):
        if line.startswith("|") and before.startswith("|"):
            assert len(cells(line)) == len(cells(before))
        assert before or not line.startswith("|---")


def test_summary_of_a_foreign_journal_has_no_picture_and_calls_nobody(tmp_path: Path) -> None:
    machine = "here\n\n![x](http://evil.example/x.png) @someone"
    write_run(tmp_path, "![](//a)\n# b", {"fomaml": 0.3}, machine=machine)
    summary = static.render(tmp_path).summary
    outside = re.sub(r"`[^`]*`", "", summary)
    outside = re.sub(r"<summary>.*</summary>", "", outside)
    assert "![" not in outside.replace(r"\!", "")
    assert "@someone" not in outside
    assert summary.splitlines()[0].startswith("## Meta-gradient estimators at ")
    assert not [line for line in summary.splitlines()[1:] if line.startswith(("#", "!"))]


def test_report_shows_commits_and_trainings(tmp_path: Path) -> None:
    for place, bias in enumerate((0.3, 0.6)):
        write_run(tmp_path, str(place) * 40, {"fomaml": bias, "maml": 1e-17})
    page = static.render(tmp_path).page
    assert "Over commits</h3>" in page
    assert "<td>worse</td><td>11111111</td>" in page
    assert 'id="meta-training"' not in page
    train(tmp_path, "maml", 0.5)
    train(tmp_path, "fomaml", 0.4)
    page = static.render(tmp_path).page
    assert 'id="meta-training"' in page
    assert '<td>fomaml</td><td class="number">-10</td>' in page


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)


def test_a_failing_write_leaves_the_old_report(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("old")
    monkeypatch.setattr(static, "render", lambda store: static.Report("a commit", "new", "new", []))
    with pytest.raises(UserError, match="cannot write"):
        static.write(store, tmp_path / "index.html")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        static.write(store, tmp_path)
    assert (tmp_path / "index.html").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["index.html"]


def test_command_says_where_the_report_is_and_what_is_left_out(tmp_path: Path) -> None:
    store, out = write_store(tmp_path / "store"), tmp_path / "out"
    app = typer.Typer()
    app.command()(report)
    for broken in (False, True):
        if broken:
            (store / "runs" / "bad.jsonl").write_text("not JSON\n")
        made = CliRunner().invoke(
            app,
            ["--out", str(out)],
            env={"METAGRAD_STORE": str(store)},
            standalone_mode=False,
        )
        assert made.return_value == int(broken)
        assert str(out / "index.html") in made.stdout
        lines = made.stderr.splitlines()
        assert [str(store / "runs" / "bad.jsonl") in line for line in lines] == [True] * broken
