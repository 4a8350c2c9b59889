"""Floating-point operations."""

from collections.abc import Callable, Sequence
from inspect import unwrap
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from harness.matrix.metrics import Samples
from harness.probes.target import Target

# Its wrapper would import torch's compiler, for a second, at the first operator.
_FlopCounterMode.__torch_dispatch__ = unwrap(_FlopCounterMode.__torch_dispatch__)  # type: ignore


def flops(target: Target) -> Samples:
    """Count the operations of one estimate; those of the eager one where it is compiled."""
    return {"flops": [count_flops(target.eager_estimate)]}


def count_flops(work: Callable[[], object]) -> int:
    """Return the operations of matrix and dot products and convolutions that `work` runs.

    A multiplication and the addition that follows are two; a convolution multiplies its padding
    too. Elementwise work is not counted.

    Example:
        >>> import torch
        >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
        48
    """
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        work()
    return int(counter.get_total_flops())


# Formulas are given shapes in place of tensors. FlopCounterMode has those of the other products.

_Shape = Sequence[int]


def _times_vector(left: _Shape, *_: object, **__: object) -> int:
    return 2 * prod(left)


def _plus_times_vector(added: _Shape, left: _Shape, *_: object, **__: object) -> int:
    return 2 * prod(left)


def _plus_times_matrix(added: _Shape, left: _Shape, right: _Shape, *_: object, **__: object) -> int:
    return 2 * prod(left) * right[-1]


def _convolution_backward(
    grad_output: _Shape,
    image: _Shape,
    weight: _Shape,
    bias: _Shape | None,
    stride: _Shape,
    padding: _Shape,
    dilation: _Shape,
    transposed: bool,
    output_padding: _Shape,
    groups: int,
    output_mask: Sequence[bool],
    **_: object,
) -> int:
    """Return as much as the convolution itself for each of the gradients by image and weight.

    FlopCounterMode counts the gradient by the weight `groups` times.
    """
    batch, _channels, *positions = image if transposed else grad_output
    return 2 * batch * prod(positions) * prod(weight) * sum(output_mask[:2])


_aten = torch.ops.aten
_FORMULAS: dict[object, Callable[..., int]] = {
    _aten.dot: _times_vector,
    _aten.vdot: _times_vector,
    _aten.mv: _times_vector,
    _aten.addmv: _plus_times_vector,
    _aten.addmv_: _plus_times_vector,
    _aten.addmm_: _plus_times_matrix,
    _aten.addbmm: _plus_times_matrix,
    _aten.addbmm_: _plus_times_matrix,
    _aten.baddbmm_: _plus_times_matrix,
    _aten.convolution_backward: _convolution_backward,
}
