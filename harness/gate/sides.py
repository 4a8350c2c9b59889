"""The two sides that are compared: commits, or stored results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.gate.measuring import Cells, measured, stored
from harness.gate.trees import Tree, install, resolve
from harness.outcome import Status
from harness.running.progress import progress_bar


@dataclass(frozen=True)
class Side:
    """What one side has.

    Attributes:
        name: what people read.
        cells: results by cell.
        tree: the commit; None of stored results.
    """

    name: str
    cells: Cells
    tree: Tree | None = None


@dataclass(frozen=True)
class Selection:
    """What is to be measured.

    Attributes:
        words: arguments of `metagrad run` that say so.
        cells: the names of the cells that they say here and now.
        plugins: modules that register more.
        store: the folder of results.
    """

    words: Sequence[str]
    cells: frozenset[str]
    plugins: tuple[str, ...]
    store: Path


def side_of(ref: str, selection: Selection, console: Console) -> Side:
    """Returns a side, and tells on the terminal what that takes.

    Args:
        ref: a commit; or a file or a folder of results.
        selection: what to measure of a commit.
        console: where it is told.

    Raises:
        OptionError: there is no such commit or it cannot be measured; results cannot be read.
        StoreError: a folder has no results.
    """
    if Path(ref).exists():
        return Side(ref, stored(Path(ref)))
    commit = resolve(ref)
    name = commit[:8] if commit.startswith(ref) else f"{ref} ({commit[:8]})"
    with console.status(f"Installing {commit[:8]}"):
        tree = install(commit)
    console.print(f"{name}: {tree.subject}", markup=False, highlight=False, soft_wrap=True)
    with progress_bar(console) as show:
        cells = measured(
            tree,
            selection.words,
            selection.store,
            wanted=selection.cells,
            plugins=selection.plugins,
            tell=lambda progress: show(progress.done, progress.total, progress.doing),
        )
    return Side(name, cells, tree)


def fine_on_both(base: Side, head: Side) -> list[str]:
    """Returns the names of the cells that went well on both sides.

    Args:
        base: the one.
        head: the other.
    """
    return [
        name
        for name, cell in base.cells.items()
        if cell.status is Status.OK and name in head.cells and head.cells[name].status is Status.OK
    ]
