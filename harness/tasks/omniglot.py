"""Few-shot character recognition on Omniglot."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.image_files import ImageFiles, Official
from harness.tasks.reading.folders import OmniglotTree
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS

Character = tuple[str, int]  # a part of the data set, and a class's place in it

_WHOLE, _TRAINED_ON, _VALIDATED_ON = 1623, 1100, 100  # characters; the others are for the test
_SHARE_VALIDATED = 6  # one background alphabet of so many is for validation: five of 30


@TASKS.register("omniglot:5way-1shot", ways=5, shots=1)
@TASKS.register("omniglot:5way-5shot", ways=5, shots=5)
@TASKS.register("omniglot:20way-1shot", ways=20, shots=1)
@TASKS.register("omniglot:20way-5shot", ways=20, shots=5)
@TASKS.register("omniglot")
@dataclass(frozen=True)
class Omniglot(ImageFiles):
    """Classify images of `ways` characters, 28x28 pixels, ink 1.

    Attributes:
        ways: classes a task.
        shots: support images a class.
        queries: query images a class; with `shots`, at most 20.
        folder: see `ImageFiles`.
        split: "vinyals": 1100 of all 1623 characters are for training, 100 for validation, 423
            for the test: as many as in the split of Vinyals et al., 100 of whose 1200 training
            characters are for validation, but not the same ones. They are sorted by the SHA-256
            of "<alphabet>/<character>" and cut; an incomplete data set in the same proportions.
            "alphabet": the evaluation alphabets are the test, the last sixth (five of 30) of the
            background alphabets, by name, validation, the others training.
        rotations: each character turned by 90, 180 and 270 degrees is a class by itself, in the
            same split.

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
    layouts = (OmniglotTree(),)
    official: ClassVar[Official] = {"background": (964, 964 * 20), "evaluation": (659, 659 * 20)}
    form = Form(channels=1, size=28, inverted=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("vinyals", "alphabet"):
            raise OptionError(f'omniglot: split={self.split!r} is neither "vinyals" nor "alphabet"')

    def counts(self, split: str) -> NDArray[np.intp]:
        """See `FewShot.counts`: all characters upright, then all of them turned once, and so on."""
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
        """The characters of a split."""
        folder, layout = self._found()
        parts = [part for part in layout.parts if layout.there(folder, part)]
        if self.split == "alphabet":
            self.part(_part_of(split))  # it has to be there
        return _members(self.split, split, tuple((part, self.part(part).names) for part in parts))


@lru_cache(maxsize=16)
def _members(
    rule: str, split: str, parts: tuple[tuple[str, tuple[str, ...]], ...]
) -> tuple[Character, ...]:
    """The characters of a split, in an order that only their names decide.

    Raises:
        OptionError: a character would be in two places.
    """
    named: dict[str, Character] = {}
    for part, names in parts:
        for place, name in enumerate(names):
            if name in named:
                raise OptionError(
                    f"omniglot: the character {name} of images_{part} is in "
                    f"images_{named[name][0]} already; keep one of them"
                )
            named[name] = part, place
    if rule == "vinyals":
        shuffled = sorted(named, key=lambda name: hashlib.sha256(name.encode()).digest())
        ends = [len(named) * end // _WHOLE for end in (_TRAINED_ON, _TRAINED_ON + _VALIDATED_ON)]
        chosen = {
            "train": shuffled[: ends[0]],
            "validation": shuffled[ends[0] : ends[1]],
            "test": shuffled[ends[1] :],
        }[split]
        return tuple(named[name] for name in chosen)
    alphabets = {part: {name.partition("/")[0] for name in names} for part, names in parts}
    if len(parts) > 1 and (shared := set.intersection(*alphabets.values())):
        raise OptionError(
            f"omniglot: the alphabet {min(shared)} is in images_background and in "
            "images_evaluation; split='alphabet' wants each in one of them"
        )
    here = _part_of(split)
    held_out = {*sorted(alphabets[here])[-math.ceil(len(alphabets[here]) / _SHARE_VALIDATED) :]}
    return tuple(
        named[name]
        for name in sorted(named)
        if named[name][0] == here
        and (split == "test" or (name.partition("/")[0] in held_out) == (split == "validation"))
    )


def _part_of(split: str) -> str:
    """The part that a split by alphabets is taken from."""
    return "evaluation" if split == "test" else "background"
