"""Image files on disk: in folders by class, or listed by class."""

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from estimators.base.errors import UserError
from harness.tasks.reading.layout import Layout, Part, is_dead_link, is_present
from harness.tasks.reading.names import printable, printable_path, unreadable
from harness.tasks.reading.pictures import Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Suffixes of image files; other files beside them are ignored."""

IGNORED = (
    *("__MACOSX", "@eaDir", "#recycle", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information"),
)
"""Folders that systems put among those of a user; hidden ones are ignored too."""

Listing = dict[str, list[Path]]
"""Image files by class."""


@dataclass(frozen=True, eq=False)
class ImageLists(Layout):
    """A layout of image files; `load` returns them by class."""

    def listing(self, folder: Path, part: str) -> Listing:
        """See `Layout.listing`."""
        listing: Listing = self.load(*self.paths(folder, part))
        return listing

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`."""
        listing = self.listing(folder, part)
        counts = [len(files) for files in listing.values()]
        return Part(
            [printable_path(name) for name in listing],
            np.repeat(np.arange(len(listing), dtype=np.intp), counts),
            lambda: (
                Picture(printable_path(file), file) for files in listing.values() for file in files
            ),
        )


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted."""
    return _entries(folder, lambda entry: entry.is_dir() or is_dead_link(Path(entry)))


def _classes(path: Path) -> Listing:
    folders = {one.name: one for one in subfolders(path)}
    return _images_in(folders, f"{path}/<class>")


def _characters(path: Path) -> Listing:
    folders = [one for alphabet in subfolders(path) for one in subfolders(alphabet)]
    named = {f"{one.parent.name}/{one.name}": one for one in folders}
    return _images_in(named, f"{path}/<alphabet>/<character>")


def _images_in(folders: dict[str, Path], pattern: str) -> Listing:
    """Return the image files in the folder of each class."""
    if not folders:
        raise UserError(f"there are no folders {pattern}")
    listing = {name: _image_files(folder) for name, folder in folders.items()}
    if not any(listing.values()):
        for folder in folders.values():
            for deeper in subfolders(folder):
                where = printable_path(deeper)
                raise UserError(f"no images in {pattern}, but there is {where}: they lie too deep")
    return listing


def _listed(table: Path, folder: Path) -> Listing:
    """Return the image files that a list names, by class."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(unreadable(table, error)) from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {table}: it is not in UTF-8") from None
    # `strict` refuses an open quote, which would swallow all rows up to the next one.
    reader = csv.reader(io.StringIO(text), skipinitialspace=True, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"cannot read {table}, line {reader.line_num}: {error}") from None
    if [header.count(name) for name in ("filename", "label")] != [1, 1]:
        raise UserError(
            f"the first line of {table} is not of columns filename and label, with commas between: "
            f"{printable(','.join(header)):.80}"
        )
    listing: Listing = {}
    images: set[Path] = set()
    for line, cells in rows:
        row, where = dict(zip(header, cells, strict=False)), f"{table}, line {line}"
        name, label = row.get("filename"), row.get("label")
        if not name or not label:
            raise UserError(f"{where}: filename or label missing")
        if any(cells[len(header) :]):
            raise UserError(f"{where} has {len(cells)} columns, not {len(header)}")
        if '"' in name + label:
            raise UserError(f"{where}: stray quote in {printable(f'{name},{label}')}")
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise UserError(f"{where}: {printable(name)} is not below the folder images")
        if (image := folder / name) in images:
            raise UserError(f"{where}: {printable(name)} is listed for a second time")
        images.add(image)
        listing.setdefault(label, []).append(image)
    if not images:
        raise UserError(f"{table} lists no images")
    if missing := sorted(image for image in images if not is_present(image)):
        others = f", nor are {len(missing) - 1} others" if missing[1:] else ""
        name = printable(missing[0].name)
        raise UserError(f"{table} lists {name}, which is not in {folder}{others}")
    return listing


def _image_files(folder: Path) -> list[Path]:
    def fits(entry: "os.DirEntry[str]") -> bool:
        return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()

    return _entries(folder, fits)


def _entries(folder: Path, fits: "Callable[[os.DirEntry[str]], bool]") -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            visible = (e for e in entries if not e.name.startswith(".") and e.name not in IGNORED)
            names = sorted(entry.name for entry in visible if fits(entry))
    except OSError as error:
        raise UserError(unreadable(folder, error)) from None
    return [folder / name for name in names]


TREE = ImageLists(("{}/<class>/<image>",), _classes)
"""A folder for each split, in it one for each class, in it the images."""

OMNIGLOT = ImageLists(
    ("images_{}/<alphabet>/<character>/<image>",),
    _characters,
    parts=("background", "evaluation"),
    roots=("omniglot-py", "."),
)
"""Omniglot as it is distributed; torchvision puts a folder around it."""

CSV_SPLITS = ImageLists(("{}.csv", "images/"), _listed)
"""The lists of Ravi and Larochelle, beside a folder of all images."""
