"""A command of `metagrad`, called in this process."""

from collections.abc import Callable

import typer
from typer.testing import CliRunner


def invoke(command: Callable[..., int], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr; raise the error of a user's mistake."""
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(one) for one in arguments], standalone_mode=False)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    code = done.return_value if isinstance(done.return_value, int) else done.exit_code
    return code, done.stdout, done.stderr
