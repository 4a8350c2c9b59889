"""Models by size; parameters are drawn from a seed, alike for every dtype and device."""

from harness.models import conv4, linear, mlp
from harness.models.model import MODELS, Model

_BUILT_IN = (conv4, linear, mlp)  # importing registers them

__all__ = ["MODELS", "Model"]
