"""Waivers of intended changes: cell, metric, reason and last day, in a committed file."""

import tomllib
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from estimators.base.errors import UserError

FILE = "waivers.toml"
"""Name of the file, in the folder in which the gate runs."""

_FIELDS = {"cell": str, "metric": str, "reason": str, "expires": date}


@dataclass(frozen=True)
class Waiver:
    """One change that is accepted."""

    cell: str  # pattern, with * for anything
    metric: str  # name or pattern
    reason: str
    expires: date  # last day on which it holds

    def accepts(self, cell: str, metric: str) -> bool:
        """Return whether it accepts a change."""
        return fnmatchcase(cell, self.cell) and fnmatchcase(metric, self.metric)

    def __str__(self) -> str:
        return f"{self.cell}, {self.metric}: {self.reason} (until {self.expires})"


def parse(text: str | bytes) -> list[Waiver]:
    """Parse a file of waivers.

    Raises:
        UserError: it is no such file, or a waiver lacks something.

    Example:
        >>> [one] = parse('''
        ... [[waiver]]
        ... cell = "sinusoid/*/binom*"
        ... metric = "bias"
        ... reason = "one product less on purpose"
        ... expires = 2030-01-31
        ... ''')
        >>> one.accepts("sinusoid/mlp-40-40/K5/binom(order=1)/cpu", "bias")
        True
    """
    try:
        document = tomllib.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{FILE} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{FILE} is not TOML: {error}") from None
    entries = document.get("waiver", [])
    if set(document) - {"waiver"} or not isinstance(entries, list):
        raise UserError(f"{FILE} may only have waivers, each a table [[waiver]]")
    return [_waiver(number, entry) for number, entry in enumerate(entries, start=1)]


def _waiver(number: int, entry: Any) -> Waiver:
    for name, kind in _FIELDS.items():
        value = entry.get(name) if isinstance(entry, dict) else None
        if type(value) is not kind or value == "":
            wanted = "a date, as 2030-01-31" if kind is date else "a text"
            raise UserError(f"{FILE}: waiver {number} must have {name!r}, {wanted}")
    if unknown := set(entry) - set(_FIELDS):
        raise UserError(f"{FILE}: waiver {number} has unknown fields: {', '.join(sorted(unknown))}")
    return Waiver(**entry)
