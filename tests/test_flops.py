"""FLOPs against counts by hand: two for each multiplication of a product or a convolution."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, grad
from torch.func import grad as gradient_of
from torch.func import jvp, vjp, vmap
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes.flops import count_flops
from tests.support.probe_works import SINUSOID, work_of

Function = Callable[..., Tensor]
Shape = tuple[int, ...]

conv1d, conv2d, conv3d = functional.conv1d, functional.conv2d, functional.conv3d
transposed1d, transposed2d = functional.conv_transpose1d, functional.conv_transpose2d

# Function, images, kernel, and the count of the loops: images, channels out, positions out,
# channels in of a group, positions of the kernel. Transposed: images, channels in, positions in,
# channels out of a group, positions of the kernel.
CONVOLUTIONS: dict[str, tuple[Function, Shape, Shape, int]] = {
    "valid": (conv2d, (2, 4, 6, 6), (6, 4, 3, 3), 2 * 2 * 6 * 16 * 4 * 9),
    "padding": (partial(conv2d, padding=1), (2, 4, 6, 6), (6, 4, 3, 3), 2 * 2 * 6 * 36 * 4 * 9),
    "stride": (partial(conv2d, stride=2), (2, 4, 7, 5), (6, 4, 3, 3), 2 * 2 * 6 * 3 * 2 * 4 * 9),
    "dilation": (partial(conv2d, dilation=2), (2, 4, 6, 6), (6, 4, 3, 3), 2 * 2 * 6 * 4 * 4 * 9),
    "all of them": (
        partial(conv2d, stride=3, padding=2, dilation=2, bias=torch.ones(6)),
        (2, 4, 7, 7),
        (6, 4, 3, 3),
        2 * 2 * 6 * 9 * 4 * 9,
    ),
    "one image": (conv2d, (4, 6, 6), (6, 4, 3, 3), 2 * 1 * 6 * 16 * 4 * 9),
    "two groups": (partial(conv2d, groups=2), (2, 4, 6, 6), (6, 2, 3, 3), 2 * 2 * 6 * 16 * 2 * 9),
    "depthwise": (partial(conv2d, groups=4), (2, 4, 6, 6), (8, 1, 3, 3), 2 * 2 * 8 * 16 * 1 * 9),
    "transposed": (
        partial(transposed2d, stride=2, padding=1),
        (2, 4, 6, 6),
        (4, 5, 3, 3),
        2 * 2 * 4 * 36 * 5 * 9,
    ),
    "transposed in groups": (
        partial(transposed2d, stride=2, groups=2),
        (2, 4, 6, 6),
        (4, 3, 3, 3),
        2 * 2 * 4 * 36 * 3 * 9,
    ),
    "1d": (partial(conv1d, stride=2), (2, 4, 11), (6, 4, 3), 2 * 2 * 6 * 5 * 4 * 3),
    "1d transposed": (transposed1d, (2, 4, 10), (4, 6, 3), 2 * 2 * 4 * 10 * 6 * 3),
    "3d": (conv3d, (1, 2, 4, 4, 4), (3, 2, 3, 3, 3), 2 * 1 * 3 * 8 * 2 * 27),
}


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, requires_grad=True)


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    made: Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return made


def counted(function: Callable[..., object], *inputs: Any) -> int:
    return count_flops(lambda: function(*inputs))


def gradient_by(function: Function, *inputs: Tensor) -> object:
    return grad(function(), inputs)


def squared(function: Function, *inputs: Tensor) -> Tensor:
    return function(*inputs).square().sum()


def test_convolutions_their_gradients_and_the_gradients_of_these() -> None:
    """Each multiplication has one factor of the image and one of the kernel.

    The gradient by either multiplies the other one, once; by either factor of both, four times.
    """
    for name, (function, image, kernel, count) in CONVOLUTIONS.items():
        images, weights = ones(*image), ones(*kernel)
        constant = images.detach(), weights.detach()
        by_images = partial(squared, function, images, constant[1])
        by_weights = partial(squared, function, constant[0], weights)
        by_both = partial(squared, function, images, weights)
        counts = (
            counted(function, *constant),
            counted(gradient_by, by_images, images),
            counted(gradient_by, by_weights, weights),
            counted(gradient_by, by_both, images, weights),
            counted(gradient_and_its_gradient, function, image, kernel),
        )
        assert counts == (count, 2 * count, 2 * count, 3 * count, 7 * count), name


def gradient_and_its_gradient(function: Function, image: Shape, kernel: Shape) -> None:
    images, weights = ones(*image), ones(*kernel)
    output = function(images, weights)
    sent = torch.ones_like(output, requires_grad=True)
    first = grad(output, (images, weights), sent, create_graph=True)
    grad(first[0].sum() + first[1].sum(), (images, weights, sent))


def test_double_backward_counts_what_torch_computes_and_cuts_off() -> None:
    # Stride 2 leaves out the last row and column of the 8 x 8 that padding makes of the images.
    # Of seven convolutions one, of the images' direction with `sent`, comes out as a kernel of
    # 4 x 4 that torch cuts to 3 x 3.
    function = partial(conv2d, stride=2, padding=1)
    work = partial(gradient_and_its_gradient, function, (2, 4, 6, 6), (6, 4, 3, 3))
    assert count_flops(work) == 6 * (2 * 2 * 6 * 9 * 4 * 9) + 2 * (6 * 4 * 16) * (2 * 9)


def forward_over_reverse(function: Function, *inputs: Tensor) -> object:
    return jvp(gradient_of(function, tuple(range(len(inputs)))), inputs, inputs)


def reverse_over_reverse(function: Function, *inputs: Tensor) -> object:
    every = tuple(range(len(inputs)))

    def along(*point: Tensor) -> Tensor:
        gradient: tuple[Tensor, ...] = gradient_of(function, every)(*point)
        return torch.stack([part.sum() for part in gradient]).sum()

    return gradient_of(along, every)(*inputs)


def gradient(function: Function, *inputs: Tensor) -> object:
    return gradient_of(function, tuple(range(len(inputs))))(*inputs)


def value(function: Function, *inputs: Tensor) -> object:
    return function(*inputs)


def test_vmap_over_a_convolution() -> None:
    # Forward 1, gradients 2. A product rule makes two of each of the 3, forward or backward.
    products = {value: 1, gradient: 3, forward_over_reverse: 9, reverse_over_reverse: 9}
    names = ("valid", "stride", "two groups", "depthwise", "transposed", "transposed in groups")
    dims: list[tuple[int | None, ...]] = [(0, 0), (None, 0), (0, None)]
    for name, transform, in_dims in product(names, products, dims):
        function, image, kernel, count = CONVOLUTIONS[name]
        one = partial(transform, partial(squared, function))
        inputs = torch.ones(image), torch.ones(kernel)
        batched = [
            part if dim is None else torch.stack([part] * 3)
            for part, dim in zip(inputs, in_dims, strict=True)
        ]
        counts = counted(one, *inputs), counted(vmap(one, in_dims), *batched)
        expected = products[transform] * count
        assert counts == (expected, 3 * expected), (name, transform, in_dims)


def test_vmap_over_a_linear_layer() -> None:
    rows, weights, biases = torch.ones(5, 4), torch.ones(7, 3, 4), torch.ones(7, 3)
    layer = partial(functional.linear, rows)
    assert count_flops(lambda: layer(weights[0], biases[0])) == 2 * 5 * 4 * 3
    assert count_flops(lambda: vmap(layer)(weights, biases)) == 7 * 2 * 5 * 4 * 3
    slope = gradient_of(partial(squared, layer))
    assert count_flops(lambda: slope(weights[0])) == 2 * (2 * 5 * 4 * 3)
    assert count_flops(lambda: vmap(slope)(weights)) == 7 * 2 * (2 * 5 * 4 * 3)
    single = vmap(lambda row: functional.linear(row, weights[0], biases[0]))
    assert count_flops(lambda: single(rows)) == 2 * 5 * 4 * 3
    pairs = vmap(functional.linear)  # a vector for each matrix
    assert count_flops(lambda: pairs(torch.ones(7, 4), weights)) == 7 * 2 * 4 * 3


def test_forward_and_backward_directions() -> None:
    rows, weights = torch.ones(5, 4), torch.ones(3, 4)
    count = 2 * 5 * 4 * 3
    both = (rows, weights)
    assert count_flops(lambda: jvp(functional.linear, both, both)) == 3 * count
    assert count_flops(lambda: vjp(functional.linear, *both)) == count
    assert count_flops(lambda: vjp(functional.linear, *both)[1](torch.ones(5, 3))) == 3 * count

    def forward_mode() -> None:
        with forward_ad.dual_level():
            functional.linear(*(dual(one, one) for one in both))

    assert count_flops(forward_mode) == 3 * count


def two_layers(first: Tensor, second: Tensor) -> Tensor:
    rows = torch.ones(10, 3)
    return torch.tanh(rows @ first.t()) @ second.t()


# Ten samples, 3 inputs, 5 hidden, 2 outputs.
FIRST, SECOND = 2 * 10 * 3 * 5, 2 * 10 * 5 * 2


def test_gradient_and_hvp_of_an_mlp() -> None:
    weights = torch.ones(5, 3), torch.ones(2, 5)
    tasks = [torch.stack([part] * 4) for part in weights]
    for transform, count in {
        value: FIRST + SECOND,
        # By the weights, and of the second layer by its inputs too.
        gradient: 2 * FIRST + 3 * SECOND,
        # The gradient's gradient: of the first layer, x W and x' d each send one back to what
        # depends on the weights; of the second, h W, h' d and d W' send two.
        reverse_over_reverse: (2 + 2) * FIRST + (3 + 6) * SECOND,
        # Each of the gradient's products has a tangent by either factor; that of the data is
        # zero, yet torch multiplies with it.
        forward_over_reverse: 3 * (2 * FIRST + 3 * SECOND),
    }.items():
        one = partial(transform, partial(squared, two_layers))
        assert (counted(one, *weights), counted(vmap(one), *tasks)) == (count, 4 * count), transform


def test_hvp_of_an_mlp_by_autograd() -> None:
    weights = ones(5, 3), ones(2, 5)
    tangents = [torch.ones_like(part) for part in weights]

    def backward_twice() -> None:
        first = grad(squared(two_layers, *weights), weights, create_graph=True)
        grad(first, weights, tangents)

    def forward_of_backward() -> None:
        with forward_ad.dual_level():
            pairs = [dual(*pair) for pair in zip(weights, tangents, strict=True)]
            grad(squared(two_layers, *pairs), pairs)

    assert count_flops(backward_twice) == 4 * FIRST + 9 * SECOND
    assert count_flops(forward_of_backward) == 3 * (2 * FIRST + 3 * SECOND)


def test_products() -> None:
    cases: list[tuple[Function, list[Shape], int]] = [
        (torch.mm, [(5, 4), (4, 3)], 2 * 5 * 4 * 3),
        (torch.addmm, [(5, 3), (5, 4), (4, 3)], 2 * 5 * 4 * 3),
        (Tensor.addmm_, [(5, 3), (5, 4), (4, 3)], 2 * 5 * 4 * 3),
        (torch.bmm, [(2, 5, 4), (2, 4, 3)], 2 * 2 * 5 * 4 * 3),
        (torch.baddbmm, [(2, 5, 3), (2, 5, 4), (2, 4, 3)], 2 * 2 * 5 * 4 * 3),
        (Tensor.baddbmm_, [(2, 5, 3), (2, 5, 4), (2, 4, 3)], 2 * 2 * 5 * 4 * 3),
        (torch.addbmm, [(5, 3), (2, 5, 4), (2, 4, 3)], 2 * 2 * 5 * 4 * 3),
        (Tensor.addbmm_, [(5, 3), (2, 5, 4), (2, 4, 3)], 2 * 2 * 5 * 4 * 3),
        (torch.mv, [(5, 4), (4,)], 2 * 5 * 4),
        (torch.addmv, [(5,), (5, 4), (4,)], 2 * 5 * 4),
        (Tensor.addmv_, [(5,), (5, 4), (4,)], 2 * 5 * 4),
        (torch.dot, [(7,), (7,)], 2 * 7),
        (torch.vdot, [(7,), (7,)], 2 * 7),
        (torch.inner, [(7,), (7,)], 2 * 7),
        (torch.linalg.vecdot, [(7,), (7,)], 2 * 7),
        (torch.matmul, [(7,), (7,)], 2 * 7),
        (torch.matmul, [(2, 5, 4), (4,)], 2 * 2 * 5 * 4),
        (torch.matmul, [(4,), (2, 4, 5)], 2 * 2 * 4 * 5),
        (partial(torch.einsum, "bi,ij,bj->b"), [(7, 3), (3, 4), (7, 4)], 2 * 7 * 3 * 4 + 2 * 7 * 4),
        (torch.outer, [(5,), (4,)], 0),
        (torch.mul, [(5, 4), (5, 4)], 0),
    ]
    for function, shapes, count in cases:
        factors = [torch.ones(shape) for shape in shapes]
        assert counted(function, *factors) == count, function
        with torch.inference_mode():
            assert counted(function, *(factor.clone() for factor in factors)) == count, function


def test_products_with_vectors_under_transforms() -> None:
    matrix, vector = ones(5, 4), ones(4)
    output = matrix @ vector
    # By the matrix it is an outer product.
    assert count_flops(lambda: grad(output.sum(), (matrix, vector))) == 2 * 5 * 4
    both = vector.detach(), vector.detach()
    assert count_flops(lambda: jvp(torch.dot, both, both)) == 3 * 2 * 4
    assert count_flops(lambda: vmap(torch.dot)(torch.ones(6, 4), torch.ones(6, 4))) == 6 * 2 * 4
    over_matrices = vmap(torch.mv, (0, None))
    assert count_flops(lambda: over_matrices(torch.ones(3, 5, 4), both[0])) == 3 * 2 * 5 * 4
    over_vectors = vmap(torch.mv, (None, 0))
    assert count_flops(lambda: over_vectors(matrix.detach(), torch.ones(3, 4))) == 3 * 2 * 5 * 4


def mlp_flops(samples: int, widths: list[int]) -> tuple[int, int, int]:
    """Forward, gradient, and the backward of that gradient, of a multilayer perceptron by hand.

    A layer's product costs m = 2 n in out. The gradient takes one more for the weights and one
    for the inputs (not of the first layer). Backward through it, each product in which both
    factors depend on the parameters costs two more, one of the input x one more.
    """
    products = [2 * samples * a * b for a, b in pairwise(widths)]
    forward, rest = sum(products), sum(products[1:])
    return forward, forward + forward + rest, 2 * products[0] + 6 * rest


def test_flops_of_estimators_on_an_mlp() -> None:
    forward, gradient, backward = mlp_flops(10, [1, 40, 40, 1])
    assert (forward, gradient, backward) == (33_600, 100_000, 198_400)
    cell = Cell.of(estimator="maml", depth=5, **SINUSOID)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    assert count_flops(lambda: problem.inner_loss(params)) == forward
    point = leaves(params)
    assert count_flops(lambda: value_and_gradient(problem.inner_loss, point)) == gradient
    unrolled = 5 * (gradient + backward) + gradient
    assert count_flops(work_of("maml", 5, SINUSOID)) == unrolled == 1_592_000
    assert count_flops(work_of("adjoint", 5, SINUSOID)) == unrolled + 5 * gradient
    assert count_flops(work_of("fomaml", 5, SINUSOID)) == 6 * gradient
    assert count_flops(work_of("reptile", 5, SINUSOID)) == 5 * gradient + 33_600


class Queries(nn.Module):
    """Learned queries, and a class token that is expanded, go through layers as inputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.ones(5, 4))
        self.token = nn.Parameter(torch.ones(1, 4))
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = torch.cat([self.token.expand(len(inputs), 4), inputs])
        scores: Tensor = self.layer(self.queries) @ self.layer(rows).T
        return scores


def test_modules_that_are_given_parameters() -> None:
    def gradient_of_all(module: nn.Module, inputs: Tensor) -> int:
        parameters = list(module.parameters())
        return count_flops(lambda: grad(module(inputs).sum(), parameters))

    # 5 queries, 2 tokens and 2 inputs of width 4; a product of [5, 3] and [3, 4]; each has a
    # gradient by either factor.
    products = 2 * 5 * 4 * 3 + 2 * 4 * 4 * 3 + 2 * 5 * 3 * 4
    assert gradient_of_all(Queries(), torch.ones(2, 4)) == 3 * products
    plain = 2 * 6 * 4 * 4
    for parametrization in (weight_norm, spectral_norm, orthogonal):
        module = nn.Sequential(nn.Linear(4, 4), parametrization(nn.Linear(4, 4)))
        assert gradient_of_all(module, torch.ones(6, 4)) >= 2 * plain + 3 * plain, parametrization


def test_fused_layers_count_as_their_products() -> None:
    inputs, gates = torch.ones(7, 6, 3), 2 * 7 * 6 * 4 * 5 * (3 + 5)
    lstm = nn.LSTM(3, 5)
    assert counted(lstm, inputs) == counted(lstm.double(), inputs.double()) == gates
    by_all = partial(grad, lstm.float()(inputs)[0].sum(), [*lstm.parameters()])
    assert count_flops(by_all) == 2 * gates

    heads = ones(2, 3, 7, 4)
    attention = functional.scaled_dot_product_attention
    product_of_two = 2 * (2 * 3) * 7 * 4 * 7
    assert counted(attention, heads, heads, heads) == 2 * product_of_two
    attended = attention(heads, heads, heads).sum()
    assert count_flops(lambda: grad(attended, heads)) == 5 * product_of_two  # one done again
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    rows = torch.ones(2, 7, 8)
    slow = counted(layer, rows)
    with torch.no_grad():
        assert counted(layer, rows) == slow > 2 * 2 * 7 * (4 * 8 * 8 + 2 * 8 * 16)
