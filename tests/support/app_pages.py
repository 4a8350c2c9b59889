"""The dashboard without a browser: a page opened, and what is on it."""

from pathlib import Path

from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

APP = str(Path(__file__).parents[2] / "app.py")
# The pages, and the number of figures of each, of a store without history or trainings.
FIGURES = {
    **{"Overview": 2, "Trade-offs": 1, "Bias": 6, "Cost": 7, "Accuracy": 0},
    **{"Reproduction": 0, "History": 0, "Cell": 1, "Data": 0},
}
PAGES = tuple(FIGURES)


def opened(title: str = "Overview", **query: str) -> AppTest:
    at = AppTest.from_file(APP, default_timeout=60)
    for name, value in query.items():
        at.query_params[name.replace("_", "-")] = value
    if title != "Overview":
        at._page_hash = calc_hash(title.lower())  # pages are functions, which have no path
    return sound(at.run())


def sound(at: AppTest) -> AppTest:
    assert not at.exception
    return at


def figures(at: AppTest) -> int:
    return len(at.get("vega_lite_chart") or at.get("arrow_vega_lite_chart"))


def text(at: AppTest) -> str:
    return "\n".join(
        one.value
        for kind in (at.markdown, at.info, at.success, at.warning, at.error, at.code)
        for one in kind
    )
