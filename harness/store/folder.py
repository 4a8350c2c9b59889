"""Try out the folder of a store, before hours of measurements are to be kept in it."""

import secrets
from pathlib import Path

from estimators.base.errors import UserError
from harness.support.files import lock, sync, sync_folder


def prepare(store: Path) -> list[str]:
    """Make the folder of a store, and try all that keeping results in it takes.

    Returns:
        A line on each thing that its file system lacks and results can do without.

    Raises:
        UserError: no results can be kept there.
    """
    draft = store / f".{secrets.token_hex(4)}.draft"
    renamed, doing = draft.with_suffix(".renamed"), "write to"
    try:
        store.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("ab") as file:
                file.write(bytes(4096))
                file.flush()
                has_locks, has_sync = lock(file.fileno()), sync(file.fileno())
            sync_folder(store)
            doing = "rename files in"
            draft.replace(renamed)
        finally:
            draft.unlink(missing_ok=True)
            renamed.unlink(missing_ok=True)
    except FileExistsError:
        raise UserError(f"cannot write to {store}: it is no folder") from None
    except OSError as error:
        raise UserError(f"cannot {doing} {store}: {error.strerror or error}") from None
    warnings = []
    if not has_locks:
        warnings.append(f"{store} has no file locks: nothing else may write to it meanwhile.")
    if not has_sync:
        warnings.append(f"{store} cannot have files on disk at once: a power cut may cost results.")
    return warnings
