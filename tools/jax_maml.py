"""Exact MAML in JAX for `tools.side_by_side`, and the other side of its pipe.

    JAX_PYTHON -m tools.jax_maml {jit|scan} DEPTH STEP_SIZE ARRAYS.npz

Needs jax and numpy only: the interpreter may lack torch. Weights and biases come in turns; the
first weight says which model it is, and the targets which loss.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve(run: Callable[[], Any]) -> None:
    """Print the first gradient and its seconds, then answer requests: CPU seconds, or peak bytes.

    CPU seconds are those of a second call: the process has slept since its last one.
    """
    out, sys.stdout = sys.stdout, sys.stderr  # compilers print, too

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=out, flush=True)

    start = time.perf_counter()
    gradient = run()
    seconds = time.perf_counter() - start
    answer(seconds=seconds, gradient=[x for leaf in gradient for x in leaf.reshape(-1).tolist()])
    core = {min(os.sched_getaffinity(0))}
    for thread in Path("/proc/self/task").iterdir():  # those of JAX, too, take turns
        os.sched_setaffinity(int(thread.name), core)
    for request in sys.stdin:
        if request.strip() == "memory":
            answer(bytes=_peak(run))
        else:
            run()
            start = time.process_time()
            run()
            answer(seconds=time.process_time() - start)


def _peak(run: Callable[[], Any]) -> int:
    """Return the peak of resident bytes in a call, above what was there before.

    Free memory goes back to the system before, or the call would use it again unseen.
    """
    status = Path("/proc/self/status")

    def resident(line: str) -> int:
        return int(status.read_text().split(f"{line}:")[1].split()[0]) * 1024

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def main(loop: str, depth: str, step_size: str, arrays: str) -> None:
    """Serve the meta-gradient of the arrays' task, its inner loop unrolled or by `lax.scan`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    values = [jnp.asarray(value) for value in np.load(arrays).values()]
    theta, (support, query) = values[:-4], (values[-4:-2], values[-2:])

    def conv4(weights: Any, x: Any) -> Any:
        for i in range(0, len(weights) - 2, 4):
            bias, scale, shift = (each.reshape(-1, 1, 1) for each in weights[i + 1 : i + 4])
            x = jax.lax.conv_general_dilated(x, weights[i], (1, 1), "SAME") + bias
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            x = jax.nn.relu((x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return x.reshape(len(x), -1) @ weights[-2].T + weights[-1]

    def mlp(weights: Any, x: Any) -> Any:
        for i in range(0, len(weights) - 2, 2):
            x = jax.nn.relu(x @ weights[i].T + weights[i + 1])
        return x @ weights[-2].T + weights[-1]

    forward = conv4 if theta[0].ndim == 4 else mlp

    def loss(weights: Any, x: Any, y: Any) -> Any:
        outputs = forward(weights, x)
        if jnp.issubdtype(y.dtype, jnp.floating):
            return ((outputs - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1).mean()

    def outer(weights: Any, support: Any, query: Any) -> Any:
        def step(phi: Any, _: None) -> tuple[Any, None]:
            slopes = jax.grad(loss)(phi, *support)
            return [w - float(step_size) * s for w, s in zip(phi, slopes, strict=True)], None

        if loop == "scan":
            weights, _ = jax.lax.scan(step, weights, None, length=int(depth))
        else:
            for _ in range(int(depth)):
                weights, _ = step(weights, None)
        return loss(weights, *query)

    gradient = jax.jit(jax.grad(outer))
    serve(lambda: jax.block_until_ready(gradient(theta, support, query)))


if __name__ == "__main__":
    main(*sys.argv[1:])
