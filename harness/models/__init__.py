"""Models by size; parameters are drawn from a seed, the same for every dtype and device."""

from importlib import import_module
from pkgutil import iter_modules

from harness.models.model import MODELS, Model

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)  # registers the models in it

__all__ = ["MODELS", "Model"]
