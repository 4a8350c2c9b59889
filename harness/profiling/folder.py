"""Profiles on disk: the files of each, how they are written and read back."""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.profiling import FOLDER

SCHEMA = 1
SUMMARY = "profile.json"
FILES = {
    "trace.json": "ui.perfetto.dev, or chrome://tracing",
    "stacks.txt": "speedscope.app, or flamegraph.pl --countname ns",
    "operators.csv": "any spreadsheet: time by phase and operator",
    "memory.csv": "any spreadsheet: bytes alive after each allocation",
    "tensors.csv": "any spreadsheet: tensors alive at the peak",
    SUMMARY: "totals, peak by phase, and the environment",
}
"""The files of a profile, and the programs that open them."""

Stacks = dict[tuple[str, ...], int]
"""Nanoseconds by stack: the phase, then frames from the outermost one."""

_MOST = 1e300  # so that sums and ratios of numbers are finite
_PHASE = {"seconds": float, "device_seconds": float}
_REQUIRED: dict[str, Any] = {
    "cell": str,
    "at": str,
    "environment": {"commit": str, "changes": str, "machine": str},
    "seconds": float,
    "peak_memory": float,
    "peak_phase": str,
    "notes": list,
    "phases": dict,
}


@dataclass
class Operator:
    """A row of operators.csv: one operator within one phase.

    What is `self` is without the operators that it calls; a release by Python between operators
    counts for none. `device_seconds` is the time of the kernels that it launched itself.
    """

    phase: str
    operator: str
    calls: int = 0
    self_seconds: float = 0.0
    total_seconds: float = 0.0
    self_bytes: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True)
class Change:
    """A row of memory.csv: an allocation, or a release (`bytes` below 0).

    Afterwards `live` bytes are alive, above those before the estimate; the operator that allocated
    is empty for a release, and where it is not known.
    """

    bytes: int
    live: int
    phase: str
    operator: str


@dataclass(frozen=True)
class Tensors:
    """A row of tensors.csv: equal tensors that are alive at the peak, and who allocated them.

    The shape, as "10 x 40", is that of the tensor that came with the storage; `bytes` are of all.
    """

    phase: str
    operator: str
    shape: str = ""
    dtype: str = ""
    count: int = 0
    bytes: int = 0


TABLES = {"operators.csv": Operator, "memory.csv": Change, "tensors.csv": Tensors}


@dataclass(frozen=True)
class Profile:
    """A profile that was written before, with rows of `Operator`, `Change` and `Tensors`."""

    folder: Path
    summary: dict[str, Any]
    operators: pd.DataFrame
    memory: pd.DataFrame
    tensors: pd.DataFrame
    stacks: Stacks


def folder_of(cell: Cell, store: Path) -> Path:
    """Return the folder of a store for the profile of a cell."""
    # Specifications can be long, and differ in characters that file names cannot have.
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", cell.id)[:120]
    return store / FOLDER / f"{name}_{hashlib.sha256(cell.id.encode()).hexdigest()[:8]}"


def read_profile(folder: Path) -> Profile:
    """Read a whole profile."""
    summary = read_summary(folder)
    operators, memory, tensors = (_read_table(folder / name) for name in TABLES)
    stacks = read_stacks(folder / "stacks.txt")
    return Profile(folder, summary, operators, memory, tensors, stacks)


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a profile."""
    summary: Any = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise ValueError(f"{folder / SUMMARY} is no profile of schema {SCHEMA}")
    sound = {name: _is(summary.get(name), kind) for name, kind in _REQUIRED.items()}
    sound["seconds"] = sound["seconds"] and summary["seconds"] > 0  # shares are ratios to it
    sound["notes"] = sound["notes"] and all(_is(note, str) for note in summary["notes"])
    sound["phases"] = sound["phases"] and all(
        _is(name, str) and _is(sums, _PHASE) and _is(sums.get("peak_memory", 0), float)
        for name, sums in summary["phases"].items()
    )
    if faults := [name for name, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"{folder / SUMMARY} has no proper {', '.join(faults)}")
    return summary


def profile_of(store: Path, cell: str) -> Profile | None:
    """Return a store's profile of a cell; None if there is none that can be read whole."""
    for folder in sorted((store / FOLDER).glob("[!.]*")):
        with suppress(OSError, ValueError):
            if read_summary(folder)["cell"] == cell:
                return read_profile(folder)
    return None


def _is(value: Any, kind: Any) -> bool:
    """Return whether a value of JSON is of a type, or has entries of some types."""
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_is(value.get(key), kind[key]) for key in kind)
    if kind is str:  # half a surrogate pair cannot be shown on a page
        return isinstance(value, str) and value == value.encode(errors="replace").decode()
    if kind is float:
        return type(value) in (int, float) and abs(value) <= _MOST
    return isinstance(value, kind)


def _read_table(path: Path) -> pd.DataFrame:
    """Read one of `TABLES`."""
    kinds = {field.name: field.type for field in fields(TABLES[path.name])}
    # A text column stays one even if every text looks like a number.
    texts = {name: str for name, kind in kinds.items() if kind is str}
    table = pd.read_csv(path, keep_default_na=False, dtype=texts)
    for name in kinds:
        if name not in table:
            raise ValueError(f"{path} has no column {name}")
        numbers = len(table) > 0 and name not in texts  # an empty column has no type
        if numbers and not (
            pd.api.types.is_numeric_dtype(table[name]) and np.isfinite(table[name]).all()
        ):
            raise ValueError(f"{path} has something other than numbers as {name}")
    return table


def write_stacks(stacks: Stacks, path: Path) -> None:
    """Write stacks in the collapsed format: frames joined by ";", a blank, nanoseconds."""
    lines = (f"{';'.join(frames)} {spent}\n" for frames, spent in sorted(stacks.items()))
    path.write_text("".join(lines), encoding="utf-8")


def read_stacks(path: Path) -> Stacks:
    """Read a file of `write_stacks`."""
    stacks: Stacks = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        frames, _, spent = line.rpartition(" ")
        stacks[tuple(frames.split(";"))] = int(spent)
    return stacks


@contextmanager
def replaced_when_whole(folder: Path, cell: str) -> Generator[Path]:
    """Open an empty folder beside a profile's, which it replaces unless anything is raised."""
    if folder.exists() and not _is_replaceable(folder, cell):
        raise UserError(
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
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
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
