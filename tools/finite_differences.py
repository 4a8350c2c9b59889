"""Measures errors of `hf-maml` in float32 on a network with kinks, task by task.

    python -m tools.finite_differences

A finite difference of gradients that has a kink of ReLU or max-pooling between its two points is
off by the jump over the distance of the points. Prints how often that happens in the first steps
of exact meta-training on glyphs, in either precision, against exact meta-gradients in float64.
"""

import torch

from estimators import create
from harness.cell import Cell
from harness.matrix.problems import Sampler
from harness.probes.bias import relative_error

STEPS, META_BATCH, LARGE = 25, 4, 0.2


def errors(dtype: torch.dtype) -> list[float]:
    """Return relative errors on the tasks of the first steps, which follow the exact gradient."""
    cell = Cell.of(estimator="maml", task="glyphs:5way-1shot", model="conv4-16", depth=5)
    exactly = Sampler.of(cell, dtype=torch.float64, device="cpu")
    sampler = Sampler.of(cell, dtype=dtype, device="cpu")
    params = {name: value.detach() for name, value in exactly.module.named_parameters()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)
    exact, estimator = create("maml"), create("hf-maml")
    result = []
    for step in range(STEPS):
        theta = {name: value.to(dtype) for name, value in params.items()}
        references = []
        for index in range(step * META_BATCH, (step + 1) * META_BATCH):
            references.append(exact(exactly.problem(index), params).gradient)
            estimate = estimator(sampler.problem(index), theta).gradient
            wide = {name: value.double() for name, value in estimate.items()}
            result.append(relative_error(wide, references[-1]))
        for name, value in params.items():
            value.grad = sum((one[name] for one in references), torch.zeros_like(value))
        optimizer.step()
    return result


def main() -> None:
    """Print a line for each precision."""
    for dtype in (torch.float32, torch.float64):
        values = sorted(errors(dtype))
        large = [error for error in values if error > LARGE]
        print(
            f"{dtype}: median error {values[len(values) // 2]:.2g}, largest {values[-1]:.2g}; "
            f"above {LARGE} on {len(large)} of {len(values)} tasks"
        )


if __name__ == "__main__":
    main()
