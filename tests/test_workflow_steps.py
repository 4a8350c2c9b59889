"""The shell text of the CI recipes, run on small repositories with stand-ins for the tools."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import git
from tests.support.workflow_files import (
    WORKFLOWS,
    gitlab_script,
    steps,
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the recipes run on Linux")


def step_of(workflow: str, name: str) -> dict[str, Any]:
    (step,) = [step for file, _, step in steps() if (file, step.get("id")) == (workflow, name)]
    return step


def bash(folder: Path, text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs shell text as a runner does, with the tools that `stand_in` has made."""
    path = f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=folder,
        env=os.environ | {"PATH": path, "RUNNER_TEMP": str(folder.parent)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def stand_in(path: Path, text: str = "") -> None:
    """Puts something in the place of a tool that writes down how it was called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = path.with_suffix(".calls")
    path.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{told}"\n{text}\n', encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone whose branch left `main`, which has moved on since."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git(tmp_path, "init", "-q", "--bare", "--initial-branch=main", "origin.git")
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", "origin.git", str(folder))
    git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
    for branch, start in (("main", None), ("branch", "main"), ("main", "main")):
        if start:
            git(folder, "checkout", "-q", "-B", branch, start)
        (folder / "file").write_text(f"{branch} {start}", encoding="utf-8")
        git(folder, "add", "file")
        git(folder, "commit", "-q", "-m", f"{branch} {start}")
    git(folder, "push", "-q", "origin", "main", "branch")
    git(folder, "checkout", "-q", "--detach", "branch")
    return folder


@needs_linux
@pytest.mark.parametrize("code", [0, 1, 2])
def test_gate_keeps_the_exit_code_and_tells(checkout: Path, code: int) -> None:
    gate, tell = step_of("gate.yml", "gate"), step_of("gate.yml", "tell")
    assert gate["env"] == {"BASE": "origin/${{ github.base_ref }}"}
    assert tell["if"] == "always()"
    # With 2 it could measure nothing, and has written nothing.
    writes = "mkdir -p gate && echo table > gate/gate.md"
    stand_in(checkout / ".venv/bin/metagrad", f"{writes if code < 2 else ''}\nexit {code}")
    done = bash(checkout, gate["run"], BASE="origin/main")
    assert done.returncode == code, done.stderr
    left = git(checkout, "rev-parse", "HEAD~1")
    assert left != git(checkout, "rev-parse", "origin/main")
    called = (checkout / ".venv/bin/metagrad.calls").read_text(encoding="utf-8")
    assert called == f"gate --base {left} --head HEAD --out gate\n"
    summary = checkout.parent / "summary"
    assert bash(checkout, tell["run"], GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
    told = summary.read_text(encoding="utf-8")
    assert told == ("table\n" if code < 2 else "The gate has compared nothing; the log says why.\n")


@needs_linux
def test_gate_does_not_run_what_a_branch_is_called(checkout: Path) -> None:
    stand_in(checkout / ".venv/bin/metagrad")
    done = bash(
        checkout, step_of("gate.yml", "gate")["run"], BASE='origin/$(touch "$PWD"/x);touch${IFS}y'
    )
    assert done.returncode != 0
    assert sorted(path.name for path in checkout.iterdir()) == [".git", ".venv", "file"]


@needs_linux
@pytest.mark.parametrize(("target", "code"), [("", 1), ("ba5e", 0)])
def test_gate_of_gitlab_takes_the_base_that_fits(checkout: Path, target: str, code: int) -> None:
    stand_in(checkout.parent / "bin" / "make")
    stand_in(checkout / ".venv/bin/metagrad", f"exit {code}")
    variables = {"CI_MERGE_REQUEST_TARGET_BRANCH_SHA": target} if target else {}
    done = bash(checkout, gitlab_script("gate"), CI_MERGE_REQUEST_DIFF_BASE_SHA="d1ff", **variables)
    assert done.returncode == code, done.stderr
    called = (checkout / ".venv/bin/metagrad.calls").read_text(encoding="utf-8")
    assert called == f"gate --base {target or 'd1ff'} --head HEAD --out gate\n"
    # What is cached there is no uncommitted change.
    (checkout / ".cache" / "pip").write_text("", encoding="utf-8")
    assert git(checkout, "status", "--porcelain") == "?? .venv/"


MEASURE = """
[ "$1" = run ] || exit 0
[ -z "$RESULT" ] || { mkdir -p "results/asv/$5"; touch "results/asv/$5/$RESULT-env.json"; }
exit $CODE"""


@needs_linux
@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize(
    ("code", "result", "ends"), [(0, True, 0), (2, True, 0), (2, False, 2), (1, True, 1)]
)
def test_history_goes_on_after_a_failed_benchmark_alone(
    checkout: Path, service: str, code: int, result: bool, ends: int
) -> None:
    stand_in(checkout.parent / "bin" / "make")
    stand_in(checkout / ".venv/bin/asv", MEASURE)
    stand_in(checkout / ".venv/bin/metagrad", "exit 1")  # of `report`: something is left out
    if service == "github":
        assert WORKFLOWS["history.yml"]["env"]["RESULTS"] == "metagrad-results"
        text = "\n".join(step_of("history.yml", name)["run"] for name in ("measure", "pages"))
    else:
        text = gitlab_script("history")
    head = git(checkout, "rev-parse", "HEAD")
    variables = {"CODE": str(code), "RESULT": head[:8] if result else "", "COMMITS": "1"}
    done = bash(checkout, text, **variables)
    assert done.returncode == ends, done.stderr
    assert ("A benchmark has failed" in done.stdout) == (code == 2)
    asv = (checkout / ".venv/bin/asv.calls").read_text(encoding="utf-8").splitlines()
    machine = re.fullmatch(rf"machine --yes --machine ({service}[\w-]*\w)", asv[0])
    assert machine
    run = re.fullmatch(
        rf"run HASHFILE:(\S+) --skip-existing-commits --machine {machine[1]} .*", asv[1]
    )
    assert run
    assert Path(run[1]).read_text(encoding="utf-8") == f"{head}\n"
    report = (checkout / ".venv/bin/metagrad.calls").exists()
    assert (asv[2:] == ["publish --html-dir site/asv"]) == report == (ends == 0)


@needs_linux
def test_results_are_kept_from_night_to_night(checkout: Path) -> None:
    branch = WORKFLOWS["history.yml"]["env"]["RESULTS"]
    keep, before = (step_of("history.yml", name)["run"] for name in ("keep", "before"))
    origin, made = checkout.parent / "origin.git", checkout.parent / "results"

    def night(number: int, *files: str) -> list[str]:
        for file in files:
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_text(str(number), encoding="utf-8")
        folder = checkout.parent / f"night{number}"
        git(checkout.parent, "clone", "-q", str(origin), str(folder))
        variables = {"RESULTS": branch, "GITHUB_SHA": "5a1"}
        assert bash(folder, before, **variables).returncode == 0
        there = sorted(path.name for path in folder.glob("results/*/*"))
        git(folder, "clean", "-qfdx")
        done = bash(folder, keep, **variables)
        assert done.returncode == 0, done.stderr
        return there

    def kept() -> list[str]:
        return git(origin, "ls-tree", "-r", "--name-only", branch).split()

    assert night(1, "runs/a.jsonl", "asv/b.json") == []
    assert kept() == ["results/asv/b.json", "results/runs/a.jsonl"]
    shutil.rmtree(made / "runs")  # what a night lacks is kept all the same
    assert night(2, "runs/c.jsonl", "asv/b.json") == ["a.jsonl", "b.json"]
    assert kept() == ["results/asv/b.json", "results/runs/a.jsonl", "results/runs/c.jsonl"]
    assert git(origin, "show", f"{branch}:results/asv/b.json") == "2"
    assert night(3) == ["a.jsonl", "b.json", "c.jsonl"]
    assert git(origin, "rev-list", "--count", branch) == "2"
    assert git(origin, "ls-tree", "--name-only", "main") == "file"
