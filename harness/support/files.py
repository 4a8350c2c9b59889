"""Files that are complete or absent, and a folder for temporary ones."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import BinaryIO

from estimators.base.errors import UserError

_MARK = ".temporary"  # a file in each folder for temporary files


@contextmanager
def atomic_file(
    path: Path, *, synced: bool = False, drafts: Path | None = None
) -> Generator[BinaryIO]:
    """Open a draft that gets its name, and replaces a file of that name, once it is whole.

    Args:
        path: of the file.
        synced: also have the draft on disk before it gets the name, and the name after.
        drafts: folder for the draft, on the same file system; by default that of the file.

    Yields:
        The draft.

    Raises:
        OSError: it cannot be written; the older file is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its suffix is another, so that nobody reads it for the file itself.
    draft = (drafts or path.parent) / f".{secrets.token_hex(4)}-{path.name}.draft"
    try:
        with draft.open("xb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if synced:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder on disk, or a power cut could take them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def temporary_folder() -> Path:
    """Return this process's folder for temporary files; delete those of processes that were killed.

    It is locked for as long as this process lives.
    """
    parent = Path(tempfile.gettempdir())
    for mark in parent.glob(f"metagrad.*/{_MARK}"):  # a user's folder may have such a name, too
        left = mark.parent
        with suppress(OSError):
            lock = _lock(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    draft = Path(tempfile.mkdtemp(prefix=".metagrad."))
    _lock(draft)  # before other processes see it
    (draft / _MARK).touch()
    folder = draft.rename(draft.with_name(draft.name[1:]))
    # Unlike those of atexit, finalizers run in processes that multiprocessing has started, too.
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-200)
    return folder


def _lock(folder: Path) -> int:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def put(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files for people into a folder, each whole or not at all.

    Returns:
        Their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = [folder / name for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        try:
            with atomic_file(path) as file:
                file.write(content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return paths
