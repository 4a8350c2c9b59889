"""Where profiles are kept, and how they are read back."""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from estimators.errors import OptionError
from harness.cell import Cell
from harness.profiling.flames import Stacks, read_stacks

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
        return pd.read_csv(self.folder / "operators.csv", keep_default_na=False)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """Allocations and releases; columns as `harness.profiling.live.Change`."""
        return pd.read_csv(self.folder / "memory.csv", keep_default_na=False)

    @cached_property
    def tensors(self) -> pd.DataFrame:
        """Tensors alive at the peak; columns as `harness.profiling.live.Held`."""
        return pd.read_csv(self.folder / "tensors.csv", keep_default_na=False)

    @cached_property
    def stacks(self) -> Stacks:
        """Nanoseconds by stack."""
        return read_stacks(self.folder / "stacks.txt")


def folder_of(cell: Cell, store: Path) -> Path:
    """Returns where a store keeps the profile of a cell.

    Args:
        cell: the cell.
        store: the folder of results.
    """
    # Specifications can be long, and differ in characters that no file name takes.
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", cell.id)[:120]
    return store / "profiles" / f"{name}_{hashlib.sha256(cell.id.encode()).hexdigest()[:8]}"


def read_profile(folder: Path) -> Profile:
    """Reads a profile back.

    Args:
        folder: where it is.

    Raises:
        ValueError: it is none, or of another schema.
        OSError: it cannot be read.
    """
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise ValueError(f"{folder / SUMMARY} is no profile of schema {SCHEMA}")
    return Profile(folder, summary)


def profile_of(store: Path, cell: str) -> Profile | None:
    """Returns the profile that a store keeps of a cell, if there is one that can be read.

    Args:
        store: the folder of results.
        cell: its name, of which this process need not know estimator, task or model.
    """
    for folder in sorted((store / "profiles").glob("[!.]*")):
        with suppress(OSError, ValueError):
            profile = read_profile(folder)
            if profile.summary.get("cell") == cell:
                return profile
    return None


@contextmanager
def replaced_when_whole(folder: Path, cell: Cell) -> Generator[Path]:
    """Gives an empty folder to write a profile to, which takes its place if all goes well.

    Args:
        folder: what to make; an older profile of the cell there is replaced, nothing else is.
        cell: the cell.

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


def _is_replaceable(folder: Path, cell: Cell) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if SUMMARY not in names:
        return not names
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return names <= set(FILES) and summary["cell"] == cell.id
    except (OSError, ValueError, TypeError, KeyError):
        return False
