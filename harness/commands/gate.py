"""`metagrad gate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estimators.base.errors import OptionError
from harness.commands import options
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.gate.measuring import Cells
    from harness.gate.pairs import Pairs
    from harness.gate.revision import Side
    from harness.gate.waivers import Waiver


def gate(
    preset: options.Preset = "gate",
    base: Annotated[
        str, typer.Option(help="Commit to compare with, or stored results: a run, a folder.")
    ] = "origin/main",
    head: Annotated[str, typer.Option(help="Commit to judge, or stored results.")] = "HEAD",
    estimators: options.Estimators = None,
    task: options.Task = None,
    model: options.Model = None,
    depths: options.Depths = None,
    only: options.Only = None,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Compare times, in pairs, as well.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write gate.md and gate.json to.")
    ] = None,
    imports: options.Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Tell whether a commit has made anything worse; for pull requests.

    Both commits are installed side by side. What repeats exactly is measured of each, unless that
    was done before; times are taken in pairs. waivers.toml of the head says what is meant.
    Exit code 0: nothing is worse; 1: something is; 2: it could not be measured, nothing could be
    compared, or a cell that worked fails now.
    """
    from harness.gate.compare import judge
    from harness.gate.plugins import within
    from harness.gate.report import tell, write
    from harness.gate.revision import cells_of, checked, side_of
    from harness.matrix.plan import expand, override, refuse_impossible
    from harness.matrix.plan import preset as read_preset
    from harness.matrix.selection import select
    from harness.support.git import git_text
    from harness.support.plugins import load_plugins
    from harness.support.signals import interrupt_once

    plugins = within(imports)
    load_plugins(plugins)
    axes = override(
        read_preset(preset), task=task, model=model, estimators=estimators, depths=depths
    )
    planned = select(expand(axes), only or [])
    refuse_impossible(planned, named=bool(estimators))
    named = {"--estimator": estimators, "--depth": depths, "--only": only}
    named |= {"--task": [task] if task else [], "--model": [model] if model else []}
    selection = [preset] + [
        word
        for option, values in named.items()
        for one in values or []
        for word in (option, str(one))
    ]
    try:
        with interrupt_once():
            old, new = (side_of(ref, plugins, console) for ref in (base, head))
            waivers = _waivers(new)
            notes = checked(old, new)
            if new.tree and (changed := git_text("status", "--porcelain", "-uno")):
                count = len(changed.splitlines())
                notes.append(
                    f"{count} files have uncommitted changes, which are no part of {new.name}."
                )
            before, after = (cells_of(side, selection, plugins, console) for side in (old, new))
            pairs = _pairs(old, new, before, after, plugins) if times else None
    except KeyboardInterrupt:
        raise OptionError("stopped; what was measured is kept for the next time") from None
    if times and pairs is None:
        notes.append("Times are not compared: stored ones were not taken side by side.")
    judgement = judge(
        before,
        after,
        names=(old.name, new.name),
        pairs=pairs,
        waivers=waivers,
        notes=notes,
    )
    tell(judgement, console)
    if out:
        try:
            paths = write(judgement, out)
        except OSError as error:
            raise OptionError(f"cannot write to {out}: {error.strerror}") from None
        console.print(f"Written: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
    return judgement.exit_code


def _waivers(head: "Side") -> "list[Waiver]":
    """Returns the waivers of the head, or of this folder where it is stored results."""
    from harness.gate.checkout import file_at
    from harness.gate.waivers import FILE, parse

    if head.tree:
        return parse(file_at(head.tree.commit, FILE) or b"")
    try:
        return parse(Path(FILE).read_bytes() if Path(FILE).exists() else b"")
    except OSError as error:
        raise OptionError(f"{FILE} cannot be read: {error.strerror}") from None


def _pairs(
    base: "Side", head: "Side", before: "Cells", after: "Cells", plugins: tuple[str, ...]
) -> "Pairs | None":
    """Times two commits in pairs; None of stored results."""
    from harness.gate.pairs import paired_times
    from harness.gate.revision import fine_on_both
    from harness.support.progress import progress_bar

    if not (base.tree and head.tree):
        return None
    cells = fine_on_both(before, after)
    console.print(f"Timing {len(cells)} cells in pairs", highlight=False)
    with progress_bar(console) as show:
        return paired_times(
            base.tree,
            head.tree,
            cells,
            plugins=plugins,
            tell=lambda share, doing: show(share, 1.0, doing),
        )
