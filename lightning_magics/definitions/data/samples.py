"""What data is: datasets, streams, loaders, tensors, arrays, tables, and the splits that they come in.

Generating a DataModule for it is in `datamodule`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data._utils.collate import default_collate, default_collate_fn_map

from ... import formats
from ...errors import InputError, did_you_mean
from ...runs import columns
from ...runs.randomness import preserve_random_state
from ...scores import STAGES

Form = Literal["loaders", "dataset", "iterable", "tensor", "tensors", "arrays", "table", "stream", "texts"]
Split = Literal["train", "val", "test", "predict"]

SPLITS: dict[str, Split] = {**STAGES, "predict": "predict"}
FORMS = (
    "Data is a Dataset, a tuple of them (train, val, test), a dict of splits, DataLoaders, tensors or arrays (X, y), "
    "a DataFrame, or an iterable of samples"
)
_MOST_SEARCHED = 2**28  # numbers of a tensor that is searched for NaN
_NO_SAMPLES = "the training data has no samples"


@dataclass(frozen=True)
class SplitData:
    """One split of the data.

    Attributes:
        form: what it is.
        key: index or key of it in the data; None where it is all of it.
        length: number of samples, None where that is unknown.
        several: whether it is a tuple of columns.
        is_mapped: whether a column is an array in a file, of which samples are read one at a time.
        table: whose table it is, or that its features are: pandas, or another package; None for neither.
        mixed: whether the columns of such features have no type in common.
        names: how labels that are names of classes come: ``series`` of pandas, or ``array``; empty for numbers.
    """

    form: Form
    key: Any = None
    length: int | None = None
    several: bool = False
    is_mapped: bool = False
    table: str | None = None
    mixed: bool = False
    names: Literal["", "series", "array"] = ""

    @property
    def has_order(self) -> bool:
        """Whether samples can be taken in any order, and so be shuffled and split."""
        return self.form not in ("loaders", "iterable", "stream")

    @classmethod
    def of(cls, value: Any, form: Form, key: Any = None) -> SplitData:
        """Describe a split."""
        several = isinstance(value, tuple | list)
        names: Literal["", "series", "array"] = ""
        if form == "arrays" and columns.has_class_names(value):
            names = "series" if type(value[-1]).__name__ == "Series" and hasattr(value[-1], "iloc") else "array"
        if form == "arrays":
            columns.check_index(value)
            _check_numbers(value[:-1] if names else value)
        is_columns = several and form in ("tensors", "arrays")
        length = None if form in ("loaders", "iterable", "stream") else len(value[0] if is_columns else value)
        table = value[0] if form == "arrays" and several else value
        owner = ("pandas" if columns.is_of_pandas(table) else "another") if columns.is_table(table) else None
        if owner and form == "arrays" and (not several or len(value) < 2):
            owner = None  # features alone
        is_memory_mapped = form == "arrays" and is_mapped(value)
        return cls(
            form,
            key,
            length,
            several,
            is_memory_mapped,
            owner,
            owner is not None and columns.has_mixed_types(table),
            names,
        )


def splits_of(value: Any, labelled: bool = False) -> dict[Split, SplitData]:
    """Return the splits that data comes in, training first; data without splits is for training.

    Args:
        value: the data.
        labelled: whether a table holds its labels, so that several are splits.

    Raises:
        InputError: it is nothing that can be loaded, its splits have unknown names, or there is nothing to train on.
    """
    parts = _parts(value, labelled)
    if "train" in parts and parts["train"].length == 0:
        raise InputError(_NO_SAMPLES)
    return parts


def _parts(value: Any, labelled: bool) -> dict[Split, SplitData]:
    """What `splits_of` returns, of any length."""
    _check_columns(value)
    several = isinstance(value, tuple | list) and 1 < len(value) <= 3
    tables = labelled and several and all(map(columns.is_table, value))
    form = form_of(value) if not tables else None
    if form is not None:
        return {"train": SplitData.of(value, form)}
    if isinstance(value, Mapping):
        return _parts_by_name(value, labelled)
    if not tables and columns.has_class_names(value):
        raise InputError(f"the features and the class names have different lengths ({len(value[0])}, {len(value[-1])})")
    if several:
        forms = [_form_of_split(item) for item in value]
        # A tuple of bare arrays here has columns of different lengths, which is a mistake rather than splits.
        if tables or (all(item not in (None, "table") for item in forms) and not all(map(_is_array, value))):
            names: list[Split] = ["train", "val", "test"]
            return {
                name: SplitData.of(value[position], split_form, position)
                for position, (name, split_form) in enumerate(zip(names, forms, strict=False))  # two or three
                if split_form is not None
            }
    raise InputError(_unloadable(value))


def _parts_by_name(value: Mapping[Any, Any], labelled: bool) -> dict[Split, SplitData]:
    parts: dict[Split, SplitData] = {}
    for key, item in value.items():
        name = SPLITS.get(str(key).lower())
        if name is None:
            keys = ", ".join(map(repr, value))
            near = did_you_mean(str(key), SPLITS)
            several = " Put loaders that are read together in one split: {'train': {…}}" if _are_loaders(value) else ""
            raise InputError(
                f"a dict as data has a key for each split; found {keys}.{near} Name them train, val, test and predict."
                f"{several}"
            )
        form = _form_of_split(item)
        if form is None or (form == "table" and not labelled):
            label = ". Name the label column: --label COLUMN" if form == "table" else ""
            raise InputError(f"the split {key!r}: {_unloadable(item)}{label}")
        if name in parts:
            raise InputError(f"two keys are for the split {name!r}: {', '.join(map(repr, value))}. Leave one out")
        parts[name] = SplitData.of(item, form, key)
    if len({part.form == "table" for part in parts.values()}) > 1:
        raise InputError("some splits are tables and some are not. Use tables with --label, or (X, y), for all of them")
    if len({part.form == "loaders" for part in parts.values()}) > 1:
        raise InputError("some splits are DataLoaders and some are not. Give either loaders or datasets")
    if not parts:
        raise InputError("a dict as data has a key for each split; found none. Name them train, val, test and predict")
    return parts


def form_of(value: Any) -> Form | None:
    """Return what one split is, or None if it is none."""
    if _is_single(value):
        return None
    if _is_loader(value):
        return "loaders"
    if isinstance(value, IterableDataset):
        return "iterable"
    if isinstance(value, torch.Tensor):
        return "tensor"
    if columns.is_table(value):
        return "table"
    if _is_array(value):
        return "arrays"
    if isinstance(value, tuple | list):
        return _form_of_several(value)
    if isinstance(value, Mapping | str | bytes | type) or (callable(value) and not isinstance(value, Dataset)):
        return None
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return "dataset"
    return "stream" if isinstance(value, Iterable) and not isinstance(value, Dataset) else None


def _form_of_several(values: Sequence[Any]) -> Form | None:
    """Return what a tuple or list is: columns of one split, or samples; None for anything else, such as splits."""
    few = isinstance(values, tuple) or len(values) <= 3
    if few and columns.has_class_names(values) and all(map(_is_array, values[:-1])):
        return "arrays" if _equally_long(values) else None
    if few and values and all(map(_is_array, values)):
        tensors = all(isinstance(item, torch.Tensor) for item in values)
        return ("tensors" if tensors else "arrays") if _equally_long(values) else None
    if few and all(form_of(item) is not None for item in values):
        return None
    return "dataset" if isinstance(values, list) else None


def _form_of_split(value: Any) -> Form | None:
    """Return what one split among others is: it may be a collection of loaders, too."""
    return "loaders" if _are_loaders(value) else form_of(value)


def _is_column(value: Any) -> bool:
    """Whether a value is an array, or a list of numbers, of texts or of rows of numbers."""
    if not isinstance(value, list):
        return _is_array(value)
    rows = all(isinstance(item, list) and all(isinstance(part, int | float) for part in item) for item in value)
    return bool(value) and (rows or all(isinstance(item, int | float | str) for item in value))


def _check_columns(value: Any) -> None:
    """Check that columns are not lists, which may be splits as well.

    Raises:
        InputError: they are.
    """
    if not isinstance(value, tuple | list) or len(value) not in (2, 3) or columns.has_class_names(value):
        return
    if any(isinstance(item, list) for item in value) and all(map(_is_column, value)) and _equally_long(value):
        raise InputError(
            f"the {len(value)} lists of {len(value[0])} could be columns or splits. "
            f"Write columns as (np.array(X), np.array(y)), splits as {{'train': ..., 'val': ...}}"
        )


def _check_numbers(value: Any) -> None:
    """Check that arrays can become tensors.

    Raises:
        InputError: one holds something other than numbers.
    """
    for item in value if isinstance(value, tuple | list) else [value]:
        if columns.is_table(item) and columns.has_mixed_types(item):
            columns.check_features(columns.frame_of(item), "the table")
            continue
        kind = item.dtype if isinstance(item, torch.Tensor) else np.asarray(item).dtype
        if isinstance(kind, np.dtype) and kind.kind not in "biufc":
            raise InputError(
                f"an array of type {kind} is not numeric. Only the labels of (X, y) can be text (class names). "
                f"Convert features to numbers"
            )


def check_sample(value: Any) -> None:
    """Check that the first sample of a list, or of a dataset without its transform, can be part of a batch.

    Other datasets are left alone: to read a sample of them may take long, or open a file that is opened once.

    Raises:
        InputError: it cannot.
    """
    inner = value
    while isinstance(inner, Subset):
        inner = inner.dataset
    has_transform = getattr(inner, "transform", value) is not None or getattr(inner, "target_transform", None)
    if not len(value) or (has_transform and not isinstance(inner, list)):
        return
    try:
        with preserve_random_state():
            sample = copy.copy(value)[0]  # what it opens is the copy's
    except Exception:  # the user's own, which the fit shows where it is raised
        return
    problem = unbatchable_problem(sample)
    if problem:
        raise InputError(problem)


def unbatchable_problem(sample: Any) -> str:
    """Say what in a sample torch's default_collate cannot make a batch of, and what to type; empty for nothing."""
    if isinstance(sample, Mapping | list | tuple):
        parts = sample.values() if isinstance(sample, Mapping) else sample
        return next(filter(None, map(unbatchable_problem, parts)), "")
    kinds = {base.__module__.partition(".")[0] for base in type(sample).__mro__}
    if "PIL" in kinds:
        return (
            f"a sample holds a PIL image ({type(sample).__name__}), which cannot be batched. Convert it: "
            f"transform=torchvision.transforms.ToTensor(), or "
            f"torch.tensor(np.array(image.convert('RGB'))).permute(2, 0, 1) / 255"
        )
    if isinstance(sample, np.ndarray | np.generic):
        return (
            f"a sample holds an array of {sample.dtype}, which cannot be batched. Convert it to numbers"
            if sample.dtype.kind in "OSU"
            else ""
        )
    if "torch" in kinds or isinstance(sample, str | bytes | int | float):
        return ""
    if any(isinstance(sample, kind) for kind in default_collate_fn_map):
        return ""
    return (
        f"a sample holds a value of type {type(sample).__name__}, which cannot be batched. Convert it to a "
        f"tensor or a number, or give a DataLoader with a collate_fn"
    )


def _is_loader(value: Any) -> bool:
    return isinstance(value, DataLoader) or type(value).__name__ == "CombinedLoader"


def _are_loaders(value: Any) -> bool:
    """Whether a value is a collection of loaders as Lightning takes it: lists and dicts, also within each other."""
    items = list(value.values()) if isinstance(value, Mapping) else value
    return (
        isinstance(items, list | tuple)
        and bool(items)
        and all(_is_loader(item) or _are_loaders(item) for item in items)
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and bool(getattr(value, "shape", ()))


def _is_single(value: Any) -> bool:
    """Whether a value is a single number or text, or nothing: also as an array or a tensor without dimensions."""
    return value is None or isinstance(value, int | float | str) or (getattr(value, "shape", None) == ())


def is_mapped(value: Any) -> bool:
    """Whether an array, or one of several, lies in a file that is mapped, as ``np.load(…, mmap_mode="r")`` does."""
    if isinstance(value, tuple | list):
        return any(map(is_mapped, value))
    while isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
        value = value.base  # a view of one
    return isinstance(value, np.memmap)


def _equally_long(values: Sequence[Any]) -> bool:
    return all(isinstance(item, list) or item.shape for item in values) and len({len(item) for item in values}) == 1


def _unloadable(value: Any) -> str:
    """Say that a value is no data, and what it is."""
    if isinstance(value, tuple | list) and value:
        lengths = [len(item) for item in value if _is_array(item)]
        if len(lengths) == len(value) and len(set(lengths)) > 1:
            return (
                f"the arrays have different lengths ({', '.join(map(str, lengths))}). "
                f"Write splits as ((X_train, y_train), (X_val, y_val))"
            )
        if len(value) <= 3 and (text := _not_array_problem(value)):
            return text
        inner = formats.first_few((type(item).__name__ for item in value), 4)
        return f"a {type(value).__name__} ({inner}) cannot be loaded as data. {FORMS}"
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        return f"{name} is a function, which cannot be loaded as data. Call it: {name}()"
    return f"a value of type {type(value).__name__} cannot be loaded as data. {FORMS}"


def _not_array_problem(values: Sequence[Any]) -> str:
    """Say which of a few columns is not an array; empty where another mistake is likelier."""
    for position, item in enumerate(values, 1):
        if _is_single(item) and any(map(_is_array, values)):
            plain = item.item() if hasattr(item, "item") else item
            what = "None" if item is None else f"a single value ({plain!s:.40})"
            return f"item {position} of the data is {what}, not an array with one row per sample. Expected (X, y)"
        if isinstance(item, list | tuple | range) and _is_column(values[0]):
            name = "X" if position == 1 else "y"
            return f"item {position} of the data is a {type(item).__name__}, not an array. Convert it: np.array({name})"
    return ""


def to_tensor(values: Any) -> torch.Tensor:
    """Return an array as a tensor; float64 as torch's default float, labels (n,) of whole numbers as int64.

    Raises:
        TypeError: the array holds no numbers.
    """
    if isinstance(values, torch.Tensor):
        return values
    array = np.require(values, requirements=["C", "W"])  # torch takes no negative strides
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if tensor.dtype == torch.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if tensor.ndim == 1 and not tensor.is_floating_point() else tensor


def as_dataset(value: Any, form: Form) -> Any:
    """Return what a DataLoader takes for a split of a form.

    Raises:
        InputError: it needs a definition of its own.
    """
    if form == "tensor":
        return value  # a dataset as it is: its batches are tensors
    if form in ("tensors", "arrays"):
        _check_numbers(value)
        items = value if isinstance(value, tuple | list) else [value]
        items = [
            item.to_numpy("float64") if columns.is_table(item) and columns.has_mixed_types(item) else item
            for item in items
        ]
        if is_mapped(value):
            return _Mapped(tuple(items) if isinstance(value, tuple | list) else value)
        return TensorDataset(*map(to_tensor, items)) if isinstance(value, tuple | list) else to_tensor(items[0])
    if form == "dataset":
        check_sample(value)
    if form == "table":
        raise InputError("a DataFrame needs a label column: %lightning_data NAME --label COLUMN")
    if form == "stream":
        if isinstance(value, Iterator):
            raise InputError(
                "a generator can be read only once. Create it in a %%lightning_data NAME cell, which recreates it for "
                "every epoch"
            )
        return _Stream(value)
    return value


class _Mapped(Dataset[Any]):
    """Arrays in files, of which a sample is read when it is asked for."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[0] if isinstance(self.arrays, tuple | list) else self.arrays)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(self.arrays, tuple | list):
            return self._sample(self.arrays, index)
        return tuple(self._sample(array, index) for array in self.arrays)

    @staticmethod
    def _sample(array: Any, index: int) -> torch.Tensor:
        rows = array[index : index + 1]
        return to_tensor(rows if isinstance(rows, torch.Tensor) else np.array(rows))[0]


class _Stream(IterableDataset[Any]):
    """An iterable as a dataset; each loading worker takes its share."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        for position, sample in enumerate(self.samples):
            if worker is None or position % worker.num_workers == worker.id:
                yield sample


def datasets_of(data: Any) -> dict[Split, Any]:
    """The datasets of a generated DataModule that is loaded, by split, if its batches are theirs as they are.

    The DataModule stays as it is.
    """
    loaded = copy.copy(data)
    if (
        getattr(data, "data", None) is None
        or not isinstance(getattr(data, "splits", None), dict)
        or _has_user_hooks(data)
    ):
        return {}
    if not loaded.splits:
        loaded.setup()
    return {
        split: dataset
        for split, dataset in loaded.splits.items()
        if "_loader" in getattr(loaded, f"{split}_dataloader").__code__.co_names
    }


def dataset_of(loader: Any) -> Any:
    """The dataset of a DataLoader, if its batches are samples of it as they are; else None."""
    is_plain = isinstance(loader, DataLoader) and loader.collate_fn is default_collate
    return loader.dataset if is_plain else None


def is_empty(dataset: Any) -> bool:
    """Whether a dataset is known to have no samples."""
    return isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) and len(dataset) == 0


def tensors_of(dataset: Any) -> tuple[tuple[torch.Tensor, ...], Any]:
    """The tensors in memory that a dataset takes its samples from, none for any other, and the places that it takes."""
    places: Any = slice(None)
    while isinstance(dataset, Subset):
        places = torch.as_tensor(dataset.indices, dtype=torch.long)[places]
        dataset = dataset.dataset
    tensors = dataset.tensors if isinstance(dataset, TensorDataset) else (dataset,)
    return (tuple(tensors) if all(isinstance(item, torch.Tensor) for item in tensors) else ()), places


def non_finite_problem(tensors: Sequence[torch.Tensor], places: Sequence[Any], what: str, names: Sequence[Any]) -> str:
    """Say which samples have values that are NaN or infinite; empty for none.

    Args:
        tensors: a row for each sample.
        places: the rows that are used, by the splits that take them; others are not looked at.
        what: the data is called.
        names: of the features, if they have any.
    """
    problems = []
    used = torch.zeros(len(tensors[0]), dtype=torch.bool)
    for some_places in places:
        used[some_places] = True
    for place, item in enumerate(tensors):
        # A sum is finite only if all values are: unlike a mask of them, it takes no memory.
        if not item.is_floating_point() or item.numel() > _MOST_SEARCHED or item.sum().isfinite():
            continue
        odd = ~item.isfinite().reshape(len(item), -1).cpu()
        odd[~used] = False
        rows = odd.any(dim=1)
        if not rows.any():
            continue
        where = "labels" if 0 < place == len(tensors) - 1 else "features"
        if where == "features" and len(names) == odd.shape[1]:
            wrong = odd.any(dim=0).tolist()
            some = [name for name, is_odd in zip(names, wrong, strict=True) if is_odd]
            where = f"column{'s' if len(some) > 1 else ''} {formats.first_few(some)}"
        first = int(rows.int().argmax())
        count, total = int(rows.sum()), formats.plural(int(used.sum()), "sample")
        problems.append(f"{where} ({count:,} of {total}, the first at position {first})")
    listed = " and the ".join(problems)
    return f"{what} has NaN or infinite values in the {listed}: fill or remove them" if problems else ""


def _has_user_hooks(datamodule: Any) -> bool:
    """Whether a generated DataModule has hooks of the user's that change what it has loaded, or its batches."""
    names = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    module = type(datamodule).__module__
    return hasattr(datamodule, "_setup_data") or any(
        getattr(type(datamodule), name).__module__ == module for name in names
    )


def to_dataloaders(values: Sequence[Any], training: Sequence[bool], options: Mapping[str, Any]) -> list[Any]:
    """Return a DataLoader for each of several data: loaders as they are, other data by the options.

    Args:
        values: DataLoaders, Datasets, tensors, arrays (X, y), iterables.
        training: of each, whether it is for training, and therefore shuffled.
        options: `batch_size`, `num_workers` and `shuffle`.

    Raises:
        InputError: a value cannot be loaded, or an option is unknown or would have no effect.
    """
    known_options = ("batch_size", "num_workers", "shuffle")
    for name in options:
        if name not in known_options:
            raise InputError(
                f"--data.{name} is not available here.{did_you_mean(name, known_options)} Data used without "
                f"%lightning_data takes {', '.join(f'--data.{item}' for item in known_options)}"
            )
    forms = [_required_form(value) for value in values]
    if options and all(form == "loaders" for form in forms):
        names = ", ".join(f"--data.{name}" for name in options)
        raise InputError(f"{names} would have no effect on a DataLoader. Set it where the DataLoader is created")
    return [
        value if form == "loaders" else _loader(as_dataset(value, form), form, options, train)
        for value, form, train in zip(values, forms, training, strict=True)
    ]


def _required_form(value: Any) -> Form:
    if isinstance(value, Mapping) and value.keys() and all(str(key).lower() in SPLITS for key in value):
        first = repr(next(iter(value)))
        raise InputError(
            f"a dict of the splits {', '.join(map(repr, value))} cannot be used directly. Define it with "
            f"%lightning_data NAME, or pass one split, such as data[{first}]"
        )
    form = _form_of_split(value)
    if form is None:
        raise InputError(_unloadable(value))
    return form


def _loader(dataset: Any, form: Form, options: Mapping[str, Any], train: bool) -> DataLoader[Any]:
    workers = options.get("num_workers", 0)
    has_order = form not in ("iterable", "stream")
    if train and has_order and not len(dataset):
        raise InputError(_NO_SAMPLES)
    return DataLoader(
        dataset,
        batch_size=options.get("batch_size", 32),
        shuffle=train and bool(options.get("shuffle", True)) if has_order else None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def check_sizes(sizes: Mapping[str, float], length: int) -> None:
    """Check the sizes of splits that are taken from so many samples: each a fraction, or a number of samples.

    Raises:
        InputError: they leave one empty.
    """
    for name, size in sizes.items():
        if not (0 < size < 1 if isinstance(size, float) else 0 < size < length):
            raise InputError(
                f"--{name}_split {size} is neither a fraction between 0 and 1 nor less than "
                f"the {length} samples. Use, for example, --{name}_split 0.2"
            )
    counts = [round(size * length) if isinstance(size, float) else size for size in sizes.values()]
    if sizes and (min(counts) < 1 or sum(counts) >= length):
        options = " ".join(f"--{name}_split {size}" for name, size in sizes.items())
        raise InputError(f"{options}: {length} samples leave an empty split. Use, for example, --val_split 0.2")
