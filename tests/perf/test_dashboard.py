"""How long readers wait, with a store of 100,000 measurements over 200 commits."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from streamlit.testing.v1 import AppTest

from reports import static
from reports.tables.snapshot import read
from tests.support.large_store import write_large_store

pytestmark = pytest.mark.slow

APP = str(Path(__file__).parents[2] / "app.py")


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without timing, the smallest will do: then these are tests that all of it works.
    # Side by side with other tests nothing is timed either.
    timed = not (
        request.config.getoption("benchmark_disable") or hasattr(request.config, "workerinput")
    )
    folder = tmp_path_factory.mktemp("store")
    return write_large_store(folder) if timed else write_large_store(folder, commits=3)


def opened() -> AppTest:
    at = AppTest.from_file(APP, default_timeout=120).run()
    assert not at.exception
    return at


def test_store_is_read(benchmark: BenchmarkFixture, store: Path) -> None:
    snapshot = benchmark.pedantic(read, (store,), rounds=5)  # type: ignore[no-untyped-call]
    assert not snapshot.problems


def test_filter_changes(
    benchmark: BenchmarkFixture, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAGRAD_STORE", str(store))
    at = opened()
    tasks = at.sidebar.selectbox(key="task").options

    def change() -> None:
        tasks.append(tasks.pop(0))
        at.sidebar.selectbox(key="task").select(tasks[0]).run()

    benchmark.pedantic(change, rounds=10)  # type: ignore[no-untyped-call]
    assert not at.exception


def test_report_is_written(benchmark: BenchmarkFixture, store: Path, tmp_path: Path) -> None:
    files, _ = benchmark.pedantic(static.write, (store, tmp_path), rounds=3)  # type: ignore[no-untyped-call]
    assert all(path.exists() for path in files)
