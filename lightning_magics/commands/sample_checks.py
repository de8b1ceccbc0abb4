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
    table: columns.TableSchema | None,
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
    entries: list[tuple[str, str, Any, Any]] = []  # what it is called, stage, dataset, and that whose samples it has
    for split, dataset in samples.datasets_of(datamodule).items():
        title = data_name if split in ("train", "predict") else f"the split {split!r} of {data_name}"
        entries.append((title, split, dataset, dataset))
    for place, loader in enumerate(loaders):
        title = loader_names[place] if loader_names else data_name
        stage, dataset = stages[min(place, len(stages) - 1)], getattr(loader, "dataset", None)
        entries.append((title, stage, dataset, samples.dataset_of(loader)))
    table = table or columns.TableSchema({})
    groups: dict[int, tuple[Sequence[Any], list[Any], str]] = {}
    for title, stage, dataset, source in entries:
        if stage not in stages:
            continue
        if verb != "fit" and samples.is_empty(dataset):
            raise InputError(f"{title} has no samples to {verb}. Pass data with at least one sample")
        tensors, places = samples.tensors_of(source)
        batch = class_range.label_batch(tensors, places) if class_range.checks_labels(model, stage) else ()
        if batch and (text := class_range.label_problem(model, batch, title, model_name, table.classes)):
            raise InputError(text)
        if tensors:  # of which several splits may be
            groups.setdefault(id(tensors[0]), (tensors, [], title))[1].append(places)
    notices = [samples.non_finite_problem(*item, table.names) for item in groups.values()]
    return tuple(filter(None, notices))
