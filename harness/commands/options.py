"""The options that commands share, and the console that they print to."""

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from estimators.base.errors import OptionError

console = Console(
    width=None if (sys.stdout and sys.stdout.isatty()) or "COLUMNS" in os.environ else 200,
    highlight=False,
)
"""Where tables and progress go; output to a file or a pipe is not cut to a screen's width."""


def print_line(line: str, style: str | None = None) -> None:
    """Print a line as it is: not cut, and without markup."""
    console.print(line, soft_wrap=True, markup=False, style=style)


@cache
def warn(line: str) -> None:
    """Print a warning, once."""
    print_line(line, style="yellow")


def print_error(line: str) -> None:
    """Print a line on standard error."""
    print(f"metagrad: {line}", file=sys.stderr)


def print_left_out(problems: Iterable[object]) -> None:
    """Print on standard error what could not be read, a line each."""
    for problem in problems:
        print_error(f"{problem}; it is left out")


def option(text: str, *names: str, default: str | bool = True, **more: Any) -> Any:
    """Return an option of a command; `default` describes a default that is not a value."""
    return typer.Option(*names, help=text, show_default=default, **more)


def _positive(param: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise OptionError(f"{param.opts[0]} {value:g} must be positive")
    return value


_PRESET = "the preset's"

Preset = Annotated[str, typer.Argument(help="Preset: see `metagrad list`.")]
Estimators = Annotated[
    list[str] | None,
    option('Estimators, as "binom(order=2)"; repeatable.', "--estimator", default=_PRESET),
]
Task = Annotated[str | None, option("Task, as glyphs:5way-1shot.", "--task", default=_PRESET)]
Model = Annotated[str | None, option("Model, as conv4-32.", "--model", default=_PRESET)]
Depths = Annotated[
    list[int] | None, option("K, inner steps; repeatable.", "--depth", default=_PRESET)
]
StepSize = Annotated[
    float | None, option("alpha, inner step size.", "--step-size", default="the task's")
]
Devices = Annotated[
    list[str] | None,
    option("cpu, cuda, cuda:1; repeatable.", "--device", default="the preset's, or cpu"),
]
Dtypes = Annotated[
    list[str] | None,
    option("float32, float64; repeatable.", "--dtype", default="the preset's, or float32"),
]
Seeds = Annotated[
    list[int] | None,
    option("Seeds of parameters and tasks; repeatable.", "--seed", default="the preset's, or 0"),
]
Only = Annotated[
    list[str] | None,
    option(
        'Only cells that match, as "estimator=binom*,depth=5"; "|" between alternatives, '
        "depth>=5 for numbers; repeatable.",
        "--only",
        metavar="AXIS=PATTERN,...",
    ),
]
Jobs = Annotated[
    int | None,
    option("Worker processes side by side.", "--jobs", min=1, max=1024, default="cores, at most 8"),
]
TimeLimit = Annotated[
    float, option("Seconds that a piece of work may take.", "--time-limit", callback=_positive)
]
MemoryLimit = Annotated[
    float | None,
    option(
        "GiB that a worker process may take.",
        "--memory-limit",
        default="90 % of all, over the jobs",
        callback=_positive,
    ),
]
Fresh = Annotated[
    bool, option("Start anew, whatever is done already or was interrupted.", "--fresh")
]
NoProblemCheck = Annotated[
    bool,
    option(
        "Do not check, once for each task and model, whether estimates of it would be right.",
        "--no-problem-check",
    ),
]
Against = Annotated[
    str | None,
    option("Estimator that time and memory are compared with in the table.", "--against"),
]
Store = Annotated[Path, option("Folder of results.", "--store", envvar="METAGRAD_STORE")]
Imports = Annotated[
    list[str],
    option("Module or file.py that registers more; repeatable.", "--import", metavar="MODULE"),
]
