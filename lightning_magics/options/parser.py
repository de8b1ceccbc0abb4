"""Parses the line of a magic.

Options are declared in `declared`, and the Trainer's arguments in `trainer_arguments`. Help is in `help`, completion in
`completion`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import clusters
from ..errors import InputError, did_you_mean
from .declared import (
    DECLARED,
    FALSE,
    LOGGERS,
    RUNNING,
    TRUE,
    DataOptions,
    FitOptions,
    ModelOptions,
    NoOptions,
    Option,
    PredictOptions,
    RunOptions,
    Verb,
    collect,
    make,
    metric_and_mode,
    metric_and_patience,
    own_options,
)
from .tokens import Expression, resolve, to_value, tokenize
from .trainer_arguments import trainer_options
from .trainer_values import check_trainer

# Everything about options that the rest of the package needs, under this module's name.
__all__ = [
    "LOGGERS",
    "RUNNING",
    "DataOptions",
    "Expression",
    "FitOptions",
    "ModelOptions",
    "NoOptions",
    "Option",
    "ParsedLine",
    "PredictOptions",
    "RunOptions",
    "Verb",
    "check_names",
    "check_trainer",
    "make",
    "metric_and_mode",
    "metric_and_patience",
    "own_options",
    "parse",
    "resolve",
    "resolve_loggers",
    "tokenize",
]
_EXAMPLES = {"model": "hidden 64", "data": "batch_size 64"}


@dataclass(frozen=True)
class ParsedLine:
    """A magic's line, taken apart.

    Attributes:
        positional: names and expressions, as typed.
        options: the magic's own options that were given, converted; ``{"help": True}`` for ``--help``,
            and ``{"help_all": True}`` for ``--help-all``.
        trainer: arguments of Trainer, as typed (True for a bare flag): see `check_trainer`.
        model: what ``--model.NAME`` gave: Python literals, or an `Expression`: see `resolve`.
        data: likewise for ``--data.NAME``.
        engines: by engine, what ``--slurm.NAME`` gave: Python literals, other text as it is.
    """

    positional: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as keyword arguments of the Python API."""
        return {**self.trainer, **self.options, "model": self.model, "data": self.data, **self.engines}


def parse(verb: Verb, line: str) -> ParsedLine:
    """Take the line of a magic apart.

    Raises:
        InputError: the line cannot be split, or an option is unknown, given twice, or lacks its value.
    """
    tokens = tokenize(line)
    for name, spellings in (("help_all", ("--help-all", "--help_all")), ("help", ("-h", "--help"))):
        if any(token in spellings for token in tokens):
            return ParsedLine(options={name: True})
    parser = _Parser(verb, tokens)
    while parser.tokens:
        parser.step()
    most = {"board": None, "data": None, "export": 3}.get(verb, 1)
    if verb not in RUNNING and most is not None and len(parser.parsed.positional) > most:
        names = " ".join(parser.parsed.positional)
        raise InputError(f"%lightning_{verb} takes one name; found {names!r}. Put values with spaces in quotes.")
    return parser.parsed


class _Parser:
    """Reads the tokens of one line, an option with its values at a time."""

    def __init__(self, verb: Verb, tokens: list[str]) -> None:
        self.verb = verb
        self.tokens = tokens
        self.parsed = ParsedLine()
        self.short = {f"-{item.short}": item.name for item in own_options(verb).values() if item.short}

    def step(self) -> None:
        token = self.tokens.pop(0)
        if token in self.short:
            self._read_own_option(own_options(self.verb)[self.short[token]], None)
        elif not is_option(token):
            if re.match(r"-[A-Za-z]", token):
                raise InputError(f"{token} is not an option of %lightning_{self.verb}.{_near(self.verb, token[1:])}")
            self.parsed.positional.append(token)
        else:
            option, equals, text = token[2:].partition("=")
            value = text if equals else None
            prefix, dot, name = option.partition(".")
            if dot and prefix in ("model", "data") and name and self.verb in RUNNING:
                self._read_hyperparameter(prefix, name.replace("-", "_"), value)
            elif dot and name and self.verb in RUNNING and clusters.is_engine(prefix):
                self._read_engine_parameter(clusters.engine(prefix), name.replace("-", "_"), value)
            else:
                self._read_option(option, value)

    def _read_option(self, option: str, value: str | None) -> None:
        name = option.replace("-", "_")
        if name in own_options(self.verb):
            self._read_own_option(own_options(self.verb)[name], value)
        elif self.verb in RUNNING and name in trainer_options():
            self._read_trainer_argument(name, value)
        else:
            raise InputError(_unknown(self.verb, option))

    def _read_own_option(self, option: Option, value: str | None) -> None:
        if option.flag and value is None:
            reads = bool(self.tokens) and option.takes(self.tokens[0])
            value = self.tokens.pop(0) if reads else "true"
        values = [
            self._required_value(
                option.name, value, option.metavar or next(iter(option.choices or option.words), "VALUE")
            )
        ]
        if option.several:
            while value is None and self.tokens and not self._starts_option(self.tokens[0]):
                values.append(self.tokens.pop(0))
        elif option.words and option.repeated:
            # Of loggers, only what cannot be a model or data goes on: the names, and expressions.
            while value is None and self.tokens and self.tokens[0] in option.words:
                values.append(self.tokens.pop(0))
        if not option.many:
            self._check_once(option.name, self.parsed.options)
            self.parsed.options[option.name] = option.convert(values[0])
        else:
            before = self.parsed.options.get(option.name, ())
            self.parsed.options[option.name] = collect(option, [*(before or ()), *values])

    def _read_trainer_argument(self, name: str, value: str | None) -> None:
        option = trainer_options()[name]
        self._check_once(name, self.parsed.trainer)
        if value is None and option.flag and not (self.tokens and option.takes(self.tokens[0])):
            self.parsed.trainer[name] = True
        else:
            metavar = option.choices[0] if option.choices else "VALUE"
            self.parsed.trainer[name] = self._required_value(name, value, metavar)

    def _read_hyperparameter(self, prefix: str, name: str, value: str | None) -> None:
        target = self.parsed.model if prefix == "model" else self.parsed.data
        self._check_once(name, target, f"{prefix}.")
        target[name] = to_value(self._required_value(f"{prefix}.{name}", value, "VALUE"))

    def _read_engine_parameter(self, engine: clusters.Engine, name: str, text: str | None) -> None:
        target = self.parsed.engines.setdefault(engine.name, {})
        option = f"{engine.name}.{name}"
        bare = name in engine.flags and not (self.tokens and self.tokens[0].lower() in (*TRUE, *FALSE))
        value = to_value("true" if text is None and bare else self._required_value(option, text, "VALUE"))
        value = value.text if isinstance(value, Expression) else value
        if name in engine.lines:
            target[name] = [*target.get(name, ()), *(value if isinstance(value, list) else [str(value)])]
        else:
            self._check_once(name, target, f"{engine.name}.")
            target[name] = value

    def _required_value(self, name: str, value: str | None, metavar: str) -> str:
        if value is not None:
            return value
        if not self.tokens or self._starts_option(self.tokens[0]):
            raise InputError(f"--{name} needs a value. Type: --{name} {metavar}")
        return self.tokens.pop(0)

    def _check_once(self, name: str, where: dict[str, Any], prefix: str = "") -> None:
        if name in where:
            raise InputError(f"--{prefix}{name} is given twice. Type it once.")

    def _starts_option(self, token: str) -> bool:
        return is_option(token) or token in self.short


def is_option(token: str) -> bool:
    """Whether a token names an option; a negative number and a lone dash do not."""
    return re.match(r"--[A-Za-z]", token) is not None


def _unknown(verb: str, option: str) -> str:
    """Say that an option does not exist, and which was meant, or where it belongs."""
    name = option.replace("-", "_")
    text = f"--{option} is not an option of %lightning_{verb}."
    homes = [other for other in DECLARED if name in own_options(other)]
    if not homes and verb not in RUNNING and (name in trainer_options() or "." in name):
        homes = ["fit"]
    if verb in RUNNING and name in ("lr", "weight_decay"):
        return f"{text} It is a hyperparameter of the model: --model.{name} VALUE"
    if verb in RUNNING and (name in _EXAMPLES or clusters.is_engine(name)):
        return f"{text} It is a prefix: --{name}.{_EXAMPLES.get(name, 'NAME VALUE')}"
    if homes:
        return f"{text} It belongs to %lightning_{homes[0]}."
    engine = _engine_with(name) if verb in RUNNING else ""
    if engine:
        return f"{text} It is a parameter of {engine}: --{engine}.{name} VALUE"
    near, more = _near(verb, name), f" For all options, type %lightning_{verb} --help."
    if not near and verb in RUNNING:
        more = f" To set a hyperparameter, type --model.{name} VALUE or --data.{name} VALUE.{more}"
    return text + (near or more)


def _engine_with(name: str) -> str:
    """Name of an engine that has such a parameter, empty if none has."""
    for engine in clusters.names():
        with contextlib.suppress(InputError):  # its package cannot be imported
            if name in clusters.engine(engine).parameter_names():
                return engine
    return ""


def _near(verb: str, name: str) -> str:
    near = did_you_mean(name, known_names(verb))
    return near.replace("mean '", "mean '--", 1)


def known_names(verb: str) -> list[str]:
    """Return the names of all options of a magic, its own first."""
    return list(dict.fromkeys([*own_options(verb), *(trainer_options() if verb in RUNNING else ())]))


def check_names(verb: Verb, names: Iterable[str]) -> None:
    """Refuse keyword arguments of the Python API that the verb does not have.

    Raises:
        InputError: names the first unknown one, and the nearest known.
    """
    own = own_options(verb)
    known = [name for name in known_names(verb) if name not in own or not own[name].magic_only]
    for name in names:
        if name not in known:
            raise InputError(f"{name!r} is not an argument of {verb}().{did_you_mean(name, known)}")


def resolve_loggers(values: tuple[Any, ...], namespace: Mapping[str, Any]) -> list[Any]:
    """Return logger names as they are, and the objects that expressions stand for.

    Raises:
        InputError: a text is neither the name of a logger nor one of the namespace, or an object is no logger.
    """
    loggers: list[Any] = []
    for value in values:
        logger = resolve(value, namespace, "--logger")
        if isinstance(logger, str) and logger not in LOGGERS:
            near = did_you_mean(logger, [*LOGGERS, *namespace])
            raise InputError(f"--logger {logger!r} is not one of: {', '.join(LOGGERS)}, false.{near}")
        loggers += logger if isinstance(logger, list | tuple) else [logger]
    for logger in loggers:
        is_name = isinstance(logger, str) and logger in LOGGERS
        if not is_name and not _is_logger(logger):
            raise InputError(f"--logger takes {', '.join(LOGGERS)}, false or a Lightning Logger; found {logger!r}.")
    return loggers


def _is_logger(value: Any) -> bool:
    """Whether an object is a Logger of Lightning, without importing Lightning."""
    lightning = ("lightning", "pytorch_lightning", "lightning_fabric")
    bases = [base for base in type(value).__mro__ if base.__name__ == "Logger"]
    return any(base.__module__.partition(".")[0] in lightning for base in bases)
