"""Reproduced figures and tables as files: SVG, CSV, and a page of Markdown that shows them all."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from estimators.base.errors import OptionError
from harness.commands.reproduce import Scale
from harness.store.table import StoreError
from harness.store.trainings import trainings
from harness.support.files import put
from harness.support.markdown import plain
from reports.figures.save import svg
from reports.reproduction import pieces
from reports.reproduction.piece import Found, Piece
from reports.tables.snapshot import read
from reports.tables.text import as_text
from reports.tables.view import View

PAGE = "README.md"


def found_in(store: Path) -> Found:
    """Returns what a store has to make figures and tables from."""
    try:
        snapshot = read(store)
    except StoreError:  # it may have trainings alone, or nothing
        snapshot = View.of_nothing(store).snapshot
    return Found(snapshot, trainings(store)[0])


def write(store: Path, names: Sequence[str], scale: Scale, out: Path) -> tuple[Path, list[Piece]]:
    """Writes OUT/README.md, and for each figure or table OUT/NAME-1.svg, ... and OUT/NAME.csv.

    All are written that the store has anything for, so that the page tells all that is known.

    Returns:
        The page, and what is on it.

    Raises:
        OptionError: none of them has been measured, or the folder cannot be written.
    """
    found = found_in(store)
    made = pieces(found, scale)
    if not {piece.name for piece in made} & {*names}:
        raise OptionError(f"nothing in {store} is what {', '.join(names)} can be made from")
    files = {}
    for piece in made:
        for number, chart in enumerate(piece.charts, start=1):
            files[f"{piece.name}-{number}.svg"] = svg(chart().to_dict(validate=False))
        files[f"{piece.name}.csv"] = piece.data.to_csv(index=False).encode()
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "as_text": as_text}
    page = environment.get_template("reproduction.md.j2").render(pieces=made, scale=scale)
    return put(out, files | {PAGE: page.encode()})[-1], made
