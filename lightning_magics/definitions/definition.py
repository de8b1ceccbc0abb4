"""What a magic defined: a class, its text and how an instance is made; and which Lightning package a class is of.

Making the class is in `definitions/model/model` and `definitions/data/datamodule`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import keyword
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InputError, did_you_mean
from .cell import CellSource, class_names

Package = Literal["lightning.pytorch", "pytorch_lightning"]
PACKAGES: tuple[Package, ...] = ("lightning.pytorch", "pytorch_lightning")
DEFAULT_NAMES = {"model": "Model", "data": "data"}  # of what neither a line nor a class names


@dataclass(frozen=True)
class Definition:
    """A model or data that a cell, or an object of the notebook, defined.

    Attributes:
        name: that it is registered under.
        cls: LightningModule or LightningDataModule class.
        source: the code that runs, plain Lightning.
        cell: text of the cell, empty if it was made of an object.
        form: what the cell held: ``class``, ``hooks``, ``network``, ``transformers``, or the kind of data.
        package: that the class is of.
        loaded: data that defining it loaded, for instances that would load the same; None if there is none.
        reloads_for: hyperparameters that loading depends on.
        draws: whether loading data draws random numbers, so that loading it once more gives other data.
        owned: functions, classes and objects that the cell put into the notebook and that the class needs, by name.
        notebook: the notebook's globals.
        summary: what the data holds, in a line, of data that takes long to load; of a model, which weights are new.
        prepare: loads such data for an instance of other hyperparameters, and checks it; None of other data.
        variant: such data as it was loaded last for other hyperparameters, by these.
        left: names that the cell of data has left in the notebook, with the identity of each value.
        leaves: the statements that gave them, as code.
        values: a hash of what was loaded, which these names may change in place; empty if they cannot.
    """

    name: str
    cls: type
    source: str
    cell: str
    form: str
    package: str
    loaded: Any = field(default=None, repr=False, compare=False)
    reloads_for: frozenset[str] = frozenset()
    draws: bool = False
    owned: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    notebook: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    summary: str = ""
    prepare: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    variant: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    left: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    leaves: str = field(default="", repr=False, compare=False)
    values: str = field(default="", repr=False, compare=False)

    def new(self, **hyperparameters: Any) -> Any:
        """Make an instance.

        Raises:
            InputError: a hyperparameter is unknown, a required one is missing, or what the class needs was replaced.
        """
        for name, value in self.owned.items():
            if self.notebook.get(name) is not value:
                raise InputError(
                    f"{self.name}'s {name} was replaced by another cell. "
                    f"Rename one of them, or run {self.name}'s cell again"
                )
        check_hyperparameters(self.cls, hyperparameters, self.name)
        instance = self.cls(**hyperparameters)
        changed = {name: hyperparameters[name] for name in sorted(self.reloads_for & hyperparameters.keys())}
        if self.loaded is not None and not changed:
            instance.data = self.loaded
        elif self.loaded is not None and self.prepare is not None:
            if repr(changed) not in self.variant:
                loaded = self.prepare(instance)
                self.variant.clear()
                self.variant[repr(changed)] = loaded
            instance.data = self.variant[repr(changed)]
        return instance


def load(instance: Any) -> None:
    """Let an instance load its data, without what a `setup` of the user's does beside it."""
    getattr(instance, "_setup_data", instance.setup)()


def check_hyperparameters(cls: type, values: Mapping[str, Any], name: str = "") -> None:
    """Check hyperparameters against a class's constructor.

    Raises:
        InputError: one is unknown, or a required one is missing.
    """
    name = name or cls.__name__
    option = "--data." if is_datamodule(cls) else "--model."
    items = inspect.signature(cls).parameters.values()
    named = [item for item in items if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY)]
    known = [item.name for item in named]
    if not any(item.kind is item.VAR_KEYWORD for item in items):
        for key in values:
            if key not in known:
                has = f"It has {', '.join(known)}" if known else "It has none"
                raise InputError(f"{name} has no hyperparameter {key!r}.{did_you_mean(key, known)} {has}")
    missing = [item.name for item in named if item.default is item.empty and item.name not in values]
    if missing:
        typing = " ".join(f"{option}{key} VALUE" for key in missing)
        raise InputError(f"{name} needs a value for {', '.join(missing)}. Add {typing}")


def package_of(value: Any) -> Package | None:
    """Return the package that a LightningModule or LightningDataModule, class or instance, is of; else None."""
    for package in PACKAGES:
        module = sys.modules.get(package)
        if module is not None and _is_of(value, (module.LightningModule, module.LightningDataModule)):
            return package
    return None


def is_module(value: Any) -> bool:
    """Whether a value is a LightningModule, class or instance, of either package."""
    return any(_is_of(value, sys.modules[name].LightningModule) for name in PACKAGES if name in sys.modules)


def is_datamodule(value: Any) -> bool:
    """Whether a value is a LightningDataModule, class or instance, of either package."""
    return any(_is_of(value, sys.modules[name].LightningDataModule) for name in PACKAGES if name in sys.modules)


def _is_of(value: Any, classes: type | tuple[type, ...]) -> bool:
    return issubclass(value if isinstance(value, type) else type(value), classes)


def has_base(value: Any, name: str) -> bool:
    """Whether a value's class, or one that it is made from, has a name: of a package that need not be loaded."""
    return any(base.__name__ == name for base in type(value).__mro__)


def uncompiled(value: Any) -> Any:
    """The module that ``torch.compile`` was given, of what it returned; any other value as it is."""
    return value._orig_mod if has_base(value, "OptimizedModule") else value


def check_name(name: str | None) -> None:
    """Raise InputError for a name that cannot name a class."""
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise InputError(f"{name!r} is not a valid class name. Use letters, digits and underscores")


def default_name(kind: str, value: Any) -> str:
    """What an object is registered under where no name is given: a class, and any model, by its own."""
    own_name = getattr(value, "__name__", None) or type(value).__name__
    is_named = kind == "model" or is_datamodule(value)
    return own_name if is_named and own_name.isidentifier() else DEFAULT_NAMES[kind]


def possible_names(kind: str, source: Any) -> list[str]:
    """The names that a definition may get where none is given.

    Args:
        kind: ``model`` or ``data``.
        source: a cell, or its text, which need not be correct; or an object.
    """
    text = source.text if isinstance(source, CellSource) else source
    return [*class_names(text), DEFAULT_NAMES[kind]] if isinstance(text, str) else [default_name(kind, source)]


def changed_options(options: Any) -> list[str]:
    """Return the names of the options that differ from their defaults."""
    return [item.name for item in dataclasses.fields(options) if getattr(options, item.name) != item.default]


def option_names(names: Iterable[str]) -> str:
    """Return options as they are typed."""
    return ", ".join(f"--{name}" for name in names)


def class_definition(
    name: str, cls: type, options: Any, namespace: dict[str, Any], cell: CellSource | None = None
) -> Definition:
    """Register a class that is complete.

    Args:
        name: to register and bind it under.
        cls: LightningModule or LightningDataModule class.
        options: of the magic; none may be given.
        namespace: the notebook's globals.
        cell: that it stands in; None for a class that the notebook has already.

    Raises:
        InputError: an option is given, which the class would not see.
    """
    changed = changed_options(options)
    if changed:
        kind, takes_options = (
            ("LightningDataModule", "hooks or data")
            if is_datamodule(cls)
            else ("LightningModule", "a network or hooks")
        )
        raise InputError(
            f"{option_names(changed)} would have no effect: {cls.__name__} is a complete {kind} class. "
            f"Set it in the class, or pass {takes_options} alone"
        )
    package = package_of(cls)
    assert package is not None
    namespace[name] = cls
    text = cell.text if cell is not None else ""
    return Definition(name, cls, text or class_source(cls), text, "class", package)


def class_source(cls: type) -> str:
    """Source of a class, or "" where it cannot be found.

    `inspect.getsource` knows no classes of cells; the lines of their methods are found all the same.
    """
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(cls)
    for member in vars(cls).values():
        if inspect.isfunction(member):
            text = "".join(linecache.getlines(member.__code__.co_filename))
            with contextlib.suppress(SyntaxError):
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                        return (ast.get_source_segment(text, node) or "") + "\n"
    return ""
