"""Keeps the drawn glyph images on disk, so that they are drawn once and not once a process."""

import hashlib
import io
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.support import cache
from harness.tasks.glyph_images import SAMPLES, SIZE, Images, draw_all
from harness.tasks.glyph_strokes import glyph_classes

DEFAULT_JITTER = 1.0
DEFAULT_SHA256 = "774baa16ec55f073adb78d8f7ba203d0909e84835a978eb7411d4496e99b25e4"


@lru_cache(maxsize=4)
def load_images(jitter: float) -> Images:
    """The image set at `jitter`, from the cache where it is there and whole, else drawn anew.

    Returns:
        uint8 [classes, 20, 28, 28], read-only, ink 255 on background 0, classes as in
        `glyph_classes()`.

    A broken cache file is replaced, a folder that cannot be written to is let be.

    Example:
        >>> load_images(DEFAULT_JITTER).shape[1:]
        (20, 28, 28)
    """
    path = cache_file(jitter)
    images = _read(path, DEFAULT_SHA256 if jitter == DEFAULT_JITTER else None)
    if images is None:
        images = draw_all(jitter)
        buffer = io.BytesIO()
        np.savez(buffer, images=images, sha256=np.array(checksum(images)))
        cache.write(path, buffer.getvalue())
    images.setflags(write=False)
    return images


def cache_file(jitter: float) -> Path:
    """Where the set at `jitter` is kept; see `harness.support.cache.folder`."""
    # The default set's checksum is the version: it changes whenever the drawing does.
    return cache.folder() / f"glyphs-{DEFAULT_SHA256[:12]}-jitter{float(jitter)!r}.npz"


def checksum(images: Images) -> str:
    """SHA-256 of the pixels in C order, in hexadecimal."""
    return hashlib.sha256(images.tobytes()).hexdigest()


def _read(path: Path, expected: str | None) -> Images | None:
    """The images in `path`, or None if they are not there or not as `expected` or as written."""
    try:
        with np.load(path, allow_pickle=False) as content:
            images: Images = content["images"]
            written = str(content["sha256"])
    except Exception:  # a broken file fails in many ways, and drawing anew is the remedy for all
        return None
    shape = (len(glyph_classes()), SAMPLES, SIZE, SIZE)
    if images.dtype != np.uint8 or images.shape != shape:
        return None
    return images if checksum(images) == (expected or written) else None
