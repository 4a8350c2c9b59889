"""Task families: where the bilevel problems come from."""

from harness.tasks import glyphs, noise, quadratic, sinusoid
from harness.tasks.task import TASKS, Batch, Task, TaskFamily

_BUILT_IN = (glyphs, noise, quadratic, sinusoid)  # importing registers them

__all__ = ["TASKS", "Batch", "Task", "TaskFamily"]
