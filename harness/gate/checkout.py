"""Commits installed side by side, each in a folder of its own."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from estimators.base.errors import OptionError
from harness.support.cache import folder
from harness.support.git import git, git_text, shallow

_KEPT = 20  # trees; what has not been used for longest goes


@dataclass(frozen=True)
class Tree:
    """A commit, ready to be measured.

    Attributes:
        commit: full hash.
        subject: first line of its message.
        work: where its files are: the folder in which commands for it are run.
        path: folders from which Python imports its modules, first to last.
        results: folder for what was measured of it.
    """

    commit: str
    subject: str
    work: Path
    path: tuple[Path, ...]
    results: Path

    def has(self, package: str) -> bool:
        """Tells whether it brings a package, which then is not that of this environment."""
        return any((folder / package).is_dir() for folder in self.path)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that is to run its code, with everything else as it is here."""
        inherited = os.environ.get("PYTHONPATH", "")
        folders = [*map(str, self.path), *([inherited] if inherited else [])]
        told = {"PYTHONPATH": os.pathsep.join(folders), "ASV_COMMIT": self.commit}
        return os.environ | told


def resolve(ref: str) -> str:
    """Returns the hash of a commit of the repository that we are in.

    Raises:
        OptionError: there is no repository, or no such commit in it.
    """
    if git("rev-parse", "--git-dir") is None:
        raise OptionError("this folder is in no git repository; --base and --head name its commits")
    commit = git_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise OptionError(f"no commit {ref!r} in this repository{shallow()}")
    return commit.strip()


def install(commit: str) -> Tree:
    """Exports a commit and, if it is a package, installs it there, without what it requires.

    Both take place once; it is the packages of this environment that all commits run with.

    Raises:
        OptionError: its package cannot be built, or the cache not be written.
    """
    try:
        return _installed(commit, _prefix())
    except OSError as error:
        raise OptionError(f"{folder()} cannot be written: {error.strerror or error}") from None


def _installed(commit: str, prefix: Path) -> Tree:
    # What is installed depends on the folder that we are in.
    place = folder() / "trees" / f"{commit}-{hashlib.sha256(str(prefix).encode()).hexdigest()[:8]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Made under a name of the same length: how long paths are can change how fast code is.
        made = Path(tempfile.mkdtemp(prefix=place.name[:-8], dir=place.parent))
        try:
            _export(commit, made / "source")
            _install(made / "source", prefix, made / "site")
            (made / "results").mkdir()
            made.rename(place)
        except OSError:
            if not place.exists():  # or another process was quicker
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    os.utime(place)
    for old in sorted(place.parent.iterdir(), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    work = place / "source" / prefix
    subject = (git_text("log", "-1", "--format=%s", commit) or "").strip()
    return Tree(commit, subject, work, (place / "site", work), place / "results")


def file_at(commit: str, name: str) -> bytes | None:
    """Returns a file of a commit, in the folder that corresponds to ours; None if it has none."""
    return git("show", f"{commit}:./{name}")


def _prefix() -> Path:
    return Path((git_text("rev-parse", "--show-prefix") or "").strip())


def _export(commit: str, target: Path) -> None:
    top = (git_text("rev-parse", "--show-toplevel") or "").strip()
    archive = git("-C", top, "archive", "--format=tar", commit)
    if archive is None:
        raise OptionError(f"git cannot export {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        # The filters of the standard library are not in every Python 3.11.
        files.extraction_filter = lambda member, path: member
        files.extractall(target, [member for member in files if not _leads_out(member)])


def _leads_out(member: tarfile.TarInfo) -> bool:
    """Tells whether this is a link to elsewhere, which no code needs; git writes no other ways."""
    if not member.issym():
        return False
    leads_to = os.path.normpath(PurePosixPath(member.name).parent / member.linkname)
    return PurePosixPath(leads_to).is_absolute() or leads_to.split("/")[0] == ".."


def _install(top: Path, prefix: Path, target: Path) -> None:
    """Installs the project that a folder of the repository belongs to, if it is one.

    Raises:
        OptionError: it cannot be installed.
    """
    target.mkdir()
    around = [prefix, *prefix.parents]
    project = next((one for one in around if (top / one / "pyproject.toml").exists()), None)
    if project is None:
        return
    source = top / project
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(target)]
    # Where what builds it is here, nothing has to be fetched.
    built_by = _backend(source / "pyproject.toml")
    command += ["--no-build-isolation"] if find_spec(built_by) else []
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip() or "no reason told").splitlines()[-1]
        raise OptionError(f"{top.parent.name[:8]} cannot be installed: {why}")


def _backend(project: Path) -> str:
    try:
        told = tomllib.loads(project.read_text(encoding="utf-8")).get("build-system", {})
        return str(told.get("build-backend", "setuptools")).partition(".")[0].partition(":")[0]
    except (ValueError, OSError) as error:
        raise OptionError(f"{project.name} of the commit cannot be read: {error}") from None
