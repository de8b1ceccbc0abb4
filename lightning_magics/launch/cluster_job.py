"""A run's job on a cluster, as its engine reports it: queued, running or gone.

The engine is asked; what happens in the run is in its own events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from .. import clusters
from ..errors import RunError
from ..runs import events
from ..runs.folder import RunFolder
from ..transport.stop_control import open_stop_control
from .supervision import CANCELLED

_QUEUE_S = 2.0  # between two questions while it waits; at most a hundredth of the time that it has waited
_RUNNING_S = 10.0  # while it runs: its own events tell more
_MAX_POLL_S = 60.0
_LAST_WORDS_S = 10.0  # for what its processes wrote last, to be seen through the file system that they share
_NOW = "now"


class ClusterJob:
    """What is known of one run's job.

    Args:
        folder: of the run.
        show: takes what is to be seen: `Queued`.
    """

    def __init__(self, folder: RunFolder, show: Callable[[events.Event], None]) -> None:
        self._folder = folder
        self._engine = clusters.engine(folder.cluster_engine())
        self._job = folder.cluster_job_id()
        self._show = show
        self._began = time.monotonic()
        self._due = self._retry = 0.0
        self._gone_since: float | None = None
        self._state: clusters.State | None = None
        self._last_words_s = _LAST_WORDS_S
        self._is_cancelled = False

    def goes_on(self) -> bool:
        """Whether the job waits or runs, as far as is known; asks the engine now and then."""
        now = time.monotonic()
        request = "" if self._is_cancelled or now < self._retry else self._stop_request()
        if now >= self._due or (request and self._waits):
            self._look(now)
        if request == _NOW or (request and self._waits):
            self._cancel()
        return self._gone_since is None or now - self._gone_since < self._last_words_s

    def _cancel(self) -> None:
        try:
            self._engine.cancel(self._job)
        except RunError as error:  # it is tried again
            self._show(
                events.Notice(f"{error}. To cancel the job yourself: {self._engine.by_hand(self._job, 'cancel')}")
            )
            self._retry = time.monotonic() + _QUEUE_S
        else:
            self._is_cancelled, self._due = True, 0.0

    def why(self) -> str:
        """How the job came to its end, for a person; empty if it has not."""
        if self._gone_since is None or self._state is None:
            return ""
        return CANCELLED if self._state.is_cancelled else self._engine.why(self._state, self._folder.path)

    @property
    def _waits(self) -> bool:
        return self._state is not None and self._state.kind == "queued"

    def _stop_request(self) -> str:
        """What the run was asked for by its user: to stop, or to end now, as where its folder was removed."""
        if self._folder.is_removed():
            return _NOW
        with contextlib.suppress(OSError):  # the run is over
            control = open_stop_control(self._folder.control_path)
            return _NOW if control.is_abort_requested() else "stop" if control.is_requested() else ""
        return ""

    def _look(self, now: float) -> None:
        state, waited = self._engine.state(self._job), self._waits
        if state.kind == "unknown":  # it does not answer, which says nothing of the job
            self._due = now + _RUNNING_S
            return
        self._state = state
        self._gone_since = (self._gone_since or now) if state.kind == "ended" else None
        never_began = state.is_cancelled and not state.nodes
        self._last_words_s = 0.0 if never_began or self._folder.is_removed() else _LAST_WORDS_S
        if self._waits:
            self._show(events.Queued(state.reason, state.position, state.waiting, state.start))
        elif waited:
            self._show(events.Queued(""))
        waited_s = now - self._began
        self._due = now + (min(max(_QUEUE_S, waited_s / 100), _MAX_POLL_S) if self._waits else _RUNNING_S)
