"""Trial of a loss of a module: whether it is a function that can be differentiated twice."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from estimators.base.derivative_check import Errors, derivative_errors, random_direction
from estimators.base.differentiation import operations, value_and_gradient
from estimators.base.errors import OptionError
from estimators.base.module_calls import (
    Call,
    generator_states,
    lowest_precision,
    record_calls,
    tensors,
)
from estimators.base.module_loss import ModuleLoss
from estimators.base.module_state import ModuleState
from estimators.base.tree import Params, axpy, detached, leaves, norm

_LIKELY = (
    "Is it cut, rounded or replaced (detach, .item(), a straight-through or custom function, a "
    "hook, a checkpoint with use_reentrant=True)?"
)
_KNOWN_FAULTS = {
    "WeightNormInterfaceBackward0": "torch's fused weight_norm is wrong on a CPU "
    "(github.com/facebookresearch/higher/issues/14): write it in plain operations."
}


def refuse(reason: str) -> NoReturn:
    """Refuse a problem, and say how to leave its check out.

    Raises:
        OptionError: always.
    """
    raise OptionError(f"{reason} (module_problem(..., check=False) leaves this check out)")


class Trial:
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
        self._theta = self._point = theta

    def run(self, *, twice: bool) -> None:
        """Evaluate the loss, its gradient and a Hessian-vector product; refuse what is wrong.

        Raises:
            OptionError: it is.
            Exception: the loss cannot be evaluated.
        """
        # Not at theta itself: at an initial 0 there may be a kink, as of a ReLU after a bias. But
        # nearer to it where the loss is not finite, as of a variance that becomes negative.
        for away in (0.02, 1e-4, 0.0):
            self._point = axpy(away, self._direction(self._theta), self._theta)
            value, finite = self._refuse_state()
            if finite and self._refuse_derivatives(twice=twice, last=not away):
                return
        if value.isfinite():
            refuse("the loss is finite, but its gradient is not, at the parameters given")

    def _refuse_state(self) -> tuple[Tensor, bool]:
        """Refuse a loss that draws, writes, or depends on more than it is given.

        Returns:
            Its value, and whether value and gradient are finite.
        """
        loss, point = self.loss, leaves(_cloned(self._point))
        copy = replace(loss, buffers=_cloned(loss.buffers), batch=tree_map(_clone, loss.batch))
        for _ in range(3):  # another thread may have drawn
            generators = generator_states(self.module)
            with _buffers_after(self.module) as buffers:
                value, gradient = value_and_gradient(copy, point, create_graph=True)
            if generators == generator_states(self.module):
                break
        else:
            drew = [call.part for call in record_calls(loss, point) if call.drew]
            inner = [part for part in drew if not any(_is_within(other, part) for other in drew)]
            on = bool(inner) and all(self.module.get_submodule(part).training for part in inner)
            remedy = "call .eval() on it, and not .train() again; or " if on else ""
            refuse(
                f"{self._title(inner)} draws random numbers, and estimators evaluate a loss "
                f"several times at a point: {remedy}draw before, and put the numbers into the data"
            )
        self._refuse_writing(copy, point, buffers)
        value_again, slopes = value_and_gradient(loss, leaves(self._point), create_graph=True)
        self._refuse_reach(value_again, point)
        if not all(tensor.isfinite().all() for tensor in (value, *gradient.values())):
            return value, False
        if not self._same({"": value} | gradient, {"": value_again} | slopes):
            calls = zip(record_calls(loss, point), record_calls(loss, point), strict=False)
            differ = [one.part for one, two in calls if not _equal(one.outputs, two.outputs)]
            refuse(
                f"{self._title(differ[:1])} gives another result when it is called again with the "
                "same parameters and data: let it neither draw nor keep anything"
            )
        return value, True

    def _refuse_writing(self, copy: ModuleLoss, point: Params, buffers: Params) -> None:
        """Refuse a loss that has changed what it was evaluated on."""
        if not _equal(tensors(copy.batch), tensors(self.loss.batch)):
            refuse("the loss writes to its data, in place: let it work on a copy")
        before, after = self.loss.buffers | self._point, copy.buffers | point | buffers
        written = [
            name
            for name, tensor in after.items()
            if name not in before or not _equal([before[name]], [tensor])
        ]
        if not written:
            return
        _, _, leaf = written[0].rpartition(".")
        remedy = "call .eval() on it"
        if "running" in leaf or "batches" in leaf:
            remedy = (
                "build it with track_running_stats=False, which normalises by the batch (.eval() "
                "normalises by the running statistics as they are)"
            )
        elif written[0] in point:
            remedy = "build it so that it does not (max_norm=None)"
        parts = list(dict.fromkeys(name.rpartition(".")[0] for name in written))
        refuse(
            f"{self._title(parts)} writes to {leaf!r}, so that each inner step would change the "
            f"next: {remedy}"
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
                refuse(
                    f"the loss reads {whose} {names[0]!r} in place of the one that it is given: "
                    "look parameters up in each call (model.parameters(), or an argument `params` "
                    "of the criterion), and keep none from before"
                )

    def _refuse_derivatives(self, *, twice: bool, last: bool) -> bool:
        """Refuse a loss whose first or second derivative is wrong.

        Args:
            twice: whether the second matters.
            last: refuse what is not finite, too.

        Returns:
            False where a derivative is not finite.
        """
        precision, errors = torch.float64, Errors(inf, inf)
        at = self._point
        for attempt in range(3):  # there may be a kink nearby
            direction = self._direction(at)
            errors = derivative_errors(self.loss, at, direction, precision, twice=twice)
            if errors.small(precision):
                # An error can lie across one direction; the gradient is cheap to try in another.
                direction = self._direction(at)
                more = derivative_errors(self.loss, at, direction, precision, twice=False)
                errors = Errors(max(errors.gradient, more.gradient), errors.product)
            if errors.small(precision):
                return True
            if not attempt:
                precision = lowest_precision(self.loss, at)
                if precision.itemsize < 4:  # too coarse to be told
                    return True
                if precision == torch.float64 and not errors.small_first(precision):
                    break  # no kink does that
            at = axpy(0.01, direction, at)
        if max(errors) == inf and not last:
            return False
        calls = record_calls(self.loss, self._point)
        wrong = [call.part for call in calls if self._is_wrong(call, precision)]
        names = {node.name() for node in operations(self.loss(leaves(self._point)))}
        causes = [cause for name, cause in _KNOWN_FAULTS.items() if name in names]
        which, by, way_out = "gradient is not the slope of the value", errors.gradient, ""
        if errors.small_first(precision):
            which, by = "second derivative is not the slope of the gradient", errors.product
            way_out = " fomaml, reptile and hf-maml need none: for these, pass check=False."
        refuse(
            f"{self._title(wrong[:1])}: its {which}; "
            + (f"they differ by {by:.1%}. " if by < inf else "one is not finite. ")
            + (causes[0] if causes else _LIKELY)
            + way_out
        )

    def _is_wrong(self, call: Call, precision: torch.dtype) -> bool:
        """Return whether a part of the module has a wrong derivative by itself."""
        name, inputs = call.part, call.inputs
        part, prefix = self.module.get_submodule(name), f"{name}." if name else ""
        held, theta = (
            {n.removeprefix(prefix): t for n, t in some.items() if n.startswith(prefix)}
            for some in (self.loss.buffers, self._point)
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
            at = theta | axpy(0.02, self._direction(data), data)  # off the ties of its inputs
            direction = self._direction(at, prefix)
            errors = derivative_errors(total, at, direction, precision, twice=True)
            return not errors.small(precision)
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
        distance, length = norm(axpy(-1.0, one, other)), norm(one)
        if distance <= 1e-6 * length:
            return True
        precision = lowest_precision(self.loss, self._point)
        return distance <= 1e3 * torch.finfo(precision).eps * length

    def _title(self, parts: list[str]) -> str:
        titles = [self.state.title(part) for part in parts[:3]]
        return ", ".join(titles) + (", ..." if len(parts) > 3 else "") or "the criterion"


def _is_within(part: str, other: str) -> bool:
    return part != other and (not other or part.startswith(f"{other}."))


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
