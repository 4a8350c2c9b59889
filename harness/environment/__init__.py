"""The environment of a measurement: code, machine and versions."""

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
from harness.environment.gpus import gpus, visible
from harness.environment.machine import limits, load, processor, processor_name, read

__all__ = ["MACHINE", "code_state", "environment", "fingerprint"]

# Not commit and changes: a log in the checkout, or a commit of something else, changes no number.
# So a run may go on at another commit; its journal has both, in the events "start" and "resume".
_DECIDES = ("source", "plugins", "packages", "python", "torch", "flags")

MACHINE = "METAGRAD_MACHINE"
"""Variable with a name for this machine, for identical machines that are rented anew each time."""


def environment(store: Path | None = None, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """Return code, machine and versions, ready for JSON; CUDA is not initialised.

    This fixes torch's flags in this process, so that they are recorded as they are in workers.
    Commit and changes are those of the working folder, or the commit is the one that asv has
    installed. Fields of the top level are always there, "" if unknown; unknown nested ones are
    left out.
    """
    found = gpus()
    memory = _memory()
    cores = psutil.cpu_count(logical=False)
    name, cpu = processor_name(), processor()
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
        "moment": load(store),
    }


def fingerprint(
    name: str,
    cores: int | None,
    logical: int | None,
    memory: int,
    gpus: list[dict[str, Any]],
    root: Path = Path("/"),
) -> str:
    """Return a digest that identifies a machine.

    It is made of the processor's name and numbers of cores, the memory in GiB, the GPUs' names,
    and the machine's identity: the variable `MACHINE`, else /etc/machine-id, else the host name.
    Memory is rounded up, since kernels reserve a little that differs from one to the next.
    """
    identity = os.environ.get(MACHINE) or read(root / "etc/machine-id") or platform.node()
    names = [gpu["name"] for gpu in gpus]
    return _digest([name, cores, logical, math.ceil(memory / 2**30), names, identity])


def code_state(environment: dict[str, Any]) -> str:
    """Return a digest of all that decides measured numbers, except the machine.

    Runs with the same digest and fingerprint may be joined. It is made of the project's source,
    the contents of plug-ins and of their imports, versions of packages and Python, the build of
    torch, threads, flags and variables of numerical libraries, and the branch of GPU drivers.
    """
    facts = {name: environment.get(name) for name in _DECIDES}
    facts["threads"] = [environment.get(name) for name in ("threads", "threading", "variables")]
    # By their branch, as 580: rented machines of one kind differ in what follows.
    drivers = {gpu.get("driver", "").partition(".")[0] for gpu in environment.get("gpus") or ()}
    facts["drivers"] = sorted(drivers)
    return _digest(facts)


def _memory() -> int:
    try:
        return psutil.virtual_memory().total
    except (OSError, RuntimeError):  # as in some sandboxes
        return 0


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
