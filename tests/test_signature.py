"""What programs are made for: all that a loss computes with, as it is at a call, and no more."""

import functools
import logging
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from estimators import BilevelProblem, OptionError, Params, create, module_problem
from estimators.programs.signature import Signature
from tests.support.programs import run_as_traced

Change = Callable[[], object]


def norm(params: Params) -> Tensor:
    return params["w"].square().sum()


def weighted(params: Params, *, weight: float = 1.0) -> Any:
    return norm(params) * weight


class Config:
    scale = 1.0
    table = [1.0]  # ruff: ignore[mutable-class-default]

    def twice(self) -> float:
        return 2 * NUMBERS["n"]

    def __mul__(self, other: Any) -> Any:
        return other * NUMBERS["n"]


@dataclass(slots=True)
class Slots:
    size: float = 1.0


class Loss(Slots):
    settings = SimpleNamespace(size=1.0)

    def __init__(self) -> None:
        super().__init__()
        self.inner = SimpleNamespace(size=1.0)
        self.calls = 0

    @torch.enable_grad()  # a function around the method
    def __call__(self, params: Params) -> Any:
        return norm(params) * self.size * self.settings.size * outside(self)

    def penalty(self, params: Params) -> Any:
        return norm(params) * self.inner.size


def outside(loss: Loss) -> Any:
    return loss.inner.size


class Colour(Enum):
    RED = 1.0
    BLUE = 2.0


class Square(torch.autograd.Function):
    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * Square.factor


NUMBERS = {"n": 1.0}
PARTIAL = functools.partial(weighted, weight=1.0)
FIRST, SECOND = None, 1.0
activation: Any = torch.tanh
model = nn.Dropout()
config = types.ModuleType("some_config")
config.scale, config.table = 1.0, {"a": 1.0}  # type: ignore[attr-defined]
config_: Any = config


def attribute(params: Params) -> Tensor:
    return norm(params) * attribute.scale  # type: ignore[attr-defined,no-any-return]


def importing(params: Params) -> Tensor:
    import some_config  # type: ignore[import-not-found]

    return norm(params) * some_config.scale  # type: ignore[no-any-return]


def losses() -> dict[str, tuple[Any, Change]]:
    """Return losses, each with a change of what it computes with."""
    loss, here, table, colours = Loss(), globals(), {"n": 1.0}, [Colour.RED]
    attribute.scale = 1.0  # type: ignore[attr-defined]
    chosen = {1}
    get, instance, dynamic = table.get, Config(), SimpleNamespace(size=1.0)
    return {
        "class": (lambda p: norm(p) * Config.scale, lambda: setattr(Config, "scale", 2.0)),
        "class of an instance": (
            lambda p: norm(p) * instance.table[0],
            lambda: Config.table.append(2.0),
        ),
        "method": (lambda p: norm(p) * instance.twice(), lambda: NUMBERS.update(n=2.0)),
        "operator": (lambda p: instance * norm(p), lambda: NUMBERS.update(n=3.0)),
        "slot": (loss, lambda: setattr(loss, "size", 2.0)),
        "object of a class": (loss, lambda: setattr(Loss.settings, "size", 2.0)),
        "by a function": (loss, lambda: setattr(loss.inner, "size", 2.0)),
        "bound method": (loss.penalty, lambda: setattr(loss.inner, "size", 3.0)),
        "module": (lambda p: norm(p) * config_.table["a"], lambda: config_.table.update(a=2.0)),
        "import": (importing, lambda: setattr(config, "scale", 2.0)),
        "partial": (
            lambda p: PARTIAL(p),
            lambda: here.update(PARTIAL=functools.partial(weighted, weight=2.0)),
        ),
        "default": (weighted, lambda: setattr(weighted, "__kwdefaults__", {"weight": 2.0})),
        "function": (attribute, lambda: setattr(attribute, "scale", 2.0)),
        "torch's": (lambda p: activation(norm(p)), lambda: here.update(activation=torch.sin)),
        "mode": (lambda p: model(norm(p)), lambda: model.eval()),
        "names": (
            lambda p: norm(p) * (FIRST or 2.0) * (SECOND or 3.0),
            lambda: here.update(FIRST=1.0, SECOND=None),
        ),
        "bound get": (lambda p: norm(p) * (get("n") or 0.0), lambda: table.update(n=2.0)),
        "enum": (lambda p: norm(p) * colours[0].value, lambda: colours.reverse()),
        "derivative": (
            lambda p: Square.apply(norm(p)),  # type: ignore[no-untyped-call]
            lambda: setattr(Square, "factor", 2.0),
        ),
        "globals": (
            lambda p: norm(p) * globals()["SECOND"],
            lambda: here.update(SECOND=4.0),
        ),
        "set": (lambda p: norm(p) * (1 in chosen), lambda: chosen.clear()),
        "getattr": (
            lambda p: norm(p) * getattr(dynamic, "".join("size")),
            lambda: setattr(dynamic, "size", 2.0),
        ),
    }


@pytest.mark.parametrize("name", losses())
def test_changes_of_what_a_loss_computes_with_are_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "some_config", config)
    loss, change = losses()[name]
    if name == "enum":
        loss.__closure__[0].cell_contents.append(Colour.BLUE)
    before = Signature(loss)
    assert Signature(loss).key == before.key
    change()
    assert Signature(loss).key != before.key
    assert Signature(loss).text() != before.text()


def test_what_a_loss_cannot_reach_is_left_out() -> None:
    loss = Loss()
    loss.inner.logger, loss.lock = logging.getLogger(), Lock()  # type: ignore[attr-defined]
    before = Signature(loss).key
    loss.calls += 1
    assert Signature(loss).key == before


class Net(nn.Module):
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.settings = SimpleNamespace(size=1.0)

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        return scaled(self, x)


def scaled(net: Net, x: Tensor) -> Tensor:
    result: Tensor = net.linear(x) * net.settings.size * net.scale
    return result


@pytest.mark.parametrize("check", [True, False])
def test_changes_of_modules_are_seen(check: bool) -> None:
    net, state = Net(), [1.0]
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), net)
    batch = torch.ones(3, 2), torch.ones(3, 1)

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        return x.sin()

    def hooked() -> None:
        hooks.pop().remove()
        hooks.append(module.register_forward_hook(lambda _m, _x, out: out * 3))

    hooks = [module.register_forward_hook(lambda _m, _x, out: out * state[0])]
    changes: list[Change] = [
        lambda: None,
        lambda: setattr(net.settings, "size", 2.0),
        lambda: setattr(net, "scale", 2.0),  # new, of the class before
        lambda: setattr(net, "scale", 3.0),
        lambda: state.__setitem__(0, 2.0),
        hooked,
        lambda: setattr(module[1], "forward", types.MethodType(torch.sin, module[1])),
        lambda: setattr(module[1], "forward", types.MethodType(forward, module[1])),
        lambda: module.__setitem__(1, nn.Sigmoid()),
        lambda: module.__setitem__(1, nn.Tanh()),
        lambda: module.append(module[1]),
    ]
    keys, texts = set(), set()
    for change in changes:
        change()
        problem = module_problem(
            module, mse_loss, batch, batch, step_size=0.1, steps=1, check=check
        )
        signature = Signature(problem.inner_loss, problem.outer_loss)
        keys.add(signature.key)
        texts.add(signature.text())
    assert len(keys) == len(texts) == len(changes) - 1, "but for the second Tanh all are different"


def test_numbers_read_out_of_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be constants of the program, whatever the tensor of the next task holds."""
    run_as_traced(monkeypatch)
    held, params = torch.tensor(2.0), {"w": torch.ones(2)}
    losses: list[Any] = [lambda p: norm(p) * held.item(), lambda p: norm(p) * held.tolist()]
    for loss in losses:
        with pytest.raises(OptionError, match="reads a number"):
            create("maml(compiled=True)")(BilevelProblem(loss, norm, 0.1, 1), params)
