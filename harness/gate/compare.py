"""What has changed between two commits, and whether it may pass."""

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
"""A change of time is told where a test finds it by chance less often than this."""

Verdict = Literal["worse", "better", "other"]


@dataclass(frozen=True)
class Change:
    """A number, or an outcome, that is not what it was.

    Attributes:
        cell: name of the cell.
        metric: name of the metric; "outcome" where the cell ends otherwise.
        verdict: "worse", "better", or "other" where neither way is better.
        base: value before; NaN of an outcome.
        head: value after; likewise.
        about: one line.
        accepted: the reason of the waiver that accepts it; empty where none does.
    """

    cell: str
    metric: str
    verdict: Verdict
    base: float
    head: float
    about: str
    accepted: str = ""

    @property
    def ratio(self) -> float:
        """After over before."""
        return float(ratios(np.array([self.base]), np.array([self.head]))[0])


@dataclass(frozen=True)
class Judgement:
    """What a comparison has found.

    Attributes:
        base: name of the one side.
        head: name of the other.
        cells: how many were compared: those that went well on both sides.
        numbers: how many numbers of theirs, times included.
        changes: what is not as it was, regressions first.
        notes: what else there is to know, a line each.
    """

    base: str
    head: str
    cells: int
    numbers: int
    changes: list[Change]
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """Changes for the worse that no waiver accepts."""
        return [one for one in self.changes if one.verdict == "worse" and not one.accepted]

    @property
    def broken(self) -> list[Change]:
        """Those among them that leave nothing to compare: cells that worked and do not now."""
        return [one for one in self.regressions if one.metric == "outcome"]

    @property
    def exit_code(self) -> int:
        """0: nothing is worse; 1: something is; 2: it could not be measured."""
        if self.broken or not self.numbers:
            return 2
        return int(bool(self.regressions))


def judge(
    base: Cells,
    head: Cells,
    *,
    names: tuple[str, str],
    pairs: Pairs | None = None,
    waivers: Sequence[Waiver] = (),
    today: date | None = None,
    notes: Sequence[str] = (),
) -> Judgement:
    """Compares two sides.

    Numbers that repeat are compared as `harness.history.differences.differ` says; times by the
    pairs that were taken of them, and by nothing else.
    """
    both = [name for name in base if name in head and _fine(base[name]) and _fine(head[name])]
    found = _outcomes(base, head)
    numbers = 0
    for name in both:
        count, changes = _numbers(base[name], head[name])
        numbers += count
        found += changes
    told = list(notes)
    if pairs is not None:
        numbers += len(pairs.seconds)
        found += [one for name in pairs.seconds if (one := time_change(name, pairs.seconds[name]))]
        for name, why in pairs.errors.items():
            if name in pairs.broken:
                found.append(_outcome(name, "worse", f"it cannot be timed any more: {why}"))
            else:
                told.append(f"No times of {name}: {why}")
    day = today or date.today()
    changes, more = _waived(found, waivers, day)
    order = {"worse": 0, "other": 1, "better": 2}
    changes.sort(key=lambda one: (bool(one.accepted), order[one.verdict], one.metric != "outcome"))
    return Judgement(*names, len(both), numbers, changes, told + more)


def time_change(cell: str, rounds: Sequence[tuple[float, float]]) -> Change | None:
    """Tells whether a cell has got slower or quicker; None where nobody could say so.

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
            before, after = (float(np.median(side)) for side in zip(*rounds, strict=True))
            return Change(cell, "time", verdict, before, after, about)
    return None


def _fine(cell: CellResult) -> bool:
    return cell.status is Status.OK


def _outcomes(base: Cells, head: Cells) -> list[Change]:
    found = []
    for name in dict.fromkeys([*base, *head]):
        before, after = (side.get(name) for side in (base, head))
        if before is None or after is None or before.status is after.status:
            gone = after is None and before is not None and _fine(before)
            if gone:
                found.append(_outcome(name, "worse", "ok, and is not there any more"))
            continue
        verdict: Verdict = "worse" if _fine(before) else "better" if _fine(after) else "other"
        why = f": {after.reason}" if after.reason else ""
        found.append(_outcome(name, verdict, f"{before.status}, now {after.status}{why}"))
    return found


def _outcome(name: str, verdict: Verdict, about: str) -> Change:
    return Change(name, "outcome", verdict, math.nan, math.nan, about)


def _numbers(before: CellResult, after: CellResult) -> tuple[int, list[Change]]:
    """Returns how many numbers that repeat both have, and those that differ or are gone."""
    mine, other = before.samples, after.samples
    names = [name for name, metric in METRICS.items() if not metric.noisy]
    shared = [name for name in names if name in mine and name in other]
    found = [
        Change(before.id, name, "worse", _mean(mine[name]), math.nan, "is not measured any more")
        for name in names
        if name in mine and name not in other
    ]
    for name in shared:
        old, new = (np.array(side[name], dtype=float) for side in (mine, other))
        base, head = float(old.mean()), float(new.mean())
        if len(old) != len(new):  # of other tasks, say
            old, new = np.array([base]), np.array([head])
        if not differ(pd.Series([name] * len(old)), old, new).any():
            continue
        found.append(Change(before.id, name, _verdict(name, base, head), base, head, ""))
    return len(shared), found


def _mean(samples: Sequence[float]) -> float:
    return float(np.mean(samples))


def _verdict(name: str, before: float, after: float) -> Verdict:
    named, old, new = pd.Series([name]), np.array([before]), np.array([after])
    if not differ(named, old, new).any():  # task by task alone
        return "other"
    told: dict[str, Verdict] = {"worse": "worse", "better": "better"}
    return told.get(verdicts(named, old, new)[0], "other")


def _waived(
    changes: list[Change], waivers: Sequence[Waiver], today: date
) -> tuple[list[Change], list[str]]:
    valid = [waiver for waiver in waivers if waiver.expires >= today]
    notes = [f"Waiver expired: {waiver}" for waiver in waivers if waiver.expires < today]
    used = set()
    found = []
    for change in changes:
        fitting = [one for one in valid if one.accepts(change.cell, change.metric)]
        if change.verdict == "worse" and fitting:
            used |= set(fitting)
            change = replace(change, accepted=fitting[0].reason)
        found.append(change)
    notes += [f"Waiver not needed: {waiver}" for waiver in valid if waiver not in used]
    return found, notes


def summed_up(judgement: Judgement) -> str:
    """Returns the judgement in a line."""
    compared = f"{judgement.numbers:,} numbers of {judgement.cells:,} cells"
    if not judgement.numbers:
        return "Nothing could be compared."
    counts: Mapping[str, int] = {
        "worse": len(judgement.regressions),
        "worse, and accepted": sum(bool(one.accepted) for one in judgement.changes),
        "better": sum(one.verdict == "better" for one in judgement.changes),
        "changed": sum(one.verdict == "other" for one in judgement.changes),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{compared} compared: {', '.join(told) if told else 'nothing has changed'}."
