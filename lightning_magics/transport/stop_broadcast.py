"""The wish to stop as ranks on several machines see it: they share a file and a network, and no memory.

Rank 0 alone looks at the file, so that a thousand ranks do not; the others are told over the network.
"""

from __future__ import annotations

import time

import torch
from torch import distributed

from .stop_control import StopFile

_INTERVAL_S = 0.25  # between two exchanges: each costs about as much as a small collective
_MOST_BATCHES = 1000


class BroadcastStop:
    """The wish to stop as one rank sees it: all ranks stop before the same batch of training.

    Rank 0 broadcasts whether to stop, and how many batches later it will do so again. Ranks are at the same place of
    their program then, as they are in any collective. Batches of a validation are not counted, for ranks may have
    different numbers of them: a wish that comes during one takes effect after it.

    Args:
        stop_file: of the run.
        rank: this one, from 0.
    """

    def __init__(self, stop_file: StopFile, rank: int) -> None:
        self._stop_file = stop_file
        self._rank = rank
        self._trained = 0
        self._remaining = 0  # batches until the next exchange
        self._batches = 1  # from one exchange to the next
        self._exchanged = time.monotonic()
        self._stopped = False

    def is_set(self, trained: int = 0) -> bool:
        """Whether all ranks stop before this batch.

        Args:
            trained: batches of training that have begun, with this one if it is of training.
        """
        if not self._stopped and trained > self._trained:
            self._trained = trained
            if self._remaining == 0:
                self._exchange()
            self._remaining -= 1
        return self._stopped

    def end(self) -> None:
        """Take note that this rank is ending: the others do too."""

    def _exchange(self) -> None:
        device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
        values = [int(self._stop_file.is_requested()), self._next_interval()] if self._rank == 0 else [0, 0]
        decision = torch.tensor(values, device=device)
        distributed.broadcast(decision, src=0)
        self._stopped, self._remaining = bool(decision[0]), int(decision[1])

    def _next_interval(self) -> int:
        """Batches until the next exchange: as many as take a quarter of a second, by the last ones."""
        now = time.monotonic()
        took_s, self._exchanged = now - self._exchanged, now
        fitting = self._batches * _INTERVAL_S / max(took_s, 1e-3)
        self._batches = max(1, min(int(fitting), 2 * self._batches, _MOST_BATCHES))
        return self._batches
