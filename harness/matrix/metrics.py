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
            quartiles, or "value" for a single number.
        about: one sentence.
        better: which way; "neither" for what tells of the task or of the theory.
    """

    name: str
    label: str
    unit: str
    noisy: bool
    aggregate: Literal["mean", "median", "value"]
    about: str
    better: Literal["lower", "higher", "neither"] = "lower"


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
        "batch_bias",
        "bias of the batch mean",
        "",
        False,
        "value",
        "Relative error of the mean meta-gradient over the tasks, which is what a step of "
        "meta-training follows.",
    ),
    Metric(
        "batch_cosine_distance",
        "1 - cosine of the batch mean",
        "",
        False,
        "value",
        "1 - cosine of the angle between the mean estimate and the mean exact meta-gradient.",
    ),
    Metric(
        "systematic_bias",
        "systematic bias",
        "",
        False,
        "value",
        "The part of the batch mean's relative error that more tasks would not average away.",
    ),
    Metric(
        "error_spread",
        "spread of the error",
        "",
        False,
        "value",
        "Standard deviation of the error over tasks, relative to the mean exact meta-gradient.",
    ),
    Metric(
        "bound",
        "bound on the bias",
        "",
        False,
        "mean",
        "What the theory bounds the bias by, at the curvature found along the inner loop, per "
        "task.",
        "neither",
    ),
    Metric(
        "curvature",
        "alpha lambda_max",
        "",
        False,
        "mean",
        "Step size times the largest absolute eigenvalue of the inner Hessian along the inner "
        "loop, per task.",
        "neither",
    ),
    Metric(
        "outer_loss",
        "outer loss",
        "",
        False,
        "mean",
        "Outer loss at the adapted parameters, in float64, per task: what meta-training lowers.",
    ),
    Metric(
        "accuracy",
        "accuracy",
        "",
        False,
        "mean",
        "Share of the query examples that are classified right after adaptation, per task.",
        "higher",
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
        "time_inner_loop",
        "time, inner loop",
        "s",
        True,
        "median",
        "Time of one estimate that went into inner steps.",
    ),
    Metric(
        "time_outer_gradient",
        "time, outer gradient",
        "s",
        True,
        "median",
        "Time of one estimate that went into the outer loss and its gradient.",
    ),
    Metric(
        "time_meta_gradient",
        "time, meta-gradient",
        "s",
        True,
        "median",
        "Time of one estimate that went into anything else: Hessian-vector products and sums.",
    ),
    Metric(
        "utilisation",
        "GPU utilisation",
        "%",
        True,
        "median",
        "Share of the time in which kernels run on the GPU while the estimate is repeated.",
        "higher",
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
        "retained_memory",
        "retained memory",
        "B",
        False,
        "value",
        "Bytes of tensors that one estimate leaves alive when its result is gone: a leak, since "
        "caches are filled before.",
    ),
    Metric(
        "baseline_memory",
        "baseline memory",
        "B",
        False,
        "value",
        "Bytes of tensors that the task's data and the parameters hold before the estimate.",
    ),
    Metric(
        "reserved_memory",
        "reserved memory",
        "B",
        False,
        "value",
        "Most bytes that CUDA's allocator took from the device during one estimate.",
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
        "launches",
        "operator launches",
        "",
        False,
        "value",
        "Operators that work on data, as torch dispatches them, in one estimate.",
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
