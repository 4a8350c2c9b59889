"""The two sides that are compared: commits, or stored results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from estimators.base.errors import OptionError
from harness.gate.checkout import Tree, install, resolve
from harness.gate.measuring import Cells, measured
from harness.gate.plugins import foreign
from harness.gate.stored import Stored, differences, is_stored, stored
from harness.matrix.outcome import Status
from harness.support.progress import progress_bar


@dataclass(frozen=True)
class Side:
    """What one side has.

    Attributes:
        name: what people read.
        tree: the commit; None of stored results.
        stored: results; None of a commit.
        foreign: plug-ins that the commit has from the environment.
    """

    name: str
    tree: Tree | None = None
    stored: Stored | None = None
    foreign: Sequence[str] = ()


def side_of(ref: str, plugins: Sequence[str], console: Console) -> Side:
    """Finds a side, and installs it if it is a commit.

    Raises:
        OptionError: there is no such commit or it cannot be installed; results cannot be read.
        StoreError: a folder has no results.
    """
    if is_stored(ref):
        return Side(ref, stored=stored(Path(ref)))
    commit = resolve(ref)
    name = commit[:8] if commit.startswith(ref) else f"{ref} ({commit[:8]})"
    with console.status(f"Installing {commit[:8]}"):
        tree = install(commit)
    return Side(name, tree, foreign=foreign(tree, plugins))


def cells_of(
    side: Side, selection: Sequence[str], plugins: tuple[str, ...], console: Console
) -> Cells:
    """Returns the results of a side, which are measured where they are not there.

    Raises:
        OptionError: it could not be measured to the end.
    """
    if side.stored:
        return side.stored.cells
    assert side.tree
    told = f"{side.name}: {side.tree.subject}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)
    with progress_bar(console) as show:
        return measured(
            side.tree,
            selection,
            plugins=plugins,
            tell=lambda progress: show(progress.done, progress.total, progress.doing),
        )


def checked(base: Side, head: Side) -> list[str]:
    """Returns what is to be known of two sides before they are compared, a line each.

    Raises:
        OptionError: a plug-in is part of one of them alone.
    """
    if base.stored and head.stored:
        return differences(base.stored, head.stored)
    notes = []
    if base.tree and head.tree:
        for name in dict.fromkeys([*base.foreign, *head.foreign]):
            lacking = [side.name for side in (base, head) if name in side.foreign]
            if len(lacking) == 1:
                raise OptionError(f"{lacking[0]} lacks --import {name}")
            notes.append(f"{name} is no part of either commit, and the same for both.")
    return notes


def fine_on_both(base: Cells, head: Cells) -> list[str]:
    """Returns the names of the cells that went well on both sides."""
    return [
        name
        for name, cell in base.items()
        if cell.status is Status.OK and name in head and head[name].status is Status.OK
    ]
