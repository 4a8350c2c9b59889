"""The files in which miniImageNet is handed on, besides folders of images."""

import csv
from collections.abc import Iterator
from operator import index
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.reading.layout import (
    Layout,
    Part,
    holds,
    part_by_labels,
    part_of_files,
    spelled,
    wanted,
)
from harness.tasks.reading.names import shown
from harness.tasks.reading.pickles import unpickled
from harness.tasks.reading.pictures import Picture


class CachePickles(Layout):
    """A pickle for each split: all images in one array, with places or labels by class."""

    about = "mini-imagenet-cache-{train,val,test}.pkl"

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        return wanted("mini-imagenet-cache-{}.pkl", part)

    def there(self, folder: Path, part: str) -> bool:
        """See `Layout.there`."""
        return self._file(folder, part) is not None

    def files(self, folder: Path, part: str) -> list[Path]:
        """See `Layout.files`."""
        file = self._file(folder, part)
        assert file is not None
        return [file]

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`.

        Raises:
            OptionError: a file is not as it should be.
        """
        (file,) = self.files(folder, part)
        content = unpickled(file)
        if not isinstance(content, dict):
            raise OptionError(f"{file} holds no dictionary with the images and classes of a split")
        pixels, labels = (
            next((content[key] for key in keys if key in content), None)
            for keys in (("image_data", "data"), ("class_dict", "labels"))
        )
        if pixels is None or labels is None:
            raise OptionError(
                f"{file} has {', '.join(map(shown, content)) or 'nothing'}; what is wanted is "
                "image_data with class_dict, or data with labels"
            )
        images = image_array(file, pixels)
        if isinstance(labels, dict):
            labels = _labels(file, labels, len(images))
        return part_by_labels(file, labels, len(images), ArrayPictures(file, images))

    def _file(self, folder: Path, part: str) -> Path | None:
        return spelled(folder, "mini-imagenet-cache-{}.pkl", part)


class CategoryPickles(CachePickles):
    """The same under other names."""

    about = "miniImageNet_category_split_{train_phase_train,val,test}.pickle"

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        name = {"train": "train_phase_train", "validation": "val"}.get(part, part)
        return f"miniImageNet_category_split_{name}.pickle"

    def _file(self, folder: Path, part: str) -> Path | None:
        return file if holds((file := folder / self.wanted(part)).exists) else None


class CsvSplits(Layout):
    """The lists of Ravi and Larochelle, beside a folder of all images."""

    about = "{train,val,test}.csv and images/"

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        return f"{wanted('{}.csv', part)}, with folder images"

    def there(self, folder: Path, part: str) -> bool:
        """See `Layout.there`."""
        return spelled(folder, "{}.csv", part) is not None and holds((folder / "images").is_dir)

    def files(self, folder: Path, part: str) -> list[Path]:
        """See `Layout.files`."""
        listed = self._listed(folder, part)
        return [self._list(folder, part), *(file for files in listed.values() for file in files)]

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`."""
        return part_of_files(self._listed(folder, part).items())

    def _list(self, folder: Path, part: str) -> Path:
        path = spelled(folder, "{}.csv", part)
        assert path is not None
        return path

    def _listed(self, folder: Path, part: str) -> dict[str, list[Path]]:
        path = self._list(folder, part)
        found: dict[str, list[Path]] = {}
        seen: set[Path] = set()
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if not {"filename", "label"} <= set(rows.fieldnames or ()):
                    raise OptionError(f"{path} has no columns filename and label in its first line")
                for row in rows:
                    where = f"{path}, line {rows.line_num}"
                    name, label = row["filename"], row["label"]
                    if not name or not label:
                        raise OptionError(f"{where}: filename or label missing")
                    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                        raise OptionError(f"{where}: {shown(name)} is not below the folder images")
                    if (image := folder / "images" / name) in seen:
                        raise OptionError(f"{where}: {shown(name)} is listed for a second time")
                    seen.add(image)
                    found.setdefault(label, []).append(image)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise OptionError(f"cannot read {path}: {error}") from None
        if not found:
            raise OptionError(f"{path} lists no images")
        absent = [file for files in found.values() for file in files if not holds(file.is_file)]
        if absent:
            raise OptionError(
                f"{path} lists {shown(absent[0].name)}, which is not in {folder / 'images'}"
                + (f", nor are {len(absent) - 1} others" if absent[1:] else "")
            )
        return found


class ArrayPictures:
    """The images of an array, again and again."""

    def __init__(self, path: Path, images: NDArray[np.uint8]) -> None:
        self._path, self._images = path, images

    def __iter__(self) -> Iterator[Picture]:
        for place, image in enumerate(self._images):
            yield Picture(f"{self._path}, image {place}", image)


def image_array(path: Path, content: Any) -> NDArray[np.uint8]:
    """Returns images that are in one array.

    Raises:
        OptionError: it is something else.
    """
    if isinstance(content, np.ndarray):
        images: NDArray[np.uint8] = np.asarray(content)
        if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3 and images.size:
            return images
        found = f"{images.dtype} {list(images.shape)}"
    else:
        found = f"a {type(content).__name__}"
    raise OptionError(f"the images of {path} are {found}, not uint8 [images, height, width, 3]")


def _labels(path: Path, classes: dict[Any, Any], count: int) -> list[str]:
    """The class of each image, from the places of each class's images.

    Raises:
        OptionError: they do not give each image one class.
    """
    labels: list[str | None] = [None] * count
    for key, places in classes.items():
        name = shown(key)
        try:
            for place in map(index, places):
                if not 0 <= place < count:
                    raise OptionError(
                        f"{path}: class {name} has image {place}, where there are {count} images"
                    )
                if labels[place] is not None:
                    raise OptionError(f"{path}: image {place} is in {labels[place]} and in {name}")
                labels[place] = name
        except TypeError:
            raise OptionError(f"{path}: class {name} has no list of places of images") from None
    if None in labels:
        raise OptionError(f"{path}: image {labels.index(None)} is in no class")
    return [label for label in labels if label is not None]
