"""Few-shot classification of images that lie on the user's disk."""

import os
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.support import cache
from harness.tasks.few_shot import FewShot
from harness.tasks.reading.decoded import Decoded, decoded
from harness.tasks.reading.layout import Layout
from harness.tasks.reading.pictures import Form


@dataclass(frozen=True)
class ImageFiles(FewShot):
    """Classify images of a data set in a folder, which is read when the first task is drawn.

    Attributes:
        folder: its path from the folder of data sets ($METAGRAD_DATA, else `data` in the current
            folder), or from the root.
        layouts: ways in which the data set may lie there; the first that fits is read.
        official: numbers of classes and images of each of the layout's parts; empty if unknown.
    """

    folder: str = field(kw_only=True)

    layouts: ClassVar[tuple[Layout, ...]]
    official: ClassVar[tuple[tuple[int, int], ...]] = ()

    @property
    @abstractmethod
    def form(self) -> Form:
        """The form that images are brought into."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[channels, height, width] of one image."""
        return self.form.shape

    def counts(self, split: str) -> NDArray[np.intp]:
        """See `FewShot.counts`."""
        return self.part(split).counts

    def class_name(self, split: str, number: int) -> str:
        """See `FewShot.class_name`."""
        return self.part(split).names[number]

    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `FewShot.pictures`."""
        return self.part(split).of_class(number, places)

    def data(self) -> str:
        """See `TaskFamily.data`."""
        folder, layout = self.location()
        return cache.digest(*(layout.digest(folder, part) for part in layout.present_parts(folder)))

    def part(self, name: str) -> Decoded:
        """Return the images of a part of the data set, from the cache or decoded."""
        folder, layout = self.location()
        return decoded(layout, folder, name, self.form)

    def location(self) -> tuple[Path, Layout]:
        """Return the folder of the data set, and the layout that fits."""
        folder = (data_folder() / self.folder).absolute()
        return folder, _layout(self.family, self.layouts, folder)


@lru_cache(maxsize=16)
def _layout(family: str, layouts: tuple[Layout, ...], folder: Path) -> Layout:
    for layout in layouts:
        if layout.present_parts(folder):
            return layout
    known = " or ".join(layout.about for layout in layouts)
    raise UserError(
        f"{family}: nothing to read in {folder}, which should have {known}; METAGRAD_DATA names "
        f"the folder of data sets (now {os.environ.get('METAGRAD_DATA') or 'not set, so data'}), "
        f"and `metagrad data check {folder}` shows which files are missing"
    )


def data_folder() -> Path:
    """Return the folder of data sets: $METAGRAD_DATA, else `data` in the current folder."""
    return Path(os.environ.get("METAGRAD_DATA") or "data")
