"""Modules and criteria that are no function of the parameters given are refused, and no others."""

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from gc import collect
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from estimators import (
    BilevelProblem,
    ModuleLoss,
    OptionError,
    Params,
    create,
    estimate_batch,
    module_problem,
    trainable,
)
from estimators.base.module_state import seen_of
from tests.support.modules import SPECS, mlp, problem_of, regression, seeded
from tests.support.oracle import flatten, relative_error

mse = functional.mse_loss


class Through(nn.Module):
    """A linear layer, then any function of module and features."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.function = function
        self.memory: Any = None
        self.register_buffer("calls", torch.zeros(()))
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, torch.tanh(self.linear(x))))  # type: ignore[no-any-return]


def noise(draw: Callable[[], float]) -> Callable[[Any, Tensor], Tensor]:
    return lambda _, features: features * (1 + draw())


def rarely(_: Any, features: Tensor) -> Tensor:
    return features * 2 if torch.rand(()) > 0.999 else features


own = torch.Generator().manual_seed(0)


def counted(net: Any, features: Tensor) -> Tensor:
    net.calls += 1
    return features


def replaced(net: Any, features: Tensor) -> Tensor:
    net.calls = net.calls + 1
    return features


def remembered(net: Any, features: Tensor) -> Tensor:
    before, net.memory = net.memory, features
    return features if before is None else features + 0.1 * before


class Cut(torch.autograd.Function):
    """The identity, whose backward pass cannot be differentiated and does not say so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * slopes[0]


REFUSED = {
    "torch": (noise(lambda: float(torch.rand(()))), r"module \(Through\) draws"),
    "python": (noise(random.random), r"module \(Through\) draws"),
    "numpy": (noise(np.random.rand), r"module \(Through\) draws"),
    "a generator of its own": (noise(lambda: float(torch.rand((), generator=own))), "again"),
    "rarely": (rarely, r"module \(Through\) draws"),
    "a buffer written in place": (counted, "'calls'"),
    "a buffer replaced": (replaced, "'calls'"),
    "memory": (remembered, "again|earlier"),
    "data": (lambda net, features: net.linear.weight.sum().detach().mul_(0) + features, None),
    "straight through": (lambda _, f: f + (f.round() - f).detach(), r"module \(Through\).*slope"),
    "a gradient that is cut": (lambda _, f: f * f.detach(), r"module \(Through\).*slope"),
    "custom": (
        lambda _, f: Cut.apply(f),  # type: ignore[no-untyped-call]
        r"module \(Through\).*slope",
    ),
}


@pytest.mark.parametrize(("function", "words"), REFUSED.values(), ids=REFUSED)
def test_a_module_that_is_no_differentiable_function_is_refused(
    function: Callable[[Any, Tensor], Tensor], words: str | None
) -> None:
    net = Through(function)
    if words is None:
        problem_of(net)
        return
    with pytest.raises(OptionError, match=words):
        problem_of(net)
    unchecked = module_problem(
        net, mse, regression(1), regression(2), step_size=0.1, steps=2, check=False
    )
    assert create("fomaml")(unchecked, trainable(net)).outer_loss.isfinite()


def test_layers_that_draw_are_named_and_used_in_evaluation_mode() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, num_layers=2, dropout=0.5)
            self.head = nn.Linear(4, 2)
            seeded(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])  # type: ignore[no-any-return]

    for net, name in (
        (Recurrent(), "GRU 'rnn'"),
        (seeded(nn.Sequential(nn.Linear(3, 2), nn.RReLU())), "RReLU '1'"),
        (seeded(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))), "Dropout '1'"),
    ):
        with pytest.raises(OptionError, match=name):
            problem_of(net)
        problem = problem_of(net.eval())
        create("maml")(problem, trainable(net))
        net.train()  # what was all right before is looked at again
        with pytest.raises(OptionError, match=name):
            create("maml")(problem, trainable(net))


def test_a_criterion_that_draws_is_named() -> None:
    with pytest.raises(OptionError, match="the criterion draws"):
        problem_of(mlp(), lambda y, t: mse(y + torch.randn_like(y), t))


def test_a_wrong_derivative_of_torch_is_refused_with_the_way_out() -> None:
    net = seeded(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)))
    with pytest.raises(OptionError, match=r"_WeightNorm.*github"):
        problem_of(net)


@pytest.mark.xfail(
    strict=True, reason="wrong in fused kernels: github.com/facebookresearch/higher/issues/14"
)
def test_torch_has_a_right_second_derivative_of_weight_norm() -> None:
    v, g = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 4), (3, 1)))
    assert torch.autograd.gradgradcheck(lambda v, g: torch._weight_norm(v, g, 0), (v, g))


def test_spectral_norm_is_right_in_evaluation_mode_and_refused_in_training_mode() -> None:
    net = seeded(nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2)))
    with pytest.raises(OptionError, match=r"_SpectralNorm.*eval"):
        problem_of(net)
    problem, params = problem_of(net.eval()), trainable(net)
    with pytest.raises(OptionError, match="cached"), parametrize.cached():
        create("maml")(problem, params)
    create("maml")(problem, params)


def decayed(params: Params) -> Tensor:
    return 0.1 * torch.stack([value.square().sum() for value in params.values()]).sum()


def test_a_penalty_counts_at_the_adapted_parameters() -> None:
    net = mlp()

    class Decay(nn.Module):
        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            return mse(y, t) + decayed(dict(net.named_parameters()))

    def by_hand(seed: int) -> Callable[[Params], Tensor]:
        x, t = regression(seed)
        return lambda p: mse(torch.func.functional_call(net, p, (x,)), t) + decayed(p)

    expected = BilevelProblem(by_hand(1), by_hand(2), 0.1, 3)
    captured: Params = dict(net.named_parameters())
    criteria: dict[str, Callable[..., Tensor]] = {
        "reads the module": lambda y, t: mse(y, t) + decayed(dict(net.named_parameters())),
        "is a module": Decay(),
        "asks for the parameters": lambda y, t, params: mse(y, t) + decayed(params),
        "asks by keyword": partial(lambda y, t, *, s, params: s * mse(y, t) + decayed(params), s=1),
    }
    for name, criterion in criteria.items():
        for spec in (*SPECS, "hf-maml"):
            mine = create(spec)(problem_of(net, criterion), trainable(net))
            right = create(spec)(expected, trainable(net))
            error = relative_error(mine.gradient, flatten(right.gradient))
            assert error < 1e-7 if spec == "hf-maml" else error < 1e-12, (name, spec)
        both = [
            estimate_batch(
                create("maml"), [problem_of(net, criterion)] * 2, trainable(net), batching=way
            ).gradient
            for way in ("loop", "vmap")
        ]
        assert relative_error(both[1], flatten(both[0])) < 1e-12, name
    with pytest.raises(OptionError, match=r"own '0.weight'"):
        problem_of(net, lambda y, t: mse(y, t) + decayed(captured))


class Saving(nn.Module):
    def __init__(self, saving: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.head, self.saving = nn.Linear(5, 2), saving
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x) if self.saving is None else checkpoint(self.body, x, **self.saving)
        return self.head(body)  # type: ignore[no-any-return]


def test_activation_checkpoints_are_computed_again_with_the_same_parameters() -> None:
    plain, saving = Saving(None), Saving({"use_reentrant": False})
    eager = [spec for spec in SPECS if "func" not in spec and "vmap" not in spec]
    for spec in (*eager, "hf-maml", "maml(checkpoint='sqrt')"):
        right, mine = (
            create(spec)(problem_of(net), trainable(net)).gradient for net in (plain, saving)
        )
        assert relative_error(mine, flatten(right)) < 1e-12, spec
    with pytest.raises(OptionError, match="use_reentrant"), pytest.warns(match="inputs"):
        problem_of(Saving({"use_reentrant": True}))


def test_a_recomputation_with_other_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from estimators.base import module_filling

    module = torch.utils.checkpoint
    begin = module_filling._begin_checkpoint
    monkeypatch.setattr(module, begin.__name__, begin)
    with pytest.raises(OptionError, match="slope"):
        problem_of(Saving({"use_reentrant": False}))


def test_problems_keep_their_buffers_and_refuse_what_else_has_changed() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("mask", torch.ones(4))
            self.scale, self.calls = torch.ones(()), 0
            seeded(self)

        def forward(self, x: Tensor) -> Any:
            self.calls += 1  # nobody's business
            return self.head(torch.tanh(self.linear(x)) * self.get_buffer("mask") * self.scale)

    net = Masked()
    problems, at_once = [], []
    for task in range(3):
        net.get_buffer("mask").copy_(torch.arange(4) % 3 == task)
        problems.append(problem_of(net, support=regression(task), query=regression(task + 9)))
        at_once.append(create("maml")(problems[-1], trainable(net)))
    right = sum(float(each.outer_loss) for each in at_once) / 3
    for way in ("loop", "vmap"):
        found = estimate_batch(create("maml"), problems, trainable(net), batching=way)
        assert float(found.outer_loss) == pytest.approx(right, rel=1e-12), way
    net.scale.fill_(2.0)
    with pytest.raises(OptionError, match=r"'scale' of the module \(Masked\)"):
        create("maml")(problems[0], trainable(net))
    problem = problem_of(net)
    problem.inner_loss.batch[0].mul_(2)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="data"):
        create("maml")(problem, trainable(net))


def test_problems_can_be_copied_and_made_beside_an_estimate() -> None:
    net = mlp()
    problem, params = problem_of(net), trainable(net)
    right = create("maml")(problem, params)
    for copy in (deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert isinstance(copy.inner_loss, ModuleLoss)
        found = create("maml")(copy, trainable(copy.inner_loss.module)).gradient
        assert relative_error(found, flatten(right.gradient)) == 0
    with ThreadPoolExecutor(1) as pool:
        made = [pool.submit(problem_of, net) for _ in range(50)]
        for _ in range(50):
            create("maml")(problem, params)
        for each in made:
            found = create("maml")(each.result(), params).gradient
            assert relative_error(found, flatten(right.gradient)) == 0
    assert all(isinstance(value, nn.Parameter) for value in net.parameters())


def test_parameters_that_are_not_the_modules_are_refused() -> None:
    net = mlp()
    net.register_buffer("offset", torch.zeros(2))
    problem, params = problem_of(net), trainable(net)
    given = dict(params)
    bias = given.pop("2.bias")
    for wrong, words in (
        (given, "'2.bias' is missing"),
        (given | {"2.bais": bias}, "did you mean '2.bias'"),
        (given | {"2.bias": bias[:1]}, r"shape \(1,\)"),
        (params | {"offset": torch.zeros(2)}, "buffer"),
        (params | {"2.bias": bias.to(torch.complex64)}, "real"),
        (params | {"2.bias": bias.long()}, "floating"),
        (params.items(), "dict"),
        ({}, "no parameters"),
        ({name: value.new_zeros(0) for name, value in params.items()}, "all are empty"),
    ):
        with pytest.raises(OptionError, match=words):
            create("fomaml")(problem, wrong)  # type: ignore[arg-type]
        if isinstance(wrong, dict) and wrong:
            with pytest.raises(OptionError, match=words):
                estimate_batch(create("fomaml"), [problem] * 2, wrong, batching="vmap")
    net.get_parameter("0.weight").requires_grad_(False)
    create("fomaml")(problem, trainable(net))  # frozen since


def test_a_loss_that_vmap_cannot_take_is_refused_with_the_way_out() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.LSTM(3, 2))

    def last(outputs: tuple[Tensor, Any], targets: Tensor) -> Tensor:
        return mse(outputs[0][:, 0], targets)

    problems = [problem_of(seeded(net), last)] * 2
    estimate_batch(create("maml"), problems, trainable(net))
    with pytest.raises(OptionError, match="loop"):
        estimate_batch(create("maml"), problems, trainable(net), batching="vmap")


def test_slips_are_told() -> None:
    x, y = regression(1)
    cases: dict[str, Callable[[], object]] = {
        "pair": lambda: problem_of(mlp(), support=iter((x, y))),  # type: ignore[arg-type]
        "tensor": lambda: problem_of(mlp(), support=(x.numpy(), y.numpy())),  # type: ignore[arg-type]
        "whole number": lambda: problem_of(mlp(), steps=2.5),  # type: ignore[arg-type]
        "compiled": lambda: problem_of(torch.compile(mlp())),  # type: ignore[arg-type]
        "call the module": lambda: problem_of(nn.LazyLinear(2)),
        "function": lambda: problem_of(mlp(), "mse"),  # type: ignore[arg-type]
        "DataParallel": lambda: problem_of(nn.DataParallel(mlp())),
        "script": lambda: problem_of(torch.jit.trace(mlp(), x)),  # type: ignore[no-untyped-call]
    }
    for words, slip in cases.items():
        with pytest.raises(OptionError, match=words):
            slip()
    problem = problem_of(mlp(), steps=np.int64(2), step_size=np.float32(0.1))  # type: ignore[arg-type]
    assert create("maml")(problem, trainable(mlp())).hvps == 2
    with pytest.raises(OptionError, match="inference_mode"), torch.inference_mode():
        create("maml")(problem, trainable(mlp()))


def test_what_was_right_once_is_looked_at_again_when_it_changes() -> None:
    dropout = nn.Dropout(0.0)
    net = seeded(nn.Sequential(nn.Linear(3, 4), dropout, nn.Linear(4, 2)))
    problem_of(net)
    dropout.p = 0.5
    with pytest.raises(OptionError, match="Dropout '1' draws"):
        problem_of(net)

    def fit(hard: bool) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda y, t: mse(y + (y.round() - y).detach() if hard else y, t)

    net = mlp()
    problem = problem_of(net, fit(False))
    with pytest.raises(OptionError, match=r"the criterion.*slope"):
        problem_of(net, fit(True))
    net.add_module("2", seeded(nn.Linear(8, 2)))
    with pytest.raises(OptionError, match="other parts"):
        create("maml")(problem, trainable(net))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(OptionError, match="one parameter"):
        create("maml")(
            problem_of(seeded(tied)), dict(tied.named_parameters(remove_duplicate=False))
        )


def test_no_memory_for_the_check_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("estimators.base.problem_trial.derivative_errors", full)
    for _ in range(2):
        with pytest.raises(OptionError, match="memory"):
            problem_of(net := mlp())
    monkeypatch.undo()
    problem_of(net)


def test_harmless_changes_and_small_domains_are_let_be() -> None:
    net = mlp()
    net.epoch = 0  # type: ignore[assignment]
    problem, params = problem_of(net), trainable(net)
    net.epoch = 1  # type: ignore[assignment]
    create("maml")(problem, params)

    class Deviations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Parameter(torch.full((3,), 1e-3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.v.clamp(min=0).sqrt())[:, :2]

    problem_of(Deviations())


def test_checkpoints_around_attention_have_second_derivatives() -> None:
    class Encoder(nn.Module):
        def __init__(self, saving: bool) -> None:
            super().__init__()
            self.body = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
            self.head, self.saving = nn.Linear(4, 2), saving
            seeded(self)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.pad(x, (0, 1)).unsqueeze(1).repeat(1, 3, 1)
            x = checkpoint(self.body, x, use_reentrant=False) if self.saving else self.body(x)
            return self.head(x.mean(1))  # type: ignore[no-any-return]

    plain, saving = Encoder(False), Encoder(True)
    for spec in ("maml", "adjoint", "fomaml"):
        right, mine = (
            create(spec)(problem_of(net), trainable(net)).gradient for net in (plain, saving)
        )
        assert relative_error(mine, flatten(right)) < 1e-9, spec


def test_what_a_criterion_refers_to_stays_as_it_was() -> None:
    net, scale, weighted = mlp(), 1.0, nn.HuberLoss(delta=1.0)
    problem, params = problem_of(net, lambda y, t: scale * mse(y, t)), trainable(net)
    create("maml")(problem, params)
    other = problem_of(net, weighted)
    scale, weighted.delta = 2.0, 0.1
    for each in (problem, other):
        with pytest.raises(OptionError, match="refers to"):
            create("maml")(each, params)
    x, y = regression(1)
    with pytest.raises(OptionError, match="detach"):
        problem_of(net, support=(x.requires_grad_(), y))


def test_a_wrong_gradient_across_one_direction_is_found_in_another() -> None:
    for _ in range(30):
        net = seeded(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
        with torch.no_grad():
            for value in net.parameters():
                value.add_(torch.randn_like(value))

        def decayed_data(y: Tensor, t: Tensor, net: nn.Module = net) -> Tensor:
            return mse(y, t) + 0.05 * sum(p.data.square().sum() for p in net.parameters())

        with pytest.raises(OptionError, match="slope"):
            problem_of(net, decayed_data)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mask", None)
        self.scale, self.powers, self.table = torch.ones(()), [1, 2], np.ones(2)
        self.linear.bias.requires_grad_(False)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.linear(x)) * self.scale)  # type: ignore[no-any-return]


def bias_written(net: Any) -> None:
    with torch.no_grad():
        net.linear.bias.add_(1)


def forgotten(net: Any) -> None:
    net.head._forward_hooks = type(net.head._forward_hooks)()
    net.head.register_forward_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Any], object]] = {
    "mode": lambda net: net.head.eval(),
    "attribute": lambda net: setattr(net, "scale", torch.ones(())),
    "tensor": lambda net: net.scale.add_(1),
    "list": lambda net: net.powers.append(3),
    "array": lambda net: net.table.fill(2),
    "new attribute": lambda net: setattr(net.linear, "power", 2),
    "deleted attribute": lambda net: delattr(net, "powers"),
    "frozen parameter": bias_written,
    "frozen": lambda net: net.head.weight.requires_grad_(False),
    "thawed": lambda net: net.linear.bias.requires_grad_(True),
    "part": lambda net: setattr(net, "head", nn.Linear(4, 2, dtype=torch.float64)),
    "new part": lambda net: net.linear.add_module("tail", nn.Identity()),
    "parameter": lambda net: setattr(net.head, "bias", nn.Parameter(torch.zeros(2))),
    "no parameter": lambda net: net.head.register_parameter("bias", None),
    "buffer": lambda net: setattr(net, "mask", torch.ones(4)),
    "hook": lambda net: net.head.register_forward_hook(lambda *_: None),
    "another hook": forgotten,
    "dictionary": lambda net: setattr(net.head, "__dict__", dict(vars(net.head))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_a_module_that_nothing_was_done_to_is_taken_for_the_same(
    change: Callable[[Any], object],
) -> None:
    net = Part()
    net.head.register_forward_hook(lambda *_: None)
    seen = seen_of(net)
    net.head.weight.data.add_(1)  # theta: given to each evaluation
    assert seen.is_current()
    assert seen_of(net) is seen
    change(net)
    assert not seen.is_current()
    assert seen_of(net) is not seen


def test_a_parameter_frozen_between_two_problems_may_not_change_after_the_second() -> None:
    net = mlp()
    problem_of(net)
    first = problem_of(net)
    net.get_parameter("0.weight").requires_grad_(False)
    second, params = problem_of(net), trainable(net)
    create("maml")(second, params)
    with torch.no_grad():
        net.get_parameter("0.weight").add_(1)
    with pytest.raises(OptionError, match="'weight' of Linear '0'"):
        create("maml")(second, params)
    del first
    create("maml")(problem_of(net), params)


def test_a_module_is_not_kept_alive_by_what_is_known_of_it() -> None:
    net = mlp()
    net.parent = [net]  # type: ignore[assignment]
    create("fomaml")(problem_of(net), trainable(net))
    gone = ref(net)
    del net
    collect()
    assert gone() is None
