"""The dashboard without a browser: what each page shows for which choice."""

import asyncio
import math
import re
import threading
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from harness.store.runs import read_run
from reports.pages import dashboard
from reports.tables import snapshot
from reports.tables.snapshot import Snapshot
from tests.support import reproduced
from tests.support.app_pages import APP, FIGURES, PAGES, figures, opened, sound, text
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.stores import COMMITS, DEPTHS, MARKUP, NOTE, train, write_run, write_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    st.cache_resource.clear()
    monkeypatch.setenv("METAGRAD_STORE", str(tmp_path))
    return tmp_path


def test_every_page_shows_the_newest_commit_at_full_depth(store: Path) -> None:
    write_store(store)
    for title in PAGES:
        at = opened(title)
        assert at.title[0].value == title
        assert str(at.sidebar.selectbox(key="commit").value).startswith(COMMITS[1][:8])
        assert at.sidebar.selectbox(key="depth").value == max(DEPTHS)
        assert figures(at) == FIGURES[title], title


@pytest.mark.slow
def test_every_filter_changes_every_page_without_a_complaint(store: Path) -> None:
    write_store(store)
    write_run(store, COMMITS[1], {"maml": 1e-17, "fomaml": 0.2}, machine="elsewhere")
    for title in PAGES:
        at = opened(title)
        for key in ("machine", "commit", "task", "model", "device", "depth"):
            for option in at.sidebar.selectbox(key=key).options:
                sound(at.sidebar.selectbox(key=key).select(option).run())
        for family in at.sidebar.multiselect(key="estimators").options:
            sound(at.sidebar.multiselect(key="estimators").set_value([family]).run())


def test_a_view_is_in_the_address(store: Path) -> None:
    write_store(store)
    commit = COMMITS[0][:8]
    for title in ("Overview", "Cost", "History"):
        at = opened(title, commit=commit, task="sinusoid", depth="2", estimators="fomaml")
        assert at.sidebar.selectbox(key="commit").value == commit
        assert at.sidebar.selectbox(key="depth").value == 2
        assert at.sidebar.multiselect(key="estimators").value == ["fomaml"]
    # What the address names may be gone, and so may a choice.
    at = opened("Bias", commit="12345678", depth="99", estimators="nobody", task="gone")
    assert str(at.sidebar.selectbox(key="commit").value).startswith(COMMITS[1][:8])
    assert at.sidebar.selectbox(key="depth").value == max(DEPTHS)
    assert figures(at) == FIGURES["Bias"]
    at.sidebar.selectbox(key="task").select("quadratic").run()
    at.sidebar.selectbox(key="commit").select_index(1).run()
    assert sound(at).sidebar.selectbox(key="task").value == "sinusoid"


def test_overview_names_an_estimator_within_budgets(store: Path) -> None:
    write_store(store)
    at = opened(task="sinusoid")
    assert "exact" in at.success[0].value
    at.text_input(key="memory").set_value("1 KiB").run()
    sound(at)
    assert at.warning
    assert not at.success
    ranked = at.table[0].value["rank"] != ""
    assert at.table[0].value["beyond budget"][ranked].ne("").all()
    at.text_input(key="memory").set_value("much").run()
    assert "80 KiB" in sound(at).warning[0].value
    at.text_input(key="memory").set_value("").run()
    at.number_input(key="bias").set_value(0.1).run()
    ranking = sound(at).table[0].value
    ranks = [int(rank) for rank in ranking["rank"] if rank]
    assert ranks == [*range(1, len(ranks) + 1)]


def test_any_metric_stands_against_any_other(store: Path) -> None:
    write_store(store)
    at = opened("Trade-offs")
    for key, metric in (("x", "flops"), ("y", "hvps")):
        sound(at.selectbox(key=key).select(metric).run())
        sound(at.toggle(key=f"{key}-log").set_value(False).run())
    for by in ("depth", "model"):
        sound(at.segmented_control(key="by").set_value(by).run())
        assert figures(at) == 1


def test_a_cell_has_a_page(store: Path) -> None:
    write_store(store)
    name = "sinusoid/mlp-40-40/K5/alpha0.01/{}/cpu/float32/seed0/tasks8"
    at = opened("Cell", cell=name.format("imaml(lam=7.0)"))  # which failed
    assert "failed" in at.error[0].value
    assert "<script>" not in at.error[0].value
    codes = [one.value for one in at.code]
    assert "Traceback" in codes
    assert any("metagrad run" in one and "imaml(lam=7.0)" in one for one in codes)
    assert any("metagrad profile" in one for one in codes)
    assert MARKUP not in text(at)
    at = opened("Cell", cell=name.format("imaml(lam=8.0)"))  # disturbed, then late
    assert NOTE in [one.value for one in at.warning]
    assert "not done after 1 s" in at.error[0].value
    assert set(at.table[0].value["metric"]) == {"bias", "HVPs"}
    at = opened("Cell", cell=name.format("fomaml"))
    assert at.selectbox(key="cell").value == name.format("fomaml")
    at.sidebar.selectbox(key="task").select("sinusoid").run()
    at.sidebar.selectbox(key="depth").select(2).run()
    assert "/K2/" in str(sound(at).selectbox(key="cell").value)


def test_history_puts_commits_in_order_and_side_by_side(store: Path) -> None:
    for place, bias in enumerate((0.3, 0.3, 0.6)):
        write_run(store, str(place) * 40, {"fomaml": bias, "maml": 1e-17})
    (store / "asv" / "machine").mkdir(parents=True)
    for number in range(3):  # files that are gone
        (store / "asv" / "machine" / f"{number}.json").symlink_to("gone")
    at = opened("History", task="sinusoid")
    assert figures(at) == 1
    assert len(at.warning) <= 1
    (changed, compared) = at.table[0].value, at.dataframe[0].value
    assert set(changed["commit"]) == {"2" * 8}
    assert set(changed["estimator"]) == {"fomaml"}
    assert set(changed["verdict"]) == {"worse"}
    assert compared.iloc[0]["verdict"] == "worse"
    for option in at.selectbox(key="metric").options:
        sound(at.selectbox(key="metric").select(option).run())
    at.selectbox(key="base").select_index(2).run()
    assert (at.dataframe[0].value["verdict"] == "worse").any()
    at.selectbox(key="head").select_index(1).run()
    assert set(sound(at).dataframe[0].value["verdict"]) <= {"same", "base only", "head only"}


def test_history_shows_kernels_that_pytest_benchmark_has_timed(store: Path) -> None:
    for number in range(6):
        write_run(store, str(number) * 40, {"fomaml": 0.3, "maml": 1e-17})
    assert figures(opened("History", task="sinusoid")) == 1
    for number in range(6):
        timed = of_commit(KERNELS, str(number) * 40, 1.0 + (number > 2), machine="here")
        write(store / "benchmarks" / f"{number}.json", timed)
    (store / "benchmarks" / "broken.json").touch()
    at = opened("History", task="sinusoid")
    assert figures(at) == 2
    assert at.selectbox(key="benchmark").options == ["test_x.test_x"]
    assert "benchmarks/broken.json" in at.warning[0].value.replace("\\", "")
    assert "test_x.test_x" in set(at.dataframe[-1].value["metric"])  # of two commits side by side


def test_uncommitted_changes_have_no_history(store: Path) -> None:
    write_run(store, COMMITS[0], {"fomaml": 0.3}, changes="0123456789ab")
    assert "uncommitted" in opened("History").info[0].value


def test_commits_that_begin_alike_or_are_unknown_stay_apart(store: Path) -> None:
    biases = {"fomaml": 0.1, "maml": 1e-17}
    for last in "01":
        write_run(store, "a" * 39 + last, biases)
    for digit in "12":
        write_run(store, "a" * 40, biases, changes=digit * 12)
        write_run(store, "", biases)
    at = opened("Overview", task="sinusoid")
    assert len(set(at.sidebar.selectbox(key="commit").options)) == 6
    assert at.table[0].value["estimator"].is_unique
    at = opened("History", task="sinusoid", commit="a" * 39 + "0")
    assert at.selectbox(key="base").value == "a" * 39 + "0"


def test_machines_of_one_name_are_not_compared(store: Path) -> None:
    for place in range(2):
        write_run(store, str(place) * 40, {"fomaml": 0.3}, fingerprint="f00d")
        write_run(store, str(place) * 40, {"fomaml": 0.3 + place}, fingerprint="beef")
    at = opened("History", task="sinusoid", machine="here (f00d)")
    assert set(at.dataframe[0].value["verdict"]) == {"same"}
    at = opened("History", task="sinusoid", machine="here (beef)")
    assert at.dataframe[0].value["verdict"].iloc[0] == "worse"


def test_text_of_a_foreign_journal_is_shown_as_it_is(store: Path) -> None:
    picture = "![](http://evil.example/x.png)"
    write_run(store, "![](//a)", {"fomaml": 0.3}, processor=picture, machine=picture)
    for path in (store / "runs").iterdir():
        path.write_text(re.sub(r'"at": "[^"]*"', '"at": "![](http://a.b)"', path.read_text()))
    for title in PAGES:
        at = opened(title)
        shown = [one.value for one in (*at.markdown, *at.metric, *at.header, *at.info)]
        assert not [one for one in shown if "![" in one.replace(r"\!", "")]


def test_data_finds_words(store: Path) -> None:
    write_store(store)
    at = opened("Data", task="sinusoid")
    chosen = at.dataframe[0].value
    assert set(chosen["depth K"]) == {max(DEPTHS)}
    at.toggle(key="every").set_value(True).run()
    whole = sound(at).dataframe[0].value
    assert len(whole) > len(chosen)
    at.text_input(key="search").set_value("FAILED imaml").run()
    found = sound(at).dataframe[0].value
    assert 0 < len(found) < len(whole)
    assert set(found["outcome"]) == {"failed"}
    at.text_input(key="search").set_value("no such thing").run()
    assert sound(at).dataframe[0].value.empty


def test_broken_and_foreign_files_are_plain_warnings(store: Path) -> None:
    write_store(store)
    (store / "runs" / "1-![x](http:x).jsonl").write_text("not JSON\n")
    (store / "runs" / "folder.jsonl").mkdir()
    (store / "runs" / "nowhere.jsonl").symlink_to("gone")
    (store / "runs" / "foreign.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    for title in ("Overview", "History"):
        at = opened(title)
        assert [one for one in at.warning if r"\!\[x\](http\:x)" in one.value]
        assert "Is a directory" in text(at)
        assert "No such file or directory" in text(at)
        assert at.sidebar.selectbox(key="task").value


def test_a_store_without_a_sound_cell_is_shown(store: Path) -> None:
    for broken in (False, True):
        for title in ("Overview", "Bias", "Cell"):
            at = opened(title)
            assert bool(at.warning) == broken
            assert "make bench" in at.info[0].value
            assert not at.selectbox
        (store / "runs").mkdir(exist_ok=True)
        (store / "runs" / "1.jsonl").write_text("not JSON\n")
    write_run(store, COMMITS[0], {})  # in which all has failed
    for title in PAGES:
        assert opened(title).sidebar.selectbox(key="task").value == "sinusoid", title


def test_a_changed_file_is_read_again(store: Path) -> None:
    write_store(store)
    at = opened()
    write_run(store, "c" * 40, {"fomaml": 0.2})
    at.run()
    assert at.sidebar.selectbox(key="commit").options[0].startswith("c" * 8)


def test_the_store_is_read_before_anybody_opens_a_page(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(store)
    taken: list[Path] = []

    def read(path: Path) -> Snapshot:
        taken.append(path)
        return snapshot.read(path)

    async def serve() -> None:
        async with dashboard.lifespan(st.App(APP)):
            pass

    monkeypatch.setattr(dashboard, "read", read)
    asyncio.run(serve())
    assert taken == [store]
    opened()
    assert taken == [store]
    (store / "runs").rename(store / "elsewhere")
    asyncio.run(serve())  # which does not keep the server from telling what is wrong
    assert opened().info


def test_a_store_is_shown_while_it_is_written(store: Path) -> None:
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            write_run(store, COMMITS[0], {"fomaml": 0.2})

    write_run(store, COMMITS[0], {"fomaml": 0.1})
    thread = threading.Thread(target=write)
    thread.start()
    try:
        at = opened()
        for _ in range(10):
            sound(at.run())
    finally:
        over.set()
        thread.join()
    assert not at.warning
    assert all(read_run(path).ended for path in (store / "runs").iterdir())


def difference(at: AppTest) -> float:
    """That of fomaml to exact MAML."""
    (table,) = (one.value for one in at.table if "verdict" in one.value)
    (row,) = table[table["estimator"] == "fomaml"].itertuples(index=False)
    return float(row[1].replace("\\", ""))


def test_accuracy_shows_trainings(store: Path) -> None:
    assert opened("Overview").info
    for seed in range(2):
        train(store, "maml", 0.8, seed)
        train(store, "fomaml", 0.7, seed)
    for _ in range(2):  # without any run, and with some
        at = opened("Accuracy")
        assert figures(at) == 4
        assert difference(at) == -10
        write_store(store)
    # What all are compared to stays, whichever are chosen.
    at = opened("Accuracy", task="sinusoid", estimators="fomaml")
    assert difference(at) == -10
    (store / "trainings" / "x.jsonl").write_text("no JSON\n")
    (store / "trainings" / "y.jsonl").write_text("no JSON\n")
    at = opened("Accuracy", task="sinusoid")
    assert len(at.warning) == 1
    assert figures(at) == 4


def test_accuracy_shows_several_settings_and_what_is_incomplete(store: Path) -> None:
    write_store(store)
    assert "metagrad train" in opened("Accuracy").info[0].value
    for model in ("mlp-100-100", "mlp-256-256-256"):
        train(store, "maml", 0.8, model=model)
    at = opened("Accuracy", task="sinusoid")  # whose filters leave none: others are offered
    (box,) = at.main.selectbox
    assert {name.split(", ")[1] for name in box.options} == {"mlp-100-100", "mlp-256-256-256"}
    assert figures(at) == 4
    train(store, "maml", 0.8)
    train(store, "maml", 0.7, step_size=0.1)
    train(store, "maml", 0.7, step_size=0.2, splits=("test",))
    train(store, "maml", math.nan, step_size=0.3)
    assert figures(opened("Accuracy", task="sinusoid")) == 16


def test_the_papers_figures_are_shown(store: Path) -> None:
    write_store(store)
    assert "metagrad reproduce all" in opened("Reproduction").info[0].value
    reproduced.write_all(store)
    at = opened("Reproduction")
    assert figures(at) == 3 + 1 + 5 + 2 + 4 + 2 + 1 + 3
    assert len(at.table) + len(at.dataframe) == 8 + 5  # five of them beside a paper
