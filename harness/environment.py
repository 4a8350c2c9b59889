"""What a measurement was made with."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

_PACKAGES = ("metagrad-bench", "torch", "numpy", "memory-profiler")


def environment() -> dict[str, Any]:
    """Returns commit, machine and versions, ready for JSON.

    The commit is that of the folder the process works in, or the one that asv has installed.
    """
    return {
        **_commit(),
        "machine": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "memory": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": [
            torch.cuda.get_device_name(index)
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        ],
    }


def _commit() -> dict[str, Any]:
    installed = os.environ.get("ASV_COMMIT")
    if installed:
        return {"commit": installed, "changes": ""}
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=normal")
    if not head:
        return {"commit": "", "changes": ""}
    changes = _git("diff", "HEAD") or ""
    for name in (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0"):
        with suppress(OSError):  # a folder of its own repository, or not ours to read
            changes += name + hashlib.sha256(Path(name).read_bytes()).hexdigest()
    digest = hashlib.sha256(changes.encode()).hexdigest()[:12]
    return {"commit": head, "changes": digest if status else ""}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
