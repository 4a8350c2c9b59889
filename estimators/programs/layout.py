"""Parameters as one vector, and the forms of programs on such vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Self

import torch
from torch import Tensor

from estimators.base.tree import Params


@dataclass(frozen=True)
class Layout:
    """How parameters lie in one vector.

    Attributes:
        shapes: names and shapes, in order.
    """

    shapes: tuple[tuple[str, torch.Size], ...]

    @classmethod
    def of(cls, params: Mapping[str, Tensor]) -> Self:
        """Return the layout of parameters."""
        return cls(tuple([(name, value.shape) for name, value in params.items()]))

    @cached_property
    def size(self) -> int:
        """The number of entries."""
        return sum(self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        return [prod(shape) for _, shape in self.shapes]

    @cached_property
    def _templates(self) -> list[Tensor]:
        return [torch.empty(1).expand(shape) for _, shape in self.shapes]

    def unflatten(self, vector: Tensor) -> Params:
        """Return the parameters in a vector, as views; in half the time of `split`."""
        pieces = torch._C._nn.unflatten_dense_tensors(vector, self._templates)
        return {name: piece for (name, _), piece in zip(self.shapes, pieces, strict=True)}

    def split(self, vector: Tensor) -> Params:
        """Return the parameters in a vector, as views whose derivative is one concatenation."""
        pieces = torch.split(vector, self._sizes)
        pairs = zip(self.shapes, pieces, strict=True)
        return {name: piece.view(shape) for (name, shape), piece in pairs}

    def join(self, params: Params) -> Tensor:
        """Return parameters as one new vector."""
        joined: Tensor = torch._C._nn.flatten_dense_tensors([params[n] for n, _ in self.shapes])
        return joined if len(self.shapes) > 1 else joined.clone()  # of one it is a view


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a program is, but for the losses.

    Attributes:
        name: "exact", "cascade" or "product", see `estimators.programs.modules`.
        layout: of the parameters that are adapted.
        rest: of the others, which steps leave alone; None where there are none.
        momentum: whether steps have momentum.
        sizes: whether each parameter has step sizes.
        proximal: whether steps are drawn to where they began; then there is no way back.
        mixed: whether outer gradients are added on the way back.
        levels: of a cascade.
    """

    name: str
    layout: Layout
    rest: Layout | None = None
    momentum: bool = False
    sizes: bool = False
    proximal: bool = False
    mixed: bool = False
    levels: int = 0
