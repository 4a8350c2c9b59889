"""Operators as they run: below autograd, transforms and modules, composite ones taken apart."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

Seen = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], object]
"""Takes an operator, its arguments, those by name, and what it returned."""


def watch_operators(work: Callable[[], object], seen: Seen) -> None:
    """Call a function after each operator that `work` runs."""
    with _Watching(seen):
        work()


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    # torch's FlopCounterMode hooks into modules too, to tell their shares. Its hooks fail where a
    # module is given a parameter: https://github.com/pytorch/pytorch/issues/131753.

    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch would import its compiler, for a second, at the first operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # some composite operators come as a whole, all in inference mode
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            self._seen(func, args, kwargs, result)
        return result
