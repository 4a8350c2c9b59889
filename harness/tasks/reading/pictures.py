"""Open single images, from whatever holds them, and bring them into the form of a data set."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError

if TYPE_CHECKING:  # Pillow is imported where a file is opened: tasks without files do without
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""Formats that are opened, whatever a file is called: of the others, EPS starts Ghostscript."""


@dataclass(frozen=True)
class Picture:
    """An image that is not opened yet.

    Attributes:
        where: the file, and the place in it, for messages.
        content: an image file, the bytes of one, or pixels, uint8 [height, width, 3].
    """

    where: str
    content: Path | bytes | NDArray[np.uint8]

    def open(self) -> "Image":
        """Return the whole image, upright, of mode "L" (shades of grey) or "RGB".

        Raises:
            UserError: it is broken, no image, or of numbers that are no shades.
        """
        from PIL import Image, ImageOps

        if isinstance(self.content, np.ndarray):
            return Image.fromarray(self.content)
        source = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
        try:
            with Image.open(source, formats=_FORMATS) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_8_bits(image)
        except _UnknownRangeError as error:
            raise UserError(f"{self.where} has {error} pixels; 8 or 16 bits are read") from None
        except Exception as error:  # a broken image fails in many ways
            raise UserError(f"{self.where} is not a whole image: {_reason(error)}") from None


class _UnknownRangeError(Exception):
    """Pixels of which nobody knows which number is black and which is white."""


def _to_8_bits(image: "Image") -> "Image":
    from PIL.Image import fromarray

    if image.mode == "F":
        raise _UnknownRangeError("floating-point")
    # Before version 11, Pillow opens PNG files of 16 bits as if they were of 32.
    if image.mode == "I" and image.format != "PNG":
        raise _UnknownRangeError("32-bit or signed")
    if image.mode.startswith("I"):  # Pillow would cut off at 255
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode == "P":  # converting a palette with transparency straight to "RGB" warns
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its format is unknown"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Form:
    """The form that all images of a data set are brought into.

    Attributes:
        channels: 1, shades of grey, or 3, colours.
        size: height and width in pixels; others are resized (Lanczos), whatever their shape.
        inverted: black becomes 255.
    """

    channels: int
    size: int
    inverted: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, height, width] of an image."""
        return (self.channels, self.size, self.size)

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """Return an image in this form, uint8 [channels, size, size].

        Raises:
            UserError: see `Picture.open`.
        """
        from PIL.Image import Resampling

        image = picture.open().convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(self.size, self.size, self.channels)
        return np.ascontiguousarray((255 - pixels if self.inverted else pixels).transpose(2, 0, 1))
