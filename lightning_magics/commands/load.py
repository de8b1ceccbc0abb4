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

from ..definitions.data.sentences import kept, name_outputs
from ..definitions.definition import Definition, load
from ..errors import LightningMagicsError, RunError, short_traceback
from ..launch.run import Run
from ..replay.plain import is_plain
from ..replay.recorded import Recalled
from ..runs import folder
from ..views.state import RunState
from .session import Session


def restore(session: Session, recalled: Recalled, checkpoint: str | None, weights_only: bool) -> Any:
    """Make the model of a run, with the weights of a checkpoint, and register it.

    Args:
        session: of the notebook.
        recalled: the run.
        checkpoint: ``best``, ``last``, a path, or None.
        weights_only: whether the checkpoint is read as tensors alone.

    Returns:
        The instance.

    Raises:
        RunError: there is no such checkpoint, or the source lacks something.
        InputError: the checkpoint holds more than tensors.
        Exception: what the source raises.
    """
    from ..definitions.model.fine_tuning import calm
    from ..runs.randomness import random_state_kept
    from ..training.handover import absent, listed
    from ..training.origins import of_checkpoint
    from ..training.train import check_checkpoint, is_whole, take
    from ..training.trust import needs_no_question

    path, recipe, record = recalled.checkpoint(checkpoint), recalled.recipe, recalled.record
    weights_only = weights_only and not needs_no_question(path)
    if weights_only:
        check_checkpoint(path, recalled.value_types)
    lacking = {name for name in recipe.missing if name == "model" or name.startswith("--model.")}
    if not recipe.model or lacking:
        why = "; ".join(f"{name}: {why}" for name, why in recipe.missing.items() if name in lacking or not lacking)
        raise RunError(f"{record.run} cannot be loaded: {why or 'its record is incomplete'}")
    print(recalled.announced([*recipe.model_codes, *recipe.data_codes]))  # noqa: T201 -- told before it is done
    with short_traceback(), random_state_kept(), calm():
        recalled.execute(recipe.model_codes, recipe.data_codes)
        found = recalled.model()
        model = found.new(**recalled.values(recipe.arguments)) if isinstance(found, Definition) else found
        callbacks = functools.partial(_callbacks, recalled)
        state = take(model, callbacks, path, trusted=not weights_only)
        own = _of_checkpoint(model, state)
        if own and isinstance(found, Definition):
            model = found.new(**{**recalled.values(recipe.arguments), **own})
            state = take(model, callbacks, path, trusted=not weights_only)
        elif own:
            names = ", ".join(own)
            print(f"the recorded source and the checkpoint have different values for {names}")  # noqa: T201 -- likewise
    if lacks := absent(model, state):
        print(f"not in the checkpoint, so the model's initial values are kept: {listed(lacks)}")  # noqa: T201 -- likewise
    name_outputs(model, recalled.folder)
    alone = "" if is_whole(state) else ", which contains only weights: a fit of the model starts at epoch 0"
    print(f"weights: {folder.shown(path)}{alone}")  # noqa: T201 -- which of them
    step = state.get("global_step", record.steps)
    if checkpoint in (None, "last") and step < record.steps:
        print(f"weights are from step {step} of {record.steps}: the run has no later checkpoint")  # noqa: T201 -- likewise
    session.add_recalled(recalled.unit)
    _register_model(session, recalled, found, model)
    data = _register_data(session, recalled)
    with contextlib.suppress(LightningMagicsError):  # said where data or a sentence is given
        session.trained(model, recalled.folder, of_checkpoint(state, path).table)
        session.origins[model].reader = kept(recalled.folder, recipe.package, data)
    return model


def _of_checkpoint(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
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


def _differ(one: Any, other: Any) -> bool:
    import numpy as np
    import torch

    if type(one) is not type(other):
        return False  # it was converted on its way
    if isinstance(one, torch.Tensor):
        return one.dtype != other.dtype or not torch.equal(one.cpu(), other.cpu())
    return not np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one != other)


def _callbacks(recalled: Recalled) -> list[Any]:
    """The callbacks of a run, whose hooks may make layers of its model; none where they cannot be made."""
    from ..training.trainer import listed

    code = recalled.recipe.trainer.get("callbacks")
    if code is None:
        return []
    try:
        print(recalled.announced([code]))  # noqa: T201 -- told before it is done
        recalled.execute([code])
        return listed(recalled.value(code))
    except Exception as error:  # whatever the user's code raises here
        print(f"the callbacks of the run are not available: {type(error).__name__}: {' '.join(str(error).split())}")  # noqa: T201
        return []


def _register_model(session: Session, recalled: Recalled, found: Any, model: Any) -> None:
    """Make the model known: its definition, its class, and that it has been trained."""
    name, cls = recalled.record.model, type(model)
    before = session.models.pop(name, None)
    if before is not None and before.cls is cls:
        found = before
    elif before is not None:
        print(f"the model {name} of this notebook is replaced by the run's")  # noqa: T201
    if isinstance(found, Definition):
        session.models[name] = found
    if before is not None and session.namespace.get(cls.__name__) is before.cls is not cls:
        session.namespace[cls.__name__] = session.replaced[cls.__name__] = cls
    _bind(session, cls.__name__, cls)
    for item in sorted(recalled.value_types):  # their members and instances are values of hyperparameters
        kind = item.rpartition(".")[2]
        if kind in session.namespace and kind in recalled.namespace:
            _bind(session, kind, recalled.namespace[kind])
    run = Run(recalled.folder, recalled.record, RunState(folder.shown(recalled.folder.path)), None)
    run._model = model
    session.brought_back(run)


def _register_data(session: Session, recalled: Recalled) -> Definition | None:
    """Make the data known under its name, where it can be made here, and return its definition, if it is one."""
    from ..runs.randomness import random_state_kept

    name = recalled.record.data
    if not recalled.recipe.data:
        return None
    try:
        with random_state_kept():
            found = recalled.data()
    except Exception as error:  # a file of data may be gone; the model is of use all the same
        reason = f"{type(error).__name__}: {error}"
        print(f"the data {name} could not be loaded: {' '.join(reason.split())}. Pass other data")  # noqa: T201
        return None
    if isinstance(found, Definition):
        if name in session.datas:
            print(f"the data {name} of this notebook is kept{_compared(session.datas[name], recalled)}")  # noqa: T201
            return found
        session.add_data(found, adopted=True)
        _bind(session, found.cls.__name__, found.cls)
        return found
    for code, value in zip(recalled.recipe.data, found if isinstance(found, list) else [], strict=False):
        if code.isidentifier():
            _bind(session, code, value, replace=False)
    return None


def _compared(data: Definition, recalled: Recalled) -> str:
    """Whether data of the notebook is what a run was trained on; empty if that cannot be determined in memory."""
    from ..runs.fingerprint import of_loaders

    before, arguments = recalled.record.fingerprint.get("train"), recalled.recipe.data_arguments or {}
    if before is None or data.loaded is None or data.reloads_for & arguments.keys():
        return ""
    try:
        instance = data.new(**recalled.values(arguments))
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
