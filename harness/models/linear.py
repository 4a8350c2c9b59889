"""One linear map."""

from dataclasses import dataclass
from math import prod

from torch import nn

from harness.models.model import MODELS, Model
from harness.tasks import TaskFamily


@MODELS.register("linear")
@dataclass(frozen=True)
class Linear(Model):
    """One weight matrix without bias.

    It is the parameters of `quadratic`, the logits of `bandit` and `mdp`, and the controls of
    `trajectory` and `unicycle`.

    Example:
        >>> from harness.tasks import TASKS
        >>> list(MODELS.create("linear").build(TASKS.create("quadratic"), 0).state_dict())
        ['1.weight']
    """

    def module(self, family: TaskFamily) -> nn.Module:
        """See `Model.module`."""
        inputs = prod(family.input_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, family.outputs, bias=False))
