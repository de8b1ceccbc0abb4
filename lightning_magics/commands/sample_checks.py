"""Checks of data in memory before a run: there are samples, their labels are classes, their values are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..runs import columns

SPLIT_OF = {"validate": "val", "test": "test", "predict": "predict"}


def check(
    verb: str,
    model: Any,
    datamodule: Any,
    loaders: Sequence[Any],
    names: tuple[str, str],
    loader_names: Sequence[str],
    table: columns.Table | None,
) -> tuple[str, ...]:
    """Check the samples that a run uses, as far as they are in memory.

    Args:
        verb: fit, validate, test or predict.
        model: LightningModule instance.
        datamodule: a generated DataModule, or None.
        loaders: DataLoaders, where there is no DataModule.
        names: of the model, and of the data.
        loader_names: what each loader is called; none where they are called as the data.
        table: what is known of its columns and classes.

    Returns:
        Which values are NaN or infinite.

    Raises:
        InputError: the model has no output for a label, or there is no sample to evaluate.
    """
    from ..definitions.data import samples
    from ..training import class_range

    model_name, data_name = names
    stages = ("train", "val") if verb == "fit" else (SPLIT_OF[verb],)
    found: list[tuple[str, str, Any, Any]] = []  # what it is called, stage, dataset, and that whose samples it has
    for split, dataset in samples.datasets_of(datamodule).items():
        what = data_name if split in ("train", "predict") else f"the split {split!r} of {data_name}"
        found.append((what, split, dataset, dataset))
    for place, loader in enumerate(loaders):
        what = loader_names[place] if loader_names else data_name
        stage, dataset = stages[min(place, len(stages) - 1)], getattr(loader, "dataset", None)
        found.append((what, stage, dataset, samples.dataset_of(loader)))
    table = table or columns.Table({})
    looked_at: dict[int, tuple[Sequence[Any], list[Any], str]] = {}
    for what, stage, dataset, looked_into in found:
        if stage not in stages:
            continue
        if verb != "fit" and samples.is_empty(dataset):
            raise InputError(f"{what} has no samples to {verb}. Pass data with at least one sample")
        tensors, places = samples.tensors_of(looked_into)
        batch = class_range.sampled(tensors, places) if class_range.is_judged(model, stage) else ()
        if batch and (text := class_range.problem(model, batch, what, model_name, table.classes)):
            raise InputError(text)
        if tensors:  # of which several splits may be
            looked_at.setdefault(id(tensors[0]), (tensors, [], what))[1].append(places)
    notices = [samples.not_finite(*item, table.names) for item in looked_at.values()]
    return tuple(filter(None, notices))
