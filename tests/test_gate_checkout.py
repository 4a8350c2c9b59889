"""Commits exported and installed side by side, in repositories of other people."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from estimators.base.errors import UserError
from harness.gate import checkout
from tests.support.repositories import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def commit_all(folder: Path) -> None:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")


def test_a_package_is_installed_with_its_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package"
    (folder / "src" / "theirs").mkdir(parents=True)
    (folder / "src" / "theirs" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "theirs"\nversion = "1"\n'
        '[project.entry-points."metagrad.estimators"]\ntheirs = "theirs"\n',
        encoding="utf-8",
    )
    commit_all(folder)
    monkeypatch.chdir(folder / "src")  # a folder in a repository, and no package itself
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    tree = checkout.install(checkout.resolve("HEAD"))
    assert (tree.work.name, tree.subject) == ("src", "first")
    assert tree.has("theirs"), "the package is that of the folder above"
    monkeypatch.chdir(folder)
    tree = checkout.install(checkout.resolve("HEAD"))
    code = (
        "from importlib.metadata import entry_points; import theirs; "
        "print(entry_points(group='metagrad.estimators', name='theirs'), theirs.__file__)"
    )
    command = [sys.executable, "-P", "-c", code]
    output = subprocess.check_output(command, env=tree.environment, cwd=tmp_path, text=True)
    assert "theirs" in output
    assert str(tree.path[0]) in output


def test_links_out_of_a_repository_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "file.txt").write_text("here", encoding="utf-8")
    (folder / "absolute").symlink_to("/etc/hostname")
    (folder / "outside").symlink_to("../../elsewhere")
    (folder / "inside").symlink_to("file.txt")
    commit_all(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    tree = checkout.install(checkout.resolve("HEAD"))
    assert {one.name for one in tree.work.iterdir()} == {"file.txt", "inside"}
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        checkout.install(checkout.resolve("HEAD"))


def test_waivers_are_those_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "of-many" / "one"
    inner.mkdir(parents=True)
    (inner / "waivers.toml").write_text("# one", encoding="utf-8")
    commit_all(inner.parent)
    (inner / "waivers.toml").write_text("# edited", encoding="utf-8")
    for folder, content in ((inner, b"# one"), (inner.parent, None)):
        monkeypatch.chdir(folder)
        assert checkout.file_at(checkout.resolve("HEAD"), "waivers.toml") == content
