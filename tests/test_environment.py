"""Facts on the code of a run and its versions."""

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from estimators.base.registry import Registry
from harness.environment import code_state, environment
from harness.environment.code import checkout, plugins, source
from harness.support.plugins import load_plugins
from tests.support.commands import COMMAND, TINY, Command, estimators, events, journals
from tests.support.repositories import git, write


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit, to work in."""
    folder = tmp_path / "checkout"
    write(folder, {"own.py": "1", "deep/more.py": "2", ".gitignore": "ignored/\n"})
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ASV_COMMIT", raising=False)
    return folder


def test_any_change_makes_another_state(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = {"commit": git(repository, "rev-parse", "HEAD"), "changes": ""}
    write(repository, {"ignored/large.bin": "x"})
    assert checkout() == clean

    def change(name: str, text: str) -> str:
        write(repository, {name: text})
        return checkout()["changes"]

    seen = [change("own.py", "edited"), change("own.py", "edited again")]
    seen += [change("a folder/ü.py", "a"), change("a folder/ü.py", "b")]
    (repository / "deep/more.py").unlink()
    seen.append(checkout()["changes"])
    assert len(set(seen)) == 5
    assert all(len(digest) == 12 for digest in seen)
    with monkeypatch.context() as patch:
        patch.chdir(repository / "deep")
        assert checkout()["changes"] == seen[-1]
    git(repository, "add", "-A")
    assert checkout()["changes"] == seen[-1], "staging changes no file"
    monkeypatch.setenv("ASV_COMMIT", "f" * 40)
    assert checkout() == {"commit": "f" * 40, "changes": ""}
    monkeypatch.delenv("ASV_COMMIT")
    git(repository, "reset", "-q", "--hard")
    assert checkout() == clean


def test_store_is_no_change(repository: Path, tmp_path: Path) -> None:
    for store in ("out", "deep/out [1]", "out:2"):
        write(repository, {f"{store}/runs/a.jsonl": "{}"})
        assert checkout()["changes"], store
        assert not checkout(Path(store))["changes"], store
        assert not checkout(repository / store)["changes"], store
        write(repository, {"own.py": "edited"})
        edited = checkout(Path(store))["changes"]
        write(repository, {f"{store}/runs/a.jsonl": "{}{}"})
        assert checkout(Path(store))["changes"] == edited != "", store
        git(repository, "clean", "-fdq")
        git(repository, "checkout", "-q", ".")
    write(repository, {"runs/a.jsonl": "{}"})
    assert not checkout(Path())["changes"], "the checkout itself"
    assert checkout(tmp_path / "elsewhere")["changes"]
    write(repository, {"own.py": "edited"})
    assert checkout(Path())["changes"]


def test_no_commit_is_known(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"commit": "", "changes": ""}
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert checkout() == nothing
    git(empty, "init", "-q")
    assert checkout() == nothing, "no commit yet"
    monkeypatch.chdir(repository)
    (repository / ".git/index").write_bytes(b"broken")
    assert checkout()["changes"] == "unknown"
    monkeypatch.setenv("PATH", str(empty))
    assert checkout() == nothing, "no git"


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported is forgotten at the end."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


def of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_named_plugins_are_known_by_their_source(importable: Path) -> None:
    write(importable, {"mine.py": "a = 1\n", "pack_of_two/__init__.py": "", "pack_of_two/b.py": ""})
    names = (str(importable / "mine.py"), "mine", "pack_of_two", "not_there_at_all")
    first = plugins(names)
    assert first["mine"] == of("a = 1\n"), "one file, named in two ways"
    assert "pack_of_two" in first
    assert not first.keys() & {"not_there_at_all", names[0]}
    load_plugins(names[:2])
    assert plugins(names) == first, "imported or not"
    write(importable, {"mine.py": "a = 2\n", "pack_of_two/b.py": "2"})
    second = plugins(names)
    assert second["mine"] == of("a = 2\n")
    assert second["pack_of_two"] != first["pack_of_two"]
    write(importable, {"another/mine.py": "a = 2\n"})
    assert plugins([*names, str(importable / "another/mine.py")])["mine"] != second["mine"]


def test_imports_of_plugins_are_known(importable: Path) -> None:
    files = {
        "plug.py": "import helpers.deep, installed_one, json, lies\n",
        "helpers/__init__.py": "0",
        "helpers/deep.py": "1",
        "helpers/unused.py": "2",
        "site-packages/installed_one.py": "3",
        "lies.py": "__file__ = __spec__ = 'nowhere'",
    }
    write(importable, files)
    sys.path.append(str(importable / "site-packages"))
    before = plugins([])
    load_plugins([str(importable / "plug.py")])

    def added() -> dict[str, str]:
        return dict(plugins([]).items() - before.items())

    expected = {"plug": of(files["plug.py"]), "helpers": of("0"), "helpers.deep": of("1")}
    assert added() == expected
    assert added() == expected, "it stays until something else is imported"
    assert list(plugins([])) == sorted(plugins([]))
    write(importable, {"helpers/deep.py": "11", "helpers/unused.py": "22"})
    assert added() == expected | {"helpers.deep": of("11")}
    (importable / "helpers/deep.py").unlink()
    assert added().keys() == expected.keys() - {"helpers.deep"}


def test_project_and_its_packages_are_no_plugins() -> None:
    """In a process as users have it: here others may have been imported by other tests."""
    done = subprocess.run([COMMAND, "doctor", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["plugins"] == {}


def test_editable_install_that_an_entry_point_loads_is_known(importable: Path) -> None:
    about = "site-packages/theirs-1.0.dist-info"
    write(
        importable,
        {
            "src/theirs/__init__.py": "from theirs.core import make\n",
            "src/theirs/core.py": "def make(): return 1\n",
            f"{about}/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n",
            f"{about}/entry_points.txt": "[metagrad.estimators]\ntheirs = theirs:make\n",
        },
    )
    # As a .pth file in site-packages does it.
    sys.path += [str(importable / "site-packages"), str(importable / "src")]
    assert Registry[int]("estimator", "metagrad.estimators").create("theirs") == 1
    first = environment()
    assert first["packages"]["theirs"] == "1.0"
    assert first["plugins"].items() >= {
        ("theirs", of("from theirs.core import make\n")),
        ("theirs.core", of("def make(): return 1\n")),
    }
    write(importable, {"src/theirs/core.py": "def make(): return 2\n"})
    assert code_state(environment()) != code_state(first)


def test_source_is_that_of_the_packages_that_are_imported(tmp_path: Path) -> None:
    """As in asv's environments: installed elsewhere, and run within the checkout."""
    root = Path(harness.__file__).parents[1]
    for name in ("estimators", "harness"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / name, tmp_path / "site-packages" / name, ignore=ignored)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import harness.environment.code as code\n"
        "folder = Path(sys.argv[1])\n"
        "facts = [code.__file__, code.plugins([]), code.source()]\n"
        "cache = folder / 'harness/tasks/__pycache__'\n"
        "cache.mkdir(exist_ok=True)\n"
        "(cache / 'a.cpython-311.pyc.140').write_text('half a file')\n"
        "assert code.source() == facts[-1]\n"
        "for name in ('estimators/a.py', 'harness/matrix/presets.toml', 'harness/tasks/b.py'):\n"
        "    with (folder / name).open('a') as file:\n"
        "        file.write('# edited')\n"
        "    facts.append(code.source())\n"
        "import json; print(json.dumps(facts))\n"
    )
    copy = tmp_path / "site-packages"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, copy],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, found, *sources = json.loads(done.stdout)
    assert Path(file).is_relative_to(copy)
    assert found == {}
    assert len(set(sources)) == 4


def test_killed_run_goes_on_unless_code_that_runs_has_changed(repository: Path) -> None:
    """With a log in the checkout, another commit, and then another helper of a plug-in."""
    write(repository, {"plug.py": "import helper\n", "helper.py": "one = 1\n"})
    endless = (*TINY, "--depth", "1", "--import", "plug", *estimators("dawdles(seconds=100)"))

    def begun() -> list[list[dict[str, Any]]]:
        """How each run was begun, and gone on with."""
        runs = [events(path) for path in journals(repository / "results")]
        return [[event for event in run if "environment" in event] for run in runs]

    def kill_another() -> None:
        before = sum(map(len, begun()))
        with Command(repository, *endless) as command:
            command.wait_for(lambda: sum(map(len, begun())) > before)
            command.send(signal.SIGKILL)

    kill_another()
    git(repository, "commit", "-q", "--allow-empty", "-m", "second")
    write(repository, {"README.md": "edited", "log.txt": "one more line"})
    kill_another()
    ((start, resume),) = begun()
    assert [start["event"], resume["event"]] == ["start", "resume"]
    made_with = [start["environment"], resume["environment"]]
    for differs in ("commit", "changes"):
        assert made_with[0][differs] != made_with[1][differs]
    assert made_with[0]["plugins"] == made_with[1]["plugins"]
    assert made_with[0]["plugins"].keys() == {"faulty", "plug", "helper"}

    write(repository, {"helper.py": "one = 2\n"})
    kill_another()
    kinds = Counter(tuple(event["event"] for event in run) for run in begun())
    assert kinds == Counter([("start", "resume"), ("start",)])


def test_environment_is_json_and_keeps_its_fields(repository: Path) -> None:
    known = environment(repository / "results", plugins=["own.py"])
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["commit"] == git(repository, "rev-parse", "HEAD")
    assert known["torch"]["version"] == torch.__version__
    assert known["threading"]["within_an_operation"] == torch.get_num_threads()
    assert known["machine"] == platform.node()
    assert known["variables"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert known["plugins"]["own"] == of("1")
    assert {"metagrad-bench", "torch", "numpy", "scipy", "psutil"} <= set(known["packages"])
    assert "ruff" not in known["packages"], "an extra"
    assert torch.__version__.startswith(known["packages"]["torch"])  # PyPI leaves out "+cu132"


def test_states_and_fingerprints_stay_until_something_changes(repository: Path) -> None:
    first, second = environment(), environment()
    assert first["fingerprint"] == second["fingerprint"]
    assert code_state(first) == code_state(second)
    write(repository, {"log.txt": "a line"})
    logged = environment()
    assert logged["changes"] != first["changes"]
    assert code_state(logged) == code_state(first)
    named = [environment(plugins=["own.py"])]
    write(repository, {"own.py": "2"})
    named.append(environment(plugins=["own.py"]))
    assert len({code_state(known) for known in (first, *named)}) == 3
    assert named[1]["fingerprint"] == first["fingerprint"]


def test_code_state_is_made_of_what_decides() -> None:
    known = environment()
    decides: dict[str, Any] = {
        "source": "0123456789ab",
        "plugins": {"mine": "0123456789ab"},
        "packages": {"torch": "1.0"},
        "python": "3.99.0",
        "torch": {"version": "1.0"},
        "threads": "7",
        "threading": {"within_an_operation": 7},
        "gpus": [{"name": "GPU", "driver": "580.159.03"}],
    }
    does_not: dict[str, Any] = {
        "commit": "a" * 40,
        "changes": "0123456789ab",
        "machine": "elsewhere",
        "moment": {"load": [9.0, 9.0, 9.0]},
        "cpu": {"governor": "powersave"},
    }
    for field, value in (decides | does_not).items():
        differs = code_state(known | {field: value}) != code_state(known)
        assert differs == (field in decides), field
    later = {"gpus": [{"name": "GPU", "driver": "580.159.04"}]}
    assert code_state(known | later) == code_state(known | {"gpus": decides["gpus"]})
    without = {"commit": "", "changes": "", "packages": {"metagrad-bench": "0.1.0"}}
    states = {
        code_state({}),
        code_state(without),
        code_state(without | {"source": source()}),
        code_state(without | {"plugins": {"mine": "0123456789ab"}}),
    }
    assert len(states) == 4
