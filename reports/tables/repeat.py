"""The command lines that repeat a cell."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from estimators.base.errors import OptionError

# What a cell's name tells beside the axes that have a column of their own.
_REST = r"/(?P<dtype>[^/]+)/seed(?P<seed>\d+)/tasks(?P<tasks>\d+)(?:/trained(?P<trained>\d+))?"
# Options of `metagrad run`, and the attributes of `harness.matrix.plan.Axes` that they replace.
_OPTIONS = {"device": "devices", "dtype": "dtypes", "seed": "seeds", "trained": "trained"}

Row = pd.Series | Mapping[str, Any]


def command(row: Row) -> str:
    """Returns the command that measures a cell again, as a shell takes it.

    It names what is not default, and the step size also where the task is a plug-in's, whose own
    is not known here. `--import` of plug-ins is left to add.

    Returns:
        The line; empty where the cell's name is not of this version, and so does not tell all.
    """
    from harness.matrix.plan import preset  # it imports torch
    from harness.tasks import TASKS

    head = f"{row['task']}/{row['model']}/K{row['depth']}/alpha"
    tail = f"/{row['estimator']}/{row['device']}"
    name = re.compile(rf"{re.escape(head)}(?P<step_size>[^/]+){re.escape(tail)}{_REST}", re.ASCII)
    match = name.fullmatch(row["cell"])
    if not match:
        return ""
    axes = preset("quick")  # what `metagrad run` takes all that is not named from
    words = ["metagrad", "run"]
    for axis in ("task", "model", "depth", "estimator"):
        words += [f"--{axis}", str(row[axis])]
    values = {"device": row["device"], **match.groupdict("0")}
    for option, axis in _OPTIONS.items():
        if values[option] not in map(str, getattr(axes, axis)):
            words += [f"--{option}", values[option]]
    if values["tasks"] != str(axes.tasks):
        words += ["--tasks", values["tasks"]]
    try:
        own = repr(TASKS.create(row["task"]).step_size)
    except OptionError:
        own = ""
    if values["step_size"] != own:
        words += ["--step-size", values["step_size"]]
    return shlex.join(words)


def profile_command(row: Row) -> str:
    """Returns the command that profiles a cell, as a shell takes it."""
    return shlex.join(["metagrad", "profile", str(row["cell"])])
