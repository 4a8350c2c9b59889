"""The command lines that repeat a cell."""

import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from estimators.base.errors import OptionError
from harness.cell import AXES

# The attributes of `harness.matrix.plan.Axes` that options of `metagrad run` replace.
_OPTIONS = {"device": "devices", "dtype": "dtypes", "seed": "seeds", "trained": "trained"}

Row = pd.Series | Mapping[str, Any]


def command(row: Row) -> str:
    """Return the command that measures a cell again, as a shell takes it.

    It names what is not default, and the step size also where the task is a plug-in's, whose own
    is not known here. `--import` of plug-ins is left to add.
    """
    from harness.matrix.plan import preset  # it imports torch
    from harness.tasks import TASKS

    cell = {key: row[key] for key in AXES}
    axes = preset("quick")  # what `metagrad run` takes all that is not named from
    words = ["metagrad", "run"]
    for axis in ("task", "model", "depth", "estimator"):
        words += [f"--{axis}", str(cell[axis])]
    for option, axis in _OPTIONS.items():
        if cell[option] not in getattr(axes, axis):
            words += [f"--{option}", str(cell[option])]
    if cell["tasks"] != axes.num_tasks:
        words += ["--tasks", str(cell["tasks"])]
    try:
        own = TASKS.create(cell["task"]).step_size
    except OptionError:
        own = None
    if cell["step_size"] != own:
        words += ["--step-size", repr(float(cell["step_size"]))]
    return shlex.join(words)


def profile_command(row: Row) -> str:
    """Return the command that profiles a cell, as a shell takes it."""
    return shlex.join(["metagrad", "profile", str(row["cell"])])
