"""The metric table: what is measured, in which unit, which way is better, how it is summed up."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One row of the metric table.

    Attributes:
        name: key in stored results.
        label: what people read.
        unit: of the stored values; empty for a ratio.
        noisy: False when the same commit on the same machine gives the same value again.
        aggregate: "mean" over tasks with a 95 % interval, "median" over samples with the
            quartiles, or "value" for a single number. Lower is better for every metric.
        about: one sentence.
    """

    name: str
    label: str
    unit: str
    noisy: bool
    aggregate: Literal["mean", "median", "value"]
    about: str


_TABLE = (
    Metric(
        "bias",
        "bias",
        "",
        False,
        "mean",
        "Relative error against MAML's exact meta-gradient, both in float64, per task.",
    ),
    Metric(
        "cosine_distance",
        "1 - cosine",
        "",
        False,
        "mean",
        "1 - cosine of the angle to MAML's exact meta-gradient, both in float64, per task.",
    ),
    Metric(
        "own_bias",
        "bias, own objective",
        "",
        False,
        "mean",
        "Relative error against the exact gradient of the estimator's own objective, where that "
        "is another than MAML's.",
    ),
    Metric(
        "time",
        "time",
        "s",
        True,
        "median",
        "Wall time of one estimate, inner loop included.",
    ),
    Metric(
        "time_ratio",
        "time / inner gradient",
        "",
        True,
        "median",
        "Time of one estimate over that of one inner gradient, sampled beside it.",
    ),
    Metric(
        "peak_memory",
        "peak memory",
        "B",
        False,
        "value",
        "Most bytes of live tensors during one estimate, above those before it.",
    ),
    Metric(
        "resident_memory",
        "resident memory",
        "B",
        True,
        "value",
        "Growth of resident memory over one estimate in a fresh process (memory-profiler).",
    ),
    Metric(
        "flops",
        "FLOPs",
        "FLOP",
        False,
        "value",
        "Floating-point operations of matrix products and convolutions in one estimate.",
    ),
    Metric(
        "hvps",
        "HVPs",
        "",
        False,
        "value",
        "Hessian-vector products of one estimate: its second-order work.",
    ),
    Metric(
        "serial_depth",
        "serial HVPs",
        "",
        False,
        "value",
        "Hessian-vector products that must follow one another: the least time of a machine with "
        "enough parallel hardware.",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
