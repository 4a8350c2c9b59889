"""`metagrad gate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estimators.base.errors import UserError
from harness.commands import options
from harness.commands.options import console, print_line

if TYPE_CHECKING:
    from harness.gate.measuring import Cells
    from harness.gate.pairs import Pairs
    from harness.gate.revision import Revision
    from harness.gate.waivers import Waiver


_STATUS = ("--no-optional-locks", "status", "--porcelain", "-uno")


def gate(
    preset: options.Preset = "gate",
    base: Annotated[
        str, typer.Option(help="Commit to compare with, or stored results (a run or a folder).")
    ] = "origin/main",
    head: Annotated[str, typer.Option(help="Commit to check, or stored results.")] = "HEAD",
    estimators: options.Estimators = None,
    task: options.Task = None,
    model: options.Model = None,
    depths: options.Depths = None,
    only: options.Only = None,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Also compare times, in pairs.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for gate.md and gate.json.")] = None,
    imports: options.Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Check whether a commit makes anything worse; for pull requests.

    Both commits are installed side by side. Repeatable metrics are measured once for each commit;
    times are taken in pairs. waivers.toml of the head lists intended changes.
    Exit code 0: nothing is worse; 1: something is; 2: it could not be measured, nothing could be
    compared, or a cell that worked now fails.
    """
    from harness.gate.compare import compare
    from harness.gate.plugins import relative_plugins
    from harness.gate.report import print_comparison, write
    from harness.gate.revision import check_pair, open_revision, results
    from harness.matrix.plan import expand, override, refuse_impossible
    from harness.matrix.plan import preset as read_preset
    from harness.matrix.selection import select
    from harness.support.git import git_text
    from harness.support.plugins import load_plugins
    from harness.support.signals import interrupt_once

    plugins = relative_plugins(imports)
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
            old, new = (open_revision(ref, plugins, console) for ref in (base, head))
            waivers = _waivers(new)
            notes = check_pair(old, new)
            if new.checkout and (changed := git_text(*_STATUS)):
                count = len(changed.splitlines())
                notes.append(
                    f"{count} files have uncommitted changes, which are not part of {new.name}."
                )
            before, after = (results(one, selection, plugins, console) for one in (old, new))
            pairs = _pairs(old, new, before, after, plugins) if times else None
    except KeyboardInterrupt:
        raise UserError("stopped; results so far are reused the next time") from None
    if times and pairs is None:
        notes.append("Times are not compared: stored ones were not taken in pairs.")
    names = old.name, new.name
    comparison = compare(before, after, names=names, pairs=pairs, waivers=waivers, notes=notes)
    print_comparison(comparison, console)
    if out:
        paths = write(comparison, out)
        print_line(f"Written: {', '.join(map(str, paths))}")
    return comparison.exit_code


def _waivers(head: "Revision") -> "list[Waiver]":
    """Return the waivers of the head, or of this folder if it is stored results."""
    from harness.gate.waivers import FILE, parse

    path = (head.checkout.work if head.checkout else Path()) / FILE
    try:
        return parse(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise UserError(f"{FILE} cannot be read: {error.strerror}") from None


def _pairs(
    base: "Revision", head: "Revision", before: "Cells", after: "Cells", plugins: tuple[str, ...]
) -> "Pairs | None":
    """Time two commits in pairs; return None for stored results."""
    from harness.gate.compare import ok_in_both
    from harness.gate.pairs import paired_times
    from harness.support.progress import progress_bar

    if not (base.checkout and head.checkout):
        return None
    cells = ok_in_both(before, after)
    console.print(f"Timing {len(cells)} cells in pairs")
    with progress_bar(console) as show:
        return paired_times(
            *(base.checkout, head.checkout, cells),
            plugins=plugins,
            on_progress=lambda share, doing: show(share, 1.0, doing),
        )
