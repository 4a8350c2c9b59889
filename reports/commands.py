"""Commands that the command line takes from this floor."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from estimators.base.errors import OptionError
from estimators.base.registry import unknown
from harness.commands import options


def report(
    store: options.Store = Path("results"),
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
) -> int:
    """Write figures and tables of the newest commit: index.html, and summary.md in short.

    Exit code 0: of all results; 1: some could not be read, and are left out; 2: nothing is written.
    """
    from reports.static import write  # it imports altair and more, which `--help` can do without

    (page, summary), result = write(store, out)
    print(f"The report on {result.commit}: {page}, and in short: {summary}")
    options.print_left_out(result.problems)
    return int(bool(result.problems))


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Of the binomial method's paper: fig2, fig3a, fig3b, fig4, fig5, table1, table2. "
            "Of multi-step meta-gradients (arXiv 2111.00206): one-step. Or all."
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            help="quick: embedded data, an hour for all on two cores; "
            "paper: the binomial method's steps, the user's own images."
        ),
    ] = "quick",
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("reproduction"),
    device: Annotated[str, typer.Option(help="Where it trains: cpu, cuda, cuda:1.")] = "cpu",
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
    store: options.Store = Path("results"),
) -> int:
    """Measure and make figures and tables of papers.

    README.md shows them beside the papers' numbers, with all others that the store has measurements
    for; figures are SVG, the numbers behind them CSV.
    After an interruption the same command goes on where it was.
    Exit code 0: all are made; 1: something went wrong or is missing; 2: nothing is made.
    """
    from harness.commands.reproduce import EXPERIMENTS, SCALES, measure, needed
    from harness.commands.train import refuse_missing_data
    from reports.reproduction.write import write
    from reports.tables.text import as_text

    chosen = next((one for one in SCALES if one == scale), None)
    if chosen is None:
        raise OptionError(unknown("scale", scale, [*SCALES]))
    for name in names:
        if name not in (*EXPERIMENTS, "all"):
            raise OptionError(unknown("figure or table", name, [*EXPERIMENTS, "all"]))
    if store.exists() and not store.is_dir():
        raise OptionError(f"{store} is no folder of results")
    known = [name for name in EXPERIMENTS if chosen in EXPERIMENTS[name]]
    wanted = known if "all" in names else list(dict.fromkeys(names))
    if lacking := [name for name in wanted if name not in known]:
        raise OptionError(f"{', '.join(lacking)}: there is no scale {chosen!r} of it, only 'quick'")
    sources = [replace(one, device=device) for one in needed(wanted, chosen)]
    if device != "cpu" and not any(one.trainings for one in sources):
        raise OptionError(f"{', '.join(wanted)}: nothing is trained, which --device is for")
    refuse_missing_data([config for one in sources for config in one.configs()])
    well = [measure(one, store, jobs, fresh=fresh) for one in sources]
    page, pieces = write(store, wanted, chosen, out)
    for piece in pieces:
        if piece.name in wanted:
            print(piece.heading)
            for line in piece.notes:
                print(f"  {line}")
            for row in as_text(piece.agreement):
                pairs = zip(piece.agreement.columns, row, strict=True)
                print(f"  {', '.join(f'{name}: {value}' for name, value in pairs)}")
    missing = sorted(set(wanted) - {piece.name for piece in pieces})
    if missing:
        options.print_error(f"nothing to make {', '.join(missing)} from")
    print(f"All of it: {page}")
    return int(bool(missing) or not all(well))
