"""Meta-gradients side by side: by hand, torch.compile, JAX and this project, as Markdown tables.

    python -m tools.side_by_side [--jax PYTHON] [--depth 5] [--task sinusoid] [--limit 300]

Every contestant has a process: float32, one thread, the same task and weights. A round calls each
once, in random order. Times are medians of ratios to the loop by hand, round by round, with their
quartiles; they are CPU seconds, all threads on one core, since other work on the machine interrupts
long calls more than short ones. "cold" is the first call with empty caches, in seconds by the
clock, "disk" that of a second process, with what the first one has left. The error is that of the
gradient against float64: exact MAML by hand, and for `binom` itself; it grows a thousandfold
where rounding takes an input of a ReLU or a pooling layer across a kink. Memory is the peak of
resident memory in a call above that before it, for all alike: it sees what is inside compiled
programs, and moves by some pages.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from estimators import create, module_problem, trainable
from harness.models import MODELS
from harness.tasks import TASKS
from tools.jax_maml import serve

MODEL = {"sinusoid": "mlp-40-40", "glyphs:5way-1shot": "conv4-32"}
STEP_SIZE = 0.01
HAND, COMPILE = "by hand", "`torch.compile`"
JAX = {"JAX, unrolled": "jit", "JAX, `lax.scan`": "scan"}
EAGER = ("maml", "adjoint", "binom(order=2)")
COMPILED = ("maml(compiled=True)", "adjoint(compiled=True)", "binom(order=2, compiled=True)")
Weights = dict[str, Tensor]


class Setting:
    """A task's data and the module at its initial weights, and how each contestant takes them.

    Both are float32 numbers in every dtype, so that float64 is the truth about the same problem.
    """

    def __init__(self, task: str, depth: int, dtype: torch.dtype) -> None:
        self.family, self.depth = TASKS.create(task), depth
        self.net: nn.Module = MODELS.create(MODEL[task]).build(self.family, 0).float().to(dtype)
        drawn = self.family.sample(0)
        self.support, self.query = (
            (x.float().to(dtype), y.float().to(dtype) if y.is_floating_point() else y)
            for x, y in (drawn.support, drawn.query)
        )

    def contestant(self, name: str) -> Callable[[], list[Tensor]]:
        """Return a function that returns the meta-gradient."""
        weights = trainable(self.net)
        if name == HAND:
            return self.by_hand
        if name == COMPILE:
            compiled = torch.compile(grad(self.adapted_loss), fullgraph=True)
            return lambda: list(compiled(weights, self.support, self.query).values())
        estimator, batches = create(name), (self.support, self.query)
        problem = module_problem(
            self.net, self.family.loss, *batches, step_size=STEP_SIZE, steps=self.depth
        )
        return lambda: list(estimator(problem, weights).gradient.values())

    def by_hand(self) -> list[Tensor]:
        """Return the gradient by autograd through the unrolled loop."""
        theta = phi = {n: v.requires_grad_() for n, v in trainable(self.net).items()}
        for _ in range(self.depth):
            loss = self.loss(phi, *self.support)
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {n: v - STEP_SIZE * s for (n, v), s in zip(phi.items(), slopes, strict=True)}
        return list(torch.autograd.grad(self.loss(phi, *self.query), list(theta.values())))

    def adapted_loss(self, phi: Weights, support: Any, query: Any) -> Tensor:
        """Return the outer loss; written with `torch.func`, as torch.compile needs it."""
        for _ in range(self.depth):
            slopes = grad(self.loss)(phi, *support)
            phi = {name: value - STEP_SIZE * slopes[name] for name, value in phi.items()}
        return self.loss(phi, *query)

    def loss(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return self.family.loss(functional_call(self.net, weights, (x,)), y)


class Child:
    """A contestant's process; its first call is over when it is there."""

    def __init__(self, command: list[str], caches: Path, limit: float) -> None:
        self.limit, self.errors = limit, caches / "stderr"
        places = (
            "TORCHINDUCTOR_CACHE_DIR",
            "JAX_COMPILATION_CACHE_DIR",
            "XDG_CACHE_HOME",
            "TMPDIR",
        )
        environment = (
            os.environ
            | dict.fromkeys(places, str(caches))
            | {
                "OMP_NUM_THREADS": "1",
                "JAX_PLATFORMS": "cpu",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
        )
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                start_new_session=True,
            )
        answer = self._answer()
        self.first: float = answer["seconds"]
        self.gradient = np.array(answer["gradient"])

    def ask(self, request: str) -> float:
        """Return the seconds, or the bytes, of one call."""
        assert self.process.stdin
        print(request, file=self.process.stdin, flush=True)
        (value,) = self._answer().values()
        return float(value)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        timer = Timer(self.limit, self.stop)
        timer.start()
        line = self.process.stdout.readline()
        late = timer.finished.is_set()
        timer.cancel()
        if not line:
            self.stop()
            last = (self.errors.read_text().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"over {self.limit:.0f} s" if late else last)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process, and the compilers that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def table(task: str, depth: int, options: argparse.Namespace) -> None:
    """Print the rows of one setting."""
    truth = Setting(task, depth, torch.float64)
    exact, binom = (flat(truth.contestant(name)()) for name in (HAND, "binom(order=2)"))
    names = [HAND, *EAGER, *COMPILED, COMPILE, *(JAX if options.jax else ())]
    names = [HAND, *(name for name in names[1:] if name in (options.contestant or names))]
    children: dict[str, Child] = {}
    cold: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays.npz"
        setting = Setting(task, depth, torch.float32)
        values = [*trainable(setting.net).values(), *setting.support, *setting.query]
        np.savez(arrays, *(value.numpy() for value in values))
        try:
            for number, name in enumerate(names):
                command = [sys.executable, "-m", "tools.side_by_side", "--serve", name]
                command += ["--task", task, "--depth", str(depth)]
                if name in JAX:
                    command = [options.jax, "-m", "tools.jax_maml", JAX[name]]
                    command += [str(depth), str(STEP_SIZE), str(arrays)]
                caches = Path(folder) / str(number)
                caches.mkdir()
                try:
                    if name != HAND and name not in EAGER:
                        child = Child(command, caches, options.limit)
                        child.stop()
                        cold[name] = f"{child.first:.1f}"
                    children[name] = Child(command, caches, options.limit)
                except RuntimeError as error:
                    cold[name] = str(error)
            times: dict[str, list[float]] = {name: [] for name in children}
            for _ in range(options.rounds):
                for name in random.sample([*children], len(children)):
                    times[name].append(children[name].ask("time"))
            peaks = {name: child.ask("memory") / 2**20 for name, child in children.items()}
        finally:
            for child in children.values():
                child.stop()
    for name in names:
        row = [str(depth), name if name[0] in "bJ`" and "(" not in name else f"`{name}`"]
        if name in children:
            ratios = [a / b for a, b in zip(times[name], times[HAND], strict=True)]
            low, middle, high = quantiles(ratios, n=4)
            time = f"{middle:.3f} ({low:.3f} to {high:.3f})"
            row.append(f"1 ({median(times[HAND]) * 1e3:.2f} ms)" if name == HAND else time)
            disk = f"{children[name].first:.1f}" if name in cold else ""
            oracle = binom if name.startswith("binom") else exact
            gap = np.linalg.norm(children[name].gradient - oracle) / np.linalg.norm(oracle)
            row += [cold.get(name, ""), disk, f"{gap:.0e}", f"{peaks[name]:.1f}"]
        else:
            row += ["", cold[name], "", "", ""]
        print("|", " | ".join(row), "|", flush=True)


def flat(gradient: list[Tensor]) -> Any:
    """Return a gradient as one array."""
    return torch.cat([leaf.flatten() for leaf in gradient]).numpy()


def main() -> None:
    """Print a table for each task, or be a contestant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--jax", metavar="PYTHON", help="an interpreter that has jax")
    add("--task", action="append", choices=MODEL, help="all by default; may be given again")
    add("--depth", action="append", type=int, help="5, 20 and 50 by default")
    add("--contestant", action="append", help="all by default; the loop by hand is always there")
    add("--rounds", type=int, default=31)
    add("--limit", type=float, default=300, help="seconds a first call may take")
    add("--serve", metavar="CONTESTANT", help="be one, for a parent at the other end of pipes")
    options = parser.parse_args()
    if options.serve:
        torch.set_num_threads(1)
        setting = Setting(options.task[0], options.depth[0], torch.float32)
        serve(setting.contestant(options.serve))
        return
    for task in options.task or MODEL:
        print(f"\n{task}, {MODEL[task]}:\n")
        print("| K | | time / by hand | cold, s | disk, s | error | memory, MiB |")
        print("|---|---|---|---|---|---|---|")
        for depth in options.depth or (5, 20, 50):
            table(task, depth, options)


if __name__ == "__main__":
    main()
