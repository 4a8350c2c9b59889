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

from estimators.base.errors import UserError
from harness.commands.gate import gate as command
from harness.gate import checkout, measuring, pairs
from harness.gate.compare import compare
from harness.gate.measuring import Cells, measure
from harness.gate.plugins import outside_plugins, relative_plugins
from harness.gate.revision import Revision, check_pair, open_revision, read_stored, results
from harness.history.changes import changes
from harness.history.series import stored_history
from harness.store.table import load
from tests.support.invocation import invoke
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
        self.measured: dict[str, Cells] = {}

    def checkout(self, subject: str) -> checkout.Checkout:
        revision = open_revision(self.hashes[subject], ("ours.py",), QUIET)
        assert revision.checkout
        return revision.checkout

    def cells(self, subject: str) -> Cells:
        if subject not in self.measured:
            revision = Revision(subject, self.checkout(subject))
            self.measured[subject] = results(revision, ["quick", *WORDS], ("ours.py",), QUIET)
        return self.measured[subject]

    def journal(self, subject: str) -> Path:
        """Return the stored results of a commit."""
        self.cells(subject)
        mine, words = self.checkout(subject), ["quick", *WORDS, "--import", "ours.py"]
        return mine.results / f"{measuring._digest(mine, words)}.jsonl"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        planted = Project(tmp_path_factory.mktemp("p"))
        patch.chdir(planted.folder)
        patch.setenv("METAGRAD_CACHE", str(planted.folder.parent / "cache"))
        yield planted


@pytest.fixture
def gate(project: Project) -> Gate:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [str(COMMAND), "gate", "quick", *WORDS, "--import", "ours.py", *words]
        return subprocess.run(line, cwd=project.folder, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_planted_regressions_are_found_at_their_commits_and_no_others(project: Project) -> None:
    for (base, _, _), (head, _, _) in pairwise(COMMITS):
        comparison = compare(project.cells(base), project.cells(head), names=(base, head))
        assert comparison.cells == 1
        regressions = {one.metric for one in comparison.regressions}
        if head not in WORSE:
            assert (comparison.changes, comparison.exit_code) == ([], 0), head
            continue
        assert comparison.exit_code == 1, head
        assert WORSE[head] in regressions, head
        assert not regressions & (set(WORSE.values()) - {WORSE[head]}), head
    # The history of the same results has its change points there.
    store = project.folder.parent / "results"
    (store / "runs").mkdir(parents=True)
    for number, (subject, _, _) in enumerate(COMMITS):
        shutil.copy(project.journal(subject), store / "runs" / f"{number}.jsonl")
    series = stored_history(store, load(store)[0], project.folder)[0]
    table = changes(series)
    assert set(table["subject"]) == set(WORSE)
    assert (table["unmeasured"] == 0).all()
    for subject, metric in WORSE.items():
        rows = table[(table["subject"] == subject) & (table["metric"] == metric)]
        assert (rows["verdict"].item(), rows["lasting"].item()) == ("worse", True)


@pytest.mark.slow
def test_times_of_both_are_taken_in_turns(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "ROUNDS", 2)
    base, head = (project.checkout(COMMITS[i][0]) for i in (0, -1))
    cells = [CELL.replace("ours", name) for name in ("ours", "fomaml", "theirs")]
    shares: list[float] = []
    times = pairs.paired_times(
        base,
        head,
        cells,
        plugins=["ours.py"],
        on_progress=lambda share, _: shares.append(share),
    )
    assert {name: len(rounds) for name, rounds in times.seconds.items()} == dict.fromkeys(
        cells[:2], 2
    )
    seconds = [one for rounds in times.seconds.values() for pair in rounds for one in pair]
    assert all(0 < one < 1 for one in seconds)
    assert "unknown estimator" in times.errors[cells[2]]
    assert shares == sorted(shares)


@pytest.mark.slow
def test_a_cell_that_cannot_be_timed_does_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "ROUNDS", 1)
    for number, (body, why) in enumerate(
        (
            ("os.kill(os.getpid(), 9)", "ended (-9)"),
            ("time.sleep(60)", "not done after 5 s"),
            ("print('{\"seconds\": 0}'); raise ValueError('no')", "ValueError: no"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "bad.py").write_text(
            "import os, time\n"
            "from dataclasses import dataclass\n"
            "from estimators import Estimator, register\n"
            "@register('bad')\n@dataclass(frozen=True)\nclass Bad(Estimator):\n"
            f"    def estimate(self, problem, params):\n        {body}\n",
            encoding="utf-8",
        )
        tree = checkout.Checkout("c" * 40, "subject", folder, (folder,), folder)
        cells = [CELL.replace("ours", name) for name in ("bad", "fomaml")]
        limit = 5.0 if "sleep" in body else 60.0
        found = pairs.paired_times(tree, tree, cells, plugins=["bad.py"], time_limit=limit)
        assert why in found.errors[cells[0]]
        assert [*found.seconds] == cells[1:], body


def test_command_writes_its_findings(project: Project, gate: Gate, tmp_path: Path) -> None:
    base, head = (project.hashes[name] for name in ("Check the curvature", "Simplify"))
    words = ("--base", base, "--head", head, "--no-times", "--out", str(tmp_path / "out"))
    done = gate(*words, "--import", str(project.folder / "ours.py"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "Simplify" in done.stdout
    document = json.loads((tmp_path / "out" / "gate.json").read_text(encoding="utf-8"))
    assert {"bias": "worse", "flops": "better"}.items() <= {
        one["metric"]: one["verdict"] for one in document["changes"]
    }.items()
    folders = [path.name for path in (project.folder.parent / "cache" / "trees").iterdir()]
    assert len({len(name) for name in folders}) == 1, "the length of paths can change speed"
    text = (tmp_path / "out" / "gate.md").read_text(encoding="utf-8")
    assert text.startswith("## Regression: ")


@pytest.mark.slow
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
        cells = measure(project.checkout("Readme"), ["quick", *WORDS], plugins=("ours.py",))
        assert cells[CELL].samples["bias"] == expected["bias"]
    words = ["quick", *WORDS, "--estimator", "fomaml"]
    assert len(measure(project.checkout("Readme"), words, plugins=("ours.py",))) == 2
    again = measure(project.checkout("Readme"), words[:-2], plugins=("ours.py",))
    assert again.keys() == {CELL}, "not the results of other words"


@pytest.mark.slow
def test_a_measurement_that_was_cut_short_is_none(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = project.checkout("Readme")
    (tree.work / "kill.py").write_text(
        "import os, threading\nthreading.Timer(3, lambda: os._exit(137)).start()\n"
        "import sys\nsys.stderr.write('noise\\n' * 50_000)\n",
        encoding="utf-8",
    )
    words = ["quick", *WORDS, "--estimator", "maml", "--tasks", "20000"]
    with pytest.raises(UserError, match="cannot be measured"):
        measure(tree, words, plugins=("ours.py", "kill.py"))


@pytest.mark.slow
def test_each_commit_has_its_own_plug_ins(project: Project, tmp_path: Path) -> None:
    inside = project.folder / "ours.py"
    assert relative_plugins([str(inside), "a.module"]) == ("ours.py", "a.module")
    (tmp_path / "theirs.py").touch()
    with pytest.raises(UserError, match="is outside the repository"):
        relative_plugins([str(tmp_path / "theirs.py")])
    tree = project.checkout("Readme")
    for name in ("later.py", "no_such_module"):
        with pytest.raises(UserError, match=f"{tree.commit[:8]} lacks --import {name}"):
            outside_plugins(tree, [name])
    assert outside_plugins(tree, ["ours", "ours.py"]) == []
    assert outside_plugins(tree, ["json"]) == ["json"]
    revisions = [Revision("base", tree), Revision("head", tree, outside=["json"])]
    with pytest.raises(UserError, match="head lacks --import json"):
        check_pair(*revisions)


@pytest.mark.slow
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


@pytest.mark.slow
def test_stored_results_are_compared_without_times(
    project: Project, gate: Gate, tmp_path: Path
) -> None:
    first, second, worse = (
        project.journal(name) for name in ("Check the curvature", "Readme", "Simplify")
    )
    done = gate("--base", str(first), "--head", str(worse))
    assert done.returncode == 1, done.stderr
    assert "Times are not compared" in done.stdout
    assert "different machines" not in done.stdout
    text = second.read_text(encoding="utf-8")
    (fingerprint,) = read_stored(second).values("fingerprint")
    other = tmp_path / "runs" / "other.jsonl"
    other.parent.mkdir()
    other.write_text(
        text.replace(fingerprint, "0" * 16).replace('"changes": ""', '"changes": "beef"'),
        encoding="utf-8",
    )
    done = gate("--base", str(first), "--head", str(other))
    assert "on different machines" in done.stdout
    assert "The head was measured with uncommitted changes" in done.stdout
    assert read_stored(tmp_path).cells.keys() == {CELL}
    shutil.copy(second, tmp_path / "runs" / "mine.jsonl")
    with pytest.raises(UserError, match="several machines"):
        read_stored(tmp_path)
    with pytest.raises(UserError, match=r"ours\.py cannot be read"):
        read_stored(project.folder / "ours.py")


def test_wrong_options_are_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", project.folder.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    words: tuple[str, ...]
    for words, named in (
        (("--base", "nowhere"), "'nowhere'"),
        (("--base", ""), "''"),
        (("--base", "--upload-pack=x"), "--upload-pack=x"),
        (("--base", "HEAD", "--estimator", "binm"), "binom"),
        (("--base", "HEAD", "--only", "depth=99"), "depth=99"),
        (("--base", "HEAD~1"), "this clone is shallow"),
    ):
        with pytest.raises(UserError) as raised:
            invoke(command, "quick", *WORDS, "--import", clone / "ours.py", *words)
        assert named in str(raised.value)


@pytest.mark.slow
def test_a_head_that_does_not_work_could_not_be_measured(project: Project, gate: Gate) -> None:
    git(project.folder, "checkout", "-q", "-b", "broken", project.hashes["Readme"])
    text = (project.folder / "ours.py").read_text(encoding="utf-8")
    (project.folder / "ours.py").write_text(text.replace("return found", "raise ValueError('oh')"))
    git(project.folder, "commit", "-q", "-a", "-m", "Break it")
    done = gate("--base", project.hashes["Readme"], "--head", "broken", "--no-times")
    git(project.folder, "checkout", "-q", "main")
    assert done.returncode == 2
    assert "ValueError: oh" in done.stdout + done.stderr


@pytest.mark.slow
def test_uncommitted_changes_are_reported_and_stored_results_reused(
    project: Project, gate: Gate
) -> None:
    stored = project.journal("Readme").stat()
    (project.folder / "README.md").write_text("edited", encoding="utf-8")
    head = project.hashes["Readme"]
    done = gate("--base", head, "--head", head, "--no-times")
    git(project.folder, "checkout", "README.md")
    assert done.returncode == 0
    assert "1 files have uncommitted changes" in done.stdout
    stat = project.journal("Readme").stat()
    assert (stat.st_ino, stat.st_mtime_ns) == (stored.st_ino, stored.st_mtime_ns)


@pytest.mark.slow
def test_a_stopped_gate_ends_its_processes(project: Project, tmp_path: Path) -> None:
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
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def _measures(child: psutil.Process) -> bool:
    with suppress(psutil.Error):  # those that copy the commits end at any moment
        return "run" in child.cmdline()
    return False
