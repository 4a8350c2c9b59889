"""Run git."""

import os
import subprocess


def git(*arguments: str) -> bytes | None:
    """Return the output of git; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def git_text(*arguments: str) -> str | None:
    """Return the output of git as text, in which file names that are not UTF-8 stay intact."""
    output = git(*arguments)
    return None if output is None else os.fsdecode(output)


def shallow() -> str:
    """Return an addition to errors about missing commits: a hint if the clone is shallow."""
    if (git_text("rev-parse", "--is-shallow-repository") or "").strip() != "true":
        return ""
    return "; this clone is shallow: `git fetch --unshallow` brings the rest"
