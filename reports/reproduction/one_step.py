"""One step at a time: what a longer horizon costs in variance, and what mixing horizons saves.

The outer loss is minus the return of a tabular decision process, and theta its logits at first. In
the paper, meta-parameters are those of the update rule, and the game is Snake.
"""

from collections.abc import Iterator
from functools import partial
from math import exp, log, nan
from typing import Any

import numpy as np
import pandas as pd

from estimators.base.registry import Spec
from harness.commands.reproduce import EXPERIMENTS, Scale
from reports.figures.reproduced import against_horizon
from reports.figures.style import Chart
from reports.reproduction import paper
from reports.reproduction.piece import Measurements, Piece
from reports.tables.accuracy import Mean, differences, mean_of_seeds, settings, test_results
from reports.tables.cells import samples

_PLAIN, _MIXED = "lvc", "lvc, mixed"
_OUTER = {"inner+hessian+outer": "drawn", "inner+hessian": "exact"}
_VARIANCE, _OWN = "variance", "variance, own objective"
_METRICS = {
    _VARIANCE: "spread",
    _OWN: "own_spread",
    "bias": "bias",
    "1 - cosine": "cosine_distance",
}
_OF = {_VARIANCE: "", _OWN: ", own objective"}
_RETURN = "test return"
_ALONE = ("saves", "costs", "not shown")
_CLAIMED = (f"{_MIXED}, own objective", f"less that of {_PLAIN}", "that at K=1")
_BESIDE = ("saves more", "saves less", "agrees")  # than the paper has
_LINE = ["outer gradient", "estimator", "family"]
_TASK = ["seed", "sample"]


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the figures from spreads at the initial parameters, and from tests of trainings."""
    planned = EXPERIMENTS["one-step"][scale].planned()
    names = [*dict.fromkeys(one.cell.estimator for one in planned)]
    draws = _draws(measured, measured.cells("one-step", scale), names)
    rows = measured.trained("one-step", scale)
    returns = _returns(rows)
    if draws.empty and returns.empty:
        return None
    parts = [_over_seeds(draws, what) for what in _METRICS]
    data = pd.concat([part for part in [*parts, returns] if not part.empty], ignore_index=True)
    compared = pd.DataFrame([*_compared(draws), *_apart(rows)])
    return Piece(
        name="one-step",
        title="Variance of drawn meta-gradients and return over the horizon K",
        charts=[*_charts(data)],
        table=_wide(data),
        data=data.drop(columns="family"),
        notes=[
            *([_sentence(compared)] if len(compared) else []),
            "Variance is relative to the squared length of the exact meta-gradient, or of that of "
            "the estimator's own objective, which for mixed is the mean over horizons. That of "
            "naive is small as its estimate nearly vanishes with K: see its bias.",
            "Outer gradient drawn: mixed draws episodes for it at each horizon, K times as many as "
            "the others. Exact: only inner steps are drawn.",
            "The test return is that after exact inner steps, as many for each K; training with "
            "another K has the same optimiser and learning rate.",
        ],
        agreement=compared,
        paper=paper.ONE_STEP,
    )


def _draws(measured: Measurements, cells: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return what was measured, a row for each task, in the order of names; spreads are squared."""
    if cells.empty:
        return pd.DataFrame()
    index = ["estimator", "depth", *_TASK]
    found = {
        what: samples(measured.snapshot.long, cells, metric).set_index(index)["value"]
        for what, metric in _METRICS.items()
    }
    table = pd.DataFrame(found).reset_index()
    table[_OWN] = table[_OWN].fillna(table[_VARIANCE])
    table[[_VARIANCE, _OWN]] **= 2
    places = table["estimator"].map(names.index)
    return _named(table.iloc[places.argsort(kind="stable")].reset_index(drop=True))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Put what is drawn, and through which estimator, in the place of specifications."""
    lines = {text: _line(Spec.parse(text)) for text in table["estimator"].unique()}
    named = pd.DataFrame([lines[text] for text in table["estimator"]], table.index, _LINE)
    return table.assign(**named)


def _line(spec: Spec) -> tuple[str, str, str]:
    if spec.name == "maml":
        return "exact", "maml", "maml"
    through = spec.options.get("through", "")
    outer = _OUTER[spec.options.get("sampled", "inner+hessian+outer")]
    return (
        outer,
        ", ".join(filter(None, (spec.name, through))),
        through.partition("(")[0] or spec.name,
    )


def _over_seeds(draws: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return means over seeds of means over tasks."""
    if draws.empty:
        return draws
    lines = draws.groupby([*_LINE, "depth"], sort=False)
    return pd.DataFrame(
        {**dict(zip([*_LINE, "depth"], key, strict=True)), "what": what}
        | _mean(part.set_index(_TASK)[what])._asdict()
        for key, part in lines
    )


def _mean(values: "pd.Series[float]") -> Mean:
    return mean_of_seeds([np.asarray(part, dtype=float) for _, part in values.groupby("seed")])


def _returns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what trainings have come to: minus the outer loss."""
    parts = [test_results(part, "outer_loss") for part in settings(rows)]
    if not any(map(len, parts)):
        return pd.DataFrame()
    table = _named(pd.concat(parts, ignore_index=True))
    ends = {"value": -table["value"], "low": -table["high"], "high": -table["low"]}
    columns = [*_LINE, "depth", "what", *Mean._fields]
    return table.assign(what=_RETURN, **ends)[columns].sort_values("depth", kind="stable")


def _charts(data: pd.DataFrame) -> Iterator[partial[Chart]]:
    variances = data[data["what"] == _VARIANCE]
    for outer, part in variances.groupby("outer gradient", sort=False):
        text = f"Variance of one estimate over the horizon, outer gradient {outer}"
        unit = "variance / |exact meta-gradient|²"
        yield partial(against_horizon, part, text, unit, logarithmic=True)
    returns = data[data["what"] == _RETURN]
    if not returns.empty:
        yield partial(against_horizon, returns, "Return after meta-training", _RETURN)


def _wide(data: pd.DataFrame) -> pd.DataFrame:
    """Return a column for each horizon; an objective of its own only where there is one."""
    same = (data["what"] == _OWN) & (data["family"] != "mixed")
    index = ["what", "outer gradient", "estimator"]
    wide = data[~same].pivot_table(index=index, columns="depth", values="value", sort=False)
    wide = wide.sort_index(axis=1)
    wide.columns = pd.Index([f"K={depth}" for depth in wide.columns])
    return wide.reset_index()


def _compared(draws: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield how the variance of lvc grows, and how many times that of the others it is.

    Mixing is compared at each horizon, the others at the longest.
    """
    if draws.empty:
        return
    places = draws.groupby(["outer gradient", "estimator", "depth"], sort=False).indices
    lines: dict[Any, pd.DataFrame] = {
        key: draws.iloc[rows].set_index(_TASK) for key, rows in places.items()
    }
    first, last = draws["depth"].min(), draws["depth"].max()
    for outer in draws["outer gradient"].unique():
        start, end = (lines.get((outer, _PLAIN, depth)) for depth in (first, last))
        if start is not None and end is not None and first < last:
            ratio = _ratio(end[_VARIANCE], start[_VARIANCE])
            verdict = _word(ratio, 1.0, "grows", "falls", "not shown")
            yield _row(f"variance of {_PLAIN} / that at K={first}", outer, last, ratio, verdict)
    for (outer, name, depth), its in lines.items():
        plain = lines.get((outer, _PLAIN, depth))
        if plain is None or name == _PLAIN or depth == 1 or (name != _MIXED and depth < last):
            continue
        theirs = paper.MIXING_CUTS if name == _MIXED else nan
        bound, words = (theirs, _BESIDE) if name == _MIXED else (1.0, _ALONE)
        for unit in (_OWN, _VARIANCE) if (its["family"] == "mixed").all() else (_VARIANCE,):
            ratio = _ratio(plain[unit], its[unit])
            what = f"variance of {_PLAIN} / that of {name}{_OF[unit]}"
            yield _row(what, outer, depth, ratio, _word(ratio, bound, *words), theirs)


def _apart(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield how far above the return of lvc that of mixing is, on the same tasks."""
    for part in settings(rows):
        table = differences(part, "outer_loss", beside=_PLAIN)
        for row in _named(table).to_dict("records") if len(table) else ():
            if row["estimator"] == _MIXED and row["depth"] > 1:
                mean = Mean(-row["value"], -row["high"], -row["low"], "", 0, 0)
                what = f"return of {_MIXED} less that of {_PLAIN}"
                yield _row(what, "drawn", row["depth"], mean, row["verdict"])


def _ratio(one: "pd.Series[float]", other: "pd.Series[float]") -> Mean:
    """Return the geometric mean of ratios on the same tasks, with its interval over seeds."""
    mean = _mean((one / other).dropna().map(log))
    return mean._replace(value=exp(mean.value), low=exp(mean.low), high=exp(mean.high))


def _word(ratio: Mean, bound: float, above: str, below: str, neither: str) -> str:
    if ratio.low > bound:
        return above
    return below if ratio.high < bound else neither


def _row(
    what: str, outer: str, depth: int, mean: Mean, verdict: str, theirs: float = nan
) -> dict[str, Any]:
    ends = {"here": mean.value, "from": mean.low, "to": mean.high}
    named = {"compared": what, "outer gradient": outer, "K": depth}
    return named | ends | {"paper, about": theirs, "verdict": verdict}


def _sentence(compared: pd.DataFrame) -> str:
    """Say what was found of the paper's claims at the longest horizon."""
    last = compared[compared["K"] == compared["K"].max()]
    said = []
    for what, part in last.groupby("compared", sort=False):
        numbers = [
            f"{row['here']:.2g} ({row['from']:.2g} to {row['to']:.2g}) with the outer gradient "
            f"{row['outer gradient']}: {row['verdict']}"
            for row in part.to_dict("records")
        ]
        if any(str(what).endswith(end) for end in _CLAIMED):
            said.append(f"{what} is {', '.join(numbers)}")
    return f"At K={last['K'].iloc[0]}, {'; '.join(said)}."
