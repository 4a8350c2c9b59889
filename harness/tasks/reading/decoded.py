"""Keeps decoded images on disk, so that a data set is decoded once and not once a process.

Each part is an array file, which is mapped into memory and not read, with an index of its classes
beside it. Both are written under temporary names and named at once: processes that decode the
same part at the same time only do too much.
"""

import json
import os
import stat
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.support import cache
from harness.support.files import atomic_file
from harness.tasks.reading.layout import Layout, Part
from harness.tasks.reading.names import shown_file
from harness.tasks.reading.pictures import Form

_MOST_IN_MEMORY = 2**30  # bytes of a part that cannot be kept on disk
_ABANDONED = 24 * 3600  # seconds after which an unfinished file is of a process that was killed


@dataclass(frozen=True)
class Decoded:
    """The images of a part of a data set, class by class.

    Attributes:
        names: of the classes.
        counts: images of each class.
        images: uint8 [images, channels, height, width], read-only.
    """

    names: tuple[str, ...]
    counts: NDArray[np.intp]
    images: NDArray[np.uint8]

    def of_class(self, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Returns some images of a class."""
        return self.images[int(self.counts[:number].sum()) + places]


@lru_cache(maxsize=16)
def decoded(layout: Layout, folder: Path, part: str, form: Form) -> Decoded:
    """Returns a part of a data set, decoded; from the cache where it is there and whole.

    Where the cache cannot be written to, images are kept in memory, up to 1 GiB of them.

    Raises:
        OptionError: the files are broken, or too many to be kept in memory.
    """
    path = _path(layout, folder, part, form)
    if (kept := _kept(path, form)) is not None:
        return kept
    images = layout.read(folder, part)
    if not len(images.labels):
        raise OptionError(f"{folder}: the classes of {part} have no images")
    why = "it is gone again"
    try:
        _write(path, images, form, folder)
    except OSError as error:
        why = error.strerror or str(error)
    else:
        _tidy(path)
        if (kept := _kept(path, form)) is not None:
            return kept
    if (size := len(images.labels) * form.channels * form.size**2) > _MOST_IN_MEMORY:
        raise OptionError(
            f"{folder}: {part} decoded is {size / 2**30:.1f} GiB, which cannot be kept in "
            f"{path.parent}: {why}; METAGRAD_CACHE names the folder of the cache"
        )
    return _in_memory(images, form)


def digest(layout: Layout, folder: Path, part: str) -> str:
    """Returns a digest of the files of a part: their names, sizes and times of change.

    Of folders it is the names alone: a class that is empty counts, a file that is no image does
    not.

    Raises:
        OptionError: they cannot be listed.
    """
    lines = []
    for file in layout.files(folder, part):
        try:
            state = file.stat()
        except OSError as error:
            raise OptionError(
                f"cannot read {shown_file(str(file))}: {error.strerror or error}"
            ) from None
        line = repr(os.path.relpath(file, folder))
        if not stat.S_ISDIR(state.st_mode):
            line += f" {state.st_size} {state.st_mtime_ns}"
        lines.append(line)
    return cache.digest("\n".join(lines))


def _path(layout: Layout, folder: Path, part: str, form: Form) -> Path:
    """Where a part is kept: what it is, then what its files and the code that reads them are."""
    what = cache.digest(type(layout).__name__, part, repr(form), str(folder.resolve()))[:16]
    state = cache.digest(digest(layout, folder, part), Path(__file__).parent, PIL.__version__)[:16]
    return cache.folder() / "images" / f"{what}-{state}.npy"


def _kept(path: Path, form: Form) -> Decoded | None:
    """What was written to `path`; None if it is not there or not whole."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        counts = np.array(index["counts"], dtype=np.intp)
        found = Decoded(tuple(index["names"]), counts, np.load(path, mmap_mode="r"))
    except Exception:  # a broken file fails in many ways, and decoding anew is the remedy for all
        return None
    shape = (int(counts.sum()), form.channels, form.size, form.size)
    whole = found.images.shape == shape and found.images.dtype == np.uint8
    return found if whole and len(found.names) == len(counts) else None


def _write(path: Path, part: Part, form: Form, folder: Path) -> None:
    """Decodes one image after another into the file.

    It is written to and not mapped: a full disk would kill a process that maps it.

    Raises:
        OSError: the folder cannot be written to.
    """
    shape = (len(part.labels), form.channels, form.size, form.size)
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        start, following = file.tell(), 0
        for place, picture in zip(_places(part), part.pictures(), strict=True):
            pixels = form.pixels(picture)
            if place != following:
                file.seek(start + int(place) * pixels.nbytes)
            file.write(pixels.tobytes())
            following = place + 1
    index = {
        "folder": str(folder.resolve()),
        "names": list(part.names),
        "counts": part.counts.tolist(),
    }
    cache.write(path.with_suffix(".json"), json.dumps(index).encode())


def _in_memory(part: Part, form: Form) -> Decoded:
    images = np.empty((len(part.labels), form.channels, form.size, form.size), np.uint8)
    for place, picture in zip(_places(part), part.pictures(), strict=True):
        images[place] = form.pixels(picture)
    images.setflags(write=False)
    return Decoded(tuple(part.names), part.counts, images)


def _places(part: Part) -> NDArray[np.intp]:
    """Where each image comes to lie, class by class."""
    places = np.empty(len(part.labels), np.intp)
    places[np.argsort(part.labels, kind="stable")] = np.arange(len(part.labels))
    return places


def _tidy(path: Path) -> None:
    """Deletes what was decoded before files changed or their folder went, and what was not ended.

    Where the files are mapped at this time, they stay so.
    """
    what = path.stem.partition("-")[0]
    try:
        for file in path.parent.glob(f"{what}-*"):
            old = time.time() - file.stat().st_mtime > _ABANDONED
            if file.stem != path.stem and (file.suffix != ".tmp" or old):
                file.unlink(missing_ok=True)
        for index in path.parent.glob("*.json"):
            if _is_orphan(index):
                index.with_suffix(".npy").unlink(missing_ok=True)
                index.unlink(missing_ok=True)
    except OSError:  # another process is at it as well
        return


def _is_orphan(index: Path) -> bool:
    try:
        folder = json.loads(index.read_text(encoding="utf-8"))["folder"]
        return not Path(folder).exists()
    except (ValueError, TypeError, LookupError):  # of another version, or broken: not known
        return False
