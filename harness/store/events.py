"""Read journals, which are JSON lines with one event each, and check their fields."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

try:
    from orjson import dumps, loads
except ImportError:  # on a machine that only measures
    from json import dumps, loads  # type: ignore[assignment]

_START = b'{"event": "start"'
_NUMBERS = {float, int}

# What content that is not ours can raise while it is read.
_UNREADABLE = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """A file, or a line of it, that could not be read."""

    path: Path
    what: str

    def __str__(self) -> str:
        # A file's name need not be text; pages and files of text are not to end over that.
        return f"{self.path}: {self.what}".encode(errors="replace").decode()


@dataclass(frozen=True)
class Events:
    """The events of a journal."""

    start: dict[str, Any]
    others: list[tuple[int, dict[str, Any]]]  # with the numbers of their lines
    faults: list[str]  # broken lines, a sentence each


def parse_events(content: bytes, kind: str, schema: int) -> Events:
    """Parse the journal of a run or training; a torn last line, left by a kill, does not count."""
    *lines, torn = content.split(b"\n")
    if torn and not lines:
        raise ValueError("it has no whole line")
    start = (lines and parse_event(lines[0])) or {}
    if start.get("event") != "start" or ("training" in start) != (kind == "training"):
        raise ValueError(f"the first line is not the start of a {kind}")
    found = start.get("schema")
    if type(found) is not int or not 1 <= found <= schema:
        raise ValueError(f"it has schema {found}, this version reads 1 to {schema}")
    numbered = [(number, parse_event(line)) for number, line in enumerate(lines[1:], start=2)]
    return Events(
        start,
        [(number, event) for number, event in numbered if event is not None],
        [f"line {number} is not a JSON object" for number, event in numbered if event is None],
    )


def read_journals(
    paths: Iterable[Path], parse: Callable[[str, bytes], _T], kind: str
) -> tuple[list[_T], list[Problem]]:
    """Read journals with a function of their name and content; return the problems as well.

    A file whose process was killed before its first line counts as nothing.
    """
    results: list[_T] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            content = path.read_bytes()
            if not path.stem.isprintable():
                problems.append(Problem(path, "its name is not text"))
            elif has_begun(content):
                results.append(parse(path.stem, content))
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
        except _UNREADABLE as error:
            problems.append(Problem(path, f"not a {kind} that can be read: {error}"))
    return results, problems


def has_begun(content: bytes) -> bool:
    """Return whether a journal has a first line, or anything that a killed process cannot leave."""
    first, newline, _ = content.partition(b"\n")
    return bool(newline) or not (first.startswith(_START) or _START.startswith(first))


def first_event(path: Path) -> dict[str, Any]:
    """Return the first event of a journal; an empty one where it cannot be read."""
    with path.open("rb") as file:
        return parse_event(file.readline()) or {}


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; None when it is no JSON object."""
    try:
        event = loads(line)
    except (ValueError, RecursionError):
        try:
            # Slower, and takes the infinities of a diverged cell, and half a surrogate pair, which
            # comes of file names that are no UTF-8 and is no text that a table could hold.
            text = json.dumps(json.loads(line), ensure_ascii=False)
            event = json.loads(text.encode(errors="replace"))
            dumps(event)  # orjson raises where an integer needs more than 64 bits
        except (ValueError, TypeError, RecursionError):
            return None
    return event if isinstance(event, dict) else None


def check(fields: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Check that fields are there and have their types; an integer is also a float."""
    for name, kind in kinds.items():
        value = fields.get(name)
        found = type(value)
        if found is not kind and not (kind is float and found is int):
            raise ValueError(f"{name} is missing or not of type {kind.__name__}")
        if found is int and not -(2**63) <= fields[name] < 2**63:
            raise ValueError(f"{name} is too large")


def check_start(start: Mapping[str, Any]) -> None:
    """Check the fields of a first event that every journal has."""
    check(start, {"at": str, "environment": dict})
    check(start["environment"], {"commit": str, "changes": str, "machine": str})


def check_samples(samples: Mapping[str, Sequence[float]]) -> None:
    """Check that each metric has a list of numbers."""
    for name, values in samples.items():
        if type(values) is not list or not values or not set(map(type, values)) <= _NUMBERS:
            raise ValueError(f"samples of {name} are no list of numbers")
