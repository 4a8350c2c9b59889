"""Result files of asv, written by asv's own classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from asv.machine import Machine  # type: ignore[import-untyped]
from asv.results import Results  # type: ignore[import-untyped]
from asv.util import write_json  # type: ignore[import-untyped]

MATRIX = "meta_gradient.Matrix.track_"
HEADLINE = "headline.Headline.time_sinusoid"
POINTS = [["'maml'", "'fomaml'"], ["5"], ["'sinusoid mlp-40-40'"], ["'cpu'", "'cuda:0'"]]
NAMES = ["estimator", "depth", "model", "device"]

Values = Mapping[str, Sequence[float | list[float] | None]]


def benchmark(name: str, version: str = "1") -> dict[str, Any]:
    """What asv knows of a benchmark: one of the matrix, or the headline."""
    headline = name == HEADLINE
    return {
        **{"name": name, "version": version, "type": "time" if headline else "track"},
        "params": POINTS[:1] if headline else POINTS,
        "param_names": NAMES[:1] if headline else NAMES,
        "unit": "seconds" if headline else "of asv",
    }


def write_asv(
    folder: Path,
    commit: str,
    values: Values,
    *,
    date: int = 1_700_000_000_000,
    machine: str = "here",
    environment: str = "virtualenv-py3.11",
    version: str = "1",
    **changed: Any,
) -> Path:
    """Stores results as `asv run` does; a list stands for samples."""
    params = {"machine": machine, "python": "3.11"}
    results = Results(params, {}, commit, date, "3.11", environment, {})
    for name, cells in values.items():
        samples = [one if isinstance(one, list) else None for one in cells]
        made = SimpleNamespace(
            result=[0.0 if isinstance(one, list) else one for one in cells],
            samples=samples,
            number=[1 if one else None for one in samples],
            **{"errcode": 0, "stderr": "", "profile": None},
        )
        results.add_result(benchmark(name, version), made, record_samples=True, **changed)
    results.save(str(folder))
    write_json(str(folder / machine / "machine.json"), {"machine": machine}, Machine.api_version)
    told = {name: benchmark(name, version) for name in values}
    write_json(str(folder / "benchmarks.json"), told, 2)
    found: Path = folder / results._filename
    return found
