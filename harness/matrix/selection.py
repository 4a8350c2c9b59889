"""Selecting cells of a plan by conditions, as `estimator=binom*,depth=5`."""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS, Registry, unknown
from harness.cell import AXES, Cell
from harness.matrix.plan import Planned
from harness.models import MODELS
from harness.tasks import TASKS

_SPECIFIED: dict[str, Registry[Any]] = {"estimator": ESTIMATORS, "task": TASKS, "model": MODELS}
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_PART = re.compile(r"\s*(\w*)\s*(=|>=|<=|>|<)\s*(.*?)\s*", re.DOTALL)
_WILDCARDS = frozenset("*?[")
_SHOWN = 12


def select(planned: list[Planned], conditions: Iterable[str]) -> list[Planned]:
    """Return the cells of a plan for which at least one condition holds, in the plan's order.

    A condition is one or more parts with commas between them, all of which must hold: an axis
    (a key of `AXES`), `=`, and patterns with `|` between them, of which one must match. A
    pattern is a number, a specification in any spelling, or text with the wildcards `*`, `?` and
    `[...]`, case matters. Axes that are numbers also take `>=`, `<=`, `>` and
    `<`. Commas and bars in parentheses or quotes belong to the pattern.

    Raises:
        OptionError: a condition cannot be read, or something in it matches no cell.

    Example:
        >>> from harness.matrix.plan import expand, preset
        >>> quick = expand(preset("quick"))
        >>> chosen = select(quick, ["task=glyphs*,depth>1,estimator=binom(order=4)"])
        >>> [(plan.cell.depth, plan.cell.estimator) for plan in chosen]
        [(5, 'binom(order=4)'), (10, 'binom(order=4)')]
    """
    read = [[_part(text.strip()) for text in _split(each, ",")] for each in conditions]
    if not read:
        return planned
    cells = [plan.cell for plan in planned]
    for parts in read:
        for part in parts:
            part.refuse_unmatched(cells)
        if not any(_all_hold(parts, cell) for cell in cells):
            texts = " and ".join(part.text for part in parts)
            raise OptionError(f"--only: {texts} each hold for some cells, but together for none")
    return [plan for plan in planned if any(_all_hold(parts, plan.cell) for parts in read)]


@dataclass(frozen=True)
class _Part:
    """An axis, a key of `_COMPARED`, and patterns: one number unless the sign is "="."""

    text: str
    axis: str
    sign: str
    patterns: tuple[str, ...]

    def holds(self, cell: Cell) -> bool:
        return any(self._matches(pattern, cell) for pattern in self.patterns)

    def refuse_unmatched(self, cells: list[Cell]) -> None:
        """Refuse a pattern that matches no cell: a slip, be there others beside it or not."""
        values = sorted({getattr(cell, AXES[self.axis].name) for cell in cells})
        if self.sign != "=" and not all(_is_number(value) for value in values):
            raise OptionError(
                f"--only {self.text}: {self.axis} is no number; write {self.axis}=..."
            )
        for pattern in self.patterns:
            if not any(self._matches(pattern, cell) for cell in cells):
                there = ", ".join(str(value) for value in values[:_SHOWN])
                more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
                raise OptionError(
                    f"--only {self.axis}{self.sign}{pattern} matches nothing; "
                    f"{self.axis} is {there}{more}"
                )

    def _matches(self, pattern: str, cell: Cell) -> bool:
        value = getattr(cell, AXES[self.axis].name)
        number = _number(pattern) if _is_number(value) else None
        if number is not None:
            return _COMPARED[self.sign](value, number)
        return fnmatchcase(str(value), pattern)


def _part(text: str) -> _Part:
    match = _PART.fullmatch(text)
    if not match:
        raise OptionError(f"--only {text!r}: write axis=pattern, as estimator=binom*,depth=5")
    axis, sign, value = match.groups()
    if axis not in AXES:
        raise OptionError(f"--only {text}: {unknown('axis', axis, list(AXES))}")
    if sign != "=" and _number(value) is None:
        raise OptionError(f"--only {text}: {value!r} is no number, as {axis}{sign}5 has")
    patterns = tuple(_canonical(axis, pattern.strip()) for pattern in _split(value, "|"))
    if "" in patterns:
        raise OptionError(f"--only {text}: a pattern is missing, as in {axis}=*")
    return _Part(text, axis, sign, patterns)


def _canonical(axis: str, pattern: str) -> str:
    """Return the one spelling of a specification; a pattern, or what is none, as it is."""
    if axis not in _SPECIFIED or _WILDCARDS & set(pattern):
        return pattern
    try:
        return _SPECIFIED[axis].canonical(pattern)
    except OptionError:  # refused later, with the values that there are
        return pattern


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside of parentheses and quotes."""
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character == "(") - (character == ")")
            if character == separator and not depth:
                pieces.append("")
                continue
        pieces[-1] += character
        if depth < 0:
            break
    if depth or quote:
        raise OptionError(f"--only {text!r}: a parenthesis or a quote is open or closed too often")
    return pieces


def _all_hold(parts: list[_Part], cell: Cell) -> bool:
    return all(part.holds(cell) for part in parts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
