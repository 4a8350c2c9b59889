"""What a way of laying out a data set on disk must offer, and what such ways share."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.reading.names import shown, shown_file
from harness.tasks.reading.pictures import Picture

SPLITS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
"""How each split may be spelled in the names of files and folders."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Files that are taken for images; others beside them are let be."""


@dataclass(frozen=True)
class Part:
    """The images of a part of a data set, none of them opened yet.

    Attributes:
        names: of the classes.
        labels: the class of each image, as its place in `names`.
        pictures: yields the images, in the order of `labels`.
    """

    names: Sequence[str]
    labels: NDArray[np.intp]
    pictures: Callable[[], Iterator[Picture]]

    @property
    def counts(self) -> NDArray[np.intp]:
        """How many images each class has."""
        return np.bincount(self.labels, minlength=len(self.names))


class Layout(ABC):
    """A way in which the files of a data set lie in a folder.

    Attributes:
        about: what lies there, in a few words.
        parts: what is read by itself: the splits, unless the data set has others.
    """

    about: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = tuple(SPLITS)

    @abstractmethod
    def wanted(self, part: str) -> str:
        """Returns what a part's files are called."""

    @abstractmethod
    def there(self, folder: Path, part: str) -> bool:
        """Tells whether a part's files are there."""

    @abstractmethod
    def files(self, folder: Path, part: str) -> list[Path]:
        """Returns the files that a part is made from, and the folders that are its classes.

        Raises:
            OptionError: they cannot be listed.
        """

    @abstractmethod
    def read(self, folder: Path, part: str) -> Part:
        """Reads what classes and images there are.

        Raises:
            OptionError: the files are not as they should be.
        """


def spelled(folder: Path, pattern: str, split: str) -> Path | None:
    """Returns the file or folder of a split; None where there is none.

    Raises:
        OptionError: it is there in two spellings.
    """
    paths = [folder / pattern.format(one) for one in SPLITS[split]]
    found = [path for path in paths if holds(path.exists)]
    if len(found) > 1:
        raise OptionError(f"{folder} has {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def holds(question: Callable[[], bool]) -> bool:
    """Asks something of a path; in a folder that cannot be read, there is nothing."""
    try:
        return question()
    except OSError:
        return False


def wanted(pattern: str, split: str) -> str:
    """Returns how the file or folder of a split may be called."""
    return " or ".join(pattern.format(one) for one in SPLITS[split])


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, sorted; hidden ones are let be.

    Raises:
        OptionError: it cannot be read.
    """
    return _entries(folder, lambda entry: entry.is_dir())


def image_files(folder: Path) -> list[Path]:
    """Returns the image files in a folder, sorted; hidden ones are let be.

    Raises:
        OptionError: it cannot be read.
    """
    return _entries(folder, lambda entry: entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def _entries(folder: Path, fits: "Callable[[os.DirEntry[str]], bool]") -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and fits(e)]
    except OSError as error:
        where = shown_file(str(folder))
        raise OptionError(f"cannot read {where}: {error.strerror or error}") from None
    return [folder / name for name in sorted(names)]


def part_of_files(classes: Iterable[tuple[str, Sequence[Path]]]) -> Part:
    """Makes a part of image files."""
    found = list(classes)
    labels = np.repeat(np.arange(len(found)), [len(files) for _, files in found])

    def pictures() -> Iterator[Picture]:
        return (Picture(shown_file(str(file)), file) for _, files in found for file in files)

    return Part([shown_file(name) for name, _ in found], labels.astype(np.intp), pictures)


def part_by_labels(path: Path, labels: Any, count: int, pictures: Iterable[Picture]) -> Part:
    """Makes a part of images with a number or a name for each.

    Raises:
        OptionError: the labels do not fit the images.
    """
    flat = labels if _is_flat(labels) else ()
    try:
        found = np.asarray(flat)
        names, places = np.unique(found, return_inverse=True)
    except (ValueError, TypeError):  # kinds that do not go together; text that is none
        found = np.empty(0)
    if found.ndim != 1 or found.dtype.kind not in "iuSU":
        raise OptionError(f"the labels of {path} are no list of whole numbers or names")
    if len(found) != count:
        raise OptionError(f"{path} has {len(found)} labels for {count} images")
    if found.dtype.kind == "i" and found.min() < 0:
        raise OptionError(f"{path} has the label {found.min()}; labels are 0 or more")
    called = [shown(name) for name in names.tolist()]
    return Part(called, places.astype(np.intp), lambda: iter(pictures))


def _is_flat(labels: Any) -> bool:
    """Tells lists of single things from what numpy would unfold, however large it becomes."""
    if isinstance(labels, np.ndarray):
        return True
    single = (str, bytes, int, float, np.generic)
    return isinstance(labels, (list, tuple)) and all(isinstance(one, single) for one in labels)
