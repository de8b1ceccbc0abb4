"""What a training process tells whoever watches: frozen dataclasses, one JSON line each.

The events of a run, in order: `Launched` where processes of its own run it, `Started`, then `Step`, `Metrics`,
`Directions`, `Hyperparameters`, `Fingerprint`, `Results`, `Judged` and `Notice` as they happen, then `Ended`; of two,
where a rank fails after another has ended, the last counts. `Printed`, `Watched` and `Queued` are made by who follows a
run, for its view alone. A reader ignores keys and events that it does not know, so that an older notebook can watch a
newer run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from ..scores import Mode

Verb = Literal["fit", "validate", "test", "predict"]
Stage = Literal["sanity", "train", "validate", "test", "predict"]
Status = Literal["running", "completed", "interrupted", "failed"]


@dataclass(frozen=True)
class Launched:
    """Processes of its own were started for a run; `Started` follows once they are ready, unless they fail first.

    Attributes:
        run: name of the run, ``Digits/version_3``.
        verb: what runs.
        time: Unix time of the launch, in seconds.
        processes: number of ranks.
    """

    run: str
    verb: Verb
    time: float
    processes: int


@dataclass(frozen=True)
class Started:
    """A run has begun; everything a header shows.

    Attributes:
        run: name of the run, ``Digits/version_3``.
        verb: what runs.
        time: Unix time of the start, in seconds.
        devices: such as ``1 × cpu`` or ``2 × NVIDIA H200``.
        precision: Lightning's name of it, such as ``32-true`` or ``bf16-mixed``.
        parameters: number of parameters of the model; of these, `trainable_parameters` train.
        first_epoch: epoch to start with; above 0 when a fit continues.
        max_epochs: epoch to end before, or None for no limit.
        max_steps: global step to end at, or None for no limit.
        monitor: the metric that chooses the best checkpoint, if one was named.
        monitors: the metrics that decide something: that one first, then those that can end the run.
        checkpoint_metric: see `record.RunRecord`.
    """

    run: str
    verb: Verb
    time: float
    devices: str = "1 × cpu"
    precision: str = "32-true"
    parameters: int | None = None
    trainable_parameters: int | None = None
    first_epoch: int = 0
    max_epochs: int | None = None
    max_steps: int | None = None
    monitor: str | None = None
    monitors: list[str] = field(default_factory=list)
    checkpoint_metric: str = ""


@dataclass(frozen=True)
class Step:
    """Where the run is now. Limited by time at the source: not every batch sends one.

    Attributes:
        stage: the loop that is at work.
        epoch: current epoch, from 0.
        batch: batches of this stage done in this epoch (over all its dataloaders).
        batches: batches of this stage in all, or None when the loader has no length.
        step: global step, as Lightning counts it (optimizer steps).
        elapsed_s: seconds since the start of the run.
        memory_bytes: memory in use: the device's for CUDA, else the process's resident set.
        values: latest step-level values, such as ``{"train_loss": 0.31}``; for the live curve only.
    """

    stage: Stage
    epoch: int
    batch: int
    batches: int | None
    step: int
    elapsed_s: float
    memory_bytes: int | None = None
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Metrics of an epoch so far: after each validation, and at the end of each training epoch.

    Several can come for one epoch (``val_check_interval``); later values replace earlier ones in the table,
    and every one is a point of the curves.

    Attributes:
        epoch: epoch that the values belong to, from 0.
        step: global step at which they were taken.
        elapsed_s: seconds since the start of the run.
        values: metric name to value.
        epoch_done: whether the epoch is complete with this event.
        doubles: values that Lightning has under a second name, ``train_loss_epoch`` beside ``train_loss``: they can be
            read, and are no metrics of their own.
    """

    epoch: int
    step: int
    elapsed_s: float
    values: dict[str, float]
    epoch_done: bool = False
    doubles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Directions:
    """Which way metrics get better, by name: told before their first values."""

    data: dict[str, Mode]


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of the model, and those of the data that have changed, where a callback has changed one."""

    values: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprint:
    """What the data of a fit was, as far as a glance at it tells: by ``train`` and ``val``."""

    data: dict[str, str]


@dataclass(frozen=True)
class Results:
    """What validate and test found: a row for each dataloader, metric name to value; `doubles` as of `Metrics`."""

    rows: list[dict[str, float]]
    doubles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What a test of a classifier found, class by class.

    Attributes:
        classes: their names.
        actual: number of samples that are of each class.
        predicted: number that it was predicted for.
        correct: number that are of it and that it was predicted for.
        matrix: how often a class (row) was predicted as another (column); empty where there are many classes.
        mistakes: the most confident first: ``actual``, ``predicted``, ``probability`` of that, and ``text`` if any.
    """

    classes: list[str]
    actual: list[int]
    predicted: list[int]
    correct: list[int]
    matrix: list[list[int]]
    mistakes: list[dict[str, Any]]


@dataclass(frozen=True)
class Notice:
    """A message for the user; each text is sent once in a run.

    Attributes:
        level: that of a loss is shown by ``--quiet`` too.
    """

    text: str
    level: Literal["info", "warning", "loss"] = "warning"


@dataclass(frozen=True)
class Printed:
    """Complete lines that a rank printed; read from its log, never part of the recorded events.

    Attributes:
        rank: global rank of the process.
        text: one line or several, without the last newline.
    """

    rank: int
    text: str


@dataclass(frozen=True)
class Watched:
    """That a run goes on, about once a second while it is followed; never part of the recorded events.

    Attributes:
        time: Unix time, in seconds.
        stopping: whether the run has been asked to stop, from wherever.
    """

    time: float
    stopping: bool


@dataclass(frozen=True)
class Queued:
    """That the job of a run waits in the queue of a cluster; never part of the recorded events.

    Attributes:
        reason: why, for a person; empty when it waits no longer.
        position: among the jobs that wait there, from 1, if that is known; `waiting` how many these are.
        start: when it is expected to begin, Unix time in seconds, if that is known.
    """

    reason: str
    position: int | None = None
    waiting: int | None = None
    start: float | None = None


@dataclass(frozen=True)
class Ended:
    """The run is over.

    Attributes:
        status: how it ended.
        elapsed_s: seconds that it took.
        epochs: training epochs completed in the model's life.
        steps: global step at the end.
        reason: why it ended, for the user, such as ``EarlyStopping: val_loss did not improve``; empty if plain.
        error: type and message of the exception, for a failed run; of any number of lines.
        best_model_path: best checkpoint, empty if there is none.
        best_model_score: its monitored value.
        monitor: the metric that chose the best checkpoint.
        saved: of a fit in processes of its own, marks of the checkpoints that they wrote themselves, see `trust`.
    """

    status: Status
    elapsed_s: float
    epochs: int = 0
    steps: int = 0
    reason: str = ""
    error: str = ""
    best_model_path: str = ""
    best_model_score: float | None = None
    monitor: str | None = None
    saved: list[list[int]] = field(default_factory=list)


Event = (
    Launched
    | Started
    | Step
    | Metrics
    | Directions
    | Hyperparameters
    | Fingerprint
    | Results
    | Judged
    | Notice
    | Printed
    | Watched
    | Queued
    | Ended
)
_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(Event)}


def to_json(event: Event) -> str:
    """Return the event as one JSON line, without the newline, in ASCII: no text of an error is beyond it.

    NaN and infinity are written as Python reads them.
    """
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)})


def from_json(line: str) -> Event | None:
    """Return the event of a JSON line, or None for a kind of event that this version does not know.

    Raises:
        ValueError: the line is not JSON, lacks a field or holds one of the wrong type.
    """
    payload = json.loads(line)
    if not isinstance(payload, dict):
        raise ValueError(f"an event must be a JSON object; found {line[:80]!r}")  # noqa: TRY004 -- a broken file, not a bug
    cls = _TYPES.get(str(payload.get("event")))
    return None if cls is None else typing.cast(Event, from_dict(cls, payload))


def from_dict(cls: type[Any], payload: dict[str, Any]) -> Any:
    """Make a dataclass from a JSON object: unknown keys are ignored, missing or wrongly typed ones rejected.

    Raises:
        ValueError: a required field is missing, or one has the wrong type.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy does not know that classes are hashable
    values = {}
    for item in dataclasses.fields(cls):
        if item.name in payload:
            if not _fits(payload[item.name], hints[item.name]):
                raise ValueError(f"{cls.__name__}.{item.name} cannot be {payload[item.name]!r}")
            values[item.name] = payload[item.name]
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{cls.__name__} lacks {item.name!r}")
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields: resolving them takes longer than reading a record."""
    return typing.get_type_hints(cls)


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a type is of, and its arguments: likewise."""
    return typing.get_origin(hint), typing.get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of a field."""
    if hint is Any:
        return True
    origin, args = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is dict:
        return isinstance(value, dict) and (args[1] is Any or all(_fits(item, args[1]) for item in value.values()))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
