"""Inner loops whose step is any differentiable map, and gradient descent on some entries only."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.base.differentiation import Loss, gradient_at
from estimators.base.errors import OptionError
from estimators.base.problem import BilevelProblem, State
from estimators.base.tree import Params, axpy, leaves

InnerMap = Callable[[Params, int], Params]
"""Map phi_k and k to phi_{k+1}, differentiably in phi_k."""


@dataclass(frozen=True, kw_only=True)
class MapProblem(BilevelProblem):
    r"""Adaptation by K steps of a map, phi_{k+1} = F_k(phi_k), phi_0 = theta.

    The meta-gradient is dF_0' ... dF_{K-1}' g, with g the gradient of the outer loss at phi_K, and
    dF_k' the transposed Jacobian at phi_k; for gradient descent dF_k = I - alpha H_k. Estimators
    that need no more than the map take such a problem: maml, adjoint, truncated, fomaml, binom and
    mixed, with B_k = I - dF_k in the place of alpha H_k; so does `implicit` where there are frozen
    entries. Others refuse it.

    Attributes:
        inner_map: F; a map that diverges returns numbers that are not finite.
        auxiliary: further entries of the map's state with their values at the start, such as the
            dual variables of ADMM; F and the outer loss get them among the parameters, theta and
            its meta-gradient do not have them.
        frozen: names of entries of theta that F leaves as they are: hyperparameters.
        inner_loss: what the inner loop lowers; only `implicit` looks at it.
        linearised: maps a point to the inner loss with its dynamics linearised there, whose Hessian
            is Gauss-Newton's; likewise.

    Raises:
        OptionError: a number is out of its range; or, when an estimate is made, the map returns
            something else than what it was given.

    Example:
        >>> import torch
        >>> from estimators import create
        >>> loss = lambda params: (params["w"] ** 2).sum()
        >>> halve = lambda params, k: {"w": params["w"] / 2}
        >>> problem = MapProblem(loss, loss, steps=2, inner_map=halve)
        >>> create("maml")(problem, {"w": torch.ones(1)}).gradient["w"]  # 2 w_2 / 4
        tensor([0.1250])
    """

    step_size: float | Params = 1.0  # so that alpha B_k is B_k
    inner_map: InnerMap
    auxiliary: Params = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    linearised: Callable[[Params], Loss] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum or self.step_size != 1:
            raise OptionError(
                "an inner map has no momentum and no step size: let inner_map have them"
            )
        if not isinstance(self.auxiliary, dict) or not all(
            isinstance(value, Tensor) for value in self.auxiliary.values()
        ):
            raise OptionError("auxiliary must be a dict of tensors")
        if isinstance(self.frozen, str):
            raise OptionError(f"frozen={self.frozen!r} must be names: write [{self.frozen!r}]")

    @property
    def plain(self) -> bool:
        """False: the inner loop is not gradient descent."""
        return False

    def start(self, params: Params) -> State:
        """See `BilevelProblem.start`.

        Raises:
            OptionError: frozen names are not those of parameters, or auxiliary names are.
        """
        unknown = [name for name in self.frozen if name not in params]
        if unknown:
            raise OptionError(
                f"frozen: no parameter is {unknown[0]!r}; there is {', '.join(params)}"
            )
        if len({*self.frozen}) == len(params):
            raise OptionError("frozen: some parameter must be left for the inner loop to adapt")
        taken = sorted(self.auxiliary.keys() & params.keys())
        if taken:
            raise OptionError(f"auxiliary: {taken[0]!r} is the name of a parameter")
        return State(params | self.auxiliary, {})

    def adapted_entries(self, params: Params) -> Params:
        """Return the entries that the inner loop moves.

        Args:
            params: theta, or an iterate.
        """
        fixed = {*self.frozen, *self.auxiliary}
        return {name: value for name, value in params.items() if name not in fixed}

    def without_auxiliary(self, params: Params) -> Params:
        """Return the entries of theta.

        Args:
            params: an iterate, or a gradient with respect to one.
        """
        return {name: value for name, value in params.items() if name not in self.auxiliary}

    def adapt(self, params: Params) -> Params:
        """See `BilevelProblem.adapt`."""
        return self.without_auxiliary(self.end(params))

    def _next(self, state: State, *, create_graph: bool) -> State:
        versions = [value._version for value in state.params.values()]
        moved = self.inner_map(dict(state.params), state.step)
        if versions != [value._version for value in state.params.values()]:
            raise OptionError("inner_map must not write to what it is given: return new tensors")
        _check_moved(moved, state.params)
        for name in self.frozen:
            before = state.params[name]
            if moved[name] is not before and not torch.equal(moved[name], before):
                raise OptionError(f"inner_map moves {name!r}, which is frozen: leave it as it is")
        ordered = {name: moved[name] for name in state.params}
        if not create_graph:
            return State(leaves(ordered), {}, state.step + 1)
        if not any(value.requires_grad for value in ordered.values()):
            raise OptionError(
                "inner_map returns nothing that is differentiable in what it is given: take "
                "no_grad or detach out of it"
            )
        return State(ordered, {}, state.step + 1)


def frozen(problem: BilevelProblem, names: Collection[str]) -> MapProblem:
    """Return the problem with some parameters that inner steps leave as they are.

    These are hyperparameters: both losses see them, and the meta-gradient has their share, but the
    inner loop takes its steps on the others, phi <- phi - alpha grad_phi inner_loss(phi, frozen).

    Args:
        problem: plain gradient descent.
        names: of the parameters.

    Raises:
        OptionError: the inner loop is another, or there are no names.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> inner = lambda p: 0.5 * (p["weight"].exp() * p["w"] ** 2).sum()
        >>> outer = lambda p: 0.5 * (p["w"] ** 2).sum()
        >>> problem = frozen(BilevelProblem(inner, outer, step_size=0.5, steps=1), ["weight"])
        >>> theta = {"w": torch.ones(1), "weight": torch.zeros(1)}
        >>> create("maml")(problem, theta).gradient["weight"]  # -.5 exp(weight) (1 - .5)
        tensor([-0.2500])
    """
    if isinstance(problem, MapProblem):
        raise OptionError(
            "frozen: the problem has an inner map already; name all parameters in one call, or "
            "let the map leave them as they are"
        )
    if isinstance(names, str) or not names:
        raise OptionError("frozen: name at least one parameter, in a list")
    alpha, names = problem.alpha, tuple(names)

    def descend(params: Params, step: int) -> Params:
        del step
        fixed = {name: params[name] for name in names}
        others = {name: value for name, value in params.items() if name not in fixed}

        def loss(moving: Params) -> Tensor:
            return problem.inner_loss(moving | fixed)

        slopes = gradient_at(loss, others, create_graph=True)
        return axpy(-alpha, slopes, others) | fixed

    return MapProblem(
        problem.inner_loss,
        problem.outer_loss,
        steps=problem.steps,
        inner_map=descend,
        frozen=names,
    )


def _check_moved(moved: object, params: Params) -> None:
    if not isinstance(moved, Mapping) or moved.keys() != params.keys():
        raise OptionError("inner_map must return a dict with the very names that it was given")
    for name, value in params.items():
        got = moved[name]
        if not isinstance(got, Tensor) or got.shape != value.shape or got.dtype != value.dtype:
            raise OptionError(
                f"inner_map must return {name!r} as it was given, {value.dtype} of shape "
                f"{tuple(value.shape)}"
            )
