"""What a folder of images holds, and what is wrong with it."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.image_files import ImageFiles, data_folder
from harness.tasks.images import Images
from harness.tasks.miniimagenet import MiniImageNet
from harness.tasks.omniglot import Omniglot
from harness.tasks.reading.folders import Tree
from harness.tasks.reading.layout import Layout, subfolders
from harness.tasks.reading.names import shown
from harness.tasks.task import TASKS
from harness.tasks.tieredimagenet import TieredImageNet

FAMILIES: tuple[type[ImageFiles], ...] = (Omniglot, MiniImageNet, TieredImageNet, Images)
SMALLEST_CLASS = 1 + ImageFiles.queries  # of one shot

Told = Callable[[float, str], None]


@dataclass(frozen=True)
class PartSurvey:
    """What was found in a part of a data set.

    Attributes:
        part: its name.
        names: of the classes.
        counts: images of each class, broken ones too.
        sizes: (width, height) of whole images, each once.
        modes: Pillow's names of what their pixels are: "L" or "RGB".
        broken: what is wrong with single images.
        unreadable: why it cannot be read at all; empty where it can.
    """

    part: str
    names: tuple[str, ...] = ()
    counts: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    sizes: frozenset[tuple[int, int]] = frozenset()
    modes: frozenset[str] = frozenset()
    broken: tuple[str, ...] = ()
    unreadable: str = ""


@dataclass(frozen=True)
class Survey:
    """What was found in a folder.

    Attributes:
        folder: which.
        family: that reads it.
        layout: how it lies there.
        parts: those that are there.
    """

    folder: Path
    family: type[ImageFiles]
    layout: Layout
    parts: tuple[PartSurvey, ...]


def survey(folder: Path, told: Told) -> Survey | None:
    """Finds out what a folder holds, and opens every image of it.

    Returns:
        What was found; None if it is no data set that is known.

    Raises:
        OptionError: it is no folder, or cannot be read; or no part of the data set can.
    """
    try:
        with os.scandir(folder):
            found = _recognised(folder)
    except NotADirectoryError:
        raise OptionError(f"{folder} is no folder; name the one it lies in") from None
    except OSError as error:
        raise OptionError(f"cannot read {folder}: {error.strerror or error}") from None
    if found is None:
        return None
    family, layout = found
    there = [part for part in layout.parts if layout.there(folder, part)]
    parts = []
    for number, part in enumerate(there):

        def share(done: float, what: str, before: int = number) -> None:
            told((before + done) / len(there), what)

        parts.append(_opened(layout, folder, part, share))
    if all(part.unreadable for part in parts):
        raise OptionError(parts[0].unreadable)
    return Survey(
        folder, _guessed(folder, parts) if family is Images else family, layout, (*parts,)
    )


def lacking(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Tells why a folder is none of the known data sets.

    Yields:
        Family, layout, and what the folder lacks for it.
    """
    for family in FAMILIES:
        for layout in family.layouts:
            lacks = "; ".join(
                layout.wanted(part) for part in layout.parts if not layout.there(folder, part)
            )
            yield family.family, layout.about, lacks


def below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Finds data sets in the folders of a folder.

    Yields:
        Where each lies, and the family that reads it.
    """
    for one in subfolders(folder):
        if found := _recognised(one):
            yield one, found[0].family


def findings(found: Survey) -> Iterator[str]:
    """Tells what is wrong with a data set, or other than it should be.

    Yields:
        A line for each finding.
    """
    missing = [part for part in found.layout.parts if part not in {p.part for p in found.parts}]
    for part in missing:
        yield f"there is no {part} split: no {found.layout.wanted(part)}"
    for one in found.parts:
        if one.unreadable:
            yield f"{one.part} cannot be read: {one.unreadable}"
            continue
        yield from one.broken
        official, are = found.family.official.get(one.part), (len(one.names), int(one.counts.sum()))
        if official and official != are:
            yield (
                f"{one.part} has {are[0]} classes and {are[1]} images; "
                f"the official one has {official[0]} and {official[1]}"
            )
        small, smallest = int((one.counts < SMALLEST_CLASS).sum()), int(one.counts.argmin())
        if small:
            yield (
                f"{one.part} has {small} of {len(one.names)} classes with fewer than the "
                f"{SMALLEST_CLASS} images of one shot and {ImageFiles.queries} queries: "
                f"{one.names[smallest]} has {one.counts[smallest]}"
            )
        if len(one.names) < 2:
            yield f"{one.part} has one class alone, where there is nothing to tell apart"
    for one, other in combinations(found.parts, 2):
        # Numbers may begin anew in each split.
        shared = sorted(n for n in {*one.names} & {*other.names} if not n.isdigit())
        if shared:
            yield (
                f"{one.part} and {other.part} share {len(shared)} classes, as {shared[0]}: "
                "a test on them is none of classes never seen"
            )
    listed = {
        one.part: {*found.layout.files(found.folder, one.part)}
        for one in found.parts
        if not one.unreadable
    }
    for part, another in combinations(listed, 2):
        if twice := sorted(listed[part] & listed[another]):
            yield (
                f"{part} and {another} share {len(twice)} images, as {shown(twice[0].name)}: "
                "a test on them is none of images never seen"
            )


def usable(found: Survey) -> bool:
    """Tells whether tasks can be drawn from what is there, if small ones."""
    return found.parts[0].part == found.layout.parts[0] and all(
        len(part.names) >= 2 and part.counts.min() >= 2 and not part.broken for part in found.parts
    )


def spelling(found: Survey) -> str:
    """Returns the task that reads a data set, from the folder that `METAGRAD_DATA` names."""
    family = found.family
    options: dict[str, object] = {"folder": _from_data_folder(found.folder).as_posix()}
    readable = [part for part in found.parts if not part.unreadable]
    fewest = min(int(part.counts.min(initial=SMALLEST_CLASS)) for part in readable)
    if 2 <= fewest < SMALLEST_CLASS:
        options["queries"] = fewest - 1
    classes = min(len(part.names) for part in readable)
    if family is not Omniglot and 2 <= classes < family.ways:
        options["ways"] = classes
    if family is Images:
        sizes = {side for part in readable for size in part.sizes for side in size}
        if len(sizes) == 1 and 16 <= (side := sizes.pop()) <= Images.size:
            options["size"] = side
        modes = {mode for part in readable for mode in part.modes}
        if modes == {"L"}:
            options["channels"] = 1
    return TASKS.canonical(
        f"{family.family}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    )


def base(found: Survey) -> Path | None:
    """Returns the folder that `METAGRAD_DATA` has to name; None if it does already."""
    return (
        None
        if found.folder.absolute().is_relative_to(data_folder().absolute())
        else (found.folder.absolute().parent)
    )


def _from_data_folder(folder: Path) -> Path:
    root = data_folder().absolute()
    path = folder.absolute()
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)


def _recognised(folder: Path) -> tuple[type[ImageFiles], Layout] | None:
    """The first layout that fits; folders by split, which fit several families, come last."""
    for family in FAMILIES:
        for layout in family.layouts:
            plain = isinstance(layout, Tree) and family is not Images
            if not plain and any(layout.there(folder, part) for part in layout.parts):
                return family, layout
    return None


def _guessed(folder: Path, parts: list[PartSurvey]) -> type[ImageFiles]:
    """Whose images folders by split are: the name of the folder tells, or the classes' numbers."""
    name = re.sub(r"[^a-z]", "", folder.absolute().name.lower())
    classes = {part.part: len(part.names) for part in parts}
    for family in (MiniImageNet, TieredImageNet):
        if name == family.family:
            return family
    for family in (MiniImageNet, TieredImageNet):
        if classes == {part: official[0] for part, official in family.official.items()}:
            return family
    return Images


def _opened(layout: Layout, folder: Path, part: str, told: Told) -> PartSurvey:
    """Opens every image of a part."""
    told(0, f"reading {part}")
    sizes: set[tuple[int, int]] = set()
    modes: set[str] = set()
    broken: list[str] = []
    try:
        images = layout.read(folder, part)
        count = len(images.labels)
        for place, picture in enumerate(images.pictures()):
            if place % 100 == 0:
                told(place / count, f"{part}: image {place} of {count}")
            try:
                image = picture.open()
            except OptionError as error:
                broken.append(str(error))
            else:
                sizes.add(image.size)
                modes.add(image.mode)
    except OptionError as error:
        return PartSurvey(part, unreadable=str(error))
    return PartSurvey(
        part,
        tuple(images.names),
        images.counts,
        frozenset(sizes),
        frozenset(modes),
        tuple(broken),
    )
