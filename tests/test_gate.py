"""The gate on real commits, each measured by processes with its own code."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from estimators.errors import OptionError
from harness.gate import pairs, trees
from harness.gate.judging import judge
from harness.gate.measuring import Cells, stored
from harness.gate.sides import Selection, Side, side_of
from harness.history.asv_results import load_asv
from harness.history.changes import changes
from harness.history.series import history
from harness.results.store import load
from tests.planted import COMMITS, WORSE, write_project
from tests.repositories import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

COMMAND = Path(sys.executable).with_name("metagrad")
WORDS = ("--task", "quadratic", "--model", "linear", "--depth", "3", "--estimator", "ours")
CELL = "quadratic/linear/K3/alpha0.02/ours/cpu/float32/seed0/tasks8"
Gate = Callable[..., subprocess.CompletedProcess[str]]


class Project:
    """The repository with planted regressions, in its folder."""

    def __init__(self, parent: Path) -> None:
        self.folder, self.hashes = write_project(parent)
        self.store = self.folder.parent / "results"
        self.sides: dict[str, Side] = {}

    def side(self, subject: str) -> Side:
        if subject not in self.sides:
            selection = Selection(["quick", *WORDS], frozenset(), ("ours.py",), self.store)
            console = Console(quiet=True)
            self.sides[subject] = side_of(self.hashes[subject], selection, console)
        return self.sides[subject]

    def cells(self, subject: str) -> Cells:
        return self.side(subject).cells


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
        usual = ("quick", *WORDS, "--import", "ours.py", "--store", str(project.store))
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
    for subject, _, _ in COMMITS:
        project.side(subject)
    series = history(load(project.store)[0], load_asv(project.store / "asv")[0], project.folder)
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
    base, head = (project.side(COMMITS[i][0]) for i in (0, -1))
    assert base.tree
    assert head.tree
    heard: list[float] = []
    found = pairs.paired_times(
        base.tree,
        head.tree,
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
    tree = trees.Tree("c" * 40, "subject", tmp_path, (tmp_path,))
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
    project.side("Readme")
    before = sorted((project.store / "runs").iterdir())
    head = project.hashes["Readme"]
    done = gate("--base", head, "--head", head, "--no-times")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted((project.store / "runs").iterdir()) == before


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


def test_stored_results_are_compared_without_times(project: Project, gate: Gate) -> None:
    for subject in ("Our estimator", "Readme"):
        project.side(subject)
    first, second, *_ = sorted((project.store / "runs").iterdir())
    done = gate("--base", str(first), "--head", str(second))
    assert done.returncode in (0, 1), done.stderr
    assert "Times are not compared" in done.stdout
    assert stored(project.store).keys() == {CELL}
    with pytest.raises(OptionError, match=r"ours\.py cannot be read"):
        stored(project.folder / "ours.py")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--base", "nowhere"), "no commit 'nowhere' in this repository"),
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
    project.side("Readme")
    path = project.folder / "README.md"
    before = path.read_text(encoding="utf-8")
    path.write_text("edited", encoding="utf-8")
    head = project.hashes["Readme"]
    done = gate("--base", head, "--head", head, "--no-times")
    path.write_text(before, encoding="utf-8")
    assert done.returncode == 0
    assert "1 files have uncommitted changes" in done.stdout


def test_a_package_is_installed_with_its_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package"
    (folder / "src" / "theirs").mkdir(parents=True)
    (folder / "src" / "theirs" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "theirs"\nversion = "1"\n'
        '[project.entry-points."metagrad.estimators"]\ntheirs = "theirs"\n',
        encoding="utf-8",
    )
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    monkeypatch.chdir(folder / "src")  # a folder in a repository, and no package itself
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    tree = trees.install(trees.resolve("HEAD"))
    assert (tree.work.name, tree.subject) == ("src", "first")
    monkeypatch.chdir(folder)
    shutil.rmtree(tmp_path / "cache")
    tree = trees.install(trees.resolve("HEAD"))
    code = (
        "from importlib.metadata import entry_points; import theirs; "
        "print(entry_points(group='metagrad.estimators', name='theirs'), theirs.__file__)"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=tree.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "theirs" in told
    assert str(tree.path[0]) in told


def test_waivers_are_those_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of-many" / "one").mkdir(parents=True)
    (tmp_path / "of-many" / "one" / "waivers.toml").write_text("# one", encoding="utf-8")
    git(tmp_path / "of-many", "init", "-q")
    git(tmp_path / "of-many", "add", ".")
    git(tmp_path / "of-many", "commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path / "of-many" / "one")
    (tmp_path / "of-many" / "one" / "waivers.toml").write_text("# edited", encoding="utf-8")
    assert trees.file_at(trees.resolve("HEAD"), "waivers.toml") == "# one"
    monkeypatch.chdir(tmp_path / "of-many")
    assert trees.file_at(trees.resolve("HEAD"), "waivers.toml") is None


def test_all_trees_have_paths_of_one_length(project: Project) -> None:
    made = [side.tree for side in (project.side("Readme"), project.side("Our estimator"))]
    assert len({len(str(tree.work)) for tree in made if tree}) == 1
    assert len({tree.work for tree in made if tree}) == len(made)
    assert all(a != b for a, b in pairwise(sorted(project.hashes.values())))
