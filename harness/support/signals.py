"""Handling of Ctrl-C and of signals that end a process."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn

_FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupt_once() -> Generator[None]:
    """Turn Ctrl-C, `kill` and the end of the terminal into one KeyboardInterrupt.

    Later signals are ignored, so that the clean-up after the first is not interrupted. Signals that
    are ignored already, as under `nohup`, stay so. Only for the main thread.
    """

    def interrupt(*_: object) -> NoReturn:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def delay_signals() -> Generator[None]:
    """Delay Ctrl-C and the like until the end of the block; only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    try:
        with _handled_by(lambda number, _: held.append(number)):
            yield
    finally:
        for caught in held:
            signal.raise_signal(caught)


@contextmanager
def ignore_signals() -> Generator[None]:
    """Ignore Ctrl-C and the like, as during clean-up; only for the main thread."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], object] | signal.Handlers) -> Generator[None]:
    """Use another handler for signals, except for those that are ignored already."""
    known = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: one for number, one in known.items() if one != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


@contextmanager
def block_signals() -> Generator[None]:
    """Block Ctrl-C and the end of the terminal in threads and processes that are started here.

    They stay blocked there; this thread gets them afterwards.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
