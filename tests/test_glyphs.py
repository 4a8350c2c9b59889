"""The glyph data set, its cache on disk, and the task family made of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.tasks import glyphs
from harness.tasks.glyph_images import Images, draw_class, draw_face
from harness.tasks.glyph_strokes import glyph_classes, split_indices
from harness.tasks.glyphs import DEFAULT_SHA256, Glyphs, load_images
from harness.tasks.task import SPLITS
from tests.support.image_sets import truncate

# Nearest neighbour on raw Omniglot pixels, percent, by (ways, shots); from Vinyals et al.,
# "Matching Networks for One Shot Learning", 2016, table 1, row "Pixels" (there by cosine).
OMNIGLOT = {(5, 1): 41.7, (5, 5): 63.2, (20, 1): 26.7, (20, 5): 42.6}


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAGRAD_CACHE", str(folder))
        load_images.cache_clear()
        yield folder
    load_images.cache_clear()


@pytest.fixture(scope="module")
def images(cache_folder: Path) -> Images:
    return load_images(1.0)


def nearest_neighbour_accuracy(images: Images, ways: int, shots: int, episodes: int = 400) -> float:
    """Percent of queries whose nearest support image, by Euclidean distance, is of their class."""
    count = len(images)
    flat = images.reshape(count * 20, -1).astype(np.float32) / 255
    squares = (flat * flat).sum(axis=1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    distances = distances.reshape(count, 20, count, 20)
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(episodes):
        classes = rng.permutation(count)[:ways]
        order = np.argsort(rng.random((ways, 20)), axis=1)
        support, query = order[None, None, :, :shots], order[:, shots : shots + 15, None, None]
        nearest = distances[
            classes[:, None, None, None], query, classes[None, None, :, None], support
        ]
        right += int((nearest.min(axis=-1).argmin(axis=-1) == np.arange(ways)[:, None]).sum())
    return 100 * right / (episodes * ways * 15)


def test_default_images_are_the_same_everywhere_and_strokes_stay_on_the_canvas(
    images: Images,
) -> None:
    assert images.shape == (len(glyph_classes()), 20, 28, 28)
    assert images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest() == DEFAULT_SHA256
    # Ink may fade onto the rim, but a stroke's core there would mean that it was cut off.
    rim = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]])
    assert rim.max() < 255
    assert images.max(axis=(2, 3)).min() > 150


def test_classes_and_splits_by_alphabet_or_by_character() -> None:
    classes = glyph_classes()
    assert len({glyph.name for glyph in classes}) == len(classes)
    for glyph in classes:
        assert len(glyph.faces) == 1 or glyph.alphabet in ("latin", "digits", "punctuation")
    for held_out in ("alphabets", "characters"):
        indices = {split: split_indices(split, held_out) for split in SPLITS}
        assert sorted(sum(indices.values(), ())) == [*range(len(classes))]
        alphabets = {split: {classes[k].alphabet for k in indices[split]} for split in SPLITS}
        if held_out == "characters":
            assert alphabets["test"] <= alphabets["train"]
            assert len(alphabets["test"]) >= 12
        else:
            assert not alphabets["train"] & (alphabets["validation"] | alphabets["test"])
            assert not alphabets["validation"] & alphabets["test"]
        shares = {split: len(indices[split]) / len(classes) for split in SPLITS}
        assert 0.05 <= shares["validation"] <= 0.15
        assert 0.15 <= shares["test"] <= 0.25
    far, near = Glyphs(), Glyphs(held_out="characters")
    for split in SPLITS:
        assert not torch.equal(near.sample(0, split).support[0], far.sample(0, split).support[0])


def test_no_two_classes_look_alike() -> None:
    owners = [k for k, glyph in enumerate(glyph_classes()) for _ in glyph.faces]
    drawings = np.stack([draw_face(face) for glyph in glyph_classes() for face in glyph.faces])
    pixels = drawings.reshape(len(owners), -1).astype(np.float64)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    correlation = pixels @ pixels.T
    others = np.not_equal.outer(owners, owners)
    assert correlation[others].max() < 0.9


def test_an_image_depends_only_on_class_sample_and_jitter(images: Images) -> None:
    last = len(glyph_classes()) - 1
    for index in (0, 300, last):
        assert np.array_equal(draw_class(index, [7]), images[index, 7:8])
        assert np.array_equal(draw_class(index, [19, 3]), images[index, [19, 3]])
    assert not np.array_equal(images[last, 0], images[last, 1])
    index = split_indices("test")[0]
    clean = draw_face(glyph_classes()[index].faces[0])
    assert (draw_class(index, range(20), jitter=0.0) == clean).all()


def test_nearest_neighbours_do_as_on_omniglot(images: Images) -> None:
    held_out = images[list(split_indices("test"))]
    for (ways, shots), percent in OMNIGLOT.items():
        accuracy = nearest_neighbour_accuracy(held_out, ways, shots)
        assert accuracy == pytest.approx(percent, abs=5), (ways, shots)


def test_images_are_drawn_once_and_stored(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jitters: list[float] = []

    def draw_all(jitter: float) -> Images:
        jitters.append(jitter)
        return images.copy()

    def load(*some: float) -> None:
        for jitter in some:
            fresh = load_images.__wrapped__(jitter)  # as in a new process
            assert np.array_equal(fresh, images)
            assert not fresh.flags.writeable

    monkeypatch.setattr(glyphs, "draw_all", draw_all)
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "new" / "folder"))
    load(1.0, 1.0, 0.5, 0.5)
    assert jitters == [1.0, 0.5]
    for file in (tmp_path / "new" / "folder").rglob("*.pt"):
        truncate(file)
    load(1.0, 1.0)
    assert jitters == [1.0, 0.5, 1.0]
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file" / "folder"))
    load(1.0)  # a folder that cannot be written is no error
    assert jitters == [1.0, 0.5, 1.0, 1.0]


def test_task_images_come_from_the_split_and_no_image_comes_twice(images: Images) -> None:
    places = {image.tobytes(): index for index, samples in enumerate(images) for image in samples}
    for split in SPLITS:
        task = Glyphs(ways=20, shots=5, queries=15).sample(0, split)
        inputs = torch.cat([task.support[0], task.query[0]])
        targets = torch.cat([task.support[1], task.query[1]])
        pixels = [image.tobytes() for image in (inputs * 255).round().to(torch.uint8).numpy()]
        assert len(set(pixels)) == 20 * 20
        assert task.support[1].bincount().tolist() == [5] * 20
        assert task.query[1].bincount().tolist() == [15] * 20
        pairs = {(places[p], t) for p, t in zip(pixels, targets.tolist(), strict=True)}
        assert len(pairs) == 20  # each target is one class and each class one target
        assert {index for index, _ in pairs} <= set(split_indices(split))
