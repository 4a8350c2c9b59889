"""Reproduced figures and tables as files: SVG, CSV, and a page of Markdown that shows them all."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from estimators.base.errors import UserError
from harness.commands.reproduce import Scale
from harness.support.files import put
from harness.support.markdown import plain
from reports.figures.style import svg
from reports.reproduction import pieces
from reports.reproduction.piece import Measurements, Piece
from reports.tables.snapshot import read
from reports.tables.text import as_text

PAGE = "README.md"


def write(store: Path, names: Sequence[str], scale: Scale, out: Path) -> tuple[Path, list[Piece]]:
    """Write OUT/README.md, and for each figure or table OUT/NAME-1.svg, ... and OUT/NAME.csv.

    All are written that the store has anything for, so that the page shows all that is known.

    Raises:
        UserError: none of the names has been measured.
    """
    all_pieces = pieces(Measurements(read(store)), scale)
    if not {piece.name for piece in all_pieces} & {*names}:
        raise UserError(f"nothing in {store} is what {', '.join(names)} can be made from")
    files = {}
    for piece in all_pieces:
        for number, chart in enumerate(piece.charts, start=1):
            files[f"{piece.name}-{number}.svg"] = svg(chart().to_dict(validate=False))
        files[f"{piece.name}.csv"] = piece.data.to_csv(index=False).encode()
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "as_text": as_text}
    page = environment.get_template("reproduction.md.j2").render(pieces=all_pieces, scale=scale)
    return put(out, files | {PAGE: page.encode()})[-1], all_pieces
