"""Task families: the source of the bilevel problems."""

from importlib import import_module
from pkgutil import iter_modules

from harness.tasks.task import TASKS, Batch, Task, TaskFamily

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)  # registers the families in it

__all__ = ["TASKS", "Batch", "Task", "TaskFamily"]
