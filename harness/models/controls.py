"""Controls of several agents, and factors on the weights that they are judged by."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.models.model import MODELS, Model
from harness.tasks import TaskFamily
from harness.tasks.formation import Formation


@MODELS.register("controls")
@dataclass(frozen=True)
class Controls(Model):
    """Initial controls of trajectory optimisation, and log factors on its three weights.

    The factors are 1 to begin with. Inner loops adapt the controls only; meta-training learns the
    factors beside the warm start.

    Example:
        >>> from harness.tasks import TASKS
        >>> list(MODELS.create("controls").build(TASKS.create("trajectory"), 0).state_dict())
        ['controls', 'log_weights']
    """

    def unsupported_reason(self, family: TaskFamily) -> str | None:
        """See `Model.unsupported_reason`."""
        if isinstance(family, Formation):
            return None
        return "controls is the model of trajectory and unicycle only"

    def module(self, family: TaskFamily) -> nn.Module:
        """See `Model.module`."""
        (agents,) = family.input_shape
        return _Controls(agents, family.outputs)


class _Controls(nn.Module):
    def __init__(self, agents: int, size: int) -> None:
        super().__init__()
        self.controls = nn.Parameter(0.1 * torch.randn(agents, size))
        self.log_weights = nn.Parameter(torch.zeros(3))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the controls, and the logarithms of the factors."""
        del inputs
        return self.controls, self.log_weights
