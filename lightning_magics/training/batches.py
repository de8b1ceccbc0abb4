"""Batches as a user reads them in a message, and predictions joined from the outputs for each.

Nothing is loaded or moved here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch

from ..formats import first_few

_TARGETS = {"labels", "label", "target", "targets", "y"}


def describe(value: Any) -> str:
    """Shape and type of a batch, in a line: ``(float32 (64, 1, 8, 8), int64 (64,))``."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple):
        inner = first_few(map(describe, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return type(value).__name__


def joined(batches: list[Any]) -> Any:
    """Join the outputs of predict's batches along the batch axis, in input order; a list where that has no meaning."""
    if not batches:
        return batches
    first = batches[0]
    if all(isinstance(batch, torch.Tensor) and batch.ndim for batch in batches):
        same = len({batch.shape[1:] for batch in batches}) == 1
        return torch.cat(batches) if same else batches
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(list(parts)) for parts in zip(*batches, strict=True))
    return batches


def named_inputs(forward: Callable[..., Any], batch: Any) -> dict[str, Any] | None:
    """The parts of a batch that a forward takes by name; None where it takes the batch as it is.

    A target is left out, unless forward cannot do without.
    """
    if not isinstance(batch, Mapping):
        return None
    parameters = inspect.signature(forward).parameters.values()
    by_name = [item for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    required = {item.name for item in by_name if item.default is item.empty}
    present = {item.name for item in by_name} & batch.keys()
    if not present or not required <= present or any(item.kind is item.POSITIONAL_ONLY for item in parameters):
        return None
    accepted = batch.keys() if any(item.kind is item.VAR_KEYWORD for item in parameters) else present
    return {name: value for name, value in batch.items() if name in required or name in accepted - _TARGETS}


def input_conversions(model: Any, batch: Any) -> str:
    """What the generated steps of a model change in a batch before they use it, in a sentence; empty for nothing.

    Args:
        model: LightningModule instance.
        batch: a batch of ``(*inputs, target)``, or by name.
    """
    labels = ("labels", "label", "target", "targets", "y")
    inputs: list[Any] = []
    named: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if name not in labels}
        target = next((batch[name] for name in labels if name in batch), None)
    else:
        parts = list(batch) if isinstance(batch, list | tuple) else [batch]
        inputs, target = (parts[:-1], parts[-1]) if len(parts) > 1 else (parts, None)
    conversions = []
    inputs, named = (
        [_without_samples(value) for value in inputs],
        {name: _without_samples(value) for name, value in named.items()},
    )
    converted_inputs, converted_named = converted(model, inputs, named)
    for value, result in zip((*inputs, *named.values()), (*converted_inputs, *converted_named.values()), strict=True):
        if result is not value and result.dtype != value.dtype:
            scaled = " without scaling (0 to 255)" if value.dtype == torch.uint8 else ""
            conversions.append(f"{_dtype_text(value)} inputs are converted to {_dtype_text(result)}{scaled}")
    if hasattr(model, "_class_labels") and isinstance(target, torch.Tensor):
        if target.dtype not in (torch.int64, torch.uint8) and target.ndim == 1:
            conversions.append(f"{_dtype_text(target)} labels are converted to class indices")
        elif target.ndim == 2 and target.shape[1] == 1:
            conversions.append(
                f"labels of shape {tuple(target.shape)} are reshaped to ({len(target)},), one class per sample"
            )
        elif target.ndim == 2 and not target.is_floating_point():
            conversions.append(f"labels of shape {tuple(target.shape)} are converted to class probabilities")
        elif _is_of_another_type(target, model):
            conversions.append(f"{_dtype_text(target)} labels are converted to {_dtype_name(_compute_dtype(model))}")
    elif hasattr(model, "_float_target") and _is_of_another_type(target, model):
        conversions.append(f"{_dtype_text(target)} targets are converted to {_dtype_name(_compute_dtype(model))}")
    return "; ".join(dict.fromkeys(conversions))


def converted(model: Any, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs of a batch as the generated steps of a model pass them on, by position and by name."""
    if (convert_all := getattr(model, "_inputs", None)) is not None:
        inputs, named = convert_all(inputs, named)
    elif (convert := getattr(model, "_input", None)) is not None:
        inputs, named = [convert(value) for value in inputs], {name: convert(value) for name, value in named.items()}
    return tuple(inputs), dict(named)


def _without_samples(value: Any) -> Any:
    """No sample of a tensor, which costs nothing to convert."""
    return value[:0] if isinstance(value, torch.Tensor) and value.ndim else value


def _compute_dtype(model: Any) -> torch.dtype:
    """The type that a model computes in."""
    types = (item.dtype for item in model.parameters() if item.dtype.is_floating_point)
    return torch.promote_types(model.dtype, next(types, model.dtype))


def _is_of_another_type(target: Any, model: Any) -> TypeGuard[torch.Tensor]:
    """Whether a target holds floats of another type than a model computes in."""
    return isinstance(target, torch.Tensor) and target.is_floating_point() and target.dtype != _compute_dtype(model)


def _dtype_text(value: torch.Tensor) -> str:
    return _dtype_name(value.dtype)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
