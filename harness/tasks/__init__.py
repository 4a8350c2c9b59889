"""Task families: where the bilevel problems come from."""

from harness.tasks import glyphs, quadratic, sinusoid
from harness.tasks.task import TASKS, Batch, Task, TaskFamily

_BUILT_IN = (glyphs, quadratic, sinusoid)  # importing registers them

__all__ = ["TASKS", "Batch", "Task", "TaskFamily"]
