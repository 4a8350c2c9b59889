"""The static report: one HTML file with everything in it, and a summary in Markdown."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader

from harness.commands.reproduce import SCALES
from harness.history.changes import changes
from harness.profiling.folder import Profile
from harness.store.events import Problem
from harness.store.table import StoreError
from harness.store.trainings import trainings
from harness.support.files import put
from harness.support.markdown import code, plain
from reports import figures
from reports.figures import profiles
from reports.reproduction import pieces
from reports.reproduction.piece import Found
from reports.tables import cells, text
from reports.tables.accuracy import JUDGED, curves, differences, settings, test_results
from reports.tables.advice import advise, verdict
from reports.tables.break_even import CROSSINGS, crossings, over_exact, told
from reports.tables.budgets import by_memory
from reports.tables.environments import environments
from reports.tables.over_commits import History, changes_told, read_history
from reports.tables.overview import failures
from reports.tables.samples import samples
from reports.tables.snapshot import Snapshot, read

_OVER_DEPTH = (
    figures.bias_against_depth,
    figures.work_against_depth,
    figures.memory_against_depth,
    figures.time_against_depth,
)
_AT_DEPTH = (
    figures.bias_against_memory,
    figures.bias_against_time,
    figures.bias_against_order,
    figures.cosine,
    figures.work_and_serial_depth,
    figures.time_against_serial_depth,
    figures.phases,
)
_OVER_COMMITS = ("bias", "time_ratio", "peak_memory")
_OF_PROFILE = (profiles.memory_timeline, profiles.time_by_phase)
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True)
class Report:
    """What is told of the newest commit of a store.

    Attributes:
        commit: which.
        page: HTML.
        summary: Markdown.
        problems: files that could not be read, and are left out.
    """

    commit: str
    page: str
    summary: str
    problems: list[Problem]


def write(store: Path, out: Path) -> tuple[list[Path], Report]:
    """Writes OUT/index.html and OUT/summary.md for the newest commit of a store.

    Returns:
        The files (older ones are replaced only when the new ones are whole) and what is in them.

    Raises:
        StoreError: the store is missing or empty, or no file in it can be read.
        OptionError: the folder cannot be written.
    """
    report = render(store)
    pages = {"index.html": report.page, "summary.md": report.summary}
    return put(out, {name: text.encode() for name, text in pages.items()}), report


def render(store: Path) -> Report:
    """Makes the report.

    Raises:
        StoreError: the store is missing or empty, or no file in it can be read.
    """
    snapshot = read(store)
    table = cells.latest(snapshot.cells)
    if table.empty:
        raise StoreError(f"no cell in {store} yet; `make bench` measures some")
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # a browser reads no NaN
    environment.filters |= {"code": code, "plain": plain}
    commit = str(table["commit_label"].iloc[0])
    history = read_history(snapshot, Path.cwd())
    sections = [_section(snapshot, history, part) for part in cells.sections(table)]
    bad = failures(table)
    common: dict[str, Any] = {
        "title": f"Meta-gradient estimators at {commit}",
        "findings": snapshot.findings,
        "sections": sections,
        "disturbed": bool(text.disturbed(table)),
        "failures": bad[["outcome", "reason", "cells", "example"]].to_dict("records"),
        "problems": [str(problem) for problem in snapshot.problems],
    }
    kept, faults = profiles.stored(store)
    trained, broken = trainings(store)
    faults += [str(problem) for problem in [*broken, *history.problems]]
    page = environment.get_template("report.html.j2").render(
        **common,
        contents=snapshot.contents,
        environments=environments(store, table),
        models=[_spec(chart) for chart in _over_models(table)],
        crossings=_crossings(snapshot, table),
        crossings_told=CROSSINGS,
        trainings=[_training(rows) for rows in settings(trained)],
        pieces=_pieces(Found(snapshot, trained)),
        profiles=[_profile(one) for one in kept],
        unreadable=faults,
        vega=_vega(),
    )
    summary = environment.get_template("summary.md.j2").render(**common)
    return Report(commit, page, summary, snapshot.problems)


@cache
def _vega() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed, made to stand inside a script element."""
    # A closing tag in one of their strings would end the element.
    return vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script")


def _section(snapshot: Snapshot, history: History, rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    trained = rows["trained"].min()
    start = rows[rows["trained"] == trained]
    depths = cells.choices(start, "depth")
    training = rows[rows["depth"] == depths[-1]] if rows["trained"].nunique() > 1 else None
    about = first["rest"] + (f", after {trained} steps of meta-training" if trained else "")
    return {
        "title": " ".join("{task}, {model}, {device} of {machine_label}".format(**first).split()),
        "about": about,
        "charts": [_spec(figure(start)) for figure in _OVER_DEPTH],
        "training": training is not None and _spec(figures.bias_along_training(training)),
        "history": _history(history, start[start["depth"] == depths[-1]]),
        "depths": [
            _at_depth(snapshot, start[start["depth"] == depth], last=depth == depths[-1])
            for depth in depths
        ],
    }


def _history(history: History, here: pd.DataFrame) -> dict[str, Any] | None:
    """Returns how the numbers of a setting changed; None where there is one commit only."""
    rows = history.of_setting(here, [])
    if rows["commit"].nunique() < 2:
        return None
    steps = changes(rows)
    return {
        "charts": [
            _spec(
                figures.history(
                    rows[rows["metric"].isin((metric, ""))], steps[steps["metric"] == metric]
                )
            )
            for metric in _OVER_COMMITS
        ],
        "changes": _text(changes_told(steps)),
    }


def _training(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    charts, told = [], []
    for metric in [name for name in JUDGED if (rows["metric"] == name).any()]:
        compared = differences(rows, metric)
        charts += [
            figures.learning_curves(curves(rows, metric, "validation")),
            figures.learning_curves(curves(rows, metric, "train")),
            figures.test_accuracy(test_results(rows, metric)),
            figures.paired_differences(compared),
        ]
        told += list(compared["text"])
    return {
        "title": f"{first['task']}, {first['model']}, K={first['depth']}, {first['device']}",
        "about": first["outer"],
        "charts": [_spec(chart) for chart in charts],
        "differences": told,
    }


def _at_depth(snapshot: Snapshot, here: pd.DataFrame, *, last: bool) -> dict[str, Any]:
    errors = samples(snapshot.long, here, "bias")
    advice = advise(here, errors=errors)
    return {
        "depth": here["depth"].iloc[0],
        "open": last,
        "verdict": verdict(advice),
        "charts": [
            *(_spec(figure(here)) for figure in _AT_DEPTH),
            _spec(figures.bias_by_task(errors)),
        ],
        "ranking": _text(text.ranking(advice)),
        "budgets": _text(by_memory(here, errors)),
        "cells": _text(text.summary(here).drop(columns=["reason", "notes"])),
        "disturbed": text.disturbed(here),
    }


def _over_models(table: pd.DataFrame) -> list[figures.Chart]:
    """Draws cost against model size wherever a task was measured with several models."""
    charts = []
    for _, rows in table.groupby(["version", "task", "device", "rest", "trained"], sort=False):
        deepest = rows[rows["depth"] == rows["depth"].max()]
        if deepest["model"].nunique() > 1:
            charts += [
                figures.cost_against_model(deepest, cost) for cost in ("time", "peak_memory")
            ]
    return charts


def _crossings(snapshot: Snapshot, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns where estimators are as quick as exact MAML, for each task and device that has it."""
    parts = []
    for _, rows in table.groupby(["version", "task", "device", "rest", "trained"], sort=False):
        compared = over_exact(snapshot.long, rows, table)
        found = crossings(compared)
        if not found.empty:
            first = rows.iloc[0]
            parts.append(
                {
                    "title": f"{first['task']}, {first['device']} of {first['machine_label']}",
                    "about": first["rest"],
                    "chart": _spec(figures.time_over_exact(compared, found)),
                    "table": _text(told(found)),
                }
            )
    return parts


def _pieces(found: Found) -> list[dict[str, Any]]:
    """Returns the figures and tables of the binomial method's paper that the store has."""
    return [
        {
            "title": f"{piece.name}: {piece.title}",
            "command": f"metagrad reproduce {piece.name} --scale {scale}",
            "told": piece.told,
            "charts": [_spec(chart()) for chart in piece.charts],
            "table": _text(piece.table),
        }
        for scale in SCALES
        for piece in pieces(found, scale)
    ]


def _profile(profile: Profile) -> dict[str, Any]:
    summary = profile.summary
    made = summary["environment"]
    commit = (made["commit"][:8] or "unknown commit") + (
        " (uncommitted changes)" if made["changes"] else ""
    )
    when = summary["at"][:16].replace("T", " ")
    return {
        "title": summary["cell"],
        "about": f"{commit}, {when} UTC, {made['machine']}",
        "notes": summary["notes"],
        "charts": [_spec(figure(profile)) for figure in _OF_PROFILE],
        "flames": _spec(profiles.flames(profile)),
        "operators": _text(profiles.top_operators(profile)),
        "tensors": _text(profiles.top_tensors(profile)),
    }


def _spec(chart: figures.Chart) -> dict[str, Any]:
    # Tests check figures against the schema; doing it again takes most of the time here.
    return dict(chart.to_dict(validate=False))


def _text(table: pd.DataFrame) -> dict[str, Any]:
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    return {"head": list(table.columns), "rows": text.as_text(table), "numeric": numeric}
