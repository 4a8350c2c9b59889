"""Few-shot classification of the handwritten digits that come with scikit-learn."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from estimators.base.errors import OptionError
from harness.tasks.few_shot import FewShot
from harness.tasks.task import TASKS

DIGITS = {"train": range(4), "validation": range(4, 7), "test": range(7, 10)}
_ENLARGEMENT = 2  # conv4 halves images four times, so that they must be 16 pixels wide


@TASKS.register("digits:3way-1shot", ways=3, shots=1)
@TASKS.register("digits")
@dataclass(frozen=True)
class Digits(FewShot):
    """Classify images of `ways` digits, written by hand; real data that need no files.

    They are 8x8 pixels, each of which is repeated to make 16x16. Digits 0 to 3 are for training,
    4 to 6 for validation, 7 to 9 for the test: little to learn from, and little to tell apart.

    Attributes:
        ways: digits per task, at most 3.
        shots: support images per digit.
        queries: query images per digit; with `shots`, at most 174.

    Raises:
        OptionError: an option is out of its range.

    Source: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; the part
    that scikit-learn ships.

    Example:
        >>> Digits(shots=5).sample(seed=0).support[0].shape
        torch.Size([15, 1, 16, 16])
    """

    ways: int = 3

    family = "digits"
    brightest = 16.0
    input_shape = (1, 16, 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ways > 3:
            raise OptionError(
                f"digits: ways={self.ways} is more than the 3 digits of the validation split"
            )

    def counts(self, split: str) -> NDArray[np.intp]:
        """See `FewShot.counts`."""
        return np.array([len(_images()[digit]) for digit in DIGITS[split]])

    def class_name(self, split: str, number: int) -> str:
        """See `FewShot.class_name`."""
        return str(DIGITS[split][number])

    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `FewShot.pictures`; ink is 16."""
        small = _images()[DIGITS[split][number]][places, None]
        return small.repeat(_ENLARGEMENT, axis=2).repeat(_ENLARGEMENT, axis=3)


@cache
def _images() -> list[NDArray[np.uint8]]:
    """Return the images of each digit, uint8 [images, 8, 8]."""
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    return [digits.images[digits.target == digit].astype(np.uint8) for digit in range(10)]
