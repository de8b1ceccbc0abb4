"""The model of a run in this notebook: with its weights, and under its name, so that fits and evaluations find it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..definitions.data.sentences import name_outputs, recorded_reader
from ..definitions.definition import Definition, load
from ..errors import LightningMagicsError, RunError, short_traceback
from ..formats import first_and_more
from ..launch.run import Run
from ..replay.plain import is_plain
from ..replay.recorded import RecordedRun
from ..runs import folder
from ..views.state import RunState
from .session import Session


def restore(session: Session, recorded_run: RecordedRun, checkpoint: str | None, weights_only: bool) -> Any:
    """Make the model of a run, with the weights of a checkpoint, and register it.

    Args:
        session: of the notebook.
        recorded_run: the run.
        checkpoint: ``best``, ``last``, a path, or None.
        weights_only: whether the checkpoint is read as tensors alone.

    Returns:
        The instance.

    Raises:
        RunError: there is no such checkpoint, or the source lacks something.
        InputError: the checkpoint holds more than tensors.
        Exception: what the source raises.
    """
    from ..definitions.model.fine_tuning import quiet_transformers
    from ..runs.randomness import preserve_random_state
    from ..training.handover import missing_weights
    from ..training.origins import of_checkpoint
    from ..training.train import check_checkpoint, is_whole, restore_fit
    from ..training.trust import is_own_with_objects

    path, recipe, record = recorded_run.checkpoint(checkpoint), recorded_run.recipe, recorded_run.record
    weights_only = weights_only and not is_own_with_objects(path)
    if weights_only:
        check_checkpoint(path, recorded_run.value_types)
    lacking = {name for name in recipe.missing if name == "model" or name.startswith("--model.")}
    if not recipe.model or lacking:
        why = "; ".join(f"{name}: {why}" for name, why in recipe.missing.items() if name in lacking or not lacking)
        raise RunError(f"{record.run} cannot be loaded: {why or 'its record is incomplete'}")
    print(recorded_run.announcement([*recipe.model_codes, *recipe.data_codes]))  # noqa: T201 -- told before it is done
    with short_traceback(), preserve_random_state(), quiet_transformers():
        recorded_run.execute(recipe.model_codes, recipe.data_codes)
        definition = recorded_run.model()
        model = (
            definition.new(**recorded_run.values(recipe.arguments))
            if isinstance(definition, Definition)
            else definition
        )
        callbacks = functools.partial(_callbacks, recorded_run)
        state = restore_fit(model, callbacks, path, trusted=not weights_only)
        own = _checkpoint_hyperparameters(model, state)
        if own and isinstance(definition, Definition):
            model = definition.new(**{**recorded_run.values(recipe.arguments), **own})
            state = restore_fit(model, callbacks, path, trusted=not weights_only)
        elif own:
            names = ", ".join(own)
            print(f"the recorded source and the checkpoint have different values for {names}")  # noqa: T201 -- likewise
    if lacks := missing_weights(model, state):
        print(f"not in the checkpoint, so the model's initial values are kept: {first_and_more(lacks, 4)}")  # noqa: T201 -- likewise
    name_outputs(model, recorded_run.folder)
    alone = "" if is_whole(state) else ", which contains only weights: a fit of the model starts at epoch 0"
    print(f"weights: {folder.display_path(path)}{alone}")  # noqa: T201 -- which of them
    step = state.get("global_step", record.steps)
    if checkpoint in (None, "last") and step < record.steps:
        print(f"weights are from step {step} of {record.steps}: the run has no later checkpoint")  # noqa: T201 -- likewise
    session.add_loaded_source(recorded_run.source_code)
    _register_model(session, recorded_run, definition, model)
    data = _register_data(session, recorded_run)
    with contextlib.suppress(LightningMagicsError):  # said where data or a sentence is given
        session.add_trained(model, recorded_run.folder, of_checkpoint(state, path).table)
        session.origins[model].reader = recorded_reader(recorded_run.folder, recipe.package, data)
    return model


def _checkpoint_hyperparameters(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a checkpoint that the source does not give again, such as one that was drawn or timed.

    Of those that are numbers, texts, times, tensors, arrays and the like; the notebook's own objects are made anew.
    """
    recorded, parameters = state.get("hyper_parameters"), inspect.signature(type(model)).parameters
    if not isinstance(recorded, Mapping):
        return {}
    known = {name: value for name, value in recorded.items() if name in parameters and name in model.hparams}
    return {name: value for name, value in known.items() if _is_value(value) and _differ(value, model.hparams[name])}


def _is_value(value: Any) -> bool:
    import numpy as np
    import torch

    return is_plain(value) or isinstance(value, torch.Tensor | np.ndarray | UUID | date | time | timedelta | Decimal)


def _differ(first: Any, second: Any) -> bool:
    import numpy as np
    import torch

    if type(first) is not type(second):
        return False  # it was converted on its way
    if isinstance(first, torch.Tensor):
        return first.dtype != second.dtype or not torch.equal(first.cpu(), second.cpu())
    return not np.array_equal(first, second) if isinstance(first, np.ndarray) else bool(first != second)


def _callbacks(recorded_run: RecordedRun) -> list[Any]:
    """The callbacks of a run, whose hooks may make layers of its model; none where they cannot be made."""
    from ..training.trainer import as_list

    code = recorded_run.recipe.trainer.get("callbacks")
    if code is None:
        return []
    try:
        print(recorded_run.announcement([code]))  # noqa: T201 -- told before it is done
        recorded_run.execute([code])
        return as_list(recorded_run.value(code))
    except Exception as error:  # whatever the user's code raises here
        print(f"the callbacks of the run are not available: {type(error).__name__}: {' '.join(str(error).split())}")  # noqa: T201
        return []


def _register_model(session: Session, recorded_run: RecordedRun, definition: Any, model: Any) -> None:
    """Make the model known: its definition, its class, and that it has been trained."""
    name, cls = recorded_run.record.model, type(model)
    before = session.models.pop(name, None)
    if before is not None and before.cls is cls:
        definition = before
    elif before is not None:
        print(f"the model {name} of this notebook is replaced by the run's")  # noqa: T201
    if isinstance(definition, Definition):
        session.models[name] = definition
    if before is not None and session.namespace.get(cls.__name__) is before.cls is not cls:
        session.namespace[cls.__name__] = session.replaced[cls.__name__] = cls
    _bind(session, cls.__name__, cls)
    for item in sorted(recorded_run.value_types):  # their members and instances are values of hyperparameters
        kind = item.rpartition(".")[2]
        if kind in session.namespace and kind in recorded_run.namespace:
            _bind(session, kind, recorded_run.namespace[kind])
    run = Run(recorded_run.folder, recorded_run.record, RunState(folder.display_path(recorded_run.folder.path)), None)
    run._model = model
    session.add_loaded(run)


def _register_data(session: Session, recorded_run: RecordedRun) -> Definition | None:
    """Make the data known under its name, where it can be made here, and return its definition, if it is one."""
    from ..runs.randomness import preserve_random_state

    name = recorded_run.record.data
    if not recorded_run.recipe.data:
        return None
    try:
        with preserve_random_state():
            data = recorded_run.data()
    except Exception as error:  # a file of data may be gone; the model is of use all the same
        reason = f"{type(error).__name__}: {error}"
        print(f"the data {name} could not be loaded: {' '.join(reason.split())}. Pass other data")  # noqa: T201
        return None
    if isinstance(data, Definition):
        if name in session.datas:
            print(f"the data {name} of this notebook is kept{_comparison(session.datas[name], recorded_run)}")  # noqa: T201
            return data
        session.add_data(data)
        _bind(session, data.cls.__name__, data.cls)
        return data
    for code, value in zip(recorded_run.recipe.data, data if isinstance(data, list) else [], strict=False):
        if code.isidentifier():
            _bind(session, code, value, replace=False)
    return None


def _comparison(data: Definition, recorded_run: RecordedRun) -> str:
    """Whether data of the notebook is what a run was trained on; empty if that cannot be determined in memory."""
    from ..runs.fingerprint import of_loaders

    before, arguments = recorded_run.record.fingerprint.get("train"), recorded_run.recipe.data_arguments or {}
    if before is None or data.loaded is None or data.reloads_for & arguments.keys():
        return ""
    try:
        instance = data.new(**recorded_run.values(arguments))
        load(instance)
        now = of_loaders(instance.train_dataloader())
    except Exception:  # of a hook of the user's, or a hyperparameter that this data does not have
        return ""
    if now != before:
        return f"; it differs from the run's: train {before} → {now}"
    return "; it is the run's data" if ", " in now else ""  # with a hash of its values


def _bind(session: Session, name: str, value: Any, replace: bool = True) -> None:
    """Give a name of the notebook to something of the run."""
    before = session.namespace.get(name, value)
    if before is not value and not replace:
        print(f"{name} of this notebook is kept")  # noqa: T201
        return
    if before is not value:
        print(f"{name} of this notebook is replaced by the run's")  # noqa: T201
    if name not in session.namespace or before is not value:
        session.namespace[name] = session.replaced[name] = value
