"""Batches as a user reads them in a message, and predictions joined from the outputs for each.

Nothing is loaded or moved here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def describe(value: Any) -> str:
    """Shape and type of a batch, in a line: ``(float32 (64, 1, 8, 8), int64 (64,))``."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(describe(item) for item in value[:8]) + (", …" if len(value) > 8 else "")
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
