"""A run's events taken to its file and its record, in the process that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from . import events
from .runs import EventWriter, RunFolder, RunRecord

_OF_THE_END = ("status", "elapsed_s", "epochs", "steps", "reason", "error", "best_model_path", "best_model_score")


class Recorder:
    """Writes each event, and keeps the record up to date.

    A disk that is full ends no training run; `tell` is called with a notice of it.

    Attributes:
        record: what ``run.json`` holds.
    """

    def __init__(self, folder: RunFolder, record: RunRecord, tell: Callable[[events.Notice], None]) -> None:
        self.record = record
        self._folder = folder
        self._tell = tell
        self._metrics: dict[str, float] = {}
        self._writer = EventWriter(folder.events_path)
        folder.write(record)

    def emit(self, event: events.Event) -> None:
        """Take in the next event."""
        self._writer.write(event)
        if isinstance(event, events.Started):
            self._update(devices=event.devices, precision=event.precision)
        elif isinstance(event, events.Metrics):
            self._metrics.update(event.values)
        elif isinstance(event, events.Results):
            self._metrics.update({name: value for row in event.rows for name, value in row.items()})
            self._update(results=event.rows)
        elif isinstance(event, events.Ended):
            self._update(metrics=self._metrics, **{name: getattr(event, name) for name in _OF_THE_END})
        if self._writer.failure:
            failure, self._writer.failure = self._writer.failure, ""
            self._tell(events.Notice(failure))

    def close(self) -> None:
        """Close the file of events."""
        self._writer.close()

    def _update(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        try:
            self._folder.write(self.record)
        except OSError as error:
            self._tell(events.Notice(f"the run's record cannot be written: {error}"))
