"""Few-shot classification of images that lie on the user's disk."""

import os
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.support import cache
from harness.tasks.few_shot import FewShot
from harness.tasks.reading.decoded import Decoded, decoded, digest
from harness.tasks.reading.layout import Layout
from harness.tasks.reading.pictures import Form

Official = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class ImageFiles(FewShot):
    """Classify images of a data set in a folder, which is read when the first task is drawn.

    Attributes:
        folder: where it lies, from the folder of data sets on ($METAGRAD_DATA, else `data` in
            the current one), or from the root.
        layouts: ways in which the data set may lie there; the first that is found is read.
        official: classes and images of each part, where it is known how many there should be.
    """

    folder: str = field(kw_only=True)

    layouts: ClassVar[tuple[Layout, ...]]
    official: ClassVar[Official] = {}

    @property
    @abstractmethod
    def form(self) -> Form:
        """What images are brought into."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return (self.form.channels, self.form.size, self.form.size)

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
        folder, layout = self._found()
        parts = [part for part in layout.parts if layout.there(folder, part)]
        return cache.digest(*(digest(layout, folder, part) for part in parts))

    def part(self, name: str) -> Decoded:
        """Returns the images of a part of the data set, from the cache or decoded.

        Raises:
            OptionError: they are not there, or broken.
        """
        folder, layout = self._found()
        if not layout.there(folder, name):
            raise OptionError(f"{self.family}: {folder} has no {layout.wanted(name)}")
        return decoded(layout, folder, name, self.form)

    def _found(self) -> tuple[Path, Layout]:
        folder = data_folder() / self.folder
        for layout in self.layouts:
            if any(layout.there(folder, part) for part in layout.parts):
                return folder.absolute(), layout
        known = " or ".join(layout.about for layout in self.layouts)
        raise OptionError(
            f"{self.family}: nothing to read in {folder.absolute()}, where {known} is wanted; "
            "METAGRAD_DATA names the folder of data sets "
            f"(now {os.environ.get('METAGRAD_DATA') or 'not set, so data'}), and "
            f"`metagrad data check {folder}` tells what is there"
        )


def data_folder() -> Path:
    """Returns where data sets lie: $METAGRAD_DATA, else `data` in the current folder."""
    return Path(os.environ.get("METAGRAD_DATA") or "data")
