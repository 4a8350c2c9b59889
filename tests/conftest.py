"""Settings and fixtures that all tests share."""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import harness  # sets how many threads there are, before torch is imported anywhere

assert harness

if TYPE_CHECKING:
    from estimators.base.registry import Registry

HEAVIEST = (
    *("test_probes", "test_kills", "test_cluster", "test_compiled", "test_gate"),
    *("test_stores_in_need", "test_check", "test_train_command", "test_runner", "test_asv"),
)
"""Files whose tests begin first, so that no long one is left for the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the built-in estimators: tests put the registry back to what it was.

    Commands that tests interrupt must not inherit that the shell ignores Ctrl-C, as it does for
    what it runs in the background.
    """
    if not hasattr(config, "workerinput"):
        use_session_folder(config)
    from estimators import available

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert available()


def use_session_folder(config: pytest.Config) -> None:
    """Give the session a temporary folder that goes with it, its name short for sockets' sake.

    Folders of sessions that were killed are removed, too. `--basetemp` keeps those of tests.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob("mgt-*"):
        if not psutil.pid_exists(int(folder.name[4:])):
            shutil.rmtree(folder, ignore_errors=True)
    session = root / f"mgt-{os.getpid()}"
    session.mkdir(exist_ok=True)
    # After multiprocessing's own folder in it, which that removes with a priority of -100.
    Finalize(None, shutil.rmtree, (session, True), exitpriority=-200)
    config.option.basetemp = config.option.basetemp or str(session / "p")
    os.environ["TMPDIR"] = tempfile.tempdir = str(session)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(HEAVIEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: worker processes have sockets in it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def _main_module_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit's tests leave the app as the main module, which worker processes would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def _plugins_forgotten() -> Iterator[None]:
    """Forget what a test registers, the plug-in files that it loads here, and their folders."""
    from estimators.base.registry import ESTIMATORS
    from harness.models import MODELS
    from harness.tasks import TASKS

    registries: tuple[Registry[Any], ...] = (ESTIMATORS, MODELS, TASKS)
    before, modules = [dict(each._factories) for each in registries], set(sys.modules)
    path = [*sys.path]
    yield
    sys.path[:] = path
    for registry, factories in zip(registries, before, strict=True):
        registry._factories.clear()
        registry._factories.update(factories)
    for name in set(sys.modules) - modules:
        if re.search(r"_[0-9a-f]{8}$", name):  # as those of files are named
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
