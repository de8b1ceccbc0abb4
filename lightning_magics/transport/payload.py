"""What a process sends to another: any object, in a file that all of them map, so that its data is in memory once.

The file holds a pickle, then the data of tensors and arrays, each at a multiple of 64 bytes, then an index, then where
the index begins. Readers map it privately: what one writes to a tensor, no other sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import mmap
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.storage import TypedStorage
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..errors import InputError, RunError
from . import pickling, unpicklable

_OUT_OF_BAND_BYTES = 1 << 16  # smaller data is in the pickle: each reader has its own
_ALIGNMENT = 64  # of torch's own memory; sums may differ in the last digit where it is less
_MARK = b"lightning_magics payload 1\n"
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

_NOUNS = {
    "model": "the model",
    "datamodule": "the data",
    "loaders": "the data",
    "trainer": "a Trainer argument",
    "compiler": "the backend of torch.compile",
}
_PLACES = {
    "model": "in setup() or on_fit_start(), which run in that process",
    "datamodule": "in setup(), which runs in that process",
    "loaders": "on first use in the dataset's __getitem__, which runs in that process",
    "trainer": "in the callback's setup(), which runs in that process",
}


def save(value: Any, path: Path, name: str = "") -> None:
    """Write an object to a file that only its owner can read; an existing one is replaced.

    Classes and functions of the notebook go by value, tensors to the CPU; a Trainer and a running iterator of a
    DataLoader stay behind, as None.

    Args:
        value: a job, whose fields messages name, or anything else.
        path: the file; it is whole, or not there.
        name: what messages call the object, if it is not a job.

    Raises:
        InputError: a part of it cannot be pickled.
        RunError: the file cannot be written.
    """
    stream, buffers = io.BytesIO(), _Buffers()
    pickler = _PayloadPickler(stream, buffers.add)
    try:
        pickler.dump(value)
    except Exception as error:  # whatever the user's objects raise when they are taken apart
        raise _pickling_error(value, name, error) from error
    try:
        path.unlink(missing_ok=True)  # those who have mapped it keep it
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _write(file, stream, buffers, pickler.sources)
    except OSError as error:
        _discard(path)
        raise RunError(
            f"{path} cannot be written ({buffers.size_bytes + stream.tell():,} bytes): {error.strerror}. "
            "Free some space, or choose another folder: %config LightningMagics.run_dir = 'PATH'"
        ) from error
    except BaseException:
        _discard(path)
        raise


def load(path: Path) -> Any:
    """Read an object that `save` wrote. The file may be removed afterwards.

    Raises:
        RunError: the file is missing, or not whole.
        Exception: what the classes of the user raise when they are made again.
    """
    with _file(path) as file:
        return _read(file, path)


def reader(path: Path) -> Callable[[], Any]:
    """Return what reads an object that `save` wrote, each time anew, even after the file has been removed.

    Raises:
        RunError: the file is missing. Calling it raises what `load` does.
    """
    return functools.partial(_read, _file(path), path)


def _file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _read(file: IO[bytes], path: Path) -> Any:
    try:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise RunError(f"{path} cannot be read: {error}") from error
    if bytes(view[-len(_MARK) :]) != _MARK:
        raise RunError(f"{path} is incomplete or from another version of lightning_magics. Start the run again.")
    end = len(view) - len(_MARK) - 8
    begin = int.from_bytes(view[end : end + 8], "little")
    places, sources = pickle.loads(view[begin:end])
    pickling.add_sources(sources)
    return pickle.loads(view, buffers=[view[start : start + size] for start, size in places])


class _Buffers:
    """Data that is written beside the pickle; the same memory once."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []
        self.views: dict[tuple[int, int], memoryview] = {}

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.views)

    def add(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer; True leaves it in the pickle."""
        view = buffer.raw()
        if view.nbytes < _OUT_OF_BAND_BYTES:
            return True
        key = (np.frombuffer(view, np.uint8).__array_interface__["data"][0], view.nbytes)
        self.views.setdefault(key, view)
        self._order.append(key)
        return False

    def places(self, starts: Mapping[tuple[int, int], int]) -> list[tuple[int, int]]:
        """Return start and size of each buffer in the order of the pickle."""
        return [(starts[key], key[1]) for key in self._order]


def _write(file: IO[bytes], stream: io.BytesIO, buffers: _Buffers, sources: Mapping[str, str]) -> None:
    file.write(stream.getbuffer())
    starts = {}
    for key, view in buffers.views.items():
        file.write(bytes(-file.tell() % _ALIGNMENT))
        starts[key] = file.tell()
        file.write(view)
    begin = file.tell()
    pickle.dump((buffers.places(starts), dict(sources)), file, protocol=5)
    file.write(begin.to_bytes(8, "little") + _MARK)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


class _PayloadPickler(pickling.Pickler):
    """Knows tensors, arrays, parametrized modules, and what stays behind."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return _reduce_array(obj)
        if isinstance(obj, TypedStorage):
            return _typed, (obj._untyped_storage, obj.dtype)
        if isinstance(obj, torch.UntypedStorage):
            return _storage, (pickle.PickleBuffer(_as_bytes(obj)),)
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            base, state = type(obj).__mro__[1], type(obj).__mro__[1].__getstate__(obj)  # type: ignore[call-arg]
            return _parametrized, (base, tuple(obj.get_submodule("parametrizations")._modules)), state
        if isinstance(obj, (_BaseDataLoaderIter, *_trainers())):
            return _nothing, ()
        if isinstance(obj, io.TextIOWrapper) and obj is not sys.stdout and obj is not sys.stderr:
            # cloudpickle would send a copy of the whole file, if it is open for reading
            raise pickle.PicklingError("an open file cannot be pickled")
        return super().reducer_override(obj)


def _trainers() -> tuple[type, ...]:
    """Trainer classes of the Lightning packages that are in use."""
    modules = [sys.modules[name] for name in _LIGHTNING if name in sys.modules]
    return tuple(module.Trainer for module in modules if hasattr(module, "Trainer"))


def _nothing() -> None:
    """Stand in for what stays behind."""


def _as_bytes(storage: torch.UntypedStorage) -> Any:
    """View the memory of a storage as an array of uint8; one of another device is copied first."""
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage.cpu()).numpy()  # type: ignore[no-untyped-call]


def _storage(data: Any) -> torch.UntypedStorage:
    if not len(data):
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    tensor = torch.frombuffer(data, dtype=torch.uint8)
    # What was in the pickle is where Python put it: torch aligns its own memory.
    return (tensor.clone() if isinstance(data, bytearray) else tensor).untyped_storage()


def _typed(storage: torch.UntypedStorage, dtype: torch.dtype) -> TypedStorage:
    return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """Reduce an array to its bytes, whatever its type and strides; one in a mapped file, or part of it, to its path."""
    mapped = _memory_map(array)
    if mapped is not None:
        return _opened, (
            str(mapped.filename),
            mapped.mode,
            array.dtype,
            array.shape,
            array.strides,
            *_span(array, mapped),
        )
    if type(array) not in (np.ndarray, np.memmap):
        return NotImplemented
    if array.dtype.hasobject or array.nbytes < _OUT_OF_BAND_BYTES:
        return NotImplemented
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat: Any = np.asarray(array, order=order).reshape(-1, order=order).view(np.uint8)
    return _array, (pickle.PickleBuffer(flat), array.dtype, array.shape, order)


def _memory_map(array: Any) -> np.memmap[Any, Any] | None:
    """The memory map that an array is or looks into; None where there is none, or its changes are not in the file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            is_file = array.filename is not None and array.mode != "c" and os.path.exists(array.filename)
            return array if is_file and not array.dtype.hasobject else None
        array = array.base
    return None


def _span(array: np.ndarray[Any, Any], mapped: np.memmap[Any, Any]) -> tuple[int, int, int]:
    """Where in the file the memory of an array begins, its size, and where in that the first item is, in bytes."""
    steps = [(length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    before = -sum(step for step in steps if step < 0)
    size = before + sum(step for step in steps if step > 0) + array.itemsize if array.size else 0
    place = array.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]
    return mapped.offset + place - before, size, before


def _opened(
    path: str, mode: Any, dtype: np.dtype[Any], shape: tuple[int, ...], strides: Any, start: int, size: int, first: int
) -> np.ndarray[Any, Any]:
    """Map a part of a file."""
    if not size:
        return np.empty(shape, dtype)
    part = np.memmap(path, np.uint8, "r" if mode == "r" else "r+", start, (size,))
    view = np.ndarray.__new__(np.memmap, shape, dtype, part, first, strides)
    vars(view).update(vars(part))
    return cast("np.ndarray[Any, Any]", view)


def _array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, np.uint8).view(dtype).reshape(shape, order=order)


def _parametrized(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """Make an empty module with parametrized tensors: their class is made for each module, and refuses pickle."""
    module = base.__new__(base)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module


def _pickling_error(value: Any, name: str, error: Exception) -> InputError:
    """Say which part of an object cannot be pickled, and what to do about it."""
    if dataclasses.is_dataclass(value) and not name:
        roots = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        roots = {name or type(value).__name__: value}
    culprit = unpicklable.find(roots, _PayloadPickler(io.BytesIO()), _is_leaf)
    if culprit is None:
        return InputError(
            f"the {name or 'run'} cannot be sent to another process: {type(error).__name__}: {str(error).rstrip('.')}. "
            "Train in the kernel, without --devices, --ddp or --background."
        )
    where = _PLACES.get(culprit.root, "where it is used")
    return InputError(
        f"{_NOUNS.get(culprit.root, culprit.root)} cannot be sent to another process: {culprit.place} is "
        f"{culprit.description}. {culprit.remedy} it {where}, or train in the kernel, without --devices, "
        f"--ddp or --background."
    )


def _is_leaf(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return isinstance(value, (torch.Tensor, torch.UntypedStorage, TypedStorage, pickle.PickleBuffer))
