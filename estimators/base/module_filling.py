"""Other tensors in the places of a module's parameters and buffers, in checkpoints too."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from difflib import get_close_matches
from threading import RLock
from typing import Any, NoReturn

from torch import Tensor
from torch.utils import checkpoint

from estimators.base.attention import is_plain, plain_attention, trainable_attention
from estimators.base.errors import OptionError

Place = tuple[dict[str, Tensor | None], str]
Places = Mapping[str, list[Place]]
"""Where the parameters and buffers of a module are, by name; a tied one has several places."""

LOCK = RLock()  # while a module has other tensors; one for all, since modules share parts
_PATIENCE = 60.0  # seconds
_Filling = tuple[Places, Mapping[str, Tensor]] | None


class Filled(AbstractContextManager[None]):
    """A block in which tensors are in the places of a module's parameters and buffers.

    No `contextmanager`, whose generator takes twice as long: a loss is evaluated within one.
    """

    __slots__ = ("_before", "_places", "_tensors", "_token")

    def __init__(self, places: Places, tensors: Mapping[str, Tensor]) -> None:
        self._places, self._tensors = places, tensors
        self._token: Token[_Filling] | None = None
        self._before: list[tuple[dict[str, Tensor | None], str, Tensor | None]] = []

    def __enter__(self) -> None:
        LOCK.acquire()
        self._token = _filling.set((self._places, self._tensors))
        try:
            for name, tensor in self._tensors.items():
                for held, leaf in self._places.get(name) or refuse_name(name, self._places):
                    self._before.append((held, leaf, held[leaf]))
                    held[leaf] = tensor
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for held, leaf, own in reversed(self._before):
            held[leaf] = own
        if self._token:
            _filling.reset(self._token)
            LOCK.release()


def refuse_name(name: str, places: Places) -> NoReturn:
    """Refuse the name of a parameter.

    Raises:
        OptionError: always; names the parameter that may be meant.
    """
    near = get_close_matches(name, places, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join([*places][:8])}"
    raise OptionError(
        f"the module has no parameter {name!r}; {hint} (is it the module that the problem was "
        "made of?)"
    )


_filling: ContextVar[_Filling] = ContextVar("filling", default=None)
_BEGINNINGS = (
    "_checkpoint_without_reentrant_generator_impl",  # from torch 2.14 on
    "_checkpoint_without_reentrant_generator",
)
_begin_checkpoint: Any = next(
    (vars(checkpoint)[n] for n in _BEGINNINGS if n in vars(checkpoint)), None
)


def _checkpoint_that_refills(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Begin an activation checkpoint whose recomputation finds the tensors of the forward pass."""
    filling = _filling.get()
    if filling is None:
        return _begin_checkpoint(function, *args, **kwargs)
    places, tensors = filling
    attention = plain_attention() if is_plain() else nullcontext()

    def again(*inputs: Any, **options: Any) -> Any:
        # In a thread of autograd's, for which a thread that holds the lock may be waiting.
        if not LOCK.acquire(timeout=_PATIENCE):
            raise OptionError("an activation checkpoint is computed again within a forward pass")
        try:
            with attention, trainable_attention(), Filled(places, tensors):
                return function(*inputs, **options)
        finally:
            LOCK.release()

    return _begin_checkpoint(again, *args, **kwargs)


# Autograd computes a checkpoint again in the backward pass, when a module has its own parameters
# back. torch has no public way to say what holds then; where it changes this one, the check of
# problems refuses such modules.
if _begin_checkpoint is not None:
    setattr(checkpoint, _begin_checkpoint.__name__, _checkpoint_that_refills)
