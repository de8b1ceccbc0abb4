"""Runs that plain Lightning wrote: what its loggers left in a folder without ``run.json``.

Only read, and only as data: of ``hparams.yaml`` no object is made but numbers, texts, lists and dicts of these.
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import scores

MetricPoints = dict[str, list[tuple[float, float]]]  # by metric: global step and value

_PARAMETERS, _TABLE, _EVENTS = "hparams.yaml", "metrics.csv", "events.out.tfevents."
_MAX_PARAMETERS = 1 << 18  # bytes of hparams.yaml
_MAX_DEPTH = 50  # lists and dicts within one another
_NO_METRICS = ("epoch", "step", "hp_metric")


@dataclass(frozen=True)
class ForeignRun:
    """What a folder tells of its run.

    Attributes:
        started: Unix time in seconds.
        hyperparameters: of ``hparams.yaml``.
        metrics: last value of every metric; `best` the best one.
        epochs: number of epochs that metrics were logged in.
        problem: what cannot be read, empty if all can.
    """

    started: float
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    problem: str = ""


def is_run(names: list[str]) -> bool:
    """Whether files of these names are those of a run."""
    return any(name in (_PARAMETERS, _TABLE) or name.startswith(_EVENTS) for name in names)


def started(folder: Path) -> float:
    """When a run began: TensorBoard's files say it in their names, of others it is the time of the oldest."""
    times = []
    try:
        for path in folder.iterdir():
            if is_run([path.name]):
                match = re.match(re.escape(_EVENTS) + r"(\d{9,10})\.", path.name)
                times.append(float(match[1]) if match else path.stat().st_mtime)
    except OSError:  # it is gone already
        pass
    return min(times, default=0.0)


def read(folder: Path, with_metrics: bool) -> ForeignRun:
    """Read what a folder tells of its run.

    Args:
        folder: that `is_run` finds the files of a run in.
        with_metrics: whether the metrics are read too, which takes longer.
    """
    problems, parameters, logged = [], {}, {}
    try:
        parameters = _parameters(folder / _PARAMETERS)
    except (OSError, ValueError) as error:
        problems.append(f"{_PARAMETERS} cannot be read: {error}")
    try:
        logged = points(folder) if with_metrics else {}
    except (OSError, ValueError, ImportError) as error:
        problems.append(f"the metrics cannot be read: {error}")
    epochs = logged.get("epoch")
    metrics = {name: values[-1][1] for name, values in logged.items() if name not in _NO_METRICS}
    best: dict[str, float] = {}
    for name in metrics:
        for _, value in logged[name]:
            if scores.improves(value, best.get(name), scores.mode_of(name)):
                best[name] = value
    epoch_count = int(max(value for _, value in epochs)) + 1 if epochs else 0
    return ForeignRun(started(folder), parameters, metrics, best, epoch_count, "; ".join(problems))


def size_bytes(folder: Path) -> int:
    """Bytes that `points` would read."""
    return sum(path.stat().st_size for path in _logs(folder))


def points(folder: Path) -> MetricPoints:
    """Read the values that a run logged, of its CSV logger if it had one, else of TensorBoard's.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds something else.
    """
    series: MetricPoints = {}
    for path in _logs(folder):
        for name, step, value in _table_values(path) if path.name == _TABLE else _event_values(path):
            series.setdefault(name, []).append((step, value))
    doubled = [name for name in series if name.endswith("_step") and f"{name.removesuffix('_step')}_epoch" in series]
    return {name: values for name, values in series.items() if name not in doubled}


def _logs(folder: Path) -> list[Path]:
    table = folder / _TABLE
    return [table] if table.is_file() else [path for path in sorted(folder.glob(f"{_EVENTS}*")) if path.is_file()]


def _table_values(path: Path) -> Iterator[tuple[str, float, float]]:
    """The values of a CSV logger: a row has those that were logged at the same step."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                step = float(row.get("step") or "nan")
                for name, value in row.items():
                    if name and name != "step" and isinstance(value, str) and value:
                        yield name, step, float(value)
            except ValueError:  # a row that is being written, or a text
                continue


def _event_values(path: Path) -> Iterator[tuple[str, float, float]]:
    """The scalars of a file of TensorBoard: records, each with its length before it and checksums around."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    data, place = path.read_bytes(), 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        end = place + 12 + length
        if end > len(data):  # it is being written
            return
        try:
            event = Event.FromString(data[place + 12 : end])
        except DecodeError as error:
            raise ValueError(f"{path.name} is not a TensorBoard event file") from error
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield value.tag, event.step, value.simple_value
        place = end + 4


def _parameters(path: Path) -> dict[str, Any]:
    """The hyperparameters of a file, {} where there is none.

    Nothing is constructed from tags, and nothing is expanded: what is deeper than a list of values is kept as its text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no YAML.
    """
    import yaml

    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_PARAMETERS:
        raise ValueError(f"it is larger than {_MAX_PARAMETERS} bytes")
    text = path.read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, Loader=loader))
        tree = yaml.compose(text, Loader=loader)
        if not isinstance(tree, yaml.MappingNode):
            return {}
        constructor = loader("")
        return {str(key.value): _value(item, text, constructor) for key, item in tree.value}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_depth(events: Iterable[Any]) -> None:
    """Refuse what is nested so deeply that composing it would overrun the stack, which ends the process.

    Raises:
        ValueError: it is.
    """
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _value(node: Any, text: str, constructor: Any) -> Any:
    """A number, a text, a list or a dict of these, or what the file says."""
    import yaml

    plain = node.tag.startswith("tag:yaml.org,2002:") and ":python/" not in node.tag.removesuffix(":python/tuple")
    if isinstance(node, yaml.ScalarNode):
        return constructor.construct_object(node) if plain else node.value
    items = node.value if isinstance(node, yaml.SequenceNode) else [item for pair in node.value for item in pair]
    if plain and all(isinstance(item, yaml.ScalarNode) for item in items):
        values = [_value(item, text, constructor) for item in items]
        return values if isinstance(node, yaml.SequenceNode) else dict(zip(values[::2], values[1::2], strict=True))
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())
