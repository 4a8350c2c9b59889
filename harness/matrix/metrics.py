"""The metric table: what is measured, in which unit, which way is better, how it is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from harness.support.units import number_text

Samples = dict[str, list[float]]
"""What probes measure: numbers by metric."""

Probe = Callable[[Any], Samples]
"""Measures metrics of a `harness.probes.target.Target`."""

LEVEL = 0.05
"""Where `bias_chance` is no more than this, a random estimator is biased at the 95 % level."""

# Stored unit: unit to show, and how many stored ones it is.
_SHOWN = {"B": ("MiB", 2.0**20), "s": ("ms", 1e-3), "FLOP": ("MFLOP", 1e6)}


@dataclass(frozen=True)
class Metric:
    """One entry of the metric table.

    Attributes:
        name: key in stored results.
        label: what people read.
        about: one sentence.
        unit: of the stored values; empty for a ratio.
        noisy: False when the same commit on the same machine gives the same value again.
        aggregate: "mean" over tasks with a 95 % interval, "median" over samples with the
            quartiles, or "value" for a single number.
        better: which way; "neither" for a property of the task or of the theory.
        shown: unit in tables and figures, and how many stored units make one; by `unit` if None.
        probe: the function that measures it, or where that is; several metrics may share it.
            Empty for what is timed in turns with other cells (`harness.running.measures`), and
            for what a training records.
        turn: probes are called in this order. 0: first thing in a fresh process; 1: before all
            that a wrong result would make pointless; 3: last, since it takes longest.
    """

    name: str
    label: str
    about: str
    unit: str = ""
    noisy: bool = False
    aggregate: Literal["mean", "median", "value"] = "value"
    better: Literal["lower", "higher", "neither"] = "lower"
    shown: tuple[str, float] | None = None
    probe: Probe | str = ""
    turn: int = 2

    @property
    def shown_unit(self) -> str:
        """Unit in tables and figures; empty for a plain count."""
        return (self.shown or _SHOWN.get(self.unit, (self.unit, 1.0)))[0]

    @property
    def scale(self) -> float:
        """How many stored units make one shown unit."""
        return (self.shown or _SHOWN.get(self.unit, (self.unit, 1.0)))[1]

    @property
    def title(self) -> str:
        """Label and unit, for axes, tooltips and table heads."""
        return f"{self.label} ({self.shown_unit})" if self.shown_unit else self.label

    def text(self, value: float) -> str:
        """Return a stored value as people read it, with its unit.

        Example:
            >>> METRICS["peak_memory"].text(2048), METRICS["time"].text(0.0021)
            ('2 KiB', '2.1 ms')
        """
        return number_text(value, self.unit)


# What several entries have in common.
_BIAS: Any = {"probe": "harness.probes.bias:bias", "turn": 3}
_COUNTS: Any = {"probe": "harness.probes.counts:counts", "turn": 1}
_MEMORY: Any = {"probe": "harness.probes.memory:memory", "unit": "B"}
_SAMPLED: Any = {"noisy": True, "aggregate": "median"}

_TABLE = (
    Metric(
        "bias",
        "bias",
        "Relative error against MAML's exact meta-gradient, both in float64, per task; of a random "
        "estimator that of its mean over draws.",
        shown=("relative error", 1.0),
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "bias_t2",
        "bias to T2",
        "Relative error, in the mean over draws, against the gradient of the expected outer loss "
        "after drawn inner steps (T2); that against exact inner steps (T1) is the bias. Per task.",
        shown=("relative error", 1.0),
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "t2_error",
        "standard error of T2",
        "How well T2 is known, relative to its length, per task; 0 where all draws are enumerated.",
        aggregate="mean",
        better="neither",
        **_BIAS,
    ),
    Metric(
        "spread",
        "spread",
        "Standard deviation of a random estimator's estimate, relative to the exact meta-gradient, "
        "per task.",
        shown=("relative error", 1.0),
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "rmse",
        "error of one estimate",
        "Root mean square of a random estimator's relative error, per task: bias and spread "
        "together.",
        shown=("relative error", 1.0),
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "bias_limit",
        "limit of the bias",
        "What the bias of a random estimator, its root mean square over tasks, is below, at the "
        "95 % level.",
        shown=("relative error", 1.0),
        **_BIAS,
    ),
    Metric(
        "bias_chance",
        "chance without bias",
        "How often draws of a random estimator without bias would look as biased; below 0.05 it is "
        "biased at the 95 % level.",
        better="neither",
        **_BIAS,
    ),
    Metric(
        "cosine_distance",
        "1 - cosine",
        "1 - cosine of the angle to MAML's exact meta-gradient, both in float64, per task.",
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "own_bias",
        "bias, own objective",
        "Relative error against the exact gradient of the estimator's own objective, where that "
        "is another than MAML's.",
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "own_spread",
        "spread, own objective",
        "Standard deviation of a random estimator's estimate, relative to the exact gradient of "
        "its own objective, where that is another than MAML's.",
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "batch_bias",
        "bias of the batch mean",
        "Relative error of the mean meta-gradient over the tasks, which is what a step of "
        "meta-training follows.",
        **_BIAS,
    ),
    Metric(
        "batch_cosine_distance",
        "1 - cosine of the batch mean",
        "1 - cosine of the angle between the mean estimate and the mean exact meta-gradient.",
        **_BIAS,
    ),
    Metric(
        "systematic_bias",
        "systematic bias",
        "The part of the batch mean's relative error that more tasks would not average away.",
        **_BIAS,
    ),
    Metric(
        "error_spread",
        "spread of the error",
        "Standard deviation of the error over tasks, relative to the mean exact meta-gradient.",
        **_BIAS,
    ),
    Metric(
        "bound",
        "bound on the bias",
        "What the theory bounds the bias by, at the curvature found along the inner loop, per "
        "task.",
        aggregate="mean",
        better="neither",
        **_BIAS,
    ),
    Metric(
        "curvature",
        "alpha lambda_max",
        "Step size times the largest absolute eigenvalue of the inner Hessian along the inner "
        "loop, per task.",
        aggregate="mean",
        better="neither",
        **_BIAS,
    ),
    Metric(
        "outer_loss",
        "outer loss",
        "Outer loss at the adapted parameters, in float64, per task: what meta-training lowers.",
        aggregate="mean",
        **_BIAS,
    ),
    Metric(
        "accuracy",
        "accuracy",
        "Share of the query examples that are classified right after adaptation, per task.",
        shown=("%", 0.01),
        aggregate="mean",
        better="higher",
    ),
    Metric(
        "time",
        "time",
        "Wall time of one estimate, inner loop included.",
        unit="s",
        **_SAMPLED,
    ),
    Metric(
        "time_ratio",
        "time / inner gradient",
        "Time of one estimate over that of one inner gradient, sampled beside it.",
        shown=("×", 1.0),
        **_SAMPLED,
    ),
    Metric(
        "time_inner_loop",
        "time, inner loop",
        "Time of one estimate that went into inner steps.",
        unit="s",
        **_SAMPLED,
    ),
    Metric(
        "time_outer_gradient",
        "time, outer gradient",
        "Time of one estimate that went into the outer loss and its gradient.",
        unit="s",
        **_SAMPLED,
    ),
    Metric(
        "time_meta_gradient",
        "time, meta-gradient",
        "Time of one estimate that went into anything else: Hessian-vector products and sums.",
        unit="s",
        **_SAMPLED,
    ),
    Metric(
        "compile_time",
        "time to compile",
        "Time that the programs of a compiled estimator took to compile: once for all depths, step "
        "sizes and tasks.",
        unit="s",
        noisy=True,
        shown=("s", 1.0),
        probe="harness.probes.compilation:compile_time",
    ),
    Metric(
        "utilisation",
        "GPU utilisation",
        "Share of the time in which kernels run on the GPU while the estimate is repeated.",
        unit="%",
        **_SAMPLED,
        better="higher",
    ),
    Metric(
        "peak_memory",
        "peak memory",
        "Most bytes of live tensors during one estimate, above those before it.",
        **_MEMORY,
    ),
    Metric(
        "retained_memory",
        "retained memory",
        "Bytes of tensors that one estimate leaves alive when its result is gone: a leak, since "
        "caches are filled before.",
        **_MEMORY,
    ),
    Metric(
        "baseline_memory",
        "baseline memory",
        "Bytes of tensors that the task's data and the parameters hold before the estimate.",
        **_MEMORY,
    ),
    Metric(
        "reserved_memory",
        "reserved memory",
        "Most bytes that CUDA's allocator took from the device during one estimate.",
        **_MEMORY,
    ),
    Metric(
        "resident_memory",
        "resident memory",
        "Growth of resident memory over one estimate in a fresh process (memory-profiler).",
        unit="B",
        noisy=True,
        probe="harness.probes.resident:resident_memory",
        turn=0,
    ),
    Metric(
        "flops",
        "FLOPs",
        "Floating-point operations of matrix products and convolutions in one estimate.",
        unit="FLOP",
        probe="harness.probes.flops:flops",
    ),
    Metric(
        "launches",
        "operator launches",
        "Operators that work on data, as torch dispatches them, in one estimate.",
        probe="harness.probes.launches:launches",
    ),
    Metric(
        "hvps",
        "HVPs",
        "Hessian-vector products of one estimate: its second-order work.",
        **_COUNTS,
    ),
    Metric(
        "serial_depth",
        "serial HVPs",
        "Hessian-vector products that must follow one another: the least time of a machine with "
        "enough parallel hardware.",
        **_COUNTS,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


def metric_of(name: str) -> Metric:
    """Return the entry of a metric; one made of its name where the table has none."""
    return METRICS.get(name) or Metric(name, name.replace("_", " "), "")


def probes() -> list[tuple[str, Probe]]:
    """Return what measures the metrics of a cell but its times, in turn.

    Each once, with the label of the first metric that it measures.
    """
    labels: dict[Probe | str, str] = {}
    for metric in sorted(METRICS.values(), key=lambda metric: metric.turn):
        if metric.probe:
            labels.setdefault(metric.probe, metric.label)
    # Imported late, since readers of the table need no torch.
    return [
        (label, resolve_name(probe) if isinstance(probe, str) else probe)
        for probe, label in labels.items()
    ]
