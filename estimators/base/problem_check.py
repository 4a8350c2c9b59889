"""Check of a problem: whether its losses are functions that can be differentiated twice.

Estimators evaluate a loss more than once at a point, and trust torch's derivatives. A loss that
draws random numbers, writes to its module, reads other parameters than it is given, or has a wrong
second derivative gives wrong estimates without an error. The check finds out, once for all problems
of a kind (module, criterion, shapes), at the price of some ten gradients.
"""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from estimators.base.derivative_check import (
    Errors,
    derivative_errors,
    random_direction,
)
from estimators.base.differentiation import value_and_gradient
from estimators.base.errors import OptionError
from estimators.base.module_calls import generator_states, record_calls, tensors
from estimators.base.module_loss import ModuleLoss, versions
from estimators.base.module_state import ModuleState
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, axpy, detached, leaves, norm

_LIKELY = (
    "Is it cut, rounded or replaced (detach, a straight-through or custom function, a hook, a "
    "checkpoint with use_reentrant=True)?"
)
_KNOWN_FAULTS = {
    "WeightNormInterfaceBackward0": "torch's fused weight_norm is wrong on a CPU "
    "(github.com/pytorch/pytorch/issues/192540): write it as a parametrization of plain operations."
}
_passed: WeakKeyDictionary[nn.Module, set[tuple[Any, ...]]] = WeakKeyDictionary()


def check_problem(problem: BilevelProblem, params: Mapping[str, Tensor]) -> None:
    """Refuse parameters that cannot be used, and a problem whose estimates would be wrong.

    Args:
        problem: the bilevel problem.
        params: theta.

    Raises:
        OptionError: says what is wrong, where, and what to do.
    """
    _check_params(params)
    seen: set[int] = set()
    for loss, twice in ((problem.inner_loss, True), (problem.outer_loss, False)):
        if not isinstance(loss, ModuleLoss):
            continue
        if id(loss.state) not in seen:  # once for both
            loss.state.check_names(params)
            seen.add(id(loss.state))
            _refuse_changes(loss, params)
        if loss.seen is not None:
            kinds, kind = _passed.setdefault(loss.module, set()), _kind(loss, params)
            if (kind, True) not in kinds and (kind, twice) not in kinds:
                _check(loss, params, twice=twice)
                kinds.add((kind, twice))


def _check_params(params: Mapping[str, Tensor]) -> None:
    """Refuse what is no dictionary of real tensors, and tensors that can have no gradient."""
    if not isinstance(params, Mapping):
        raise OptionError(f"params must be a dict of tensors, not a {type(params).__name__}")
    if not params:
        raise OptionError("there are no parameters to adapt: does none require a gradient?")
    for name, value in params.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise OptionError(
                f"parameter {name!r} must be a tensor of real floating-point numbers, not {kind}"
                + ("; take its real and imaginary parts as two" if "complex" in str(kind) else "")
            )
        if value.is_inference():
            raise OptionError(f"parameter {name!r} was made within torch.inference_mode()")
    if torch.is_inference_mode_enabled():
        raise OptionError("there are no gradients within torch.inference_mode(): leave it")


def _kind(loss: ModuleLoss, params: Mapping[str, Tensor]) -> tuple[Any, ...]:
    types = tuple([(value.dtype, value.device) for value in params.values()])
    return loss.state.modes, code(loss.criterion), tuple(map(_shape, loss.batch)), types


def code(function: object) -> object:
    """Return what functions that are made anew for each task have in common."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", type(function))


def _shape(data: object) -> object:
    return (data.shape, data.dtype) if isinstance(data, Tensor) else type(data)


def _refuse(reason: str) -> NoReturn:
    raise OptionError(f"{reason} (module_problem(..., check=False) leaves this check out)")


def _refuse_changes(loss: ModuleLoss, params: Mapping[str, Tensor]) -> None:
    """Refuse what was changed after the problem was made: it sees things as they are now."""
    if loss.seen is None:
        return
    if parametrize._cache_enabled:
        _refuse(
            "within parametrize.cached() all iterates would have the weights of the first: leave it"
        )
    if versions(loss.batch) != loss.versions:
        _refuse("the data of a problem was written to after the problem was made: give it a copy")
    changed = loss.state.changed(loss.seen)
    if changed:
        before = loss.state.snapshot()
        with suppress(Exception), torch.no_grad():
            loss(dict(params))
        traces = loss.state.changed(before)  # of any forward pass
        changed = [at for at in changed if at not in traces]
    if changed:
        part, name = changed[0]
        _refuse(
            f"{name!r} of {loss.state.title(part)} was changed after a problem was made, which "
            "sees the module as it is now: estimate problems one by one, or make a tensor that "
            "differs from task to task a buffer, of which each problem keeps a copy"
        )


def _check(loss: ModuleLoss, params: Mapping[str, Tensor], *, twice: bool) -> None:
    """Refuse a loss that is no differentiable function of the parameters that it is given.

    What cannot be evaluated at all is left to the estimate, which will say why.

    Raises:
        OptionError: it is none.
    """
    dtypes = (torch.float64, None) if params else ()
    for dtype in dtypes:
        try:
            with torch.enable_grad(), _generators_kept():
                _Trial(loss, params, dtype).run(twice=twice)
        except OptionError:
            raise
        except Exception as error:
            if "use_reentrant" in str(error):
                raise OptionError("activation checkpoints need use_reentrant=False here") from error
        else:
            return


class _Trial:
    """A loss and a point to try it at, copied; in float64 where the module can be run so."""

    def __init__(
        self, loss: ModuleLoss, params: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        def copied(data: Any) -> Any:
            if not isinstance(data, Tensor):
                return data
            copy = data.detach().clone()
            return copy.to(dtype) if dtype and data.is_floating_point() else copy

        self.module, self.state = loss.module, loss.state
        theta = {name: copied(value) for name, value in params.items()}
        frozen = {n: p for n, p in self.state.parameters.items() if n not in params}
        held: Params = tree_map(copied, frozen | loss.buffers)
        inputs, targets = tree_map(copied, tuple(loss.batch))
        self.loss = replace(loss, batch=(inputs, targets), buffers=held)
        self._random = torch.Generator("cpu").manual_seed(0)
        self._eps = max(torch.finfo(value.dtype).eps for value in theta.values())
        # Not theta itself: at an initial 0 there may be a kink, as of a ReLU after a bias.
        self._points = [axpy(0.02, self._direction(theta), theta) for _ in range(2)]

    def run(self, *, twice: bool) -> None:
        """Evaluate the loss, its gradient and a Hessian-vector product; refuse what is wrong.

        Raises:
            OptionError: it is.
            Exception: the loss cannot be evaluated.
        """
        state, loss = self.state, self.loss
        point = leaves(_cloned(self._points[0]))
        copy = replace(loss, buffers=_cloned(loss.buffers), batch=tree_map(_clone, loss.batch))
        generators = generator_states(self.module)
        # The backward pass within: what reads the module late finds the same parameters.
        with (
            state.filled(copy.buffers | point, alone=False),
            _buffers_after(self.module) as buffers,
        ):
            value, gradient = value_and_gradient(copy, point)
        if generators != generator_states(self.module):
            drew = [call.part for call in record_calls(loss, point) if call.drew]
            _refuse(
                f"{self._title(drew)} draws random numbers, and estimators evaluate a loss "
                "several times at a point: call .eval() on it"
            )
        self._refuse_writing(copy, point, buffers)
        if not value.isfinite():
            return
        again = leaves(self._points[0])
        value_again, slopes = value_and_gradient(loss, again, create_graph=True)
        if not self._same({"": value}, {"": value_again}):
            calls = zip(record_calls(loss, point), record_calls(loss, point), strict=False)
            differ = [one.part for one, two in calls if not _equal(one.outputs, two.outputs)]
            _refuse(
                f"{self._title(differ)} gives another result when it is called again with the "
                "same parameters and data: let it neither draw nor keep anything"
            )
        self._refuse_reach(value_again, point)
        if not self._same(gradient, slopes):
            _refuse(
                "part of the module runs again in the backward pass, with other parameters than "
                "before (an activation checkpoint, or a custom autograd function that reads the "
                "module): switch that off"
            )
        self._refuse_derivatives(twice=twice)

    def _refuse_writing(self, copy: ModuleLoss, point: Params, buffers: Params) -> None:
        """Refuse a loss that has changed what it was evaluated on."""
        if not _equal(tensors(copy.batch), tensors(self.loss.batch)):
            _refuse("the loss writes to its data, in place: let it work on a copy")
        before = self.loss.buffers | self._points[0]
        for name, after in (copy.buffers | point | buffers).items():
            if name not in before or not _equal([before[name]], [after]):
                part, _, leaf = name.rpartition(".")
                _refuse(
                    f"{self.state.title(part)} writes to its {leaf!r}, so that each inner step "
                    "would change the next: call .eval() on it, or build it so that it does not "
                    "(track_running_stats=False, max_norm=None)"
                )

    def _refuse_reach(self, value: Tensor, earlier: Params) -> None:
        """Refuse a loss whose graph reaches parameters that it was not given."""
        own = {n: p for n, p in self.state.parameters.items() if p.requires_grad}
        for others, whose in ((own, "the module's own"), (earlier, "an earlier call's")):
            found = torch.autograd.grad(
                value, list(others.values()), allow_unused=True, retain_graph=True
            )
            names = [name for name, slope in zip(others, found, strict=True) if slope is not None]
            if names:
                _refuse(
                    f"the loss reads {whose} {names[0]!r} in place of the one that it is given: "
                    "look parameters up in each call (model.parameters(), or an argument `params` "
                    "of the criterion), and keep none from before"
                )

    def _refuse_derivatives(self, *, twice: bool) -> None:
        """Refuse a loss whose first or second derivative is wrong."""
        errors = Errors(0.0, 0.0)
        for point in self._points:  # a second, since there may be a kink near the first
            direction = self._direction(point)
            errors = derivative_errors(self.loss, point, direction, twice=twice)
            if errors.small():
                return
            if not errors.small_first():
                break
        point = leaves(self._points[0])
        wrong = [c.part for c in record_calls(self.loss, point) if self._is_wrong(c.part, c.inputs)]
        operations = _graph(self.loss(point))
        causes = [cause for name, cause in _KNOWN_FAULTS.items() if name in operations]
        which, by = "gradient is not the slope of the value", errors.gradient
        if errors.small_first():
            which, by = "second derivative is not the slope of the gradient", errors.product
        _refuse(
            f"{self._title(wrong)}: its {which}; "
            + (f"they differ by {by:.1%}. " if by < inf else "one is not finite. ")
            + (causes[0] if causes else _LIKELY)
        )

    def _is_wrong(self, name: str, inputs: tuple[Any, ...]) -> bool:
        """Return whether a part of the module has a wrong derivative by itself."""
        part, prefix = self.module.get_submodule(name), f"{name}." if name else ""
        held, theta = (
            {n.removeprefix(prefix): t for n, t in some.items() if n.startswith(prefix)}
            for some in (self.loss.buffers, self._points[0])
        )
        data = {
            f"input {i}": each.detach()
            for i, each in enumerate(inputs)
            if isinstance(each, Tensor) and each.is_floating_point()
        }

        def total(params: Params) -> Tensor:
            given = [params.get(f"input {i}", each) for i, each in enumerate(inputs)]
            with ModuleState(part).filled(held | {n: params[n] for n in theta}):
                outputs = tensors(part(*given))
            return torch.stack([each.sin().sum() for each in outputs if each.requires_grad]).sum()

        with suppress(Exception):
            at = theta | data
            errors = derivative_errors(total, at, self._direction(at, prefix), twice=True)
            return not errors.small()
        return False

    def _direction(self, point: Params, prefix: str = "") -> Params:
        """Draw a direction in which the parameters of a part of the module may move."""
        found = random_direction(point, self._random)
        for name, part in self.module.named_modules():
            row = getattr(part, "padding_idx", None)  # of an embedding, which never trains that row
            weight = found.get(f"{name}.weight".lstrip(".").removeprefix(prefix))
            if row is not None and weight is not None:
                weight[row] = 0
        return found

    def _same(self, one: Params, other: Params) -> bool:
        """Return whether results are equal, but for the rounding of other ways to compute them."""
        one, other = detached(one), detached(other)
        return norm(axpy(-1.0, one, other)) <= max(1e-6, 1e3 * self._eps) * norm(one)

    def _title(self, parts: list[str]) -> str:
        return self.state.title(parts[0]) if parts else "the criterion"


def _generators_kept() -> AbstractContextManager[None]:
    """Put torch's generators back where they were, after a block."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.random.fork_rng(range(torch.cuda.device_count()) if used else ())


@contextmanager
def _buffers_after(module: nn.Module) -> Generator[Params]:
    """Yield a dictionary that gets the module's buffers as they are after its forward pass."""
    found: Params = {}
    hook = module.register_forward_hook(lambda *_: found.update(module.named_buffers()))
    try:
        yield found
    finally:
        hook.remove()


def _clone(data: Any) -> Any:
    return data.clone() if isinstance(data, Tensor) else data


def _cloned(params: Params) -> Params:
    return {name: value.clone() for name, value in params.items()}


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """Return whether tensors are the same to the bit; NaN is equal to NaN."""
    pairs = zip(some, others, strict=True)
    return all(
        one.shape == two.shape and bool(((one == two) | (one.isnan() & two.isnan())).all())
        for one, two in pairs
    )


def _graph(value: Tensor) -> set[str]:
    """Return the names of the operations in an autograd graph."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {node.name() for node in seen}
