"""Few-shot classification on tieredImageNet."""

from dataclasses import dataclass
from typing import ClassVar

from harness.tasks.image_files import ImageFiles, Official
from harness.tasks.reading.folders import Tree
from harness.tasks.reading.pictures import Form
from harness.tasks.reading.tiered import Npz, PngPickles
from harness.tasks.task import TASKS


@TASKS.register("tieredimagenet:5way-1shot", ways=5, shots=1)
@TASKS.register("tieredimagenet:5way-5shot", ways=5, shots=5)
@TASKS.register("tieredimagenet")
@dataclass(frozen=True)
class TieredImageNet(ImageFiles):
    """Classify images of `ways` classes of tieredImageNet: 351, 97 and 160 classes.

    The splits are those of the files; they hold kinds of things, and not only classes, apart.

    Attributes:
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        folder: see `ImageFiles`.

    Source: Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.

    Example:
        >>> TieredImageNet(shots=5).input_shape
        (3, 84, 84)
    """

    folder: str = "tieredimagenet"

    family = "tieredimagenet"
    layouts = (PngPickles(), Npz(), Tree())
    official: ClassVar[Official] = {
        "train": (351, 448_695),
        "validation": (97, 124_261),
        "test": (160, 206_209),
    }
    form = Form(channels=3, size=84)
