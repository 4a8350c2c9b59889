"""A store as years of runs leave it: `python -m tests.support.large_store DIR` writes one.

Its numbers follow the cost model and the theory's bounds, with noise where a measurement has some:
so figures and sentences made from it look like those of a real store.
"""

import math
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from harness.cell import Cell
from harness.matrix.outcome import Status
from harness.store.journal import SCHEMA
from tests.support.stores import environment

# Task and model: step size, alpha lambda_max, bytes of a gradient, ms of one, outer over inner.
SETTINGS = {
    ("sinusoid", "mlp-40-40"): (0.01, 0.023, 2.5e4, 0.3, 1.2),
    ("sinusoid", "mlp-40-40(init='torch')"): (0.01, 0.29, 2.5e4, 0.3, 1.2),
    ("sinusoid", "mlp-256-256-256"): (0.01, 0.11, 1.1e6, 1.4, 1.1),
    ("glyphs:5way-1shot", "conv4-32"): (0.01, 0.35, 1.5e7, 6.0, 7.5),
    ("glyphs:20way-5shot", "conv4-32"): (0.01, 0.42, 2.9e8, 110.0, 3.5),
    ("quadratic", "linear"): (0.02, 0.2, 6e2, 0.08, 1.0),
}
DEPTHS = (5, 1, 10, 20)
ORDERS = (1, 2, 4, 8)
ESTIMATORS = (
    *("maml", "adjoint", "fomaml", "imaml", "reptile"),
    *(f"{name}(order={order})" for name in ("truncated", "binom") for order in ORDERS),
)
MACHINES = {"bench-01": 1.0, "laptop": 1.7}  # how slow they are
STEPS = 5  # of conjugate gradients
TASKS, SAMPLES, WATCHED = 8, 7, 3  # samples of errors, of times, of times by phase

Result = dict[str, Any]
Random = np.random.Generator


def write_large_store(
    path: Path, *, commits: int = 200, measurements: int = 100_000, seed: int = 0
) -> Path:
    """Write runs of so many commits, with so many measurements in all, or a few more."""
    folder = path / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    core, *others = [(setting, depth) for depth in DEPTHS for setting in SETTINGS]
    turn = cycle(others)
    written = 0
    for number in range(commits):
        age = number / commits
        for machine in ("bench-01", "laptop") if number % 5 == 0 else ("bench-01",):
            events = _group(*core, 0, machine, age, random)
            taken = 0
            enough = measurements * (number + 1) / commits - written
            while _count(events) < enough or (machine == "laptop" and not taken):
                # Other seeds once all groups are in this run.
                events += _group(*next(turn), taken // len(others), machine, age, random)
                taken += 1
            _write(folder, events, number, machine, seed)
            written += _count(events)
    return path


def _count(events: list[dict[str, Any]]) -> int:
    return sum(len(one["samples"]) for event in events for one in event["results"])


def _write(
    folder: Path, events: list[dict[str, Any]], number: int, machine: str, seed: int
) -> None:
    commit = sha256(f"{seed} {number}".encode()).hexdigest()[:40]
    began = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=3 * number)
    began += timedelta(minutes=list(MACHINES).index(machine))
    changes = "0123456789ab" if number % 40 == 7 else ""
    fingerprint = f"{crc32(machine.encode()):012x}"
    made_with = environment(commit, machine=machine, fingerprint=fingerprint, changes=changes)
    cells = len({one["id"] for event in events for one in event["results"]})
    start = {"event": "start", "schema": SCHEMA, "environment": made_with, "cells": cells}
    killed = number % 50 == 49
    lines = [start, *events, *([] if killed else [{"event": "end"}])]
    name = f"{began:%Y%m%dT%H%M%S}-{sha256(f'{commit} {machine}'.encode()).hexdigest()[:6]}.jsonl"
    with (folder / name).open("wb") as file:
        for second, line in enumerate(lines):
            at = (began + timedelta(seconds=second)).isoformat(timespec="milliseconds")
            file.write(orjson.dumps({"event": line["event"], "at": at, **line}) + b"\n")


def _event(stage: str, results: list[Result], seconds: float = 0.0) -> dict[str, Any]:
    told = {"stage": stage, "seconds": seconds, "limits": {"seconds": 3600.0} if seconds else {}}
    return {"event": "results", **told, "results": results}


def _result(cell: Cell, status: Status = Status.OK, reason: str = "", **more: Any) -> Result:
    return {
        **{"id": cell.id, "cell": cell.as_dict(), "status": status, "reason": reason},
        **{"traceback": "", "samples": {}, "notes": []},
        **more,
    }


def _group(
    setting: tuple[str, str], depth: int, seed: int, machine: str, age: float, random: Random
) -> list[dict[str, Any]]:
    """Return the events of the cells that differ in their estimator alone."""
    skipped: list[Result] = []
    scored: list[Result] = []
    timed: list[Result] = []
    for estimator in ESTIMATORS:
        task, model = setting
        cell = Cell(estimator, task, model, depth, SETTINGS[setting][0], seed=seed)
        family, order = _parts(estimator)
        if order > depth:
            why = f"{family}: order={order} is outside 0..{depth} (the depth is {depth})"
            skipped.append(_result(cell, Status.SKIPPED, why))
            continue
        status, reason = _end(cell, random)
        if status is not Status.OK:
            scored.append(_result(cell, status, reason))
            continue
        scored.append(_result(cell, samples=_score(cell, random)))
        if machine == "laptop" and task == "glyphs:20way-5shot" and family == "binom":
            timed.append(_result(cell, Status.TIMEOUT, "not done after 60 s"))
            continue
        noted = ["others used 24 % of the processors"] * (random.random() < 0.03)
        timed.append(_result(cell, samples=_times(cell, machine, age, random), notes=noted))
    plan = [_event("plan", skipped)] if skipped else []
    return [*plan, *(_event("score", [one], 0.2) for one in scored), _event("time", timed, 1.5)]


def _end(cell: Cell, random: Random) -> tuple[Status, str]:
    if cell.task == "glyphs:20way-5shot" and cell.depth == 20 and cell.estimator == "maml":
        return Status.OUT_OF_MEMORY, "took more than the memory limit of 9.31 GiB"
    if cell.task == "glyphs:20way-5shot" and cell.depth == 20 and cell.estimator == "imaml":
        return Status.DIVERGED, "the estimate of task 3 is not finite"
    chance = random.random()
    if chance < 0.003:
        return Status.CRASHED, "the worker ended by SIGSEGV"
    if chance < 0.006:
        return Status.FAILED, "RuntimeError: a tensor is not what it was (binom.py:71 in cascade)"
    return Status.OK, ""


def _parts(estimator: str) -> tuple[str, int]:
    name, _, order = estimator.partition("(order=")
    return name, int(order.rstrip(")") or 0)


def _bound(family: str, order: int, depth: int, x: Any) -> Any:
    """Bounds the error at x = alpha lambda_max; see `estimators.bounds`."""
    if family == "binom":
        powers = range(order + 1, depth + 1)
        return sum((math.comb(depth, power) * x**power for power in powers), 0 * x)
    return (1 + x) ** depth - (1 + x) ** order


def _score(cell: Cell, random: Random) -> dict[str, list[float]]:
    """Return all but times; what is deterministic depends on the cell alone."""
    family, order = _parts(cell.estimator)
    _, x, size, _, _ = SETTINGS[cell.task, cell.model]
    # The tasks are those of the group, whatever the estimator.
    curvature = x * _own(cell.task, cell.model, str(cell.seed)).lognormal(0, 0.1, TASKS)
    own = _own(cell.id)
    bounded = family in ("fomaml", "truncated", "binom")
    bound = _bound(family, order, cell.depth, curvature) if bounded else np.zeros(TASKS)
    bias = {
        "maml": own.uniform(2e-17, 4e-16, TASKS),
        "adjoint": np.zeros(TASKS),
        "imaml": 0.2 * own.lognormal(0, 0.5, TASKS),
        "reptile": 1.5 * cell.depth * own.lognormal(0, 0.3, TASKS),
    }.get(family, bound * own.uniform(0.6, 0.95, TASKS))
    mean = float(bias.mean())
    hvps = _hvps(cell)
    memory = {"maml": 0.3 * cell.depth, "truncated": 0.3 * order, "reptile": -0.4}
    cost = _cost(cell)
    samples = {
        "resident_memory": [int(2 * size * random.lognormal(0, 0.3))],
        "hvps": [hvps],
        "serial_depth": [order if family == "binom" else hvps],
        "baseline_memory": [int(0.3 * size)],
        "peak_memory": [int(size * (1 + memory.get(family, 0.03 * math.log1p(hvps))))],
        "retained_memory": [0],
        "flops": [int(20 * size * cost)],
        "launches": [int(40 * cost)],
        "bias": bias.tolist(),
        "cosine_distance": (bias**2 / (4 + 4 * bias**2)).tolist(),
        "curvature": curvature.tolist(),
        "outer_loss": (2 * _own("loss", cell.task).lognormal(0, 0.4, TASKS)).tolist(),
        "batch_bias": [0.9 * mean],
        "batch_cosine_distance": [mean**2 / (5 + 5 * mean**2)],
        "systematic_bias": [0.85 * mean],
        "error_spread": [mean * math.sqrt((0.9**2 - 0.85**2) * TASKS)],
    }
    if bounded:
        samples["bound"] = bound.tolist()
    if family == "imaml":
        samples["own_bias"] = (1e-4 * own.lognormal(0, 0.5, TASKS)).tolist()
    return samples


def _own(*names: str) -> Random:
    return np.random.default_rng(crc32("/".join(names).encode()))


def _hvps(cell: Cell) -> int:
    family, order = _parts(cell.estimator)
    return {
        **{"maml": cell.depth, "adjoint": cell.depth, "fomaml": 0, "reptile": 0, "imaml": STEPS},
        **{"truncated": order, "binom": order * (cell.depth - order + 1)},
    }[family]


def _cost(cell: Cell) -> float:
    """Return the work of one estimate, in inner gradients."""
    family, _ = _parts(cell.estimator)
    outer = SETTINGS[cell.task, cell.model][4]
    each = 2 if family in ("maml", "truncated") else 3
    return cell.depth + (0 if family == "reptile" else outer) + each * _hvps(cell)


def _times(cell: Cell, machine: str, age: float, random: Random) -> dict[str, list[float]]:
    """Return times; `binom` became quicker at .4 of all commits, `maml` slower from .6 to .7."""
    family, _ = _parts(cell.estimator)
    _, _, _, unit, outer = SETTINGS[cell.task, cell.model]
    cost = _cost(cell) * (0.7 if family == "binom" and age >= 0.4 else 1.0)
    cost *= 1.25 if family == "maml" and 0.6 <= age < 0.7 else 1.0
    seconds = 1e-3 * unit * MACHINES[machine]
    outer = 0.0 if family == "reptile" else outer
    parts = {
        "time_inner_loop": cell.depth,
        "time_outer_gradient": outer,
        "time_meta_gradient": max(cost - cell.depth - outer, 0.02),
    }
    samples = {
        name: (seconds * part * random.lognormal(0, 0.06, WATCHED)).tolist()
        for name, part in parts.items()
        if part
    }
    ratios = cost * random.lognormal(0, 0.05, SAMPLES)
    units = seconds * random.lognormal(0, 0.04, SAMPLES)
    return {"time": (ratios * units).tolist(), "time_ratio": ratios.tolist(), **samples}


if __name__ == "__main__":
    write_large_store(Path(sys.argv[1]))
