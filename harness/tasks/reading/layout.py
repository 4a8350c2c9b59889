"""The ways in which the files of a data set may lie in a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.support import cache
from harness.tasks.reading.names import unreadable
from harness.tasks.reading.pictures import Picture


@dataclass(frozen=True)
class Part:
    """The images of a part of a data set, none of them opened yet.

    Attributes:
        names: of the classes.
        labels: the class of each image, as its place in `names`.
        pictures: returns the images, in the order of `labels`.
    """

    names: Sequence[str]
    labels: NDArray[np.intp]
    pictures: Callable[[], Iterator[Picture]]

    @property
    def counts(self) -> NDArray[np.intp]:
        """Number of images of each class."""
        return np.bincount(self.labels, minlength=len(self.names))


@dataclass(frozen=True, eq=False)
class Layout:
    """A way in which the files of a data set lie in a folder; this one packs images together.

    Attributes:
        files: names of the files and folders of a part. `{}` stands for the part, folders end in
            a slash, and `<...>` for what is in them.
        load: reads a part, from a path for each name in `files`.
        parts: the parts of the data set, which are decoded separately.
        spellings: of parts in names, where they are not called as in `parts`.
        roots: folders that the files may lie in.
    """

    files: tuple[str, ...]
    load: Callable[..., Any]
    parts: tuple[str, ...] = ("train", "validation", "test")
    spellings: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"validation": ("val", "validation")}
    )
    roots: tuple[str, ...] = (".",)

    @property
    def about(self) -> str:
        """The names of all files, as in `{train,val,test}.csv and images/`."""
        parts = ",".join(self.spellings.get(part, (part,))[0] for part in self.parts)
        return " and ".join(name.replace("{}", f"{{{parts}}}") for name in self.files)

    def required(self, part: str) -> str:
        """Return the names of the files that a part needs, for messages."""
        return ", with ".join(" or ".join(names) for names in self._names(part))

    def present_parts(self, folder: Path) -> list[str]:
        """Return the parts whose files are all there."""
        return [part for part in self.parts if self._paths(folder, part)]

    def paths(self, folder: Path, part: str) -> list[Path]:
        """Return the files and folders of a part."""
        if paths := self._paths(folder, part):
            return paths
        raise UserError(f"{folder} has no {self.required(part)}")

    def read(self, folder: Path, part: str) -> Part:
        """Read which classes and images a part has."""
        content: Part = self.load(*self.paths(folder, part))
        return content

    def listing(self, folder: Path, part: str) -> dict[str, list[Path]]:
        """Return the files that a part is decoded from, by class if they are sorted by class."""
        return {"": self.paths(folder, part)}

    def digest(self, folder: Path, part: str) -> str:
        """Return a digest of a part's classes and the names, sizes and times of its files."""
        lines = []
        for name, files in self.listing(folder, part).items():
            lines.append(name)
            for file in files:
                try:
                    state = file.stat()
                except OSError as error:
                    raise UserError(unreadable(file, error)) from None
                path = str(file).removeprefix(str(folder))
                lines.append(f"{path} {state.st_size} {state.st_mtime_ns}")
        return cache.digest("\n".join(lines))

    def _paths(self, folder: Path, part: str) -> list[Path]:
        for root in (folder / one for one in self.roots):
            paths: list[Path] = []
            for names in self._names(part):
                present = [one for one in names if is_present(root / one, folder=one.endswith("/"))]
                if len(present) > 1:
                    raise UserError(f"{root} has {' and '.join(present)}; keep one of them")
                paths += (root / name for name in present)
            if len(paths) == len(self.files):
                return paths
        return []

    def _names(self, part: str) -> list[list[str]]:
        spellings = self.spellings.get(part, (part,))
        names = [name.partition("<")[0] for name in self.files]
        # A name without {} is the same in all spellings.
        return [[*dict.fromkeys(map(name.format, spellings))] for name in names]


def is_dead_link(path: Path) -> bool:
    """Return whether a path is a link that leads nowhere."""
    return path.is_symlink() and not path.exists()


def is_present(path: Path, *, folder: bool = False) -> bool:
    """Return whether there is a file or folder, or a link that should lead to one.

    In a folder that cannot be read, there is nothing.
    """
    try:
        return (path.is_dir() if folder else path.exists()) or is_dead_link(path)
    except OSError:
        return False
