"""Models by size; parameters are drawn from a seed, alike for every dtype and device."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import nn

from estimators.errors import OptionError
from estimators.registry import Registry
from harness.tasks import TaskFamily


class Model(ABC):
    """Builds a module for a task family; subclasses are frozen dataclasses."""

    def misfit(self, family: TaskFamily) -> str | None:
        """Tells why the model cannot work on a family's inputs; None when it can."""
        del family
        return None

    @abstractmethod
    def module(self, family: TaskFamily) -> nn.Module:
        """Builds the module; its parameters come from torch's global generator.

        Batch normalisation must not keep running statistics: an estimator may call the module
        any number of times.
        """

    def build(self, family: TaskFamily, seed: int) -> nn.Module:
        """Builds the module that belongs to a seed.

        Args:
            family: gives the input shape and the number of outputs.
            seed: of the initial parameters.

        Returns:
            A float32 module on the CPU; torch's global generator is left as it was.

        Raises:
            OptionError: the model does not fit the family.
        """
        reason = self.misfit(family)
        if reason:
            raise OptionError(reason)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.module(family)


MODELS: Registry[Model] = Registry("model", "metagrad.models")


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


@MODELS.register("conv4-16", filters=16)
@MODELS.register("conv4-32", filters=32)
@MODELS.register("conv4-64", filters=64)
@dataclass(frozen=True)
class Conv4(Model):
    """Four times 3x3 convolution, batch normalisation, ReLU, 2x2 max-pooling; then linear.

    Batch normalisation is transductive: statistics of the batch at hand, none kept.

    Attributes:
        filters: channels of each convolution.

    Source: Vinyals et al., "Matching Networks", NeurIPS 2016; as used by MAML.

    Example:
        >>> from harness.tasks import TASKS
        >>> model = MODELS.create("conv4-32").build(TASKS.create("glyphs:5way-1shot"), seed=0)
        >>> sum(p.numel() for p in model.parameters())
        28485
    """

    filters: int

    def misfit(self, family: TaskFamily) -> str | None:
        """See `Model.misfit`."""
        shape = family.input_shape
        if len(shape) != 3 or min(shape[1:]) < 16:
            return f"conv4 needs images of at least 16x16 pixels, not inputs of shape {shape}"
        return None

    def module(self, family: TaskFamily) -> nn.Module:
        """See `Model.module`."""
        channels, height, width = family.input_shape
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [
                nn.Conv2d(channels, self.filters, kernel_size=3, padding=1),
                nn.BatchNorm2d(self.filters, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = self.filters
        features = self.filters * (height // 16) * (width // 16)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, family.outputs))


@MODELS.register("linear")
@dataclass(frozen=True)
class Linear(Model):
    """One weight matrix without bias: the parameters of the `quadratic` task.

    Example:
        >>> from harness.tasks import TASKS
        >>> list(MODELS.create("linear").build(TASKS.create("quadratic"), 0).state_dict())
        ['1.weight']
    """

    def module(self, family: TaskFamily) -> nn.Module:
        """See `Model.module`."""
        inputs = prod(family.input_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, family.outputs, bias=False))
