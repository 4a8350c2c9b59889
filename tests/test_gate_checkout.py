"""Commits copied and installed side by side, from repositories of other people."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from estimators.base.errors import UserError
from harness.gate.checkout import Checkout, install, resolve
from harness.gate.revision import Revision, check_pair
from tests.support.repositories import git, write

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

QUIET = Console(quiet=True)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
# Git refuses to fetch submodules from the same disk otherwise.
LOCAL = ("-c", "protocol.file.allow=always")


def commit_all(folder: Path, subject: str = "first") -> None:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", subject)


def checked_out(ref: str = "HEAD") -> Checkout:
    return install(resolve(ref), QUIET)


def files(checkout: Checkout) -> set[str]:
    """Return the names of files, without those of repositories."""
    names = (path.relative_to(checkout.work) for path in checkout.work.rglob("*"))
    return {
        str(one) for one in names if ".git" not in one.parts and not (checkout.work / one).is_dir()
    }


def describe(checkout: Checkout) -> str:
    """Return the version as packages take it from git."""
    command = ["git", "describe", "--tags", "--dirty"]
    return subprocess.check_output(
        command, cwd=checkout.work, env=checkout.environment, text=True
    ).strip()


def state(repository: Path) -> dict[Path, bytes]:
    """Return all of a repository but its objects: refs, HEAD, index, logs, worktrees."""
    return {
        path: path.read_bytes()
        for path in repository.rglob("*")
        if path.is_file() and not path.is_relative_to(repository / "objects")
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and git without settings, as those of git-lfs."""
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: None) -> Path:
    """Two commits, the first of them with a tag."""
    folder = write(
        tmp_path / "theirs",
        {
            ".gitattributes": "hidden export-ignore\nversion.txt export-subst\n*.bin filter=lfs\n",
            "hidden/plugin.py": "",
            "version.txt": "$Format:%H$",
            "a.txt": "one\n",
        },
    )
    commit_all(folder)
    git(folder, "tag", "v1.0")
    write(folder, {"a.txt": "two\n"})
    commit_all(folder, "second")
    monkeypatch.chdir(folder)
    return folder


EVERYTHING = {".gitattributes", "hidden/plugin.py", "version.txt", "a.txt"}


def test_all_files_of_a_commit_are_there_as_they_are(repository: Path) -> None:
    write(repository, {"a.txt": "edited", "new.txt": "staged"})
    (repository / "hidden" / "plugin.py").unlink()
    git(repository, "add", ".")
    before = state(repository / ".git")
    first, second = checked_out("HEAD~1"), checked_out()
    assert files(first) == files(second) == EVERYTHING
    assert [(one.work / "a.txt").read_text() for one in (first, second)] == ["one\n", "two\n"]
    assert (second.work / "version.txt").read_text() == "$Format:%H$"
    assert describe(first) == "v1.0"
    assert describe(second).startswith("v1.0-1-g")
    assert "dirty" not in describe(second)
    assert (second.subject, second.lacks) == ("second", "")
    assert state(repository / ".git") == before


def test_repositories_of_every_kind(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("allowFilter", "allowAnySHA1InWant"):
        git(repository, "config", f"uploadpack.{setting}", "true")
    git(repository, "commit", "-q", "--allow-empty", "-m", "third")
    base, url = git(repository, "rev-parse", "v1.0"), repository.as_uri()
    kinds = {
        "bare": ("clone", "-q", "--bare"),
        "partial": ("clone", "-q", "--filter=tree:0", "--no-checkout"),
        "sparse": ("clone", "-q", "--sparse"),
        "borrowing": ("clone", "-q", "--shared"),
        "shallow": ("clone", "-q", "--depth", "1"),
    }
    for kind, words in kinds.items():
        git(tmp_path, *words, str(repository) if kind == "borrowing" else url, kind)
    # As in CI: no branch leads to the base.
    git(tmp_path / "shallow", "fetch", "-q", "--depth", "1", "origin", base)
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "worktree"), base)
    for kind in (*kinds, "worktree"):
        monkeypatch.chdir(tmp_path / kind)
        inner = tmp_path / kind / ("" if kind == "bare" else ".git")
        before = state(inner), state(repository / ".git")
        old, new = checked_out(base), checked_out()
        assert files(old) == files(new) == EVERYTHING, kind
        assert (old.work / "a.txt").read_text() == "one\n", kind
        assert kind == "shallow" or describe(old) == "v1.0", kind
        assert git(new.work, "log", "--format=%s").startswith(
            "first" if kind == "worktree" else "third"
        )
        assert (state(inner), state(repository / ".git")) == before, kind


def test_replaced_commits_are_replaced_in_the_copy(repository: Path) -> None:
    git(repository, "replace", "HEAD", "v1.0")
    work = checked_out().work
    assert (work / "a.txt").read_text() == "one\n"
    assert git(work, "status", "--porcelain") == ""


def test_hashes_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: None) -> None:
    folder = write(tmp_path / "long", {"a.txt": ""})
    git(folder, "init", "-q", "--object-format=sha256")
    commit_all(folder)
    git(folder, "tag", "v1")
    monkeypatch.chdir(folder)
    assert describe(checked_out()) == "v1"


def test_what_a_partial_clone_cannot_fetch_is_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    words = ("clone", "-q", "--filter=blob:none", "--no-checkout", repository.as_uri(), "offline")
    git(tmp_path, *words)
    repository.rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "offline")
    with pytest.raises(UserError, match="cannot be installed: git says"):
        checked_out()


def test_nothing_of_the_user_runs_or_changes(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = ("post-checkout", "reference-transaction", "post-index-change", "watch")
    for name in hooks:
        write(tmp_path / "hooks", {name: f"#!/bin/sh\ntouch {tmp_path / name}\n"})
        (tmp_path / "hooks" / name).chmod(0o755)
    settings = f"[core]\nhooksPath = {tmp_path}/hooks\nfsmonitor = {tmp_path}/hooks/watch\n"
    write(tmp_path, {"settings": f"{settings}splitIndex = true\n"})
    before = state(repository / ".git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    checked_out()
    assert not [name for name in hooks if (tmp_path / name).exists()]
    assert state(repository / ".git") == before


def test_a_hook_can_run_the_gate(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(repository / ".git")
    with monkeypatch.context() as patch:
        for name, value in (("DIR", ".git"), ("INDEX_FILE", ".git/index"), ("WORK_TREE", ".")):
            patch.setenv(f"GIT_{name}", str(repository / value))
        assert describe(checked_out("v1.0")) == "v1.0"
    assert state(repository / ".git") == before


def test_submodules_are_those_of_the_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, lib = (write(tmp_path / name, {f"{name}.py": "one"}) for name in ("inner", "lib"))
    for folder in (inner, lib):
        commit_all(folder)
    git(lib, *LOCAL, "submodule", "add", "-q", str(inner), "in ner")
    git(lib, "commit", "-q", "-m", "second")
    git(repository, *LOCAL, "submodule", "add", "-q", str(lib), "libs/lib")
    commit_all(repository, "third")
    write(lib, {"lib.py": "two"})
    commit_all(lib, "third")
    git(repository / "libs" / "lib", "pull", "-q")
    commit_all(repository, "fourth")
    git(repository, "config", "submodule.recurse", "true")
    third, fourth = checked_out("HEAD~1"), checked_out()
    assert files(third) == EVERYTHING | {".gitmodules", "libs/lib/.gitmodules", "libs/lib/lib.py"}
    assert third.lacks == "the submodule libs/lib/in ner is empty"
    assert third.lacks in check_pair(Revision("base", third), Revision("head", fourth))[0]
    assert (fourth.work / "libs" / "lib" / "lib.py").read_text() == "two"
    git(repository, *LOCAL, "submodule", "update", "-q", "--init", "--recursive")
    again = checked_out()
    assert again.lacks == ""
    assert "libs/lib/in ner/inner.py" in files(again)
    # A clone with the newest commit of the submodule alone.
    git(tmp_path, "clone", "-q", str(repository), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    assert checked_out().lacks == "the submodule libs/lib is empty"
    update = ("submodule", "update", "-q", "--init", "--depth", "1")
    git(Path(), "config", "--file", ".gitmodules", "submodule.libs/lib.url", lib.as_uri())
    git(Path(), *LOCAL, *update)
    assert "libs/lib/lib.py" in files(checked_out())
    with pytest.raises(UserError, match="submodule libs/lib lacks its commit"):
        checked_out("HEAD~1")


def test_contents_that_git_lfs_stores(repository: Path) -> None:
    write(repository, dict.fromkeys(("a.bin", "b.bin"), POINTER))
    (repository / "link.bin").symlink_to("nowhere")
    commit_all(repository, "third")
    assert checked_out().lacks == "a.bin is a pointer of git-lfs, as are 1 more"
    for name, value in (("clean", "cat"), ("smudge", "echo real"), ("required", "true")):
        git(repository, "config", f"filter.lfs.{name}", value)
    assert checked_out().lacks == ""
    assert (checked_out().work / "a.bin").read_text() == "real\n"
    assert "dirty" not in describe(checked_out())
    git(repository, "config", "filter.lfs.smudge", "no-such-git-lfs")
    with pytest.raises(UserError, match="no-such-git-lfs"):
        checked_out()


def test_folders_and_links_are_those_of_the_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(repository, {"one of many/waivers.toml": "# one"}) / "one of many"
    (folder / "absolute").symlink_to("/etc/hostname")
    (folder / "inside").symlink_to("../a.txt")
    commit_all(repository, "third")
    write(folder, {"waivers.toml": "# edited"})
    monkeypatch.chdir(folder)
    work = checked_out().work
    assert (work / "waivers.toml").read_text() == "# one"
    assert (work / "inside").read_text() == "two\n"
    assert str((work / "absolute").readlink()) == "/etc/hostname"
    with pytest.raises(UserError, match="has no folder one of many"):
        checked_out("HEAD~1")


def test_git_says_why_it_cannot_read_a_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        with pytest.raises(UserError, match=r"safe\.directory"):
            resolve("HEAD")
    with monkeypatch.context() as patch:
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        patch.chdir(tmp_path)
        with pytest.raises(UserError, match="not a git repository"):
            resolve("HEAD")
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        checked_out()


def test_a_package_is_installed_with_its_entry_points_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: None
) -> None:
    folder = write(
        tmp_path / "package",
        {
            "src/theirs/__init__.py": "",
            "setup.py": "import setuptools, subprocess\n"
            "found = subprocess.check_output(['git', 'describe', '--dirty'], text=True)\n"
            "setuptools.setup(name='theirs', version=found.strip('v\\n'),\n"
            "    packages=['theirs'], package_dir={'': 'src'},\n"
            "    entry_points={'metagrad.estimators': ['theirs = theirs']})\n",
            "pyproject.toml": "[tool.ruff]\n",  # settings of a tool make no package
            "src/pyproject.toml": "[tool.ruff]\n",
        },
    )
    commit_all(folder)
    git(folder, "tag", "-a", "v1.5", "-m", "a version")
    monkeypatch.chdir(folder / "src")  # a folder in a repository, and no package itself
    checkout = checked_out()
    assert checkout.work.name == "src"
    assert checkout.has("theirs")
    code = (
        "from importlib.metadata import entry_points, version; import theirs; "
        "print(*entry_points(group='metagrad.estimators', name='theirs'), "
        "version('theirs'), theirs.__file__)"
    )
    command = [sys.executable, "-P", "-c", code]
    output = subprocess.check_output(command, env=checkout.environment, cwd=tmp_path, text=True)
    assert "value='theirs'" in output
    assert "1.5" in output.split()
    assert str(checkout.path[0]) in output


def test_a_build_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    project = '[build-system]\nrequires = ["no-such-thing"]\nbuild-backend = "no_such_thing"\n'
    folder = write(tmp_path / "package", {"pyproject.toml": project})
    commit_all(folder)
    monkeypatch.chdir(folder)
    commit = resolve("HEAD")
    with pytest.raises(UserError, match=f"^{commit[:8]} cannot be installed: .*no-such-thing"):
        install(commit, Console())
    assert "No matching distribution" in capsys.readouterr().out
    (folder / "pyproject.toml").write_bytes(b"\xff")
    commit_all(folder)
    with pytest.raises(UserError, match=r"pyproject\.toml cannot be read"):
        checked_out()
