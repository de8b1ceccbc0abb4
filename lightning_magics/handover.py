"""What a fit in processes of its own gives back beside Lightning's checkpoint, and putting weights into a live model.

A checkpoint may leave out frozen weights, as the model's own `on_save_checkpoint` says; what trained all the same, what
callbacks hold without telling it as their state, and what they changed in the model travels beside it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from . import snapshots
from .randomness import random_state_kept

_KEY = "lightning_magics"
_MOST_NAMED = 4
_TUNED = ("lr", "learning_rate", "batch_size")  # attributes that Lightning's own callbacks set


class Beginning:
    """A model as it was when its fit began, to tell what has become of it.

    Args:
        model: LightningModule instance.
        callbacks: those that were handed over, in their order.
    """

    def __init__(self, model: Any, callbacks: Sequence[Any]) -> None:
        self._callbacks = callbacks
        self._tuned = _tunable(model, callbacks)
        self._values: dict[str, Any] = {}  # weight → what differs once it has another value

    def training(self, model: Any) -> None:
        """Take note of the weights, right before they train, where a hook may leave some out of a checkpoint."""
        if any(_leaves_out(item) for item in (model, *model.trainer.callbacks)):
            self._values = _values(model)

    def tuned(self, model: Any) -> dict[str, tuple[Any, Any]]:
        """Return the hyperparameters and the like that have changed since this was asked last: from what to what."""
        now = _tunable(model, self._callbacks)
        before, self._tuned = self._tuned, now
        return {name: (before.get(name), value) for name, value in now.items() if _differ(before.get(name), value)}

    def beside(self, model: Any, whole: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        """Return what travels beside a checkpoint.

        Args:
            model: at the end of its fit.
            whole: its weights.
            kept: those that the checkpoint holds.
        """
        now = _values(model, whole.keys() - kept.keys())
        trained = [name for name in whole if name not in kept and now.get(name) != self._values.get(name)]
        return {
            "left_out": {name: whole[name] for name in trained},
            "callbacks": [snapshots.changed(item) for item in self._callbacks],
            "attributes": _tunable(model, self._callbacks),
        }


def dumped(trainer: Any, whole: Mapping[str, Any], beginning: Beginning) -> dict[str, Any]:
    """Return the checkpoint of a fit that has ended, with what travels beside it."""
    found: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # as save_checkpoint
    found[_KEY] = beginning.beside(trainer.lightning_module, whole, found.get("state_dict", {}))
    return found


def take(model: Any, callbacks: Sequence[Any] | Callable[[], Sequence[Any]], state: Any, datamodule: Any) -> list[str]:
    """Put what a fit left into a live model and its callbacks.

    Layers that the model lacks are made as Lightning makes them before it restores: by `configure_model` and `setup`,
    and by those hooks of callbacks that come before training.

    Args:
        model: LightningModule instance.
        callbacks: as they were handed over; or what makes others, for their hooks alone.
        state: the checkpoint.
        datamodule: of the fit, for hooks that look at it; or None.

    Returns:
        What could not be put anywhere, for the user.
    """
    beside = state.get(_KEY, {})
    _make_layers(model, callbacks, state["state_dict"], datamodule)
    model.on_load_checkpoint(state)
    weights = {**state["state_dict"], **beside.get("left_out", {})}
    _take_type(model, weights)
    own = model.state_dict()
    unknown = [name for name in weights if name not in own]
    other = [name for name in weights if name in own and _shape(weights[name]) != _shape(own[name])]
    model.load_state_dict(
        {name: item for name, item in weights.items() if name not in (*unknown, *other)}, strict=False
    )
    for name, value in beside.get("attributes", {}).items():
        _set(model, name, value)
    attributes = beside.get("callbacks", [])
    for place, callback in enumerate(() if callable(callbacks) else callbacks):
        _take_state(callback, state.get("callbacks", {}), attributes[place] if place < len(attributes) else {})
    kind = type(model).__name__
    told = (
        [f"this {kind} has no layer for {listed(unknown)} of the run; they remain in the checkpoint"] if unknown else []
    )
    return told + ([f"{listed(other)} of the run have a different shape in this {kind}"] if other else [])


def _is_of(model: Any, package: str) -> bool:
    """Whether a model is of a Lightning package."""
    return any(cls.__module__.startswith(f"{package}.") for cls in type(model).__mro__)


def absent(model: Any, state: Mapping[str, Any]) -> list[str]:
    """Return the weights of a model that a checkpoint does not hold."""
    held = {**state["state_dict"], **state.get(_KEY, {}).get("left_out", {})}
    return [name for name in model.state_dict() if name not in held]


def _make_layers(
    model: Any, callbacks: Sequence[Any] | Callable[[], Sequence[Any]], weights: Mapping[str, Any], data: Any
) -> None:
    """Make layers that weights are for and a model lacks: none if it lacks none."""

    def is_whole() -> bool:
        return not weights.keys() - model.state_dict().keys()

    if is_whole():
        return
    model.configure_model()
    if is_whole():
        return
    given = callbacks() if callable(callbacks) else callbacks
    others = [item for item in given if not type(item).__module__.startswith(("pytorch_lightning.", "lightning."))]
    own = [
        item for item in (_copied(other, model) for other in others) if item is not None
    ]  # their hooks ran where the model trained
    package = "lightning.pytorch" if _is_of(model, "lightning.pytorch") else "pytorch_lightning"
    lightning, before = importlib.import_module(package), getattr(model, "_trainer", None)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with _silent(package):
        trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=0, callbacks=own, **quiet)
    trainer.datamodule = data
    trainer.strategy.connect(model)
    trainer.state.fn = importlib.import_module(f"{package}.trainer.states").TrainerFn.FITTING
    steps: list[Callable[[], Any]] = [functools.partial(item.setup, trainer, model, "fit") for item in own]
    steps.append(functools.partial(model.setup, "fit"))
    steps += [functools.partial(item.on_fit_start, trainer, model) for item in own]
    steps.append(model.on_fit_start)
    steps += [functools.partial(item.on_train_start, trainer, model) for item in own]
    model.trainer = trainer
    try:
        for step in steps:
            if is_whole():
                break
            with (
                random_state_kept(),
                contextlib.suppress(Exception),
            ):  # a hook that needs more than there is: what it makes is named
                step()
    finally:
        model._trainer = before


def _copied(callback: Any, model: Any) -> Any:
    """A callback of the same kind, whose hooks change the model alone; None where it cannot be copied."""
    try:
        return copy.deepcopy(callback, {id(model): model})
    except Exception:  # of an open file and the like
        return None


@contextlib.contextmanager
def _silent(package: str) -> Iterator[None]:
    """Within it Lightning says nothing of devices: nothing runs on them."""
    log = logging.getLogger(package)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _take_state(callback: Any, states: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Put what a callback has become into the one of the notebook."""
    state = states.get(callback.state_key)
    for name, value in attributes.items():
        with contextlib.suppress(AttributeError):  # a property of a class that was defined again
            setattr(callback, name, value)
    if state is not None:
        if isinstance(state, Mapping) and "dirpath" in state and hasattr(callback, "dirpath"):
            callback.dirpath = state["dirpath"]  # else Lightning leaves the best score aside
        callback.load_state_dict(state)


def _take_type(model: Any, weights: Mapping[str, Any]) -> None:
    """Give a model the weights' type, as training it with ``--precision bf16-true`` or ``64-true`` does."""
    types = {item.dtype for item in weights.values() if isinstance(item, torch.Tensor) and item.is_floating_point()}
    own = {item.dtype for item in model.parameters() if item.is_floating_point()}
    if len(types) == 1 and types != own:
        model.to(types.pop())


def _tunable(model: Any, callbacks: Iterable[Any]) -> dict[str, Any]:
    """The hyperparameters of a model that are plain values, and the attributes that callbacks tune."""
    names = [*_TUNED, *(getattr(item, "_attr_name", "") or "" for item in callbacks)]
    found = {name: vars(model)[name] for name in names if name in vars(model)}
    with contextlib.suppress(Exception):  # whatever a property of the user's raises
        found |= dict(model.hparams)
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str | None)}


def _differ(one: Any, other: Any) -> bool:
    """Whether two plain values differ; NaN is NaN."""
    return bool(one != other) and not (one != one and other != other)


def _set(model: Any, name: str, value: Any) -> None:
    """Set a hyperparameter or an attribute where the model has it."""
    if name in vars(model):
        setattr(model, name, value)
    if name in model.hparams:
        model.hparams[name] = value


def _leaves_out(item: Any) -> bool:
    """Whether a model or a callback has a hook of its own when a checkpoint is saved."""
    known = ("pytorch_lightning.", "lightning.", "lightning_magics.")
    return not getattr(item.on_save_checkpoint, "__module__", "").startswith(known)


def _values(model: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """What tells the values of a model's weights apart; of all of them, or of some.

    Not a tensor's version: what is written through ``.data`` and the statistics of batch norm do not count in it.
    """
    found = model.state_dict(keep_vars=True)
    return {name: _digest(item) for name, item in found.items() if names is None or name in names}


def _digest(tensor: Any) -> Any:
    """A hash of all of a tensor's values; None of what is no tensor, or has none yet."""
    if not isinstance(tensor, torch.Tensor) or torch.nn.parameter.is_lazy(tensor):
        return None
    try:
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return hashlib.blake2b(flat.numpy().data, digest_size=16).digest()
    except Exception:  # a tensor of another kind, such as one that several ranks have parts of
        return id(tensor), tensor._version


def _shape(item: Any) -> Any:
    return tuple(item.shape) if isinstance(item, torch.Tensor) and not torch.nn.parameter.is_lazy(item) else None


def listed(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
