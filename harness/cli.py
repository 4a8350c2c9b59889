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

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark meta-gradient estimators: bias, time, memory, FLOPs.",
)
app.command("list")(list_everything)
_COMMANDS = (run, train, check, summary, export, merge, bench, gate, regressions, profile, doctor)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        for point in entry_points(group="metagrad.commands"):
            app.command(point.name)(_load(point))
        status = app(standalone_mode=False)
    except (UserError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if message:  # empty where no command was given, and the help is printed already
            line = " ".join(f"metagrad: {message}".split())
            Console(stderr=True, soft_wrap=True).print(line, markup=False, style="red")
        sys.exit(2)
    except typer.Abort:
        sys.exit(2)
    except Exception:  # a defect: exit code 1 would mean that a check found something
        traceback.print_exc()
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _load(point: EntryPoint) -> Callable[..., object]:
    try:
        command: Callable[..., object] = point.load()
    except Exception as error:
        raise UserError(f"command {point.name} of {point.value} is broken: {error}") from error
    return command
