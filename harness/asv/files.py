"""When one result file of asv may take the place of another, and whose machine it is of."""

from itertools import product
from pathlib import Path
from typing import Any

from asv.machine import Machine  # type: ignore[import-untyped]
from asv.results import Results  # type: ignore[import-untyped]
from asv.util import UserError, load_json  # type: ignore[import-untyped]

# Its memory and system change by a byte or a version with every other kernel.
_TELLING = ("arch", "cpu", "num_cpu")

_UNREADABLE = (UserError, OSError, ValueError, LookupError, TypeError, AttributeError)


def covers(new: Path, old: Path) -> bool:
    """Tells whether nothing is lost when a file of results takes another's place.

    Each benchmark of the old one must be in the new one, with a result for all parameters that
    have one in the old, and measured later; or at the same time, with the same results.
    """
    try:
        mine, its = (Results.load(str(path)) for path in (new, old))
        return mine.commit_hash == its.commit_hash and all(
            benchmark in mine.get_all_result_keys() and _covers(mine, its, benchmark)
            for benchmark in its.get_all_result_keys()
        )
    except _UNREADABLE:
        return False


def same_machine(one: Path, other: Path) -> bool:
    """Tells whether two descriptions of a machine, by asv, are of one."""
    try:
        mine, its = (load_json(str(path), Machine.api_version) for path in (one, other))
    except _UNREADABLE:
        return False
    return all(mine.get(name) == its.get(name) for name in _TELLING)


def _covers(new: Any, old: Any, benchmark: str) -> bool:
    mine, its = (_told(results, benchmark) for results in (new, old))
    if new.started_at[benchmark] > old.started_at[benchmark]:
        return its.keys() <= mine.keys()
    same = new.started_at[benchmark] == old.started_at[benchmark]
    return bool(same) and its.items() <= mine.items()


def _told(results: Any, benchmark: str) -> dict[tuple[str, ...], str]:
    """Returns the results by parameters, as text, in which NaN is like NaN.

    asv's null stands for a failure, which need not be kept.
    """
    params = results.get_result_params(benchmark)
    values = results.get_result_value(benchmark, params)
    points = product(*params)
    return {
        point: repr(value) for point, value in zip(points, values, strict=True) if value is not None
    }
