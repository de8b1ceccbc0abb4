"""Reading what the processes of a run write while they do: events, the lines that the user's code prints, Stop."""

from __future__ import annotations

import contextlib
import re
import time

from ..runs import events
from ..runs.folder import RunFolder
from ..runs.log import MARK, NewLines
from ..transport.stop_control import StopFile, StopMemory, open_stop_control

_MAX_BYTES = 1 << 16  # of a log, read at once: what lies before was too much to be read by a person
_MAX_LOGS = 32  # that are read while a run goes on
_TELL_S = 1.0

# What libraries write below Python, where no logger and no warning filter is asked.
_NOISE = re.compile(r"\[Gloo\]|(\[rank\d+\]:)?\[[WI]\d{4} |NCCL version")


class Follower:
    """Reads what a run has written since it was last asked.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._events = NewLines(folder.events_path)
        self._logs: dict[int, NewLines] = {}
        self._control: StopMemory | StopFile | None = None
        self._watched = events.Watched(0.0, stopping=False)
        self._due = 0.0

    def read(self, last: bool = False) -> list[events.Event]:
        """Return the new events, what was printed, and now and then that the run goes on.

        Args:
            last: whether nothing is written any more; a line may then be without its end.
        """
        new_events: list[events.Event] = []
        for line in self._events.read():
            with contextlib.suppress(ValueError):  # written by a version that is not like this one
                event = events.from_json(line)
                if event is not None:
                    new_events.append(event)
        ending = [event for event in new_events if isinstance(event, events.Ended)]  # said after what was printed
        watched = [] if ending else self._watched_events()
        return [*(event for event in new_events if event not in ending), *self._printed_events(last), *watched, *ending]

    def close(self) -> None:
        """Let go of the memory that is shared with the run."""
        self._control = None

    def _watched_events(self) -> list[events.Watched]:
        """The present state of what no event tells, when it has changed or a second has passed."""
        if self._control is None:
            with contextlib.suppress(OSError, ValueError):  # the run trains in a kernel, has not begun or is over
                self._control = open_stop_control(self._folder.control_path)
        control = self._control
        stopping = control is not None and (control.is_requested() or control.is_abort_requested())
        watched = events.Watched(time.time(), stopping)
        if watched.stopping == self._watched.stopping and time.monotonic() < self._due:
            return []
        self._watched, self._due = watched, time.monotonic() + _TELL_S
        return [watched]

    def _printed_events(self, last: bool) -> list[events.Printed]:
        # They come one after the other; of a thousand ranks, the first tell enough.
        while (rank := len(self._logs)) < _MAX_LOGS and self._folder.log_path(rank).exists():
            self._logs[rank] = NewLines(self._folder.log_path(rank), _MAX_BYTES)
        printed = []
        for rank, log in self._logs.items():
            lines = [line for line in log.read(last) if not line.startswith(MARK) and not _NOISE.match(line)]
            if lines:
                printed.append(events.Printed(rank, "\n".join(lines)))
        return printed
