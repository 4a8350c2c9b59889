"""Calls of the project's commands in shell text, and whether what they name exists."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import typer
from typer.main import get_command

from harness.cli import app

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def calls(shell: str) -> Iterator[list[str]]:
    """Yield each call of metagrad, asv or make, its words split as a shell does."""
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        call: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                if call and (tool := Path(call[0]).name) in ("metagrad", "asv", "make"):
                    yield [tool, *call[1:]]
                call = []
            elif call or not re.fullmatch(r"\w+=.*|if|then|else|!", word):
                call.append(word)


def unknown_words(call: list[str]) -> list[str]:
    """Return the words of a call that do not exist: target, command or options."""
    tool, command, *words = call
    if tool == "make":
        dry = ["make", "--dry-run", command, *words]
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, check=False)
        return [] if done.returncode == 0 else [command, *words]
    known = asv_options(command) if tool == "asv" else metagrad_options().get(command)
    if not known:
        return [command]
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return sorted(used - known)


@cache
def metagrad_options() -> dict[str, set[str]]:
    """Return the options of each command; of a group of commands, of all of them."""
    more = typer.Typer()
    for point in entry_points(group="metagrad.commands"):
        more.command(point.name)(point.load())
    commands = {**get_command(app).commands, **get_command(more).commands}  # type: ignore[attr-defined]
    groups = {name: [one, *getattr(one, "commands", {}).values()] for name, one in commands.items()}
    return {
        name: {"--help"}.union(*(p.opts + p.secondary_opts for one in group for p in one.params))
        for name, group in groups.items()
    }


@cache
def asv_options(command: str) -> set[str]:
    words = [str(BIN / "asv"), command, "--help"]
    env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))
