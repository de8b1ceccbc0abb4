"""Whether values fit the arguments of a Trainer class, by the class's own signature.

Which arguments there are, without importing Lightning, is in `trainer_arguments`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, did_you_mean
from .tokens import evaluate, is_expression
from .trainer_arguments import KNOWN_WORDS

# Top-level names of Lightning's two distributions; an object of one does not work with the other's Trainer.
_LIGHTNING: tuple[str, ...] = ("lightning",)
_PYTORCH_LIGHTNING: tuple[str, ...] = ("pytorch_lightning", "lightning_fabric")
# The modules of Lightning that a value of a Trainer argument is usually imported from.
_PUBLIC = (
    "callbacks",
    "loggers",
    "profilers",
    "strategies",
    "accelerators",
    "plugins",
    "plugins.environments",
)
# Text that Trainer reads itself, but only in this form.
_FORMS = {
    "max_time": (re.compile(r"\d+:\d\d:\d\d:\d\d"), "DD:HH:MM:SS"),
    "val_check_interval": (re.compile(r"\d+:\d\d:\d\d:\d\d"), "DD:HH:MM:SS"),
}
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURALS: dict[type, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def check_trainer(trainer_cls: type, values: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values as they were typed, or given in Python, into what a Trainer takes.

    Text is read by the type of its argument. Where the type is of objects (callbacks), or the text does not
    fit, it is evaluated in the namespace; words that Lightning knows (``ddp``, ``cpu``) stay words. Objects are
    checked by their type.

    Raises:
        InputError: a value does not fit; says which argument, what it takes, and what was found.
    """
    hints = typing.get_type_hints(trainer_cls.__init__)  # type: ignore[misc]  # of this class, not of an instance
    for name in values:
        if name not in hints:
            raise InputError(f"--{name} is not an argument of Trainer.{did_you_mean(name, hints)}")
    return {name: _Argument(name, hints[name], trainer_cls, namespace).value(value) for name, value in values.items()}


@dataclass(frozen=True)
class _Argument:
    """One argument of a Trainer class: its type, and the namespace that texts may use."""

    name: str
    hint: Any
    trainer_cls: type
    namespace: Mapping[str, Any]

    def value(self, raw: Any) -> Any:
        if isinstance(raw, str):
            return self._from_text(raw)
        fits, value = self._fit(raw)
        if not fits:
            raise self._error(raw, repr(raw))
        return value

    def _from_text(self, text: str) -> Any:
        kinds = _union_members(self.hint)
        if text.lower() in ("none", "null") and type(None) in kinds:
            return None
        # Not by str, which takes everything, nor timedelta: jsonargparse reads DD:HH:MM:SS wrongly.
        plain = [
            kind for kind in kinds if kind in (bool, int, float) or (typing.get_args(kind) and not _is_class(kind))
        ]
        fits, value = _validate(self.name, plain, text)
        if fits:
            return value
        if not self._is_word(text) and is_expression(text, self.namespace):
            return self._from_expression(text)
        if self._is_word(text) or self._takes_any_text:
            return text
        raise self._error(text, repr(text))

    def _from_expression(self, text: str) -> Any:
        option = f"--{self.name}"
        try:
            result = evaluate(text, self.namespace, option)
        except InputError as error:
            raise self._with_hint(error) from error
        if isinstance(result, str) and str in _union_members(self.hint):
            fits, value = self._is_word(result) or self._takes_any_text, result
        else:
            fits, value = self._fit(result)
        if fits:
            return value
        if self._takes_any_text:  # a directory may be called as a variable is
            return text
        raise self._error(result, repr(text) if inspect.isclass(result) else f"{result!r} from {text!r}")

    def _fit(self, value: Any) -> tuple[bool, Any]:
        refuse_other_package(f"--{self.name}", value, self.trainer_cls)
        return _validate(self.name, _union_members(self.hint), list(value) if isinstance(value, tuple | set) else value)

    @property
    def _takes_any_text(self) -> bool:
        return str in _union_members(self.hint) and not self._words and self.name not in _FORMS

    def _is_word(self, text: str) -> bool:
        """Whether a text means itself, whatever the namespace holds."""
        form = _FORMS.get(self.name)
        return text in self._words or (form is not None and form[0].fullmatch(text) is not None)

    @functools.cached_property
    def _words(self) -> tuple[str, ...]:
        """The words that an argument of type str takes; empty where they are not closed."""
        package = _package(self.trainer_cls)
        if self.name == "strategy":
            registry = importlib.import_module(f"{package}.strategies").StrategyRegistry
            return ("auto", *registry.available_strategies())
        if self.name == "accelerator":
            registry = importlib.import_module(f"{package}.accelerators").AcceleratorRegistry
            return ("auto", "gpu", *sorted(registry.available_accelerators()))
        return KNOWN_WORDS.get(self.name, ())

    def _with_hint(self, error: InputError) -> InputError:
        """Add to the message of a missing name the import that brings it, or the name that was meant."""
        name = error.__cause__.name if isinstance(error.__cause__, NameError) else None
        if not name:
            return error
        package = _package(self.trainer_cls)
        home = next((place for place in _PUBLIC if _exports(f"{package}.{place}", name)), None)
        hint = f" Type: from {package}.{home} import {name}" if home else did_you_mean(name, self.namespace)
        return InputError(f"{error}.{hint}")

    def _error(self, value: Any, shown: str) -> InputError:
        kinds = [kind for kind in _union_members(self.hint) if kind is not type(None)]
        literals = [str(word) for kind in kinds if _is_literal(kind) for word in typing.get_args(kind)]
        words = list(dict.fromkeys([*self._words, *literals]))
        near = did_you_mean(value, words or self.namespace) if isinstance(value, str) else ""
        if words and all(_is_literal(kind) or kind is str or _is_class(kind) for kind in kinds):
            return InputError(f"--{self.name} {shown} is not one of: {', '.join(words)}.{near}")
        if inspect.isclass(value):
            near = f" {value.__name__} is a class. Type: {value.__name__}(…)"
        return InputError(f"--{self.name} takes {self._expected(kinds)}; found {shown}.{near}")

    def _expected(self, kinds: list[Any]) -> str:
        """What the argument takes, in a user's words."""
        descriptions: list[str] = []
        for kind in sorted(kinds, key=lambda kind: (bool(typing.get_args(kind)), str(kind))):
            args = [part for arg in typing.get_args(kind) for part in _union_members(arg)]
            if _is_literal(kind) or kind is str:
                texts = [repr(word) for word in (args if _is_literal(kind) else self._words)]
                descriptions += texts or [_FORMS[self.name][1] if self.name in _FORMS else _KINDS[str]]
            elif typing.get_origin(kind) is dict:
                descriptions.append("a dict")
            elif args:
                names = dict.fromkeys(_PLURALS.get(arg, f"{arg.__name__}s") for arg in args)
                descriptions.append("a list of them" if set(args) <= set(kinds) else f"a list of {' or '.join(names)}")
            elif not (kind is int and float in kinds):
                article = "an" if kind.__name__[0] in "AEIOU" else "a"
                descriptions.append(_KINDS.get(kind) or f"{article} {kind.__name__}")
        return " or ".join(dict.fromkeys(descriptions))


def _validate(name: str, kinds: list[Any], value: Any) -> tuple[bool, Any]:
    """Whether a value fits one of several types, and the value as jsonargparse reads it.

    Each type is asked alone, int before float: the order within a Union is that of whichever equal Union was made
    first in the process, so that 10 batches could become the float 10.0.
    """
    import jsonargparse  # 0.1 s that only a fit needs

    if type(value) in kinds:
        return True, value
    for kind in sorted(kinds, key=lambda kind: [int, float, bool].index(kind) if kind in (int, float, bool) else 3):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{name}", type=kind)
        try:
            parsed = getattr(parser.parse_object({name: value}), name)
        except (jsonargparse.ArgumentError, TypeError, ValueError):
            continue
        # jsonargparse also reads a text or a dict as the description of an object, which Trainer cannot use.
        parts = parsed if isinstance(parsed, list) else [parsed]
        if not any(isinstance(part, jsonargparse.Namespace) for part in parts):
            return True, parsed
    return False, None


def _union_members(hint: Any) -> list[Any]:
    """The types of a union; another type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for member in typing.get_args(hint) for part in _union_members(member)]
    return [hint]


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _is_class(hint: Any) -> bool:
    """Whether a type is one of Lightning's own classes, or a list of them: no text describes its objects."""
    if _is_literal(hint):
        return False
    if typing.get_args(hint):
        return any(_is_class(part) for arg in typing.get_args(hint) for part in _union_members(arg))
    return inspect.isclass(hint) and _top_package(hint) in (*_LIGHTNING, *_PYTORCH_LIGHTNING)


def _top_package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _package(cls: type) -> str:
    """``lightning.pytorch`` or ``pytorch_lightning``: where a class, or what it derives from, is defined."""
    return "lightning.pytorch" if any(_top_package(base) in _LIGHTNING for base in cls.__mro__) else "pytorch_lightning"


def _exports(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def refuse_other_package(option: str, value: Any, trainer_cls: type) -> None:
    """Refuse an object, or one in a list, that comes from the other Lightning package than the Trainer.

    Raises:
        InputError: names the object, both packages, and the import to write instead.
    """
    package = _package(trainer_cls)
    ours = _LIGHTNING if package == "lightning.pytorch" else _PYTORCH_LIGHTNING
    others = {*_LIGHTNING, *_PYTORCH_LIGHTNING} - {*ours}
    for item in value if isinstance(value, list | tuple | set) else [value]:
        cls = item if inspect.isclass(item) else type(item)
        foreign = [base for base in cls.__mro__ if _top_package(base) in others]
        if foreign and not any(_top_package(base) in ours for base in cls.__mro__):
            parts = foreign[0].__module__.split(".")
            origin = ".".join(parts[: 2 if parts[0] in _LIGHTNING else 1])
            raise InputError(
                f"{option}: {cls.__name__} is from {origin}, but the model uses {package}. "
                f"Type: {_import_line(foreign[0], origin, package)}"
            )


def _import_line(cls: type, origin: str, package: str) -> str:
    """The import of the same class from our package, out of the shortest module that has it."""
    inner = cls.__module__.removeprefix(origin).strip(".").split(".")
    fabric = "lightning.fabric" if package == "lightning.pytorch" else "lightning_fabric"
    root = fabric if "fabric" in origin else package
    places = [".".join([root, *inner[:depth]]) for depth in range(1, len(inner) + 1)]
    place = next((place for place in places if _exports(place, cls.__name__)), places[-1])
    return f"from {place} import {cls.__name__}"
