"""Few-shot character recognition on Omniglot."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError, UserError
from harness.tasks.image_files import ImageFiles
from harness.tasks.reading.image_lists import OMNIGLOT
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS

Character = tuple[str, int]  # a part of the data set, and a class's place in it
Parts = tuple[tuple[str, tuple[str, ...]], ...]  # names of the characters of each part

_CHARACTERS, _TRAIN, _VALIDATION = 1623, 1100, 100  # the others are for the test
_VALIDATION_SHARE = 6  # one background alphabet in so many is for validation: five of 30


@TASKS.register("omniglot:5way-1shot", ways=5, shots=1)
@TASKS.register("omniglot:5way-5shot", ways=5, shots=5)
@TASKS.register("omniglot:20way-1shot", ways=20, shots=1)
@TASKS.register("omniglot:20way-5shot", ways=20, shots=5)
@TASKS.register("omniglot")
@dataclass(frozen=True)
class Omniglot(ImageFiles):
    """Classify images of `ways` characters, 28x28 pixels, ink 1.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class; with `shots`, at most 20.
        folder: see `ImageFiles`.
        split: "vinyals": 1100 of all 1623 characters are for training, 100 for validation, 423
            for the test: as many as in the split of Vinyals et al., 100 of whose 1200 training
            characters are for validation, but not the same ones. They are sorted by the SHA-256
            of "<alphabet>/<character>" and cut; an incomplete data set in the same proportions.
            "alphabet": the evaluation alphabets are the test, the last sixth (five of 30) of the
            background alphabets, by name, validation, the others training.
        rotations: each character turned by 90, 180 and 270 degrees is another class, in the same
            split.

    Raises:
        OptionError: an option is out of its range.

    Source: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 2015; Vinyals et al., "Matching Networks", NeurIPS 2016.

    Example:
        >>> Omniglot(ways=20, shots=5).input_shape
        (1, 28, 28)
    """

    folder: str = "omniglot"
    split: str = "vinyals"
    rotations: bool = True

    family = "omniglot"
    layouts = (OMNIGLOT,)
    official = ((964, 964 * 20), (659, 659 * 20))
    form = Form(channels=1, size=28, inverted=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("vinyals", "alphabet"):
            raise OptionError(f'omniglot: split={self.split!r} is neither "vinyals" nor "alphabet"')

    def counts(self, split: str) -> NDArray[np.intp]:
        """See `FewShot.counts`: first all characters upright, then all turned once, and so on."""
        characters = self._characters(split)
        of_part = {part: self.part(part).counts for part in {part for part, _ in characters}}
        counts = np.array([of_part[part][place] for part, place in characters], dtype=np.intp)
        return np.tile(counts, 4 if self.rotations else 1)

    def class_name(self, split: str, number: int) -> str:
        """See `FewShot.class_name`."""
        characters = self._characters(split)
        part, place = characters[number % len(characters)]
        return self.part(part).names[place]

    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `FewShot.pictures`; ink is 255."""
        characters = self._characters(split)
        part, place = characters[number % len(characters)]
        upright = self.part(part).of_class(place, places)
        return np.rot90(upright, number // len(characters), axes=(2, 3))

    def _characters(self, split: str) -> tuple[Character, ...]:
        folder, layout = self.location()
        if self.split == "alphabet":
            self.part(_part_of(split))  # it has to be there
        parts = ((part, self.part(part).names) for part in layout.present_parts(folder))
        return split_characters(self.split, split, tuple(parts))


@lru_cache(maxsize=16)
def split_characters(rule: str, split: str, parts: Parts) -> tuple[Character, ...]:
    """Return the characters of a split, in an order that depends only on their names."""
    places: dict[str, Character] = {}
    for part, names in parts:
        for place, name in enumerate(names):
            if name in places:
                raise UserError(
                    f"omniglot: the character {name} of images_{part} is in "
                    f"images_{places[name][0]} already; keep one of them"
                )
            places[name] = part, place
    if rule == "alphabet":
        return tuple(places[name] for name in _names_by_alphabet(split, parts))
    shuffled = sorted(places, key=lambda name: hashlib.sha256(name.encode()).digest())
    first, second = (len(places) * end // _CHARACTERS for end in (_TRAIN, _TRAIN + _VALIDATION))
    cut = {
        "train": slice(first),
        "validation": slice(first, second),
        "test": slice(second, None),
    }[split]
    return tuple(places[name] for name in shuffled[cut])


def _names_by_alphabet(split: str, parts: Parts) -> list[str]:
    names = dict(parts)
    alphabets = {part: {name.partition("/")[0] for name in names[part]} for part in names}
    if len(parts) > 1 and (shared := set.intersection(*alphabets.values())):
        raise UserError(
            f"omniglot: the alphabet {min(shared)} is in images_background and in "
            "images_evaluation; split='alphabet' needs each in one of them"
        )
    chosen = sorted(alphabets[_part_of(split)])
    if split != "test":
        cut = len(chosen) - math.ceil(len(chosen) / _VALIDATION_SHARE)
        chosen = chosen[cut:] if split == "validation" else chosen[:cut]
    return sorted(name for name in names[_part_of(split)] if name.partition("/")[0] in chosen)


def _part_of(split: str) -> str:
    """Return the part that a split by alphabets is taken from."""
    return "evaluation" if split == "test" else "background"
