"""Tiny image data sets, written in every layout that is read."""

import io
import os
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.tasks import TASKS, Task
from harness.tasks.image_files import ImageFiles

Pixels = NDArray[np.uint8]
Classes = dict[str, Pixels]  # name: [images, height, width, 3]

NESTED = b"\x80\x02)" + b"2\x86" * 40 + b"."  # pairs, each of the one before twice: 2^40 places
SPLITS = {"train": 3, "val": 2, "test": 4}  # classes


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def colour(split: str, number: int, place: int) -> tuple[int, int, int]:
    """Return the colour of an image; no two images are alike."""
    return 40 * [*SPLITS].index(split) + 7 * number + 1, 10 * place + 3, 200 - place


def classes(split: str, *, images: int = 6, size: int = 84) -> Classes:
    """Classes of images of one colour each, but for a corner; the first has an image more."""
    result = {
        f"{split}-{number}": np.array(
            [
                np.full((size, size, 3), colour(split, number, place), np.uint8)
                for place in range(images + (number == 0))
            ]
        )
        for number in range(SPLITS[split])
    }
    for pixels in result.values():
        pixels[:, -1, -1] = 0
    return result


def as_png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_tree(folder: Path, *, size: int = 84, names: dict[str, str] | None = None) -> Path:
    for split in SPLITS:
        for name, images in classes(split, size=size).items():
            below = folder / (names or {}).get(split, split) / name
            below.mkdir(parents=True)
            for place, image in enumerate(images):
                (below / f"{place}.png").write_bytes(as_png(image))
    return folder


def write_packed(folder: Path, write: Callable[[str, Pixels, list[str]], None]) -> Path:
    """Calls `write` for each split with all its images, of all classes in turns, and labels."""
    folder.mkdir(parents=True)
    for split in SPLITS:
        flat = [
            (place, name, image)
            for name, images in classes(split).items()
            for place, image in enumerate(images)
        ]
        flat.sort(key=lambda one: one[0])
        write(split, np.array([image for *_, image in flat]), [name for _, name, _ in flat])
    return folder


def numbered(labels: list[str]) -> NDArray[np.int64]:
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def write_cache_pickles(folder: Path, *, validation: str = "val", protocol: int = 4) -> Path:
    def write(split: str, images: Pixels, labels: list[str]) -> None:
        places = {
            name: [k for k, label in enumerate(labels) if label == name] for name in {*labels}
        }
        content = {"image_data": images, "class_dict": places}
        name = validation if split == "val" else split
        (folder / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(content, protocol))

    return write_packed(folder, write)


def write_category_pickles(folder: Path) -> Path:
    def write(split: str, images: Pixels, labels: list[str]) -> None:
        content = {b"data": images, b"labels": numbered(labels).tolist(), b"catname2label": {}}
        name = "train_phase_train" if split == "train" else split
        path = folder / f"miniImageNet_category_split_{name}.pickle"
        path.write_bytes(pickle.dumps(content, 2))

    return write_packed(folder, write)


def write_csv(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    for split in SPLITS:
        rows = ["filename,label"]
        for name, images in classes(split).items():
            for place, image in enumerate(images):
                (folder / "images" / f"{name}-{place}.png").write_bytes(as_png(image))
                rows.append(f"{name}-{place}.png,{name}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_png_pickles(folder: Path, shape: tuple[int, ...] = (-1,)) -> Path:
    def write(split: str, images: Pixels, labels: list[str]) -> None:
        files = [np.frombuffer(as_png(image), np.uint8).reshape(shape) for image in images]
        (folder / f"{split}_images_png.pkl").write_bytes(pickle.dumps(files))
        content = {"label_specific": numbered(labels), "label_general": np.zeros(len(labels), int)}
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(content))

    return write_packed(folder, write)


def write_npz(folder: Path) -> Path:
    def write(split: str, images: Pixels, labels: list[str]) -> None:
        np.savez(folder / f"{split}_images.npz", images=images[..., ::-1])
        content = {"labels": numbered(labels).tolist()}
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(content))

    return write_packed(folder, write)


def strokes(alphabet: int, character: int, place: int) -> NDArray[np.bool_]:
    """A drawing of 105x105 as in Omniglot, True is paper: ink in a corner, unlike any other."""
    paper = np.ones((105, 105), bool)
    paper[: 20 + 8 * character + 2 * place, : 16 + 6 * alphabet] = False
    return paper


def write_omniglot(
    folder: Path,
    alphabets: Iterable[str] = ("Greek", "Latin"),
    evaluation: Iterable[str] = ("Tagalog",),
    *,
    characters: int = 4,
    images: int = 6,
) -> Path:
    number = 0
    for part, names in (("background", alphabets), ("evaluation", evaluation)):
        for alphabet in names:
            for character in range(characters):
                below = folder / f"images_{part}" / alphabet / f"character{character + 1:02}"
                below.mkdir(parents=True)
                for place in range(images):
                    image = Image.fromarray(strokes(number, character, place))
                    image.save(below / f"{number:02}{character:02}_{place:02}.png")
            number += 1
    return folder


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "cache pickles": ("miniimagenet", write_cache_pickles),
    "category pickles": ("miniimagenet", write_category_pickles),
    "lists": ("miniimagenet", write_csv),
    "mini tree": ("miniimagenet", write_tree),
    "PNG pickles": ("tieredimagenet", write_png_pickles),
    "PNG columns": ("tieredimagenet", partial(write_png_pickles, shape=(-1, 1))),  # of old OpenCV
    "npz": ("tieredimagenet", write_npz),
    "tiered tree": ("tieredimagenet", write_tree),
    "images": ("images", write_tree),
}
"""Everything but Omniglot: the family that reads it, and what writes it to a folder."""


def family(name: str, **options: object) -> ImageFiles:
    images = TASKS.create(name, **options)
    assert isinstance(images, ImageFiles)
    return images


def equal(one: Task, other: Task) -> bool:
    pairs = zip((*one.support, *one.query), (*other.support, *other.query), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
