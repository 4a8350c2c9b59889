"""The phases of an estimate, marked where they happen, for whoever times or profiles them.

Marks sit in code that estimators share: the inner loop of `BilevelProblem`, and the places where
the outer gradient is taken. An estimator that uses these reports its phases without further code.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import StrEnum

from torch import Tensor
from torch.autograd.graph import Node


class Phase(StrEnum):
    """A phase of an estimate.

    Attributes:
        INNER_LOOP: an inner step; one that is taken again, to rebuild its graph, too.
        OUTER_GRADIENT: the outer loss and its gradient at adapted parameters.
        META_GRADIENT: all the rest.
    """

    INNER_LOOP = "inner loop"
    OUTER_GRADIENT = "outer gradient"
    META_GRADIENT = "meta-gradient"


Watcher = Callable[[Phase], None]


def phase(which: Phase) -> AbstractContextManager[None]:
    """Mark a stretch of code as a phase; phases may be nested, and the innermost one counts.

    It does nothing where nobody watches.

    Args:
        which: the phase.

    Example:
        >>> with watched(print), phase(Phase.OUTER_GRADIENT), phase(Phase.INNER_LOOP):
        ...     pass
        outer gradient
        inner loop
        outer gradient
        meta-gradient
    """
    watch = _watch.get()
    return _Stretch(watch, which) if watch else _UNWATCHED


def marked_outer_loss(evaluate: Callable[[], Tensor], adapted: Iterable[Tensor]) -> Tensor:
    """Evaluate an outer loss whose gradient is the first part of one backward pass.

    One pass through outer loss and inner steps is quicker and leaner than one for each. The outer
    gradient begins now; the meta-gradient begins where that pass comes to the adapted parameters,
    or at the latest where the enclosing `phase` ends.

    Args:
        evaluate: returns the outer loss.
        adapted: results of the last inner step.
    """
    watch = _watch.get()
    if watch is None:
        return evaluate()
    watch.change(Phase.OUTER_GRADIENT)
    loss = evaluate()
    # Autograd takes up first what was computed last. So it is done with the outer loss when it
    # comes to any of these, and comes to all of them before it goes on to the last inner step:
    # one hook is enough, and one for each would take time that is seen in small models.
    node = _nearest(loss, adapted)
    if node is not None:
        node.register_prehook(lambda _gradients: watch.change(Phase.META_GRADIENT))
    return loss


def _nearest(loss: Tensor, adapted: Iterable[Tensor]) -> Node | None:
    """Return the node of autograd's graph that made one of the tensors, by breadth-first search.

    None where the loss depends on none of them, or they are leaves.
    """
    wanted = {tensor.grad_fn for tensor in adapted} - {None}
    queue = deque([loss.grad_fn] if wanted else [])
    seen = set(queue)
    while queue:
        node = queue.popleft()
        if node is None or node in wanted:
            return node
        further = [parent for parent, _ in node.next_functions if parent not in seen]
        seen.update(further)
        queue.extend(parent for parent in further if parent is not None)
    return None


@contextmanager
def watched(watcher: Watcher) -> Generator[None]:
    """Call a watcher at each change of phase in the calling thread.

    Args:
        watcher: is called with the phase that begins. Before the first call the phase is
            `Phase.META_GRADIENT`; after a phase the enclosing one begins again.
    """
    token = _watch.set(_Watch(watcher))
    try:
        yield
    finally:
        _watch.reset(token)


class _Watch:
    """A watcher, and the phase that it was last called with."""

    __slots__ = ("now", "watcher")

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.now = Phase.META_GRADIENT

    def change(self, which: Phase) -> None:
        if which is not self.now:
            self.now = which
            self.watcher(which)


class _Stretch:
    """A stretch of code; no `contextmanager`, whose generator takes twice as long."""

    __slots__ = ("_before", "_watch", "_which")

    def __init__(self, watch: _Watch, which: Phase) -> None:
        self._watch, self._which, self._before = watch, which, which

    def __enter__(self) -> None:
        self._before = self._watch.now
        self._watch.change(self._which)

    def __exit__(self, *_: object) -> None:
        self._watch.change(self._before)


_UNWATCHED = nullcontext()
_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)
