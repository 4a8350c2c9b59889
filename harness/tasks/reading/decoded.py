"""Keep decoded images on disk, so that a data set is decoded once and not once per process.

Each part is an array file, which is mapped into memory and not read, with an index of its classes
beside it. Both appear whole under their names: processes that decode the same part at the same
time only do the work twice.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.support import cache
from harness.support.files import atomic_file
from harness.tasks.reading.layout import Layout, Part
from harness.tasks.reading.pictures import Form

_LARGEST_IN_MEMORY = 2**30  # bytes of a part that cannot be stored on disk
_ABANDONED = 24 * 3600  # seconds after which a draft is of a process that was killed


@dataclass(frozen=True)
class Decoded:
    """The images of a part of a data set, class by class."""

    names: tuple[str, ...]
    counts: NDArray[np.intp]
    images: NDArray[np.uint8]  # [images, channels, height, width], read-only

    def of_class(self, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return some images of a class."""
        return self.images[int(self.counts[:number].sum()) + places]


@lru_cache(maxsize=16)
def decoded(layout: Layout, folder: Path, part: str, form: Form) -> Decoded:
    """Return a part of a data set, decoded; from the cache where it is there and whole.

    Where the cache cannot be written to, images stay in memory, up to 1 GiB of them.

    Raises:
        UserError: the files are broken, or too many to stay in memory.
    """
    path = _cache_path(layout, folder, part, form)
    if (cached := _load(path, form)) is not None:
        return cached
    content = layout.read(folder, part)
    count = len(content.labels)
    if not count:
        raise UserError(f"{folder}: the classes of {part} have no images")
    reason = "it cannot be read back"
    try:
        _store(path, content, form)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        _delete_outdated(path)
        if (cached := _load(path, form)) is not None:
            return cached
    if (size := count * int(np.prod(form.shape))) > _LARGEST_IN_MEMORY:
        raise UserError(
            f"{folder}: {part} decoded is {size / 2**30:.1f} GiB, which cannot be stored in "
            f"{path.parent}: {reason}; METAGRAD_CACHE names the folder of the cache"
        )
    images = np.empty((count, *form.shape), np.uint8)
    for place, pixels in _pixels(content, form):
        images[place] = pixels
    images.setflags(write=False)
    return Decoded(tuple(content.names), content.counts, images)


def _cache_path(layout: Layout, folder: Path, part: str, form: Form) -> Path:
    """Return where a part is stored; its name ends in the state of the files and of the code."""
    key = cache.digest(layout.about, part, repr(form), str(folder.resolve()))[:16]
    code = Path(__file__).parent
    import PIL

    state = cache.digest(layout.digest(folder, part), code, PIL.__version__)[:16]
    return cache.folder() / "images" / f"{key}-{state}.npy"


def _load(path: Path, form: Form) -> Decoded | None:
    """Return a stored part; None if it is not there or not whole."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        counts = np.array(index["counts"], dtype=np.intp)
        try:
            images = np.load(path, mmap_mode="r")
        except OSError:  # some file systems map nothing into memory
            if path.stat().st_size > _LARGEST_IN_MEMORY:
                raise
            images = np.load(path)
        stored = Decoded(tuple(index["names"]), counts, images)
    except Exception:  # a broken file fails in many ways, and decoding anew is the remedy for all
        return None
    whole = stored.images.shape == (counts.sum(), *form.shape) and stored.images.dtype == np.uint8
    return stored if whole and len(stored.names) == len(counts) else None


def _store(path: Path, part: Part, form: Form) -> None:
    """Decode one image after another into the file."""
    shape = (len(part.labels), *form.shape)
    # The file is written to and not mapped: a full disk would kill a process that maps it.
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        start = file.tell()
        for place, pixels in _pixels(part, form):
            file.seek(start + place * pixels.nbytes)
            file.write(pixels.tobytes())
    index = {"names": list(part.names), "counts": part.counts.tolist()}
    cache.write(path.with_suffix(".json"), json.dumps(index).encode())


def _pixels(part: Part, form: Form) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the pixels of each image, with its place in an array that is sorted by class."""
    places = np.empty(len(part.labels), np.intp)
    places[np.argsort(part.labels, kind="stable")] = np.arange(len(part.labels))
    for place, picture in zip(places.tolist(), part.pictures(), strict=True):
        yield place, form.pixels(picture)


def _delete_outdated(path: Path) -> None:
    """Delete what was stored before the files changed, and abandoned drafts.

    Processes that have them mapped at this time keep them.
    """
    key = path.stem.partition("-")[0]
    try:
        for file in path.parent.glob(f"*{key}-*"):
            if file.name.startswith("."):
                outdated = time.time() - file.stat().st_mtime > _ABANDONED
            else:
                outdated = file.stem != path.stem
            if outdated:
                file.unlink(missing_ok=True)
    except OSError:  # another process is at it as well
        return
