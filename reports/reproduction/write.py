"""Reproduced figures and tables as files: SVG, CSV, and a page of Markdown that shows them all."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from estimators.errors import OptionError
from harness.markdown import plain
from harness.reproduction import Scale
from harness.results.store import StoreError
from harness.results.trainings import trainings
from reports.figures.save import svg
from reports.files import put
from reports.reproduction import PIECES
from reports.reproduction.piece import Found, Piece
from reports.tables.snapshot import read
from reports.tables.text import as_text
from reports.tables.view import View

PAGE = "README.md"


def found_in(store: Path) -> Found:
    """Returns what a store has to make figures and tables from.

    Args:
        store: the folder of results.
    """
    try:
        snapshot = read(store)
    except StoreError:  # it may have trainings alone, or nothing
        snapshot = View.of_nothing(store).snapshot
    return Found(snapshot, trainings(store)[0])


def write(store: Path, names: Sequence[str], scale: Scale, out: Path) -> tuple[Path, list[Piece]]:
    """Writes OUT/README.md, and for each figure or table OUT/NAME-1.svg, ... and OUT/NAME.csv.

    Args:
        store: the folder of results.
        names: of figures and tables.
        scale: at which they were measured.
        out: the folder to write to; made if missing.

    Returns:
        The page, and what is on it.

    Raises:
        OptionError: something has not been measured, or the folder cannot be written.
    """
    found = found_in(store)
    made = {name: PIECES[name](found, scale) for name in names}
    if missing := [name for name, piece in made.items() if piece is None]:
        raise OptionError(f"nothing in {store} is what {', '.join(missing)} can be made from")
    pieces = [piece for piece in made.values() if piece]
    files = {}
    for piece in pieces:
        for number, chart in enumerate(piece.charts, start=1):
            files[f"{piece.name}-{number}.svg"] = svg(chart().to_dict(validate=False))
        files[f"{piece.name}.csv"] = piece.data.to_csv(index=False).encode()
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "as_text": as_text}
    page = environment.get_template("reproduction.md.j2").render(
        pieces=pieces, names=names, scale=scale, made_with=_made_with(found)
    )
    return put(out, files | {PAGE: page.encode()})[-1], pieces


def _made_with(found: Found) -> list[str]:
    """Returns commits and machines of the newest measurements."""
    told = []
    if len(found.snapshot.cells):
        told.append(f"cells: {found.snapshot.cells['version_label'].iloc[0]}")
    if len(found.trainings):
        newest = found.trainings.iloc[-1]
        commit = newest["commit"][:8] + (" (uncommitted changes)" if newest["changes"] else "")
        told.append(f"trainings: {commit}, {newest['machine']}")
    return told
