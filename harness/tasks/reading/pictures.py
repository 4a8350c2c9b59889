"""Single images: opened from whatever they lie in, and brought into the form of a data set."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from estimators.errors import OptionError


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
        """Returns the whole image, decoded.

        Raises:
            OptionError: it is broken, or no image.
        """
        if isinstance(self.content, np.ndarray):
            return Image.fromarray(self.content)
        source = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
        try:
            with Image.open(source) as image:
                image.load()
                return image
        except Exception as error:  # a broken image fails in many ways
            raise OptionError(f"{self.where} is not a whole image: {_why(error)}") from None


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

        Args:
            picture: the image.

        Raises:
            OptionError: it is broken, or of numbers that are no shades.
        """
        image = picture.open()
        if image.mode == "F":
            raise OptionError(f"{picture.where} has floating-point pixels; 8 or 16 bits are read")
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
            wide = np.clip(np.asarray(image), 0, 2**16 - 1)
            image = Image.fromarray((wide >> 8).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparency, which "RGB" alone warns of
            image = image.convert("RGBA")
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(self.size, self.size, self.channels)
        return np.ascontiguousarray((255 - pixels if self.inverted else pixels).transpose(2, 0, 1))
