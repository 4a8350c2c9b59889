"""The command `metagrad`."""

import sys
import traceback
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer
from rich.console import Console
from typer.exceptions import TyperException

from estimators.base.errors import UserError
from harness.commands.bench import bench
from harness.commands.check import check
from harness.commands.command import Command
from harness.commands.data import data
from harness.commands.doctor import doctor
from harness.commands.export import export
from harness.commands.gate import gate
from harness.commands.listing import list_everything
from harness.commands.merge import merge
from harness.commands.profile import profile
from harness.commands.regressions import regressions
from harness.commands.run import run, summary
from harness.commands.train import train
from harness.support.streams import lasting_streams

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark meta-gradient estimators: bias, time, memory, FLOPs.",
)
app.command("list", cls=Command)(list_everything)
_COMMANDS = (run, train, check, summary, export, merge, bench, gate, regressions, profile, doctor)
for _command in _COMMANDS:
    app.command(cls=Command)(_command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        with lasting_streams():
            status = _status()
    except UserError as error:
        status = _refusal(str(error))
    sys.exit(status)


def _status() -> int:
    """Run a command and return its exit code."""
    try:
        for point in entry_points(group="metagrad.commands"):
            app.command(point.name, cls=Command)(_load(point))
        status = app(standalone_mode=False)
    except TyperException as error:
        return _refusal(error.format_message())
    except UserError as error:
        return _refusal(str(error))
    except typer.Abort:
        return 2
    except Exception:  # a defect: exit code 1 would mean that a check found something
        traceback.print_exc()
        return 2
    return status if isinstance(status, int) else 0


def _refusal(message: str) -> int:
    if message:  # empty where no command was given, and the help is printed already
        line = " ".join(f"metagrad: {message}".split())
        Console(stderr=True, soft_wrap=True).print(line, markup=False, style="red")
    return 2


def _load(point: EntryPoint) -> Callable[..., object]:
    try:
        command: Callable[..., object] = point.load()
    except Exception as error:
        raise UserError(f"command {point.name} of {point.value} is broken: {error}") from error
    return command
