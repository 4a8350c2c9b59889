"""Single images: opened from whatever they lie in, and brought into the form of a data set."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from estimators.base.errors import OptionError

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""What is opened, whatever a file is called: of the others, EPS starts Ghostscript."""


@dataclass(frozen=True)
class Picture:
    """An image that was not opened yet.

    Attributes:
        where: the file, and the place in it, for messages.
        content: an image file, the bytes of one, or pixels, uint8 [height, width, 3].
    """

    where: str
    content: Path | bytes | NDArray[np.uint8]

    def open(self) -> Image.Image:
        """Returns the whole image, upright, of mode "L" (shades of grey) or "RGB".

        Raises:
            OptionError: it is broken, no image, or of numbers that are no shades.
        """
        if isinstance(self.content, np.ndarray):
            return Image.fromarray(self.content)
        source = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
        try:
            with Image.open(source, formats=_FORMATS) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _of_8_bits(image)
        except _NoShades as error:
            raise OptionError(f"{self.where} has {error} pixels; 8 or 16 bits are read") from None
        except Exception as error:  # a broken image fails in many ways
            raise OptionError(f"{self.where} is not a whole image: {_why(error)}") from None


class _NoShades(Exception):
    """Pixels of which nobody knows what is black and what is white."""


def _of_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _NoShades("floating-point")
    # Before version 11, Pillow opens PNG files of 16 bits as if they were of 32.
    if image.mode == "I" and image.format != "PNG":
        raise _NoShades("32-bit or signed")
    if image.mode.startswith("I"):  # Pillow would cut off at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode == "P":  # a palette may hold transparency, which "RGB" alone warns of
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its format is unknown"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Form:
    """What all images of a data set are brought into.

    Attributes:
        channels: 1, shades of grey, or 3, colours.
        size: height and width in pixels; others are resized (Lanczos), whatever their shape.
        inverted: black is 255.
    """

    channels: int
    size: int
    inverted: bool = False

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """Returns an image in this form, uint8 [channels, size, size].

        Raises:
            OptionError: see `Picture.open`.
        """
        image = picture.open().convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(self.size, self.size, self.channels)
        return np.ascontiguousarray((255 - pixels if self.inverted else pixels).transpose(2, 0, 1))
