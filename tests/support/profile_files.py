"""Profiles as a worker would write them."""

import json
from pathlib import Path

from estimators.base.phases import Phase
from harness.cell import Cell
from harness.profiling.folder import SCHEMA, folder_of, write_stacks
from tests.support.stores import MARKUP, environment

INNER, OUTER, META = (str(one) for one in (*Phase,))


def write_profile(
    store: Path, cell: Cell, at: str = "2026-01-02T03:04:05+00:00", folder: Path | None = None
) -> Path:
    """Write a profile as a worker would."""
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
    rows = [(100, 100, INNER), (200, 300, INNER), (-100, 200, OUTER), (500, 700, META)]
    lines = [
        f"{change},{live},{phase},aten::mm" for change, live, phase in [*rows, (-700, 0, META)]
    ]
    (folder / "memory.csv").write_text("\n".join(["bytes,live,phase,operator", *lines, ""]))
    head = "phase,operator,calls,self_seconds,total_seconds,self_bytes,device_seconds"
    operators = f"{INNER},aten::mm,3,0.003,0.003,8,0.0\n{META},{MARKUP},1,0.001,0.001,0,0.0"
    (folder / "operators.csv").write_text(f"{head}\n{operators}\n")
    head = "phase,operator,shape,dtype,count,bytes"
    (folder / "tensors.csv").write_text(f"{head}\n{META},aten::mm,10 x 40,float32,2,700\n")
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
