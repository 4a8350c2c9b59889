"""Image files in folders: one for each split or set, in it one for each class."""

from pathlib import Path

from estimators.base.errors import OptionError
from harness.tasks.reading.layout import (
    Layout,
    Part,
    holds,
    image_files,
    part_of_files,
    spelled,
    subfolders,
    wanted,
)


class Tree(Layout):
    """A folder for each split, in it one for each class, in it the images."""

    about = "{train,val,test}/<class>/<image>"

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        return f"folder {wanted('{}', part)}"

    def there(self, folder: Path, part: str) -> bool:
        """See `Layout.there`."""
        return (path := spelled(folder, "{}", part)) is not None and holds(path.is_dir)

    def files(self, folder: Path, part: str) -> list[Path]:
        """See `Layout.files`."""
        return _with_images(self._classes(folder, part))

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`."""
        return part_of_files((one.name, image_files(one)) for one in self._classes(folder, part))

    def _classes(self, folder: Path, part: str) -> list[Path]:
        path = spelled(folder, "{}", part)
        assert path is not None
        if not (found := subfolders(path)):
            raise OptionError(f"{path} has no folders, where there is one for each class")
        return found


class OmniglotTree(Layout):
    """Omniglot as it is distributed: a folder for each alphabet, in it one for each character."""

    about = "images_{background,evaluation}/<alphabet>/<character>/<image>"
    parts = ("background", "evaluation")

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        return f"folder images_{part}"

    def there(self, folder: Path, part: str) -> bool:
        """See `Layout.there`."""
        return holds(_omniglot(folder, part).is_dir)

    def files(self, folder: Path, part: str) -> list[Path]:
        """See `Layout.files`."""
        return _with_images(self._characters(folder, part))

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`; a class is called alphabet/character."""
        return part_of_files(
            (f"{one.parent.name}/{one.name}", image_files(one))
            for one in self._characters(folder, part)
        )

    def _characters(self, folder: Path, part: str) -> list[Path]:
        path = _omniglot(folder, part)
        if not (found := [one for alphabet in subfolders(path) for one in subfolders(alphabet)]):
            raise OptionError(f"{path} has no folders <alphabet>/<character>")
        return found


def _with_images(classes: list[Path]) -> list[Path]:
    return [*classes, *(file for one in classes for file in image_files(one))]


def _omniglot(folder: Path, part: str) -> Path:
    below = folder / "omniglot-py" / f"images_{part}"
    return below if holds(below.is_dir) else folder / f"images_{part}"
