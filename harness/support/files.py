"""Files for people, which are there whole or not at all."""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from estimators.base.errors import OptionError


def put(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files; older ones of the same names are replaced when the new ones are whole.

    Returns:
        Their paths.

    Raises:
        OptionError: the folder cannot be written.
    """
    written = []
    for name, content in files.items():
        path, draft = folder / name, folder / f".{secrets.token_hex(4)}-{name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise OptionError(f"cannot write {path}: {error.strerror or error}") from error
        written.append(path)
    return written
