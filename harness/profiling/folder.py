"""Where profiles are kept, and how they are read back."""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.profiling import FOLDER
from harness.profiling.flames import Stacks, read_stacks
from harness.profiling.memory_timeline import Change, Held
from harness.profiling.operators import Operator

SCHEMA = 1
SUMMARY = "profile.json"
FILES = {
    "trace.json": "ui.perfetto.dev, or chrome://tracing",
    "stacks.txt": "speedscope.app, or flamegraph.pl --countname ns",
    "operators.csv": "any spreadsheet: time by phase and operator",
    "memory.csv": "any spreadsheet: bytes alive after each allocation",
    "tensors.csv": "any spreadsheet: tensors alive at the peak",
    SUMMARY: "totals, peak by phase, and what it was made with",
}
"""What a profile consists of, and what opens it."""

_TABLES = {"operators.csv": Operator, "memory.csv": Change, "tensors.csv": Held}
_MOST = 1e300  # no number is larger, so that all can be reckoned with


@dataclass(frozen=True)
class Profile:
    """A profile as it is kept.

    Attributes:
        folder: where its files are.
        summary: of `profile.json`.
    """

    folder: Path
    summary: dict[str, Any]

    @cached_property
    def operators(self) -> pd.DataFrame:
        """By phase and operator; columns as `harness.profiling.operators.Operator`."""
        return _read_table(self.folder / "operators.csv")

    @cached_property
    def memory(self) -> pd.DataFrame:
        """Allocations and releases; columns as `harness.profiling.memory_timeline.Change`."""
        return _read_table(self.folder / "memory.csv")

    @cached_property
    def tensors(self) -> pd.DataFrame:
        """Tensors alive at the peak; columns as `harness.profiling.memory_timeline.Held`."""
        return _read_table(self.folder / "tensors.csv")

    @cached_property
    def stacks(self) -> Stacks:
        """Nanoseconds by stack."""
        return read_stacks(self.folder / "stacks.txt")

    def read_all(self) -> None:
        """Reads all files that figures are made of, which else are read when they are asked for.

        Raises:
            ValueError: one of them is not what it should be.
            OSError: one cannot be read.
        """
        _ = self.operators, self.memory, self.tensors, self.stacks


def folder_of(cell: Cell, store: Path) -> Path:
    """Returns where a store keeps the profile of a cell."""
    # Specifications can be long, and differ in characters that no file name takes.
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", cell.id)[:120]
    return store / FOLDER / f"{name}_{hashlib.sha256(cell.id.encode()).hexdigest()[:8]}"


def read_profile(folder: Path) -> Profile:
    """Reads a profile back, its other files when they are asked for.

    Raises:
        ValueError: it is none, of another schema, or lacks what every profile has.
        OSError: it cannot be read.
    """
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise ValueError(f"{folder / SUMMARY} is no profile of schema {SCHEMA}")
    if faults := _faults(summary):
        raise ValueError(f"{folder / SUMMARY} has no proper {', '.join(faults)}")
    return Profile(folder, summary)


def profile_of(store: Path, cell: str) -> Profile | None:
    """Returns the profile that a store keeps of a cell, if there is one that can be read whole."""
    for folder in sorted((store / FOLDER).glob("[!.]*")):
        with suppress(OSError, ValueError):
            profile = read_profile(folder)
            if profile.summary["cell"] == cell:
                profile.read_all()
                return profile
    return None


def _faults(summary: dict[str, Any]) -> list[str]:
    """Returns the names of what a summary lacks, or has as something else than a worker writes."""
    made, notes, phases = (summary.get(name) for name in ("environment", "notes", "phases"))
    seconds: Any = summary.get("seconds")
    sound = {name: _is_text(summary.get(name)) for name in ("cell", "at", "peak_phase")}
    sound["environment"] = isinstance(made, dict) and all(
        _is_text(made.get(name)) for name in ("commit", "changes", "machine")
    )
    sound["notes"] = isinstance(notes, list) and all(map(_is_text, notes))
    sound["seconds"] = _is_number(seconds) and seconds > 0  # shares are told of it
    sound["peak_memory"] = _is_number(summary.get("peak_memory"))
    sound["phases"] = isinstance(phases, dict) and all(
        _is_text(name) and _is_phase(sums) for name, sums in phases.items()
    )
    return [name for name, is_so in sound.items() if not is_so]


def _is_text(value: object) -> bool:
    # Half a surrogate pair is none that a page could hold.
    return isinstance(value, str) and value == value.encode(errors="replace").decode()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MOST


def _is_phase(sums: object) -> bool:
    return (
        isinstance(sums, dict)
        and _is_number(sums.get("seconds"))
        and _is_number(sums.get("device_seconds"))
        and _is_number(sums.get("peak_memory", 0))
    )


def _read_table(path: Path) -> pd.DataFrame:
    """Reads one of `_TABLES`.

    Raises:
        ValueError: it is none, or a column is missing or of another kind.
        OSError: it cannot be read.
    """
    kinds = {field.name: field.type for field in fields(_TABLES[path.name])}
    # A column of which every text looks like a number is of texts all the same.
    texts = {name: str for name, kind in kinds.items() if kind is str}
    table = pd.read_csv(path, keep_default_na=False, dtype=texts)
    for name in kinds:
        if name not in table:
            raise ValueError(f"{path} has no column {name}")
        numbers = len(table) > 0 and name not in texts  # an empty column is of no kind
        if numbers and not (
            pd.api.types.is_numeric_dtype(table[name]) and np.isfinite(table[name]).all()
        ):
            raise ValueError(f"{path} has something other than numbers as {name}")
    return table


@contextmanager
def replaced_when_whole(folder: Path, cell: str) -> Generator[Path]:
    """Gives an empty folder to write a profile to, which takes its place if all goes well.

    Yields:
        The folder to write to, beside the other one; it is removed if anything is raised.

    Raises:
        OptionError: there is something else already, or it cannot be written.
    """
    if folder.exists() and not _is_replaceable(folder, cell):
        raise OptionError(
            f"{folder} holds something other than a profile of this cell; name another by --out"
        )
    draft = folder.resolve().with_name(f".profile-{secrets.token_hex(4)}")
    new, old = draft / "new", draft / "old"
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        if old.exists():
            old.rename(folder)
        raise OptionError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_replaceable(folder: Path, cell: str) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if SUMMARY not in names:
        return not names
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return names <= set(FILES) and summary["cell"] == cell
    except (OSError, ValueError, TypeError, KeyError):
        return False
