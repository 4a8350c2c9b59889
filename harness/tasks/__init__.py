"""Task families: where the bilevel problems come from."""

from harness.tasks import (
    digits,
    glyphs,
    images,
    miniimagenet,
    noise,
    omniglot,
    quadratic,
    sinusoid,
    tieredimagenet,
)
from harness.tasks.task import TASKS, Batch, Task, TaskFamily

# Importing registers them.
_BUILT_IN = (
    *(digits, glyphs, images, miniimagenet, noise, omniglot, quadratic, sinusoid),
    tieredimagenet,
)

__all__ = ["TASKS", "Batch", "Task", "TaskFamily"]
