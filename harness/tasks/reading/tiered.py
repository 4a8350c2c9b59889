"""The files in which tieredImageNet is handed on, besides folders of images."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from estimators.base.errors import OptionError
from harness.tasks.reading.layout import Layout, Part, part_by_labels, spelled, wanted
from harness.tasks.reading.names import shown
from harness.tasks.reading.pickles import unpickled
from harness.tasks.reading.pictures import Picture

LABELS = "{}_labels.pkl"
_LARGEST = 2**28  # bytes of an image: it is read as a whole


class _WithLabels(Layout):
    """A file of images for each split, and a pickle of their labels."""

    images: str

    def wanted(self, part: str) -> str:
        """See `Layout.wanted`."""
        return f"{wanted(self.images, part)}, with {wanted(LABELS, part)}"

    def there(self, folder: Path, part: str) -> bool:
        """See `Layout.there`."""
        return all(spelled(folder, name, part) for name in (self.images, LABELS))

    def files(self, folder: Path, part: str) -> list[Path]:
        """See `Layout.files`."""
        found = (spelled(folder, name, part) for name in (self.images, LABELS))
        return [file for file in found if file is not None]


class PngPickles(_WithLabels):
    """Images as a pickled list of PNG files."""

    about = "{train,val,test}_images_png.pkl and _labels.pkl"
    images = "{}_images_png.pkl"

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`.

        Raises:
            OptionError: a file is not as it should be.
        """
        file, labels = self.files(folder, part)
        content = unpickled(file)
        if not isinstance(content, (list, tuple, np.ndarray)) or len(content) == 0:
            raise OptionError(f"{file} holds no list of PNG files")
        for place, image in enumerate(content):
            if not isinstance(image, bytes) and getattr(image, "dtype", None) != np.uint8:
                raise OptionError(f"{file}, image {place} is no array of bytes")
        return part_by_labels(labels, _labels(labels), len(content), _Encoded(file, content))


class Npz(_WithLabels):
    """Images as one array in a .npz file, its colours in OpenCV's order: blue, green, red."""

    about = "{train,val,test}_images.npz and _labels.pkl"
    images = "{}_images.npz"

    def read(self, folder: Path, part: str) -> Part:
        """See `Layout.read`."""
        file, labels = self.files(folder, part)
        pictures = _Zipped(file)
        return part_by_labels(labels, _labels(labels), pictures.shape[0], pictures)


class _Encoded:
    """The images of a list of image files, again and again."""

    def __init__(self, path: Path, files: Any) -> None:
        self._path, self._files = path, files

    def __iter__(self) -> Iterator[Picture]:
        for place, file in enumerate(self._files):
            yield Picture(f"{self._path}, image {place}", bytes(file))


class _Zipped:
    """The images of an array in a .npz file, one after another: it may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape = next(self._read())

    def __iter__(self) -> Iterator[Picture]:
        content = self._read()
        shape = next(content)
        for place in range(shape[0]):
            image = np.frombuffer(next(content), np.uint8).reshape(shape[1:])
            yield Picture(f"{self._path}, image {place}", image[..., ::-1])

    def _read(self) -> Iterator[Any]:
        """Reads the array.

        Yields:
            Its shape, then the bytes of each image.

        Raises:
            OptionError: the file is not as it should be.
        """
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open("images.npy") as file:
                shape = self._header(file)
                yield shape
                size = math.prod(shape[1:])
                for place in range(shape[0]):
                    content = file.read(size)
                    if len(content) < size:
                        raise OptionError(f"{self._path} ends within image {place} of {shape[0]}")
                    yield content
        except OptionError:
            raise
        except KeyError:
            raise OptionError(f"{self._path} has no array that is called images") from None
        except Exception as error:  # a broken archive fails in many ways
            raise OptionError(f"{self._path} is not a whole .npz file: {error}") from None

    def _header(self, file: IO[bytes]) -> tuple[int, ...]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = (
            read if version == (1, 0) else np.lib.format.read_array_header_2_0
        )(file)
        fits = dtype == np.uint8 and not fortran and len(shape) == 4 and shape[3] == 3
        if not fits or min(shape) < 1 or math.prod(shape[1:]) > _LARGEST:
            raise OptionError(
                f"the images of {self._path} are {dtype} {list(shape)}, "
                f"not uint8 [images, height, width, 3] of at most {_LARGEST >> 20} MiB each"
            )
        return tuple(shape)


def _labels(path: Path) -> Any:
    content = unpickled(path)
    if isinstance(content, dict):
        for key in ("label_specific", "labels"):
            if key in content:
                return content[key]
        raise OptionError(
            f"{path} has {', '.join(map(shown, content)) or 'nothing'}; what is wanted is "
            "label_specific or labels"
        )
    return content
