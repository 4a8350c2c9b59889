"""Attention in plain operations: what can be differentiated twice, and goes through vmap."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock, local

from torch.backends import cuda, mha


def plain_attention() -> AbstractContextManager[None]:
    """Keep torch from fused attention, none of which has a second derivative, in a block.

    https://github.com/pytorch/pytorch/issues/116350
    """
    return _PLAIN


def is_plain() -> bool:
    """Return whether torch is kept from fused attention."""
    return not any(get() for get, _, wanted in _PLAIN.wanted if not wanted)


def trainable_attention() -> AbstractContextManager[None]:
    """Keep torch from attention for inference, in a block.

    `nn.MultiheadAttention` takes it in evaluation mode where no tensor seems to require a gradient,
    as within vmap.
    """
    return _TRAINABLE


def is_trainable() -> bool:
    """Return whether this thread is within a block of `trainable_attention`."""
    return _TRAINABLE.depth.of_thread > 0


class _Depth(local):
    """How many blocks a thread is within."""

    of_thread = 0


_Setting = tuple[Callable[[], bool], Callable[[bool], None], bool]


class _Settings(AbstractContextManager[None]):
    """What `sdpa_kernel` does, in a tenth of its time.

    Settings are the process's: the last thread to leave restores what the first one found.
    """

    def __init__(self, *wanted: _Setting) -> None:
        self.wanted, self._before = wanted, [False] * len(wanted)
        self.depth = _Depth()
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        self.depth.of_thread += 1
        if self.depth.of_thread > 1:
            return
        with self._lock:
            if not self._inside:
                self._before = [get() for get, _, _ in self.wanted]
                for _, choose, value in self.wanted:
                    choose(value)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        self.depth.of_thread -= 1
        if self.depth.of_thread:
            return
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for (_, choose, _), before in zip(self.wanted, self._before, strict=True):
                    choose(before)


_TRAINABLE = _Settings((mha.get_fastpath_enabled, mha.set_fastpath_enabled, False))
_PLAIN = _Settings(  # flags of all devices, whatever their name says
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp, False),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, False),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, False),
    (cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
)
