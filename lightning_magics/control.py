"""Memory that the processes of a run share: the wish to stop, and how far each rank is.

All ranks must stop at the same batch: one that ended earlier would leave the others waiting in a collective.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

_ASKED = 0  # places in the shared memory, each an int64; then the places of each rank
_STARTED, _WAITING = 0, 1  # last batch that it began; batch that it waits before
_LOADED, _DONE = 2, 3  # has its payload; has nothing more to do
_EACH = 4
_EVER = 2**62
_POLL_S = 0.001
_PATIENCE_S = 10.0


class Control:
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
                os.write(file, bytes(8 * (1 + _EACH * ranks)))  # truncate: a full disk would be a SIGBUS later
            self._numbers = memoryview(mmap.mmap(file, 0)).cast("q")
        finally:
            os.close(file)
        self.ranks = (len(self._numbers) - 1) // _EACH

    def ask(self) -> None:
        """Ask all ranks to stop."""
        self._numbers[_ASKED] = 1

    def asked(self) -> bool:
        """Whether they were asked to."""
        return bool(self._numbers[_ASKED])

    def loaded(self, rank: int) -> bool:
        """Note that a rank has its payload; returns whether all have."""
        self._numbers[self._place(rank, _LOADED)] = 1
        return all(self._numbers[self._place(item, _LOADED)] for item in range(self.ranks))

    def done(self, rank: int) -> None:
        """Note that a rank has done its work."""
        self._numbers[self._place(rank, _DONE)] = 1

    def is_done(self, rank: int) -> bool:
        """Whether a rank has done its work: one that has ended otherwise has failed, whatever its exit code."""
        return bool(self._numbers[self._place(rank, _DONE)])

    def start(self, rank: int, batch: int) -> None:
        """Note that a rank begins a batch."""
        self._numbers[self._place(rank, _STARTED)] = batch

    def end(self, rank: int) -> None:
        """Note that a rank begins no more batches; the others do not wait for it."""
        self._numbers[self._place(rank, _WAITING)] = _EVER

    def agree(self, rank: int, batch: int) -> bool:
        """Wait before a batch until it is clear whether all ranks stop here; returns whether they do.

        A rank that waits holds no other up: those behind it have yet to come to batches that it has already done. If
        another one has begun this batch, it must be done here too, and the next one is where all stop.
        """
        self._numbers[self._place(rank, _WAITING)] = batch
        others = [item for item in range(self.ranks) if item != rank]
        until = time.monotonic() + _PATIENCE_S
        while not all(self._numbers[self._place(item, _WAITING)] >= batch for item in others):
            begun = any(self._numbers[self._place(item, _STARTED)] >= batch for item in others)
            if begun or time.monotonic() > until:  # a loop of unequal length: they meet at a later batch
                self.start(rank, batch)
                return False
            time.sleep(_POLL_S)
        return True

    @staticmethod
    def _place(rank: int, what: int) -> int:
        return 1 + _EACH * rank + what


class Together:
    """The wish to stop as one rank sees it: `is_set` is asked once before each batch, in every rank alike.

    Args:
        control: shared by the ranks.
        rank: this one.
    """

    def __init__(self, control: Control, rank: int) -> None:
        self._control = control
        self._rank = rank
        self._batch = 0
        self._stopped = False

    def is_set(self) -> bool:
        """Whether all ranks stop before this batch."""
        if not self._stopped:
            self._batch += 1
            if self._control.asked():
                self._stopped = self._control.agree(self._rank, self._batch)
            else:
                self._control.start(self._rank, self._batch)
        return self._stopped

    def end(self) -> None:
        """Take note that this rank is ending."""
        self._control.end(self._rank)


class Alone:
    """The wish to stop where ranks share no collective, as in predict: each stops by itself."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def is_set(self) -> bool:
        """Whether to stop before this batch."""
        return self._control.asked()

    def end(self) -> None:
        """Take note that this rank is ending: nobody waits for it."""
