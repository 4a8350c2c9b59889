"""Meta-gradient estimators for any training loop; needs only torch.

Example:
    >>> import torch
    >>> from estimators import BilevelProblem, create
    >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
    >>> problem = BilevelProblem(loss, loss, step_size=0.1, steps=5)
    >>> create("binom(order=2)")(problem, {"w": torch.ones(3)}).gradient["w"].shape
    torch.Size([3])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimators.base.errors import OptionError, UserError

if TYPE_CHECKING:
    from estimators.base.estimator import Cost, Estimator, MetaGradient
    from estimators.base.map_problem import MapProblem, frozen
    from estimators.base.meta_batch import MetaBatch, estimate_batch, meta_backward
    from estimators.base.module_loss import ModuleLoss, trainable
    from estimators.base.module_problem import module_problem
    from estimators.base.problem import BilevelProblem
    from estimators.base.random import RandomEstimator
    from estimators.base.registry import available, create, register
    from estimators.base.sampled_problem import Environment, Episodes, SampledProblem
    from estimators.base.tree import Params

_WHERE = {
    "Cost": "estimators.base.estimator",
    "Estimator": "estimators.base.estimator",
    "MetaGradient": "estimators.base.estimator",
    "MapProblem": "estimators.base.map_problem",
    "frozen": "estimators.base.map_problem",
    "MetaBatch": "estimators.base.meta_batch",
    "estimate_batch": "estimators.base.meta_batch",
    "meta_backward": "estimators.base.meta_batch",
    "ModuleLoss": "estimators.base.module_loss",
    "module_problem": "estimators.base.module_problem",
    "trainable": "estimators.base.module_loss",
    "BilevelProblem": "estimators.base.problem",
    "RandomEstimator": "estimators.base.random",
    "available": "estimators.base.registry",
    "create": "estimators.base.registry",
    "register": "estimators.base.registry",
    "Environment": "estimators.base.sampled_problem",
    "Episodes": "estimators.base.sampled_problem",
    "SampledProblem": "estimators.base.sampled_problem",
    "Params": "estimators.base.tree",
}


def __getattr__(name: str) -> Any:
    """Import a name, and torch, at its first use: errors and specifications need no torch.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


__all__ = [
    "BilevelProblem",
    "Cost",
    "Environment",
    "Episodes",
    "Estimator",
    "MapProblem",
    "MetaBatch",
    "MetaGradient",
    "ModuleLoss",
    "OptionError",
    "Params",
    "RandomEstimator",
    "SampledProblem",
    "UserError",
    "available",
    "create",
    "estimate_batch",
    "frozen",
    "meta_backward",
    "module_problem",
    "register",
    "trainable",
]
