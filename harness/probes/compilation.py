"""What the programs of a compiled estimate took to compile."""

from estimators.programs.compiled import compile_seconds
from harness.matrix.metrics import Samples
from harness.probes.target import Target


def compile_time(target: Target) -> Samples:
    """Return the seconds recorded with the programs, which may come from disk."""
    if not target.compiled:
        return {}
    seconds = compile_seconds(target.problem, target.params)
    return {"compile_time": [seconds]} if seconds else {}  # nothing where eager code is used
