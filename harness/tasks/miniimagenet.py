"""Few-shot classification on miniImageNet."""

from dataclasses import dataclass
from typing import ClassVar

from harness.tasks.image_files import ImageFiles, Official
from harness.tasks.reading.folders import Tree
from harness.tasks.reading.mini import CachePickles, CategoryPickles, CsvSplits
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS


@TASKS.register("miniimagenet:5way-1shot", ways=5, shots=1)
@TASKS.register("miniimagenet:5way-5shot", ways=5, shots=5)
@TASKS.register("miniimagenet")
@dataclass(frozen=True)
class MiniImageNet(ImageFiles):
    """Classify images of `ways` classes of miniImageNet: 64, 16 and 20 classes of 600 images.

    The splits are those of the files: in those that are in use, Ravi's and Larochelle's.

    Attributes:
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        folder: see `ImageFiles`.

    Source: Vinyals et al., "Matching Networks", NeurIPS 2016; splits: Ravi, Larochelle,
    "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    Example:
        >>> MiniImageNet(shots=5).input_shape
        (3, 84, 84)
    """

    folder: str = "miniimagenet"

    family = "miniimagenet"
    layouts = (CachePickles(), CategoryPickles(), CsvSplits(), Tree())
    official: ClassVar[Official] = {
        "train": (64, 64 * 600),
        "validation": (16, 16 * 600),
        "test": (20, 20 * 600),
    }
    form = Form(channels=3, size=84)
