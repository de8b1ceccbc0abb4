"""What of a checkpoint is loaded without trust in it: tensors, plain values, and harmless types; and what is not.

Nothing of a checkpoint runs here: what it would create is looked up by name among what is loaded already. Enums,
dataclasses and named tuples are harmless where they are the user's own. A checkpoint that a fit of this process wrote
is trusted as long as its file stays as it was.
"""

from __future__ import annotations

import _compat_pickle
import contextlib
import dataclasses
import enum
import importlib
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")  # Lightning's keys
_HARMLESS = {
    "argparse": ("Namespace",),
    "builtins": (
        "bool",
        "bytes",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "slice",
        "str",
        "tuple",
    ),
    "collections": ("ChainMap", "UserDict", "defaultdict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "functools": ("partial",),  # what it calls must be harmless too
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "UnionNode"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "BytesNode",
        "EnumNode",
        "FloatNode",
        "IntegerNode",
        "PathNode",
        "StringNode",
    ),
    "pandas._libs.tslibs.nattype": ("_nat_unpickle",),
    "pandas._libs.tslibs.timedeltas": ("_timedelta_unpickle",),
    "pandas._libs.tslibs.timestamps": ("_unpickle_timestamp",),
    "pathlib": ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),  # Python 3.13
    "re": ("_compile",),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
    "zoneinfo": ("ZoneInfo",),
}
_written: set[tuple[int, ...]] = set()  # marks of checkpoints that fits of this process wrote
_PACKAGE = __name__.partition(".")[0]
_BASES = ("abc", "builtins", "collections.abc", "enum", "typing")  # of enums, dataclasses and named tuples


def vouch_for(path: Path) -> None:
    """Take note of a checkpoint that a fit of this process has just written."""
    with contextlib.suppress(OSError):
        _written.add(_mark(path))


def own_marks(paths: Iterable[Path]) -> list[list[int]]:
    """What `vouch_for_marked` takes of the files that fits of this process wrote; others are left out.

    Without the device, whose number each machine has of its own.
    """
    return [list(_mark(path)[1:]) for path in paths if is_vouched_for(path)]


def vouch_for_marked(paths: Iterable[Path], marks: Iterable[Iterable[int]]) -> None:
    """Take note of those files that a process of a fit of this one has marked as written by itself."""
    known_marks = {tuple(item) for item in marks}
    for path in paths:
        with contextlib.suppress(OSError):
            mark = _mark(path)
            if mark[1:] in known_marks:
                _written.add(mark)


def is_vouched_for(path: Path) -> bool:
    """Whether a file is a checkpoint that a fit of this process wrote, and is as it was then."""
    with contextlib.suppress(OSError):
        return _mark(path) in _written
    return False


def _mark(path: Path) -> tuple[int, ...]:
    """What differs once a file is another one or was written to, whatever times are set by hand afterwards.

    A link has a mark of its own: where it leads to can change.
    """
    stats = path.lstat()
    return stats.st_dev, stats.st_ino, stats.st_size, stats.st_mtime_ns, stats.st_ctime_ns


def is_own_with_objects(path: Path) -> bool:
    """Whether a checkpoint holds objects that are not harmless, and is this process's own."""
    return is_vouched_for(path) and bool(refused_in(path))


@contextlib.contextmanager
def harmless_allowed(path: Path | None) -> Iterator[None]:
    """Within it, torch loads the harmless types that a checkpoint holds, though it loads tensors alone.

    Args:
        path: of the checkpoint; None changes nothing.
    """
    with torch.serialization.safe_globals(_harmless_of(path) if path is not None else []):
        yield


def _globals_of(path: Path) -> list[str]:
    """Names of what a file would create besides tensors; none of one that cannot be read, which loading it says."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of a file that is made to be odd
        return []


def _harmless_of(path: Path) -> list[Any]:
    """The harmless types that a file holds, as torch takes them."""
    names = _globals_of(path)
    types: list[Any] = [(value, name) for name in names if (value := _resolved(name)) is not None]
    if any(name.startswith("numpy.") for name in names):
        types += [item for item in vars(np.dtypes).values() if isinstance(item, type)]  # of what a dtype is
    return types


def _resolved(path: str) -> Any:
    """What a name means, None where that is not harmless."""
    module, _, name = path.rpartition(".")
    if name in _HARMLESS.get(module, ()):
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(module), name, None)
    value = getattr(sys.modules.get(module), name, None)
    if not isinstance(value, type):
        return None
    if module == "numpy" and issubclass(value, np.generic):
        return value
    is_named_tuple = issubclass(value, tuple) and hasattr(value, "_fields")
    holds_values = issubclass(value, enum.Enum) or dataclasses.is_dataclass(value) or is_named_tuple
    is_user_class = value.__module__ not in _BASES and all(map(_is_own, value.__mro__))
    return value if holds_values and is_user_class else None


def _is_own(cls: type) -> bool:
    """Whether a class is the user's own, or a base that runs no code of others.

    To create an object runs its class's ``__init__`` and ``__post_init__`` with what the file says: those of a library
    were never meant for that.
    """
    module = cls.__module__
    if module == "__main__" or module in _BASES:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in (_PACKAGE, *sys.stdlib_module_names):
        return False
    return not {"site-packages", "dist-packages"}.intersection(Path(file).parts)


def refused_in(path: Path) -> set[str]:
    """Names of what a checkpoint would create and is not harmless."""
    return {name for name in _globals_of(path) if _resolved(name) is None}


def undefined_in(path: Path) -> list[str]:
    """Names of the notebook that a checkpoint is made of, and that the notebook does not have any more."""
    names = _globals_of(path)
    main = sys.modules["__main__"]
    notebook_names = [name.removeprefix("__main__.") for name in names if name.startswith("__main__.")]
    return [name for name in notebook_names if not hasattr(main, name.partition(".")[0])]


def holds_defined(path: Path, defined: Collection[str]) -> bool:
    """Whether a file would create some of the types that are yet to be defined, and beside these harmless ones alone.

    What has their names now may be other types.
    """
    names = set(_globals_of(path))
    defined_names = names.intersection(defined)
    return bool(defined_names) and all(_resolved(name) is not None for name in names - defined_names)


def objects_in(path: Path) -> list[str]:
    """What a checkpoint holds that is not loaded without trust: hyperparameters, or other parts, with what they are."""
    try:
        refused = refused_in(path)
        with zipfile.ZipFile(path) as archive:
            pickle_name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(pickle_name) as file:
                state = _InertUnpickler(file).load()
    except Exception:  # a file that is made to be odd
        return []
    objects: dict[str, None] = {}
    for key, part in state.items() if isinstance(state, Mapping) else ():
        if key in _HYPERPARAMETERS and isinstance(part, Mapping):
            for name, value in part.items():
                origins = [item for item in _origins(value) if item in refused]
                informative = [item for item in origins if not item.startswith("builtins.")]
                objects |= dict.fromkeys(f"the hyperparameter {name} ({item})" for item in (informative or origins)[:1])
        else:
            objects |= dict.fromkeys(f"{key} ({item})" for item in _origins(part) if item in refused)
    return list(objects)


def _origins(value: Any) -> list[str]:
    """Names of what a value would be made of."""
    parts: list[Any] = []
    if isinstance(value, _Placeholder) or (isinstance(value, type) and issubclass(value, _Placeholder)):
        parts = getattr(value, "parts", [])
        return [value.origin, *(name for part in (parts if isinstance(parts, list) else []) for name in _origins(part))]
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    return [name for part in parts for name in _origins(part)]


class _Placeholder:
    """Stands for what a pickle would have created or called."""

    origin = ""

    def __new__(cls, *parts: Any) -> _Placeholder:
        placeholder = object.__new__(cls)
        placeholder.parts = list(parts)
        return placeholder

    def __init__(self, *parts: Any) -> None:
        self.parts: list[Any]

    def __call__(self, *parts: Any) -> _Placeholder:
        """As of what ``getattr`` gives."""
        self.parts += parts
        return self

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)

    def __setitem__(self, name: Any, value: Any) -> None:
        self.parts += [name, value]

    def append(self, value: Any) -> None:
        """As of a list."""
        self.parts.append(value)

    def extend(self, values: Any) -> None:
        """As of a list."""
        self.parts += values


class _InertUnpickler(pickle.Unpickler):
    """Reads a pickle without creating or calling anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)  # of Python 2, as protocol 2 writes them
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (_Placeholder,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> None:
        """Of a tensor's memory."""
        return


def plain(values: Any) -> Any:
    """Hyperparameters with NumPy's scalars as numbers, which anyone can load."""
    if isinstance(values, np.number | np.bool_ | np.str_) and not isinstance(values, np.timedelta64):
        return values.item()
    if type(values) is dict:
        return {name: plain(value) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(plain(value) for value in values)
    return values


def with_plain_hyperparameters(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint whose hyperparameters are plain where they can be."""
    return checkpoint | {name: plain(checkpoint[name]) for name in _HYPERPARAMETERS if name in checkpoint}
