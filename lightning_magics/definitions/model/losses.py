"""Losses from options: what is called, what it is made of, and what it is for.

The steps that use them are in `steps`; how a typed name is looked up is in `definitions/lookup`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from ...errors import InputError
from ..generated import expression
from ..lookup import Library, Notebook, OptionValue, check_keywords, missing_arguments

Task = Literal["multiclass", "binary", "multilabel", "regression"]

_TASKS: dict[str, Task] = {
    "cross_entropy": "multiclass",
    "nll_loss": "multiclass",
    "multi_margin_loss": "multiclass",
    "binary_cross_entropy": "binary",
    "binary_cross_entropy_with_logits": "binary",
    "multilabel_soft_margin_loss": "multilabel",
    "mse_loss": "regression",
    "l1_loss": "regression",
    "smooth_l1_loss": "regression",
    "huber_loss": "regression",
    "poisson_nll_loss": "regression",
}
_CLASSES = {
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "PoissonNLLLoss": "poisson_nll_loss",
}
_SHORT = {"bce": "binary_cross_entropy", "ce": "cross_entropy", "nll": "nll_loss", "mse": "mse_loss", "l1": "l1_loss"}


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        text: how it is shown.
        call: what is called with output and target.
        factory: what `self.loss` is made of, where the loss has a state or is made by a call.
        kind: name in torch.nn.functional of what it computes, empty if that is unknown.
    """

    text: str
    call: ast.expr
    factory: ast.expr | None = None
    kind: str = ""

    @property
    def task(self) -> Task | None:
        """What the loss is for, where that is known."""
        return _TASKS.get(self.kind)


def regression_loss(model: Any) -> str:
    """Return the loss of a model's generated steps if it compares numbers, empty for any other.

    Args:
        model: LightningModule instance.
    """
    instance_kind = _kind(model.loss) if isinstance(getattr(model, "loss", None), torch.nn.Module) else ""
    try:
        called = re.findall(r"^\s*loss = (?:\w+\.)*(\w+)\(output, target", inspect.getsource(type(model)._step), re.M)
    except (AttributeError, OSError, TypeError):
        return ""
    names = [instance_kind if name == "loss" else name for name in called]
    return next((name for name in names if _TASKS.get(name) == "regression"), "")


def find_loss(loss: Any, notebook: Notebook) -> Loss:
    """Return the loss that an option asks for.

    Raises:
        InputError: there is none of that name, or it needs more than output and target.
    """
    option = notebook.resolve("--loss", loss, _library(), "cross_entropy, mse_loss or a function of the notebook")
    value, code = option.value, option.code
    if option.call is not None:
        check_keywords(option, "--loss")
        call = ast.Call(code, option.call.args, option.call.keywords)
        instance = notebook.evaluate(ast.unparse(call), "--loss")
        if not callable(instance):
            raise InputError(
                f"--loss {option.text} gives a value of type {type(instance).__name__}; "
                f"a loss is called with output and target"
            )
        return Loss(option.text, expression("self.loss"), call, _kind(instance))
    if isinstance(value, type):
        return _class_loss(option)
    if isinstance(value, torch.nn.Module):
        return Loss(option.text, expression("self.loss"), expression("deepcopy(LOSS)", LOSS=code), _kind(value))
    if not callable(value):
        raise InputError(
            f"--loss {option.text} is of type {type(value).__name__}; a loss is called with output and target. "
            f"Type --loss cross_entropy, --loss mse_loss or a function of the notebook"
        )
    missing = missing_arguments(value, None, 2)
    if missing:
        raise InputError(
            f"--loss {option.text} needs more than output and target: {', '.join(missing)}. "
            f"Write a function loss(output, target), or training_step in the cell"
        )
    return Loss(option.text, notebook.on_instance(code), None, _kind(value))


def _library() -> Library:
    functions = {
        name: value
        for name, value in vars(F).items()
        if callable(value) and (name.endswith(("loss", "cross_entropy", "_with_logits")) or name == "kl_div")
    }
    classes = {name: value for name, value in vars(torch.nn).items() if name.endswith("Loss")}
    return Library({**functions, **classes}, {name: functions[full] for name, full in _SHORT.items()})


def _class_loss(option: OptionValue) -> Loss:
    """Return the loss of a class, made without arguments; InputError if it cannot be."""
    missing = missing_arguments(option.value, None, 0) if issubclass(option.value, torch.nn.Module) else []
    if missing or not issubclass(option.value, torch.nn.Module):
        typing = ", ".join(f"{name}=..." for name in missing)
        raise InputError(f'--loss {option.text} is a class. Type an instance of it: --loss "{option.text}({typing})"')
    return Loss(option.text, expression("self.loss"), ast.Call(option.code, [], []), _kind(option.value()))


def _kind(value: Any) -> str:
    """Return the name in torch.nn.functional of what a loss computes, or an empty string."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, torch.nn.Module):
        return next((_CLASSES[base.__name__] for base in type(value).__mro__ if base.__name__ in _CLASSES), "")
    name = getattr(value, "__name__", "")
    return name if getattr(F, name, None) is value else ""
