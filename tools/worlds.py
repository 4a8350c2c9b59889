"""The pictures of bandits, decision processes and trajectories in docs/tasks.md.

metagrad run worlds-drawn --tasks 8
metagrad run worlds-maps --tasks 30
metagrad export --out worlds.csv
python -m tools.worlds worlds.csv docs
"""

import statistics
import sys
from pathlib import Path

import altair as alt
import pandas as pd

from reports.figures.style import look
from tools.long_horizons import DASHED, DOTTED, SOLID, Line, exported, picture

_TRUNCATED, _IMPLICIT = look("truncated")[0], look("implicit")[0]
MAPS: dict[str, Line] = {
    "fomaml": (look("fomaml")[0], SOLID),
    "truncated(order=1)": (_TRUNCATED, SOLID),
    "truncated(order=2)": (_TRUNCATED, DASHED),
    "truncated(order=4)": (_TRUNCATED, DOTTED),
    "binom(order=1)": (look("binom")[0], SOLID),
    "implicit": (_IMPLICIT, SOLID),
    "implicit(hessian='gauss-newton')": (_IMPLICIT, DASHED),
}
DRAWN = (
    *("naive(sampled='inner+hessian')", "dice(sampled='inner+hessian')"),
    *("naive(correction=True, sampled='inner+hessian')", "dice(sampled='inner')"),
    *("dice(sampled='hessian')", "dice(sampled='outer')", "dice", "lvc", "loaded-dice"),
    *("lvc(through='mixed')", "lvc(through='fomaml')"),
)


def spreads(rows: pd.DataFrame, target: Path) -> None:
    """Draw the spread of drawn estimates, and their bias to T1 where that was seen."""
    chosen = rows[(rows["depth"] == 2) & rows["estimator"].isin(DRAWN)]
    found = chosen.assign(
        mean=chosen["samples"].map(statistics.fmean),
        setting=chosen["task"] + ", K=2",
        what=chosen["metric"].map({"bias": "bias to T1", "spread": "spread of one estimate"}),
    ).dropna(subset="what")
    chance = chosen[chosen["metric"] == "bias_chance"].set_index(["task", "estimator"])["value"]
    seen = [
        metric == "spread" or chance[task, estimator] < 0.05
        for metric, task, estimator in zip(
            found["metric"], found["task"], found["estimator"], strict=True
        )
    ]
    points = found[seen][["setting", "estimator", "what", "mean"]]
    dots = (
        alt.Chart(points)
        .mark_point(filled=True, size=70)
        .encode(
            x=alt.X("mean:Q", title="relative to the exact meta-gradient")
            .scale(type="log", domain=[0.003, 1000], clamp=True)
            .axis(values=[0.01, 0.1, 1, 10, 100], format="~g"),
            y=alt.Y("estimator:N", sort=list(DRAWN), title=None).axis(labelLimit=300),
            color=alt.Color("what:N", title=None).scale(
                domain=["bias to T1", "spread of one estimate"], range=["#0072B2", "#D55E00"]
            ),
            shape=alt.Shape("what:N", title=None).scale(
                domain=["bias to T1", "spread of one estimate"], range=["circle", "square"]
            ),
            column=alt.Column("setting:N", title=None),
        )
        .properties(width=270, height=240)
    )
    dots.save(target, scale_factor=1.5)


def main(source: Path, folder: Path) -> None:
    """Draw all pictures into a folder."""
    rows = exported(source)
    maps = rows[rows["task"].str.contains("inner=", regex=False)]
    picture(maps, folder / "maps.png", MAPS)
    drawn = rows[rows["task"].isin(["bandit(arms=3, pulls=2)", "mdp(horizon=10)"])]
    spreads(drawn, folder / "drawn.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
