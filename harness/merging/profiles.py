"""Copies of profiles, of which a store keeps one of each cell."""

from contextlib import suppress
from pathlib import Path

from estimators.base.errors import OptionError
from harness.profiling.folder import read_profile, replaced_when_whole


def place_profile(draft: Path, target: Path) -> str | None:
    """Puts a profile into a store that has none of the cell, or an older one.

    Returns:
        The machine that it was made on; None if the store has it, or a newer one.

    Raises:
        ValueError: the draft is no whole profile.
        OptionError: there is something else already, or the profile of another machine; or it
            cannot be written.
        OSError: the draft cannot be read, or the folder not be made.
    """
    profile = read_profile(draft)
    profile.read_all()
    made = profile.summary
    kept = None
    with suppress(OSError, ValueError):  # no profile, which is told when it is to be replaced
        kept = read_profile(target).summary
    if kept is not None:
        mine, its = (told["environment"].get("fingerprint") for told in (kept, made))
        if mine != its:
            machine = kept["environment"]["machine"]
            raise OptionError(f"the store has a profile of its cell, made on {machine}")
        if kept["at"] >= made["at"]:
            return None
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_whole(target, made["cell"]) as new:
        for path in draft.iterdir():
            path.rename(new / path.name)
    return str(made["environment"]["machine"])
