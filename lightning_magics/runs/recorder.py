"""A run's events taken to its file and its record, in the process that trains."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from .. import scores
from . import events
from .folder import EventWriter, RunFolder
from .record import RunRecord

_TIMES_AS_LONG = 100  # as it takes to write the record: for so long the next metrics do not, so it costs a hundredth
_END_FIELDS = ("status", "elapsed_s", "epochs", "steps", "reason", "error", "best_model_path", "best_model_score")


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
        self._next_write = 0.0
        self._behind = False  # whether the file lacks metrics that the record has
        self._writer = EventWriter(folder.events_path)
        folder.write(record)

    def emit(self, event: events.Event) -> None:
        """Take in the next event."""
        if isinstance(event, events.Ended):
            self._folder.release_reserve()
        self._writer.write(event)
        if isinstance(event, events.Started):
            fields = {name: getattr(event, name) for name in ("devices", "precision", "checkpoint_metric")}
            self._update(**fields)
        elif isinstance(event, events.Metrics):
            self._note(event)
        elif isinstance(event, events.Directions):
            self.record = dataclasses.replace(self.record, directions={**self.record.directions, **event.data})
        elif isinstance(event, events.Hyperparameters):
            self._update(hyperparameters=event.values, data_hyperparameters=event.data)
        elif isinstance(event, events.Fingerprint):
            self._update(fingerprint=event.data)
        elif isinstance(event, events.Results):
            results = {name: value for row in event.rows for name, value in row.items()}
            metrics, doubles = {**self.record.metrics, **results}, {**self.record.doubles, **event.doubles}
            self._update(results=event.rows, metrics=metrics, doubles=doubles)
        elif isinstance(event, events.Ended):
            ended = {name: getattr(event, name) for name in _END_FIELDS}
            self._update(**ended, checkpoints=self._checkpoints())
        start_s = time.monotonic()
        if self._behind and start_s >= self._next_write:
            self._update()
            self._next_write = start_s + _TIMES_AS_LONG * (time.monotonic() - start_s)
        if self._writer.failure:
            failure, self._writer.failure = self._writer.failure, ""
            self._tell(events.Notice(failure))

    def close(self) -> None:
        """Close the file of events."""
        self._writer.close()

    def _note(self, event: events.Metrics) -> None:
        """Keep what is known so far, for the case that nothing comes after it."""
        epochs = max(self.record.epochs, event.epoch + event.epoch_done)
        record = self.record
        self.record = dataclasses.replace(
            record,
            metrics={**record.metrics, **event.values},
            doubles={**record.doubles, **event.doubles},
            best_metrics={**record.best_metrics, **self._improved(event)},
            epochs=epochs,
            steps=event.step,
        )
        self._behind = True

    def _improved(self, event: events.Metrics) -> dict[str, dict[str, float]]:
        """The metrics that are better than ever before."""
        best = {name: item["value"] for name, item in self.record.best_metrics.items()}
        return {
            name: {"value": value, "epoch": event.epoch}
            for name, value in event.values.items()
            if scores.improves(value, best.get(name), scores.mode_of(name, self.record.directions))
        }

    def _checkpoints(self) -> list[str]:
        """The checkpoints that stay, relative to the run's folder."""
        continuing = self._folder.continue_checkpoint_path
        try:
            checkpoints = [path for path in self._folder.all_checkpoints() if path != continuing]
        except OSError:  # one is replaced just now, or the folder has gone
            return []
        return [path.relative_to(self._folder.path).as_posix() for path in checkpoints]

    def _update(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        self._behind = False
        if self._folder.is_removed():  # a folder that others have made anew meanwhile is not the run's
            return
        try:
            self._folder.write(self.record)
        except OSError as error:
            if not self._folder.is_removed():  # which is said at the end
                self._tell(events.Notice(f"the run's record cannot be written: {error}"))
