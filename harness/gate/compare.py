"""Compare the results of two revisions, and decide whether the change passes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from harness.gate.measuring import Cells
from harness.gate.pairs import Pairs
from harness.gate.waivers import Waiver
from harness.history.differences import differ, ratios, verdicts
from harness.matrix.metrics import METRICS
from harness.matrix.outcome import Status
from harness.store.runs import CellResult

EFFECT = 0.05
"""A change of time must be larger than this share."""

P = 0.01
"""A change of time is reported if the p value of its test is below this."""

Verdict = Literal["worse", "better", "other"]


@dataclass(frozen=True)
class Change:
    """A number or an outcome that has changed."""

    cell: str
    metric: str  # "outcome" where the cell ends differently
    verdict: Verdict
    base: float  # NaN of an outcome
    head: float
    about: str  # one line
    accepted: str = ""  # reason of the waiver that accepts it

    @property
    def ratio(self) -> float:
        """After over before."""
        return float(ratios(np.array([self.base]), np.array([self.head]))[0])


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison."""

    base: str
    head: str
    cells: int  # compared: those that went well in both
    numbers: int  # of their metrics compared, times included
    changes: list[Change]  # regressions first
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """Changes for the worse that no waiver accepts."""
        return [one for one in self.changes if one.verdict == "worse" and not one.accepted]

    @property
    def broken(self) -> list[Change]:
        """Regressions of cells that worked and now do not."""
        return [one for one in self.regressions if one.metric == "outcome"]

    @property
    def exit_code(self) -> int:
        """0: nothing is worse; 1: something is; 2: it could not be measured."""
        if self.broken or not self.numbers:
            return 2
        return int(bool(self.regressions))


def compare(
    base: Cells,
    head: Cells,
    *,
    names: tuple[str, str],
    pairs: Pairs | None = None,
    waivers: Sequence[Waiver] = (),
    today: date | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two revisions.

    Repeatable metrics are compared by `harness.history.differences.differ`, times only by pairs.
    """
    both = ok_in_both(base, head)
    changes = _outcomes(base, head)
    numbers = 0
    for name in both:
        count, more = _numbers(base[name], head[name])
        numbers += count
        changes += more
    lines = list(notes)
    if pairs is not None:
        numbers += len(pairs.seconds)
        changes += [
            one for name in pairs.seconds if (one := time_change(name, pairs.seconds[name]))
        ]
        for name, why in pairs.errors.items():
            if name in pairs.broken:
                changes.append(_outcome(name, "worse", f"cannot be timed any more: {why}"))
            else:
                lines.append(f"No times of {name}: {why}")
    day = today or date.today()
    changes, waiver_notes = _waived(changes, waivers, day)
    order = {"worse": 0, "other": 1, "better": 2}
    changes.sort(key=lambda one: (bool(one.accepted), order[one.verdict], one.metric != "outcome"))
    return Comparison(*names, len(both), numbers, changes, lines + waiver_notes)


def time_change(cell: str, rounds: Sequence[tuple[float, float]]) -> Change | None:
    """Return whether a cell became slower or faster; None where the test does not show it.

    By Wilcoxon's signed-rank test of whether the logarithm of the ratio, of which each round has
    one, is beyond `EFFECT`.
    """
    logs = np.log([after / before for before, after in rounds])
    ratio = math.exp(float(np.median(logs)))
    least = math.log1p(EFFECT)
    ways: tuple[tuple[float, Verdict], ...] = ((1.0, "worse"), (-1.0, "better"))
    for sign, verdict in ways:
        p = float(wilcoxon(sign * logs - least, alternative="greater", method="exact").pvalue)
        if p < P:
            low, high = math.exp(logs.min()), math.exp(logs.max())
            about = f"{ratio:.2f} times, {low:.2f} to {high:.2f} in {len(logs)} rounds, p={p:.2g}"
            before, after = (float(np.median(one)) for one in zip(*rounds, strict=True))
            return Change(cell, "time", verdict, before, after, about)
    return None


def ok_in_both(base: Cells, head: Cells) -> list[str]:
    """Return the names of the cells that went well in both."""
    return [name for name in base if name in head and _is_ok(base[name]) and _is_ok(head[name])]


def _is_ok(cell: CellResult) -> bool:
    return cell.status is Status.OK


def _outcomes(base: Cells, head: Cells) -> list[Change]:
    changes = []
    for name in dict.fromkeys([*base, *head]):
        before, after = (cells.get(name) for cells in (base, head))
        if before is None or after is None or before.status is after.status:
            gone = after is None and before is not None and _is_ok(before)
            if gone:
                changes.append(_outcome(name, "worse", "was ok, and is missing now"))
            continue
        verdict: Verdict = "worse" if _is_ok(before) else "better" if _is_ok(after) else "other"
        why = f": {after.reason}" if after.reason else ""
        changes.append(_outcome(name, verdict, f"{before.status}, now {after.status}{why}"))
    return changes


def _outcome(name: str, verdict: Verdict, about: str) -> Change:
    return Change(name, "outcome", verdict, math.nan, math.nan, about)


def _numbers(before: CellResult, after: CellResult) -> tuple[int, list[Change]]:
    """Return how many repeatable metrics both have, and those that differ or are gone."""
    mine, other = before.samples, after.samples
    names = [name for name, metric in METRICS.items() if not metric.noisy]
    shared = [name for name in names if name in mine and name in other]
    changes = [
        Change(before.id, name, "worse", _mean(mine[name]), math.nan, "is not measured any more")
        for name in names
        if name in mine and name not in other
    ]
    for name in shared:
        old, new = (np.array(samples[name], dtype=float) for samples in (mine, other))
        base, head = float(old.mean()), float(new.mean())
        if len(old) != len(new):  # of other tasks, say
            old, new = np.array([base]), np.array([head])
        if not differ(pd.Series([name] * len(old)), old, new).any():
            continue
        changes.append(Change(before.id, name, _verdict(name, base, head), base, head, ""))
    return len(shared), changes


def _mean(samples: Sequence[float]) -> float:
    return float(np.mean(samples))


def _verdict(name: str, before: float, after: float) -> Verdict:
    named, old, new = pd.Series([name]), np.array([before]), np.array([after])
    if not differ(named, old, new).any():  # only task by task
        return "other"
    words: dict[str, Verdict] = {"worse": "worse", "better": "better"}
    return words.get(verdicts(named, old, new)[0], "other")


def _waived(
    changes: list[Change], waivers: Sequence[Waiver], today: date
) -> tuple[list[Change], list[str]]:
    valid = [waiver for waiver in waivers if waiver.expires >= today]
    notes = [f"Waiver expired: {waiver}" for waiver in waivers if waiver.expires < today]
    used = set()
    result = []
    for change in changes:
        fitting = [one for one in valid if one.accepts(change.cell, change.metric)]
        if change.verdict == "worse" and fitting:
            used |= set(fitting)
            change = replace(change, accepted=fitting[0].reason)
        result.append(change)
    notes += [f"Waiver not needed: {waiver}" for waiver in valid if waiver not in used]
    return result, notes


def summary(comparison: Comparison) -> str:
    """Return the comparison in a line."""
    compared = f"{comparison.numbers:,} numbers of {comparison.cells:,} cells"
    if not comparison.numbers:
        return "Nothing could be compared."
    counts: Mapping[str, int] = {
        "worse": len(comparison.regressions),
        "worse, and accepted": sum(bool(one.accepted) for one in comparison.changes),
        "better": sum(one.verdict == "better" for one in comparison.changes),
        "changed": sum(one.verdict == "other" for one in comparison.changes),
    }
    texts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{compared} compared: {', '.join(texts) if texts else 'nothing has changed'}."
