"""Small git repositories."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def git(folder: Path, *arguments: str, date: str = "") -> str:
    """Run git, at a given date if there is one; return its output."""
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(
        [*command, *arguments], env=os.environ | dates, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(root: Path, files: dict[str, str]) -> Path:
    """Write text files, their folders too, into a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def three_commits(parent: Path) -> tuple[Path, list[str]]:
    """Create three commits, oldest first, the second with a clock that is a day fast."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = parent / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    for subject, date in (("first", "T10"), ("second: ü", "T99"), ("third", "T12")):
        day = "2026-03-02T11" if date == "T99" else f"2026-03-01{date}"
        git(folder, "commit", "-q", "--allow-empty", "-m", subject, date=f"{day}:00:00+0000")
    return folder, git(folder, "rev-list", "--reverse", "HEAD").split()
