"""Read files of a source that may be odd, and place them in a store, each whole or not at all."""

import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from estimators.base.errors import UserError
from harness.support.files import atomic_file, lock

_FOLDER = ".merge"


@contextmanager
def staging(store: Path) -> Generator[Path]:
    """Lock a store against other merges; yield an empty folder for drafts, hidden from readers."""
    store.mkdir(parents=True, exist_ok=True)
    handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            lock(handle)
        except BlockingIOError:
            raise UserError(f"another merge into {store} is at work") from None
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
    """Return content and time of modification (ns) of a file; refuse links, pipes and devices."""
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


def place(target: Path, content: bytes, modified: int, drafts: Path) -> None:
    """Write a file with a time of modification (ns); replace an older one."""
    with atomic_file(target, synced=True, drafts=drafts) as file:
        file.write(content)
        file.flush()
        with suppress(OSError):  # as for others than the owner, on some file systems
            os.utime(file.fileno(), ns=(modified, modified))
