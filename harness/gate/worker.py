"""The worker process that times cells of one commit, one sample for each request."""

import gc
import json
import os
import sys
from typing import Any

import torch

from estimators import create
from harness.cell import Cell
from harness.environment.build import fixed_flags
from harness.matrix.problems import bilevel_problem
from harness.probes.draws import Estimates
from harness.probes.time import Series, series_of
from harness.support.plugins import load_plugins


def main() -> None:
    """Answer requests, a line of JSON each, on standard input and output.

    `{"plugins": [...]}` imports modules; `{"cell": NAME}` prepares a cell and warms it up;
    `{"sample": true}` takes a sample of its time: `{"seconds": ...}`. The answer to a request that
    fails is `{"error": ...}`.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # output of an estimator is no answer
        series: Series | None = None
        for line in sys.stdin:
            request = json.loads(line)
            answer: dict[str, Any] = {}
            try:
                if "plugins" in request:
                    load_plugins(request["plugins"])
                    fixed_flags()
                elif "cell" in request:
                    series = None  # frees the one before
                    series = _prepared(request["cell"])
                elif series is not None:
                    series.sample()
                    answer = {"seconds": series.seconds[-1]}
            except Exception as error:  # of an estimator, whatever it is
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _prepared(name: str) -> Series:
    gc.enable()
    gc.collect()
    cell = Cell.parse(name)
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
    series = series_of(Estimates(create(cell.estimator), problem, params), cell.device)
    series.warm_up()
    gc.collect()
    gc.freeze()
    gc.disable()  # until the next cell
    return series
