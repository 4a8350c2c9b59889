"""Fully connected networks."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from estimators.base.errors import OptionError
from harness.models.model import MODELS, Model
from harness.tasks import TaskFamily


@MODELS.register("mlp-40-40", hidden=(40, 40))
@MODELS.register("mlp-100-100", hidden=(100, 100))
@MODELS.register("mlp-256-256-256", hidden=(256, 256, 256))
@dataclass(frozen=True)
class Mlp(Model):
    """Fully connected layers with ReLU between them; inputs are flattened.

    Attributes:
        hidden: widths of the hidden layers.
        init: "maml" draws weights from a normal distribution of standard deviation .01, cut off
            at two of them, with zero biases, as the reference code of MAML does; "torch" is
            torch's default. The inner curvature differs several-fold between the two, and the
            bias of every estimator with it.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017, section 5.1.

    Example:
        >>> from harness.tasks import TASKS
        >>> model = MODELS.create("mlp-40-40")
        >>> sum(p.numel() for p in model.build(TASKS.create("sinusoid"), seed=0).parameters())
        1761
    """

    hidden: tuple[int, ...]
    init: str = "maml"

    def __post_init__(self) -> None:
        if self.init not in ("maml", "torch"):
            raise OptionError(f'mlp: init={self.init!r} is neither "maml" nor "torch"')

    def module(self, family: TaskFamily) -> nn.Module:
        """See `Model.module`."""
        widths = [prod(family.input_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        layers.append(nn.Linear(widths[-1], family.outputs))
        if self.init == "maml":
            for layer in layers:
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
                    nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)
