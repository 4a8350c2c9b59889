"""Problems in half precision: under autocast, and throughout."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from estimators import BilevelProblem, Params, create, trainable
from estimators.base.module_loss import Batch, Criterion
from tests.support.modules import SPECS, conv_net, images, mlp, problem_of, regression
from tests.support.oracle import flatten, relative_error

PRODUCTS = {"mm", "addmm", "bmm", "convolution", "convolution_backward"}
TOLERANCE = {"mlp": 0.05, "conv": 0.1}


class ProductTypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note in which types matrix products and convolutions are computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            tensors = (arg for arg in tree_iter(args) if isinstance(arg, Tensor))
            self.seen |= {tensor.dtype for tensor in tensors}
        return func(*args, **(kwargs or {}))


MIXED = ["maml", "maml(checkpoint='sqrt')", *SPECS[1:]]


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    inputs, targets = batch
    return inputs.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets


def net_in_precision(net: str, dtype: torch.dtype) -> tuple[BilevelProblem, Params]:
    module = {"mlp": mlp, "conv": conv_net}[net]().to(dtype)
    batch = {"mlp": regression, "conv": images}[net]
    criterion: Criterion = functional.mse_loss if net == "mlp" else functional.cross_entropy
    support, query = (in_precision(batch(seed), dtype) for seed in (1, 2))
    return problem_of(module, criterion, support, query), trainable(module)


@pytest.mark.parametrize("spec", MIXED)
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_autocast_computes_products_in_bfloat16_and_the_rest_in_float32(
    spec: str, net: str
) -> None:
    problem, params = net_in_precision(net, torch.float32)
    expected = create(spec)(problem, params)
    with torch.autocast("cpu", torch.bfloat16), ProductTypes() as products:
        result = create(spec)(problem, params)
    # On the CPU autocast knows conv2d, but not the convolution that vmap makes of it.
    missed = {torch.float32} if "vmap" in spec and net == "conv" else set()
    assert products.seen == {torch.bfloat16} | missed
    for name, value in params.items():
        assert result.gradient[name].dtype == result.adapted[name].dtype == torch.float32
        assert value.dtype == torch.float32
    error = relative_error(result.gradient, flatten(expected.gradient))
    assert 0 < error < TOLERANCE[net]
    assert result.outer_loss.dtype == torch.float32
    assert float(result.outer_loss) == pytest.approx(float(expected.outer_loss), rel=0.05)
    again = create(spec)(problem, params)  # where autocast has ended
    assert torch.equal(flatten(again.gradient), flatten(expected.gradient))


@pytest.mark.parametrize("spec", MIXED)
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_parameters_may_be_bfloat16_throughout(spec: str, net: str) -> None:
    expected = create(spec)(*net_in_precision(net, torch.float32))
    problem, params = net_in_precision(net, torch.bfloat16)
    with ProductTypes() as products:
        result = create(spec)(problem, params)
    assert products.seen == {torch.bfloat16}
    tensors = [*result.gradient.values(), *result.adapted.values(), result.outer_loss]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    gradient = {name: value.float() for name, value in result.gradient.items()}
    assert relative_error(gradient, flatten(expected.gradient)) < TOLERANCE[net]
