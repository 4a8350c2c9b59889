"""Random numbers for tasks: alike for the same key in every version of numpy."""

import numpy as np
from numpy.typing import NDArray


def uniform(key: tuple[int, ...], size: int) -> NDArray[np.float64]:
    """Returns `size` uniform draws from [0, 1).

    numpy promises the raw words of a bit generator for all versions, but not the streams of
    its distributions.

    Returns:
        float64 array [size].
    """
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    return np.asarray((words >> np.uint64(11)) * 2.0**-53)
