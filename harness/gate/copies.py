"""Copies of commits: the files as git checks them out, in repositories that borrow the objects.

A worktree would be an entry in the user's repository, and stay there if the gate is killed. A clone
of a shallow repository lacks what no branch leads to, and one of a partial repository cannot fetch
what that lacks.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from estimators.base.errors import UserError
from harness.support.git import free_environment, git_text, run_git

# No hooks or daemons, no traces in the user's repository, and all files of the commit.
_SETTINGS = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "core.splitIndex=false",
    "core.sparseCheckout=false",
    "submodule.recurse=false",
)
_REFS = ("refs/tags", "refs/replace")  # packages take their version from tags
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Part:
    """A commit of the repository, or of a submodule."""

    place: PurePosixPath  # within the copy
    commit: str
    repository: str  # its git folder; "" if this checkout lacks the submodule


def parts(commit: str) -> list[Part]:
    """Find the parts of a commit of the repository of the current folder.

    Raises:
        UserError: a submodule of this checkout lacks its commit.
    """
    repository = run_git("rev-parse", "--absolute-git-dir").rstrip("\n")
    top = git_text("rev-parse", "--show-toplevel") or repository  # of a bare one
    return [*_with_submodules(Part(PurePosixPath(), commit, repository), Path(top.rstrip("\n")))]


def filters() -> str:
    """Return the settings by which other programs write files, as git-lfs does."""
    skip = os.environ.get("GIT_LFS_SKIP_SMUDGE", "")
    return (git_text("config", "--get-regexp", r"^filter\.") or "") + skip


def copy(commit: Sequence[Part], target: Path) -> str:
    """Write the parts of a commit; return in words what they lack."""
    for part in commit:
        (target / part.place).mkdir(parents=True, exist_ok=True)
        if part.repository:
            _copy(part, target / part.place)
    lacks = [f"the submodule {part.place} is empty" for part in commit if not part.repository]
    pointers = [path for part in commit if part.repository for path in _pointers(target, part)]
    more = f", as are {len(pointers) - 1} more" if len(pointers) > 1 else ""
    lacks += [f"{path} is a pointer of git-lfs{more}" for path in pointers[:1]]
    return "; ".join(lacks)


def _git(*arguments: str | Path, text: str = "", **variables: str) -> str:
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    return run_git(*settings, *arguments, environment=free_environment() | variables, text=text)


def _with_submodules(part: Part, top: Path) -> Iterator[Part]:
    yield part
    if not part.repository:
        return
    tree = _git(f"--git-dir={part.repository}", "ls-tree", "-r", "-z", "--full-tree", part.commit)
    for entry in tree.split("\0"):
        facts, _, name = entry.partition("\t")
        if facts.startswith("160000 "):
            place, commit = part.place / name, facts.split()[2]
            yield from _with_submodules(Part(place, commit, _submodule(top, place, commit)), top)


def _submodule(top: Path, place: PurePosixPath, commit: str) -> str:
    if not (top / place / ".git").exists():
        return ""
    repository = _git("-C", top / place, "rev-parse", "--absolute-git-dir").rstrip("\n")
    try:
        _git(f"--git-dir={repository}", "cat-file", "-e", f"{commit}^{{commit}}")
    except UserError:
        raise UserError(
            f"the submodule {place} lacks its commit {commit[:8]}; "
            f"`git -C {place} fetch origin {commit}` brings it"
        ) from None
    return repository


def _copy(part: Part, target: Path) -> None:
    theirs = (f"--git-dir={part.repository}", f"--work-tree={target}")
    paths = ("--git-path", "objects", "--git-path", "shallow")
    facts = _git(*theirs, "rev-parse", *paths, "--show-object-format")
    objects, boundary, kind = facts.splitlines()
    _git("init", "-q", "--template=", f"--object-format={kind}", target)
    own = target / ".git"
    (own / "objects" / "info" / "alternates").write_bytes(os.fsencode(objects))
    if Path(boundary).exists():
        shutil.copyfile(boundary, own / "shallow")
    # By their settings, filters and remotes, but with another index.
    _git(*theirs, "read-tree", "--reset", "-u", part.commit, GIT_INDEX_FILE=str(own / "index"))
    # Later than the files, whose contents git would otherwise compare, and without their filters.
    later = time.time() + 2
    os.utime(own / "index", (later, later))
    refs = _git(*theirs, "for-each-ref", "--format=create %(refname) %(objectname)", *_REFS)
    head = f"update HEAD {part.commit}\n"
    _git("-C", target, "update-ref", "--no-deref", "--stdin", text=head + refs)


def _pointers(target: Path, part: Part) -> Iterator[PurePosixPath]:
    folder = target / part.place
    for name in _git("-C", folder, "ls-files", "-z", "--", ":(attr:filter=lfs)").split("\0"):
        if not (folder / name).is_file():  # a link, or the end
            continue
        with (folder / name).open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                yield part.place / name
