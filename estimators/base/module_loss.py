"""The loss of an `nn.Module` on a batch, as a function of its parameters."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from estimators.base.agreement import kind_of
from estimators.base.module_state import ModuleState, Seen, seen_of, state_of
from estimators.base.references import references, version
from estimators.base.tree import Params, detached

Batch = tuple[Tensor, Tensor]
Criterion = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class ModuleLoss:
    """Loss of a module on one batch, as a function of its parameters.

    The module has these parameters while it and the criterion run.

    Attributes:
        module: its own parameters stand in for those that a call is not given: the frozen ones.
        state: of the module.
        criterion: maps the module's outputs and the targets to a scalar tensor.
        batch: inputs and targets.
        buffers: by name, in place of the module's.
        wants_params: whether the criterion is given the parameters too, by the name `params`.
        seen: what the module was when the problem was made; None where the problem is not to be
            checked.
        kind: of the criterion, see `kind_of`.
        refers_to: what the criterion referred to when the problem was made.
        versions: of the batch's tensors when the problem was made.
    """

    module: nn.Module
    state: ModuleState
    criterion: Criterion
    batch: Batch
    buffers: Params
    wants_params: bool = False
    seen: Seen | None = None
    kind: Hashable = None
    refers_to: Sequence[tuple[object, object]] = ()
    versions: Sequence[object] = ()

    @classmethod
    def of(
        cls,
        module: nn.Module,
        criterion: Criterion,
        batch: Batch,
        buffers: Params | None,
        wants_params: bool,
        check: bool,
    ) -> Self:
        """Make the loss of a module as it is now; with copies of its buffers, if none are given."""
        seen = seen_of(module) if check else None
        state = seen.state if seen else state_of(module)
        if buffers is None:
            buffers = state.buffers(shared=check)
        parts = module, state, criterion, batch, buffers, wants_params, seen
        return cls(*parts, kind_of(criterion), references(criterion), versions(batch))

    def on(self, batch: Batch) -> Self:
        """Return the same loss on another batch."""
        return replace(self, batch=batch, versions=versions(batch))

    def __deepcopy__(self, _: object) -> Self:
        """Stay the loss of the same module, which the criterion may know."""
        return self

    @property
    def made_of(self) -> tuple[nn.Module, Criterion, Batch, Params, bool]:
        """All that the loss depends on."""
        return self.module, self.criterion, self.batch, self.buffers, self.wants_params

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what the loss is made of."""
        return type(self).of, (*self.made_of, self.seen is not None)

    def __call__(self, params: Params) -> Tensor:
        """Return the scalar loss at `params`."""
        return self.outputs_and_loss(params)[1]

    def outputs(self, params: Params) -> Any:
        """Return the module's outputs at `params`."""
        with self.state.filled(self.buffers | params if self.buffers else params):
            return self.module(self.batch[0])

    def outputs_and_loss(self, params: Params) -> tuple[Any, Tensor]:
        """Return the module's outputs and the scalar loss at `params`."""
        inputs, targets = self.batch
        with self.state.filled(self.buffers | params if self.buffers else params):
            outputs = self.module(inputs)
            if self.wants_params:
                return outputs, self.criterion(outputs, targets, params=params)
            return outputs, self.criterion(outputs, targets)


def versions(batch: Batch) -> list[object]:
    """Return the versions of a batch's tensors, which every write counts up."""
    if all(isinstance(part, Tensor) for part in batch):
        return [version(part) for part in batch]
    return [version(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def trainable(module: nn.Module) -> Params:
    """Return the parameters of a module that require a gradient, by name, detached.

    Raises:
        OptionError: the module is compiled, or a parameter has no shape yet.
    """
    return detached({n: p for n, p in state_of(module).parameters.items() if p.requires_grad})
