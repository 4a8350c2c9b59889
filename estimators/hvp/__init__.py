"""Hessian-vector products: every estimator's products go through here, and are counted here."""

from estimators.hvp.engines import ENGINES, hessian_at, hvp, kernels_for
from estimators.hvp.hessian import Hessian, count_hvps
from estimators.hvp.inner_map import curvature_at

__all__ = ["ENGINES", "Hessian", "count_hvps", "curvature_at", "hessian_at", "hvp", "kernels_for"]
