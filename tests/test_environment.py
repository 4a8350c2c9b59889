"""What a run says of the code and the machine that it was made with."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import harness
from estimators.registry import Registry
from harness.environment import code_state, environment, fingerprint
from harness.environment.cgroups import limits, throttled
from harness.environment.code import checkout, packages, plugins, source
from harness.environment.gpus import gpus, visible
from harness.environment.moment import moment
from harness.environment.processor import model, overheated, processor
from harness.environment.steadiness import steadiness
from harness.plugins import load_plugins
from tests.commands import COMMAND, TINY, Command, estimators, events, journals

ALWAYS = {
    *("commit", "changes", "machine", "system", "processor", "cores", "memory", "python"),
    *("threads", "packages", "devices"),
}
GPU = "0, GPU-11aa, NVIDIA H200, 580.159.03, 143771, 345, 1980, 0, 700.00, 0x0000000000000001\n"
HOT = "1, GPU-22bb, NVIDIA H200, 580.159.03, 143771, 1200, 1980, 98, [N/A], 0x0000000000000044\n"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


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


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program `nvidia-smi` first in the path, and lets torch be one that has CUDA."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return install


def answer(text: str, knows: str = "clocks_event_reasons") -> str:
    return f"case $1 in *{knows}*) printf '{text}' ;; *) exit 2 ;; esac"


def test_clean_checkout_has_no_changes(repository: Path) -> None:
    write(repository, {"ignored/large.bin": "x"})
    assert checkout() == {"commit": git(repository, "rev-parse", "HEAD"), "changes": ""}


def test_any_change_makes_a_state_of_its_own(repository: Path) -> None:
    def change(name: str, text: str) -> str:
        write(repository, {name: text})
        return checkout()["changes"]

    seen = [change("own.py", "edited"), change("own.py", "edited again")]
    seen += [change("a folder/ü.py", "a"), change("a folder/ü.py", "b")]
    (repository / "deep/more.py").unlink()
    seen.append(checkout()["changes"])
    assert len(set(seen)) == 5
    assert all(len(digest) == 12 for digest in seen)
    git(repository, "add", "-A")
    assert checkout()["changes"] == seen[-1], "staging changes no file"
    git(repository, "reset", "-q", "--hard")
    assert checkout()["changes"] == ""


def test_changes_are_the_same_from_every_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repository, {"untracked.py": "1"})
    changes = checkout()["changes"]
    monkeypatch.chdir(repository / "deep")
    assert checkout()["changes"] == changes != ""


@pytest.mark.parametrize("store", ["out", "deep/out [1]", "out:2"])
def test_store_is_no_change(repository: Path, store: str) -> None:
    write(repository, {f"{store}/runs/a.jsonl": "{}"})
    assert checkout()["changes"]
    assert not checkout(Path(store))["changes"]
    assert not checkout(repository / store)["changes"]
    write(repository, {"own.py": "edited"})
    edited = checkout(Path(store))["changes"]
    write(repository, {f"{store}/runs/a.jsonl": "{}{}"})
    assert checkout(Path(store))["changes"] == edited != ""


def test_store_may_be_elsewhere_or_the_checkout_itself(repository: Path, tmp_path: Path) -> None:
    write(repository, {"runs/a.jsonl": "{}"})
    assert not checkout(Path())["changes"]
    assert checkout(tmp_path / "elsewhere")["changes"]
    write(repository, {"own.py": "edited"})
    assert checkout(Path())["changes"]


def test_commit_of_asv_counts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repository, {"own.py": "edited"})
    monkeypatch.setenv("ASV_COMMIT", "f" * 40)
    assert checkout() == {"commit": "f" * 40, "changes": ""}


def test_no_commit_is_told_as_none(
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


def test_named_plugins_are_told_by_their_source(importable: Path) -> None:
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


def test_what_plugins_import_is_told(importable: Path) -> None:
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


def test_editable_install_that_an_entry_point_loads_is_told(importable: Path) -> None:
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
        "told = [code.__file__, code.plugins([]), code.source()]\n"
        "cache = folder / 'harness/tasks/__pycache__'\n"
        "cache.mkdir(exist_ok=True)\n"
        "(cache / 'a.cpython-311.pyc.140').write_text('half a file')\n"
        "assert code.source() == told[-1]\n"
        "for name in ('estimators/misfit.py', 'harness/presets.toml', 'harness/tasks/new.py'):\n"
        "    with (folder / name).open('a') as file:\n"
        "        file.write('# edited')\n"
        "    told.append(code.source())\n"
        "import json; print(json.dumps(told))\n"
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


def test_packages_are_those_required() -> None:
    found = packages()
    assert {"metagrad-bench", "torch", "numpy", "scipy", "psutil"} <= set(found)
    assert "ruff" not in found, "an extra"
    assert found["torch"] == torch.__version__


def test_environment_is_json_and_keeps_its_fields(repository: Path) -> None:
    known = environment(repository / "results", plugins=["own.py"])
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert set(known) >= ALWAYS
    assert known["commit"] == git(repository, "rev-parse", "HEAD")
    assert known["torch"]["version"] == torch.__version__
    assert known["threading"]["within_an_operation"] == torch.get_num_threads()
    assert known["variables"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert known["plugins"]["own"] == of("1")


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


@pytest.mark.parametrize(
    ("field", "value", "decides"),
    [
        ("commit", "a" * 40, False),
        ("changes", "0123456789ab", False),
        ("source", "0123456789ab", True),
        ("plugins", {"mine": "0123456789ab"}, True),
        ("packages", {"torch": "1.0"}, True),
        ("python", "3.99.0", True),
        ("torch", {"version": "1.0"}, True),
        ("threads", "7", True),
        ("threading", {"within_an_operation": 7}, True),
        ("gpus", [{"name": "GPU", "driver": "1.0"}], True),
        ("machine", "elsewhere", False),
        ("moment", {"load": [9.0, 9.0, 9.0]}, False),
        ("cpu", {"governor": "powersave"}, False),
    ],
)
def test_code_state_is_made_of_what_decides(field: str, value: Any, decides: bool) -> None:
    known = environment()
    assert (code_state(known | {field: value}) != code_state(known)) is decides


def test_code_state_is_defined_without_a_commit() -> None:
    without = {"commit": "", "changes": "", "packages": {"metagrad-bench": "0.1.0"}}
    states = {
        code_state({}),
        code_state(without),
        code_state(without | {"source": source()}),
        code_state(without | {"plugins": {"mine": "0123456789ab"}}),
    }
    assert len(states) == 4


def test_fingerprint_tells_machines_apart(tmp_path: Path) -> None:
    root = write(tmp_path, {"etc/machine-id": "1" * 32})
    here = fingerprint("EPYC", 2, 4, 23 * 2**30 + 1, [], root)
    assert here == fingerprint("EPYC", 2, 4, 24 * 2**30, [], root), "another kernel's share"
    others = [
        fingerprint("Xeon", 2, 4, 24 * 2**30, [], root),
        fingerprint("EPYC", 4, 4, 24 * 2**30, [], root),
        fingerprint("EPYC", 2, 4, 32 * 2**30, [], root),
        fingerprint("EPYC", 2, 4, 24 * 2**30, [{"name": "NVIDIA H200"}], root),
        fingerprint("EPYC", 2, 4, 24 * 2**30, [], tmp_path / "no identity"),
    ]
    assert len({here, *others}) == 6
    assert "1" * 12 not in here, "the identity itself is confidential"


def test_processor_of_a_workstation(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu vme\n\nx: y\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
            f"{cpu}/cpu0/cpufreq/scaling_min_freq": "800000\n",
            f"{cpu}/cpu0/cpufreq/scaling_max_freq": "4700000\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "2\n",
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "3\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
            f"{cpu}/smt/active": "1\n",
        },
    )
    assert model(root) == "Some CPU"
    assert processor(root).items() >= {
        ("governor", "performance, powersave"),
        ("driver", "intel_pstate"),
        ("least_mhz", 800.0),
        ("most_mhz", 4700.0),
        ("boost", True),
        ("smt", True),
        ("virtual", False),
    }
    assert overheated(root) == 5
    assert moment(tmp_path, root)["overheated"] == 5


def test_processor_of_a_virtual_machine_and_of_none(tmp_path: Path) -> None:
    root = write(
        tmp_path / "vm",
        {
            "proc/cpuinfo": "model name\t: EPYC\nflags\t\t: fpu hypervisor\n",
            "sys/devices/system/cpu/cpufreq/boost": "0\n",
            "sys/devices/system/cpu/smt/active": "\n",
        },
    )
    assert processor(root).items() >= {("virtual", True), ("boost", False)}
    assert set(processor(tmp_path / "none")) <= {"logical", "usable"}
    assert overheated(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("groups", "files", "expected", "stops"),
    [
        ("0::/", {}, {}, None),
        (
            "0::/app/worker",
            {
                "app/worker/cpu.max": "max 100000",
                "app/cpu.max": "150000 100000",
                "app/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 1",
                "app/worker/memory.max": "2147483648",
                "app/memory.max": "max",
            },
            {"processors": 1.5, "memory": 2**31},
            4,
        ),
        (
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.stat": "nr_throttled 7",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            {"processors": 0.5},
            7,
        ),
        (
            "5:cpu:/\n0::/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            {},
            None,
        ),
        (
            "0::/../outside",
            {"../outside/cpu.max": "1 2", "cpu.max": "4 2"},
            {"processors": 2},
            None,
        ),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path,
    groups: str,
    files: dict[str, str],
    expected: dict[str, float],
    stops: int | None,
) -> None:
    mounted = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    root = write(tmp_path, {"proc/self/cgroup": groups, "sys/fs/cgroup/x": ""} | mounted)
    assert limits(root) == expected
    assert throttled(root) == stops


@pytest.mark.parametrize("knows", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_gpus_are_what_the_driver_tells(driver: Callable[[str], None], knows: str) -> None:
    driver(answer(GPU + HOT, knows))
    idle, hot = gpus()
    assert idle == {
        "index": "0",
        "id": "GPU-11aa",
        "name": "NVIDIA H200",
        "driver": "580.159.03",
        "memory": 143771 * 2**20,
        "mhz": 345,
        "most_mhz": 1980,
        "busy": 0,
        "power_limit": 700,
        "slowed": [],
    }
    assert hot["slowed"] == ["heat", "power limit"]
    assert "power_limit" not in hot


@pytest.mark.parametrize("script", ["exit 9", "printf 'No devices were found\\n'", "printf '\\n'"])
def test_driver_without_gpus_is_none(driver: Callable[[str], None], script: str) -> None:
    driver(script)
    assert gpus() == []


def test_visible_gpus_are_chosen_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"index": str(i), "id": f"GPU-{i}{i}", "name": f"gpu {i}"} for i in range(3)]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for chosen, names in {
        "": [],
        "0,2": ["gpu 0", "gpu 2"],
        "2, 1": ["gpu 2", "gpu 1"],
        "GPU-1": ["gpu 1"],
        "1,-1,2": ["gpu 1"],
        "7": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible(found) == names, chosen
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(visible(found)) == 3
    monkeypatch.setattr(torch.version, "cuda", None)
    assert visible(found) == []


def test_cuda_is_not_initialised(driver: Callable[[str], None]) -> None:
    driver(answer(GPU))
    # A build without CUDA raises where CUDA would be initialised, one with CUDA says so.
    script = (
        "import torch; torch.version.cuda = '13.0'\n"
        "from harness.environment import environment\n"
        "from harness.environment.steadiness import steadiness\n"
        "from harness.doctor import findings\n"
        "known = environment(); findings(known, steadiness())\n"
        "assert known['devices'] == ['NVIDIA H200'], known['devices']\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bare_system_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no proc"))
    known = environment(tmp_path / "not" / "there")
    assert set(known) >= ALWAYS
    assert known["gpus"] == known["devices"] == []
    assert known["moment"]["disk_free"] > 0
    assert "memory_free" not in known["moment"]
    json.dumps(known, allow_nan=False)
    assert not steadiness(tmp_path).stolen


def test_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert environment(Path("results"))["commit"] == ""
