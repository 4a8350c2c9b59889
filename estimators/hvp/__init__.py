"""Hessian-vector products: every estimator's products go through here, and are counted here."""

from estimators.hvp.engines import ENGINES, hessian_at, hvp, kernels_for
from estimators.hvp.hessian import Hessian, count_hvps

__all__ = ["ENGINES", "Hessian", "count_hvps", "hessian_at", "hvp", "kernels_for"]
