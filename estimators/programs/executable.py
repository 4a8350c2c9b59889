"""Programs as machine code: compiled ahead of time, kept on disk, and loaded again."""

import hashlib
import os
import platform
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from estimators.programs.launches import Launched, Run
from estimators.programs.modules import Program


class Executable(NamedTuple):
    """A program as machine code.

    Attributes:
        run: takes the tensors of all arguments as one list, contiguous ones.
        seconds: that it took to compile, in this process or in another.
    """

    run: Run
    seconds: float


Arguments = Sequence[Tensor | Sequence[Tensor]]

_LIMIT = 2 * 2**30  # bytes of all files together


def executable(program: Program) -> Executable:
    """Return a program as machine code, from disk where it was compiled before.

    Args:
        program: the program.
    """
    arguments = [*(example for example, _ in program.given), *program.examples]
    varying = [*(name for _, name in program.given), None, None]
    device = next(each for each in arguments if isinstance(each, Tensor)).device
    name, folder = _digest(program, arguments, varying, device), cache_folder() / "programs"
    found = _find(folder, name, device)
    if found:
        return found
    begin = perf_counter()
    with TemporaryDirectory(prefix="metagrad-") as draft:
        path = Path(draft) / "program.pt2"
        _compile(program, arguments, varying, path)
        seconds = round(perf_counter() - begin, 1)
        kept = folder / f"{name}-{_checksum(path.read_bytes())}-{seconds}.pt2"
        return Executable(_load(_moved(path, kept), device), seconds)


def _find(folder: Path, name: str, device: torch.device) -> Executable | None:
    """Return a program that is on disk, sound and ours."""
    for path in folder.glob(f"{name}-*.pt2"):
        with suppress(OSError, ValueError, RuntimeError):
            _, checksum, seconds = path.stem.split("-")
            own = path.stat().st_uid == os.getuid()
            if own and checksum == _checksum(path.read_bytes()):
                os.utime(path)
                return Executable(_load(path, device), float(seconds))
        warnings.warn(f"{path} is broken or foreign: it is compiled anew", stacklevel=4)
        with suppress(OSError):
            path.unlink()
    return None


def _moved(path: Path, kept: Path) -> Path:
    """Return where a program is kept from now on; where it is if that folder cannot be written."""
    draft = kept.with_name(f".{os.getpid()}-{kept.name}")
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(path.read_bytes())
        draft.replace(kept)
        _shrink(kept.parent)
    except OSError:
        return path
    return kept


def cache_folder() -> Path:
    """Return the folder of the cache: $METAGRAD_CACHE, else the user's cache folder."""
    own = os.environ.get("METAGRAD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "metagrad-bench"


def _load(path: Path, device: torch.device) -> Run:
    # Several threads may call it, one at a time: it has one set of buffers.
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    number = -1 if device.type == "cpu" else device.index or 0
    run: Run = loader(str(path), "model", False, 1, number).run
    return Launched(run) if device.type == "cuda" else run


def _compile(
    program: Program, arguments: Arguments, varying: Sequence[str | None], path: Path
) -> None:
    # Takes seconds, which few want to wait for.
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import CppCompileError

    dimensions = {name: torch.export.Dim(name, min=0, max=2**30) for name in varying if name}

    def shape(tensor: Tensor, name: str | None) -> Any:
        return {0: dimensions[name]} if name and tensor.dim() else None

    shapes = [
        shape(each, name) if isinstance(each, Tensor) else [shape(one, name) for one in each]
        for each, name in zip(arguments, varying, strict=True)
    ]
    with readable_precision():
        exported = torch.export.export(
            program, tuple(arguments), dynamic_shapes=tuple(shapes), strict=False
        )
    package = partial(aoti_compile_and_package, exported, package_path=str(path))
    options: dict[str, Any] = {
        # Channels last, which inductor prefers for convolutions, costs copies at each step.
        "layout_optimization": False,
        # Compiled headers are ready sooner only where many programs are compiled.
        "aot_inductor.precompile_headers": False,
        # Trial compilations take eight seconds; the processor's own flags nearly always work.
        "cpp.vec_isa_ok": True,
    }
    with _simple_indices():
        try:
            package(inductor_configs=options)
        except CppCompileError:
            package(inductor_configs=options | {"cpp.vec_isa_ok": None})


@contextmanager
def readable_precision() -> Generator[None]:
    """Let torch.export read cuDNN's precision, by an interface that may refuse to say it.

    It does once the precision was set by the newer interface; meanwhile there is no TF32.
    """
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    try:
        torch._C._get_cudnn_allow_tf32()
    except RuntimeError:
        cudnn.allow_tf32 = False
        try:
            yield
        finally:
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before
    else:
        yield


@contextmanager
def _simple_indices() -> Generator[None]:
    """Keep inductor from simplifying indices that have no divisions, a third of its time."""
    from torch._inductor import sizevars
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    simplify = getattr(sizevars, "simplify_index_in_vec_range", None)
    if simplify is None:
        yield
        return

    def simplified(index: Any, variable: Any, length: int) -> Any:
        divided = index.has(FloorDiv, ModularIndexing)
        return simplify(index, variable, length) if divided else index

    with patch.object(sizevars, "simplify_index_in_vec_range", simplified):
        yield


def _digest(
    program: Program, arguments: Arguments, varying: Sequence[str | None], device: torch.device
) -> str:
    """Return a digest of all that machine code depends on."""
    whole = hashlib.sha256()
    parts: list[object] = [torch.__version__, _machine(), torch.get_num_threads(), device, *varying]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_capability(device))
    parts += program.form, program.places
    for name, traced in program.steps.items():
        parts += name, traced.graph.code
        for node in traced.graph.graph.find_nodes(op="get_attr"):
            parts.append(getattr(traced.graph, str(node.target)).tolist())
    for argument in arguments:
        tensors = [argument] if isinstance(argument, Tensor) else argument
        parts += len(tensors), *[(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
    for source in sorted(Path(__file__).parent.glob("*.py")):
        parts.append(source.read_bytes())
    whole.update(repr(parts).encode())
    return whole.hexdigest()[:32]


@cache
def _machine() -> str:
    """Return what code for this processor depends on."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return platform.platform() + platform.processor()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _shrink(folder: Path) -> None:
    """Delete the least recently used files until the others fit."""
    found = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in folder.iterdir())
    total = sum(size for _, size, _ in found)
    for _, size, path in found:
        if total > _LIMIT:
            path.unlink(missing_ok=True)
            total -= size
