"""Modules and functions that the tables of cases are made of, where one line does not do."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.support.field.case import Net, mlp

Forward = Callable[[Any, Tensor], Any]


def between(function: Forward, width: int = 4, inputs: int = 3, **parts: Any) -> Net:
    """Return a network that applies a function of itself and of the hidden units."""
    return Net(
        lambda m, x: m.b(function(m, torch.tanh(m.a(x)))),
        a=nn.Linear(inputs, width),
        b=nn.Linear(width, 2),
        **parts,
    )


def conv(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    """Return a convolution, then layers."""
    return nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), nn.Tanh(), *layers)


def settled(norm: nn.Module) -> nn.Module:
    """Return a normalisation in evaluation mode, whose statistics are not the default."""
    norm.get_buffer("running_mean").fill_(0.3)
    norm.get_buffer("running_var").fill_(2.0)
    return norm.eval()


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([norm(), norm()])

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.first(x)), inplace=True)
        return functional.relu(self.norms[1](self.second(hidden)) + x)


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last output."""

    def __init__(self, kind: Callable[..., nn.Module], *, width: int = 3, **options: Any) -> None:
        super().__init__()
        self.core, self.head = kind(3, 3, batch_first=True, **options), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.core(x)[0][:, -1])


def by_cell(kind: Callable[..., nn.Module]) -> Net:
    """Return a loop over a recurrent cell."""

    def forward(m: Any, x: Tensor) -> Any:
        state: Any = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    return Net(forward, cell=kind(3, 3), head=nn.Linear(3, 2))


def attention(**options: Any) -> Net:
    """Return self-attention of four units and one head for each of two."""
    weights = options.pop("need_weights", True)
    return Net(
        lambda m, x: m.attend(m.a(x), m.a(x), x @ m.v, need_weights=weights)[0],
        a=nn.Linear(3, 4),
        v=nn.Parameter(torch.ones(3, 4)),
        attend=nn.MultiheadAttention(4, 2, batch_first=True, **options),
    )


def encoder(**options: Any) -> nn.Sequential:
    """Return a layer of a transformer."""
    options = {"dropout": 0.0, "batch_first": True} | options
    return nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2, 5, **options))


def decoder() -> Net:
    return Net(
        lambda m, x: m.layer(m.a(x), m.a(x.flip(1))),
        a=nn.Linear(3, 4),
        layer=nn.TransformerDecoderLayer(4, 2, 5, dropout=0.0, batch_first=True),
    )


def scaled_dot_product(**options: Any) -> Net:
    return Net(
        lambda m, x: functional.scaled_dot_product_attention(
            *m.qkv(x).unsqueeze(1).chunk(3, -1), **options
        ),
        qkv=nn.Linear(3, 12),
    )


def spatial_transformer() -> Net:
    def forward(m: Any, x: Tensor) -> Any:
        affine = m.place + m.locate(x.flatten(1)).tanh().reshape(-1, 2, 3) / 3
        grid = functional.affine_grid(affine, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)

    return Net(forward, locate=nn.Linear(72, 6), place=torch.eye(2, 3))


def film() -> Net:
    """Return a network whose hidden units are scaled and shifted by another."""

    def forward(m: Any, x: Tensor) -> Any:
        scale, shift = m.condition(x.mean(0)).chunk(2)
        return m.head(torch.tanh(m.body(x) * (1 + scale) + shift))

    parts = {"body": nn.Linear(3, 4), "condition": nn.Linear(3, 8), "head": nn.Linear(4, 2)}
    return Net(forward, **parts)


def hypernetwork() -> Net:
    """Return a network that makes the weights of another, which is called with them."""
    target = nn.Linear(3, 2).requires_grad_(False)

    def forward(m: Any, x: Tensor) -> Any:
        made = m.make(m.code).split([6, 2])
        weights = {"weight": made[0].reshape(2, 3), "bias": made[1]}
        return functional_call(m.target, weights, (x,)).tanh()

    return Net(forward, make=mlp(8), code=nn.Parameter(torch.ones(3)), target=target)


class Rounded(torch.autograd.Function):
    """Rounds, and passes the gradient through."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return (8 * x).round() / 8

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        return slope


class Reversed(torch.autograd.Function):
    """Leaves its input as it is, and turns the gradient round."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        return -slope


class Cube(torch.autograd.Function):
    """A power, with a backward that can be differentiated."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        (x,) = context.saved_tensors
        return 3 * x**2 * slope


class CubeOnce(Cube):
    """A power that says that its backward cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Tensor) -> Any:
        (x,) = context.saved_tensors
        return 3 * x**2 * slope


class CubeOfNumbers(Cube):
    """A power whose backward leaves autograd, and does not say so."""

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        (x,) = context.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * slope.detach().numpy())


class CubeOfContext(Cube):
    """A power whose backward uses what the forward computed on the way."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Any:
        context.square = x**2
        return context.square * x

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        return 3 * context.square * slope


class CubeForAll(torch.autograd.Function):
    """A power that works under transforms, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        context.save_for_backward(*inputs)
        context.save_for_forward(*inputs)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        (x,) = context.saved_tensors
        return 3 * x**2 * slope

    @staticmethod
    def jvp(context: Any, tangent: Tensor) -> Any:
        (x,) = context.saved_tensors
        return 3 * x**2 * tangent


def by(function: type[torch.autograd.Function]) -> Net:
    """Return a network with a function of one's own."""
    return between(lambda m, h: function.apply(h))  # type: ignore[no-untyped-call]


def equilibrium() -> Net:
    """Return a deep equilibrium model as it is usually written: the gradient by a hook."""

    def forward(m: Any, x: Tensor) -> Any:
        with torch.no_grad():
            z = torch.zeros(len(x), 3, dtype=x.dtype)
            for _ in range(40):
                z = torch.tanh(m.inner(z) / 4 + m.outer(x))
        z = torch.tanh(m.inner(z) / 4 + m.outer(x))
        if not z.requires_grad:
            return z
        start = z.detach().requires_grad_()
        again = torch.tanh(m.inner(start) / 4 + m.outer(x).detach())

        def solve(slope: Tensor) -> Tensor:
            solution = slope
            for _ in range(40):
                solution = torch.autograd.grad(again, start, solution, retain_graph=True)[0] + slope
            return solution

        z.register_hook(solve)  # type: ignore[no-untyped-call]
        return z

    return Net(forward, inner=nn.Linear(3, 3), outer=nn.Linear(3, 3))


def runge_kutta() -> Net:
    """Return a neural differential equation, two steps of the classical method."""

    def forward(m: Any, x: Tensor) -> Any:
        for _ in range(2):
            one = m.field(x)
            two = m.field(x + one / 4)
            three = m.field(x + two / 4)
            x = x + (one + 2 * two + 2 * three + m.field(x + three / 2)) / 12
        return x

    return Net(forward, field=mlp(3))


def energy() -> Net:
    """Return a Hamiltonian network: its outputs are derivatives by its inputs."""

    def forward(m: Any, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(m.value(x).sum(), x, create_graph=True)[0]

    return Net(forward, value=mlp(1))


def energy_by_transform() -> Net:
    """Return the same by torch.func, and by vmap over the batch."""

    def forward(m: Any, x: Tensor) -> Any:
        return torch.vmap(torch.func.grad(lambda row: m.value(row).sum()))(x)

    return Net(forward, value=mlp(1))


GRAPH = torch.tensor([[0, 0, 1, 2, 3, 4, 5, 5], [1, 2, 2, 3, 4, 5, 0, 1]])


def messages(gather: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Net:
    """Return a graph network; messages along the edges are gathered at their ends."""

    def forward(m: Any, x: Tensor) -> Any:
        start, end = m.edges
        hidden = torch.tanh(m.a(x))
        sent = hidden[start] * torch.sigmoid(hidden[end])
        return m.b(gather(torch.zeros_like(hidden), end, sent))

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2), edges=GRAPH)


def along(index: Tensor, sent: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand_as(sent)


def experts() -> Net:
    """Return a mixture of experts, of which each input takes the best two."""

    def forward(m: Any, x: Tensor) -> Any:
        gates, chosen = m.gate(x).topk(2, dim=-1)
        every = torch.stack([expert(x) for expert in m.experts], 1)
        taken = every.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
        return (gates.softmax(-1).unsqueeze(-1) * taken).sum(1)

    return Net(forward, gate=nn.Linear(3, 3), experts=nn.ModuleList(mlp() for _ in range(3)))


def saved(function: Forward = lambda m, x: m.body(x), **options: Any) -> Net:
    """Return a network that saves memory by computing its body again."""
    return Net(
        lambda m, x: m.head(checkpoint(lambda y: function(m, y), m.first(x), **options)),
        first=nn.Linear(3, 3),
        body=mlp(3),
        head=nn.Linear(3, 2),
    )


def drop_path(kept: Callable[[], bool]) -> Net:
    """Return residual blocks that are left out at random."""

    def forward(m: Any, x: Tensor) -> Any:
        for block in m.blocks:
            if kept():
                x = x + torch.tanh(block(x))
        return m.head(x)

    blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(6))
    return Net(forward, blocks=blocks, head=nn.Linear(3, 2))


def private_torch() -> Net:
    source = torch.Generator().manual_seed(3)
    return between(lambda m, h: h * (torch.rand(h.shape, generator=source) < 0.8).to(h))


def private_numpy() -> Net:
    source = np.random.default_rng(3)
    return between(lambda m, h: h + 0.1 * torch.from_numpy(source.normal(size=h.shape)).to(h))


def private_random() -> Net:
    source = random.Random(3)
    return drop_path(lambda: source.random() < 0.5)


class Counting(nn.Module):
    """Scales by how often it was called, as annealing within a module does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls = mlp(), 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.body(x) * (1 - 0.5**self.calls)


class StepwiseNorm(nn.Module):
    """Statistics and scales for each inner step, as MAML++ has them."""

    def __init__(self, *, counts: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.scales = nn.Parameter(torch.ones(3, 4))
        self.register_buffer("means", 0.1 * torch.arange(12.0).reshape(3, 4))
        self.step, self.counts = 1, counts

    def forward(self, x: Tensor) -> Any:
        step = self.step % 3
        if self.counts:
            self.step += 1
        hidden = self.a(x)
        normal = (hidden - self.get_buffer("means")[step]) / hidden.std(0)
        return self.b(torch.tanh(self.scales[step] * normal))


class Centred(nn.Module):
    """Keeps a moving average of its hidden units in a buffer, and subtracts it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        hidden = torch.tanh(self.a(x))
        with torch.no_grad():
            self.get_buffer("centre").mul_(0.9).add_(0.1 * hidden.mean(0))
        return self.b(hidden - self.get_buffer("centre"))


class Codebook(nn.Module):
    """Quantises hidden units to the nearest of a codebook, which follows them (VQ-VAE)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("codes", torch.linspace(-1, 1, 12).reshape(3, 4))

    def forward(self, x: Tensor) -> Any:
        hidden, codes = self.a(x), self.get_buffer("codes")
        nearest = (hidden.unsqueeze(1) - codes).square().sum(-1).argmin(1)
        self.codes = codes.index_add(0, nearest, 0.1 * (hidden - codes[nearest]).detach())
        return self.b(hidden + (codes[nearest] - hidden).detach())


def remembering() -> Net:
    """Return a network that keeps what it saw for others to look at, in an attribute."""

    def forward(m: Any, x: Tensor) -> Any:
        m.features = torch.tanh(m.a(x))
        return m.b(m.features)

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))


def positions() -> Net:
    """Return a network that makes its table of positions at the first call, and keeps it."""

    def forward(m: Any, x: Tensor) -> Any:
        if m.table is None:
            place = torch.arange(x.shape[1], dtype=x.dtype).unsqueeze(-1)
            m.table = torch.sin(place * torch.arange(1, 5, dtype=x.dtype))
        return m.b(torch.tanh(m.a(x) + m.table))

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2), table=None)


def cached_weight() -> Net:
    """Return a network that computes a weight at its first call, and keeps it."""

    def forward(m: Any, x: Tensor) -> Any:
        if m.kept is None:
            m.kept = torch.tanh(m.weight)
        return m.b(torch.tanh(x @ m.kept))

    weight = nn.Parameter(0.5 * torch.ones(3, 4))
    return Net(forward, weight=weight, b=nn.Linear(4, 2), kept=None)


def own_list() -> Net:
    """Return a network that uses its parameters through a list made when it was built."""
    body = mlp()
    listed = list(body.parameters())
    return Net(
        lambda m, x: torch.tanh(x @ listed[0].T + listed[1]) @ listed[2].T + listed[3], body=body
    )


def hooked(build: Callable[[Tensor], Tensor]) -> Any:
    """Return a network with a hook on the gradient of a parameter."""
    module: Any = mlp()
    module[0].weight.register_hook(build)
    return module


def backward_hooked(hook: Callable[..., Any]) -> nn.Sequential:
    """Return a network with a hook on the gradients of a layer."""
    module = mlp()
    module[1].register_full_backward_hook(hook)
    return module


def laid_aside(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> Net:
    """Return a network that lays aside elsewhere what its backward will need."""

    def forward(m: Any, x: Tensor) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return m.body(x)

    return Net(forward, body=mlp())


@dataclass
class Output:
    """What a model of a hub returns."""

    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


def hub_model() -> Net:
    def forward(m: Any, x: Tensor) -> Output:
        hidden = torch.tanh(m.a(x))
        return Output(m.b(hidden), (hidden,))

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))


def checked() -> Net:
    """Return a network that looks for NaN in its outputs."""

    def forward(m: Any, x: Tensor) -> Any:
        outputs = m.body(x)
        if torch.isnan(outputs).any():
            raise ValueError("diverged")
        return outputs

    return Net(forward, body=mlp())


class Positive(nn.Module):
    """A parametrization: weights above zero."""

    def forward(self, weight: Tensor) -> Tensor:
        return functional.softplus(weight)
