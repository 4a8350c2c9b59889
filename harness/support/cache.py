"""Store tensors on disk under a digest of all that they depend on."""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from torch import Tensor

from harness.support.files import atomic_file

LIMIT = 2 * 2**30  # bytes of all tensor files together
_CHECKSUM = hashlib.sha256().digest_size


def folder() -> Path:
    """Return the folder of the cache: $METAGRAD_CACHE, else the user's cache folder."""
    return Path(os.environ.get("METAGRAD_CACHE") or user_cache_dir("metagrad-bench"))


def load(kind: str, key: str) -> Any | None:
    """Return the value under a key, its tensors on the CPU; None if it is missing or broken."""
    path = _path(kind, key)
    try:
        content = path.read_bytes()
        checksum, payload = content[:_CHECKSUM], content[_CHECKSUM:]
        if hashlib.sha256(payload).digest() != checksum:  # torch checks no checksums itself
            return None
        value = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:  # a broken file fails in many ways
        return None
    _mark_as_used(path)
    return value


def save(kind: str, key: str, content: Any) -> None:
    """Store a value under a key; evict least recently used entries above `LIMIT`.

    A folder that cannot be written is no error.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    if len(payload) + _CHECKSUM <= LIMIT:
        path = _path(kind, key)
        write(path, hashlib.sha256(payload).digest() + payload)
        _shrink(path.parent)


def write(path: Path, content: bytes) -> None:
    """Write a file atomically; a folder that cannot be written is no error."""
    with suppress(OSError), atomic_file(path) as file:
        file.write(content)


def digest(*parts: str | float | Path | Tensor | Mapping[str, Tensor]) -> str:
    """Return a SHA-256 in hexadecimal of values, files and tensors.

    Example:
        >>> digest("a", 1.0) == digest("a", 1.0), digest("a", 1.0) == digest("a", 1)
        (True, False)
    """
    whole = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            whole.update(hashlib.sha256(piece).digest())
        whole.update(b"end of part")
    return whole.hexdigest()


def arithmetic(device: str) -> str:
    """Return what the last bits of a result depend on besides code and data."""
    if device == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return f"torch {torch.__version__}, {capability}, {torch.get_num_threads()} threads"
    return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"


def _pieces(part: str | float | Path | Tensor | Mapping[str, Tensor]) -> Iterable[bytes]:
    if isinstance(part, Tensor):
        yield f"{part.dtype} {tuple(part.shape)}".encode()
        flat = part.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(part, Mapping):
        for name, value in part.items():
            yield name.encode()
            yield from _pieces(value)
    elif isinstance(part, Path):
        files = [part] if part.is_file() else sorted(part.rglob("*"))
        for file in files:
            if file.is_file() and file.suffix != ".pyc":
                yield file.relative_to(part.parent).as_posix().encode()
                yield file.read_bytes()
    else:
        yield repr(part).encode()


def _path(kind: str, key: str) -> Path:
    return folder() / "tensors" / f"{kind}-{key}.pt"


def _mark_as_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # read-only, or deleted by now
        return


def _shrink(tensors: Path) -> None:
    """Delete the least recently used files until the others fit."""
    try:
        found = [(file.stat(), file) for file in tensors.iterdir()]
        total = sum(state.st_size for state, _ in found)
        for state, file in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if total <= LIMIT:
                return
            file.unlink(missing_ok=True)
            total -= state.st_size
    except OSError:  # another process does the same
        return
