"""Labels that are not among the classes of a model's outputs, found before torch fails on them.

On a GPU, that failure ends every later computation of the process. Only generated steps are looked at, whose loss
compares outputs with class indices.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..formats import first_few
from ..runs.randomness import preserve_random_state
from .batches import converted

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def checks_labels(model: Any, stage: str) -> bool:
    """Whether the labels of a stage reach the loss of a model's generated steps as the data has them.

    Args:
        model: LightningModule instance.
        stage: train, val or test.
    """
    step = getattr(type(model), {"train": "training", "val": "validation"}.get(stage, stage) + "_step")
    calls = getattr(getattr(step, "__code__", None), "co_names", ())
    module = type(model).__module__
    changes = any(getattr(type(model), name).__module__ == module for name in _HOOKS)
    return hasattr(model, "_class_labels") and hasattr(model, "_input") and "_step" in calls and not changes


def label_problem(model: Any, batch: Any, what: str, name: str, classes: Sequence[str] = ()) -> str:
    """Say which labels of a batch are not among the classes of a model's outputs, in a line; empty for none.

    Args:
        model: LightningModule instance.
        batch: ``(*inputs, labels)``, or by name.
        what: the data is called.
        name: of the model.
        classes: names of the classes, if they have any.
    """
    try:
        inputs, named, labels = model._unpack(batch)
    except TypeError:
        return ""  # which the step says
    if not isinstance(labels, torch.Tensor) or not labels.numel() or labels.is_complex():
        return ""
    outputs = _outputs(model, inputs, named)
    if outputs is None or outputs.ndim < 2 or (labels.ndim == outputs.ndim and labels.shape[1] != 1):
        return ""  # unknown, or a probability for each class
    count = outputs.shape[1]
    if int(labels.min()) >= 0 and int(labels.max()) < count:
        return ""
    numbers, counts = (item.tolist() for item in torch.unique(labels, return_counts=True))
    invalid = [(int(number), times) for number, times in zip(numbers, counts, strict=True) if not 0 <= number < count]
    invalid = [pair for pair in invalid if not _is_accepted(model, pair[0], count)]
    if not invalid:
        return ""
    if classes:
        return (
            f"{what} has {len(classes)} classes ({first_few(classes)}), but {name} has {count} outputs. "
            f"Give the network {len(classes)} outputs"
        )
    listed = first_few((f"{number} ({times:,} of {labels.numel():,})" for number, times in invalid), 4)
    lowest, highest = invalid[0][0], invalid[-1][0]
    remedy = f"Give the network {highest + 1} outputs, or number the classes from 0"
    if lowest < 0:
        remedy = (
            f"Number the classes from 0, or leave these samples out of the loss: "
            f'--loss "CrossEntropyLoss(ignore_index={lowest})"'
        )
    return f"the labels of {what} contain {listed}, but {name} has {count} outputs (classes 0 to {count - 1}). {remedy}"


def label_batch(tensors: Sequence[torch.Tensor], places: Any) -> tuple[torch.Tensor, ...]:
    """A batch of the inputs of one sample, and the labels of all that are chosen by their places; empty without any."""
    if len(tensors) < 2 or not len(tensors[0]):
        return ()
    *inputs, labels = tensors
    return (*(item[:1] for item in inputs), labels[places])


def _outputs(model: Any, inputs: Sequence[Any], named: Mapping[str, Any]) -> torch.Tensor | None:
    """The outputs of a model without their values; None where that cannot be told. Nothing is computed or changed."""
    if any(item._forward_hooks or item._forward_pre_hooks for item in model.modules()):
        return None  # which may keep what they see
    empty: dict[int, Any] = {}
    try:
        for item in (*model.parameters(), *model.buffers()):
            values = torch.empty_like(item, device="meta")
            is_parameter = isinstance(item, torch.nn.Parameter)
            empty[id(item)] = torch.nn.Parameter(values, requires_grad=False) if is_parameter else values
        inputs, named = converted(
            model, [_on_meta(item) for item in inputs], {k: _on_meta(v) for k, v in named.items()}
        )
        shadow = copy.deepcopy(model, empty).eval()
        quiet = contextlib.redirect_stdout(io.StringIO())
        with torch.no_grad(), torch.device("meta"), preserve_random_state(), quiet:
            outputs = shadow(*inputs, **named)
    except Exception:  # whatever the user's code does with tensors that have no values
        return None
    return outputs if isinstance(outputs, torch.Tensor) else None


def _on_meta(value: Any) -> Any:
    """A tensor without its values; anything else as it is."""
    return torch.empty_like(value, device="meta") if isinstance(value, torch.Tensor) else value


def _is_accepted(model: Any, label: int, outputs: int) -> bool:
    """Whether the loss of generated steps takes a label, such as one to ignore; also where it cannot be tried."""
    try:
        step = type(model)._step
        tree = ast.parse(textwrap.dedent(inspect.getsource(step)))
        call = next(
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "loss"
        )
        code = compile(ast.Expression(call), "<loss>", "eval")
        values = {"self": model, "output": torch.zeros(1, outputs, dtype=model.dtype)}
        eval(code, step.__globals__, {**values, "target": torch.tensor([0])})
    except Exception:  # the user's loss, or a step whose source is not there
        return True
    try:
        eval(code, step.__globals__, {**values, "target": torch.tensor([label])})
    except Exception:
        return False
    return True
