"""Operator launches against counts by hand and against torch's profiler."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from harness.probes.flops import count_flops
from harness.probes.launches import count_launches
from tests.support.probe_works import SINUSOID, work_of

X, FIRST, SECOND = torch.ones(10, 3), torch.ones(5, 3), torch.ones(2, 5)
STACK = torch.ones(2, 4, 3)


def loss(first: Tensor, second: Tensor) -> Tensor:
    """mm, tanh, mm, mul, sum; and two transpositions, which are views."""
    outputs = torch.tanh(X @ first.t()) @ second.t()
    return (outputs * outputs).sum()


def leaves() -> list[Tensor]:
    return [part.clone().requires_grad_() for part in (FIRST, SECOND)]


FORWARD = 5
# ones (the gradient of the loss); its expansion is a view. mul backward: a mul for each factor and
# an add of the two. Second mm: one by each factor. tanh_backward. First mm: by the weights alone.
BACKWARD = 1 + 3 + 2 + 1 + 1


def test_forward_and_gradient_of_an_mlp() -> None:
    point = leaves()
    assert count_launches(lambda: loss(FIRST, SECOND)) == FORWARD
    assert count_launches(lambda: grad(loss(*point), point)) == FORWARD + BACKWARD


def test_double_backward_of_an_mlp() -> None:
    x = torch.ones(4, requires_grad=True)

    def slope() -> Tensor:
        (gradient,) = grad((x * x).sum(), x, create_graph=True)
        return gradient

    # mul, sum; ones, a mul for each factor, their sum.
    assert count_launches(slope) == 2 + 1 + 2 + 1
    # Each of the two products of `slope` sends one back to x, and one to the ones that need none:
    # mul and add; `sum` sends ones.
    gradient = slope()
    assert count_launches(lambda: grad(gradient, x, torch.ones(4))) == 1 + 2 + 1


def test_vmap_launches_once_for_all_tasks() -> None:
    gradient = torch.func.grad(loss, (0, 1))
    assert count_launches(lambda: gradient(FIRST, SECOND)) == FORWARD + BACKWARD
    counts = set()
    for tasks in (1, 2, 9):
        stacks = [part.expand(tasks, *part.shape).clone() for part in (FIRST, SECOND)]
        counts.add(count_launches(partial(torch.vmap(gradient), *stacks)))
    assert len(counts) == 1
    forward = torch.vmap(torch.mul)
    assert count_launches(lambda: forward(torch.ones(7, 4), torch.ones(7, 4))) == 1 + 2


def test_which_operators_count() -> None:
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: torch.empty(3), 0),
        (lambda: torch.empty_like(X), 0),
        (lambda: X.new_empty(2, 2), 0),
        (lambda: torch.zeros(3), 1),
        (lambda: torch.ones_like(X), 1),
        (lambda: torch.empty(3).fill_(1), 1),
        (lambda: torch.empty(3).copy_(torch.empty(3)), 1),
        (lambda: X.t()[1:].unsqueeze(0).expand(4, 2, 10).view_as(X.t()[1:].expand(4, 2, 10)), 0),
        (lambda: X.reshape(30), 0),
        (lambda: X.t().reshape(30), 1),  # has to copy
        (lambda: X.contiguous(), 0),
        (lambda: X.t().contiguous(), 1),
        (lambda: X.detach().unbind(), 0),
        (lambda: X.to(torch.float32), 0),
        (lambda: X.to(torch.float64), 1),
        (lambda: torch.empty(3).resize_(100).squeeze_(), 0),
        (lambda: (X.is_same_size(FIRST), X.shape, X.sum().item()), 1),  # the sum
        # Ends in `_unsafe_view`, which says of itself that it is no view.
        (lambda: STACK @ torch.ones(3, 4), 2),
        (lambda: torch.add(X, 1, out=torch.empty(0)), 1),
        (lambda: torch._foreach_add([X, X], 1), 1),
        (lambda: functional.linear(X, FIRST, torch.ones(5)), 2),  # addmm, and the ones
        (lambda: torch.matmul(STACK, torch.ones(3)), 2),
        (lambda: torch.tensor([1.0, 2.0]), 0),
        (lambda: count_flops(lambda: torch.tanh(X @ FIRST.t())), 2),  # both at once
    ]
    for number, (work, count) in enumerate(cases):
        assert count_launches(work) == count, number
        with torch.inference_mode():
            assert count_launches(work) == count, number


@cache
def composite(name: str) -> bool:
    """Whether an operator is one that torch takes apart before it dispatches."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    return packet is not None and any(taken_apart(name, each) for each in packet.overloads())


def taken_apart(name: str, overload: str) -> bool:
    full = name if overload == "default" else f"{name}.{overload}"
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(full, "CompositeImplicitAutograd")
    except RuntimeError:  # one that TorchScript alone knows
        return False


NO_WORK = {"detach", "t", "view", "expand", "transpose", "unsqueeze", "select", "slice", "empty"}
NO_WORK |= {"as_strided", "permute", "alias", "empty_like", "empty_strided", "squeeze", "unbind"}


def profiled_launches(work: Callable[[], object]) -> int:
    """Operators of the profile that are in no other one, composites aside, and are no views."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    count = 0
    for event in profiler.events():
        if not event.name.startswith("aten::") or composite(event.name):
            continue
        parent = event.cpu_parent
        while parent and (not parent.name.startswith("aten::") or composite(parent.name)):
            parent = parent.cpu_parent
        count += parent is None and event.name.removeprefix("aten::") not in NO_WORK
    return count


def test_launches_are_those_of_the_profiler() -> None:
    for estimator, setting in (
        ("fomaml", SINUSOID),
        ("maml", SINUSOID),
        ("adjoint", SINUSOID),
        ("maml", {"task": "glyphs:5way-1shot", "model": "conv4-16"}),
    ):
        work = work_of(estimator, 2, setting)
        work()
        launches = profiled_launches(work)
        assert launches > 50
        assert {count_launches(work) for _ in range(3)} == {launches}, (estimator, setting)
