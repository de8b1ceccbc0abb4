"""What is known of a run from its events: where it is, how fast, its metrics by epoch, its curves, how it ended.

Events in, state out; nothing is displayed here. How it looks is in `report` and `charts`, when it is shown in `view`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .. import scores
from ..runs.events import (
    Directions,
    Ended,
    Event,
    Judged,
    Launched,
    Metrics,
    Notice,
    Printed,
    Queued,
    Results,
    Started,
    Step,
    Verb,
    Watched,
)
from .curves import Curve
from .prints import Prints

_MAX_CURVES = 100  # a model that logs more than this is not read as curves
_MAX_NOTICES = 20
_SMOOTHING = 0.3  # weight of the newest interval in the speed
_INTERVAL_S = 0.2  # intervals shorter than this say little about the speed


@dataclass
class EpochRow:
    """The metrics of one epoch; of several values for a metric the latest stays.

    Attributes:
        epoch: from 0.
        step: global step of the latest values.
        time_s: seconds from the end of the epoch before to the latest values.
        done: whether the epoch is complete.
    """

    epoch: int
    step: int = 0
    time_s: float = 0.0
    done: bool = False
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LineKey:
    """Which line of a chart a curve is: the stage it was measured in, and whether by step or by epoch."""

    stage: str
    by_step: bool


@dataclass
class _Speed:
    """Speed of a stage: smoothed, and the batches and seconds of an interval that is not long enough yet."""

    smooth: float | None = None
    batches: int = 0
    seconds: float = 0.0


class RunState:
    """The fold of a run's events: `apply` each one, in order, then read.

    Attributes:
        launched: that processes of its own were started, None for a run of the kernel.
        started: the header's facts, None before the run began.
        step: the latest `Step`, None before the first.
        train: the latest `Step` of training.
        ended: how it ended, None while it runs.
        elapsed_s: seconds since the start, by the latest event that tells it.
        watched: when it was last seen to go on, and whether it is about to stop; None for a run of the kernel.
        queued: how its job waits in the queue of a cluster; None if it does not.
        rows: epoch to its row, in order.
        charts: metric, without its stage, to the lines drawn together: ``train_loss`` and ``val_loss`` are "loss".
        results: rows of validate and test.
        judged: what a test of a classifier found, class by class; None of anything else.
        directions: metric to the way it gets better, as far as that is decided.
        doubles: last values that Lightning has under a second name.
        notices: each text once.
        omitted_notices: number of notices beyond the most that are kept.
        prints: what ranks printed.
        points: counts what can change the table, the curves and the prints, for whoever draws them.
        log_dir: folder of the run, empty if unknown.
    """

    def __init__(self, log_dir: str = "") -> None:
        self.log_dir = log_dir
        self.launched: Launched | None = None
        self.started: Started | None = None
        self.step: Step | None = None
        self.train: Step | None = None
        self.ended: Ended | None = None
        self.elapsed_s = 0.0
        self.watched: Watched | None = None
        self.queued: Queued | None = None
        self.rows: dict[int, EpochRow] = {}
        self.charts: dict[str, dict[LineKey, Curve]] = {}
        self.results: list[dict[str, float]] = []
        self.judged: Judged | None = None
        self.notices: list[Notice] = []
        self.omitted_notices = 0
        self.prints = Prints()
        self.points = 0
        self.directions: dict[str, scores.Mode] = {}
        self.doubles: dict[str, float] = {}
        self._texts: set[str] = set()
        self._names: dict[str, None] = {}
        self._first: Step | None = None
        self._epoch_first: Step | None = None
        self._epoch_end_s = 0.0
        self._speeds: dict[str, _Speed] = {}
        self._lines: dict[tuple[str, bool], Curve | None] = {}

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        if type(event) is Step:  # by far the most frequent
            self._apply_step(event)
        elif isinstance(event, Metrics):
            self._apply_metrics(event)
        elif isinstance(event, Printed):
            self.prints.add(event.rank, event.text)
            self.points += 1
        elif isinstance(event, Watched):
            self.watched = event
        elif isinstance(event, Queued):
            self.queued = event if event.reason else None
        elif isinstance(event, Launched):
            self.launched = event
        elif isinstance(event, Started):
            self._apply_started(event)
        elif isinstance(event, Results):
            self.results = list(event.rows)
            self.points += 1
        elif isinstance(event, Judged):
            self.judged = event
            self.points += 1
        elif isinstance(event, Directions):
            self.directions.update(event.data)
        elif isinstance(event, Notice):
            self._apply_notice(event)
        elif isinstance(event, Ended):
            self.ended = event
            self.elapsed_s = event.elapsed_s

    def end(self) -> None:
        """Record that the run ended without reporting it: it was killed, or the code around it raised."""
        if self.ended is None:
            error = "ended unexpectedly" if self.started else "ended before it started"
            self.apply(Ended("failed", self.elapsed_s, error=error))

    def _apply_started(self, event: Started) -> None:
        """Take in a beginning; of a job that has begun again, what was measured before it says nothing."""
        self.started, self.queued = event, None
        self._first = self._epoch_first = None
        self._epoch_end_s = 0.0

    def _apply_step(self, event: Step) -> None:
        before, self.step = self.step, event
        self.elapsed_s = event.elapsed_s
        if event.stage == "train":
            self.train = event
        if event is self._position:
            if self._first is None:
                self._first = event
                self._epoch_end_s = event.elapsed_s if event.batch <= 1 or before is None else before.elapsed_s
            if self._epoch_first is None or self._epoch_first.epoch != event.epoch:
                self._epoch_first = event
        self._measure_speed(before, event)
        for name, value in event.values.items():
            self._add_point(name, True, event.step, value)

    def _measure_speed(self, before: Step | None, event: Step) -> None:
        """Update the speed of the stage, smoothed over intervals that are long enough to tell."""
        if before is None or before.stage != event.stage or before.epoch != event.epoch or event.batch < before.batch:
            return  # what lies between is not of this stage alone
        speed = self._speeds.setdefault(event.stage, _Speed())
        speed.batches += event.batch - before.batch
        speed.seconds += event.elapsed_s - before.elapsed_s
        if speed.seconds >= _INTERVAL_S:
            now = speed.batches / speed.seconds
            speed.smooth = now if speed.smooth is None else speed.smooth + _SMOOTHING * (now - speed.smooth)
            speed.batches, speed.seconds = 0, 0.0

    def _apply_metrics(self, event: Metrics) -> None:
        self.elapsed_s = event.elapsed_s
        row = self.rows.setdefault(event.epoch, EpochRow(event.epoch))
        row.step = event.step
        row.time_s = max(0.0, event.elapsed_s - self._epoch_end_s)
        row.values.update(event.values)
        self.doubles.update(event.doubles)
        self._names.update(dict.fromkeys(event.values))
        if event.epoch_done:
            row.done = True
            self._epoch_end_s = event.elapsed_s
        for name, value in event.values.items():
            self._add_point(name, False, event.step, value)
        self.points += 1

    def _apply_notice(self, event: Notice) -> None:
        if event.text in self._texts:
            return
        if len(self.notices) >= _MAX_NOTICES:
            self.omitted_notices += 1
            return
        self._texts.add(event.text)
        self.notices.append(event)
        self.points += 1

    def _add_point(self, name: str, by_step: bool, step: int, value: float) -> None:
        if not math.isfinite(value):
            return
        key = (name, by_step)
        if key not in self._lines:
            self._lines[key] = self._new_line(name, by_step) if len(self._lines) < _MAX_CURVES else None
        line = self._lines[key]
        if line is not None:
            line.add(step, value)
            self.points += 1

    def _new_line(self, name: str, by_step: bool) -> Curve:
        base, stage = scores.stage_of(name)
        if not stage and (by_step or LineKey("train", True) in self.charts.get(base, {})):
            stage = "train"  # only training steps send step-level values, so the epoch's is theirs too
        if LineKey(stage, by_step) in self.charts.get(base, {}):
            base = name  # such as env and env_step, where both are the user's own names
        return self.charts.setdefault(base, {}).setdefault(LineKey(stage, by_step), Curve())

    @property
    def run(self) -> str:
        """Name of the run, ``Digits/version_3``; empty while nothing has been told of it."""
        begun = self.started or self.launched
        return begun.run if begun else ""

    @property
    def verb(self) -> Verb:
        """What runs."""
        begun = self.started or self.launched
        return begun.verb if begun else "fit"

    @property
    def starting(self) -> bool:
        """Whether processes were started and have not begun to run yet."""
        return self.launched is not None and self.started is None and self.ended is None

    @property
    def stopping(self) -> bool:
        """Whether the run has been asked to stop, as far as whoever follows it knows."""
        return self.watched is not None and self.watched.stopping

    @property
    def running_s(self) -> float | None:
        """Seconds since the start, or since the launch while it is starting, by the clock; None if nobody looks at it.

        Unlike `elapsed_s` it goes on through a long batch.
        """
        begun = self.started or self.launched
        return max(0.0, self.watched.time - begun.time) if self.watched and begun else None

    @property
    def several_ranks(self) -> bool:
        """Whether several processes run it: what each prints is then tagged with its rank."""
        return self.launched is not None and self.launched.processes > 1

    @property
    def metrics(self) -> list[str]:
        """Names of the table's metrics: of training, of validation, then the rest, each in the order they came."""
        rank = {"train": 0, "val": 1, "": 2, "test": 3}
        return sorted(self._names, key=lambda name: rank[scores.stage_of(name)[1]])

    @property
    def best_metric(self) -> str | None:
        """The metric that tells which epoch was best: the first monitored one, else the one that fits by its name."""
        monitored = [self.started.monitor, *self.started.monitors] if self.started else []
        return next((name for name in monitored if name in self._names), scores.main_metric(list(self._names)))

    @property
    def diverged(self) -> dict[str, int]:
        """Losses that ended as NaN or infinite, each with the epoch, from 0, since which they have been."""
        since: dict[str, int] = {}
        for row in self.rows.values():
            for name, value in row.values.items():
                if math.isfinite(value):
                    since.pop(name, None)
                elif scores.is_loss(name):
                    since.setdefault(name, row.epoch)
        return {name: since[name] for name in self.metrics if name in since}

    def best(self, metric: str) -> EpochRow | None:
        """Return the row with the best value of a metric (the earliest of equals) among those with finite losses."""
        finite_rows = [
            row
            for row in self.rows.values()
            if math.isfinite(row.values.get(metric, math.nan))
            and not any(scores.is_loss(name) for name, value in row.values.items() if not math.isfinite(value))
        ]
        sign = 1 if scores.mode_of(metric, self.directions) == "min" else -1
        return min(finite_rows, key=lambda row: sign * row.values[metric], default=None)

    @property
    def steps_per_s(self) -> float | None:
        """Batches of the present stage a second, None until it can be told."""
        if self.step is None:
            return None
        speed = self._speeds.get(self.step.stage)
        if speed and speed.smooth:
            return speed.smooth
        first, now = self._first, self.step  # epochs too short to measure in: all of the time, validation included
        if first is None or now.stage != first.stage or now.elapsed_s - first.elapsed_s < _INTERVAL_S:
            return None
        batches = (now.epoch - first.epoch) * (now.batches or 0) + now.batch - first.batch
        return max(0, batches) / (now.elapsed_s - first.elapsed_s) or None

    @property
    def fraction(self) -> float | None:
        """Fraction of the whole run that is done, from 0 to 1; None if unknown."""
        return self._fraction_at(self._position)

    @property
    def left_s(self) -> float | None:
        """Seconds left: of the whole run if its end is known, else of the epoch; None if unknown."""
        now = self._position
        if now is None or self.ended:
            return None
        first = self._first
        begun_fraction, done_fraction = self._fraction_at(first), self._fraction_at(now)
        if begun_fraction is None or done_fraction is None or (now.batches is None and not self._max_steps):
            first = self._epoch_first
            begun_fraction, done_fraction = _part(first), _part(now)
        if first is None or begun_fraction is None or done_fraction is None or done_fraction <= begun_fraction:
            return None
        remaining_s = (1 - done_fraction) * (now.elapsed_s - first.elapsed_s) / (done_fraction - begun_fraction)
        return max(0.0, remaining_s - (self.elapsed_s - now.elapsed_s))

    @property
    def _position(self) -> Step | None:
        """What tells how far the run is: training's step in a fit, else the latest one."""
        return self.train if self.verb == "fit" else self.step

    @property
    def _max_steps(self) -> int | None:
        return self.started.max_steps if self.started else None

    def _fraction_at(self, step: Step | None) -> float | None:
        """Part of the whole run that is done at a step: by epochs or by steps, whichever will end it first."""
        if step is None or self.started is None:
            return None
        part, parts = _part(step), []
        if self.verb != "fit":
            return part
        if self.started.max_epochs:
            parts.append((step.epoch + (part or 0.0)) / self.started.max_epochs)
        if self.started.max_steps:
            parts.append(step.step / self.started.max_steps)
        return min(1.0, max(parts)) if parts else None


def _part(step: Step | None) -> float | None:
    """Part of the epoch that is done at a step."""
    return step.batch / step.batches if step and step.batches else None
