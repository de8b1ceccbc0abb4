"""Which run the weights of a model come from, where it was not seen to train itself: of a copy, or one that was loaded.

What a model learned of its table is kept as an attribute of it, which goes into copies and pickles but neither into its
weights nor into its hyperparameters; weights that were put into another model are those of a checkpoint, or of a model
that is still there.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import LightningMagicsError
from ..runs import columns
from ..runs.folder import RunFolder
from . import trust
from .handover import KEY as IN_CHECKPOINT

_ATTRIBUTE = "_lightning_magics"
_MOST_CHECKPOINTS = 200
_SAMPLED = 32  # values of each tensor


@dataclass(frozen=True)
class Remembered:
    """What a model carries of its training.

    Attributes:
        table: what it learned of its table, None where it was trained on other data.
        is_unchanged: whether its weights are still those of that training.
        folder: of the run, None where it is not there any more.
    """

    table: columns.Table | None
    is_unchanged: bool
    folder: RunFolder | None


@dataclass
class Source:
    """Where the weights of a live model come from.

    Attributes:
        mark: of these weights.
        folder: of their run, None where none is known.
        reader: what makes sentences input, once it was made; see `sentences`.
        is_outdated: whether the run is the one that the model had earlier weights of.
    """

    mark: str
    folder: RunFolder | None = None
    reader: Any = None
    is_outdated: bool = False

    @property
    def path(self) -> Path | None:
        """Of the folder."""
        return self.folder.path.absolute() if self.folder is not None else None


def remember(model: Any, table: columns.Table | None, folder: RunFolder) -> None:
    """Let a model carry what it learned of its table, and its run: plain values, which load without this package."""
    run = None
    with contextlib.suppress(LightningMagicsError):
        run = [str(folder.path.absolute()), folder.read().started]
    values = {"table": None if table is None else asdict(table), "weights": mark(model.state_dict()), "run": run}
    vars(model)[_ATTRIBUTE] = values


def remembered(model: Any) -> Remembered | None:
    """What a model carries of its training; None of one that carries nothing."""
    known = getattr(model, "__dict__", {}).get(_ATTRIBUTE)
    if known is None:
        return None
    is_unchanged = known["weights"] == mark(model.state_dict())
    return Remembered(columns.of_dict(known["table"]), is_unchanged, _folder(known.get("run")))


def _folder(run: Any) -> RunFolder | None:
    """The folder of a run that a model carries, None where it is gone; its place may be another run's by now."""
    with contextlib.suppress(LightningMagicsError, TypeError, ValueError):
        path, started = run
        folder = RunFolder(path)
        return folder if folder.read().started == started else None
    return None


def read(path: Path, trusted: bool) -> Mapping[str, Any]:
    """Read a checkpoint, whose tensors stay on disk; nothing of one that cannot be read, which is said elsewhere.

    Args:
        path: of it.
        trusted: whether it may hold other objects than tensors, which reading creates.
    """
    try:
        with trust.harmless_allowed(None if trusted else path):
            state = torch.load(path, map_location="cpu", weights_only=not trusted, mmap=True)
    except Exception:  # a file that torch does not read
        return {}
    return state if isinstance(state, Mapping) else {}


def with_table(checkpoint: dict[str, Any], table: Mapping[str, Any]) -> None:
    """Put into a checkpoint what its fit learned of its table, as plain values: it goes where the file goes."""
    checkpoint[IN_CHECKPOINT] = {"table": table}


def table_in(checkpoint: Mapping[str, Any]) -> columns.Table | None:
    """What a fit learned of its table, of its checkpoint; None where that does not hold it."""
    beside = checkpoint.get(IN_CHECKPOINT)
    return columns.of_dict(beside.get("table")) if isinstance(beside, Mapping) else None


def find(
    weights: Mapping[str, Any], live: Iterable[tuple[RunFolder, Any]], folders: Iterable[RunFolder]
) -> RunFolder | None:
    """Find the run that weights come from, None if there is none.

    Args:
        weights: the model's, by name.
        live: runs, each with its model as it is now.
        folders: of other runs, the newest first.
    """
    for folder, model in live:
        if _are_of(model.state_dict(), weights):
            return folder
    paths = ((folder, path) for folder in folders for path in _checkpoints(folder))
    for folder, path in itertools.islice(paths, _MOST_CHECKPOINTS):
        if _are_of(read(path, trusted=False).get("state_dict"), weights):
            return folder
    return None


def _checkpoints(folder: RunFolder) -> Iterator[Path]:
    """The checkpoints of a run, also of one on tensors: its weights are not to be matched to an earlier table."""
    within = sorted(folder.checkpoints_path.rglob("*.ckpt"))
    yield from within
    with contextlib.suppress(LightningMagicsError):
        record = folder.read()
        others = {Path(path).absolute() for path in (record.best_model_path, *record.checkpoints) if path}
        yield from sorted(path for path in others - {path.absolute() for path in within} if path.is_file())


def _are_of(known: Any, weights: Mapping[str, Any]) -> bool:
    """Whether weights are those of a run, to the bit; a run may know some of them alone."""
    if not isinstance(known, Mapping) or not known or not known.keys() <= weights.keys():
        return False
    pairs = [(item, weights[name]) for name, item in known.items()]
    if not all(_is_tensor(one) and _is_tensor(other) and _kind(one) == _kind(other) for one, other in pairs):
        return False
    pairs.sort(key=lambda pair: int(pair[0].numel()))  # what differs is mostly seen in a bias
    return all(torch.equal(one.detach().cpu(), other.detach().cpu()) for one, other in pairs)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value)


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.layout, tensor.shape


def mark(weights: Mapping[str, Any]) -> str:
    """A hash of some values of each weight, which training and other weights change."""
    digest = hashlib.blake2b(digest_size=16)
    for name, item in weights.items():
        digest.update(f"{name} {_kind(item) if _is_tensor(item) else type(item)}".encode())
        with contextlib.suppress(Exception):  # a tensor of another kind, such as one that several ranks have parts of
            values = item.detach().reshape(-1)
            sampled = values[:: max(1, len(values) // _SAMPLED)].contiguous().cpu()
            digest.update(sampled.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
