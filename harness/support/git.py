"""Run git."""

import os
import subprocess
from collections.abc import Mapping

from estimators.base.errors import UserError


def run_git(
    *arguments: str | os.PathLike[str],
    environment: Mapping[str, str] | None = None,
    text: str = "",
) -> str:
    """Return the output of git for a text, in which file names that are not UTF-8 stay intact.

    Raises:
        UserError: git fails; it says why.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            input=os.fsencode(text),
            env=environment,
            capture_output=True,
            check=True,
        )
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        why = os.fsdecode(error.stderr).strip() or f"exit code {error.returncode}"
        raise UserError(f"git says: {why}") from None
    return os.fsdecode(done.stdout)


def git_text(*arguments: str) -> str | None:
    """Return the output of git; None if it fails."""
    try:
        return run_git(*arguments)
    except UserError:
        return None


def free_environment() -> dict[str, str]:
    """Return the environment without what ties git to one repository, as within a hook."""
    tied = run_git("rev-parse", "--local-env-vars").split()
    return {name: value for name, value in os.environ.items() if name not in tied}


def shallow() -> str:
    """Return an addition to errors about missing commits: a hint if the clone is shallow."""
    if (git_text("rev-parse", "--is-shallow-repository") or "").strip() != "true":
        return ""
    return "; this clone is shallow: `git fetch --unshallow` brings the rest"
