"""The CI recipes: they parse, call what there is, do what they say, and leave nothing open."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.repositories import git

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DOCS = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
TEXTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / ".github" / "workflows").glob("*.y*ml")
}
WORKFLOWS: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))
GITLAB_JOBS = {name: job for name, job in GITLAB.items() if "script" in job}

# Rights beyond reading, by file and job.
RIGHTS = {
    ("history.yml", "keep"): {"contents": "write"},
    ("history.yml", "deploy"): {"pages": "write", "id-token": "write"},
}
ASV = {"asv machine", "asv run", "asv publish"}
CALLED = {
    "tests.yml": {"make test"},
    "gate.yml": {"make venv", "metagrad gate"},
    "history.yml": {"make venv", "metagrad report", *ASV},
    ".gitlab-ci.yml": {"make venv", "metagrad gate", "metagrad report", *ASV},
    "ci.md": {"make venv", "metagrad gate", "metagrad doctor", "metagrad run"},
}
PINNED = re.compile(r"uses: (actions/[\w-]+(?:/[\w-]+)?@[0-9a-f]{40}) # (v\d+\.\d+\.\d+)")

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the recipes run on Linux")


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job, told in workflow["jobs"].items():
            yield name, job, told


def steps() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, job, told in jobs():
        for step in told["steps"]:
            yield name, job, step


def step_of(workflow: str, name: str) -> dict[str, Any]:
    (step,) = [step for file, _, step in steps() if (file, step.get("id")) == (workflow, name)]
    return step


def gitlab_script(job: str) -> str:
    lines = [*GITLAB["default"]["before_script"], *GITLAB_JOBS[job]["script"]]
    return "\n".join(lines)


def runs_in(told: Any) -> Iterator[str]:
    """Yields the shell texts within a piece of a recipe."""
    if isinstance(told, dict):
        for key, value in told.items():
            if key == "run" and isinstance(value, str):
                yield value
            else:
                yield from runs_in(value)
    elif isinstance(told, list):
        for value in told:
            yield from runs_in(value)


def shell_texts() -> list[tuple[str, str]]:
    """All shell text by file: of the recipes, and what the document tells people to type."""
    found = [(name, step["run"]) for name, _, step in steps() if "run" in step]
    found += [(".gitlab-ci.yml", gitlab_script(job)) for job in GITLAB_JOBS]
    fragments = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
    found += [("ci.md", text) for part in fragments for text in runs_in(yaml.safe_load(part))]
    inline = re.findall(r"`((?:metagrad|asv|make) [^`\n]+)`", DOCS)
    return found + [("ci.md", text) for text in inline]


def calls(shell: str) -> Iterator[list[str]]:
    """Yields each call of a tool of ours, its words split as a shell does."""
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        call: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                if call and (tool := Path(call[0]).name) in ("metagrad", "asv", "make"):
                    yield [tool, *call[1:]]
                call = []
            elif call or not re.fullmatch(r"\w+=.*|if|then|else|!", word):
                call.append(word)


@cache
def help_of(tool: str, command: str) -> str:
    done = subprocess.run(
        [BIN / tool, command, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""


def lacking(call: list[str]) -> list[str]:
    """Returns what of a call does not exist: target, command or options."""
    tool, *words = call
    if tool == "make":
        command = ["make", "--dry-run", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        return [] if done.returncode == 0 else words
    told = help_of(tool, words[0])
    if not told:
        return words[:1]
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return sorted(options - set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", told)))


@pytest.mark.parametrize("file", CALLED)
def test_what_is_called_exists(file: str) -> None:
    found = [call for name, text in shell_texts() if name == file for call in calls(text)]
    assert CALLED[file] <= {" ".join(call[:2]) for call in found}
    assert not [(call, wrong) for call in found if (wrong := lacking(call))]


def test_what_does_not_exist_is_found() -> None:
    text = """
    if ! A=1 .venv/bin/metagrad gate --bogus x --out "$(echo a b)" || metagrad bogus; then
      make bogus && .venv/bin/asv run --machine \\
        m --bogus=1  # make none
    fi"""
    found = list(calls(text))
    assert [lacking(call) for call in found] == [["--bogus"], ["bogus"], ["bogus"], ["--bogus"]]


def test_scripts_of_the_project_can_be_run() -> None:
    assert ".ci/run" in GITLAB_JOBS["tests"]["script"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_there_are_the_three_recipes_on_both() -> None:
    assert set(WORKFLOWS) == {"tests.yml", "gate.yml", "history.yml"}
    assert set(GITLAB_JOBS) == {"tests", "gate", "history", "pages"}
    for name in WORKFLOWS:
        assert f"`{name.removesuffix('.yml')}`" in DOCS


def test_shell_text_parses() -> None:
    texts = [
        *shell_texts(),
        *((f".gitlab-ci.yml {job}", gitlab_script(job)) for job in GITLAB_JOBS),
    ]
    assert len(texts) > 15
    for where, text in texts:
        done = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{where}: {done.stderr}"


def test_actions_are_official_and_pinned() -> None:
    used = [step["uses"] for _, _, step in steps() if "uses" in step]
    assert len(used) >= 10
    pinned = [match for text in TEXTS.values() for match in PINNED.findall(text)]
    assert sorted(action for action, _ in pinned) == sorted(used)
    # Parts of one action, and the same one in two files, are of one commit and version.
    versions: dict[str, set[tuple[str, str]]] = {}
    for action, version in pinned:
        name, _, commit = action.partition("@")
        versions.setdefault("/".join(name.split("/")[:2]), set()).add((commit, version))
    assert not {name: found for name, found in versions.items() if len(found) > 1}


def test_nothing_is_written_into_shell_text() -> None:
    texts = [step["run"] for _, _, step in steps() if "run" in step]
    assert len(texts) >= 8
    assert not [text for text in texts if "${{" in text]


def test_rights_are_no_more_than_needed() -> None:
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
    given = {
        (name, job): told["permissions"] for name, job, told in jobs() if "permissions" in told
    }
    assert given == RIGHTS
    for name, job, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            kept = step["with"]["persist-credentials"]
            assert kept is ((name, job) == ("history.yml", "keep")), f"{name}: {job}"
    assert "pull_request" in WORKFLOWS["gate.yml"][True]  # YAML takes "on" for a truth value
    for text in TEXTS.values():
        assert "secrets." not in text
        assert "pull_request_target" not in text


def test_what_may_write_runs_nothing_of_the_project() -> None:
    for name, job in RIGHTS:
        for step in WORKFLOWS[name]["jobs"][job]["steps"]:
            assert not list(calls(step.get("run", "")))
            assert not re.search(r"\b(python|pip|\.venv|\.ci)\b", step.get("run", ""))


def test_no_run_goes_on_for_ever_or_hides_a_failure() -> None:
    for name, job, told in jobs():
        assert 0 < told["timeout-minutes"] <= 240, f"{name}: {job}"
    for name, job, step in steps():
        assert "continue-on-error" not in step, f"{name}: {job}"
    for name, job in GITLAB_JOBS.items():
        assert "timeout" in job, name
        assert "allow_failure" not in job, name
    assert WORKFLOWS["gate.yml"]["concurrency"]["cancel-in-progress"] is True


def test_threads_are_fixed() -> None:
    for told in (*(workflow["env"] for workflow in WORKFLOWS.values()), GITLAB["variables"]):
        assert told["OMP_NUM_THREADS"] == "1"


def test_caches_are_keyed_by_files_that_exist() -> None:
    named = [
        file
        for text in TEXTS.values()
        for files in re.findall(r"hashFiles\(([^)]*)\)", text)
        for file in re.findall(r"'([^']+)'", files)
    ]
    paths = [
        step["with"]["cache-dependency-path"]
        for _, _, step in steps()
        if "setup-python" in step.get("uses", "")
    ]
    named += [file for path in paths for file in path.split()]
    entries = [entry for job in GITLAB_JOBS.values() for entry in job.get("cache", [])]
    keys = [entry["key"] for entry in entries if isinstance(entry["key"], dict)]
    named += [file for key in keys for file in key["files"]]
    assert len(paths) == 3
    assert len(keys) == 4
    assert set(named) == {"pyproject.toml", "constraints.txt"}
    assert all((ROOT / file).is_file() for file in named)


def test_torch_is_the_one_that_was_tested() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^torch==(\S+)$", constraints, re.MULTILINE)
    (install,) = re.findall(r"pip install metagrad-bench .*", DOCS)
    index = GITLAB["variables"]["PIP_EXTRA_INDEX_URL"]
    assert f"torch=={version} --extra-index-url {index}" in install
    assert {workflow["env"]["PIP_EXTRA_INDEX_URL"] for workflow in WORKFLOWS.values()} == {index}


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCS)
    named = re.findall(r"`((?:\.github|\.gitlab|tests/|docs/)[\w./-]*)`", DOCS)
    assert len(named) >= 4
    for target in links:
        assert (ROOT / "docs" / target).exists(), target
    for target in named:
        assert (ROOT / target).exists(), target


def linter(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"no {name} in this machine")
    return found


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        (["vendor.github-workflows"], [f".github/workflows/{name}" for name in WORKFLOWS]),
        (["vendor.gitlab-ci", "--data-transform", "gitlab-ci"], [".gitlab-ci.yml"]),
    ],
    ids=["github", "gitlab"],
)
def test_recipes_are_what_the_schemas_ask_for(schema: list[str], files: list[str]) -> None:
    command = [linter("check-jsonschema"), "--builtin-schema", *schema, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    command = [linter("actionlint"), "-shellcheck=", "-pyflakes="]
    files = sorted((ROOT / ".github" / "workflows").iterdir())
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
