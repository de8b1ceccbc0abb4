"""Fine-tuning in a generated model: what is frozen, which layers wait their turn, weights of classes.

Every text here is plain Lightning. Which of them a model gets is in `model`; whether a pretrained name can be
loaded is in `hub`.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ...errors import InputError, did_you_mean
from .. import hub
from ..cell import Hyperparameter, calls
from ..generated import expression, method, snippet
from ..lookup import literal
from .losses import Loss

if TYPE_CHECKING:
    from ...options.parser import ModelOptions

_FREEZE = """
frozen = self._frozen()
for name, parameter in self.named_parameters():
    parameter.requires_grad = parameter.requires_grad and name not in frozen
"""
_FROZEN = '''
def _frozen(self):
    """Return the names of the parameters in which a pattern of `freeze` matches a part of the dotted name."""
    names = [name for name, _ in self.named_parameters()]
    matches = {
        pattern: [name for name in names if fnmatchcase(f".{name}.", f"*.{pattern}.*")]
        for pattern in self.hparams.freeze
    }
    for pattern, matched in matches.items():
        if not matched:
            raise ValueError(f"no parameter name matches {pattern!r}. Some names: {', '.join(names[:4])}")
    return [name for name in names if any(name in matched for matched in matches.values())]
'''
# A parameter without a gradient stays as it is; DDP, which wants a gradient of each, has had it by then.
_UNFREEZE = '''
def on_before_optimizer_step(self, optimizer):
    """Skip layers that are still frozen: one more is unfrozen every `unfreeze_every` epochs, the last first."""
    waiting = self.frozen_layers[self.current_epoch // self.hparams.unfreeze_every :]
    for name, parameter in self.named_parameters():
        if self._layer(name) in waiting:
            parameter.grad = None
'''
_LAYER = '''
@staticmethod
def _layer(name):
    """Return the layer of a parameter: its name up to a number, such as encoder.layer.5, or to its module's parent."""
    numbered = re.match(r".*?\\.\\d+(?=\\.)", name)
    return numbered[0] if numbered else name.rsplit(".", 2)[0]
'''
_LAYERS = "self.frozen_layers = list(dict.fromkeys(self._layer(name) for name in self._frozen()))[::-1]"
_LOSS = '''
def _loss(self, output, target):
    """Return the cross entropy with class weights."""
    return torch.nn.functional.cross_entropy(output, target, weight=self.loss_weights)
'''
_BALANCE = '''
def setup(self, stage):
    """Weight each class by how rare it is in the training data."""
    if stage != "predict":
        data = self.trainer.datamodule
        counts = torch.bincount(data.splits["train"].labels, minlength=len(data.classes))
        self.loss_weights = counts.sum() / (len(counts) * counts.clamp(min=1))
'''
BALANCED = "balanced"
HELPERS = ("_frozen", "_layer", "_loss")
_SHOWN_WEIGHTS = 6  # weights of a head that is new


@dataclass(frozen=True)
class FineTuning:
    """What the options of fine-tuning ask for.

    Attributes:
        freeze: patterns of parameters' names.
        unfreeze_every: epochs after which a further layer of these trains, or None.
        weights: of the classes, ``balanced``, or None.
    """

    freeze: tuple[str, ...] = ()
    unfreeze_every: int | None = None
    weights: Any = None

    @classmethod
    def of(cls, options: ModelOptions, hooks: Iterable[str]) -> FineTuning:
        """Read the options.

        Raises:
            InputError: they do not go together, or the cell has a hook that they need.
        """
        if options.unfreeze_every is not None and not options.freeze:
            raise InputError("--unfreeze_every would have no effect without --freeze PATTERN")
        weights: Any = None
        if options.class_weights:
            weights = _weights(options.class_weights)
            if options.loss not in (None, "cross_entropy"):
                raise InputError(f"--class_weights needs --loss cross_entropy; found --loss {options.loss}")
        tuning = cls(options.freeze, options.unfreeze_every, weights)
        for function in tuning.methods():
            if function.name in hooks and function.name not in HELPERS:
                option = "unfreeze_every" if function.name.startswith("on_") else "class_weights balanced"
                raise InputError(f"--{option} would have no effect: the cell has its own {function.name}")
        return tuning

    def check(self, names: Sequence[str]) -> None:
        """Check patterns against the names of a model's parameters.

        Raises:
            InputError: one matches none.
        """
        for pattern in self.freeze:
            if not any(fnmatchcase(f".{name}.", f"*.{pattern}.*") for name in names):
                parts = sorted({part for name in names for part in name.split(".") if not part.isdecimal()})
                raise InputError(
                    f"--freeze {pattern}: no parameter name matches.{did_you_mean(pattern, parts)} "
                    f"Some names: {', '.join(names[:4])}"
                )

    @property
    def loss(self) -> Loss | None:
        """The loss with weights, None without them."""
        return None if self.weights is None else Loss("cross_entropy", expression("self._loss"), None, "cross_entropy")

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the options bring."""
        values = {
            "freeze": list(self.freeze) or None,
            "unfreeze_every": self.unfreeze_every,
            "class_weights": self.weights,
        }
        return {
            name: Hyperparameter(name, ast.Name(type(value).__name__, ast.Load()), literal(value))
            for name, value in values.items()
            if value is not None
        }

    def start(self) -> list[ast.stmt]:
        """Return the statements that `__init__` begins with."""
        if self.weights is None:
            return []
        weights = "None" if self.weights == BALANCED else "torch.tensor(self.hparams.class_weights)"
        return snippet(f'self.register_buffer("loss_weights", {weights}, persistent=False)')

    def end(self) -> list[ast.stmt]:
        """Return the statements that `__init__` ends with."""
        if not self.freeze:
            return []
        return snippet(_FREEZE if self.unfreeze_every is None else _LAYERS)

    def methods(self) -> list[ast.FunctionDef]:
        """Return the methods that the options need."""
        functions = [method(_FROZEN)] if self.freeze else []
        functions += [method(_UNFREEZE), method(_LAYER)] if self.unfreeze_every is not None else []
        functions += [method(_LOSS)] if self.weights is not None else []
        return functions + ([method(_BALANCE)] if self.weights == BALANCED else [])


def _weights(class_weights: tuple[Any, ...]) -> Any:
    """Return the weights of the classes that an option gives.

    Raises:
        InputError: they are neither numbers nor ``balanced``.
    """
    if class_weights == (BALANCED,):
        return BALANCED
    try:
        return [float(value) for value in class_weights]
    except (TypeError, ValueError):
        shown = " ".join(map(str, class_weights))
        raise InputError(
            f"--class_weights takes {BALANCED} or a number for each class, such as 0.5 2; found {shown!r}"
        ) from None


def check_names(tree: ast.Module, namespace: Mapping[str, Any]) -> None:
    """Check the pretrained names that a cell loads by transformers, before it runs.

    Raises:
        InputError: one cannot be had.
    """
    for call in calls([tree], "from_pretrained"):
        assert isinstance(call.func, ast.Attribute)
        named = {item.arg: item.value for item in call.keywords}
        argument = call.args[0] if call.args else named.get("pretrained_model_name_or_path")
        if argument is None or not _is_of_transformers(call.func.value, tree, namespace):
            continue
        name = _text(argument, tree, namespace)
        role = _role(ast.unparse(call.func.value))
        if name is not None and role is not None:
            hub.check(name, role)


def _role(cls: str) -> hub.Role | None:
    """What a class of transformers loads, by its name; None where that cannot be told."""
    if "Tokenizer" in cls:
        return "tokenizer"
    if cls.endswith("Config"):
        return "configuration"
    return None if cls.endswith(("Processor", "Extractor")) else "model"


def check_trains(model: Any) -> None:
    """Check that patterns leave a model something to train.

    Raises:
        InputError: all is frozen.
    """
    patterns = getattr(model, "hparams", {}).get("freeze")
    if patterns and not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"--freeze {' '.join(map(str, patterns))} freezes all parameters, so nothing is left to train. Leave the "
            f"head or a layer unfrozen"
        )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it transformers neither draws a bar for each model that it loads, nor says anything but errors."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        yield
        return
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        with _without_bars(transformers):
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


@contextlib.contextmanager
def collect_new_weights() -> Iterator[list[str]]:
    """Within it transformers draws no bars either; what it reports of weights that it did not find is gathered.

    Yields:
        Their names, as they come; its other warnings are shown.
    """
    names: list[str] = []
    transformers = sys.modules.get("transformers")
    if transformers is None:
        yield names
        return

    def show(record: logging.LogRecord) -> bool:
        text = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())
        if "LOAD REPORT" not in text and "newly initialized: [" not in text:
            return True
        missing = re.findall(r"^(\S+) *\| *MIS(?:SING|MATCH)", text, re.MULTILINE)
        missing += re.findall(r"'([^']+)'", text.partition("newly initialized: [")[2].partition("]")[0])
        names.extend(name for name in missing if name not in names)  # of several handlers, each is asked
        return False

    handlers = logging.getLogger("transformers").handlers
    for handler in handlers:
        handler.addFilter(show)
    try:
        with _without_bars(transformers):
            yield names
    finally:
        for handler in handlers:
            handler.removeFilter(show)


@contextlib.contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Within it transformers draws no bars."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()


def new_weights_notice(names: Sequence[str]) -> str:
    """Say which weights of a model are new, in a line; nothing where all are pretrained."""
    if len(names) <= _SHOWN_WEIGHTS:
        return f"newly initialized weights (not in the checkpoint): {', '.join(names)}" if names else ""
    return (
        f"newly initialized weights (not in the checkpoint): {', '.join(names[:_SHOWN_WEIGHTS])} and "
        f"{len(names) - _SHOWN_WEIGHTS} more. Does the checkpoint belong to this model class?"
    )


def loads_pretrained_weights(code: Iterable[ast.AST]) -> bool:
    """Whether code loads something pretrained."""
    return bool(calls(code, "from_pretrained"))


def _is_of_transformers(code: ast.expr, tree: ast.Module, namespace: Mapping[str, Any]) -> bool:
    """Whether a class is one of transformers: the notebook's, or one that the cell imports."""
    first, *_ = ast.unparse(code).split(".")
    value = namespace.get(first)
    module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and first in [item.asname or item.name for item in node.names]:
            module = node.module or ""
        if isinstance(node, ast.Import) and first in [item.asname or item.name for item in node.names]:
            module = first
    return str(module).partition(".")[0] == "transformers"


def _text(code: ast.expr, tree: ast.Module, namespace: Mapping[str, Any]) -> str | None:
    """The text that an argument is, as far as that can be told before the cell runs."""
    if isinstance(code, ast.Constant):
        return code.value if isinstance(code.value, str) else None
    if isinstance(code, ast.Name):
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == code.id:
                return _text(node.value, tree, {}) if node.value is not None else None
        value = namespace.get(code.id)
        return value if isinstance(value, str) else None
    return None
