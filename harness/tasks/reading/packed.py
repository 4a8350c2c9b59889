"""Read pickles and archives that hold all images of a split."""

import math
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import index
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import UserError
from harness.tasks.reading.layout import Layout, Part
from harness.tasks.reading.names import printable
from harness.tasks.reading.pickles import read_pickle
from harness.tasks.reading.pictures import Picture

_LARGEST_IMAGE = 2**28  # bytes: it is read as a whole


def _read_mini(path: Path) -> Part:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary with the images and classes of a split")
    images = _image_array(path, _entry(path, content, "image_data", "data"))
    labels = _entry(path, content, "class_dict", "labels")
    if isinstance(labels, dict):
        labels = _labels_from_places(path, labels, len(images))
    return _part(path, labels, len(images), lambda: _numbered(path, images))


def _read_pngs(path: Path, labels: Path) -> Part:
    images = read_pickle(path)
    if not isinstance(images, (list, tuple, np.ndarray)) or len(images) == 0:
        raise UserError(f"{path} holds no list of PNG files")
    for place, image in enumerate(images):
        if not isinstance(image, bytes) and getattr(image, "dtype", None) != np.uint8:
            raise UserError(f"{path}, image {place} is no array of bytes")

    def pictures() -> Iterator[Picture]:
        return _numbered(path, map(bytes, images))

    return _part(labels, _labels(labels), len(images), pictures)


def _read_npz(path: Path, labels: Path) -> Part:
    with _open_npz(path) as (_, shape):
        count = shape[0]
    return _part(labels, _labels(labels), count, lambda: _numbered(path, _npz_images(path)))


def _numbered(path: Path, images: Iterable[Any]) -> Iterator[Picture]:
    return (Picture(f"{path}, image {place}", image) for place, image in enumerate(images))


def _entry(path: Path, content: dict[Any, Any], *keys: str) -> Any:
    """Return the entry of the first of these keys that is there."""
    for key in keys:
        if key in content:
            return content[key]
    present = ", ".join(map(printable, content)) or "nothing"
    raise UserError(f"{path} has {present}, but no {' or '.join(keys)}")


def _image_array(path: Path, content: Any) -> NDArray[np.uint8]:
    """Return images that are in one array; refuse anything else."""
    if not isinstance(content, np.ndarray):
        raise UserError(f"the images of {path} are a {type(content).__name__}, not one array")
    images: NDArray[np.uint8] = np.asarray(content)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise UserError(
            f"the images of {path} are {images.dtype} {list(images.shape)}, "
            "not uint8 [images, height, width, 3]"
        )
    return images


def _labels(path: Path) -> Any:
    content = read_pickle(path)
    if isinstance(content, dict):
        return _entry(path, content, "label_specific", "labels")
    return content


def _labels_from_places(path: Path, classes: dict[Any, Any], count: int) -> NDArray[np.str_]:
    """Return the class of each image, from the places of each class's images."""
    try:
        sizes = [len(places) for places in classes.values()]
        places = [index(one) for one in chain(*classes.values())] if sum(sizes) == count else []
    except TypeError:
        raise UserError(f"{path}: a class has no list of places of images") from None
    if sorted(places) != [*range(count)]:
        raise UserError(
            f"{path}: its {sum(sizes)} places of images are not those of all {count} images"
        )
    names = np.repeat([printable(key) for key in classes], sizes)
    return names[np.argsort(places)]


def _part(path: Path, labels: Any, count: int, pictures: Callable[[], Iterator[Picture]]) -> Part:
    """Return a part whose images have a number or a name as label."""
    # numpy would unfold nested lists, however large they become.
    single = (str, bytes, int, float, np.generic)
    flat = isinstance(labels, np.ndarray) or (
        isinstance(labels, (list, tuple)) and all(isinstance(one, single) for one in labels)
    )
    try:
        array = np.asarray(labels if flat else [])
        names, places = np.unique(array, return_inverse=True)
    except (ValueError, TypeError):  # kinds that cannot be compared; text that is none
        flat = False
    if not flat or array.ndim != 1 or array.dtype.kind not in "iuSU":
        raise UserError(f"the labels of {path} are no list of whole numbers or names")
    if len(array) != count:
        raise UserError(f"{path} has {len(array)} labels for {count} images")
    if array.dtype.kind == "i" and array.min() < 0:
        raise UserError(f"{path} has the label {array.min()}; labels are 0 or more")
    return Part([printable(name) for name in names.tolist()], places.astype(np.intp), pictures)


@contextmanager
def _open_npz(path: Path) -> Generator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open the array `images` of an archive at its first image; yield its shape as well."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
            yield file, _shape(path, file)
    except UserError:
        raise
    except KeyError:
        raise UserError(f"{path} has no array that is called images") from None
    except Exception as error:  # a broken archive fails in many ways
        raise UserError(f"{path} is not a whole .npz file: {error}") from None


def _shape(path: Path, file: IO[bytes]) -> tuple[int, ...]:
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
    fits = dtype == np.uint8 and not fortran and len(shape) == 4 and shape[3] == 3
    if not fits or min(shape) < 1 or math.prod(shape[1:]) > _LARGEST_IMAGE:
        raise UserError(
            f"the images of {path} are {dtype} {list(shape)}, "
            f"not uint8 [images, height, width, 3] of at most {_LARGEST_IMAGE >> 20} MiB each"
        )
    return tuple(shape)


def _npz_images(path: Path) -> Iterator[NDArray[np.uint8]]:
    with _open_npz(path) as (file, shape):
        size = math.prod(shape[1:])
        for place in range(shape[0]):
            content = file.read(size)
            if len(content) < size:
                raise UserError(f"{path} ends within image {place} of {shape[0]}")
            yield np.frombuffer(content, np.uint8).reshape(shape[1:])[..., ::-1]


CACHE_PICKLES = Layout(("mini-imagenet-cache-{}.pkl",), _read_mini)
"""A pickle for each split: all images in one array, with places or labels by class."""

CATEGORY_PICKLES = Layout(
    ("miniImageNet_category_split_{}.pickle",),
    _read_mini,
    spellings={"train": ("train_phase_train",), "validation": ("val",)},
)
"""The same under other names."""

PNG_PICKLES = Layout(("{}_images_png.pkl", "{}_labels.pkl"), _read_pngs)
"""Images as a pickled list of PNG files, with a pickle of their labels."""

NPZ = Layout(("{}_images.npz", "{}_labels.pkl"), _read_npz)
"""Images as one array, its colours in OpenCV's order: blue, green, red."""
