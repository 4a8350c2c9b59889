"""The asv suite: its frozen matrix, and real runs of asv."""

import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import meta_gradient
from benchmarks.headline import Headline
from benchmarks.meta_gradient import Matrix, known_here
from estimators import OptionError
from estimators.base.errors import UserError
from harness.asv.bench import run_asv
from harness.matrix.outcome import Status
from harness.store.runs import read_run
from harness.suite import measure

ROOT = Path(__file__).parent.parent
AXES: dict[str, Any] = json.loads((ROOT / "benchmarks" / "axes.json").read_text(encoding="utf-8"))

# Results of different matrices must not be compared: a new matrix takes a new version.
DIGESTS = {1: "7cf5c51ed9d89db1", 2: "cf28c912f0a2a201"}

DIVERGES = "neumann(lam=0.01, terms=100)"
SHRUNK = {
    "estimators": ["maml", "fomaml", "binom(order=2)", DIVERGES],
    "depths": [1, 2],
    "models": ["sinusoid mlp-40-40"],
    "devices": ["cpu", "cuda:0"],
}
Point = tuple[str, int, str, str]

needs_checkout = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(),
    reason="asv measures commits: it needs git and a checkout",
)


def test_a_change_of_the_matrix_takes_a_new_version() -> None:
    assert set(AXES) == {"version", "headline", *SHRUNK}
    # One more device changes no point that there was.
    names = sorted({"headline", *SHRUNK} - {"devices"})
    text = json.dumps({name: AXES[name] for name in names})
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[AXES["version"]]
    assert max(DIGESTS) == AXES["version"]


def test_cells_that_a_commit_does_not_know_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = AXES | {
        "estimators": ["maml", "of-tomorrow", "binom(order=1, tomorrow=True)"],
        "models": ["sinusoid mlp-40-40", "tomorrow mlp-40-40", "sinusoid tomorrow"],
    }
    known = known_here(axes)
    assert (known["estimators"], known["models"]) == (["maml"], ["sinusoid mlp-40-40"])
    assert known_here(AXES) == AXES
    with pytest.raises(NotImplementedError, match="of-tomorrow"):
        Matrix().setup({}, "of-tomorrow", 5, "sinusoid mlp-40-40", "cpu")
    with pytest.raises(NotImplementedError, match="of-tomorrow"):
        Headline().setup("of-tomorrow")
    monkeypatch.setitem(meta_gradient.AXES, "estimators", ["of-tomorrow"])
    assert Matrix().setup_cache() == {}
    # Nor is there a suite at early commits.
    monkeypatch.delattr("harness.suite.headline")
    with pytest.raises(NotImplementedError, match="maml"):
        Headline().setup("maml")
    monkeypatch.setitem(sys.modules, "harness.suite", None)
    assert Matrix().setup_cache() == {}


@needs_checkout
def test_missing_commits_are_named(tmp_path: Path) -> None:
    for commits in ("nothing..HEAD", "--all", "HEAD..HEAD"):
        with pytest.raises(UserError, match=commits):
            run_asv(tmp_path, Console(quiet=True), commits)


@needs_checkout
def test_a_commit_that_asv_cannot_measure_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asv ends with 2 where each benchmark has failed, and no run was journalled."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("harness.asv.bench._asv", lambda *_: None)
    fake = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(fake))
    console = Console(file=io.StringIO())
    for code, text, fails in (
        *((0, "", False), (2, "it failed", True), (1, "it failed", True)),
        (1, "No commit hashes selected", False),
    ):
        fake.write_text(f"#!/bin/sh\necho {text}\nexit {code}\n")
        fake.chmod(0o755)
        if fails:
            with pytest.raises(UserError, match=f"exit code {code}"):
                run_asv(tmp_path, console, "HEAD~1..HEAD")
        else:
            assert run_asv(tmp_path, console, "HEAD~1..HEAD") == []


def test_unknown_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="version 2 of the suite is not known here; there is 1"):
        measure(SHRUNK, tmp_path, version=2)
    assert not list(tmp_path.iterdir())


def shell(folder: Path, *command: str | Path, code: int = 0) -> str:
    """Run a command in a folder below its home; return standard output."""
    environment = os.environ | {"HOME": str(folder.parent), "NO_COLOR": "1"}
    environment.pop("METAGRAD_STORE", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def asv(folder: Path, *arguments: str, code: int = 0) -> str:
    return shell(folder, sys.executable, "-m", "asv", *arguments, code=code)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a repository with the files of this checkout as they are, and a smaller matrix."""
    folder = tmp_path_factory.mktemp("home") / "checkout"
    folder.mkdir()
    names = shell(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    axes = json.dumps(AXES | SHRUNK)
    (folder / "benchmarks" / "axes.json").write_text(axes, encoding="utf-8")
    shell(folder, "git", "init", "-q")
    shell(folder, "git", "add", "-A")
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    shell(folder, "git", *author, "commit", "-q", "-m", "as it is")
    asv(folder, "machine", "--yes")
    return folder


def tracked(clone: Path) -> dict[str, dict[Point, Any]]:
    """Return the results that asv has stored, by benchmark and point."""
    commit = shell(clone, "git", "rev-parse", "HEAD").strip()
    (path,) = (clone / "results" / "asv").glob(f"*/{commit[:8]}-*.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["commit_hash"] == commit
    columns = stored["result_columns"]
    found: dict[str, dict[Point, Any]] = {}
    for name, row in stored["results"].items():
        if name.startswith("meta_gradient.Matrix."):
            record = dict(zip(columns, row, strict=False))
            literal = [[json.loads(v.replace("'", '"')) for v in axis] for axis in record["params"]]
            found[name.rpartition(".")[2]] = dict(
                zip(product(*literal), record["result"], strict=True)
            )
    return found


@needs_checkout
def test_asv_runs_the_suite_in_this_environment(clone: Path) -> None:
    same = ("-E", f"existing:{sys.executable}", "--set-commit-hash", "HEAD")
    asv(clone, "run", *same, "--bench", "track_bias", code=2)  # 2: a cell diverges, on purpose
    (points,) = tracked(clone).values()
    assert len(points) == 16
    assert points["maml", 2, "sinusoid mlp-40-40", "cpu"] < 1e-12
    for store in ("runs", "asv"):
        shutil.rmtree(clone / "results" / store)
    asv(clone, "machine", "--yes")


@needs_checkout
@pytest.mark.slow
def test_bench_runs_asv_in_a_separate_environment(clone: Path) -> None:
    output = shell(clone, Path(sys.executable).parent / "metagrad", "bench", code=1)
    assert "sinusoid, mlp-40-40, K=2" in output
    assert "binom: order=2 is outside 0..1" in output
    found = tracked(clone)
    assert set(found) == {
        f"track_{name}"
        for name in (
            *("bias", "cosine_distance", "time", "time_ratio"),
            *("peak_memory", "retained_memory", "flops", "launches", "hvps"),
            "serial_depth",
        )
    }
    for points in found.values():
        assert len(points) == 16
        for (estimator, depth, _, device), value in points.items():
            absent = device == "cuda:0" and not torch.cuda.is_available()
            unsupported_reason = estimator == "binom(order=2)" and depth == 1
            if estimator == DIVERGES and not absent:
                assert value is None  # asv's failed
                continue
            assert isinstance(value, float | int)
            assert math.isnan(value) == (absent or unsupported_reason)  # asv's skipped

    def on_cpu(name: str, estimator: str, depth: int) -> float:
        return float(found[f"track_{name}"][estimator, depth, "sinusoid mlp-40-40", "cpu"])

    # Of an MLP by hand: see test_probes.py.
    assert on_cpu("flops", "fomaml", 2) == 300_000
    assert on_cpu("flops", "maml", 2) == 300_000 + 2 * 198_400
    assert on_cpu("hvps", "binom(order=2)", 2) == on_cpu("serial_depth", "maml", 2) == 2
    assert on_cpu("bias", "maml", 2) < 1e-12 < 1e-3 < on_cpu("bias", "fomaml", 2)
    assert on_cpu("peak_memory", "maml", 2) > on_cpu("peak_memory", "fomaml", 2) > 0
    assert on_cpu("time", "maml", 2) > 0

    (journal,) = (clone / "results" / "runs").glob("*.jsonl")
    run = read_run(journal)
    assert len(run.cells) == 16
    diverged = {cell.axes["estimator"] for cell in run.cells if cell.status is Status.DIVERGED}
    assert diverged == {DIVERGES}
    assert "diverged: the estimate of task 0 is not finite" in output
    assert run.environment["commit"] == shell(clone, "git", "rev-parse", "HEAD").strip()

    asv(clone, "publish")
    assert (clone / "results" / "html" / "index.html").exists()
    assert "track_bias" in asv(clone, "compare", "HEAD", "HEAD")
