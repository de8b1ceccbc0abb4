"""The user's request to stop a run: what the first and second interrupts mean, and which processes act on them.

What an interrupt does in each situation is in a table in `docs/architecture.md`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Protocol

from .stop_control import StopFile, StopMemory


class Stop:
    """The user's wish to stop: once to end between two batches, twice to end now.

    Once the end has begun, a further wish changes nothing: what is saved is saved whole.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._ending = False

    def is_set(self, trained: int = 0) -> bool:
        """Whether to stop between two batches, however many of training have begun."""
        return self._requested.is_set()

    def ask(self) -> None:
        """Ask to stop."""
        self._requested.set()

    def end(self) -> None:
        """Say that the run is ending by itself."""
        self._ending = True

    def interrupt(self) -> None:
        """Ask once more.

        Raises:
            Abort: it was asked before, and the end has not begun.
        """
        if self._ending:
            return
        if self._requested.is_set():
            raise Abort
        self._requested.set()


class RemoteStop(Stop):
    """The wish to stop, told to the processes of the run.

    Args:
        control: shared with them.
    """

    def __init__(self, control: StopMemory | StopFile) -> None:
        super().__init__()
        self.control = control
        self._late = False  # whether an interrupt came when the run was ending by itself

    def ask(self) -> None:
        """Ask to stop."""
        super().ask()
        self.control.ask()

    def interrupt(self) -> None:
        """Ask once more: the second time, and the second time after the end has begun, the processes end now."""
        if self._ending and not self._late:
            self._late = True
        elif self._ending or self.is_set():
            self.control.ask(now=True)
        else:
            self.ask()


class Abort(BaseException):
    """The second interrupt. Not a KeyboardInterrupt, which Lightning would turn into SystemExit."""


class StopRequested(BaseException):
    """Ends a Trainer loop between two batches. Lightning turns a KeyboardInterrupt into SystemExit, this not."""


class StopFlag(Protocol):
    """What says that the user wants the run to stop; `Stop` is one."""

    def is_set(self, trained: int = 0) -> bool:
        """Whether to stop before this batch; `trained` have begun in training, with this one if it is such."""

    def end(self) -> None:
        """Take note that the run is ending."""


def ignore_interrupts() -> None:
    """Ignore interrupts in this process: the kernel handles them and passes the request on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def stop_on_interrupt(stop: Stop) -> Iterator[None]:
    """Within it the first interrupt asks to stop, the second ends the block with KeyboardInterrupt.

    Only the main thread hears signals; in another this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda signum, frame: stop.interrupt())
    try:
        yield
    except Abort:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, previous)
