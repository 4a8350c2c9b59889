"""Operations of multilayer perceptrons and convolutions, against counts by hand."""

from functools import partial
from itertools import pairwise

import torch
from torch.nn import functional

from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes.flops import count_flops
from tests.support.probe_works import SINUSOID, work_of


def mlp_flops(samples: int, widths: list[int]) -> tuple[int, int, int]:
    """Forward, gradient, and the backward of that gradient, of a multilayer perceptron by hand.

    A layer's product costs m = 2 n in out. The gradient takes one more for the weights and one
    for the inputs (not of the first layer). Backward through it, each product in which both
    factors depend on the parameters costs two more, one of the input x one more.
    """
    products = [2 * samples * a * b for a, b in pairwise(widths)]
    forward, rest = sum(products), sum(products[1:])
    return forward, forward + forward + rest, 2 * products[0] + 6 * rest


def test_flops_of_an_mlp() -> None:
    cell = Cell.of(estimator="maml", depth=5, **SINUSOID)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    forward, gradient, _ = mlp_flops(10, [1, 40, 40, 1])
    assert (forward, gradient) == (33_600, 100_000)
    assert count_flops(lambda: problem.inner_loss(params)) == forward
    point = leaves(params)
    assert count_flops(lambda: value_and_gradient(problem.inner_loss, point)) == gradient


def test_flops_of_exact_estimators_on_an_mlp() -> None:
    _, gradient, backward = mlp_flops(10, [1, 40, 40, 1])
    assert backward == 198_400
    unrolled = 5 * (gradient + backward) + gradient
    assert count_flops(work_of("maml", 5, SINUSOID)) == unrolled == 1_592_000
    assert count_flops(work_of("adjoint", 5, SINUSOID)) == unrolled + 5 * gradient
    assert count_flops(work_of("fomaml", 5, SINUSOID)) == 6 * gradient
    assert count_flops(work_of("reptile", 5, SINUSOID)) == 5 * gradient + 33_600


def test_flops_of_a_convolution() -> None:
    images, kernel = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    work = partial(functional.conv2d, images, kernel, padding=1)
    assert count_flops(work) == 2 * 2 * 5 * 8 * 8 * 3 * 9
    smaller = partial(functional.conv2d, images, kernel)
    assert count_flops(smaller) == 2 * 2 * 5 * 6 * 6 * 3 * 9
