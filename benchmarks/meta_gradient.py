"""Every metric of every cell of the frozen matrix in axes.json.

asv takes this file from the working tree and `harness` from the commit under test.
"""

import json
import os
from math import nan
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
AXES = json.loads((HERE / "axes.json").read_text(encoding="utf-8"))
STORE = Path(os.environ.get("METAGRAD_STORE") or HERE.parent / "results")
Results = dict[str, dict[str, Any]]


def known_here(axes: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what a commit does not know: older ones lack the newer estimators and tasks."""
    from harness.cell import Cell

    def known(estimator: str, model: str) -> bool:
        task, name = model.split()
        try:
            Cell.of(estimator=estimator, task=task, model=name, depth=1)
        except Exception:  # whatever a commit raises, its meaning is the same
            return False
        return True

    pairs = [(e, m) for e in axes["estimators"] for m in axes["models"] if known(e, m)]
    return axes | {
        "estimators": [one for one in axes["estimators"] if any(one == e for e, _ in pairs)],
        "models": [one for one in axes["models"] if any(one == m for _, m in pairs)],
    }


class Matrix:
    """Measured once, in `setup_cache`, through the runner; looked up by the `track_*`."""

    params = (AXES["estimators"], AXES["depths"], AXES["models"], AXES["devices"])
    param_names = ("estimator", "depth", "model", "device")
    version = str(AXES["version"])
    timeout = 60.0

    def setup_cache(self) -> Results:
        try:
            from harness.suite import measure
        except ImportError:  # a commit from before the suite
            return {}
        axes = known_here(AXES)
        return measure(axes, STORE, version=1) if all(axes.values()) else {}

    setup_cache.timeout = 3600.0  # type: ignore[attr-defined]

    def setup(self, results: Results, estimator: str, depth: int, model: str, device: str) -> None:
        name = f"{model} K{depth} {estimator} {device}"
        if name not in results:
            raise NotImplementedError(f"{name} is not known at this commit")
        cell = results[name]
        if cell["status"] == "skipped":
            raise NotImplementedError(cell["reason"])
        if cell["status"] != "ok":
            raise RuntimeError(f"{cell['status']}: {cell['reason']}")
        self.samples: dict[str, list[float]] = cell["samples"]

    def mean(self, metric: str) -> float:
        """Mean over tasks."""
        samples = self.samples[metric]
        return sum(samples) / len(samples)

    def timing(self, metric: str) -> dict[str, Any]:
        """All samples, of which asv makes the median and its interval."""
        return {"samples": self.samples[metric], "number": 1}

    def track_bias(self, *_: object) -> float:
        return self.mean("bias")

    def track_cosine_distance(self, *_: object) -> float:
        return self.mean("cosine_distance")

    def track_time(self, *_: object) -> dict[str, Any]:
        return self.timing("time")

    def track_time_ratio(self, *_: object) -> dict[str, Any]:
        return self.timing("time_ratio")

    def track_peak_memory(self, *_: object) -> float:
        return self.samples["peak_memory"][0]

    def track_retained_memory(self, *_: object) -> float:
        return self.samples.get("retained_memory", [nan])[0]  # older commits do not measure it

    def track_flops(self, *_: object) -> float:
        return self.samples["flops"][0]

    def track_launches(self, *_: object) -> float:
        return self.samples.get("launches", [nan])[0]  # older commits do not count them

    def track_hvps(self, *_: object) -> float:
        return self.samples["hvps"][0]

    def track_serial_depth(self, *_: object) -> float:
        return self.samples["serial_depth"][0]

    track_bias.unit = "relative error"  # type: ignore[attr-defined]
    track_cosine_distance.unit = "1 - cosine"  # type: ignore[attr-defined]
    track_time.unit = "seconds"  # type: ignore[attr-defined]
    track_time_ratio.unit = "inner gradients"  # type: ignore[attr-defined]
    track_peak_memory.unit = "bytes"  # type: ignore[attr-defined]
    track_retained_memory.unit = "bytes"  # type: ignore[attr-defined]
    track_flops.unit = "FLOP"  # type: ignore[attr-defined]
    track_launches.unit = "operators"  # type: ignore[attr-defined]
    track_hvps.unit = "HVPs"  # type: ignore[attr-defined]
    track_serial_depth.unit = "HVPs"  # type: ignore[attr-defined]
