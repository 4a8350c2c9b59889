"""Convolutional networks of four layers."""

from dataclasses import dataclass

from torch import nn

from harness.models.model import MODELS, Model
from harness.tasks import TaskFamily


@MODELS.register("conv4-16", filters=16)
@MODELS.register("conv4-32", filters=32)
@MODELS.register("conv4-64", filters=64)
@dataclass(frozen=True)
class Conv4(Model):
    """Four times 3x3 convolution, batch normalisation, ReLU, 2x2 max-pooling; then linear.

    Batch normalisation is transductive: it uses statistics of the current batch only.

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

    def unsupported_reason(self, family: TaskFamily) -> str | None:
        """See `Model.unsupported_reason`."""
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
