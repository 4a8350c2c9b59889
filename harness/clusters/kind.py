"""Whom a user can name to do the work."""

from enum import StrEnum


class Kind(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    DASK = "dask"
    SLURM = "slurm"
