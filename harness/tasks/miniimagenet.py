"""Few-shot classification on miniImageNet."""

from dataclasses import dataclass

from harness.tasks.image_files import ImageFiles
from harness.tasks.reading.image_lists import CSV_SPLITS, TREE
from harness.tasks.reading.packed import CACHE_PICKLES, CATEGORY_PICKLES
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS


@TASKS.register("miniimagenet:5way-1shot", ways=5, shots=1)
@TASKS.register("miniimagenet:5way-5shot", ways=5, shots=5)
@TASKS.register("miniimagenet")
@dataclass(frozen=True)
class MiniImageNet(ImageFiles):
    """Classify images of `ways` classes of miniImageNet: 64, 16 and 20 classes of 600 images.

    The splits are those of the files; the usual files have those of Ravi and Larochelle.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class.
        folder: see `ImageFiles`.

    Source: Vinyals et al., "Matching Networks", NeurIPS 2016; splits: Ravi, Larochelle,
    "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    Example:
        >>> MiniImageNet(shots=5).input_shape
        (3, 84, 84)
    """

    folder: str = "miniimagenet"

    family = "miniimagenet"
    layouts = (CACHE_PICKLES, CATEGORY_PICKLES, CSV_SPLITS, TREE)
    official = ((64, 64 * 600), (16, 16 * 600), (20, 20 * 600))
    form = Form(channels=3, size=84)
