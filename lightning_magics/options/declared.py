"""The options of each magic, declared once, and the values that they take.

`parser` and `help` build the parser and the help text from these declarations.
"""
# ruff: noqa: RUF009 -- `_option` is dataclasses.field with metadata, and its defaults are immutable

from __future__ import annotations

import dataclasses
import functools
import keyword
import numbers
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import clusters
from ..errors import InputError, did_you_mean
from ..scores import WORDS, Mode
from .tokens import Expression

Verb = Literal[
    "model",
    "data",
    "fit",
    "validate",
    "test",
    "predict",
    "source",
    "runs",
    "attach",
    "stop",
    "board",
    "load",
    "rerun",
    "export",
]
LOGGERS = ("tensorboard", "csv", "mlflow", "wandb")
START_METHODS = ("forkserver", "spawn")
DEFAULT_START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"  # libraries of macOS do not survive a fork
_NEARLY_MODES = ("minimum", "maximum", "lower", "higher", "less", "more", "smaller", "larger")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _option(default: Any, text: str, metavar: str = "", **metadata: Any) -> Any:
    """Declare an option.

    Args:
        default: its default.
        text: one line of help.
        metavar: what stands for its value in the help.
        metadata: `choices` (the only words it takes), `more_choices` (makes the choices that other packages
            add, asked for late), `words` (some of the words it takes), `several` (takes
            all values up to the next option), `repeated` (given again, adds a value), `short` (a letter),
            `minimum`, `maximum`, `variable` (takes the name of one) and `magic_only` (no keyword of the Python API).
    """
    return field(default=default, metadata={"help": text, "metavar": metavar, **metadata})


@dataclass(frozen=True)
class ModelOptions:
    """Options of ``%%lightning_model``: what the cell does not give. Names as text, or objects."""

    loss: Any = _option(
        None,
        "name of a torch.nn.functional function, or any callable",
        "NAME",
        words=(
            "cross_entropy",
            "binary_cross_entropy_with_logits",
            "mse_loss",
            "l1_loss",
            "nll_loss",
            "huber_loss",
        ),
    )
    metrics: tuple[Any, ...] = _option(
        (),
        "names of torchmetrics metrics, or metric objects",
        "NAME",
        several=True,
        words=(
            "accuracy",
            "f1_score",
            "precision",
            "recall",
            "auroc",
            "mean_absolute_error",
            "mean_squared_error",
        ),
    )
    optimizer: Any = _option(
        None,
        "name of a torch.optim class, or any callable",
        "NAME",
        words=("Adam", "AdamW", "SGD", "RMSprop", "Adagrad"),
    )
    lr: float | None = _option(None, "learning rate", "NUMBER")
    weight_decay: float | None = _option(None, "weight decay of the optimizer", "NUMBER")
    scheduler: Any = _option(
        None,
        "name of a torch.optim.lr_scheduler class, linear_warmup, or any callable",
        "NAME",
        words=(
            "linear_warmup",
            "cosine_warmup",
            "CosineAnnealingLR",
            "OneCycleLR",
            "ReduceLROnPlateau",
            "StepLR",
            "ExponentialLR",
            "LinearLR",
        ),
    )
    task: str | None = _option(
        None, "kind of classification, if it cannot be inferred", choices=("binary", "multiclass", "multilabel")
    )
    num_classes: int | None = _option(None, "number of classes, if it cannot be inferred", "N", minimum=1)
    warmup: float | None = _option(
        None, "fraction of all steps in which a *_warmup scheduler raises the learning rate", "FRACTION"
    )
    freeze: tuple[str, ...] = _option(
        (), "parts of the model to freeze: bert.embeddings, encoder.layer.[0-3]", "PATTERN", several=True
    )
    unfreeze_every: int | None = _option(
        None, "unfreeze one more layer of --freeze every N epochs, starting with the last", "N", minimum=1
    )
    class_weights: tuple[Any, ...] = _option(
        (),
        "class weights in the loss; balanced gives rare classes more weight",
        "NUMBER",
        several=True,
        words=("balanced",),
    )


@dataclass(frozen=True)
class DataOptions:
    """Options of ``%%lightning_data``."""

    batch_size: int = _option(32, "samples in a batch", "N", minimum=1)
    val_split: int | float | None = _option(None, "samples held out for validation: a fraction or a count", "SIZE")
    test_split: int | float | None = _option(None, "samples held out for testing: a fraction or a count", "SIZE")
    num_workers: int = _option(0, "number of processes that load data", "N", minimum=0)
    shuffle: bool = _option(True, "whether to shuffle the training data every epoch")
    label: str | None = _option(None, "column that holds the labels", "COLUMN")
    text: str | None = _option(None, "column that holds texts", "COLUMN")
    tokenizer: Any = _option(
        None, "tokenizer of the texts: a name on the Hugging Face Hub, a folder, or an object", "NAME"
    )
    vocab_size: int | None = _option(
        None, "build a vocabulary of N tokens from the training texts instead", "N", minimum=10
    )
    vocabulary: str | None = _option(None, "kind of vocabulary that --vocab_size builds", choices=("wordpiece", "bpe"))
    max_length: int = _option(512, "maximum number of tokens of a text; the rest is truncated", "N", minimum=3)
    clean: tuple[Any, ...] = _option(
        (),
        "cleaning steps for the texts, in order; may be functions",
        "STEP",
        several=True,
        words=("html", "unicode", "lower", "whitespace"),
    )
    encoding: str | None = _option(None, "encoding of text files, such as cp1252 (default: UTF-8 or UTF-16)", "NAME")
    split_seed: int = _option(0, "seed of the splits", "N", minimum=0)


@dataclass(frozen=True)
class RunOptions:
    """Options of every magic that runs a Trainer; beside them, it takes the Trainer's own arguments."""

    amp: bool = _option(False, "mixed precision, with the type that suits the device")
    seed: int | None = _option(None, "seed for all random number generators", "N", minimum=0, maximum=2**32 - 1)
    quiet: bool = _option(False, "show only the result, without a live view")
    ddp: bool | int = _option(False, "run in N processes (DDP); without N, one for each GPU", "[N]", minimum=1)
    background: bool = _option(False, "run in separate processes, and return immediately")
    cluster: str | None = _option(
        None,
        "run on a cluster instead of this machine",
        choices=clusters.BUILT_IN,
        more_choices=clusters.names,
    )
    nodes: int | None = _option(None, "number of nodes, with --cluster; --devices applies to each", "N", minimum=1)


@dataclass(frozen=True)
class FitOptions(RunOptions):
    """Options of ``%lightning_fit``."""

    early_stop: tuple[str, ...] = _option(
        (), "stop when METRIC has not improved for PATIENCE epochs", "METRIC[:PATIENCE][:min|max]", repeated=True
    )
    monitor: str | None = _option(None, "metric that chooses the best checkpoint", "METRIC[:min|max]")
    resume: Any = _option(None, "continue from a run or a checkpoint", "RUN|last|PATH", words=("last",))
    logger: tuple[Any, ...] | None = _option(
        None,
        "loggers, by name or as objects; false for none",
        "NAME",
        repeated=True,
        words=(*LOGGERS, "false"),
    )
    weights_only: bool = _option(True, "load only tensors and plain values; false may run stored code")
    board: bool = _option(False, "show TensorBoard above the fit")


@dataclass(frozen=True)
class EvaluationOptions(RunOptions):
    """Options of ``%lightning_validate`` and ``%lightning_test``."""

    ckpt_path: str | None = _option(
        None, "checkpoint to load the weights from, instead of the last ones", "best|PATH", words=("best",)
    )
    weights_only: bool = _option(True, "load only tensors and plain values; false may run stored code")


@dataclass(frozen=True)
class PredictOptions(EvaluationOptions):
    """Options of ``%lightning_predict``."""

    output: str | None = _option(
        None, "variable to store the predictions in", "NAME", short="o", variable=True, magic_only=True
    )


@dataclass(frozen=True)
class StopOptions:
    """Options of ``%lightning_stop``."""

    now: bool = _option(False, "end its processes immediately; nothing more is saved")


@dataclass(frozen=True)
class LoadOptions:
    """Options of ``%lightning_load``."""

    checkpoint: str | None = _option(
        None, "checkpoint to load the weights from (default: the last)", "best|last|PATH", words=("best", "last")
    )
    weights_only: bool = _option(True, "load only tensors and plain values; false may run stored code")


@dataclass(frozen=True)
class ExportOptions:
    """Options of ``%lightning_export``."""

    notebook: bool = _option(False, "write a notebook (FILE.ipynb) instead of a script")
    overwrite: bool = _option(False, "replace an existing file")


@dataclass(frozen=True)
class BoardOptions:
    """Options of ``%lightning_board``."""

    height: int = _option(800, "height of the frame in pixels", "N", minimum=100)
    port: int | None = _option(
        None, "port of the server (default: 6006 or the next free one)", "N", minimum=1, maximum=65535
    )


@dataclass(frozen=True)
class RunsOptions:
    """Options of ``%lightning_runs``."""

    model: str | None = _option(None, "only the runs of this model", "MODEL")
    sort: str | None = _option(None, "sort by the best value of a metric, best first", "METRIC")
    plot: str | None = _option(None, "plot the curves of a metric in one chart", "METRIC")
    compare: tuple[Any, ...] = _option((), "compare runs side by side", "RUN", several=True)
    delete: tuple[Any, ...] = _option((), "delete runs and their checkpoints", "RUN", several=True)
    keep: int | None = _option(None, "list all runs except the best N (newest N without --sort)", "N", minimum=0)
    yes: bool = _option(False, "delete the runs that --keep lists")


@dataclass(frozen=True)
class NoOptions:
    """For a magic that takes names alone."""


DECLARED: dict[str, type] = {
    "model": ModelOptions,
    "data": DataOptions,
    "fit": FitOptions,
    "validate": EvaluationOptions,
    "test": EvaluationOptions,
    "predict": PredictOptions,
    "source": NoOptions,
    "runs": RunsOptions,
    "attach": NoOptions,
    "stop": StopOptions,
    "load": LoadOptions,
    "rerun": FitOptions,
    "export": ExportOptions,
    "board": BoardOptions,
}
# The verbs that take the Trainer's arguments, and constructor arguments as --model.NAME and --data.NAME.
RUNNING = ("fit", "validate", "test", "predict", "rerun")


@dataclass(frozen=True)
class Option:
    """One declared option, as the parser, the help and completion see it."""

    name: str
    kinds: tuple[type, ...]
    default: Any
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    more_choices: Callable[[], Sequence[str]] = tuple
    words: tuple[str, ...] = ()
    several: bool = False
    repeated: bool = False
    short: str = ""
    minimum: int | None = None
    maximum: int | None = None
    variable: bool = False
    magic_only: bool = False

    @property
    def flag(self) -> bool:
        """Whether the option alone means True."""
        return bool in self.kinds

    def takes(self, token: str) -> bool:
        """Whether the word after a flag is its value."""
        return _from_text(token, self.kinds) is not None

    def all_choices(self) -> list[str]:
        """The only words that it takes, with those that other packages add."""
        return list(dict.fromkeys([*self.choices, *self.more_choices()]))

    @property
    def many(self) -> bool:
        """Whether the values are collected."""
        return self.several or self.repeated

    def convert(self, value: Any) -> Any:
        """Return a value of the option's type from text as typed, or from an object given in Python.

        Raises:
            InputError: it is of another type, or not one of the choices.
        """
        if value is None and self.default is None:
            return None
        converted = _from_text(value, self.kinds) if isinstance(value, str) else value
        if converted is None or not any(_is_instance(converted, kind) for kind in self.kinds):
            hint = f" For a variable's value type {{{value}}}." if str(value).isidentifier() else ""
            raise InputError(f"--{self.name} takes {_type_names(self.kinds)}; found {value!r}.{hint}")
        if self.choices and converted not in self.choices and converted not in self.all_choices():
            near = did_you_mean(str(converted), self.all_choices())
            raise InputError(f"--{self.name} {converted!r} is not one of: {', '.join(self.all_choices())}.{near}")
        if self.minimum is not None and converted is not False and converted < self.minimum:
            least = f"{_type_names(self.kinds)} of at least {self.minimum}"
            raise InputError(f"--{self.name} takes {least}; found {converted}.")
        if self.maximum is not None and converted > self.maximum:
            most = f"{_type_names(self.kinds)} of at most {self.maximum}"
            raise InputError(f"--{self.name} takes {most}; found {converted}.")
        if self.variable and (not converted.isidentifier() or keyword.iskeyword(converted)):
            raise InputError(f"-{self.short} takes the name of a variable; found {converted!r}")
        return converted


def _from_text(text: str, kinds: tuple[type, ...]) -> Any:
    """Read text as one of the types, the narrower first; None where it is none of them."""
    if bool in kinds and text.lower() in (*TRUE, *FALSE) and not (int in kinds and text.isdecimal()):
        return text.lower() in TRUE
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text if str in kinds or object in kinds else None


def _is_instance(value: Any, kind: type) -> bool:
    """Whether a value is of a type; NumPy's numbers count, and a bool is no number."""
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_names(kinds: tuple[type, ...]) -> str:
    if bool in kinds:
        return "true or false"
    return "a number" if float in kinds else "a whole number" if int in kinds else "text"


@functools.cache
def own_options(verb: str) -> Mapping[str, Option]:
    """Return the declared options of a magic, without the Trainer's."""
    cls = DECLARED[verb]
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    options = {item.name: Option(item.name, _kinds(hints[item.name]), item.default, **item.metadata) for item in fields}
    return types.MappingProxyType(options)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of one value: int of ``int | None``, str of ``tuple[str, ...]``, object of Any."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) if part is not type(None) for kind in _kinds(part))
    if typing.get_origin(hint) is tuple:
        return _kinds(typing.get_args(hint)[0])
    return (object,) if hint is Any else (hint,)


def make(verb: Verb, values: Mapping[str, Any]) -> Any:
    """Make the options of a verb, from what `parse` found or from Python's keyword arguments.

    Raises:
        InputError: a name is unknown, or a value is of the wrong type.
    """
    known = own_options(verb)
    options = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{name!r} is not an argument of {verb}().{did_you_mean(name, known)}")
        option = known[name]
        if value is None:
            options[name] = option.default
        elif option.many:
            options[name] = collect(option, value if isinstance(value, list | tuple) else [value])
        else:
            options[name] = option.convert(value)
    return DECLARED[verb](**options)


def _names(value: Any) -> list[Any]:
    """The names in ``accuracy,f1`` or ``accuracy f1``; what has brackets or quotes is one expression."""
    if not isinstance(value, str) or any(sign in value for sign in "([{'\""):
        return [value]
    return value.replace(",", " ").split()


def collect(option: Option, values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return the values of an option that takes several, each converted.

    Raises:
        InputError: one of them does not fit.
    """
    if option.name == "logger":
        return _loggers(values)
    if option.name == "metrics":
        values = [name for value in values for name in _names(value)]
    converted = tuple(option.convert(value) for value in values)
    if option.name == "early_stop":
        for value in converted:
            metric_and_patience(value.removesuffix(":min").removesuffix(":max"))
    return converted


def _loggers(values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Names and objects as they are, other text as an `Expression`; () for none, None for the default."""
    words = [value.lower() if isinstance(value, str) else value for value in values]
    if len(words) == 1 and (words[0] is True or words[0] == "true"):
        return None
    off = [word for word in words if word is False or word in ("false", "none")]
    if off and len(words) > 1:
        raise InputError("--logger false cannot be combined with another logger. Remove one of them")
    if off:
        return ()
    return tuple(
        word if word in LOGGERS else Expression(value) if isinstance(value, str) else value
        for word, value in zip(words, values, strict=True)
    )


def metric_and_mode(text: str) -> tuple[str, Mode | None]:
    """Take ``METRIC[:min|max]`` apart: whether the smallest or the largest value is the best, None if not told.

    Raises:
        InputError: the metric is empty, or what follows it is nearly one of the two.
    """
    metric, colon, mode = text.rpartition(":")
    if metric and mode in WORDS:
        return metric, mode
    if not text or (colon and (not metric or not mode or mode.lower() in _NEARLY_MODES)):
        raise InputError(f"{text!r} is not a valid metric. Type METRIC[:min|max], such as val_loss:min.")
    return text, None


def metric_and_patience(text: str) -> tuple[str, int | None]:
    """Take ``METRIC[:PATIENCE]`` apart.

    Raises:
        InputError: the metric is empty or the patience is no whole number.
    """
    metric, colon, patience = text.partition(":")
    if not metric or (colon and not patience.isdecimal()):
        raise InputError(f"--early_stop takes METRIC[:PATIENCE][:min|max], such as val_loss:3; found {text!r}.")
    return metric, int(patience) if colon else None
