"""Check commits out side by side, each installed in a separate folder."""

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

from estimators.base.errors import UserError
from harness.support.cache import folder
from harness.support.git import git, git_text, shallow

_KEPT = 20  # checkouts; the least recently used ones are deleted


@dataclass(frozen=True)
class Checkout:
    """A commit that is ready to be measured."""

    commit: str
    subject: str  # first line of its message
    work: Path  # folder in which commands for it are run
    path: tuple[Path, ...]  # folders from which Python imports, first to last
    results: Path  # folder of its measurements

    def has(self, package: str) -> bool:
        """Return whether it contains a package, which then is not this environment's."""
        return any((folder / package).is_dir() for folder in self.path)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that runs its code."""
        inherited = os.environ.get("PYTHONPATH", "")
        folders = [*map(str, self.path), *([inherited] if inherited else [])]
        variables = {"PYTHONPATH": os.pathsep.join(folders), "ASV_COMMIT": self.commit}
        return os.environ | variables


def resolve(ref: str) -> str:
    """Return the hash of a commit of the repository of the current folder."""
    if git("rev-parse", "--git-dir") is None:
        raise UserError("this folder is in no git repository; --base and --head name its commits")
    commit = git_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise UserError(f"no commit {ref!r} in this repository{shallow()}")
    return commit.strip()


def install(commit: str) -> Checkout:
    """Export a commit and, if it is a package, install it there, without its requirements.

    Both happen once for a commit; all commits run with the packages of this environment.

    Raises:
        UserError: its package cannot be built, or the cache not be written.
    """
    try:
        return _installed(commit, _prefix())
    except OSError as error:
        raise UserError(f"{folder()} cannot be written: {error.strerror or error}") from None


def _installed(commit: str, prefix: Path) -> Checkout:
    # The installation depends on the current folder within the repository.
    place = folder() / "trees" / f"{commit}-{hashlib.sha256(str(prefix).encode()).hexdigest()[:8]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Its draft has a name of the same length: the length of paths can change speed.
        draft = Path(tempfile.mkdtemp(prefix=place.name[:-8], dir=place.parent))
        try:
            _export(commit, draft / "source")
            _install(draft / "source", prefix, draft / "site")
            (draft / "results").mkdir()
            draft.rename(place)
        except OSError:
            if not place.exists():  # or another process was quicker
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    os.utime(place)
    for old in sorted(place.parent.iterdir(), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    work = place / "source" / prefix
    subject = (git_text("log", "-1", "--format=%s", commit) or "").strip()
    return Checkout(commit, subject, work, (place / "site", work), place / "results")


def file_at(commit: str, name: str) -> bytes | None:
    """Return a file of a commit, from the folder that corresponds to ours; None if it has none."""
    return git("show", f"{commit}:./{name}")


def _prefix() -> Path:
    return Path((git_text("rev-parse", "--show-prefix") or "").strip())


def _export(commit: str, target: Path) -> None:
    top = (git_text("rev-parse", "--show-toplevel") or "").strip()
    archive = git("-C", top, "archive", "--format=tar", commit)
    if archive is None:
        raise UserError(f"git cannot export {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        # The filters of the standard library are not in every Python 3.11.
        files.extraction_filter = lambda member, path: member
        files.extractall(target, [member for member in files if not _leads_out(member)])


def _leads_out(member: tarfile.TarInfo) -> bool:
    """Return whether this is a link to outside, the only way out that git writes."""
    if not member.issym():
        return False
    leads_to = os.path.normpath(PurePosixPath(member.name).parent / member.linkname)
    return PurePosixPath(leads_to).is_absolute() or leads_to.split("/")[0] == ".."


def _install(top: Path, prefix: Path, target: Path) -> None:
    """Install the project to which a folder of the repository belongs, if it is one."""
    target.mkdir()
    around = [prefix, *prefix.parents]
    project = next((one for one in around if (top / one / "pyproject.toml").exists()), None)
    if project is None:
        return
    source = top / project
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(target)]
    # With the build backend in this environment, nothing has to be fetched.
    backend = _backend(source / "pyproject.toml")
    command += ["--no-build-isolation"] if find_spec(backend) else []
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"{top.parent.name[:8]} cannot be installed: {why}")


def _backend(project: Path) -> str:
    try:
        build = tomllib.loads(project.read_text(encoding="utf-8")).get("build-system", {})
        return str(build.get("build-backend", "setuptools")).partition(".")[0].partition(":")[0]
    except (ValueError, OSError) as error:
        raise UserError(f"{project.name} of the commit cannot be read: {error}") from None
