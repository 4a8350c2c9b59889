"""Check commits out side by side, each installed in a separate folder."""

import hashlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from estimators.base.errors import UserError
from harness.gate.copies import copy, filters, parts
from harness.support.cache import folder
from harness.support.git import free_environment, git_text, run_git, shallow

_KEPT = 20  # checkouts; the least recently used ones are deleted
_LINES = 10  # of what pip says


@dataclass(frozen=True)
class Checkout:
    """A commit that is ready to be measured."""

    commit: str
    subject: str  # first line of its message
    work: Path  # folder in which commands for it are run
    path: tuple[Path, ...]  # folders from which Python imports, first to last
    results: Path  # folder of its measurements
    lacks: str = ""  # in words: submodules, contents that git-lfs stores

    def has(self, package: str) -> bool:
        """Return whether it contains a package, which then is not this environment's."""
        return any((folder / package).is_dir() for folder in self.path)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that runs its code."""
        inherited = os.environ.get("PYTHONPATH", "")
        folders = [*map(str, self.path), *([inherited] if inherited else [])]
        variables = {"PYTHONPATH": os.pathsep.join(folders), "ASV_COMMIT": self.commit}
        return free_environment() | variables


def resolve(ref: str) -> str:
    """Return the hash of a commit of the repository of the current folder."""
    try:
        run_git("rev-parse", "--git-dir")
    except UserError as error:
        raise UserError(f"--base and --head name commits of this folder, but {error}") from None
    commit = git_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise UserError(f"no commit {ref!r} in this repository{shallow()}")
    return commit.strip()


def install(commit: str, console: Console) -> Checkout:
    """Copy a commit and, if it is a package, install it there, without its requirements.

    Both happen once for a commit; all commits run with the packages of this environment.

    Raises:
        UserError: it cannot be copied, or its package not be built, or the cache not be written.
    """
    try:
        return _installed(commit, _prefix(), console)
    except OSError as error:
        raise UserError(f"{folder()} cannot be written: {error.strerror or error}") from None


def _installed(commit: str, prefix: Path, console: Console) -> Checkout:
    found = parts(commit)
    # The installation depends on the current folder within the repository.
    facts = hashlib.sha256(repr((str(prefix), found, filters())).encode()).hexdigest()
    place = folder() / "trees" / f"{commit}-{facts[:8]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Its draft has a name of the same length: the length of paths can change speed.
        draft = Path(tempfile.mkdtemp(prefix=place.name[:-8], dir=place.parent))
        lacks = ""
        try:
            lacks = copy(found, draft / "source")
            (draft / "lacks").write_text(lacks, encoding="utf-8", errors="surrogateescape")
            _install(draft / "source", prefix, draft / "site", console)
            (draft / "results").mkdir()
            draft.rename(place)
        except UserError as error:
            also = f" ({lacks})" if lacks else ""
            raise UserError(f"{commit[:8]} cannot be installed: {error}{also}") from None
        except OSError:
            if not place.exists():  # or another process was quicker
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    os.utime(place)
    for old in sorted(place.parent.iterdir(), key=_last_used)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    work = place / "source" / prefix
    if not work.is_dir():
        raise UserError(f"{commit[:8]} has no folder {prefix}, in which its commands would run")
    subject = (
        git_text("-c", "log.showSignature=false", "log", "-1", "--format=%s", commit) or ""
    ).strip()
    lacks = (place / "lacks").read_text(encoding="utf-8", errors="surrogateescape")
    return Checkout(commit, subject, work, (place / "site", work), place / "results", lacks)


def _last_used(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except FileNotFoundError:  # a draft of another process, which has its name now
        return math.inf


def _prefix() -> Path:
    return Path((git_text("rev-parse", "--show-prefix") or "").rstrip("\n"))


def _install(top: Path, prefix: Path, target: Path, console: Console) -> None:
    """Install the project to which a folder of the repository belongs, if it is one."""
    target.mkdir()
    project = next((one for one in (prefix, *prefix.parents) if _is_project(top / one)), None)
    if project is None:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(target), str(top / project)]
    reasons: dict[str, list[str]] = {}  # the last lines, by the last one
    # With all that the build needs in this environment, nothing has to be fetched.
    for words in (["--no-build-isolation", "--check-build-dependencies"], []):
        done = subprocess.run(
            [*command, *words],
            env=free_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if not done.returncode:
            return
        # What follows says only that it is above.
        text = done.stdout.partition("[end of output]")[0]
        lines = [line for line in text.splitlines() if line.strip()][-_LINES:]
        reasons.setdefault(lines[-1].strip() if lines else "no reason given", lines)
    for lines in reasons.values():
        console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
    raise UserError(f"{'; '.join(reasons)}; the last lines of pip are above")


def _is_project(folder: Path) -> bool:
    """Return whether a folder is a package's: pyproject.toml may have settings of tools alone."""
    path = folder / "pyproject.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"its {path.name} cannot be read: {error}") from None
    return (
        not tables.keys().isdisjoint(("project", "build-system")) or (folder / "setup.py").is_file()
    )
