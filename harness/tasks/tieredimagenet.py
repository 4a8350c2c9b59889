"""Few-shot classification on tieredImageNet."""

from dataclasses import dataclass

from harness.tasks.image_files import ImageFiles
from harness.tasks.reading.image_lists import TREE
from harness.tasks.reading.packed import NPZ, PNG_PICKLES
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS


@TASKS.register("tieredimagenet:5way-1shot", ways=5, shots=1)
@TASKS.register("tieredimagenet:5way-5shot", ways=5, shots=5)
@TASKS.register("tieredimagenet")
@dataclass(frozen=True)
class TieredImageNet(ImageFiles):
    """Classify images of `ways` classes of tieredImageNet: 351, 97 and 160 classes.

    The splits are those of the files; they separate kinds of things, not only classes.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class.
        folder: see `ImageFiles`.

    Source: Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.

    Example:
        >>> TieredImageNet(shots=5).input_shape
        (3, 84, 84)
    """

    folder: str = "tieredimagenet"

    family = "tieredimagenet"
    layouts = (PNG_PICKLES, NPZ, TREE)
    official = ((351, 448_695), (97, 124_261), (160, 206_209))
    form = Form(channels=3, size=84)
