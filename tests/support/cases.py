"""The conformance suite's small bilevel problems, each with its dense reference."""

from functools import cache

import torch
from torch import Tensor

from estimators import MetaGradient, Params, create
from harness.conformance.cases import SYNTHETIC, Case, Source, case
from tests.support.oracle import Loss, Oracle

NAMES = list(SYNTHETIC)
CURVED = [name for name in NAMES if case(name).curved]


def kinked(dtype: torch.dtype, seed: int) -> Case:
    """Regression by a ReLU network: curvature and kinks; none of `NAMES`, which are smooth."""
    source = Source(100 + seed, dtype, draw=0)

    def regression() -> Loss:
        inputs, targets = source.normal(1, 10), source.normal(1, 10)

        def loss(params: Params) -> Tensor:
            hidden = torch.relu(params["first"] @ inputs + params["bias"])
            hidden = torch.relu(params["middle"] @ hidden)
            return (params["last"] @ hidden - targets).square().mean()

        return loss

    params = {
        "first": source.normal(40, 1),
        "bias": source.normal(40, 1),
        "middle": source.normal(40, 40) / 40**0.5,
        "last": source.normal(1, 40) / 40**0.5,
    }
    return Case("kinked", regression(), regression(), 0.02, params)


def estimate(spec: str, name: str, steps: int) -> MetaGradient:
    """Returns what an estimator makes of a case at a depth."""
    found = case(name)
    return create(spec)(found.problem(steps), found.params)


@cache
def oracle(name: str, steps: int) -> Oracle:
    """Returns the reference for a case at a depth."""
    found = case(name)
    return Oracle(found.inner_loss, found.outer_loss, found.step_size, steps, found.params)
