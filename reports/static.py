"""The static report: one HTML file with everything in it, for a reader without a server."""

import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader

from estimators.errors import OptionError
from harness.profiling.folder import Profile
from harness.results.store import StoreError, load_sound
from reports import figures, profiles, tables

_AT_DEPTH = (
    figures.bias_against_time,
    figures.bias_against_memory,
    figures.bias_against_order,
)
_OF_PROFILE = (profiles.memory_timeline, profiles.time_by_phase)
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_OVER_DEPTH = (figures.time_against_depth, figures.memory_against_depth)


def write(store: Path, out: Path) -> tuple[Path, str]:
    """Writes OUT/index.html for the newest commit of a store.

    Args:
        store: the folder of results.
        out: the folder to write to; made if missing.

    Returns:
        The file (an older one is replaced only when the new one is whole) and the commit that it
        tells of.

    Raises:
        StoreError: the store is missing, empty or broken.
        OptionError: the folder cannot be written.
    """
    page, commit = render(store)
    path, draft = out / "index.html", out / f".index-{secrets.token_hex(4)}.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from error
    return path, commit


def render(store: Path) -> tuple[str, str]:
    """Returns the report as text, and the commit that it tells of.

    Args:
        store: the folder of results.

    Raises:
        StoreError: the store is missing, empty or broken.
    """
    table = tables.latest(tables.cells(load_sound(store)))
    if table.empty:
        raise StoreError(f"no cell in {store} yet; `make bench` measures some")
    kept, faults = profiles.stored(store)
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # a browser reads no NaN
    commit = str(table["commit_label"].iloc[0])
    page = environment.get_template("report.html.j2").render(
        title=f"Meta-gradient estimators at {commit}",
        environments=tables.environments(store, table),
        skipped=tables.skipped_whole(table),
        sections=[_section(part) for part in tables.sections(table)],
        profiles=[_profile(one) for one in kept],
        unreadable=faults,
        vega=_vega(),
    )
    return page, commit


@cache
def _vega() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed, made to stand inside a script element."""
    # A closing tag in one of their strings would end the element.
    return vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script")


def _section(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    depths = tables.choices(rows, "depth")
    return {
        "title": f"{first['task']}, {first['model']}, {first['device']} of {first['machine']}",
        "about": first["rest"],
        "charts": [_spec(figure(rows)) for figure in _OVER_DEPTH],
        "bad": _text(tables.not_ok(rows)),
        "depths": [
            {
                "depth": depth,
                "open": depth == depths[-1],
                "charts": [_spec(figure(here)) for figure in _AT_DEPTH],
                "cells": _text(tables.summary(here).drop(columns=["reason", "notes"])),
                "disturbed": tables.disturbed(here),
            }
            for depth, here in ((depth, rows[rows["depth"] == depth]) for depth in depths)
        ],
    }


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
    return {"head": list(table.columns), "rows": tables.as_text(table), "numeric": numeric}
