"""Pickles of what a notebook defines: its classes and functions travel by value, with the source of their cells.

Neither torch nor IPython is needed to write or read one.
"""

from __future__ import annotations

import importlib
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType
from typing import IO, Any

import cloudpickle
from cloudpickle.cloudpickle import _class_setstate, _function_setstate


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """cloudpickle's, which leaves a class as it is where it is read by the process that it comes from.

    Args:
        file: takes the pickle.
        buffer_callback: takes buffers that stay out of the pickle, see `pickle.Pickler`.

    Attributes:
        sources: text of each cell that a function came from, by file name.
    """

    def __init__(self, file: IO[bytes], buffer_callback: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.sources: dict[str, str] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Reduce classes and functions by value; called by pickle for every object that is not plain."""
        if obj is sys.stdout or obj is sys.stderr:
            return getattr, (sys, "stdout" if obj is sys.stdout else "stderr")
        if isinstance(obj, ModuleType) and type(obj) is not ModuleType and sys.modules.get(obj.__name__) is obj:
            # cloudpickle sends torch.classes along with a function that reads a variable of that name
            return importlib.import_module, (obj.__name__,)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            return reduced
        if isinstance(obj, FunctionType):
            self.sources.update(cell_sources([obj.__code__.co_filename]))
        if reduced[-1] is _function_setstate and _is_named(obj):
            return *reduced[:-1], _fill_named_function
        if reduced[-1] is _class_setstate:
            return *reduced[:-1], _fill_named_class if _is_named(obj) else _fill_class
        return reduced


def _fill_class(cls: type, state: tuple[Mapping[str, Any], Any]) -> None:
    """Give a class its attributes, unless it is this process's own.

    cloudpickle finds a class again by its id, and would then put copies in the place of its methods, which know
    nothing of the notebook's names any more.
    """
    if not state[0].keys() <= vars(cls).keys():
        _class_setstate(cls, state)


def _is_named(obj: Any) -> bool:
    """Whether plain pickle finds a class or function by its name in ``__main__``."""
    return obj.__module__ == "__main__" and getattr(sys.modules["__main__"], obj.__qualname__, None) is obj


def _fill_named_class(cls: type, state: tuple[Mapping[str, Any], Any]) -> None:
    _fill_class(cls, state)
    _name(cls)


def _fill_named_function(function: FunctionType, state: Any) -> None:
    _function_setstate(function, state)
    _name(function)


def _name(obj: Any) -> None:
    """Let plain pickle find a class or function here too, by which Lightning decides what hyperparameters it keeps."""
    vars(sys.modules["__main__"]).setdefault(obj.__qualname__, obj)


def type_name(cls: type) -> str:
    """Name of a class as tracebacks show it: with its module, unless everyone knows that."""
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def cell_sources(filenames: Iterable[str]) -> dict[str, str]:
    """Text of those of the files that are not on the disk, as `linecache` knows it."""
    texts = {name: "".join(linecache.getlines(name)) for name in filenames if not os.path.exists(name)}
    return {name: text for name, text in texts.items() if text}


def add_sources(sources: Mapping[str, str]) -> None:
    """Let tracebacks show the lines of cells; those that this process knows stay as they are."""
    for name, text in sources.items():
        if not linecache.getlines(name):
            # Without a modification time the entry survives linecache.checkcache.
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
