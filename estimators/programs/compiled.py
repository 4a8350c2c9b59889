"""A problem whose inner loop, outer gradient and products are compiled programs."""

import warnings
from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from itertools import groupby
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from estimators.base.agreement import difference
from estimators.base.errors import OptionError
from estimators.base.estimator import Estimator, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, axpy
from estimators.hvp import Hessian
from estimators.programs.disk import Executable, digest, find
from estimators.programs.layout import Form, Layout
from estimators.programs.signature import Signature

Points = Any
"""Iterates in the order of the inner loop: a list of parameters, or rows where compiled."""

_MOST = 64  # kinds of problem whose programs are at hand
_known: dict[Hashable, "Kind"] = {}
_making = RLock()


class Kind:
    """Programs of the problems that differ in the values of their tensors, or in depth.

    Args:
        params: such as theirs.

    Attributes:
        layout: of the parameters.
        text: of what it is made for, the same in another process.
        programs: by form.
        verdicts: for each estimator, depth and kind of descent, whether it gives with them what it
            gives without.
    """

    def __init__(self, params: Params, text: str) -> None:
        self.layout = Layout.of(params)
        self.text = text
        self.programs: dict[Form, Executable] = {}
        self.verdicts: dict[Hashable, bool] = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class CompiledProblem(BilevelProblem):
    """A bilevel problem with compiled programs, each of which is made at its first call.

    Attributes:
        kind: has the programs.
        tensors: that the losses hold.
    """

    kind: Kind
    tensors: Sequence[Tensor]

    @classmethod
    def of(cls, problem: BilevelProblem, params: Params) -> "CompiledProblem":
        """Return a problem with the programs of its kind.

        Args:
            problem: the bilevel problem.
            params: theta.

        Raises:
            OptionError: no program can be made for such parameters, or such losses.
        """
        signature = Signature(problem.inner_loss, problem.outer_loss)
        kinds = tuple([(n, v.shape, v.dtype, v.device) for n, v in params.items()])
        settings = torch.get_num_threads(), torch.get_default_dtype(), _autocast(params)
        key = signature.key, kinds, settings
        kind = _known.get(key)
        if kind is None:
            if len({each[2:] for each in kinds}) > 1:
                raise OptionError("compiled=True needs parameters of one dtype, on one device")
            if len(_known) >= _MOST:
                _known.clear()
            kind = _known[key] = Kind(params, signature.text() + repr((kinds, settings)))
        own = {one.name: getattr(problem, one.name) for one in fields(BilevelProblem)}
        return cls(**own, kind=kind, tensors=signature.tensors)

    def adapt(self, params: Params) -> Params:
        """See `BilevelProblem.adapt`."""
        return self.exact(params, last=0).adapted

    def exact(self, params: Params, last: int, weights: Sequence[float] = ()) -> MetaGradient:
        """Return the derivative through the last steps.

        Args:
            params: theta.
            last: how many, 0 to K.
            weights: w_1, ..., w_K of outer losses along the loop; nothing where only the last one
                counts.
        """
        layout, by_sizes = self.kind.layout, None
        state, sizes = layout.join(params), self.step_size
        more: list[Tensor] = []
        if isinstance(sizes, dict):
            more = [layout.join({name: sizes[name].expand_as(v) for name, v in params.items()})]
        if self.momentum:
            more.append(state.new_tensor(self.momentum))
            state = torch.cat([state, torch.zeros_like(state)])
        if weights:
            before = [0.0, *weights[:-1]][: self.steps]
            more += [state.new_tensor(before), state.new_tensor(weights[-1])]
        outer_loss, end, _, _, back, *by_constants = self._descend(
            state,
            last,
            more,
            momentum=bool(self.momentum),
            sizes=isinstance(sizes, dict),
            mixed=bool(weights),
        )
        if isinstance(sizes, dict):
            each = layout.unflatten(by_constants[0])
            by_sizes = {name: each[name].sum_to_size(size.shape) for name, size in sizes.items()}
        if self.momentum:
            back, end = back[: layout.size], end[: layout.size]
        gradient, adapted = layout.unflatten(back), layout.unflatten(end)
        return MetaGradient(gradient, outer_loss, adapted, last, last, by_sizes)

    def exact_in(self, params: Params, names: Sequence[str]) -> tuple[Tensor, Params, Params]:
        """Return the derivative through all steps, which change some parameters only.

        Args:
            params: theta.
            names: of those that are adapted.

        Returns:
            The outer loss, the adapted parameters with the others, and the derivatives by theta.
        """
        some = Layout.of({name: params[name] for name in names})
        rest = Layout.of({name: value for name, value in params.items() if name not in names})
        state, constants = some.join(params), [rest.join(params)] if rest.shapes else []
        outer_loss, end, _, _, *back = self._descend(
            state, self.steps, constants, layout=some, rest=rest if constants else None
        )
        adapted, gradient = some.unflatten(end), some.unflatten(back[0])
        if constants:
            adapted |= rest.unflatten(constants[0])
            gradient |= rest.unflatten(back[1])
        return outer_loss, {n: adapted[n] for n in params}, {n: gradient[n] for n in params}

    def descend(self, params: Params) -> tuple[Tensor, Params, Tensor, Params]:
        """Return phi_0, ..., phi_{K-1} as rows, phi_K, the outer loss and its gradient."""
        layout = self.kind.layout
        outer_loss, end, states, g, *_ = self._descend(layout.join(params), last=0)
        return states, layout.unflatten(end), outer_loss, layout.unflatten(g)

    def proximal(self, params: Params, strength: float) -> tuple[Hessian, Params, Tensor, Params]:
        """Run the inner loop with a proximal term.

        Args:
            params: theta.
            strength: lambda.

        Returns:
            The Hessian of the inner loss at phi_K, phi_K, the outer loss and its gradient.
        """
        layout = self.kind.layout
        state = layout.join(params)
        more = [state.new_tensor(strength), state]
        outer_loss, end, _, g = self._descend(state, 0, more, proximal=True)
        return _Hessian(self, end), layout.unflatten(end), outer_loss, layout.unflatten(g)

    def hessian_at(self, point: Params) -> Hessian:
        """Return the Hessian of the inner loss at a point, as an operator."""
        return _Hessian(self, self.kind.layout.join(point))

    def product(self, state: Tensor, vector: Params) -> Params:
        """Return one Hessian-vector product at a state, a vector of parameters."""
        layout = self.kind.layout
        return layout.unflatten(self._run(self._form("product"), [state, layout.join(vector)])[0])

    def cascade(self, states: Tensor, g: Params, order: int, scale: float) -> Params:
        """Return u_L(0), see `estimators.methods.cascade`.

        Args:
            states: phi_m in the order of the inner loop, as rows.
            g: the outer gradient.
            order: L.
            scale: used in place of alpha.
        """
        n = len(states)
        needed = [(max(1, order - m), min(order, n - m)) for m in range(n)]
        return self.kind.layout.unflatten(self._levels(states, g, needed, scale)[-1])

    def _levels(
        self, states: Tensor, g: Params, needed: list[tuple[int, int]], scale: float
    ) -> list[Tensor]:
        """Carry levels back through all steps: at each of them those from one to another.

        A level that is new begins as the one below it.
        """
        levels = [self.kind.layout.join(g)]
        sizes = states.new_full((len(states),), scale)
        for (bottom, top), group in groupby(reversed(range(len(needed))), needed.__getitem__):
            steps = [*group]
            if bottom > top:
                continue
            if top == len(levels):
                levels.append(levels[-1])
            path = torch.tensor(steps, device=states.device)
            some = slice(bottom, top + 1)
            given = [states, sizes, path, levels[bottom - 1], torch.stack(levels[some])]
            form = self._form("cascade", levels=top - bottom + 1)
            levels[some] = self._run(form, given)[0].unbind()
        return levels

    def _descend(
        self, state: Tensor, last: int, more: Sequence[Tensor] = (), **options: Any
    ) -> list[Tensor]:
        size = 1.0 if isinstance(self.step_size, dict) else self.step_size
        sizes = state.new_full((self.steps,), size)
        path = torch.arange(self.steps - 1, self.steps - last - 1, -1, device=state.device)
        return self._run(self._form("exact", **options), [state, sizes, path, *more])

    def _form(self, name: str, **options: Any) -> Form:
        return Form(name=name, **{"layout": self.kind.layout, **options})

    def _run(self, form: Form, given: list[Tensor]) -> list[Tensor]:
        """Run a program, which is made where it is not at hand."""
        ready = self.kind.programs.get(form)
        if ready is None:
            with _making:
                ready = self.kind.programs.get(form) or self._ready(form, given[0])
        return ready.run([*given, *[self.tensors[place].contiguous() for place in ready.places]])

    def _ready(self, form: Form, like: Tensor) -> Executable:
        """Find a program on disk, or make it."""
        name = digest(self.kind.text, form, like.device)
        with _disable_current_modes():
            ready = find(name, like.device)
        if ready is None:
            # Takes a second, which few want to wait for.
            from estimators.programs.making import make

            ready = make(self, self.tensors, form, like, name)
        self.kind.programs[form] = ready
        return ready


class _Hessian(Hessian):
    """The Hessian of a compiled problem's inner loss at a state."""

    def __init__(self, problem: CompiledProblem, state: Tensor) -> None:
        self._problem, self._state = problem, state
        super().__init__(problem.inner_loss, {})

    def _prepare(self, loss: object, params: Params) -> None:
        del loss, params

    def _product(self, vector: Params, *, last: bool) -> Params:
        del last
        return self._problem.product(self._state, vector)


def compiled_estimate(
    estimator: Estimator, problem: BilevelProblem, params: Params
) -> MetaGradient:
    """Run `estimator.estimate` with compiled programs.

    They are compared with uncompiled code once for problems of a kind, on so few steps that all of
    them are used.

    Args:
        estimator: what to run; hashable.
        problem: the bilevel problem.
        params: theta.

    Raises:
        OptionError: something in the estimate, most likely in a loss, cannot be compiled.
    """
    compiled = CompiledProblem.of(problem, params)
    verdicts = compiled.kind.verdicts
    few = min(problem.steps, max(2, 2 * getattr(estimator, "order", 0)))
    key = estimator, few, bool(problem.momentum), isinstance(problem.step_size, dict)
    verdict = verdicts.get(key)
    if verdict is None:
        fault = _fault(estimator, compiled, problem, params, few)
        verdict = not fault
        if fault is not None:
            verdicts[key] = verdict
        if fault:
            warnings.warn(
                f"{estimator.title}: its compiled program differs from what it was made of by "
                f"{fault}; it is not used",
                stacklevel=2,
            )
    return estimator.estimate(compiled if verdict else problem, params)


def compile_seconds(problem: BilevelProblem, params: Params) -> float:
    """Return how long the programs took to compile that were used for a kind of problem.

    Those that were found on disk count with the time that they took once.

    Args:
        problem: one of that kind.
        params: theta.
    """
    kind = CompiledProblem.of(problem, params).kind
    return sum(program.seconds for program in kind.programs.values())


def _fault(
    estimator: Estimator,
    compiled: CompiledProblem,
    problem: BilevelProblem,
    params: Params,
    few: int,
) -> str | None:
    """Return how estimates differ that are compiled and not; None where that is unknown.

    They are taken at the least depth from `few` on that the estimator supports.
    """
    depths = range(few, problem.steps + 1)
    steps = next((k for k in depths if not estimator.unsupported_reason(k)), problem.steps)
    with _disable_current_modes():
        one, other = (  # by copies, since an estimator may count its calls
            deepcopy(estimator).estimate(replace(each, steps=steps), params)
            for each in (compiled, problem)
        )
        moves = [axpy(-1.0, params, each.adapted) for each in (one, other)]
        pairs = (
            (one.gradient, other.gradient),
            moves,
            ({"": one.outer_loss}, {"": other.outer_loss}),
            (one.step_size_gradient, other.step_size_gradient),
        )
        faults = [difference([a], [b], slack=3.0) for a, b in pairs if a and b]
    return next((fault for fault in faults if fault), None if None in faults else "")


def _autocast(params: Params) -> torch.dtype | None:
    device = next(iter(params.values())).device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
