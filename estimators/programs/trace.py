"""The steps of an estimate as graphs of plain operations, whatever the loss is written with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from estimators.base.attention import plain_attention, trainable_attention
from estimators.base.differentiation import Loss, evaluate
from estimators.base.errors import OptionError
from estimators.programs.layout import Form

_SMALL = 2**14  # multiplications in a matrix product


@dataclass(frozen=True)
class Traced:
    """A function as a graph.

    Attributes:
        graph: takes the function's arguments, then tensors that its loss holds.
        inputs: the places of these among the tensors of the loss's signature.
    """

    graph: fx.GraphModule
    inputs: tuple[int, ...]


def trace(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    examples: Sequence[Tensor],
    held: Sequence[Tensor],
) -> Traced:
    """Trace a function by its operations on tensors; nothing is computed.

    Args:
        function: of as many vectors or numbers as there are examples.
        examples: distinct tensors, since one that is given twice would become one input.
        held: the tensors that it may hold besides; they become inputs.

    Raises:
        OptionError: it computes with a tensor that is not among these, or decides on the values
            of tensors.
    """
    # Takes half a second, which few want to wait for.
    from torch.fx.experimental.proxy_tensor import make_fx

    def detached(*arguments: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad(), plain_attention(), trainable_attention(), _NoLists():
            result = function(*[each.detach().requires_grad_() for each in arguments])
        results = result if isinstance(result, tuple) else (result,)
        return tuple([each.detach() for each in results])

    tracer = make_fx(detached, _INSTEAD, "fake", _allow_non_fake_inputs=True)
    graph = tracer(*examples)
    return Traced(graph, _with_inputs(graph, held))


def _small_product(one: Tensor, other: Tensor) -> Any:
    """Write a matrix product out where it is small, so that it becomes part of a loop.

    A call of a library costs a microsecond or two, whatever the size; from about 25 x 64 x 64 on it
    is quicker all the same.
    """
    (m, k), n = one.shape, other.shape[1]
    if one.device.type != "cpu" or m * k * n > _SMALL:
        return NotImplemented
    if k == 1:
        return one * other
    return (one.unsqueeze(2) * other.unsqueeze(0)).sum(1)


def _small_affine(
    bias: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    if (beta, alpha) != (1, 1):
        return NotImplemented
    product = _small_product(one, other)
    return product if product is NotImplemented else bias + product


def _number(tensor: Tensor) -> Any:
    """Refuse that a number is read out of a tensor: it would be the program's for good."""
    if isinstance(tensor, FakeTensor):  # a literal, or what torch refuses itself
        return NotImplemented
    raise OptionError("the loss reads a number out of a tensor: compute with the tensor")


class _NoLists(TorchFunctionMode):
    """Refuses that numbers are read out of tensors by what is no operation of torch's."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is Tensor.tolist:
            _number(args[0])
        return func(*args, **(kwargs or {}))


_INSTEAD: dict[Any, Any] = {
    torch.ops.aten._local_scalar_dense.default: _number,
    torch.ops.aten.mm.default: _small_product,
    torch.ops.aten.addmm.default: _small_affine,
}


def _with_inputs(graph: fx.GraphModule, held: Sequence[Tensor]) -> tuple[int, ...]:
    """Make inputs of the tensors that a graph holds, and return their places."""
    places = {id(tensor): place for place, tensor in enumerate(held)}
    inputs: dict[int, fx.Node] = {}
    *_, last = graph.graph.find_nodes(op="placeholder")
    for node in graph.graph.find_nodes(op="get_attr"):
        tensor = getattr(graph, str(node.target))
        if any(user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users):
            continue  # a literal, such as torch.tensor(2.0)
        place = places.get(id(tensor))
        if place is None:
            raise OptionError(
                f"the loss computes with a tensor of shape {tuple(tensor.shape)} that is not among "
                "what it refers to: hold it in a closure, an attribute, a buffer or the data"
            )
        if place not in inputs:
            with graph.graph.inserting_after(last):
                last = inputs[place] = graph.graph.placeholder(f"held_{place}")
            inputs[place].meta = dict(node.meta)
        node.replace_all_uses_with(inputs[place])
        graph.graph.erase_node(node)
    graph.recompile()
    return tuple(inputs)


@dataclass(frozen=True)
class Descent:
    """An inner loop's step and all that is derived from it, on vectors, to be traced.

    Attributes:
        inner_loss: on all parameters.
        outer_loss: on all parameters.
        form: of the program.
        like: a tensor of the parameters' dtype and device.
    """

    inner_loss: Loss
    outer_loss: Loss
    form: Form
    like: Tensor

    def vector(self) -> Tensor:
        """Return a new vector such as a state."""
        form = self.form
        return self.like.new_zeros((1 + form.momentum) * form.layout.size)

    def number(self) -> Tensor:
        """Return a new scalar."""
        return self.like.new_zeros(())

    def constants(self) -> list[Tensor]:
        """Return new vectors such as the constants of a step."""
        layout = self.form.layout if self.form.sizes else self.form.rest
        return [self.number().repeat(layout.size)] if layout else []

    def more(self) -> list[Tensor]:
        """Return tensors such as the further arguments of a step."""
        if self.form.proximal:
            return [self.number(), self.vector()]
        return [self.number()] if self.form.momentum else []

    def traced(
        self, function: Callable[..., Any], examples: Sequence[Tensor], held: Sequence[Tensor]
    ) -> Traced:
        """Trace one of the methods below; see `trace`."""
        return trace(function, examples, held)

    def loss(self, which: Loss, state: Tensor, constants: Sequence[Tensor]) -> Tensor:
        """Return a loss at a state."""
        form = self.form
        params = form.layout.split(state[: form.layout.size] if form.momentum else state)
        if form.rest:
            params = form.rest.split(constants[0]) | params
        return evaluate(which, params)

    def step(self, state: Tensor, size: Tensor, *more: Tensor) -> Tensor:
        """Return the next state.

        Args:
            state: parameters, and with momentum their velocity.
            size: alpha; scalar.
            *more: constants (step sizes, or other parameters), the momentum (scalar), the strength
                of the proximal term (scalar) and its anchor; of these what the kind has.
        """
        rest = list(more)
        constants = [rest.pop(0)] if self.form.sizes or self.form.rest else []
        with torch.enable_grad():
            (direction,) = torch.autograd.grad(
                self.loss(self.inner_loss, state, constants),
                state,
                create_graph=True,
                materialize_grads=True,
            )
        if self.form.sizes:
            size = constants[0]
        if self.form.proximal:
            strength, anchor = rest
            direction = direction + strength * (state - anchor)
        if not self.form.momentum:
            return state - size * direction
        n = self.form.layout.size
        velocity = rest[0] * state[n:] + direction[:n]
        return torch.cat([state[:n] - size * velocity, velocity])

    def pull_back(self, state: Tensor, vector: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives of <step, vector> by the state and by the constants."""
        wanted = [state, more[1]] if self.form.sizes or self.form.rest else [state]
        after = self.step(state, *more)
        return torch.autograd.grad(after, wanted, vector, materialize_grads=True)

    def outer(self, state: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        """Return the outer loss and its derivatives by the state and by the constants."""
        loss = self.loss(self.outer_loss, state, constants)
        return loss, *torch.autograd.grad(loss, [state, *constants], materialize_grads=True)

    def products(self, state: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the products of the inner loss's Hessian with some vectors."""
        loss = self.loss(self.inner_loss, state, ())
        (gradient,) = torch.autograd.grad(loss, state, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:  # it is constant
            return tuple(torch.zeros_like(vector) for vector in vectors)
        return tuple(
            torch.autograd.grad(gradient, state, vector, retain_graph=True, materialize_grads=True)[
                0
            ]
            for vector in vectors
        )
