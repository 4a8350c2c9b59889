"""The gate on real commits, each measured by processes with its own code."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from estimators.base.errors import OptionError
from harness.gate import checkout, measuring, pairs
from harness.gate.compare import judge
from harness.gate.measuring import Cells, measured
from harness.gate.plugins import foreign, within
from harness.gate.revision import Side, cells_of, checked, side_of
from harness.gate.stored import stored
from harness.history.changes import changes
from harness.history.series import stored_history
from harness.store.table import load
from tests.support.planted import COMMITS, WORSE, write_project
from tests.support.repositories import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

COMMAND = Path(sys.executable).with_name("metagrad")
QUIET = Console(quiet=True)
# In the order in which the command hands them on.
WORDS = ("--estimator", "ours", "--depth", "3", "--task", "quadratic", "--model", "linear")
CELL = "quadratic/linear/K3/alpha0.02/ours/cpu/float32/seed0/tasks8"
Gate = Callable[..., subprocess.CompletedProcess[str]]


class Project:
    """The repository with planted regressions, in its folder."""

    def __init__(self, parent: Path) -> None:
        self.folder, self.hashes = write_project(parent)
        self.store = self.folder.parent / "results"
        self.measured: dict[str, Cells] = {}

    def tree(self, subject: str) -> checkout.Tree:
        side = side_of(self.hashes[subject], ("ours.py",), QUIET)
        assert side.tree
        return side.tree

    def cells(self, subject: str) -> Cells:
        if subject not in self.measured:
            side = Side(subject, self.tree(subject))
            self.measured[subject] = cells_of(side, ["quick", *WORDS], ("ours.py",), QUIET)
        return self.measured[subject]

    def journal(self, subject: str) -> Path:
        """What was measured of a commit."""
        self.cells(subject)
        tree, words = self.tree(subject), ["quick", *WORDS, "--import", "ours.py"]
        return tree.results / f"{measuring._digest(tree, words)}.jsonl"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        made = Project(tmp_path_factory.mktemp("p"))
        patch.chdir(made.folder)
        patch.setenv("METAGRAD_CACHE", str(made.folder.parent / "cache"))
        yield made


@pytest.fixture
def gate(project: Project) -> Gate:
    def run(*words: str, cwd: Path = project.folder) -> subprocess.CompletedProcess[str]:
        usual = ("quick", *WORDS, "--import", "ours.py")
        return subprocess.run(
            [COMMAND, "gate", *usual, *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("number", range(1, len(COMMITS)))
def test_what_was_planted_is_found_at_its_commit_and_nothing_else(
    project: Project, number: int
) -> None:
    (base, _, _), (head, _, _) = COMMITS[number - 1 : number + 1]
    found = judge(project.cells(base), project.cells(head), names=(base, head))
    assert found.cells == 1
    if head not in WORSE:
        assert (found.changes, found.exit_code) == ([], 0)
        return
    assert found.exit_code == 1
    told = {one.metric for one in found.regressions}
    assert WORSE[head] in told
    assert not told & (set(WORSE.values()) - {WORSE[head]}), "it is not told as another one"


def test_change_points_are_at_the_same_commits(project: Project) -> None:
    (project.store / "runs").mkdir(parents=True)
    for number, (subject, _, _) in enumerate(COMMITS):
        shutil.copy(project.journal(subject), project.store / "runs" / f"{number}.jsonl")
    series = stored_history(project.store, load(project.store)[0], project.folder)[0]
    found = changes(series)
    assert set(found["subject"]) == set(WORSE)
    for subject, metric in WORSE.items():
        worse = found[(found["subject"] == subject) & (found["verdict"] == "worse")]
        assert metric in set(worse["metric"])
        assert (worse["unmeasured"] == 0).all()
        assert worse.loc[worse["metric"] == metric, "lasting"].all()


def test_times_of_both_are_taken_in_turns(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "ROUNDS", 2)
    base, head = (project.tree(COMMITS[i][0]) for i in (0, -1))
    heard: list[float] = []
    found = pairs.paired_times(
        base,
        head,
        [CELL, CELL.replace("ours", "fomaml"), CELL.replace("ours", "theirs")],
        plugins=["ours.py"],
        tell=lambda share, _: heard.append(share),
    )
    assert {name: len(rounds) for name, rounds in found.seconds.items()} == {
        CELL: 2,
        CELL.replace("ours", "fomaml"): 2,
    }
    seconds = [one for rounds in found.seconds.values() for pair in rounds for one in pair]
    assert all(0 < one < 1 for one in seconds)
    (why,) = found.errors.values()
    assert "unknown estimator" in why
    assert heard == sorted(heard)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("os.kill(os.getpid(), 9)", "ended (-9)"),
        ("time.sleep(60)", "not done after 1 s"),
        ("raise ValueError('no')", "ValueError: no"),
        ("print('{\"seconds\": 0}'); raise ValueError('no')", "ValueError: no"),
    ],
)
def test_a_cell_that_cannot_be_timed_takes_no_other_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    (tmp_path / "bad.py").write_text(
        "import os, time\n"
        "from dataclasses import dataclass\n"
        "from estimators import Estimator, register\n"
        "@register('bad')\n@dataclass(frozen=True)\nclass Bad(Estimator):\n"
        f"    def estimate(self, problem, params):\n        {body}\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(pairs, "ROUNDS", 1)
    tree = checkout.Tree("c" * 40, "subject", tmp_path, (tmp_path,), tmp_path)
    cells = [CELL.replace("ours", name) for name in ("bad", "fomaml")]
    limit = 1.0 if "sleep" in body else 60.0
    found = pairs.paired_times(tree, tree, cells, plugins=["bad.py"], time_limit=limit)
    assert why in found.errors[cells[0]]
    assert [*found.seconds] == cells[1:]


def test_command_writes_its_findings(project: Project, gate: Gate, tmp_path: Path) -> None:
    base, head = (project.hashes[name] for name in ("Check the curvature", "Simplify"))
    done = gate("--base", base, "--head", head, "--no-times", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "Simplify" in done.stdout
    told = json.loads((tmp_path / "out" / "gate.json").read_text(encoding="utf-8"))
    assert {"bias": "worse", "flops": "better"}.items() <= {
        one["metric"]: one["verdict"] for one in told["changes"]
    }.items()
    text = (tmp_path / "out" / "gate.md").read_text(encoding="utf-8")
    assert text.startswith("## Regression: ")


def test_measured_commits_are_not_measured_again(project: Project, gate: Gate) -> None:
    before = project.journal("Readme").stat()
    head = project.hashes["Readme"]
    done = gate("--base", head, "--head", head, "--no-times")
    assert (done.returncode, done.stderr) == (0, "")
    after = project.journal("Readme").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_went_wrong_is_measured_again(project: Project) -> None:
    path = project.journal("Readme")
    whole = path.read_text(encoding="utf-8")
    expected = project.cells("Readme")[CELL].samples
    for broken in (
        whole.replace('"status": "ok"', '"status": "failed"'),
        "".join(whole.splitlines(keepends=True)[:-1]),  # killed before its end
        whole.replace(project.hashes["Readme"], "c" * 40),  # of another commit
    ):
        assert broken != whole
        path.write_text(broken, encoding="utf-8")
        cells = measured(project.tree("Readme"), ["quick", *WORDS], plugins=("ours.py",))
        assert cells[CELL].samples["bias"] == expected["bias"]
    alone = measured(
        project.tree("Readme"), ["quick", *WORDS, "--estimator", "fomaml"], plugins=("ours.py",)
    )
    assert len(alone) == 2
    again = measured(project.tree("Readme"), ["quick", *WORDS], plugins=("ours.py",))
    assert again.keys() == {CELL}, "not what was asked for in other words"


def test_a_measurement_that_was_cut_short_is_none(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = project.tree("Readme")
    (tree.work / "kill.py").write_text(
        "import os, threading\nthreading.Timer(3, lambda: os._exit(137)).start()\n"
        "import sys\nsys.stderr.write('noise\\n' * 50_000)\n",
        encoding="utf-8",
    )
    words = ["quick", *WORDS, "--estimator", "maml", "--tasks", "20000"]
    with pytest.raises(OptionError, match="cannot be measured"):
        measured(tree, words, plugins=("ours.py", "kill.py"))


def test_each_commit_has_its_own_plug_ins(project: Project, tmp_path: Path) -> None:
    inside = project.folder / "ours.py"
    assert within([str(inside), "a.module"]) == ("ours.py", "a.module")
    (tmp_path / "theirs.py").touch()
    with pytest.raises(OptionError, match="is outside the repository"):
        within([str(tmp_path / "theirs.py")])
    tree = project.tree("Readme")
    for name in ("later.py", "no_such_module"):
        with pytest.raises(OptionError, match=f"{tree.commit[:8]} lacks --import {name}"):
            foreign(tree, [name])
    assert foreign(tree, ["ours", "ours.py"]) == []
    assert foreign(tree, ["json"]) == ["json"]
    sides = [Side("base", tree), Side("head", tree, foreign=["json"])]
    with pytest.raises(OptionError, match="head lacks --import json"):
        checked(*sides)


def test_a_regression_is_seen_wherever_the_file_is_named_from(project: Project, gate: Gate) -> None:
    base, head = (project.hashes[name] for name in ("Check the curvature", "Simplify"))
    words = ("--base", base, "--head", head, "--no-times")
    assert gate(*words, "--import", str(project.folder / "ours.py")).returncode == 1


def test_a_head_that_cannot_be_timed_could_not_be_measured(project: Project) -> None:
    lost = pairs.Pairs()
    base, head = project.tree("Our estimator"), project.tree("Readme")
    lost.lose([CELL], pairs._Lost("ended", base), head)
    same = project.cells("Readme")
    judged = judge(same, same, names=("a", "b"), pairs=lost)
    assert (judged.exit_code, judged.changes) == (0, [])
    assert judged.notes == [f"No times of {CELL}: ended"]
    lost.lose([CELL], pairs._Lost("ended", head), head)
    assert judge(same, same, names=("a", "b"), pairs=lost).exit_code == 2


def test_a_committed_waiver_lets_pass(project: Project, gate: Gate) -> None:
    git(project.folder, "checkout", "-q", "-b", "waived", project.hashes["Simplify"])
    (project.folder / "waivers.toml").write_text(
        '[[waiver]]\ncell = "quadratic/*"\nmetric = "*"\nreason = "on purpose"\n'
        "expires = 2999-01-01\n",
        encoding="utf-8",
    )
    words = ("--base", project.hashes["Check the curvature"], "--head", "waived", "--no-times")
    assert gate(*words).returncode == 1, "it is not committed"
    git(project.folder, "add", ".")
    git(project.folder, "commit", "-q", "-m", "A waiver")
    done = gate(*words)
    git(project.folder, "checkout", "-q", "main")
    assert (done.returncode, done.stderr) == (0, "")
    assert "on purpose" in done.stdout


def test_stored_results_are_compared_without_times(
    project: Project, gate: Gate, tmp_path: Path
) -> None:
    first, second, worse = (
        project.journal(name) for name in ("Check the curvature", "Readme", "Simplify")
    )
    done = gate("--base", str(first), "--head", str(worse))
    assert done.returncode == 1, done.stderr
    assert "Times are not compared" in done.stdout
    assert "other machines" not in done.stdout
    text = second.read_text(encoding="utf-8")
    (fingerprint,) = stored(second).told("fingerprint")
    other = tmp_path / "runs" / "other.jsonl"
    other.parent.mkdir()
    other.write_text(
        text.replace(fingerprint, "0" * 16).replace('"changes": ""', '"changes": "beef"'),
        encoding="utf-8",
    )
    done = gate("--base", str(first), "--head", str(other))
    assert "Both sides were measured on other machines" in done.stdout
    assert "The head was measured with uncommitted changes" in done.stdout
    assert stored(tmp_path).cells.keys() == {CELL}
    shutil.copy(second, tmp_path / "runs" / "mine.jsonl")
    with pytest.raises(OptionError, match="several machines"):
        stored(tmp_path)
    with pytest.raises(OptionError, match=r"ours\.py cannot be read"):
        stored(project.folder / "ours.py")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--base", "nowhere"), "no commit 'nowhere' in this repository"),
        (("--base", ""), "no commit '' in this repository"),
        (("--base", "--upload-pack=x"), "no commit"),
        (("--base", "HEAD", "--estimator", "binm"), "binom"),
        (("--base", "HEAD", "--only", "depth=99"), "depth=99"),
    ],
)
def test_slips_are_told_in_a_line(gate: Gate, words: tuple[str, ...], told: str) -> None:
    done = gate(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_shallow_clone_lacks_is_told(project: Project, gate: Gate, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", project.folder.as_uri(), str(clone))
    done = gate("--base", "HEAD~1", cwd=clone)
    assert done.returncode == 2
    assert "this clone is shallow" in done.stderr


def test_a_head_that_does_not_work_could_not_be_measured(project: Project, gate: Gate) -> None:
    git(project.folder, "checkout", "-q", "-b", "broken", project.hashes["Readme"])
    text = (project.folder / "ours.py").read_text(encoding="utf-8")
    (project.folder / "ours.py").write_text(text.replace("return found", "raise ValueError('oh')"))
    git(project.folder, "commit", "-q", "-a", "-m", "Break it")
    done = gate("--base", project.hashes["Readme"], "--head", "broken", "--no-times")
    git(project.folder, "checkout", "-q", "main")
    assert done.returncode == 2
    assert "ValueError: oh" in done.stdout + done.stderr


def test_uncommitted_changes_are_no_part_of_it(project: Project, gate: Gate) -> None:
    path = project.folder / "README.md"
    before = path.read_text(encoding="utf-8")
    path.write_text("edited", encoding="utf-8")
    head = project.hashes["Readme"]
    done = gate("--base", head, "--head", head, "--no-times")
    path.write_text(before, encoding="utf-8")
    assert done.returncode == 0
    assert "1 files have uncommitted changes" in done.stdout


def test_stopped_it_takes_its_processes_along(project: Project, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [COMMAND, "gate", *WORDS, "--import", "ours.py", "--base", "HEAD", "--head", "HEAD"],
        cwd=project.folder,
        env=os.environ | {"METAGRAD_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    mine = psutil.Process(process.pid)
    while not (children := [one for one in mine.children() if _measures(one)]):
        time.sleep(0.02)
        assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped" in err
    assert not any(child.is_running() for child in children)


def _measures(child: psutil.Process) -> bool:
    with suppress(psutil.Error):  # those that export the commits end at any moment
        return "run" in child.cmdline()
    return False


def test_all_trees_have_paths_of_one_length(project: Project) -> None:
    made = [project.tree(name) for name in ("Readme", "Our estimator")]
    assert len({len(str(tree.work)) for tree in made}) == 1
    assert len({tree.work for tree in made}) == len(made)
    assert all(a != b for a, b in pairwise(sorted(project.hashes.values())))
