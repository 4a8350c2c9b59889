"""The interface of models."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from estimators.base.errors import OptionError
from estimators.base.registry import Registry
from harness.tasks import TaskFamily


class Model(ABC):
    """Build a module for a task family; subclasses are frozen dataclasses."""

    def unsupported_reason(self, family: TaskFamily) -> str | None:
        """Return why the model does not work on a family's inputs; None where it does.

        Args:
            family: gives the shape of inputs.
        """
        del family
        return None

    @abstractmethod
    def module(self, family: TaskFamily) -> nn.Module:
        """Build the module; its parameters come from torch's global generator.

        Batch normalisation must not keep running statistics: an estimator may call the module
        any number of times.

        Args:
            family: gives the input shape and the number of outputs.
        """

    def build(self, family: TaskFamily, seed: int) -> nn.Module:
        """Build the module that belongs to a seed.

        Args:
            family: gives the input shape and the number of outputs.
            seed: of the initial parameters.

        Returns:
            A float32 module on the CPU; torch's global generator is left as it was.

        Raises:
            OptionError: the model does not fit the family.
        """
        reason = self.unsupported_reason(family)
        if reason:
            raise OptionError(reason)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(seed)
                return self.module(family)
        finally:
            torch.set_default_dtype(usual)


MODELS: Registry[Model] = Registry("model", "metagrad.models")
