"""The options that commands share, and the console that they print to."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from estimators.base.errors import OptionError

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
"""Where tables and progress go; output to a file or a pipe is not cut to a screen's width."""


def _positive(param: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise OptionError(f"{param.opts[0]} {value:g} must be positive")
    return value


_PRESETS = "the preset's"

Preset = Annotated[str, typer.Argument(help="Preset: see `metagrad list`.")]
Estimators = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator",
        metavar="SPEC",
        help='Estimators, as "binom(order=2)"; repeatable.',
        show_default=_PRESETS,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="SPEC", help="Task, as glyphs:5way-1shot.", show_default=_PRESETS
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="SPEC", help="Model, as conv4-32.", show_default=_PRESETS),
]
Depths = Annotated[
    list[int] | None,
    typer.Option("--depth", metavar="K", help="Inner steps; repeatable.", show_default=_PRESETS),
]
StepSize = Annotated[
    float | None,
    typer.Option(
        "--step-size", metavar="ALPHA", help="Inner step size.", show_default="the task's"
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Devices: cpu, cuda, cuda:1; repeatable.",
        show_default="the preset's, or cpu",
    ),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="float32, float64; repeatable.",
        show_default="the preset's, or float32",
    ),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        metavar="SEED",
        help="Seeds of parameters and tasks; repeatable.",
        show_default="the preset's, or 0",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help='Only cells that match, as "estimator=binom*,depth=5"; "|" between alternatives, '
        "depth>=5 for numbers; repeatable.",
        metavar="AXIS=PATTERN,...",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="Worker processes side by side.", show_default="cores, at most 8"
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option("--time-limit", help="Seconds that a piece of work may take.", callback=_positive),
]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory-limit",
        help="GiB that a worker process may take.",
        show_default="90 % of all, over the jobs",
        callback=_positive,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start anew, whatever is done already or was interrupted."),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="SPEC",
        help="Estimator that time and memory are compared with in the table.",
    ),
]
Store = Annotated[
    Path,
    typer.Option("--store", envvar="METAGRAD_STORE", help="Folder of results."),
]
Imports = Annotated[
    list[str],
    typer.Option(
        "--import", metavar="MODULE", help="Module or file.py that registers more; repeatable."
    ),
]
