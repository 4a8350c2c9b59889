"""Programs as machine code, kept on disk from one process to the next."""

import hashlib
import json
import os
import platform
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from estimators.programs.launches import Launched, Run
from estimators.programs.layout import Form

_LIMIT = 2 * 2**30  # bytes of all files together


class Executable(NamedTuple):
    """A program as machine code.

    Attributes:
        run: takes what it is given and what losses hold as one list of contiguous tensors.
        places: of these among all the tensors that the losses hold.
        seconds: that it took to compile, in this process or in another.
    """

    run: Run
    places: list[int]
    seconds: float


def digest(text: str, form: Form, device: torch.device) -> str:
    """Return a digest of all that machine code depends on.

    Args:
        text: of the losses, see `Signature.text`, and of the parameters.
        form: of the program.
        device: that it runs on.
    """
    parts: list[object] = [torch.__version__, _machine(), device, text, form]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_capability(device))
    return hashlib.sha256(_sources() + repr(parts).encode()).hexdigest()[:32]


def suffix(device: torch.device) -> str:
    """Return that of a program's file: a library for a CPU, else a package with kernels too.

    A package is unpacked into a folder that a process leaves behind.
    """
    return ".so" if device.type == "cpu" else ".pt2"


def find(name: str, device: torch.device) -> Executable | None:
    """Return a program that is on disk, sound and ours.

    Args:
        name: see `digest`.
        device: that it runs on.
    """
    path, facts = _paths(name, device)
    if not (path.exists() and facts.exists()):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
        known = json.loads(facts.read_text(encoding="utf-8"))
        own = path.stat().st_uid == facts.stat().st_uid == os.getuid()
        if own and known["checksum"] == _checksum(path):
            os.utime(path)
            os.utime(facts)
            places = [int(place) for place in known["places"]]
            return Executable(_load(path, device), places, float(known["seconds"]))
    warnings.warn(f"{path} is broken or foreign: it is compiled anew", stacklevel=5)
    return None


def keep(
    draft: Path, name: str, device: torch.device, places: list[int], seconds: float
) -> Executable:
    """Put a program on disk, if its folder can be written, and load it.

    Args:
        draft: the program's file.
        name: see `digest`.
        device: that it runs on.
        places: see `Executable`.
        seconds: see `Executable`.
    """
    path, facts = _paths(name, device)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {"checksum": _checksum(draft), "places": places, "seconds": seconds}
        _write(path, draft.read_bytes())
        _write(facts, json.dumps(known).encode())
        _shrink(path.parent)
    except OSError:
        path = draft
    return Executable(_load(path, device), places, seconds)


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    draft.write_bytes(content)
    draft.replace(path)


def _paths(name: str, device: torch.device) -> tuple[Path, Path]:
    path = (cache_folder() / "programs" / name).with_suffix(suffix(device))
    return path, path.with_suffix(".json")


def cache_folder() -> Path:
    """Return the folder of the cache: $METAGRAD_CACHE, else the user's cache folder."""
    own = os.environ.get("METAGRAD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "metagrad-bench"


def _load(path: Path, device: torch.device) -> Run:
    # Several threads may call it, one at a time: it has one set of buffers.
    aoti: Any = torch._C._aoti
    run: Run
    if device.type == "cpu":
        run = aoti.AOTIModelContainerRunnerCpu(str(path), 1).run
        return run
    run = aoti.AOTIModelPackageLoader(str(path), "model", False, 1, device.index or 0).run
    return Launched(run)


@cache
def _sources() -> bytes:
    """Return the code that makes programs, and that of the losses that are this project's."""
    base = Path(__file__).parents[1]
    folders = (base / "programs", base / "base")
    return b"".join(path.read_bytes() for each in folders for path in sorted(each.glob("*.py")))


@cache
def _machine() -> str:
    """Return what code for this processor depends on."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return platform.platform() + platform.processor()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shrink(folder: Path) -> None:
    """Delete the least recently used files until the others fit."""
    found = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in folder.iterdir())
    total = sum(size for _, size, _ in found)
    for _, size, path in found:
        if total > _LIMIT:
            path.unlink(missing_ok=True)
            total -= size
