from __future__ import annotations

import signal
import threading

import pytest

from lightning_magics.transport.stop import Abort, RemoteStop, Stop, ignore_interrupts, stop_on_interrupt
from lightning_magics.transport.stop_control import StopFile


def test_second_wish_to_stop_aborts_until_the_end_has_begun():
    stop = Stop()
    stop.interrupt()
    assert stop.is_set()
    with pytest.raises(Abort):
        stop.interrupt()
    stop.end()
    stop.interrupt()


def test_the_processes_of_a_run_are_told_of_the_first_wish_and_of_the_second(tmp_path):
    control = StopFile(tmp_path / "control", make=True)
    stop = RemoteStop(control)
    stop.interrupt()
    assert (stop.is_set(), control.is_requested(), control.is_abort_requested()) == (True, True, False)
    stop.interrupt()
    assert control.is_abort_requested()


def test_processes_that_are_ending_by_themselves_end_at_the_second_wish(tmp_path):
    control = StopFile(tmp_path / "control", make=True)
    stop = RemoteStop(control)
    stop.end()
    stop.interrupt()
    assert (control.is_requested(), control.is_abort_requested()) == (False, False)
    stop.interrupt()
    assert control.is_abort_requested()


def test_the_second_interrupt_ends_a_block_and_the_handler_is_back_afterwards():
    before, stop = signal.getsignal(signal.SIGINT), Stop()
    with stop_on_interrupt(stop):
        signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(stop):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_the_main_thread_hears_interrupts():
    handlers = []

    def run():
        with stop_on_interrupt(Stop()):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_a_process_can_be_deaf_to_interrupts():
    before = signal.getsignal(signal.SIGINT)
    try:
        ignore_interrupts()
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
