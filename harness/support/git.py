"""Asks git."""

import os
import subprocess


def git(*arguments: str) -> bytes | None:
    """Returns what git prints; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def git_text(*arguments: str) -> str | None:
    """Returns the same as text; names of files that are no UTF-8 come back as they were."""
    told = git(*arguments)
    return None if told is None else os.fsdecode(told)


def shallow() -> str:
    """Returns what to add where a commit is missing: that the clone is shallow, if it is."""
    if (git_text("rev-parse", "--is-shallow-repository") or "").strip() != "true":
        return ""
    return "; this clone is shallow: `git fetch --unshallow` brings the rest"
