"""The metrics of a run over its steps, read from its folder: the curves that runs are compared by.

How they are drawn is in `charts`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from ..runs import events, foreign
from ..runs.folder import RunFolder
from .curves import Curve

_MAX_FOREIGN = 64_000_000  # bytes of metrics that plain Lightning logged, read for one run


def curves(folder: Path) -> dict[str, Curve]:
    """Return the curve of every metric of a run; {} where nothing of it can be read.

    Its points are by epoch; of a metric that has a single one they are by step, as far as those were told.
    """
    path = RunFolder(folder).events_path
    curves: dict[str, Curve] = {}
    with contextlib.suppress(OSError, ValueError, ImportError):
        if not path.exists():
            return _foreign(folder)
        if not path.is_file():
            return {}
        for event in _events(path, "Metrics"):
            for name, value in event.values.items():
                _add(curves, name, event.step, value)
        if single := {name for name, curve in curves.items() if len(curve.points(2)) < 2}:
            curves |= _by_step(path, single)
    return curves


def _by_step(path: Path, names: set[str]) -> dict[str, Curve]:
    """Curves by step, where they are more than a point; Lightning adds ``_step`` to the names that have both."""
    curves: dict[str, Curve] = {}
    for event in _events(path, "Step"):
        for name, value in event.values.items():
            if name.removesuffix("_step") in names:
                _add(curves, name.removesuffix("_step"), event.step, value)
    return {name: curve for name, curve in curves.items() if len(curve.points(2)) > 1}


def _events(path: Path, kind: str) -> Iterator[events.Metrics | events.Step]:
    """The events of one kind; lines of other kinds are not parsed, which would take most of the time."""
    begins = f'{{"event": "{kind}"'
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(begins):
                with contextlib.suppress(ValueError):  # cut off, or of a version that is not like this one
                    event = events.from_json(line)
                    if isinstance(event, events.Metrics | events.Step):
                        yield event


def _foreign(folder: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if foreign.size_bytes(folder) <= _MAX_FOREIGN:
        for name, points in foreign.points(folder).items():
            for step, value in points:
                _add(curves, name, step, value)
    return curves


def _add(curves: dict[str, Curve], name: str, step: float, value: float) -> None:
    if math.isfinite(value) and math.isfinite(step):
        curves.setdefault(name, Curve()).add(step, value)
