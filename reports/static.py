"""The static report: one HTML file with everything in it, and a summary in Markdown."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader

from harness.matrix.notes import sorted_notes
from harness.store.events import Problem
from harness.store.table import StoreError
from harness.support.files import put
from harness.support.markdown import code, plain
from reports.figures.style import Chart
from reports.sections import SECTIONS, Answer, Block, Command, joined, parts_of
from reports.tables import cells, text
from reports.tables.advice import by_memory, verdict
from reports.tables.overview import failures
from reports.tables.snapshot import Snapshot, read
from reports.tables.view import View

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True)
class Report:
    """A page of HTML and a summary in Markdown; files with problems are left out of them."""

    commit: str
    page: str
    summary: str
    problems: list[Problem]


def write(store: Path, out: Path) -> tuple[list[Path], Report]:
    """Write OUT/index.html and OUT/summary.md for the newest commit of a store."""
    report = render(store)
    pages = {"index.html": report.page, "summary.md": report.summary}
    return put(out, {name: text.encode() for name, text in pages.items()}), report


def render(store: Path) -> Report:
    """Make the report on the newest commit of a store that has any."""
    snapshot = read(store)
    table = cells.latest(snapshot.cells)
    if table.empty:
        raise StoreError(snapshot.missing or f"no cell in {store} yet; `make bench` measures some")
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # a browser reads no NaN
    environment.filters |= {"code": code, "plain": plain}
    commit = str(table["commit_label"].iloc[0])
    title = f"Meta-gradient estimators at {commit}"
    settings = [[*_depths(snapshot, rows)] for rows in cells.sections(table)]
    whole = replace(View.of_store(snapshot), version=table)
    problems = [*snapshot.problems, *snapshot.trainings[1], *snapshot.history.problems]
    page = environment.get_template("report.html.j2").render(
        title=title,
        problems=problems,
        top=_sections(whole, "store", "Overview"),
        settings=[_setting(views) for views in settings],
        bottom=[*_of_tasks(snapshot, table), *_sections(whole, "store", but="Overview")],
        vega=_vega(),
    )
    bad = failures(table)
    summaries = [[_summary(view) for view in views] for views in settings]
    summary = environment.get_template("summary.md.j2").render(
        title=title,
        findings=snapshot.findings,
        problems=snapshot.problems,
        settings=summaries,
        disturbed=any(one["disturbed"] for depths in summaries for one in depths),
        failures=None if bad.empty else _table(bad),
    )
    return Report(commit, page, summary, snapshot.problems)


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as text for a script element."""
    # A closing tag in one of their strings would end the element.
    return vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script")


def _depths(snapshot: Snapshot, rows: pd.DataFrame) -> Iterator[View]:
    """Yield a view for each depth of a setting, before any meta-training."""
    version = snapshot.cells[snapshot.cells["version"] == rows["version"].iloc[0]]
    task = version[(version[["task", "device"]] == rows[["task", "device"]].iloc[0]).all(axis=1)]
    setting = rows[rows["trained"] == rows["trained"].min()]
    for depth in cells.choices(setting, "depth"):
        yield View(snapshot, version, task, setting, setting[setting["depth"] == depth])


def _setting(views: list[View]) -> dict[str, Any]:
    deepest = views[-1]
    return {
        **_titles(deepest),
        "sections": _sections(deepest, "setting"),
        "depths": [
            {
                "depth": view.here["depth"].iloc[0],
                "is_open": view is deepest,
                "sections": _sections(view, "depth"),
            }
            for view in views
        ],
    }


def _titles(view: View) -> dict[str, str]:
    first = view.here.iloc[0]
    trained = first["trained"]
    return {
        "title": " ".join("{task}, {model}, {device} of {machine_label}".format(**first).split()),
        "about": first["rest"] + (f", after {trained} steps of meta-training" if trained else ""),
    }


def _of_tasks(snapshot: Snapshot, table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the sections of tasks, with a folded part for each task and device that has any."""
    groups = table.groupby(["version", "task", "device", "rest", "trained"], sort=False)
    deepest = [(rows, rows[rows["depth"] == rows["depth"].max()]) for _, rows in groups]
    views = [View(snapshot, rows, rows, rows, here) for rows, here in deepest]
    for section in SECTIONS:
        if section.scope == "task":
            content = [(_titles(view), [*_blocks(section.blocks(view))]) for view in views]
            parts = [
                {"title": f"{of['title']}, {of['about']}", "folded": True, "blocks": blocks}
                for of, blocks in content
                if blocks
            ]
            yield {"title": section.title, "parts": parts}


def _sections(view: View, scope: str, page: str = "", but: str = "") -> list[dict[str, Any]]:
    """Return the sections of a scope as the template takes them."""
    listed = [
        section
        for section in SECTIONS
        if section.scope == scope and page in ("", section.page) and section.page != but
    ]
    return [
        {
            "title": section.title,
            "parts": [
                {
                    "title": heading.text if heading else "",
                    "folded": bool(heading and heading.folded),
                    "blocks": [*_blocks(part)],
                }
                for heading, part in parts_of(blocks)
            ],
        }
        for section, blocks in joined(listed, view)
    ]


def _blocks(blocks: Iterable[Block]) -> Iterator[tuple[str, Any]]:
    """Yield each block as its kind and what the template needs; neighbouring figures as one."""
    for is_figure, run in groupby(blocks, callable):
        if is_figure:
            yield "figures", [_spec(draw) for draw in run]  # type: ignore[arg-type]
            continue
        for block in run:
            match block:
                case pd.DataFrame():
                    yield "table", _table(block)
                case Answer(sentence) | Command(sentence):
                    yield type(block).__name__.lower(), sentence
                case _:
                    yield type(block).__name__, block


def _summary(view: View) -> dict[str, Any]:
    return {
        **_titles(view),
        "depth": view.here["depth"].iloc[0],
        "verdict": verdict(view.advice),
        "cells": _table(text.summary(view.here).drop(columns=["reason", "notes"])),
        "budgets": _table(by_memory(view.here, view.errors)),
        "disturbed": bool(sorted_notes(view.here["notes"])[0]),
    }


def _spec(draw: Callable[[], Chart]) -> dict[str, Any]:
    # Tests check figures against the schema; doing it again takes most of the time here.
    return dict(draw().to_dict(validate=False))


def _table(table: pd.DataFrame) -> dict[str, Any]:
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    return {"head": list(table.columns), "rows": text.as_text(table), "numeric": numeric}
