"""Which run the weights of a model come from, and what that run learned of its table.

A trained model carries it as an attribute, which goes into copies and pickles but neither into its weights nor into its
hyperparameters. A checkpoint carries it beside Lightning's own. Weights copied into another model are identified by
comparing them with checkpoints and with models still in memory.
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
from ..runs.folder import RunFolder, folder_of
from . import trust
from .handover import KEY as IN_CHECKPOINT

_ATTRIBUTE = "_lightning_magics"
_MOST_CHECKPOINTS = 200
_MOST_OF_A_RUN = 20
_SAMPLED = 32  # values of each tensor


@dataclass
class Origin:
    """Where weights come from.

    Attributes:
        mark: of the weights, where they are those of a live model.
        table: what their run learned of its table, None where it was trained on other data, or is not known.
        folder: of the run, None where it is not known, or not there any more.
        reader: what makes sentences input, once it was made; see `sentences`.
        is_outdated: whether the model has other weights by now, which come from no run that is known.
        searched: the folder of runs in which no other run was found, empty if none was looked for.
    """

    mark: str = ""
    table: columns.TableSchema | None = None
    folder: RunFolder | None = None
    reader: Any = None
    is_outdated: bool = False
    searched: str = ""

    @property
    def is_known(self) -> bool:
        """Whether anything is known."""
        return self.table is not None or self.folder is not None or self.reader is not None


def carried_values(table: columns.TableSchema | None, folder: RunFolder) -> dict[str, Any]:
    """What models and checkpoints of a fit carry of it: plain values, which load without this package."""
    run = None
    with contextlib.suppress(LightningMagicsError):
        run = [str(folder.path.absolute()), folder.read().started]
    return {"table": None if table is None else asdict(table), "run": run}


def attach_origin(model: Any, table: columns.TableSchema | None, folder: RunFolder) -> Origin:
    """Let a model carry what it learned of its table, and its run."""
    origin = Origin(weights_mark(model), table, folder)
    vars(model)[_ATTRIBUTE] = {**carried_values(table, folder), "weights": origin.mark}
    return origin


def carried_origin(model: Any) -> Origin | None:
    """What a model carries of its last fit, after which its weights may have changed; None of one without."""
    values = getattr(model, "__dict__", {}).get(_ATTRIBUTE)
    if values is None:
        return None
    return Origin(values["weights"], columns.of_dict(values["table"]), _folder(values.get("run")))


def of_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> Origin:
    """Where the weights of a checkpoint come from: what it holds, else the run that it lies in.

    Args:
        checkpoint: what was read of it.
        path: of it.

    Raises:
        RunError: the folder of the run is damaged.
    """
    beside = checkpoint.get(IN_CHECKPOINT)
    if isinstance(beside, Mapping) and "table" in beside:
        folder = _folder(beside.get("run")) or folder_of(path)
        return Origin(table=columns.of_dict(beside["table"]), folder=folder)
    folder = folder_of(path)
    return Origin(table=columns.load_schema(folder) if folder is not None else None, folder=folder)


def _folder(run: Any) -> RunFolder | None:
    """The folder of a run that a model carries, None where it is gone; its place may be another run's by now."""
    with contextlib.suppress(LightningMagicsError, TypeError, ValueError):
        path, started = run
        folder = RunFolder(path)
        return folder if folder.read().started == started else None
    return None


def read_checkpoint(path: Path, trusted: bool) -> Mapping[str, Any]:
    """Read a checkpoint, whose tensors stay on disk; nothing of one that cannot be read, which is said elsewhere.

    Args:
        path: of it.
        trusted: whether it may hold other objects than tensors, which reading creates.
    """
    trusted = trusted or trust.is_own_with_objects(path)
    try:
        with trust.harmless_allowed(None if trusted else path):
            state = torch.load(path, map_location="cpu", weights_only=not trusted, mmap=True)
    except Exception:  # a file that torch does not read
        return {}
    return state if isinstance(state, Mapping) else {}


def find_origin(
    weights: Mapping[str, Any], live: Iterable[tuple[Origin, Any]], folders: Iterable[RunFolder]
) -> Origin | None:
    """Find the run that weights come from, None if there is none.

    Args:
        weights: the model's, by name.
        live: models of this session that still have the weights of a run, with where these come from.
        folders: of other runs, the newest first.

    Raises:
        RunError: the folder of the run is damaged.
    """
    for origin, model in live:
        if _is_of_run(model.state_dict(), weights):
            return origin
    paths = (path for folder in folders for path in itertools.islice(_checkpoints(folder), _MOST_OF_A_RUN))
    for path, folder in itertools.islice(paths, _MOST_CHECKPOINTS):
        checkpoint = read_checkpoint(path, trusted=False)
        if _is_of_run(checkpoint.get("state_dict"), weights):
            origin = of_checkpoint(checkpoint, path)
            return origin if origin.is_known else Origin(folder=folder)
    return None


def _checkpoints(folder: RunFolder) -> Iterator[tuple[Path, RunFolder]]:
    """The checkpoints of a run, the newest first, also of one on tensors: its weights have no earlier table."""
    within: list[Path] = []
    with contextlib.suppress(LightningMagicsError, OSError):  # a run whose files go meanwhile
        within = folder.all_checkpoints()[::-1]
        record = folder.read()
        others = {Path(path).absolute() for path in (record.best_model_path, *record.checkpoints) if path}
        within += sorted(path for path in others - {path.absolute() for path in within} if path.is_file())
    yield from ((path, folder) for path in within)


def _is_of_run(run_weights: Any, weights: Mapping[str, Any]) -> bool:
    """Whether weights are those of a run, to the bit; a run may know some of them alone."""
    if not isinstance(run_weights, Mapping) or not run_weights or not run_weights.keys() <= weights.keys():
        return False
    pairs = [(item, weights[name]) for name, item in run_weights.items() if _is_tensor(item)]
    if not pairs or not all(
        _is_tensor(weight) and _tensor_kind(run_weight) == _tensor_kind(weight) for run_weight, weight in pairs
    ):
        return False
    pairs.sort(key=lambda pair: int(pair[0].numel()))  # what differs is mostly seen in a bias
    return all(_equal_values(run_weight.detach().cpu(), weight.detach().cpu()) for run_weight, weight in pairs)


def _equal_values(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one kind have the same values, of which some may be NaN."""
    if first.layout != torch.strided:
        first, second = first.to_dense(), second.to_dense()
    return torch.equal(first, second) or bool(((first == second) | ((first != first) & (second != second))).all())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value)


def _tensor_kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.layout, tensor.shape


def weights_mark(model: Any) -> str:
    """A hash of some values of each weight, which training and other weights change.

    Of a model with parameters it is of these alone: a buffer may count the batches that a model has seen.
    """
    weights = dict(model.named_parameters()) or model.state_dict()
    digest = hashlib.blake2b(digest_size=16)
    for name, item in weights.items():
        digest.update(f"{name} {_tensor_kind(item) if _is_tensor(item) else type(item)}".encode())
        with contextlib.suppress(Exception):  # a tensor of another kind, such as one that several ranks have parts of
            values = item.detach().reshape(-1)
            sampled = values[:: max(1, len(values) // _SAMPLED)].contiguous().cpu()
            digest.update(sampled.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
