"""The workers of DataLoaders: what they are sent and send back, and that interrupts do not reach them.

How a rank itself is given its job is in `payload`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import ChainMap
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

import cloudpickle

from .stop import ignore_interrupts


def patch_worker_pickling() -> None:
    """Let the workers of this process' DataLoaders take and return what a notebook defined, whatever starts them.

    A Dataset class, a collate function or a batch's class of the notebook is in a rank by value alone: nothing of it
    can be imported, which is what multiprocessing's pickles rely on, in the queues of forked workers too.
    """
    reduction.dump = _dump
    reduction.ForkingPickler.dumps = _dumps  # type: ignore[method-assign]
    _silence_tokenizers()


def _silence_tokenizers() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns of each fork otherwise


class _IgnoringInterrupts:
    """Starts a DataLoader's worker deaf to SIGINT: an interrupt of the kernel reaches its whole process group."""

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        ignore_interrupts()
        if self.then is not None:
            self.then(worker_id)


@contextlib.contextmanager
def loader_workers_ignore_interrupts() -> Iterator[None]:
    """Within it the workers of every DataLoader leave interrupts to the process that trains."""
    from torch.utils.data import DataLoader

    get_iterator = DataLoader._get_iterator

    def start(loader: Any) -> Any:
        if loader.num_workers:
            _silence_tokenizers()
        if loader.num_workers and not isinstance(loader.worker_init_fn, _IgnoringInterrupts):
            loader.worker_init_fn = _IgnoringInterrupts(loader.worker_init_fn)
        return get_iterator(loader)

    # No hook comes before Lightning makes the workers.
    DataLoader._get_iterator = start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DataLoader._get_iterator = get_iterator  # type: ignore[method-assign]


class _WorkerPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Multiprocessing's pickles, with classes and functions by value where they cannot be imported."""

    # The first is what types register as they are imported: tensors, which travel through shared memory, among them.
    dispatch_table: ClassVar[Any] = ChainMap(
        reduction.ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        cloudpickle.Pickler.dispatch_table,
    )


class _StartedProcess:
    """A process on its way to the interpreter that runs it, which is to send objects of the notebook back."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    def __reduce__(self) -> tuple[Any, ...]:
        return _set_up_process, (self._process,)


def _set_up_process(process: BaseProcess) -> BaseProcess:
    patch_worker_pickling()
    return process


def _dump(obj: Any, file: Any, protocol: int | None = None) -> None:
    _WorkerPickler(file, protocol).dump(_StartedProcess(obj) if isinstance(obj, BaseProcess) else obj)


def _dumps(obj: Any, protocol: int | None = None) -> memoryview:
    buffer = io.BytesIO()
    _dump(obj, buffer, protocol)
    return buffer.getbuffer()
