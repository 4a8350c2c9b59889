"""Meta-gradient estimators, usable alone in any training loop; needs torch only.

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

from estimators.errors import OptionError

if TYPE_CHECKING:
    from estimators.estimator import Estimator, MetaGradient
    from estimators.meta_batch import MetaBatch, estimate_batch, meta_backward
    from estimators.module_loss import ModuleLoss, module_problem, trainable
    from estimators.problem import BilevelProblem
    from estimators.registry import available, create, register
    from estimators.tree import Params

_WHERE = {
    "Estimator": "estimators.estimator",
    "MetaGradient": "estimators.estimator",
    "MetaBatch": "estimators.meta_batch",
    "estimate_batch": "estimators.meta_batch",
    "meta_backward": "estimators.meta_batch",
    "ModuleLoss": "estimators.module_loss",
    "module_problem": "estimators.module_loss",
    "trainable": "estimators.module_loss",
    "BilevelProblem": "estimators.problem",
    "available": "estimators.registry",
    "create": "estimators.registry",
    "register": "estimators.registry",
    "Params": "estimators.tree",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and torch, only then: errors and specifications need none.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


__all__ = [
    "BilevelProblem",
    "Estimator",
    "MetaBatch",
    "MetaGradient",
    "ModuleLoss",
    "OptionError",
    "Params",
    "available",
    "create",
    "estimate_batch",
    "meta_backward",
    "module_problem",
    "register",
    "trainable",
]
