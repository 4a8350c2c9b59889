"""Make programs: trace the steps, and compile the loops around them ahead of time."""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch
from zipfile import ZipFile

import torch
from torch import Tensor
from torch._inductor import aoti_compile_and_package, sizevars
from torch._inductor.exc import CppCompileError
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

from estimators.base.errors import OptionError
from estimators.base.failures import first_line, missing_derivative, out_of_memory
from estimators.base.problem import BilevelProblem
from estimators.programs.disk import Executable, keep, suffix
from estimators.programs.layout import Form
from estimators.programs.modules import Cascade, Exact, Product, Program
from estimators.programs.trace import Descent


def make(
    problem: BilevelProblem, tensors: Sequence[Tensor], form: Form, like: Tensor, name: str
) -> Executable:
    """Compile a program.

    Args:
        problem: one of those that it is for.
        tensors: that the problem's losses hold.
        form: of the program.
        like: a tensor of the parameters' dtype and device.
        name: that it is kept under.

    Raises:
        OptionError: there is no such program of this problem's losses.
    """
    if torch.__version__ < "2.13":  # compares versions, not texts
        raise OptionError(f"compiled=True needs torch 2.13 or newer, not {torch.__version__}")
    descent = Descent(problem.inner_loss, problem.outer_loss, form, like)
    try:
        with _disable_current_modes(), _quiet():
            begin = perf_counter()
            program: Program
            if form.name == "exact":
                program = Exact(descent, tensors)
            elif form.name == "cascade":
                program = Cascade(descent, tensors)
            else:
                program = Product(descent, tensors)
            places = [place for each in program.places for place in each]
            with TemporaryDirectory(prefix="metagrad-") as folder:
                draft = (Path(folder) / "program").with_suffix(suffix(like.device))
                compile_program(program, draft)
                seconds = round(perf_counter() - begin, 1)
                return keep(draft, name, like.device, places, seconds)
    except OptionError as error:
        raise OptionError(f"compiled=True: {error}") from error
    except Exception as error:  # of the losses, of tracing, of the compiler
        if out_of_memory(error):
            raise
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        raise missing_derivative(cause) or OptionError(
            f"compiled=True: no program can be made of these losses ({first_line(cause)})"
        ) from error


def compile_program(program: Program, path: Path) -> None:
    """Compile a program ahead of time.

    Args:
        program: the program.
        path: where its file is written.
    """
    arguments = [*(example for example, _ in program.given), *program.examples]
    varying = [*(name for _, name in program.given), None, None]
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
    package = path.with_suffix(".pt2")
    compiled = partial(aoti_compile_and_package, exported, package_path=str(package))
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
            compiled(inductor_configs=options)
        except CppCompileError:
            compiled(inductor_configs=options | {"cpp.vec_isa_ok": None})
    if path != package:
        with ZipFile(package) as files:
            (library,) = [name for name in files.namelist() if name.endswith(path.suffix)]
            path.write_bytes(files.read(library))


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
        if (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) != before:
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before


@contextmanager
def _simple_indices() -> Generator[None]:
    """Keep inductor from simplifying indices that have no divisions, a third of its time."""
    simplify = getattr(sizevars, "simplify_index_in_vec_range", None)
    if simplify is None:
        yield
        return

    def simplified(index: Any, variable: Any, length: int) -> Any:
        divided = index.has(FloorDiv, ModularIndexing)
        return simplify(index, variable, length) if divided else index

    with patch.object(sizevars, "simplify_index_in_vec_range", simplified):
        yield


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the compiler's warnings and logs, whole graphs at times, from people."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
