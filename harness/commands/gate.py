"""`metagrad gate`."""

from pathlib import Path
from typing import Annotated

import typer

from estimators.errors import OptionError
from harness.commands.options import Imports, Only, Store, console


def gate(
    preset: Annotated[str, typer.Argument(help="Preset: see `metagrad list`.")] = "gate",
    base: Annotated[
        str, typer.Option(help="Commit to compare with, or stored results: a run, a folder.")
    ] = "origin/main",
    head: Annotated[str, typer.Option(help="Commit to judge, or stored results.")] = "HEAD",
    estimator: Annotated[
        list[str] | None, typer.Option(help="Estimators instead of the preset's; repeatable.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task instead of the preset's.")] = None,
    model: Annotated[str | None, typer.Option(help="Model instead of the preset's.")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Depths K instead; repeatable.")] = None,
    only: Only = None,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Compare times, in pairs, as well.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write gate.md and gate.json to.")
    ] = None,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Tell whether a commit has made anything worse; for pull requests.

    Both commits are installed side by side. What repeats exactly is measured of each, unless the
    store has it; times are taken in pairs. waivers.toml of the head says what is meant.
    Exit code 0: nothing is worse; 1: something is; 2: it could not be measured, nothing could be
    compared, or a cell that worked fails now.
    """
    from harness.gate import trees
    from harness.gate.judging import judge
    from harness.gate.pairs import Pairs, paired_times
    from harness.gate.sides import Selection, fine_on_both, side_of
    from harness.gate.telling import tell, write
    from harness.gate.waivers import FILE, parse
    from harness.git import git_text
    from harness.plan import expand, override, refuse_impossible
    from harness.plan import preset as read_preset
    from harness.plugins import load_plugins
    from harness.running.progress import progress_bar
    from harness.selection import select

    load_plugins(imports)
    axes = override(read_preset(preset), task=task, model=model, estimators=estimator, depths=depth)
    planned = select(expand(axes), only or [])
    refuse_impossible(planned, named=bool(estimator))
    named = {"--estimator": estimator, "--depth": depth, "--only": only}
    named |= {"--task": [task] if task else [], "--model": [model] if model else []}
    words = [
        word
        for option, values in named.items()
        for one in values or []
        for word in (option, str(one))
    ]
    selection = Selection(
        [preset, *words], frozenset(plan.cell.id for plan in planned), tuple(imports), store
    )
    old, new = (side_of(ref, selection, console) for ref in (base, head))
    notes: list[str] = []
    if new.tree and (changed := git_text("status", "--porcelain", "--untracked-files=no")):
        count = len(changed.splitlines())
        notes.append(f"{count} files have uncommitted changes, which are no part of {new.name}.")
    pairs: Pairs | None = None
    if times and old.tree and new.tree:
        cells = fine_on_both(old, new)
        console.print(f"Timing {len(cells)} cells in pairs", highlight=False)
        with progress_bar(console) as show:
            pairs = paired_times(
                old.tree,
                new.tree,
                cells,
                plugins=selection.plugins,
                tell=lambda share, doing: show(share, 1.0, doing),
            )
    elif times:
        notes.append("Times are not compared: stored ones were not taken side by side.")
    if new.tree:
        told = trees.file_at(new.tree.commit, FILE)
    else:
        told = Path(FILE).read_text(encoding="utf-8") if Path(FILE).exists() else None
    judgement = judge(
        old.cells,
        new.cells,
        names=(old.name, new.name),
        pairs=pairs,
        waivers=parse(told or ""),
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
