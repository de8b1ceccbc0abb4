"""What keeps an object from being pickled, and where in it that is, in the words of its owner."""

from __future__ import annotations

import io
import mmap
import socket
import sqlite3
import subprocess
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .pickling import Pickler, type_name

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, types.CodeType})
_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event)
_KINDS: tuple[tuple[type | tuple[type, ...], str, str], ...] = (
    (io.IOBase, "an open file", "Open"),
    (_LOCKS, "a lock", "Create"),
    (threading.Thread, "a thread", "Start"),
    (types.GeneratorType, "a generator", "Create"),
    (types.CoroutineType, "a coroutine", "Create"),
    (socket.socket, "a socket", "Open"),
    (sqlite3.Connection, "a database connection", "Open"),
    (subprocess.Popen, "a running process", "Start"),
    (mmap.mmap, "a memory map", "Open"),
    (weakref.ref, "a weak reference", "Create"),
)
_MODULE_TABLES = ("_modules", "_parameters", "_buffers")
_PUBLIC = {"_hparams": "hparams", "_hparams_initial": "hparams"}


@dataclass(frozen=True)
class UnpicklableObject:
    """An object that cannot be pickled.

    Attributes:
        root: name of the object that it was found in.
        place: where it is, ``model.encoder.log``.
        description: what it is, ``an open file ('a.txt')``.
        remedy: what to do with it there, ``Open``.
    """

    root: str
    place: str
    description: str
    remedy: str


@dataclass(frozen=True)
class _Access:
    """An expression that leads to an object, and the words around it."""

    root: str
    expression: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.expression}{self.after}"

    def attribute(self, name: object) -> _Access:
        name = _PUBLIC.get(str(name), str(name))
        return replace(self, expression=self.expression + (f"[{name}]" if name.isdigit() else f".{name}"))

    def item(self, key: object) -> _Access:
        return replace(self, expression=f"{self.expression}[{key!r}]")

    def variable(self, kind: str, name: str, function: types.FunctionType) -> _Access:
        used_by = function.__qualname__.replace("<locals>.", "")
        user = "a lambda" if function.__name__ == "<lambda>" else used_by
        return replace(self, expression=name, before=f"the {kind} `", after=f"` that {user} uses")

    def owner(self, cls: type) -> _Access:
        return replace(self, expression=cls.__qualname__.replace("<locals>.", ""), before="", after="")


def find(roots: Mapping[str, Any], pickler: Pickler, is_leaf: Callable[[Any], bool]) -> UnpicklableObject | None:
    """Find the nearest object that refuses to be pickled, breadth first; each object is looked at once.

    Args:
        roots: where to begin, by the name that the user knows.
        pickler: of the kind that refused; only asked how it takes objects apart.
        is_leaf: whether an object is known to be pickled, and not to be taken apart.

    Returns:
        None where every single object can be pickled.
    """
    queue: deque[tuple[_Access, Any]] = deque((_Access(name, name), value) for name, value in roots.items())
    visited: dict[int, Any] = {}  # holds what it has seen: the parts made for a pickle would share their ids else
    while queue:
        place, value = queue.popleft()
        if type(value) in _PLAIN or id(value) in visited or is_leaf(value):
            continue
        visited[id(value)] = value
        try:
            if isinstance(value, (threading.Thread, subprocess.Popen, *_LOCKS)):
                return _describe(place, value, None)  # made of locks, of which nobody knows
            queue.extend((where, part) for where, part in _parts(place, value, pickler) if type(part) not in _PLAIN)
        except Exception as error:  # whatever a class's own __reduce__ or __getstate__ raises
            return _describe(place, value, error)
    return None


def _describe(place: _Access, value: Any, error: Exception | None) -> UnpicklableObject:
    for kinds, noun, remedy in _KINDS:
        if isinstance(value, kinds):
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else None
            description = f"{noun} ({str(name)!r})" if name is not None else noun
            return UnpicklableObject(place.root, str(place), description, remedy)
    description = (
        f"an object of class {type_name(type(value))}, which cannot be pickled: {' '.join(str(error).split())}"
    )
    return UnpicklableObject(place.root, str(place), description, "Create")


def _parts(place: _Access, value: Any, pickler: Pickler) -> Iterator[tuple[_Access, Any]]:
    """Yield what is pickled with an object, and where it is."""
    kind = type(value)
    if kind is dict:
        yield from _items(place, value.items())
    elif kind in (list, tuple):
        yield from ((place.item(index), part) for index, part in enumerate(value))
    elif kind in (set, frozenset):
        yield from ((place, part) for part in value)
    else:
        reduced = _reduced(value, pickler)
        if isinstance(reduced, str):
            return
        if isinstance(value, types.FunctionType):
            yield from _function_parts(place, value, reduced[2])
        elif isinstance(value, type):
            yield from ((place, argument) for argument in reduced[1])
            if len(reduced) > 2:
                yield from _attributes(place.owner(value), reduced[2][0])
        else:
            yield from _reduction_parts(place, reduced)


def _reduced(value: Any, pickler: Pickler) -> Any:
    """Take an object apart as pickle does; a string is a name to find it by."""
    reduced = pickler.reducer_override(value)
    if reduced is not NotImplemented:
        return reduced
    if isinstance(value, (type, types.FunctionType)):
        return value.__qualname__
    reducer = pickler.dispatch_table.get(type(value))
    return value.__reduce_ex__(5) if reducer is None else reducer(value)


def _reduction_parts(place: _Access, reduced: tuple[Any, ...]) -> Iterator[tuple[_Access, Any]]:
    function, arguments, state, items, pairs, *_ = (*reduced, None, None, None)
    yield place, function
    yield from ((place, part) for part in arguments)
    halves = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # with __slots__: dict and slots
    for half in halves:
        if isinstance(half, dict):
            yield from _attributes(place, half)
        else:
            yield place, half
    elements: Iterable[Any] = items or ()
    yield from ((place.item(index), part) for index, part in enumerate(elements))
    yield from _items(place, pairs or ())


def _function_parts(
    place: _Access, function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> Iterator[tuple[_Access, Any]]:
    for name, value in state[1]["__globals__"].items():
        yield place.variable("global name", name, function), value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():
            yield place.variable("variable", name, function), cell.cell_contents
    for name in ("__defaults__", "__kwdefaults__", "__annotations__"):
        yield place.owner(function).attribute(name), state[1][name]  # type: ignore[arg-type]  # named alike
    yield from _attributes(place, state[0])


def _attributes(place: _Access, state: Mapping[Any, Any]) -> Iterator[tuple[_Access, Any]]:
    for name, value in state.items():
        if name in _MODULE_TABLES and isinstance(value, dict):
            yield from ((place.attribute(key), part) for key, part in value.items())
        else:
            yield place.attribute(name), value


def _items(place: _Access, pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[_Access, Any]]:
    for key, value in pairs:
        yield place, key
        yield place.item(key), value
