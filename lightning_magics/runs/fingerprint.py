"""What data is, at a glance: enough to see that two runs had different data, and cheap for data of any size.

Nothing of the user's is called: samples are never asked for, only tensors that are in memory are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

_MAX_VALUES = 4096  # that are looked at of each tensor, spread over it
_MAX_PARTS = 64  # datasets within a dataset


def fingerprints(trainer: Any) -> dict[str, str]:
    """Describe a fit that has begun: its data ``train`` and, where it is known by then, ``val``, and ``weights``."""
    loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    descriptions = {}
    with contextlib.suppress(Exception):  # of a dataset of the user's: a fit does not fail for this
        descriptions = {name: of_loaders(item) for name, item in loaders.items() if item is not None}
    with contextlib.suppress(Exception):  # of weights in parts, such as FSDP's
        descriptions["weights"] = of_weights(list(trainer.lightning_module.parameters()))
    return descriptions


def of_weights(weights: list[torch.Tensor]) -> str:
    """Describe weights: a hash of values of some of them."""
    digest = hashlib.sha256()
    for tensor in weights[:: max(1, len(weights) // _MAX_PARTS)]:
        _add_tensor(tensor, digest)
    return digest.hexdigest()[:12]


def of_loaders(loaders: Any) -> str:
    """Describe what dataloaders are over, in whatever they are collected."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return " + ".join(of_loaders(item) for item in loaders)
    return describe(getattr(loaders, "dataset", loaders))


def of_values(data: Any) -> str:
    """Describe data as a cell gives it: a hash of values in memory, also of arrays, of tables and of collections."""
    digest = hashlib.sha256()
    pending = [data]
    for _ in range(_MAX_PARTS):
        if not pending:
            break
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, tuple | list):
            pending += value[:_MAX_PARTS]
        elif hasattr(value, "iloc"):
            rows = value.iloc[:: max(1, len(value) // 64)]
            digest.update(f"{value.shape} {rows.to_numpy().tolist()}".encode())
        elif isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
            rows = value[:: max(1, len(value) // 64)] if value.ndim else value
            digest.update(
                f"{value.shape} {value.dtype}".encode()
                + (repr(rows.tolist()).encode() if value.dtype.hasobject else rows.tobytes())
            )
        else:
            _add(value, digest, [_MAX_PARTS])
    return digest.hexdigest()[:12]


def describe(dataset: Any) -> str:
    """Describe a dataset, as ``1,438 of TensorDataset, 9f86d081``: its length, type, and a hash of values in memory."""
    digest = hashlib.sha256()
    hashed = _add(dataset, digest, [_MAX_PARTS])
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    length = ""
    if not isinstance(dataset, torch.utils.data.IterableDataset):
        with contextlib.suppress(Exception):  # of the user's own
            length = f"{len(dataset):,} of "
    return f"{length}{type(inner).__name__}" + (f", {digest.hexdigest()[:12]}" if hashed else "")


def _add(value: Any, digest: Any, budget: list[int]) -> bool:
    """Add to a hash what is in memory; returns whether there was something."""
    budget[0] -= 1
    if budget[0] < 0:
        return False
    if isinstance(value, torch.Tensor):
        return _add_tensor(value, digest)
    if isinstance(value, np.memmap):
        digest.update(repr(value.shape).encode())  # what is read of a file are rows, as of a tensor
        step = max(1, len(value) // (_MAX_VALUES if value.ndim == 1 else 64))
        return _add_tensor(torch.from_numpy(np.array(value[::step])), digest)
    if isinstance(value, Subset):
        indices = value.indices
        step = max(1, len(indices) // _MAX_VALUES)
        digest.update(repr([int(item) for item in indices[::step]]).encode())
        return _add(value.dataset, digest, budget)
    parts: list[Any] = []
    if isinstance(value, TensorDataset):
        parts = list(value.tensors)
    elif isinstance(value, ConcatDataset):
        parts = list(value.datasets)
    elif isinstance(value, StackDataset):
        parts = list(value.datasets.values() if isinstance(value.datasets, dict) else value.datasets)
    elif isinstance(value, Dataset):
        attributes = vars(value).values()
        parts = [item for part in attributes for item in (part if isinstance(part, tuple | list) else [part])][
            :_MAX_PARTS
        ]
        parts = [part for part in parts if isinstance(part, torch.Tensor | np.memmap)]
    return any([_add(part, digest, budget) for part in parts])  # noqa: C419 -- each of them is to be added


def _add_tensor(tensor: torch.Tensor, digest: Any) -> bool:
    digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        return True
    values = tensor.detach()
    # Of a large tensor rows, then values of a row, each as far apart as leaves enough of them.
    while values.dim() > 1 and values.numel() > _MAX_VALUES:
        values = values[:: max(1, len(values) // 64)].flatten(1)
        if values.numel() > _MAX_VALUES:
            values = values[:, :: max(1, values.shape[1] // 64)]
        values = values.reshape(-1)
    values = values.reshape(-1)
    values = values[:: max(1, len(values) // _MAX_VALUES)] if values.numel() > _MAX_VALUES else values
    digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return True
