"""Callbacks and loggers that are used again: each fit gets them in the state in which they were handed over.

What they hold after a fit can be read until the next one; what was changed by hand in between stays.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_KEY = "_handed_over"
_UNSHARED = 2  # references to a value that nothing but its object holds, as `sys.getrefcount` counts them
_PLAIN = (type(None), bool, int, float, str, bytes)


_FIXED = (*_PLAIN, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


@dataclass
class _Snapshot:
    """What is known of an object.

    Attributes:
        first: its attributes as they were handed over.
        copied: those of them that are copies, of what it alone held; `uncopied` those that cannot be copied.
        last: its attributes at the end of its last run.
    """

    first: dict[str, Any] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    uncopied: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        """Stay here: to another process, the object is new."""
        return type(None), ()

    def keep(self, name: str, value: Any) -> None:
        """Keep an attribute as it is: as a copy, since what only one object holds is changed by it alone."""
        try:
            self.first[name] = copy.deepcopy(value)
            self.copied.add(name)
        except Exception:  # whatever an object of the user's raises
            self.first[name] = value
            self.uncopied.append(name)


def rewind(objects: Iterable[Any]) -> list[str]:
    """Put objects back into the state in which they were handed over; returns what is left as the last fit left it."""
    notices = []
    for item in objects:
        snapshot = _snapshot_of(item)
        if snapshot is None:
            _take_snapshot(item)
        elif snapshot.last:
            _restore(item, snapshot)
            kind = type(item).__name__
            notices += [
                f"{kind}.{name} cannot be copied, so it keeps its value from the last fit" for name in snapshot.uncopied
            ]
    return notices


def take_snapshots(objects: Iterable[Any]) -> None:
    """Take note of objects that are seen for the first time."""
    for item in objects:
        if _snapshot_of(item) is None:
            _take_snapshot(item)


def record_last(objects: Iterable[Any]) -> None:
    """Take note of how a run has left objects."""
    for item in objects:
        if (snapshot := _snapshot_of(item)) is not None:
            snapshot.last = {name: value for name, value in vars(item).items() if name != _KEY}


def changed_attributes(item: Any) -> dict[str, Any]:
    """Return the attributes of an object that differ from what was handed over, as far as they are plain values."""
    snapshot = _snapshot_of(item)
    first: Mapping[str, Any] = snapshot.first if snapshot else {}
    attributes = {name: value for name, value in vars(item).items() if name != _KEY and _is_plain(value)}
    return {name: value for name, value in attributes.items() if name not in first or not _equal(value, first[name])}


def _snapshot_of(item: Any) -> _Snapshot | None:
    snapshot = getattr(item, "__dict__", {}).get(_KEY)
    return snapshot if isinstance(snapshot, _Snapshot) else None


def _take_snapshot(item: Any) -> None:
    with contextlib.suppress(TypeError):  # one without attributes
        snapshot = _Snapshot()
        for name in [name for name in vars(item) if name != _KEY]:
            is_shared = sys.getrefcount(vars(item)[name]) > _UNSHARED  # such as a list of the notebook's, to collect in
            value = vars(item)[name]
            if is_shared or isinstance(value, _FIXED):
                snapshot.first[name] = value
            else:
                snapshot.keep(name, value)
        vars(item)[_KEY] = snapshot  # with the object itself, so that both are let go together


def _restore(item: Any, snapshot: _Snapshot) -> None:
    attributes = vars(item)
    for name in {**snapshot.first, **snapshot.last}:
        if name in attributes and not (name in snapshot.last and _is_unchanged(attributes[name], snapshot.last[name])):
            snapshot.keep(name, attributes[name])  # changed by hand since
        elif name not in attributes and name in snapshot.last:  # removed by hand
            snapshot.first.pop(name, None)
        elif name not in snapshot.first:
            del attributes[name]
        else:
            attributes[name] = copy.deepcopy(snapshot.first[name]) if name in snapshot.copied else snapshot.first[name]


def _is_unchanged(before: Any, now: Any) -> bool:
    return before is now or (isinstance(before, _PLAIN) and type(before) is type(now) and before == now)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, a tensor, or a list, dict or tuple of such."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    is_tensor = (type(value).__module__, type(value).__name__) == ("torch", "Tensor")
    return is_tensor or (isinstance(value, _PLAIN) and type(value) in _PLAIN)


def _equal(first: Any, second: Any) -> bool:
    try:
        return type(first) is type(second) and bool(first == second)
    except Exception:  # tensors of several values, and lists of them
        return False
