"""Rows of the table of cells, made up, and what a figure draws of them."""

from typing import Any

import numpy as np
import pandas as pd

from reports.figures.style import Chart
from reports.tables.cells import cells


def make_rows(
    *estimators: str,
    depths: tuple[int, ...] = (5,),
    trained: tuple[int, ...] = (0,),
    **numbers: Any,
) -> pd.DataFrame:
    """Return a row for each estimator, depth and state of training.

    Args:
        estimators: specifications, as `binom(order=2)`.
        depths: of the rows.
        trained: steps of meta-training of the rows.
        **numbers: columns: a value for all, or one for each estimator.
    """
    wanted = [(k, t) for k in depths for t in trained]
    one = pd.DataFrame({"estimator": estimators, **numbers})
    rows = pd.concat([one.assign(depth=k, trained=t) for k, t in wanted], ignore_index=True)
    family = rows["estimator"].str.partition("(")[0]
    order = (
        rows["estimator"].str.extract(r"(?:order|products)=(\d+)")[0].astype(float).astype("Int64")
    )
    fixed = {"task": "sinusoid", "model": "mlp-40-40", "device": "cpu", "outcome": "ok"}
    fixed |= {"commit_label": "aaaaaaaa", "machine": "here", "rest": "float32", "run": "r"}
    rows = rows.assign(family=family, order=order, **fixed)
    missing = [name for name in cells(pd.DataFrame()) if name not in rows]
    return pd.concat([rows, pd.DataFrame(np.nan, rows.index, missing)], axis=1)


def layers(chart: Chart, kind: str) -> list[dict[str, Any]]:
    """Return the layers of one mark, wherever they are nested."""
    return [one for one in _leaves(chart.to_dict(validate=False)) if _kind(one) == kind]


def data(chart: Chart, kind: str = "point", place: int = 0) -> list[dict[str, Any]]:
    """Return the rows behind a layer, by what its mark is and its place among those."""
    spec = chart.to_dict(validate=False)
    layer = layers(chart, kind)[place]
    name = (layer.get("data") or spec.get("data") or {})["name"]
    found: list[dict[str, Any]] = spec["datasets"][name]
    return found


def heading(chart: Chart) -> tuple[str, str]:
    """Return title and subtitle."""
    title = chart.to_dict(validate=False)["title"]
    return title["text"], "\n".join(title.get("subtitle", []))


def _leaves(spec: dict[str, Any]) -> list[dict[str, Any]]:
    inner = spec.get("layer") or ([spec["spec"]] if "spec" in spec else [])
    if not inner:
        return [spec]
    handed = {"data": spec["data"]} if "data" in spec else {}
    return [leaf for one in inner for leaf in _leaves(handed | one)]


def _kind(layer: dict[str, Any]) -> str:
    mark = layer["mark"]
    return mark if isinstance(mark, str) else str(mark["type"])
