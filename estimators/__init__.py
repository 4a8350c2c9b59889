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

from estimators.errors import OptionError
from estimators.estimator import Estimator, MetaGradient
from estimators.meta_batch import MetaBatch, estimate_batch, meta_backward
from estimators.module_loss import ModuleLoss, module_problem, trainable
from estimators.problem import BilevelProblem
from estimators.registry import available, create, register
from estimators.tree import Params

for _name in (  # importing registers them
    "adjoint",
    "anil",
    "binom",
    "binom_calibrated",
    "binom_released",
    "fomaml",
    "hybrid",
    "imaml",
    "maml",
    "mixed",
    "neumann",
    "reptile",
    "truncated",
):
    import_module(f"estimators.{_name}")

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
