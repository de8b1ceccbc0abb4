"""What plain pickle finds under ``__main__`` while a run trains, and while its checkpoint is read."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import IO, Any

import cloudpickle

from ..errors import InputError
from ..transport.pickling import type_name


@contextlib.contextmanager
def main_definitions(*sources: Any) -> Iterator[None]:
    """Within it, plain pickle finds under ``__main__`` what recorded source has defined, before what the notebook has.

    Args:
        sources: namespaces in which recorded source has run, and objects whose classes may come from one: what
            hyperparameters of theirs consist of comes before all.

    Raises:
        InputError: hyperparameters need two things of one name.
    """
    main_before = sys.modules["__main__"]
    names: dict[str, Any] = {}
    for item in sources:
        names |= item if isinstance(item, dict) else source_namespace(type(item))
    for item in sources:
        names |= _hyperparameter_definitions(item)
    if all(vars(main_before).get(name) is value for name, value in names.items()):
        yield
        return
    main = ModuleType("__main__")
    vars(main).update({**vars(main_before), **names})
    sys.modules["__main__"] = main
    try:
        yield
    finally:
        sys.modules["__main__"] = main_before


def drop_unpicklable(model: Any) -> list[str]:
    """Remove the hyperparameters that cannot be pickled, as Lightning's Trainer does; return a line for each.

    Done before a run starts, so that the live model, the run's processes and its record agree.
    """
    hyperparameters = getattr(model, "hparams", {})
    unpicklable = [name for name, value in hyperparameters.items() if not _is_picklable(value)]
    lines = [_removal_notice(name, hyperparameters[name]) for name in unpicklable]
    for name in unpicklable:
        del hyperparameters[name]
    return lines


def _is_picklable(value: Any) -> bool:
    """Whether Lightning's Trainer keeps a hyperparameter."""
    try:
        pickle.dumps(value)
    except (pickle.PickleError, AttributeError, RuntimeError, TypeError):
        return False
    return True


def _removal_notice(name: str, value: Any) -> str:
    kind, remedy = f"a {type_name(type(value))}", "To keep it, assign it to an attribute in __init__"
    if isinstance(value, FunctionType):
        kind, remedy = f"the function {value.__name__}", "Use a function that is defined with def in a cell"
        if value.__name__ == "<lambda>":
            kind = "a lambda"
        elif value.__module__ == "__main__" and value.__qualname__.isidentifier():
            kind, remedy = f"an earlier definition of {value.__name__}", "Create the model again to use the current one"
    return (
        f"The hyperparameter {name} is {kind}, which cannot be pickled, so Lightning removes it from hparams. {remedy}"
    )


def source_namespace(cls: type) -> dict[str, Any]:
    """The namespace that a class's code ran in, where that calls itself ``__main__`` and is not; else an empty one."""
    members = [member for base in cls.__mro__ for member in vars(base).values() if base.__module__ == "__main__"]
    homes = [member.__globals__ for member in members if isinstance(member, FunctionType)]
    main = vars(sys.modules["__main__"])
    return next((home for home in homes if home is not main and home.get("__name__") == "__main__"), {})


def _hyperparameter_definitions(owner: Any) -> dict[str, Any]:
    """Classes and functions of ``__main__`` that an object's hyperparameters consist of, by name.

    Of one that a class holds, this class.

    Raises:
        InputError: two of them have one name.
    """
    definitions: dict[str, Any] = {}
    for name, value in dict(getattr(owner, "hparams", {})).items():
        collector = _Collector(io.BytesIO())
        with contextlib.suppress(Exception):  # Lightning leaves out what cannot be pickled, and says so
            collector.dump(value)
        for item in collector.definitions:
            if definitions.setdefault(item.__qualname__, item) is not item:
                raise InputError(
                    f"the hyperparameter {name} and another hyperparameter use different definitions of "
                    f"{item.__qualname__} (this notebook and loaded runs each have their own). "
                    f"Use the same definition for both, or rename one"
                )
    outer = {cls.__qualname__: cls for cls in type(owner).__mro__ if cls.__module__ == "__main__"}
    for name in [name for name in definitions if "." in name]:
        first = name.partition(".")[0]
        del definitions[name]
        if first in outer:
            definitions.setdefault(first, outer[first])
    return definitions


class _Collector(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """Collects the classes and functions of ``__main__`` that an object consists of; what it writes cannot be read."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=5)
        self.definitions: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__":
            # A lambda, or a function whose name has another meaning by now: no pickle finds it where it was defined.
            if isinstance(obj, type) or obj.__globals__.get(obj.__qualname__) is obj:
                self.definitions.append(obj)
            return str, ()
        return super().reducer_override(obj)
