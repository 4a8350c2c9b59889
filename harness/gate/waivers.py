"""Changes that are meant: a committed file says which cell and metric, why, and until when."""

import tomllib
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from estimators.base.errors import OptionError

FILE = "waivers.toml"
"""Where they are, in the folder in which the gate runs."""

_FIELDS = {"cell": str, "metric": str, "reason": str, "expires": date}


@dataclass(frozen=True)
class Waiver:
    """One change that is accepted.

    Attributes:
        cell: pattern of the names of cells, with * for anything.
        metric: name, or pattern.
        reason: why.
        expires: last day on which it holds.
    """

    cell: str
    metric: str
    reason: str
    expires: date

    def accepts(self, cell: str, metric: str) -> bool:
        """Tells whether a change is the one that is meant."""
        return fnmatchcase(cell, self.cell) and fnmatchcase(metric, self.metric)

    def __str__(self) -> str:
        return f"{self.cell}, {self.metric}: {self.reason} (until {self.expires})"


def parse(text: str | bytes) -> list[Waiver]:
    """Reads a file of waivers.

    Raises:
        OptionError: it is not, or a waiver lacks something.

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
        told = tomllib.loads(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise OptionError(f"{FILE} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{FILE} is not TOML: {error}") from None
    entries = told.get("waiver", [])
    if set(told) - {"waiver"} or not isinstance(entries, list):
        raise OptionError(f"{FILE} has waivers alone, each a table [[waiver]]")
    return [_waiver(number, entry) for number, entry in enumerate(entries, start=1)]


def _waiver(number: int, entry: Any) -> Waiver:
    for name, kind in _FIELDS.items():
        value = entry.get(name) if isinstance(entry, dict) else None
        if type(value) is not kind or value == "":
            wanted = "a date, as 2030-01-31" if kind is date else "a text"
            raise OptionError(f"{FILE}: waiver {number} must have {name!r}, {wanted}")
    if unknown := set(entry) - set(_FIELDS):
        raise OptionError(f"{FILE}: waiver {number} has {', '.join(sorted(unknown))}, unknown here")
    return Waiver(**entry)
