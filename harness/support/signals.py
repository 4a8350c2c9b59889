"""How a command that takes long is told to stop."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn

_FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupt_once() -> Generator[None]:
    """Turns Ctrl-C, `kill` and the end of the terminal into one KeyboardInterrupt.

    Only the first one counts: what it sets off must come to its end. What is ignored already, as
    the end of the terminal under `nohup`, stays so. Only for the main thread.
    """

    def interrupt(*_: object) -> NoReturn:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def delay_signals() -> Generator[None]:
    """Lets Ctrl-C and the like wait for the end of what must not be left half done.

    Threads other than the main one are not interrupted anyway.
    """
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
    """Takes no notice of Ctrl-C and the like, where all is about to end anyway.

    Only for the main thread.
    """
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], object] | signal.Handlers) -> Generator[None]:
    """Gives signals to another handler for a while, but for those that are ignored already."""
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
    """Keeps Ctrl-C and the end of the terminal from threads and programs that are started here.

    What is blocked stays so in them, and reaches us afterwards.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
