"""The CI recipes, as they are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / ".github" / "workflows").glob("*.y*ml")
}
WORKFLOWS: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))
GITLAB_JOBS = {name: job for name, job in GITLAB.items() if "script" in job}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job, told in workflow["jobs"].items():
            yield name, job, told


def steps() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, job, told in jobs():
        for step in told["steps"]:
            yield name, job, step


def gitlab_script(job: str) -> str:
    lines = [*GITLAB["default"]["before_script"], *GITLAB_JOBS[job]["script"]]
    return "\n".join(lines)
