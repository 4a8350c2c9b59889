"""Checks of side effects, and of the circumstances of a call."""

import gc
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from estimators import MetaGradient, OptionError, Params
from harness.conformance.cases import Case, case
from harness.conformance.check import check, check_on_cases
from harness.conformance.messages import NotApplicable, Violation, add_note
from harness.conformance.subject import Subject, as_parameters, copied
from harness.probes.bias import relative_error

_NETWORKS = ("mlp", "convolution", "sinusoid/mlp-40-40")  # what people use autocast for


@check_on_cases()
def parameters_are_left_alone(subject: Subject, example: Case) -> None:
    """The parameters are left as they were, .grad and requires_grad too."""
    for trainable in (False, True):
        params = as_parameters(example) if trainable else copied(example.params)
        grads = {name: torch.full_like(value, 7) for name, value in copied(params).items()}
        for name, value in params.items():
            value.grad = grads[name]
        subject.run(example, params=params)
        for name, value in params.items():
            if not torch.equal(value.detach(), example.params[name]):
                raise Violation(f"parameter {name!r} is changed; work on a copy")
            if value.requires_grad is not trainable:
                raise Violation(f"requires_grad of parameter {name!r} is changed; detach it first")
            if value.grad is not grads[name] or not (grads[name] == 7).all():
                raise Violation(
                    f".grad of parameter {name!r} is changed; use torch.autograd.grad rather "
                    "than backward()"
                )


@check_on_cases()
def grad_mode_does_not_matter(subject: Subject, example: Case) -> None:
    """Under torch.no_grad() and with nn.Parameters the estimate is the same."""
    wanted = subject.run(example).gradient
    for enabled in (True, False):
        for params in (copied(example.params), as_parameters(example)):
            trainable = any(value.requires_grad for value in params.values())
            how = "with gradients enabled" if enabled else "under torch.no_grad()"
            with add_note(f"{how}, with {'nn.Parameters' if trainable else 'plain tensors'}"):
                _same_estimate(subject, example, params, wanted, enabled=enabled)


def _same_estimate(
    subject: Subject, example: Case, params: Params, wanted: Params, *, enabled: bool
) -> None:
    with torch.set_grad_enabled(enabled):
        gradient = subject.run(example, params=params).gradient
        after = torch.is_grad_enabled()
    if after is not enabled:
        raise Violation(f"gradients are {'on' if after else 'off'} after the call, as not before")
    off = relative_error(copied(gradient), wanted)
    if off > 1e-9:
        raise Violation(f"the estimate is another one, {off:.1e} off (relative)")


@check_on_cases()
def nothing_returned_is_part_of_a_graph(subject: Subject, example: Case) -> None:
    """Nothing returned is part of a graph."""
    for steps in subject.depths:
        result = subject.run(example, example.problem(steps), as_parameters(example))
        for what, tensor in _tensors(result):
            if tensor.grad_fn is not None or tensor.requires_grad:
                raise Violation(f"{what} is, and keeps it in memory; detach it")


@check_on_cases()
def result_outlives_a_step_on_the_parameters(subject: Subject, example: Case) -> None:
    """The result stays as it is when the parameters are changed in place."""
    unadapted = [] if subject.estimator.unsupported_reason(0) else [0]
    for steps in (*unadapted, *subject.depths):
        params = copied(example.params)
        result = subject.run(example, example.problem(steps), params)
        before = {what: tensor.clone() for what, tensor in _tensors(result)}
        for value in params.values():
            value.add_(1)
        for what, tensor in _tensors(result):
            if not same_bits(tensor, before[what]):
                raise Violation(f"{what} changes with them, since it shares their memory; clone it")


@check_on_cases()
def same_call_gives_the_same_bits(subject: Subject, example: Case) -> None:
    """The same call gives the same bits; if random, with a generator in the same state."""
    before = torch.get_rng_state()
    once = subject.run(example)
    seeds = (0,) if subject.estimator.is_random else (0, 1)
    for again in (subject.run(example, seed=seed) for seed in seeds):
        for (what, one), (_, other) in zip(_tensors(once), _tensors(again), strict=True):
            if not same_bits(one, other):
                raise Violation(
                    f"{what} differs; draw random numbers from the generator that a "
                    "RandomEstimator is given"
                )
        if (once.hvps, once.serial_depth) != (again.hvps, again.serial_depth):
            raise Violation("hvps or serial_depth differ")
    if not torch.equal(torch.get_rng_state(), before):
        raise Violation("numbers are drawn from torch's default generator")


@check
def no_tensor_is_left_behind(subject: Subject) -> None:
    """No tensor is left behind once the result is gone."""
    names = subject.cases("mlp", "linear")
    calls = [
        (example, example.problem(subject.depth), copied(example.params))
        for example in map(case, names)
    ]

    def call_all() -> None:
        for example, problem, params in calls:
            subject.run(example, problem, params)

    call_all()
    gc.collect()
    gc.freeze()  # only newer objects are looked at
    gc.disable()
    try:
        call_all()  # tensors that each call replaces do not add up
        few = len(_collectable_tensors())
        for _ in range(3):
            call_all()
        left = _collectable_tensors()
    finally:
        gc.enable()
        gc.unfreeze()
    if len(left) <= few:
        return
    what = f"three calls leave {len(left) - few} behind"
    shapes = ", ".join(sorted({str(tuple(tensor.shape)) for tensor in left})[:4])
    watched = [weakref.ref(tensor) for tensor in left]
    del left
    gc.collect()
    referenced = any(watch() is not None for watch in watched)
    why = "something keeps them" if referenced else "they wait for the garbage collector, in cycles"
    raise Violation(f"{what}, of shape {shapes}: {why}")


@check
def autocast_does_not_matter(subject: Subject) -> None:
    """Under autocast to bfloat16 the estimate is float32 and about the same."""
    if subject.compiled:
        raise NotApplicable("it is compiled, and would be another program")
    names = [name for name in _NETWORKS if isinstance(subject.result(name), MetaGradient)]
    if not names:
        raise NotApplicable("every case with a network is refused")
    single = case(names[0], torch.float32)
    wanted = subject.run(single).gradient
    try:
        with torch.autocast("cpu", torch.bfloat16), add_note(f"under autocast, on {names[0]}"):
            gradient = subject.run(single).gradient
    except OptionError as reason:
        raise NotApplicable(f"it refuses: {reason}") from reason
    off = relative_error(gradient, wanted)
    if not off < 0.2:
        raise Violation(f"the estimate is {off:.0%} off the one without (20 % would do)")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, NaN being equal to NaN."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _tensors(result: MetaGradient) -> Iterator[tuple[str, Tensor]]:
    for what in ("gradient", "adapted", "step_size_gradient"):
        for name, value in (getattr(result, what) or {}).items():
            yield f"{what}[{name!r}]", value
    yield "outer_loss", result.outer_loss


def _collectable_tensors() -> list[Tensor]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
