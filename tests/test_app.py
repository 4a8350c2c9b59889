"""The dashboard without a browser: what it shows for which choice."""

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.stores import COMMITS, DEPTHS, NOTE, write_run, write_store

APP = str(Path(__file__).parent.parent / "app.py")


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    st.cache_data.clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAGRAD_STORE", str(tmp_path))
    return tmp_path


def page() -> AppTest:
    at = AppTest.from_file(APP, default_timeout=30).run()
    assert not at.exception
    return at


def test_an_empty_store_says_what_to_run(store: Path) -> None:
    at = page()
    assert [one.value for one in at.info if "make bench" in one.value]
    assert not at.selectbox


def test_it_opens_on_the_newest_commit_at_full_depth(store: Path) -> None:
    at = page_of(write_store(store))
    assert at.title[0].value == "metagrad-bench"
    assert str(at.sidebar.selectbox(key="version").value).startswith(COMMITS[1])
    assert at.sidebar.selectbox(key="depth").value == max(DEPTHS)
    assert len(at.get("vega_lite_chart") or at.get("arrow_vega_lite_chart")) == 5
    assert "binom(order=3)" in set(at.dataframe[0].value["estimator"])


def page_of(store: Path) -> AppTest:
    del store  # it is in the environment
    return page()


def test_choices_change_what_is_shown(store: Path) -> None:
    at = page_of(write_store(store))
    at.sidebar.selectbox(key="task").select("sinusoid").run()
    assert "not done after 1 s" in set(at.dataframe[0].value["reason"])
    assert NOTE in set(at.dataframe[0].value["notes"])
    at.sidebar.selectbox(key="depth").select(2).run()
    assert at.subheader[0].value == "Cells at depth 2"
    assert "skipped" in set(at.dataframe[0].value["outcome"])
    old = at.sidebar.selectbox(key="version").options[1]
    at.sidebar.selectbox(key="version").select_index(1).run()
    assert old.startswith("aaaaaaaa, ")
    assert "binom(order=1)" not in set(at.dataframe[0].value["estimator"])
    assert not at.exception


def test_a_choice_that_is_gone_falls_back(store: Path) -> None:
    at = page_of(write_store(store))
    at.sidebar.selectbox(key="task").select("quadratic").run()
    at.sidebar.selectbox(key="version").select_index(1).run()
    assert not at.exception
    assert at.sidebar.selectbox(key="task").value == "sinusoid"


def test_a_broken_file_is_one_plain_warning(store: Path) -> None:
    write_store(store)
    (store / "runs" / "1-![x](http:x).jsonl").write_text("not JSON\n")
    at = page()
    assert at.warning
    assert all(r"\!\[x\]\(http\:x\)" in one.value for one in at.warning)
    assert at.dataframe


def test_what_cannot_be_opened_is_one_plain_warning(store: Path) -> None:
    write_store(store)
    (store / "runs" / "folder.jsonl").mkdir()
    (store / "runs" / "nowhere.jsonl").symlink_to("gone")
    at = page()
    assert ["Is a directory" in at.warning[0].value, len(at.warning)] == [True, 2]
    assert "No such file or directory" in at.warning[1].value
    assert at.dataframe


def test_a_store_of_broken_files_alone_says_what_to_run(store: Path) -> None:
    (store / "runs").mkdir()
    (store / "runs" / "1.jsonl").write_text("not JSON\n")
    at = page()
    assert at.warning
    assert "make bench" in at.info[0].value


def test_a_changed_file_is_read_again(store: Path) -> None:
    write_store(store)
    at = page()
    write_run(store, "c" * 40, {"fomaml": 0.2})
    at.run()
    assert at.sidebar.selectbox(key="version").options[0].startswith("c" * 8)
