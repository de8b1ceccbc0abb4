"""Metrics from options: torchmetrics names, calls and objects become code that makes a collection.

The steps that use them are in `steps`; how a typed name is looked up is in `definitions/lookup`.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchmetrics

from ...errors import InputError
from ..generated import expression
from ..lookup import Library, Notebook, OptionValue, accepts, check_keywords, keywords, missing_arguments
from .losses import Loss, Task

_SHORT_NAMES = {
    "acc": "Accuracy",
    "f1": "F1Score",
    "auc": "AUROC",
    "ap": "AveragePrecision",
    "iou": "JaccardIndex",
    "mcc": "MatthewsCorrCoef",
    "kappa": "CohenKappa",
    "mae": "MeanAbsoluteError",
    "mse": "MeanSquaredError",
    "rmse": "MeanSquaredError",
    "mape": "MeanAbsolutePercentageError",
    "r2": "R2Score",
    "pearson": "PearsonCorrCoef",
    "spearman": "SpearmanCorrCoef",
}


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of a model.

    Attributes:
        entries: the dict from logged name to metric, as code that may read `output`.
        task: what the metrics compare, or None where the notebook's own metrics take the output as it is.
        by_output: whether the network's output tells the number of classes.
        one_output: whether one output for a sample is assumed, as the loss alone tells that there are two classes.
    """

    entries: ast.Dict
    task: Task | None
    by_output: bool
    one_output: bool


@dataclass(frozen=True)
class MetricOptions:
    """What the metrics of a model depend on.

    Attributes:
        loss: of the model, None for a transformers model's own.
        task: given by the user.
        num_classes: given by the user.
        ignore_index: class index that counts for nothing.
        own_task: of a transformers model's own loss.
    """

    loss: Loss | None
    task: str | None = None
    num_classes: int | None = None
    ignore_index: int | None = None
    own_task: Task | None = None


def find_metrics(metrics: tuple[Any, ...], options: MetricOptions, notebook: Notebook) -> ModelMetrics:
    """Return the metrics that an option asks for.

    Raises:
        InputError: there is none of that name, it gives no single number, or it does not fit the loss.
    """
    entries = ast.Dict([], [])
    classifies: dict[str, bool] = {}  # whether a metric's task is ours to tell
    task = cast("Task | None", options.task) or (options.loss.task if options.loss else options.own_task)
    for item in metrics:
        option = notebook.resolve("--metrics", item, _library(), "accuracy, f1, mae or an object of the notebook")
        if isinstance(option.value, type) and issubclass(option.value, torchmetrics.Metric):
            name = _logged_name(item if isinstance(item, str) else option.value.__name__, option.value)
            call = ast.Call(option.code, *_arguments(option))
            if option.call is None or _lacks_arguments(option.value, option.call):
                classifies[name] = _classifies(option.value)
                call, task = _complete_call(call, option, task, options, notebook)
            _add(entries, name, call)
        elif option.call is not None:
            whole = ast.Call(option.code, option.call.args, option.call.keywords)
            _add_object(entries, notebook.evaluate(ast.unparse(whole), "--metrics"), whole, option.text, item)
        else:
            _add_object(entries, option.value, option.code, option.text, item)
    if task is None and classifies:
        task = "multiclass" if any(classifies.values()) else "regression"
    by_output = any(
        isinstance(node, ast.Name) and node.id == "output" and not hasattr(node, "lineno") for node in ast.walk(entries)
    )
    entries.values = [notebook.on_instance(code) for code in entries.values]
    by_loss = options.loss is not None and options.loss.task == task == "binary" and not options.task
    return ModelMetrics(entries, task, by_output, by_loss and any(classifies.values()))


def _arguments(option: OptionValue) -> tuple[list[ast.expr], list[ast.keyword]]:
    """Return the arguments that were typed, and those that a short name stands for."""
    typed = option.call or ast.Call(option.code, [], [])
    more = [ast.keyword("squared", ast.Constant(False))] if option.text.lower() == "rmse" else []
    return typed.args, [*more, *typed.keywords]


def _complete_call(
    call: ast.Call, option: OptionValue, task: Task | None, options: MetricOptions, notebook: Notebook
) -> tuple[ast.Call, Task | None]:
    """Return the call of a metric with what it needs to know of the model, and the task that this tells.

    Raises:
        InputError: it gives no single number, or it does not fit the loss.
    """
    check_keywords(option, "--metrics")
    classes = options.num_classes or 10
    if _classifies(option.value):
        task = _task(option.text, option.value, task, options)
        call = _with_arguments(call, option.value, task, options)
        _check_scalar(call, option.text, task, classes, notebook)
        return call, task
    _check_scalar(call, option.text, "regression", classes, notebook)
    if task == "multiclass":
        raise InputError(
            f"--metrics {option.text} is for regression, but this model classifies. "
            f"Type --metrics accuracy, or --loss mse_loss"
        )
    return call, task


def _library() -> Library:
    names = {**vars(torchmetrics.classification), **vars(torchmetrics)}
    base = torchmetrics.Metric
    known = {
        name: value
        for name, value in names.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    return Library(known, {short: known[name] for short, name in _SHORT_NAMES.items()}, _is_metric)


def _is_metric(value: Any) -> bool:
    """Whether a value of the notebook is a metric, rather than a number of the same name."""
    metrics = (torchmetrics.Metric, torchmetrics.MetricCollection)
    return isinstance(value, metrics) or (isinstance(value, type) and issubclass(value, metrics))


def _logged_name(text: str, cls: type) -> str:
    """Return the name that a metric is logged under: as it was typed if that is a plain word, else the class's."""
    if re.fullmatch(r"[a-z][a-z0-9_-]*", text):
        return text.replace("-", "_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


def _add(entries: ast.Dict, name: str, code: ast.expr) -> None:
    known = {key.value for key in entries.keys if isinstance(key, ast.Constant)}
    if name in known:
        raise InputError(f"--metrics gives {name!r} twice. Leave one out, or pass an object with its own name")
    entries.keys.append(ast.Constant(name))
    entries.values.append(code)


def _add_object(entries: ast.Dict, value: Any, code: ast.expr, text: str, item: Any) -> None:
    """Add a metric, or all of a collection, that the notebook made."""
    if isinstance(value, torchmetrics.MetricCollection):
        entries.keys.append(None)
        copied = expression("{name: metric.clone() for name, metric in COLLECTION.items()}", COLLECTION=code)
        entries.values.append(copied)
    elif isinstance(value, torchmetrics.Metric):
        name = item if isinstance(item, str) and item.isidentifier() else _logged_name("", type(value))
        _add(entries, name, code if isinstance(code, ast.Call) else expression("METRIC.clone()", METRIC=code))
    else:
        raise InputError(
            f"--metrics {text} is of type {type(value).__name__}. Type a name of torchmetrics such as accuracy, "
            f"f1 or mae, or an object of the notebook that is a torchmetrics.Metric"
        )


def _classifies(cls: type) -> bool:
    """Whether a metric compares classes: it has a task, or is one of a task."""
    return _takes_task(cls) or cls.__module__.startswith("torchmetrics.classification")


def _takes_task(cls: type) -> bool:
    return "task" in inspect.signature(cls.__new__).parameters


def _lacks_arguments(cls: type, call: ast.Call) -> bool:
    """Whether a call leaves out what the model's output can tell."""
    if _takes_task(cls):
        return not call.args and "task" not in keywords(call)
    return bool(set(missing_arguments(cls, call, 0)) & {"num_classes", "num_labels"})


def _task(text: str, cls: type, task: Task | None, options: MetricOptions) -> Task:
    """Return the kind of classification that a metric is for."""
    own = next((kind for kind in ("Multiclass", "Multilabel", "Binary") if cls.__name__.startswith(kind)), None)
    if own is not None:
        return own.lower()  # type: ignore[return-value]
    if task == "regression":
        compares = f"--loss {options.loss.text}" if options.loss else "the model's own loss"
        raise InputError(
            f"--metrics {text} is for classification, but {compares} is for regression. "
            f"Type --metrics mae, or set the task: --task multiclass"
        )
    return task or "multiclass"


def _with_arguments(call: ast.Call, cls: type, task: Task | None, options: MetricOptions) -> ast.Call:
    """Put in what a metric needs to know of the model."""
    typed = keywords(call)
    more: dict[str, ast.expr] = {}
    classes = ast.Constant(options.num_classes) if options.num_classes else expression("output.shape[1]")
    if _takes_task(cls):
        more["task"] = ast.Constant(task)
    if task == "multiclass" and (_takes_task(cls) or accepts(cls, "num_classes")):
        more["num_classes"] = classes
        if options.ignore_index is not None:
            more["ignore_index"] = ast.Constant(options.ignore_index)
    if task != "binary" and _takes_task(cls) and "average" in inspect.signature(cls.__new__).parameters:
        # torchmetrics' own default, micro, makes F1, precision and recall the same number as accuracy.
        more["average"] = ast.Constant("micro" if cls.__name__ == "Accuracy" else "macro")
    if task == "multilabel" and (_takes_task(cls) or accepts(cls, "num_labels")):
        more["num_labels"] = classes
    added = [ast.keyword(name, code) for name, code in more.items() if name not in typed]
    return ast.Call(call.func, call.args, [*added, *call.keywords])


def _check_scalar(call: ast.Call, text: str, task: Task | None, classes: int, notebook: Notebook) -> None:
    """Raise InputError unless a metric gives one number for an output and a target."""
    scores = torch.eye(classes) * 0.8 + 0.1
    samples: dict[Task | None, tuple[torch.Tensor, torch.Tensor]] = {
        "multiclass": (scores, torch.arange(classes)),
        "binary": (torch.tensor([0.2, 0.7, 0.6, 0.1]), torch.tensor([0, 1, 0, 1])),
        "multilabel": (scores, torch.eye(classes).long()),
    }
    numbers = (torch.tensor([1.0, 2.5, 3.0, 4.0]), torch.tensor([1.5, 2.0, 3.5, 5.0]))
    output, target = samples.get(task, numbers)
    scope = {**notebook.namespace, **notebook.hyperparameters, "torchmetrics": torchmetrics, "torch": torch}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics warns of what a few samples lack
            metric = eval(ast.unparse(call), {**scope, "output": output})
            metric.update(output, target)
            value = metric.compute()
    except Exception as error:  # torchmetrics says by any kind of error what it lacks
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"--metrics {text} cannot be computed from output and target: {reason}") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise InputError(
            f"--metrics {text} does not return a single number, so it cannot be logged. "
            f"Type one that does, such as accuracy, f1 or mae"
        )
