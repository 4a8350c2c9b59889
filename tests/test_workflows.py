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

from tests.support.workflow_files import (
    GITLAB,
    GITLAB_JOBS,
    ROOT,
    TEXTS,
    WORKFLOWS,
    gitlab_script,
    jobs,
    steps,
)

BIN = Path(sys.executable).parent


DOCS = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


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
