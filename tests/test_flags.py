"""How torch multiplies and convolves: alike in all processes that measure, and recorded so."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.environment import environment
from harness.running.processes import Limits, run_in_worker
from harness.training import parallel
from harness.training.distributed import SINGLE

FIXED = {
    **{"matmul_precision": "highest", "cuda_matmul": "ieee"},
    **{"cudnn_convolution": "ieee", "cudnn_recurrent": "ieee"},
    **{"cudnn_benchmark": False, "cudnn_deterministic": True},
}
DEFAULTS = {"device": torch.device("cpu"), "dtype": torch.float32}
# What is often found at the top of a training script.
FAST = """import torch
torch.backends.cudnn.benchmark = True
torch.backends.cudnn.deterministic = False
torch.backends.cudnn.conv.fp32_precision = "tf32"
torch.set_float32_matmul_precision("high")
torch.set_default_device("meta")
torch.set_default_dtype(torch.bfloat16)
"""


def held() -> dict[str, Any]:
    """What torch says in this process, with nothing changed."""
    cudnn: Any = torch.backends.cudnn
    return {
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul": torch.backends.cuda.matmul.fp32_precision,
        "cudnn_convolution": cudnn.conv.fp32_precision,
        "cudnn_recurrent": cudnn.rnn.fp32_precision,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "device": torch.get_default_device(),
        "dtype": torch.get_default_dtype(),
    }


def test_workers_have_them_whatever_a_plug_in_says(tmp_path: Path) -> None:
    plugin = tmp_path / "fast.py"
    plugin.write_text(FAST, encoding="utf-8")
    ending = run_in_worker(held, limits=Limits(60.0, math.inf), plugins=(str(plugin),))
    assert ending.value == FIXED | DEFAULTS


def test_records_and_trainings_of_this_process_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exec(FAST)
    assert not held().items() & DEFAULTS.items()
    assert held().items() & FIXED.items() != FIXED.items()
    assert environment()["flags"].items() >= FIXED.items()
    exec(FAST)
    monkeypatch.setattr(parallel, "process_group", lambda **_: nullcontext(SINGLE))
    assert [*parallel.train_distributed([], tmp_path)] == []
    assert held() == FIXED | DEFAULTS
