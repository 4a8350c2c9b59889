"""Files that are complete or absent, locks, and a folder for temporary files."""

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import BinaryIO

from estimators.base.errors import UserError

_MARK = ".temporary"  # a file in each folder for temporary files
# How file systems of clusters and of other systems say that they lack locks or `fsync`.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


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
                sync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if synced:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder on disk, or a power cut could take them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(handle: int) -> bool:
    """Have a file or folder on disk; return whether its file system can do that."""
    return _is_supported(os.fsync, handle)


def lock(handle: int) -> bool:
    """Lock a file or folder against other processes; return whether its file system has locks.

    Raises:
        BlockingIOError: another process has locked it.
    """
    return _is_supported(fcntl.flock, handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_supported(call: Callable[..., None], *arguments: int) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


@cache
def temporary_folder() -> Path:
    """Return this process's folder for temporary files; delete those of processes that were killed.

    It is locked for as long as this process lives.

    Raises:
        UserError: there cannot be one.
    """
    try:
        parent = Path(tempfile.gettempdir())
        _delete_abandoned(parent)
        draft = Path(tempfile.mkdtemp(prefix=".metagrad.", dir=parent))
        lock(os.open(draft, os.O_RDONLY))  # before other processes see it
        (draft / _MARK).touch()
        folder = draft.rename(draft.with_name(draft.name[1:]))
    except OSError as error:
        raise UserError(f"no folder for temporary files: {error}; TMPDIR names one") from error
    # Unlike those of atexit, finalizers run in processes that multiprocessing has started, too.
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-200)
    return folder


def _delete_abandoned(parent: Path) -> None:
    for mark in parent.glob(f"metagrad.*/{_MARK}"):  # a user's folder may have such a name, too
        with suppress(OSError):
            handle = os.open(mark.parent, os.O_RDONLY)
            try:
                if lock(handle):  # without locks nobody knows whether it is in use
                    shutil.rmtree(mark.parent, ignore_errors=True)
            finally:
                os.close(handle)


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
