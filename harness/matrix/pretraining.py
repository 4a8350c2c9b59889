"""Exact meta-training: where training leads is another place to measure than where it starts."""

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import estimators
from estimators import BilevelProblem, Estimator, Params, create, estimate_batch
from estimators.base.differentiation import value_and_gradient
from estimators.base.meta_batch import Batching
from estimators.base.tree import leaves, norm
from estimators.methods.options import measured_default
from harness.matrix.outcome import Diverged
from harness.support import cache

META_BATCH = 4
_LEARNING_RATE = 1e-3
_SAVED_EVERY = 100  # steps, so that a run that is stopped does not begin anew
_SOURCES = (Path(inspect.getfile(estimators)).parent, Path(__file__))


def pretrain(
    theta: Params,
    meta_batch: Callable[[int], Sequence[BilevelProblem]],
    *,
    steps: int,
    origin: str,
) -> Params:
    """Take steps of Adam (learning rate 1e-3) along the exact mean meta-gradient.

    Checkpoints are cached under all that they depend on, and training goes on from the latest
    that there is: the end is the same to the bit.

    Raises:
        Diverged: a meta-gradient is not finite.

    Example:
        >>> loss = lambda params: (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.1, steps=1)
        >>> theta = {"w": torch.ones(1, dtype=torch.float64)}
        >>> trained = pretrain(theta, lambda step: [problem], steps=2, origin="example")
        >>> round(trained["w"].item(), 3)
        0.998
    """
    first = meta_batch(0)
    chain = cache.digest(
        origin,
        *_SOURCES,
        cache.arithmetic("cpu"),
        repr((META_BATCH, _LEARNING_RATE)),
        *losses_at(first[0], theta),
    )
    params = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}
    optimizer = torch.optim.Adam(params.values(), lr=_LEARNING_RATE)
    start = 0
    for step in range(steps, 0, -1):
        state = cache.load("checkpoint", f"{chain}-{step}")
        if state is not None:
            _restore(state, params, optimizer)
            start = step
            break
    batching = batching_for(create("maml"), first, theta) if start < steps else "loop"
    for step in range(start, steps):
        mean = estimate_batch(create("maml"), meta_batch(step), params, batching=batching)
        if not math.isfinite(norm(mean.gradient)):
            raise Diverged(f"exact meta-training: the meta-gradient of step {step} is not finite")
        for name, value in params.items():
            value.grad = mean.gradient[name]
        optimizer.step()
        if step + 1 == steps or (step + 1) % _SAVED_EVERY == 0:
            state = {
                "params": {name: value.detach() for name, value in params.items()},
                "optimizer": optimizer.state_dict(),
            }
            cache.save("checkpoint", f"{chain}-{step + 1}", state)
    return {name: value.detach() for name, value in params.items()}


def losses_at(problem: BilevelProblem, theta: Params) -> tuple[Any, ...]:
    """Return parts for `cache.digest`: they change when data, model or losses do."""
    point = leaves(theta)
    inner, outer = (value_and_gradient(f, point) for f in (problem.inner_loss, problem.outer_loss))
    return theta, problem.steps, problem.alpha, *inner, *outer


def _restore(state: dict[str, Any], params: Params, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for name, value in params.items():
            value.copy_(state["params"][name])
    optimizer.load_state_dict(state["optimizer"])


def batching_for(
    estimator: Estimator, problems: Sequence[BilevelProblem], theta: Params
) -> Batching:
    """Take the tasks at once where small dense models make that twice as fast, if it works."""
    if measured_default(theta).batching == "vmap" and estimator.batchable:
        try:
            estimate_batch(estimator, problems, theta, batching="vmap")
        except (RuntimeError, ValueError):  # losses that vmap cannot take, data of several shapes
            return "loop"
        return "vmap"
    return "loop"
