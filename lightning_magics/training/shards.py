"""Predictions by several ranks: each takes whole batches, in turn, and their outputs are put back in order.

Lightning's own way hands out samples, which gives other batches than one device sees.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import itertools
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from ..errors import InputError
from .job import Job
from .trainer import bridged

_END = object()


def job_of_rank(job: Job, rank: int, world: int) -> Job:
    """Return a predict's job as one of its ranks runs it: with its share of the batches.

    The job's data module or model is changed in place: its ``predict_dataloader`` returns the share from then on.
    """
    limit = int(job.trainer.get("fast_dev_run") or 0) or job.trainer.get("limit_predict_batches")
    share = functools.partial(sharded, rank=rank, world=world, limit=limit, package=job.package)
    trainer = dict(job.trainer)
    if isinstance(limit, float):  # of the whole run's batches; Trainer's would be of the rank's
        trainer["limit_predict_batches"] = 1.0
    if job.loaders:
        return dataclasses.replace(job, trainer=trainer, loaders=(share(job.evaluation_loaders),))
    owner = job.model if job.datamodule is None else bridged(job.datamodule, job.package)
    is_overridden = importlib.import_module(f"{job.package}.utilities.model_helpers").is_overridden
    if is_overridden("predict_dataloader", owner):
        make = owner.predict_dataloader
        owner.predict_dataloader = functools.wraps(make)(lambda: share(make()))
    return dataclasses.replace(job, trainer=trainer, datamodule=owner if job.datamodule is not None else None)


def sharded(loaders: Any, rank: int, world: int, limit: float | None = None, package: str = "pytorch_lightning") -> Any:
    """Return what ``predict_dataloader`` returned with a rank's batches alone: batch b is rank b % world's.

    Batches are those of one device. Where the dataset is map-style, a rank loads its own alone. Other loaders and
    iterables are read whole by every rank, and have to give all of them the same: a dataset that divides itself by
    rank would be divided twice.

    Args:
        loaders: a loader, or a collection of them as Lightning takes it; left as it is.
        rank: from 0.
        world: number of ranks.
        limit: ``limit_predict_batches`` of the whole run: batches of each loader, or a fraction of them.
        package: Lightning package of the Trainer that predicts.

    Raises:
        InputError: a loader is divided among ranks already, or the limit does not fit it.
    """
    from pytorch_lightning.utilities import CombinedLoader  # the other package's is the same code

    is_combined = hasattr(loaders, "flattened")
    combined = copy.copy(loaders) if is_combined else CombinedLoader(loaders, "sequential")
    indexed = importlib.import_module(f"{package}.overrides.distributed")._IndexBatchSamplerWrapper
    combined.flattened = [_Shard(item, rank, world, limit, indexed) for item in combined.flattened]
    return combined if is_combined else combined.iterables


def merged(parts: Sequence[Any], *, several: bool, cut_short: bool = False) -> Any:
    """Return what one device's ``Trainer.predict`` would have returned.

    Args:
        parts: what each rank's returned, by rank.
        several: whether there are several dataloaders, that is, a list of batch outputs for each.
        cut_short: whether ranks were stopped, each where it was: batches after the first gap are left out.

    Raises:
        InputError: the ranks did not read the same data.
    """
    if all(part is None for part in parts):
        return None
    if not several:
        return _interleaved([part or [] for part in parts], cut_short)
    count = max(len(part or []) for part in parts)
    return [_interleaved([part[place] if part else [] for part in parts], cut_short) for place in range(count)]


def _interleaved(parts: list[list[Any]], cut_short: bool) -> list[Any]:
    total, world = sum(map(len, parts)), len(parts)
    if cut_short:
        total = min(len(part) * world + rank for rank, part in enumerate(parts))
        parts = [part[: len(range(rank, total, world))] for rank, part in enumerate(parts)]
    if any(len(part) != len(range(rank, total, world)) for rank, part in enumerate(parts)):
        counts = ", ".join(str(len(part)) for part in parts)
        raise InputError(
            f"the processes predicted {counts} batches, which cannot be put in input order: the data must be the same "
            "in each process. Remove code that splits it by rank, or type --devices 1"
        )
    return [parts[batch % world][batch // world] for batch in range(total)]


class _Shard:
    """A loader's batches for one rank. No DataLoader, so that Lightning leaves its sampling alone.

    Attributes:
        dataset: the loader's, if it has one.
        batch_sampler: what tells Lightning the samples of each batch, for a prediction writer; None if nothing does.
    """

    def __init__(self, loader: Any, rank: int, world: int, limit: float | None, indexed: Any) -> None:
        self._loader = _undivided(loader) if isinstance(loader, DataLoader) else loader
        length = _length(self._loader)
        self._stop = _limited(length, limit)
        self._is_sized = length is not None
        self._rank, self._world = rank, world
        self._indexed = indexed  # Lightning's class
        self.batch_sampler: Any = None
        if hasattr(loader, "dataset"):
            self.dataset = loader.dataset

    def __len__(self) -> int:
        # Lightning refuses a rank without batches by its length, and hangs if not all ranks tell theirs.
        if not self._is_sized or self._stop is None or 0 < self._stop < self._world:
            raise TypeError("not every rank has batches, or their number is not known")
        return len(range(self._rank, self._stop, self._world))

    def __iter__(self) -> Iterator[Any]:
        # Begins at the first batch: Lightning asks for an iterator beforehand, and workers would be started twice.
        draws = contextlib.nullcontext() if _is_in_order(self._loader) else _SharedRandomness()
        with draws:
            batches = iter(self._own_batches())
        while True:
            with draws:
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch

    def _own_batches(self) -> Iterable[Any]:
        place = (self._rank, self._stop, self._world)
        loader = self._loader
        sampler = loader.batch_sampler if isinstance(loader, DataLoader) else None
        if not _is_sliceable(loader):
            if sampler is not None and not isinstance(loader.dataset, IterableDataset):  # its ``__iter__`` may ask it
                whole = self._indexed(sampler)
                self.batch_sampler = _own_indices(self._indexed, whole, slice(*place))
                loader = _changed(loader, batch_sampler=whole)
            return itertools.islice(loader, *place)
        if sampler is None:
            return cast(Iterable[Any], _changed(loader, sampler=_Slice(loader.sampler, *place)))
        self.batch_sampler = self._indexed(_Slice(sampler, *place))
        return cast(Iterable[Any], _changed(loader, batch_sampler=self.batch_sampler))


def _own_indices(base: Any, whole: Any, own: slice) -> Any:
    """Make an object of Lightning's class that tells of the batches of a whole sampler a rank's own."""
    cls: Any = type("OwnIndices", (base,), {"seen_batch_indices": property(lambda _: whole.seen_batch_indices[own])})
    return cls.__new__(cls)


class _Slice:
    """A rank's items of a sampler or batch sampler."""

    def __init__(self, sampler: Any, rank: int, stop: int | None, world: int) -> None:
        self._sampler = sampler
        self._place = (rank, stop, world)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._sampler, *self._place)


class _SharedRandomness:
    """Random numbers that every rank draws alike within it, apart from those drawn outside: one order for all."""

    def __init__(self) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        self._others = _random_state()
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        self._swap()

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *raised: object) -> None:
        self._swap()

    def _swap(self) -> None:
        current = _random_state()
        python, numpy, tensors = self._others
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(tensors)
        self._others = current


def _random_state() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _undivided(loader: Any) -> Any:
    """The loader as Lightning predicts by it: with the last batch, be it smaller.

    Raises:
        InputError: it has a sampler that divides the samples among ranks.
    """
    batch_sampler = loader.batch_sampler
    for sampler in (loader.sampler, getattr(batch_sampler, "sampler", None)):
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise InputError(
                "%lightning_predict splits the batches across its processes, but the data has a DistributedSampler, "
                "which splits the samples too. Create its DataLoader without a sampler"
            )
    if isinstance(loader.dataset, IterableDataset) or not getattr(batch_sampler, "drop_last", False):
        return loader
    batch_sampler = copy.copy(batch_sampler)
    batch_sampler.drop_last = False
    return _changed(loader, batch_sampler=batch_sampler, drop_last=False)


def _changed(loader: Any, **attributes: Any) -> Any:
    """A copy of a DataLoader with other attributes, which cannot be set; its workers are its own, for one pass."""
    copied = copy.copy(loader)
    vars(copied).update(attributes, _iterator=None, persistent_workers=False)
    return copied


def _is_sliceable(loader: Any) -> bool:
    """Whether a loader loads what its sampler says; a class with an ``__iter__`` of its own need not."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    return type(loader).__iter__ is DataLoader.__iter__


def _is_in_order(loader: Any) -> bool:
    if not _is_sliceable(loader):
        return False
    return type(loader.sampler) is SequentialSampler and type(loader.batch_sampler) in (BatchSampler, type(None))


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _limited(length: int | None, limit: float | None) -> int | None:
    """The number of batches of the whole run, None where it is not known; as Lightning reads the limit."""
    if limit is None or (isinstance(limit, float) and limit == 1):
        return length
    if isinstance(limit, int):
        return limit if length is None else min(length, limit)
    if length is None:
        raise InputError(
            f"--limit_predict_batches {limit} is a fraction, but the length of the data is unknown. Type a whole number"
        )
    if length and not int(length * limit) and limit:
        raise InputError(
            f"--limit_predict_batches {limit} of {length} batches is less than one. Type at least {1 / length:.2g}"
        )
    return int(length * limit)
