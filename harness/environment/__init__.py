"""What a measurement was made with."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from harness.environment import build, code
from harness.environment.cgroups import limits
from harness.environment.files import read
from harness.environment.gpus import gpus, visible
from harness.environment.load import moment
from harness.environment.processor import model, processor

__all__ = ["MACHINE", "code_state", "environment", "fingerprint"]

# Commit and changes are not among them: the code that runs is told by its contents, and a log that
# grows in the checkout, or a commit of something else, changes no number. So a run may have begun
# at another commit than it goes on at; the journal tells each, in the events "start" and "resume".
_DECIDES = ("source", "plugins", "packages", "python", "torch", "flags")


MACHINE = "METAGRAD_MACHINE"
"""Variable with a name for this machine, for those that are lent anew each time, all alike."""


def environment(store: Path | None = None, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """Returns code, machine and versions, ready for JSON; CUDA is not initialised.

    torch's flags are fixed in this process, so that they are told as they are in workers.

    Commit and changes are those of the folder the process works in, or the commit is the one that
    asv has installed. The fields at the top are always there, "" if unknown; within the nested
    ones what is unknown is left out.
    """
    found = gpus()
    memory = _memory()
    cores = psutil.cpu_count(logical=False)
    name, cpu = model(), processor()
    return {
        **code.checkout(store),
        "source": code.source(),
        "plugins": code.plugins(plugins),
        "machine": os.environ.get(MACHINE) or platform.node(),
        "fingerprint": fingerprint(name, cores, cpu.get("logical"), memory, found),
        "system": platform.platform(),
        "processor": name,
        "cores": cores,
        "memory": memory,
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "packages": code.packages(),
        "devices": visible(found),
        "cpu": cpu,
        "limits": limits(),
        "gpus": found,
        "torch": build.build(),
        "threading": build.threading(),
        "variables": build.variables(),
        "flags": build.fixed_flags(),
        "moment": moment(store),
    }


def fingerprint(
    name: str,
    cores: int | None,
    logical: int | None,
    memory: int,
    found: list[dict[str, Any]],
    root: Path = Path("/"),
) -> str:
    """Returns a digest that tells one machine from another and stays the same from day to day.

    It is made of the processor's name and numbers of cores, the memory in GiB, the GPUs' names,
    and the machine's identity: the variable `MACHINE`, else /etc/machine-id, else the host name (a
    container has often a new one each time: its runs are not taken for those of another).
    Memory is rounded up, since a kernel keeps a little back that differs from one to the next.
    """
    identity = os.environ.get(MACHINE) or read(root / "etc/machine-id") or platform.node()
    names = [gpu["name"] for gpu in found]
    return _digest([name, cores, logical, math.ceil(memory / 2**30), names, identity])


def code_state(environment: dict[str, Any]) -> str:
    """Returns a digest of what decides the numbers that code gives, the machine apart.

    Runs with the same one and the same fingerprint may be joined. It is made of the project's own
    source, the contents of plug-ins and of what they import, versions of packages and Python, the
    build of torch, threads, flags and variables that numerical libraries look at, and GPU drivers;
    so it is the same with a commit, without one, and with changes to other files.
    """
    facts = {name: environment.get(name) for name in _DECIDES}
    return _digest(
        facts
        | {
            "threads": [environment.get(name) for name in ("threads", "threading", "variables")],
            "drivers": sorted({gpu.get("driver", "") for gpu in environment.get("gpus") or ()}),
        }
    )


def _memory() -> int:
    try:
        return psutil.virtual_memory().total
    except (OSError, RuntimeError):  # as in some sandboxes
        return 0


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
