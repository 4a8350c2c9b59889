"""Find out which data set a folder holds, and what is wrong with it."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.support.units import counted
from harness.tasks.image_files import ImageFiles, data_folder
from harness.tasks.images import Images
from harness.tasks.miniimagenet import MiniImageNet
from harness.tasks.omniglot import Omniglot
from harness.tasks.reading.image_lists import TREE, subfolders
from harness.tasks.reading.layout import Layout
from harness.tasks.task import TASKS
from harness.tasks.tieredimagenet import TieredImageNet

FAMILIES: tuple[type[ImageFiles], ...] = (Omniglot, MiniImageNet, TieredImageNet, Images)
SMALLEST_CLASS = 1 + ImageFiles.queries  # of one shot

Progress = Callable[[float, str], None]


@dataclass
class PartReport:
    """The content of a part of a data set.

    Attributes:
        counts: images of each class, broken ones too.
        places: where each image lies, for messages; `blank` are those of one colour all
            over.
        sizes: (width, height) of whole images, each once.
        modes: Pillow's names of their pixels: "L" or "RGB".
        broken: a message for each broken image.
        error: why the part cannot be read at all; empty where it can.
    """

    name: str
    classes: Sequence[str] = ()
    counts: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    places: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    modes: set[str] = field(default_factory=set)
    blank: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class FolderReport:
    """The content of a folder with a data set, and the task family that reads it."""

    folder: Path
    family: type[ImageFiles]
    layout: Layout
    parts: tuple[PartReport, ...]

    def findings(self) -> Iterator[str]:
        """Yield a line for everything that is wrong, or other than in the official data set."""
        for part in self.layout.parts:
            if part not in {one.name for one in self.parts}:
                yield f"there is no {part} split: no {self.layout.required(part)}"
        official = dict(zip(self.layout.parts, self.family.official, strict=False))
        for one in self.parts:
            yield from _findings(one, official.get(one.name))
        for one, other in combinations(self.parts, 2):
            # Numbers may begin anew in each split.
            names = {name for name in one.classes if not name.isdigit()}
            for kind, shared in (
                ("classes", names & {*other.classes}),
                ("images", one.places & other.places),
            ):
                if shared:
                    yield (
                        f"{one.name} and {other.name} share {len(shared)} {kind}, as "
                        f"{min(shared)}: a test on them is not one on unseen {kind}"
                    )

    @property
    def usable(self) -> bool:
        """Whether tasks can be drawn from all parts that are there, if small ones."""
        return self.parts[0].name == self.layout.parts[0] and all(
            len(part.classes) >= 2 and part.counts.min() >= 2 and not part.broken
            for part in self.parts
        )

    @property
    def task(self) -> str:
        """The task that reads the data set, with METAGRAD_DATA as `data_root` says."""
        path, root = self.folder.absolute(), data_folder().absolute()
        folder = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        options: dict[str, object] = {"folder": folder.as_posix()}
        readable = [part for part in self.parts if not part.error]
        fewest = min(int(part.counts.min(initial=SMALLEST_CLASS)) for part in readable)
        if 2 <= fewest < SMALLEST_CLASS:
            options["queries"] = fewest - 1
        classes = min(len(part.classes) for part in readable)
        if self.family is not Omniglot and 2 <= classes < self.family.ways:
            options["ways"] = classes
        if self.family is Images:
            sizes = {side for part in readable for size in part.sizes for side in size}
            if len(sizes) == 1 and 16 <= (side := sizes.pop()) <= Images.size:
                options["size"] = side
            if {mode for part in readable for mode in part.modes} == {"L"}:
                options["channels"] = 1
        text = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return TASKS.canonical(f"{self.family.family}({text})")

    @property
    def data_root(self) -> Path | None:
        """The folder that METAGRAD_DATA has to name; None if it does already."""
        path = self.folder.absolute()
        return None if path.is_relative_to(data_folder().absolute()) else path.parent


def inspect_folder(folder: Path, progress: Progress) -> FolderReport | None:
    """Open every image of a data set; return None if the folder holds none that is known."""
    try:
        with os.scandir(folder):
            match = _recognised(folder)
    except NotADirectoryError:
        raise UserError(f"{folder} is no folder; name the one it lies in") from None
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from None
    if match is None:
        return None
    family, layout = match
    names = layout.present_parts(folder)
    parts = []
    for number, name in enumerate(names):

        def share(done: float, text: str, before: int = number) -> None:
            progress((before + done) / len(names), text)

        parts.append(_report(layout, folder, name, share))
    if all(part.error for part in parts):
        raise UserError(parts[0].error)
    if family is Images:
        family = _guessed_family(folder, parts)
    return FolderReport(folder, family, layout, (*parts,))


def missing_files(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each family and layout with the files that the folder lacks for it."""
    for family in FAMILIES:
        for layout in family.layouts:
            missing = {*layout.parts} - {*layout.present_parts(folder)}
            required = (layout.required(part) for part in layout.parts if part in missing)
            yield family.family, layout.about, "; ".join(required)


def data_sets_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield data sets in the folders of a folder, with the family that reads each."""
    for one in subfolders(folder):
        if match := _recognised(one):
            yield one, match[0].family


def _recognised(folder: Path) -> tuple[type[ImageFiles], Layout] | None:
    """Return the first layout that fits; folders by split, which fit several families, are last."""
    for family in FAMILIES:
        for layout in family.layouts:
            if (layout is not TREE or family is Images) and layout.present_parts(folder):
                return family, layout
    return None


def _guessed_family(folder: Path, parts: list[PartReport]) -> type[ImageFiles]:
    """Return the family of folders by split: by the folder's name, or by the number of classes."""
    name = re.sub(r"[^a-z]", "", folder.absolute().name.lower())
    classes = [len(part.classes) for part in parts]
    candidates = (MiniImageNet, TieredImageNet)
    for family in candidates:
        if name == family.family:
            return family
    for family in candidates:
        if classes == [official[0] for official in family.official]:
            return family
    return Images


def _report(layout: Layout, folder: Path, name: str, progress: Progress) -> PartReport:
    """Open every image of a part."""
    progress(0, f"reading {name}")
    report = PartReport(name)
    try:
        part = layout.read(folder, name)
        count = len(part.labels)
        for number, picture in enumerate(part.pictures()):
            if number % 100 == 0:
                progress(number / count, f"{name}: image {number} of {count}")
            report.places.add(picture.where)
            try:
                image = picture.open()
            except UserError as error:
                report.broken.append(str(error))
                continue
            report.sizes.add(image.size)
            report.modes.add(image.mode)
            if image.getcolors(maxcolors=1):
                report.blank.append(picture.where)
        report.classes, report.counts = part.names, part.counts
    except UserError as error:
        report.error = str(error)
    return report


def _findings(part: PartReport, official: tuple[int, int] | None) -> Iterator[str]:
    if part.error:
        yield f"{part.name} cannot be read: {part.error}"
        return
    yield from part.broken
    if part.blank:
        yield (
            f"{part.name} has {counted(len(part.blank), 'image')} of one colour all over, as "
            f"{part.blank[0]}; a drawing in the transparency is not read"
        )
    numbers = len(part.classes), int(part.counts.sum())
    if official and official != numbers:
        yield (
            f"{part.name} has {numbers[0]} classes and {numbers[1]} images; "
            f"the official one has {official[0]} and {official[1]}"
        )
    if small := int((part.counts < SMALLEST_CLASS).sum()):
        smallest = int(part.counts.argmin())
        yield (
            f"{part.name} has {small} of {len(part.classes)} classes with fewer than the "
            f"{SMALLEST_CLASS} images of one shot and {ImageFiles.queries} queries: "
            f"{part.classes[smallest]} has {part.counts[smallest]}"
        )
    if len(part.classes) < 2:
        yield f"{part.name} has only one class, where there is nothing to tell apart"
