"""Asks git."""

import subprocess


def git(*arguments: str) -> bytes | None:
    """Returns what git prints; None where it fails.

    Args:
        *arguments: of git.
    """
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def shallow() -> str:
    """Returns what to add where a commit is missing: that the clone is shallow, if it is."""
    told = git("rev-parse", "--is-shallow-repository")
    if told is None or told.strip() != b"true":
        return ""
    return "; this clone is shallow: `git fetch --unshallow` brings the rest"
