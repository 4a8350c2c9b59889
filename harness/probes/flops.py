"""Floating-point operations."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from harness.matrix.metrics import Samples
from harness.probes.operators import watch_operators
from harness.probes.target import Target


def flops(target: Target) -> Samples:
    """Count the operations of one estimate; those of the eager one where it is compiled."""
    return {"flops": [target.eager_estimates.mean(count_flops)]}


def count_flops(work: Callable[[], object]) -> int:
    """Return the operations of matrix and dot products and convolutions that `work` runs.

    A multiplication and the addition that follows are two; a convolution multiplies its padding
    too. Elementwise work is not counted.

    Example:
        >>> import torch
        >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
        48
    """
    count = 0

    def seen(func: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal count
        formula = _FORMULAS.get(func.overloadpacket) or flop_registry.get(func.overloadpacket)
        if formula:
            count += formula(*args, **kwargs, out_val=result)

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # transformer layers would be one operator
    try:
        watch_operators(work, seen)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return count


# Formulas are given shapes in place of tensors. torch has those of the other products.

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


def _mkldnn_rnn(
    inputs: _Shape, from_input: _Shape, from_hidden: _Shape, *_: object, **__: object
) -> int:
    return 2 * prod(inputs[:-1]) * (prod(from_input) + prod(from_hidden))


def _cudnn_rnn(inputs: _Shape, weights: Sequence[_Shape], *_: object, **__: object) -> int:
    matrices = (weight for weight in weights if len(weight) == 2)
    return 2 * prod(inputs[:-1]) * sum(map(prod, matrices))


def _twice(formula: Callable[..., int]) -> Callable[..., int]:
    """Return the formula of a backward pass: a product for inputs and one for weights."""
    return lambda *shapes, **_: 2 * formula(*shapes)


_aten = torch.ops.aten
_OF_SHAPES: dict[object, Callable[..., int]] = {
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
    _aten.mkldnn_rnn_layer: _mkldnn_rnn,
    _aten.mkldnn_rnn_layer_backward: _twice(_mkldnn_rnn),
    _aten._cudnn_rnn: _cudnn_rnn,
    _aten._cudnn_rnn_backward: _twice(_cudnn_rnn),
}
_FORMULAS: dict[object, Callable[..., int]] = {
    **{name: shape_wrapper(formula) for name, formula in _OF_SHAPES.items()},  # type: ignore
    # On a CPU the same kernels have other names, which torch's table lacks.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
