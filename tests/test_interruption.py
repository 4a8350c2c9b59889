"""Interruptions: one counts, and not in the midst of what must not be left half done."""

import signal

import pytest

from harness.support.signals import delay_signals, interrupt_once


def test_interruption_waits_for_what_must_not_be_left_half_done() -> None:
    done: list[int] = []

    def work() -> None:
        with interrupt_once(), delay_signals():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
                done.append(number)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(done) == 2


def test_handlers_come_back_and_ignored_signals_stay_ignored() -> None:
    before: object = signal.getsignal(signal.SIGINT)
    with delay_signals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with delay_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
