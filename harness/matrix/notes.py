"""Notes on a cell, a sentence each: what was not measured, warnings, what disturbed a timing."""

import warnings
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from harness.matrix.outcome import Status, one_line, outcome_of

_SEPARATOR = "; "  # where tables join the notes of a cell
_NOT_MEASURED, _WARNING = " not measured: ", "warning: "


def not_measured(what: str, error: Exception) -> str:
    """Return the note on metrics that are missing; it names the first of them.

    Raises:
        Exception: the error is more than that: a full disk, no memory, divergence.

    Example:
        >>> not_measured("bias", KeyError("why"))
        "bias not measured: KeyError: 'why'"
    """
    outcome = outcome_of(error)
    if outcome.status is not Status.FAILED or outcome.disk_full:
        raise error
    return _note(f"{what}{_NOT_MEASURED}{outcome.reason}")


@contextmanager
def warnings_as_notes() -> Generator[list[str]]:
    """Make notes of warnings, each once, in place of printing them."""
    notes: list[str] = []

    def keep(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        note = _note(_WARNING + one_line(str(message)))
        if issubclass(category, UserWarning) and note not in notes:
            notes.append(note)

    with warnings.catch_warnings():
        warnings.showwarning = keep
        yield notes


def sorted_notes(of_cells: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """Tell apart the notes of cells, as tables join them.

    Returns:
        What disturbed timings, for each cell whose timings were; and how many cells have each of
        the other notes.

    Example:
        >>> sorted_notes(["", "bias not measured: why; samples drifted", "samples drifted"])
        (['samples drifted', 'samples drifted'], Counter({'bias not measured: why': 1}))
    """
    disturbed: list[str] = []
    others: Counter[str] = Counter()
    for joined in filter(None, of_cells):
        notes = joined.split(_SEPARATOR)
        other = [note for note in notes if _NOT_MEASURED in note or note.startswith(_WARNING)]
        others.update(other)
        if rest := [note for note in notes if note not in other]:
            disturbed.append(_SEPARATOR.join(rest))
    return disturbed, others


def _note(text: str) -> str:
    return text.replace(_SEPARATOR, ", ")
