"""The wish to stop or to end at once, which the ranks of a run share in memory or, across machines, in a file.

All ranks must stop at the same batch: one that ended earlier would leave the others waiting in a collective.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_REQUEST = 0  # places in the shared memory, each an int64; then the places of each rank
_STOP, _ABORT = 1, 2  # what was asked for
_STARTED, _WAITING = 0, 1  # last batch that it began; batch that it waits before
_LOADED, _DONE = 2, 3  # has its payload; has nothing more to do
_SLOTS = 4
_NO_MORE_BATCHES = 2**62
_BATCH_STRIDE = 2**24  # more than the batches of a validation between two of training
_POLL_S = 0.001
_FIRST_PATIENCE_S = 10.0


class StopMemory:
    """The shared memory of one run, mapped into this process.

    Args:
        path: its file; made anew if `ranks` is given.
        ranks: number of ranks.
    """

    def __init__(self, path: Path, ranks: int | None = None) -> None:
        flags = os.O_RDWR if ranks is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        file = os.open(path, flags, 0o600)
        try:
            if ranks is not None:
                os.write(file, bytes(8 * (1 + _SLOTS * ranks)))  # truncate: a full disk would be a SIGBUS later
            self._numbers = memoryview(mmap.mmap(file, 0)).cast("q")
        finally:
            os.close(file)
        self._path = path
        self.ranks = (len(self._numbers) - 1) // _SLOTS

    def ask(self, now: bool = False) -> None:
        """Ask all ranks to stop, or their supervisor to end them at once."""
        self._numbers[_REQUEST] = _ABORT if now else max(_STOP, self._numbers[_REQUEST])

    def is_requested(self) -> bool:
        """Whether the ranks were asked to stop; those that are to be ended at once save nothing more."""
        return bool(self._numbers[_REQUEST] == _STOP)

    def is_abort_requested(self) -> bool:
        """Whether they are to be ended at once."""
        return bool(self._numbers[_REQUEST] == _ABORT)

    def reason(self) -> str:
        """Why it was asked, empty if a user did."""
        return ""

    def loaded(self, rank: int) -> bool:
        """Note that a rank has its payload; returns whether all have."""
        self._numbers[self._slot(rank, _LOADED)] = 1
        return all(self._numbers[self._slot(item, _LOADED)] for item in range(self.ranks))

    def done(self, rank: int) -> None:
        """Note that a rank has done its work."""
        self._numbers[self._slot(rank, _DONE)] = 1

    def is_done(self, rank: int) -> bool:
        """Whether a rank has done its work: one that has ended otherwise has failed, whatever its exit code."""
        return bool(self._numbers[self._slot(rank, _DONE)])

    def start(self, rank: int, batch: int) -> None:
        """Note that a rank begins a batch."""
        self._numbers[self._slot(rank, _STARTED)] = batch

    def end(self, rank: int) -> None:
        """Note that a rank begins no more batches; the others do not wait for it."""
        self._numbers[self._slot(rank, _WAITING)] = _NO_MORE_BATCHES

    def agree(self, rank: int, batch: int, patience_s: float) -> bool | None:
        """Wait before a batch until it is clear whether all ranks stop here.

        A rank that waits holds no other up: those behind it have yet to come to batches that it has already done. If
        another one has begun this batch, it must be done here too, and the next one is where all stop.

        Returns:
            True if they stop, False if another one has begun the batch, None if the wait was too long: where loops
            are of unequal length, or data is late, they meet at a later batch.
        """
        until = time.monotonic() + patience_s
        with self._lock():
            self._numbers[self._slot(rank, _WAITING)] = batch
        while True:
            with self._lock():
                others = [item for item in range(self.ranks) if item != rank and not self._has_ended(item)]
                begun = any(self._numbers[self._slot(item, _STARTED)] >= batch for item in others)
                if not begun and all(self._numbers[self._slot(item, _WAITING)] >= batch for item in others):
                    return True
                if begun or time.monotonic() > until:
                    self.start(rank, batch)
                    return False if begun else None
            time.sleep(_POLL_S)

    def _has_ended(self, rank: int) -> bool:
        return self._numbers[self._slot(rank, _WAITING)] == _NO_MORE_BATCHES

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Within it no other rank decides: else one could give up its wait just as another takes it for an answer."""
        if fcntl is None:
            yield
            return
        with self._path.open("rb") as file:  # closed, it is free
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _slot(rank: int, field: int) -> int:
        return 1 + _SLOTS * rank + field


class StopFile:
    """The wish to stop of a run whose ranks share no memory: a file that the kernel writes and its processes read.

    It is opened for each look, which is when a network file system asks its server.

    Args:
        path: its file.
        make: whether it is made anew.
        look_s: seconds from one look to the next, at least.
    """

    def __init__(self, path: Path, make: bool = False, look_s: float = 0.0) -> None:
        self._path = path
        self._look_s = look_s
        self._due = 0.0
        self._request = 0
        self._reason = ""
        if make:
            self._write(0, "")

    def ask(self, now: bool = False, reason: str = "") -> None:
        """Ask all ranks to stop, or their supervisor to end them at once; why, if it is not a user who asks."""
        self._write(_ABORT if now else max(_STOP, self._read()), reason)

    def is_requested(self) -> bool:
        """Whether the ranks were asked to stop; those that are to be ended at once save nothing more."""
        return self._read() == _STOP

    def is_abort_requested(self) -> bool:
        """Whether they are to be ended at once."""
        return self._read() == _ABORT

    def reason(self) -> str:
        """Why it was asked, empty if a user did."""
        return self._reason

    def _read(self) -> int:
        if self._request != _ABORT and time.monotonic() >= self._due:
            with contextlib.suppress(OSError, ValueError):  # the file system fails, or the run is over
                request, _, self._reason = self._path.read_text(encoding="utf-8").partition(" ")
                self._request = max(self._request, int(request))
            self._due = time.monotonic() + self._look_s
        return self._request

    def _write(self, request: int, reason: str) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, os.write(file, f"{request} {reason}".encode()))  # in this order: it is never empty
            os.fsync(file)
        finally:
            os.close(file)


def open_stop_control(path: Path, look_s: float = 0.0) -> StopMemory | StopFile:
    """Return what the processes of a run are told to stop by: the memory that they share, or a file.

    Args:
        path: of either.
        look_s: seconds from one look at a file to the next, at least.

    Raises:
        OSError: the run trains in a kernel, has not begun or is over.
    """
    with path.open("rb") as file:
        is_text = file.read(2)[1:] == b" "
    return StopFile(path, look_s=look_s) if is_text else StopMemory(path)


class SynchronizedStop:
    """The wish to stop as one rank sees it: `is_set` is asked once before each batch, in every rank alike.

    Batches are numbered by those of training, so that ranks whose validation is of unequal length meet again.

    Args:
        control: shared by the ranks.
        rank: this one.
        patience_s: how long to wait for the others before a batch, at first.
    """

    def __init__(self, control: StopMemory, rank: int, patience_s: float = _FIRST_PATIENCE_S) -> None:
        self._control = control
        self._rank = rank
        self._batch = 0
        self._stopped = False
        self._patience_s = patience_s

    def is_set(self, trained: int = 0) -> bool:
        """Whether all ranks stop before this batch.

        Args:
            trained: batches of training that have begun, with this one if it is of training.
        """
        if not self._stopped:
            self._batch = max(self._batch + 1, trained * _BATCH_STRIDE)
            if self._control.is_requested():
                agreed = self._control.agree(self._rank, self._batch, self._patience_s)
                self._stopped = bool(agreed)
                if agreed is None:
                    self._patience_s *= 2  # one whose data is always late would never be met
            else:
                self._control.start(self._rank, self._batch)
        return self._stopped

    def end(self) -> None:
        """Take note that this rank is ending."""
        self._control.end(self._rank)


class IndependentStop:
    """The wish to stop where ranks share no collective, as in predict: each stops by itself."""

    def __init__(self, control: StopMemory | StopFile) -> None:
        self._control = control

    def is_set(self, trained: int = 0) -> bool:
        """Whether to stop before this batch."""
        return self._control.is_requested()

    def end(self) -> None:
        """Take note that this rank is ending: nobody waits for it."""
