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
_ALONE = 2  # references to a value that nothing but its object holds, as `sys.getrefcount` counts them
_PLAIN = (type(None), bool, int, float, str, bytes)


_FIXED = (*_PLAIN, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


@dataclass
class _Snapshot:
    """What is known of an object.

    Attributes:
        first: its attributes as they were handed over.
        copied: those of them that are copies, of what it alone held; `uncopied` those that cannot be copied.
        left: its attributes at the end of its last run.
    """

    first: dict[str, Any] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    uncopied: list[str] = field(default_factory=list)
    left: dict[str, Any] = field(default_factory=dict)

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
    told = []
    for item in objects:
        known = _known(item)
        if known is None:
            _take(item)
        elif known.left:
            _restore(item, known)
            kind = type(item).__name__
            told += [
                f"{kind}.{name} cannot be copied, so it keeps its value from the last fit" for name in known.uncopied
            ]
    return told


def look(objects: Iterable[Any]) -> None:
    """Take note of objects that are seen for the first time."""
    for item in objects:
        if _known(item) is None:
            _take(item)


def leave(objects: Iterable[Any]) -> None:
    """Take note of how a run has left objects."""
    for item in objects:
        if (known := _known(item)) is not None:
            known.left = {name: value for name, value in vars(item).items() if name != _KEY}


def changed(item: Any) -> dict[str, Any]:
    """Return the attributes of an object that differ from what was handed over, as far as they are plain values."""
    known = _known(item)
    first: Mapping[str, Any] = known.first if known else {}
    found = {name: value for name, value in vars(item).items() if name != _KEY and _is_plain(value)}
    return {name: value for name, value in found.items() if name not in first or not _equal(value, first[name])}


def _known(item: Any) -> _Snapshot | None:
    found = getattr(item, "__dict__", {}).get(_KEY)
    return found if isinstance(found, _Snapshot) else None


def _take(item: Any) -> None:
    with contextlib.suppress(TypeError):  # one without attributes
        known = _Snapshot()
        for name in [name for name in vars(item) if name != _KEY]:
            is_shared = sys.getrefcount(vars(item)[name]) > _ALONE  # such as a list of the notebook's, to collect in
            value = vars(item)[name]
            if is_shared or isinstance(value, _FIXED):
                known.first[name] = value
            else:
                known.keep(name, value)
        vars(item)[_KEY] = known  # with the object itself, so that both are let go together


def _restore(item: Any, known: _Snapshot) -> None:
    now = vars(item)
    for name in {**known.first, **known.left}:
        if name in now and not (name in known.left and _same(now[name], known.left[name])):
            known.keep(name, now[name])  # changed by hand since
        elif name not in now and name in known.left:  # removed by hand
            known.first.pop(name, None)
        elif name not in known.first:
            del now[name]
        else:
            now[name] = copy.deepcopy(known.first[name]) if name in known.copied else known.first[name]


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, _PLAIN) and type(one) is type(other) and one == other)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, a tensor, or a list, dict or tuple of such."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    is_tensor = (type(value).__module__, type(value).__name__) == ("torch", "Tensor")
    return is_tensor or (isinstance(value, _PLAIN) and type(value) in _PLAIN)


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # tensors of several values, and lists of them
        return False
