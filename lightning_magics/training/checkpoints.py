"""Writing checkpoints straight to their files; Lightning builds each of them in memory first."""

from __future__ import annotations

import copyreg
import importlib
import os
import pickle
from collections import defaultdict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import torch

from ..runs.folder import RunFolder
from .handover import make_layers, match_dtype
from .trust import vouch_for, with_plain_hyperparameters

_MOST_BYTES = 1 << 27  # of initial weights


def _defaultdict(value: defaultdict[Any, Any]) -> Any:
    return defaultdict, (value.default_factory, dict(value))


def _deque(value: deque[Any]) -> Any:
    return deque, (list(value), value.maxlen)


def _zone(value: ZoneInfo) -> Any:
    return (ZoneInfo, (value.key,)) if value.key is not None else value.__reduce__()


_ONE_CALL: dict[type, Any] = {defaultdict: _defaultdict, deque: _deque, ZoneInfo: _zone}


class _Pickler(pickle.Pickler):
    """Writes as one call each what pickle fills item by item, or gets by name, which torch refuses to load."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dispatch_table = {**copyreg.dispatch_table, **_ONE_CALL}


_PICKLES: Any = SimpleNamespace(__name__="pickle", Pickler=_Pickler)


def direct_io(package: str, folder: RunFolder | None = None) -> Any:
    """Make the CheckpointIO for a Trainer of a package: Lightning's own, but for how a local file is written.

    The file is the same, and is there whole or not at all. In a folder of a run that was removed, none is written.
    """
    fabric = "lightning_fabric" if package == "pytorch_lightning" else "lightning.fabric"
    base = importlib.import_module(f"{fabric}.plugins.io").TorchCheckpointIO

    def save_checkpoint(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if folder is not None and Path(path).is_relative_to(folder.path) and folder.is_removed():
            return
        if "://" in str(path) or storage_options is not None:
            base.save_checkpoint(self, checkpoint, path, storage_options)
        else:
            save(checkpoint, Path(path))

    return type("StraightCheckpointIO", (base,), {"save_checkpoint": save_checkpoint})()


def save_weights(model: Any, path: Path) -> None:
    """Save the weights that a fit begins with, for its rerun; none where they are large or unusual.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    weights = dict(model.state_dict())
    if all(map(_is_simple, weights.values())) and sum(item.nbytes for item in weights.values()) <= _MOST_BYTES:
        save(weights, path)


def _is_simple(value: Any) -> bool:
    """Whether a part of a model's state is a tensor with values of its own, which reading creates without trust."""
    is_tensor = isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value)
    return is_tensor and value.layout == torch.strided and value.device.type != "meta"


def load_weights(model: Any, path: Path) -> None:
    """Give a model the weights that `save_weights` saved.

    Raises:
        RuntimeError: they do not fit.
        Exception: it is another file.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    make_layers(model, weights)
    match_dtype(model, weights)
    model.load_state_dict(weights)


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Save to a file.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(with_plain_hyperparameters(checkpoint), file, pickle_module=_PICKLES)
        temporary.replace(path)
        vouch_for(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch's writer covers what it met
        if not isinstance(cause, OSError):
            raise
        cause.filename = cause.filename or str(path)
        raise cause from None
