"""Brings files into a store, each of them whole or not at all."""

import fcntl
import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from estimators.base.errors import OptionError

_FOLDER = ".merge"


@contextmanager
def staging(store: Path) -> Generator[Path]:
    """Yields an empty folder of the store, on its file system, that no reader of it looks at.

    The store is locked against others who do so. What a process that was killed has left there is
    removed, and so is what is left at the end.

    Raises:
        OptionError: another process brings files into the store.
        OSError: the store cannot be written.
    """
    store.mkdir(parents=True, exist_ok=True)
    handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(f"another merge into {store} is at work") from None
        folder = store / _FOLDER
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def read_regular(path: Path) -> tuple[bytes, int]:
    """Reads a file, unless it is a link, or a pipe that might never end.

    Returns:
        What is in it, and when it was written, in ns.

    Raises:
        ValueError: it is not a regular file.
        OSError: it cannot be read.
    """
    if path.is_symlink():
        raise ValueError("a symbolic link, which is not followed")
    # The name may have become a link since; and a pipe without a writer would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(), about.st_mtime_ns
    finally:
        os.close(handle)


def write_synced(path: Path, content: bytes, written: int) -> None:
    """Writes a new file, which is on disk then.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.utime(file.fileno(), ns=(written, written))
        os.fsync(file.fileno())


def put(draft: Path, target: Path) -> None:
    """Gives a file that is on disk its name, and takes it from the file that had it.

    Raises:
        OSError: it cannot be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(target)
    handle = os.open(target.parent, os.O_RDONLY)  # or a power cut could take the name
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
