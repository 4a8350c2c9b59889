"""Plug-ins of several files: what lies beside a file is found, and nothing else is taken for it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS
from harness.running.processes import Limits, run_in_worker
from harness.support.plugins import load_plugins

PLUGIN = '''
from dataclasses import dataclass

from estimators import Estimator, register
{imports}

@register("{name}")
@dataclass(frozen=True)
class Mine(Estimator):
    """One of mine."""

    def estimate(self, problem, params):
        {inside}
        return FACTOR
'''
LIMITS = Limits(60.0, float("inf"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("beside", "mine"):
            del sys.modules[name]


def write(path: str, name: str = "", imports: str = "", inside: str = "pass") -> str:
    """Write a plug-in that registers an estimator of a name, or else a module with a number."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = PLUGIN.format(name=name, imports=imports, inside=inside)
    file.write_text(text if name else f"FACTOR = {len(path)}\n", encoding="utf-8")
    return path


def estimate(name: str) -> object:
    return ESTIMATORS.create(name).estimate(None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["beside.py", "beside/__init__.py", "beside/x.py"])
def test_a_file_finds_what_lies_beside_it_wherever_it_is_named(
    path: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = write(f"deep/{path}")
    module = "beside.x" if path == "beside/x.py" else "beside"
    write("deep/mine.py", "at-once", f"from {module} import FACTOR")
    write("deep/late.py", "late", inside=f"from {module} import FACTOR")
    plugins = load_plugins(["deep/mine.py", "deep/late.py"])
    assert estimate("at-once") == estimate("late") == len(helper)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert load_plugins(plugins) == plugins


def test_worker_processes_find_it_too(folder: Path) -> None:
    helper = write("deep/beside.py")
    write("deep/mine.py", "mine", inside="from beside import FACTOR")
    plugins = load_plugins(["deep/mine.py"])
    result = run_in_worker(estimate, "mine", limits=LIMITS, plugins=plugins)
    assert result.value == len(helper), result.outcome


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("helper", ["beside.py", "beside/__init__.py", "beside/x.py"])
@pytest.mark.parametrize("first", ["one/mine.py", "mine"])
@pytest.mark.parametrize("turned", [True, False])
def test_the_helper_of_another_plugin_is_not_taken(
    turned: bool, first: str, helper: str, inside: bool
) -> None:
    code = f"from {'beside.x' if helper == 'beside/x.py' else 'beside'} import FACTOR"
    where = {"inside" if inside else "imports": code}
    for number, place in enumerate(("./", "one/", "two/")):
        write(place + helper)
        write(f"{place}mine.py", f"mine-{number}", **where)
    plugins = [first, "two/mine.py"]
    with pytest.raises(OptionError, match=rf"--import {plugins[not turned]}: .*hidden"):
        load_plugins(plugins[:: -1 if turned else 1])


def test_a_module_of_the_name_of_one_beside_another_plugin_is_not_taken() -> None:
    for number, place in enumerate(("one", ".")):
        write(f"{place}/mine.py", f"mine-{number}")
        write(f"{place}/first.py", f"first-{number}")
    with pytest.raises(OptionError, match=r"--import mine: .*hidden"):
        load_plugins(["one/first.py", "mine"])


def test_modules_of_a_package_are_held_apart_too() -> None:
    write("one/beside.py")
    write("one/mine.py", "one", "from beside import FACTOR")
    write("beside.py")
    write("mine/inner.py", "two", "from beside import FACTOR")
    with pytest.raises(OptionError, match=r"--import mine.inner: .*hidden"):
        load_plugins(["one/mine.py", "mine.inner"])


def test_helpers_of_one_name_that_are_not_imported_do_not_matter() -> None:
    for number, place in enumerate(("one", "two")):
        write(f"{place}/beside.py")
        write(f"{place}/mine.py", f"mine-{number}", imports="FACTOR = 1")
    load_plugins(["one/mine.py", "two/mine.py"])


def test_what_lies_beside_a_plugin_hides_nothing_of_others() -> None:
    for name in ("statistics.py", "estimators.py", "torch.py"):
        Path(name).write_text("raise SystemExit", encoding="utf-8")
    write("mine.py", "mine", "import statistics; from estimators import create; FACTOR = 1")
    load_plugins(["mine.py"])
    write("yours.py", "yours", "import torch")  # which of the two is meant?
    with pytest.raises(OptionError, match="hidden"):
        load_plugins(["yours.py"])


def test_a_folder_of_data_is_not_taken_for_a_package_of_its_name() -> None:
    Path("numpy").mkdir()
    write("mine.py", "mine", "import numpy; FACTOR = 1")
    load_plugins(["mine.py"])


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"register(", "SyntaxError"),
        (b"\n1 / 0", "line 2: cannot be imported (ZeroDivisionError"),
        (b"import nowhere_at_all", "nowhere_at_all"),
        (b"from . import beside", "relative import"),
        (b"raise SystemExit(3)", "SystemExit: 3"),
        (b"x = '\xe9'", "SyntaxError"),
        (b"\0", "null bytes"),
        (b"from estimators import register\nregister('maml')(int)", "line 2: cannot be imported ("),
        (b"from harness.tasks import TASKS\nTASKS.register('sinusoid')", "registered already"),
        (b"from harness.models import MODELS\nMODELS.register('linear')", "registered already"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_told_in_one_line(content: bytes, fact: str) -> None:
    Path("broken.py").write_bytes(content)
    with pytest.raises(OptionError) as raised:
        load_plugins(["broken.py"])
    assert str(raised.value).startswith("--import broken.py")
    assert fact in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["nowhere.py", "a-folder.py", "", "nowhere", "./x", "a/b", "x."])
def test_a_plugin_that_is_not_there_is_told_in_one_line(name: str) -> None:
    Path("a-folder.py").mkdir()
    with pytest.raises(OptionError, match="--import") as raised:
        load_plugins([name])
    assert "\n" not in str(raised.value)


def test_a_plugin_may_change_the_working_folder(folder: Path) -> None:
    (folder / "other").mkdir()
    write("beside.py")
    write("mine.py", "mine", f"from beside import FACTOR; import os; os.chdir('{folder}/other')")
    plugins = load_plugins(["mine.py"])
    assert Path.cwd() == folder / "other"
    result = run_in_worker(os.getcwd, limits=LIMITS, plugins=plugins)
    assert result.outcome.reason == ""
