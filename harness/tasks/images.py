"""Few-shot classification of any images that lie in folders by split and class."""

from dataclasses import dataclass

from estimators.base.errors import OptionError
from harness.tasks.image_files import ImageFiles
from harness.tasks.reading.image_lists import TREE
from harness.tasks.reading.pictures import Form
from harness.tasks.task import TASKS


@TASKS.register("images")
@dataclass(frozen=True)
class Images(ImageFiles):
    """Classify images of `ways` classes: a folder for each split, in it one for each class.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class.
        folder: see `ImageFiles`; required.
        size: height and width that images are resized to.
        channels: 3, colours, or 1, shades of grey.

    Raises:
        OptionError: an option is out of its range.

    Example:
        >>> Images(folder="birds", size=64).input_shape
        (3, 64, 64)
    """

    size: int = 84
    channels: int = 3

    family = "images"
    layouts = (TREE,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.size <= 1024:
            raise OptionError(f"images: size={self.size} is not between 1 and 1024")
        if self.channels not in (1, 3):
            raise OptionError(
                f"images: channels={self.channels} is neither 1 (grey) nor 3 (colours)"
            )

    @property
    def form(self) -> Form:
        """See `ImageFiles.form`."""
        return Form(self.channels, self.size)
