"""What all tests share."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness  # sets how many threads there are, before torch is imported anywhere

assert harness


def pytest_configure() -> None:
    """Has the built-in estimators registered: tests put the registry back to what it was.

    Commands that tests interrupt must not inherit that the shell ignores Ctrl-C, as it does for
    what it runs in the background.
    """
    import estimators.built_in

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    assert estimators.built_in


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: worker processes have sockets in it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def _main_module_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit's tests leave the app as the main module, which worker processes would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def plugins_forgotten() -> Iterator[None]:
    """Forgets the plug-in files that a test loads into this process."""
    from estimators.base.registry import ESTIMATORS

    factories, modules = dict(ESTIMATORS._factories), set(sys.modules)
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(factories)
    for name in set(sys.modules) - modules:
        if name.startswith("faulty"):
            del sys.modules[name]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of image data sets, and an empty cache."""
    from harness.tasks.reading.decoded import decoded

    monkeypatch.setenv("METAGRAD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    decoded.cache_clear()
    yield tmp_path / "data"
    decoded.cache_clear()
