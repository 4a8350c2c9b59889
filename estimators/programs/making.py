"""Make programs: trace the steps, compile the loops around them."""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from estimators.base.errors import OptionError
from estimators.base.failures import first_line, missing_derivative, out_of_memory
from estimators.base.problem import BilevelProblem
from estimators.programs.executable import Executable, executable
from estimators.programs.layout import Form
from estimators.programs.modules import Cascade, Exact, Product, Program
from estimators.programs.trace import Descent


def make(
    problem: BilevelProblem, tensors: Sequence[Tensor], form: Form, like: Tensor
) -> tuple[Executable, list[int]]:
    """Return a program, and the places of the tensors that it takes besides what it is given.

    Args:
        problem: one of those that it is for.
        tensors: that the problem's losses hold.
        form: of the program.
        like: a tensor of the parameters' dtype and device.

    Raises:
        OptionError: there is no such program of this problem's losses.
    """
    descent = Descent(problem.inner_loss, problem.outer_loss, form, like)
    try:
        with _disable_current_modes(), _quiet():
            program: Program
            if form.name == "exact":
                program = Exact(descent, tensors)
            elif form.name == "cascade":
                program = Cascade(descent, tensors)
            else:
                program = Product(descent, tensors)
            return executable(program), [place for each in program.places for place in each]
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
