"""The CI recipes: they parse, call existing commands, grant few rights, and their steps work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.repositories import git
from tests.support.shell_calls import BIN, ROOT, calls, unknown_words

TEXTS = {path.name: path.read_text("utf-8") for path in (ROOT / ".github/workflows").iterdir()}
WORKFLOWS: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text("utf-8"))
GITLAB_JOBS = {name: job for name, job in GITLAB.items() if "script" in job}
JOBS = [(file, name, job) for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()]
STEPS = [(file, name, step) for file, name, job in JOBS for step in job["steps"]]
DOCS = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")

# Rights beyond reading, by file and job.
RIGHTS = {
    ("history.yml", "keep"): {"contents": "write"},
    ("history.yml", "deploy"): {"pages": "write", "id-token": "write"},
}
PINNED = re.compile(r"uses: (actions/[\w-]+(?:/[\w-]+)?@[0-9a-f]{40}) # (v\d+\.\d+\.\d+)")


def gitlab_script(job: str) -> str:
    return "\n".join([*GITLAB["default"]["before_script"], *GITLAB_JOBS[job]["script"]])


def shell_texts() -> list[tuple[str, str]]:
    """Return all shell text by file: of the recipes, and of the document."""
    texts = [(name, step["run"]) for name, _, step in STEPS if "run" in step]
    texts += [(".gitlab-ci.yml", gitlab_script(job)) for job in GITLAB_JOBS]
    for block in re.findall(r"^```yaml\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE):
        recipe = yaml.safe_load(block)
        for job in recipe.get("jobs", {"": recipe}).values():
            texts += [("ci.md", step["run"]) for step in job["steps"]]
    return texts + [("ci.md", x) for x in re.findall(r"`((?:metagrad|asv|make) [^`\n]+)`", DOCS)]


def test_commands_of_the_recipes_exist() -> None:
    asv = {"asv machine", "asv run", "asv publish"}
    expected = {
        "tests.yml": {"make test", "make test-all"},
        "gate.yml": {"make venv", "metagrad gate"},
        "history.yml": {"make venv", "metagrad report", *asv},
        ".gitlab-ci.yml": {"make venv", "metagrad gate", "metagrad report", *asv},
        "ci.md": {"make venv", "metagrad gate", "metagrad doctor", "metagrad run"},
    }
    found: dict[str, set[str]] = {name: set() for name in expected}
    for name, text in shell_texts():
        syntax = subprocess.run(["bash", "-n"], input=text, text=True, check=False)
        assert syntax.returncode == 0, f"{name}: {text}"
        for call in calls(text):
            assert not unknown_words(call), f"{name}: {call}"
            found[name].add(" ".join(call[:2]))
    assert not {
        name: words - found[name] for name, words in expected.items() if words - found[name]
    }
    assert unknown_words(["metagrad", "gate", "--bogus"]) == ["--bogus"]
    assert unknown_words(["make", "bogus"]) == ["bogus"]
    assert set(GITLAB_JOBS) == {"tests", "gate", "history", "pages"}
    assert GITLAB_JOBS["tests"]["script"][0].startswith(".ci/run ")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_slow_tests_run_each_night_and_before_a_release() -> None:
    triggers = WORKFLOWS["tests.yml"][True]  # YAML takes "on" for a truth value
    assert {"schedule", "pull_request"} <= set(triggers)
    assert triggers["push"]["tags"]
    (condition,) = [step["if"] for _, _, step in STEPS if step.get("run") == "make test-all"]
    (rule, _) = GITLAB_JOBS["tests"]["rules"]
    assert "test-all" in rule["variables"]["TARGETS"]
    for text, tag in ((condition, "github.ref_type == 'tag'"), (rule["if"], "$CI_COMMIT_TAG")):
        assert "schedule" in text
        assert tag in text
    assert "$CI_COMMIT_TAG" in [rule["if"] for rule in GITLAB["workflow"]["rules"]]


def test_actions_are_official_and_pinned() -> None:
    used = [step["uses"] for _, _, step in STEPS if "uses" in step]
    pinned = [match for text in TEXTS.values() for match in PINNED.findall(text)]
    assert len(used) >= 10
    assert sorted(action for action, _ in pinned) == sorted(used)
    # Parts of one action, and the same one in two files, are of one commit and version.
    parts = [(re.split(r"[/@]", action), version) for action, version in pinned]
    pins = {(words[1], words[-1], version) for words, version in parts}
    assert len(pins) == len({name for name, _, _ in pins})


def test_rights_are_no_more_than_needed() -> None:
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
        assert "pull_request_target" not in TEXTS[name]
        assert "secrets." not in TEXTS[name]
    assert "pull_request" in WORKFLOWS["gate.yml"][True]
    given = {(file, name): job.get("permissions") for file, name, job in JOBS}
    assert {job: rights for job, rights in given.items() if rights} == RIGHTS
    for file, name, step in STEPS:
        text = step.get("run", "")
        assert "${{" not in text, f"{file}: {name}: values reach the shell as variables"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is ((file, name) == ("history.yml", "keep"))
        if (file, name) in RIGHTS:  # nothing of the project runs where writing is allowed
            assert not list(calls(text))
            assert not re.search(r"\b(python|pip|\.venv|\.ci)\b", text)


def test_runs_end_hide_no_failure_and_install_what_was_tested() -> None:
    assert all(0 < job["timeout-minutes"] <= 240 for _, _, job in JOBS)
    assert all("timeout" in job for job in GITLAB_JOBS.values())
    assert not [step for _, _, step in STEPS if "continue-on-error" in step]
    assert not [job for job in GITLAB_JOBS.values() if "allow_failure" in job]
    # They install the packages that were tested.
    index = GITLAB["variables"]["PIP_EXTRA_INDEX_URL"]
    for variables in (*(workflow["env"] for workflow in WORKFLOWS.values()), GITLAB["variables"]):
        assert variables["OMP_NUM_THREADS"] == "1"
        assert variables["PIP_EXTRA_INDEX_URL"] == index
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^torch==(\S+)$", constraints, re.MULTILINE)
    assert f"torch=={version} --extra-index-url {index}" in DOCS
    # Caches are keyed by the files that say what is installed.
    keys = re.findall(r"hashFiles\(([^)]*)\)", "".join(TEXTS.values()))
    files = [re.findall(r"'([^']+)'", key) for key in keys]
    with_ = [step["with"] for _, _, step in STEPS if "setup-python" in step.get("uses", "")]
    files += [options["cache-dependency-path"].split() for options in with_]
    caches = [cache["key"] for job in GITLAB_JOBS.values() for cache in job.get("cache", [])]
    files += [key["files"] for key in caches if isinstance(key, dict)]
    assert len(files) >= 8
    assert all(sorted(names) == ["constraints.txt", "pyproject.toml"] for names in files)


def test_recipes_fit_the_schemas_of_github_and_gitlab() -> None:
    check = f"{BIN}/check-jsonschema --builtin-schema vendor."
    for command in (
        f"{check}github-workflows .github/workflows/*",
        f"{check}gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml",
    ):
        done = bash(ROOT, command)
        assert done.returncode == 0, done.stdout + done.stderr


# The shell text of the steps, run on small repositories with stand-ins for the tools.


def step_of(workflow: str, name: str) -> dict[str, Any]:
    return next(step for file, _, step in STEPS if (file, step.get("id")) == (workflow, name))


def bash(folder: Path, text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run shell text as a runner does, with the tools that `stand_in` wrote."""
    path = f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "RUNNER_TEMP": str(folder.parent)} | variables
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def stand_in(path: Path, text: str = "") -> Path:
    """Put a script that records its calls in the place of a tool; return the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = path.with_suffix(".calls")
    path.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{record}"\n{text}\n', encoding="utf-8")
    path.chmod(0o755)
    return record


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone whose branch left `main`, which has moved on since."""
    git(tmp_path, "init", "-q", "--bare", "--initial-branch=main", "origin.git")
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", "origin.git", str(folder))
    for number, branch in enumerate(("main", "branch", "main")):
        git(folder, "checkout", "-q", *(["-B", branch, "main"] if number else ["-B", branch]))
        (folder / "file").write_text(str(number), encoding="utf-8")
        git(folder, "add", "file")
        git(folder, "commit", "-q", "-m", str(number))
    git(folder, "push", "-q", "origin", "main", "branch")
    git(folder, "checkout", "-q", "--detach", "branch")
    return folder


def test_gate_passes_the_exit_code_on_and_shows_the_table(checkout: Path) -> None:
    gate, show = step_of("gate.yml", "gate"), step_of("gate.yml", "show")
    assert gate["env"] == {"BASE": "origin/${{ github.base_ref }}"}
    assert show["if"] == "always()"
    base = git(checkout, "rev-parse", "HEAD~1")
    assert base != git(checkout, "rev-parse", "origin/main")
    for code in (2, 1, 0):
        # With 2 nothing could be measured, and nothing was written.
        writes = "mkdir -p gate && echo table > gate/gate.md" if code < 2 else ""
        record = stand_in(checkout / ".venv/bin/metagrad", f"{writes}\nexit {code}")
        done = bash(checkout, gate["run"], BASE="origin/main")
        assert done.returncode == code, done.stderr
        called = record.read_text(encoding="utf-8").splitlines()
        assert called[-1] == f"gate --base {base} --head HEAD --out gate"
        summary = checkout.parent / f"summary{code}"
        assert bash(checkout, show["run"], GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
        assert (summary.read_text(encoding="utf-8") == "table\n") == (code < 2)
    # The name of a branch is not run.
    shutil.rmtree(checkout / "gate")
    name = 'origin/$(touch "$PWD"/x);touch${IFS}y'
    assert bash(checkout, step_of("gate.yml", "gate")["run"], BASE=name).returncode != 0
    assert sorted(path.name for path in checkout.iterdir()) == [".git", ".venv", "file"]


def test_gate_of_gitlab_takes_the_base_that_fits(checkout: Path) -> None:
    stand_in(checkout.parent / "bin" / "make")
    for target, code in (("", 1), ("ba5e", 0)):
        record = stand_in(checkout / ".venv/bin/metagrad", f"exit {code}")
        variables = {"CI_MERGE_REQUEST_DIFF_BASE_SHA": "d1ff"}
        variables |= {"CI_MERGE_REQUEST_TARGET_BRANCH_SHA": target} if target else {}
        done = bash(checkout, gitlab_script("gate"), **variables)
        assert done.returncode == code, done.stderr
        called = record.read_text(encoding="utf-8").splitlines()
        assert called[-1] == f"gate --base {target or 'd1ff'} --head HEAD --out gate"
    (checkout / ".cache" / "pip").touch()  # is no uncommitted change
    assert git(checkout, "status", "--porcelain") == "?? .venv/"


MEASURE = """
[ "$1" = run ] || exit 0
[ -z "$RESULT" ] || { mkdir -p "results/asv/$5"; touch "results/asv/$5/$RESULT-env.json"; }
exit $CODE"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc/cpuinfo")
@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize(
    ("code", "result", "ends"), [(0, True, 0), (2, True, 0), (2, False, 2), (1, True, 1)]
)
def test_history_goes_on_only_after_a_failed_benchmark(
    checkout: Path, service: str, code: int, result: bool, ends: int
) -> None:
    stand_in(checkout.parent / "bin" / "make")
    asv = stand_in(checkout / ".venv/bin/asv", MEASURE)
    # `report` ends with 1 where it leaves something out.
    report = stand_in(checkout / ".venv/bin/metagrad", "exit 1")
    text = gitlab_script("history")
    if service == "github":
        text = "\n".join(step_of("history.yml", name)["run"] for name in ("measure", "pages"))
    head = git(checkout, "rev-parse", "HEAD")
    variables = {"CODE": str(code), "RESULT": head[:8] if result else "", "COMMITS": "1"}
    done = bash(checkout, text, **variables)
    assert done.returncode == ends, done.stderr
    machine, run, *rest = asv.read_text(encoding="utf-8").splitlines()
    named = re.fullmatch(rf"machine --yes --machine ({service}[\w-]*\w)", machine)
    assert named
    words = run.split()
    assert words[words.index("--machine") + 1] == named[1]
    assert "--skip-existing-commits" in words
    commits = Path(words[1].removeprefix("HASHFILE:"))
    assert commits.read_text(encoding="utf-8") == f"{head}\n"
    assert (rest == ["publish --html-dir site/asv"]) == report.exists() == (ends == 0)


def test_results_are_stored_from_night_to_night(checkout: Path) -> None:
    branch = WORKFLOWS["history.yml"]["env"]["RESULTS"]
    keep, before = (step_of("history.yml", name)["run"] for name in ("keep", "before"))
    origin, results = checkout.parent / "origin.git", checkout.parent / "results"

    def night(number: int, *files: str) -> list[str]:
        for file in files:
            (results / file).parent.mkdir(parents=True, exist_ok=True)
            (results / file).write_text(str(number), encoding="utf-8")
        folder = checkout.parent / f"night{number}"
        git(checkout.parent, "clone", "-q", str(origin), str(folder))
        variables = {"RESULTS": branch, "GITHUB_SHA": "5a1"}
        assert bash(folder, before, **variables).returncode == 0
        there = sorted(path.name for path in folder.glob("results/*/*"))
        git(folder, "clean", "-qfdx")
        done = bash(folder, keep, **variables)
        assert done.returncode == 0, done.stderr
        return there

    def stored() -> list[str]:
        return git(origin, "ls-tree", "-r", "--name-only", branch).split()

    assert night(1, "runs/a.jsonl", "asv/b.json") == []
    assert stored() == ["results/asv/b.json", "results/runs/a.jsonl"]
    shutil.rmtree(results / "runs")  # results of earlier nights stay where a night lacks them
    assert night(2, "runs/c.jsonl", "asv/b.json") == ["a.jsonl", "b.json"]
    assert stored() == ["results/asv/b.json", "results/runs/a.jsonl", "results/runs/c.jsonl"]
    assert git(origin, "show", f"{branch}:results/asv/b.json") == "2"
    assert night(3) == ["a.jsonl", "b.json", "c.jsonl"]
    assert git(origin, "rev-list", "--count", branch) == "2"
    assert git(origin, "ls-tree", "--name-only", "main") == "file"
