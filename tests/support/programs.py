"""Programs of compiled estimators without a compiler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_structure, tree_unflatten

from estimators.programs import making, modules
from estimators.programs.disk import Executable
from estimators.programs.modules import Program


def run_as_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs traced, but run as they are instead of compiled."""

    def loop(body: Any, carry: Any, rows: Tensor, fixed: Any) -> Any:
        results = []
        for row in rows:
            carry, result = body(carry, row, fixed)
            results.append(result)
        return carry, torch.stack(results) if results else rows.new_empty(0)

    def keep(draft: Path, name: str, device: torch.device, places: Any, seconds: float) -> Any:
        del draft, name, device
        program = programs.pop()
        arguments = [*(example for example, _ in program.given), *program.examples]
        structure = tree_structure(arguments)

        def run(given: list[Tensor]) -> Any:
            return program(*tree_unflatten(given, structure))

        return Executable(run, places, seconds)

    programs: list[Program] = []
    monkeypatch.setattr(making, "compile_program", lambda program, _: programs.append(program))
    monkeypatch.setattr(making, "keep", keep)
    monkeypatch.setattr(modules, "loop", loop)
