"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from estimators.base.errors import UserError


@contextmanager
def atomic_file(path: Path, *, synced: bool = False) -> Generator[BinaryIO]:
    """Open a draft that gets its name, and replaces a file of that name, once it is whole.

    Yields:
        The draft; `synced` also has it on disk before it gets the name, and the name after.

    Raises:
        OSError: it cannot be written; the older file is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
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
