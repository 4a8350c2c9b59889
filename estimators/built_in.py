"""The built-in estimators; importing this registers them."""

from importlib import import_module

for _name in (
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
