"""Profiles as a worker would write them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from estimators.base.phases import Phase
from harness.cell import Cell
from harness.profiling.folder import SCHEMA, folder_of, write_stacks
from tests.support.stores import MARKUP, environment

INNER, OUTER, META = (str(one) for one in (*Phase,))


def write_profile(
    store: Path, cell: Cell, at: str = "2026-01-02T03:04:05+00:00", folder: Path | None = None
) -> Path:
    """Writes a profile as a worker would."""
    folder = folder or folder_of(cell, store)
    folder.mkdir(parents=True)
    (folder / "trace.json").write_text("{}")
    stacks = {
        (INNER, "e.py(1): run"): 500_000,
        (INNER, "e.py(1): run", "aten::mm"): 1_500_000,
        (META, "e.py(1): run", "nn.Module: Linear_0"): 1_000_000,
        (OUTER, f"e.py(2): {MARKUP.replace(';', ':')}"): 1_000_000,
        (OUTER, "tiny"): 10,
    }
    write_stacks(stacks, folder / "stacks.txt")
    lives = [100, 300, 200, 700, 0]
    changes = [100, 200, -100, 500, -700]
    phases = [INNER, INNER, OUTER, META, META]
    memory = {"bytes": changes, "live": lives, "phase": phases, "operator": ["aten::mm"] * 5}
    pd.DataFrame(memory).to_csv(folder / "memory.csv", index=False)
    operators: dict[str, list[Any]] = {
        "phase": [INNER, META],
        "operator": ["aten::mm", MARKUP],
        "calls": [3, 1],
    }
    operators |= {"self_seconds": [0.003, 0.001], "total_seconds": [0.003, 0.001]}
    operators |= {"self_bytes": [8, 0], "device_seconds": [0.0, 0.0]}
    pd.DataFrame(operators).to_csv(folder / "operators.csv", index=False)
    tensors: dict[str, list[Any]] = {
        "phase": [META],
        "operator": ["aten::mm"],
        "shape": ["10 x 40"],
    }
    tensors |= {"dtype": ["float32"], "count": [2], "bytes": [700]}
    pd.DataFrame(tensors).to_csv(folder / "tensors.csv", index=False)
    summary = {
        **{"schema": SCHEMA, "cell": cell.id, "at": at, "environment": environment("c" * 40)},
        **{"seconds": 0.004, "peak_memory": 700, "peak_phase": META, "memory_at_end": 0},
        "phases": {
            INNER: {"seconds": 0.003, "device_seconds": 0.0, "peak_memory": 300},
            META: {"seconds": 0.001, "device_seconds": 0.0, "peak_memory": 700},
        },
        **{"allocator_peak": None, "notes": [f"a note {MARKUP}"]},
    }
    (folder / "profile.json").write_text(json.dumps(summary))
    return folder
