"""What errors of torch's are about."""

import re

import torch

from estimators.base.errors import OptionError

_MISSING = re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented")
_TWICE = re.compile(
    r"(?i)double[ -]?backward|differentiate twice|don't support automatic differentiation"
)


def missing_derivative(error: BaseException) -> OptionError | None:
    """Return what to tell in place of an error of torch's about a derivative that it lacks.

    Args:
        error: any.

    Returns:
        None where the error is about something else.
    """
    line = first_line(error)
    named = _MISSING.search(line)
    if named and not named[1].endswith("_backward"):
        return OptionError(f"torch cannot differentiate {named[1]} ({line})")
    if named or _TWICE.search(line):
        operation = named[1].strip("_").removesuffix("_backward") if named else "an operation"
        return OptionError(
            f"torch cannot differentiate {operation} twice ({line}); write it in plain operations, "
            "or use an estimator without second derivatives: hf-maml, fomaml, reptile"
        )
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return bool(re.search(r"(?i)out of memory|can't allocate memory", str(error)))
