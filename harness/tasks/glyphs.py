"""Few-shot glyph recognition: an Omniglot-like task family that needs no download."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.support import cache
from harness.tasks.few_shot import FewShot
from harness.tasks.glyph_images import SAMPLES, SIZE, Images, draw_all
from harness.tasks.glyph_strokes import HELD_OUT, glyph_classes, split_indices
from harness.tasks.task import SPLITS, TASKS

DEFAULT_SHA256 = "774baa16ec55f073adb78d8f7ba203d0909e84835a978eb7411d4496e99b25e4"
"""Of the pixels at the default jitter: it changes whenever the drawing does."""


@TASKS.register("glyphs:5way-1shot", ways=5, shots=1)
@TASKS.register("glyphs:5way-5shot", ways=5, shots=5)
@TASKS.register("glyphs:20way-1shot", ways=20, shots=1)
@TASKS.register("glyphs:20way-5shot", ways=20, shots=5)
@TASKS.register("glyphs")
@dataclass(frozen=True)
class Glyphs(FewShot):
    """Classify images of `ways` characters, from `shots` examples of each.

    Characters are the Hershey fonts', drawn with a shaky hand; whole alphabets are held out for
    the splits "validation" and "test". At the default jitter, nearest neighbours on raw pixels
    of held-out characters do about as well as on Omniglot.

    Attributes:
        ways: characters per task.
        shots: support images per character.
        queries: query images per character; shots and queries together at most 20.
        jitter: how shaky the hand is: 0 draws a character the same each time, 10 is the most.
        held_out: "alphabets" holds out whole alphabets for validation and for the test, whose
            distributions differ from that of training; "characters" some of every alphabet.

    Raises:
        OptionError: an option is out of its range.

    Source: the Hershey fonts, by A. V. Hershey (data/NOTICE-hershey.txt).

    Example:
        >>> Glyphs(ways=5, shots=1).sample(seed=0).support[0].shape
        torch.Size([5, 1, 28, 28])
    """

    jitter: float = 1.0
    held_out: str = "alphabets"

    family = "glyphs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out not in HELD_OUT:
            known = " and ".join(map(repr, HELD_OUT))
            raise OptionError(f"glyphs: held_out={self.held_out!r} is unknown; there are {known}")
        for split in SPLITS:
            self.sufficient_counts(split)
        if not 0 <= self.jitter <= 10:
            raise OptionError(f"glyphs: jitter={self.jitter} is not between 0 and 10")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[channels, height, width] of one image."""
        return (1, SIZE, SIZE)

    def counts(self, split: str) -> NDArray[np.intp]:
        """See `FewShot.counts`: all classes have as many."""
        return np.full(len(self._classes(split)), SAMPLES)

    def class_name(self, split: str, number: int) -> str:
        """See `FewShot.class_name`."""
        return glyph_classes()[self._classes(split)[number]].name

    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `FewShot.pictures`; ink is 255."""
        images: NDArray[np.uint8] = load_images(self.jitter)[self._classes(split)[number]]
        return images[places, None]

    def _classes(self, split: str) -> tuple[int, ...]:
        return split_indices(split, self.held_out)


@lru_cache(maxsize=4)
def load_images(jitter: float) -> Images:
    """Return the image set at a jitter, from the cache or drawn.

    Returns:
        uint8 [classes, 20, 28, 28], read-only, ink 255 on background 0, classes as in
        `glyph_classes()`.

    Example:
        >>> load_images(1.0).shape[1:]
        (20, 28, 28)
    """
    key = cache.digest(DEFAULT_SHA256, float(jitter))
    pixels = cache.load("glyphs", key)
    if pixels is None:
        pixels = torch.from_numpy(draw_all(jitter))
        cache.save("glyphs", key, pixels)
    images: Images = pixels.numpy()
    images.setflags(write=False)
    return images
