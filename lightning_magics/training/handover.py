"""What a fit in processes of its own gives back beside Lightning's checkpoint, and putting weights into a live model.

A checkpoint may leave out frozen weights, as the model's own `on_save_checkpoint` says; what trained all the same, what
callbacks hold without telling it as their state, and what they changed in the model and its data travels beside it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import truncated
from ..formats import first_and_more
from ..runs.randomness import preserve_random_state
from . import snapshots

FitObjects = tuple[Any, Sequence[Any], Any]  # model, callbacks and data of a fit

KEY = "lightning_magics"  # of what a checkpoint holds beside Lightning's
_OF_DATA = "data."
_TUNED = ("lr", "learning_rate", "batch_size")  # attributes that Lightning's own callbacks set
_PLAIN = bool | int | float | str | None
_COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional")  # of operators that wait for other ranks
_GROUP_CALLS = ("_get_default_group", "rendezvous", "_new_process_group_helper")  # what gives a group, and joins one


class _ValuesBefore:
    """The plain values of a model or of its data before a fit, to tell which of them it has changed.

    Args:
        owner: LightningModule or LightningDataModule instance, or None.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._hyperparameters, self._numbers = _hyperparameters(owner), _numbers(owner)

    def reset_attributes(self) -> None:
        """Leave out what has happened to attributes so far."""
        self._numbers = _numbers(self._owner)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that differ."""
        return _changed(self._hyperparameters, _hyperparameters(self._owner))

    def attributes(self, callbacks: Iterable[Any]) -> dict[str, Any]:
        """Those that differ, and those that callbacks tune."""
        return _changed(self._numbers, _numbers(self._owner)) | _tuned(self._owner, callbacks)


class FitStart:
    """A fit as it was when it began, to tell what has become of its model and its data.

    Args:
        model: LightningModule instance, as it was handed over.
        data: LightningDataModule instance, or None.
        callbacks: those that were handed over, in their order.
        anew: makes these three once more, as the notebook has them; None where no other process takes weights back.
    """

    def __init__(
        self, model: Any, data: Any, callbacks: Sequence[Any], rebuild: Callable[[], FitObjects] | None = None
    ) -> None:
        self._model, self._data = model, data
        self.callbacks = callbacks
        self._rebuild = rebuild
        self._shapes = _shapes(model.state_dict()) if rebuild is not None else {}
        self._first = self._tuned = self._tunable()
        self._before, self._data_before = _ValuesBefore(model), _ValuesBefore(data)
        self._values: dict[str, Any] = {}  # weight → what differs once it has another value

    def record_data(self) -> None:
        """Take note of the data once it is set up: what its own `setup` does, it does in the notebook too."""
        self._data_before.reset_attributes()

    def record_weights(self, model: Any) -> None:
        """Take note of the weights, right before they train, where a hook may leave some out of a checkpoint."""
        if any(_leaves_out(item) for item in (model, *model.trainer.callbacks)):
            self._values = _values(model)

    def new_changes(self) -> dict[str, tuple[Any, Any]]:
        """Return the hyperparameters and the like that have changed since this was asked last: from what to what.

        Those of the data are called ``data.NAME``.
        """
        before, self._tuned = self._tuned, self._tunable()
        return _changes(before, self._tuned)

    @property
    def data_changes(self) -> dict[str, Any]:
        """The hyperparameters and the like of the data that have changed since the beginning."""
        changes = _changes(self._first, self._tunable())
        return {name.removeprefix(_OF_DATA): new for name, (_, new) in changes.items() if name.startswith(_OF_DATA)}

    def unreturnable_weights(self) -> tuple[list[str], list[str]]:
        """Return weights that are new since this was asked last and that the notebook's model cannot be given.

        Also what hooks raised when they were to make layers for them on what the notebook has.
        """
        if self._rebuild is None or any(type(item).__name__ == "ModelPruning" for item in self.callbacks):
            return [], []  # that one saves other weights than it trains
        now = _shapes(self._model.state_dict())
        new = {name: shape for name, shape in now.items() if not _fits(self._shapes, name, shape)}
        self._shapes = now
        if not new:
            return [], []
        possible, raised = _possible_shapes(self._rebuild, now)
        return [name for name, shape in new.items() if not _fits(possible, name, shape)], raised

    def extra_state(self, model: Any, weights: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return what travels beside a checkpoint.

        Args:
            model: at the end of its fit.
            weights: its weights.
            saved: those that the checkpoint holds.
        """
        digests = _values(model, weights.keys() - saved.keys())
        trained = [name for name in weights if name not in saved and digests.get(name) != self._values.get(name)]
        return {
            "left_out": {name: weights[name] for name in trained},
            "callbacks": [snapshots.changed_attributes(item) for item in self.callbacks],
            "attributes": self._before.attributes(self.callbacks),
            "hyperparameters": self._before.hyperparameters,
            "data": self._data_before.attributes(self.callbacks),
            "data_hyperparameters": self._data_before.hyperparameters,
        }

    def _tunable(self) -> dict[str, Any]:
        of_data = _tunable(self._data, self.callbacks)
        return _tunable(self._model, self.callbacks) | {f"{_OF_DATA}{name}": of_data[name] for name in of_data}


def dump_checkpoint(trainer: Any, weights: Mapping[str, Any], fit_start: FitStart) -> dict[str, Any]:
    """Return the checkpoint of a fit that has ended, with what travels beside it."""
    checkpoint: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # as save_checkpoint
    values = checkpoint.get(KEY, {})
    checkpoint[KEY] = {
        **values,
        **fit_start.extra_state(trainer.lightning_module, weights, checkpoint.get("state_dict", {})),
    }
    return checkpoint


def restore(
    model: Any,
    callbacks: Sequence[Any] | Callable[[], Sequence[Any]],
    state: Any,
    datamodule: Any,
    place: str = "",
) -> list[str]:
    """Put what a fit left into a live model, its callbacks and its data.

    Layers that the model lacks are made as Lightning makes them before it restores: by `configure_model` and `setup`,
    and by those hooks of callbacks that come before training.

    Args:
        model: LightningModule instance.
        callbacks: as they were handed over; or what makes others, for their hooks alone.
        state: the checkpoint.
        datamodule: of the fit, or None.
        place: where the checkpoint is, for messages.

    Returns:
        What could not be put anywhere, for the user.
    """
    beside = state.get(KEY, {})
    with _outside_process_group():
        raised = _make_layers(model, callbacks, _shapes(state["state_dict"]), datamodule)
    model.on_load_checkpoint(state)
    weights = {**state["state_dict"], **beside.get("left_out", {})}
    match_dtype(model, weights)
    model_shapes = _shapes(model.state_dict())
    without_layer = [name for name in weights if name not in model_shapes]
    misfits = [
        name for name in weights if name in model_shapes and not _fits(model_shapes, name, _shape(weights[name]))
    ]
    model.load_state_dict(
        {name: item for name, item in weights.items() if name not in (*without_layer, *misfits)}, strict=False
    )
    _apply_changes(
        model, beside.get("hyperparameters", _changed_hyperparameters(model, state)), beside.get("attributes")
    )
    attributes = beside.get("callbacks", [])
    for position, callback in enumerate(() if callable(callbacks) else callbacks):
        changes = attributes[position] if position < len(attributes) else {}
        _restore_callback(callback, state.get("callbacks", {}), changes)
    kind, why = type(model).__name__, f". {layers_failure(raised)}" if raised else ""
    notices = []
    if without_layer:
        notices.append(
            f"this {kind} has no layer for {first_and_more(without_layer, 4)} from the run; they remain in the "
            f"checkpoint"
        )
    if misfits:
        notices.append(
            f"{first_and_more(misfits, 4)} from the run have a different shape in this {kind}; they remain in the "
            f"checkpoint"
        )
    notices = [f"{text}{f' {place}' if place else ''}{why}" for text in notices]
    return notices + (_restore_data(datamodule, state, beside) if datamodule is not None else [])


def _changed_hyperparameters(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The plain hyperparameters of a checkpoint that differ from the model's."""
    current, saved = model.hparams, state.get("hyper_parameters", {})
    plain = {name: value for name, value in saved.items() if name in current and isinstance(value, _PLAIN)}
    return {
        name: value
        for name, value in plain.items()
        if isinstance(current[name], _PLAIN) and _values_differ(current[name], value)
    }


def layers_failure(raised: Sequence[str]) -> str:
    """Return why layers could not be made, of what hooks raised."""
    return f"Adding the layers raised {'; '.join(item.rstrip('.') for item in dict.fromkeys(raised))}"


def _restore_data(datamodule: Any, state: Mapping[str, Any], beside: Mapping[str, Any]) -> list[str]:
    """Put what a fit left into its live data; returns what could not be, for the user."""
    _apply_changes(datamodule, beside.get("data_hyperparameters", {}), beside.get("data"))
    kind = type(datamodule)
    if kind.__qualname__ in state:  # as Lightning calls it there
        try:
            datamodule.load_state_dict(state[kind.__qualname__])
        except Exception as error:  # whatever the user's hook raises
            return [f"the state of {kind.__name__} cannot be restored: {_error_text(error)}"]
    return []


def _is_of(model: Any, package: str) -> bool:
    """Whether a model is of a Lightning package."""
    return any(cls.__module__.startswith(f"{package}.") for cls in type(model).__mro__)


def missing_weights(model: Any, state: Mapping[str, Any]) -> list[str]:
    """Return the weights of a model that a checkpoint does not hold."""
    saved = {**state["state_dict"], **state.get(KEY, {}).get("left_out", {})}
    return [name for name in model.state_dict() if name not in saved]


def make_layers(model: Any, weights: Mapping[str, Any]) -> None:
    """Make layers that weights are for and a model lacks, as its own hooks do at the beginning of a fit."""
    with _outside_process_group():
        _make_layers(model, [], _shapes(weights), None)


def _possible_shapes(rebuild: Callable[[], FitObjects], shapes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The shapes of the weights that the notebook's model can have, and what hooks raised when they were to make them.

    Args:
        rebuild: makes the model, its callbacks and its data as the notebook has them.
        shapes: those that are to be made.
    """
    try:
        with preserve_random_state(), _outside_process_group():
            model, callbacks, data = rebuild()
            raised = _make_layers(model, callbacks, shapes, data)
            return _shapes(model.state_dict()), raised
    except Exception as error:  # a trial must not end what trains
        return {}, [_error_text(error)]


class _NoExchange(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it what needs other ranks raises at once: they may never come to it, and all would wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in _COLLECTIVES:
            _refuse()
        return func(*args, **(kwargs or {}))


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ValueError("a hook uses the process group, which exists only during the fit")


@contextlib.contextmanager
def _outside_process_group() -> Iterator[None]:
    """Within it this process belongs to no group, and cannot join one: as the notebook's."""
    distributed: Any = torch.distributed
    if not distributed.is_available():
        yield
        return
    module = distributed.distributed_c10d
    calls = {
        name: getattr(module, name) for name in _GROUP_CALLS
    }  # where a hook may import `init_process_group` by name
    group, distributed.group.WORLD = distributed.group.WORLD, None
    for name in calls:
        setattr(module, name, _refuse)
    try:
        with _NoExchange():  # type: ignore[no-untyped-call] # a hook may have kept a group
            yield
    finally:
        distributed.group.WORLD = group
        for name, function in calls.items():
            setattr(module, name, function)


def _make_layers(
    model: Any, callbacks: Sequence[Any] | Callable[[], Sequence[Any]], shapes: Mapping[str, Any], data: Any
) -> list[str]:
    """Make layers that weights of these shapes are for and a model lacks: none if it lacks none.

    Callbacks stay as they are: their hooks run on copies, and ran where the model trained.

    Returns:
        What hooks raised.
    """
    raised: list[str] = []

    def is_whole() -> bool:
        present = _shapes(model.state_dict())
        return all(_fits(present, name, shape) for name, shape in shapes.items())

    def attempt(steps: Iterable[Callable[[], Any]]) -> list[Callable[[], Any]]:
        """Run them until all layers are there; returns those that raised."""
        failed = []
        for step in steps:
            if is_whole():
                break
            try:
                with preserve_random_state():
                    step()
            except Exception as error:  # a hook that needs more than there is: what it makes is named
                raised.append(_error_text(error))
                failed.append(step)
        return failed

    attempt([model.configure_model])
    if is_whole():
        return []
    candidates = callbacks() if callable(callbacks) else callbacks
    users = [item for item in candidates if not type(item).__module__.startswith(("pytorch_lightning.", "lightning."))]
    uncopied: list[str] = []
    copies = _copies(users, model, uncopied)
    trainer, before = _bare_trainer(model, copies), getattr(model, "_trainer", None)
    trainer.datamodule = data
    steps: list[Callable[[], Any]] = [functools.partial(item.setup, trainer, model, "fit") for item in copies]
    steps += [functools.partial(model.setup, "fit"), model.configure_model]
    steps += [functools.partial(item.on_fit_start, trainer, model) for item in copies]
    steps.append(model.on_fit_start)
    steps += [functools.partial(item.on_train_start, trainer, model) for item in copies]
    model.trainer = trainer
    try:
        failed = attempt(steps)
        if failed and data is not None and not is_whole():  # they may need data that is set up
            raised.clear()
            attempt([functools.partial(_set_up, data, trainer), *failed])
    finally:
        model._trainer = before
    return [*uncopied, *raised]


def _bare_trainer(model: Any, callbacks: Sequence[Any]) -> Any:
    """A Trainer of a fit that hooks can look at, with a model; it never runs."""
    package = "lightning.pytorch" if _is_of(model, "lightning.pytorch") else "pytorch_lightning"
    fabric = "lightning.fabric" if package == "lightning.pytorch" else "lightning_fabric"
    environment = importlib.import_module(f"{fabric}.plugins.environments").LightningEnvironment()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with _silent(package):
        trainer = importlib.import_module(package).Trainer(
            accelerator="cpu", devices=1, max_epochs=0, plugins=[environment], **quiet
        )
    trainer.callbacks = list(callbacks)  # given to it, a progress bar of the user's would be refused
    trainer.strategy.connect(model)
    trainer.state.fn = importlib.import_module(f"{package}.trainer.states").TrainerFn.FITTING
    return trainer


def _set_up(data: Any, trainer: Any) -> None:
    """Set data up for a fit, as its Trainer would."""
    before, data.trainer = data.trainer, trainer
    try:
        data.setup("fit")
    finally:
        data.trainer = before


def _copies(callbacks: Iterable[Any], model: Any, raised: list[str]) -> list[Any]:
    """Copy callbacks, which may hold the model itself; what cannot be copied is left out, and why is added."""
    copies = []
    for item in callbacks:
        try:
            copies.append(copy.deepcopy(item, {id(model): model}))
        except Exception as error:  # of an open file and the like
            raised.append(f"{_error_text(error)} while copying {type(item).__name__}")
    return copies


def _error_text(error: Exception) -> str:
    return truncated(f"{type(error).__name__}: {' '.join(str(error).split())}")


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


def _restore_callback(callback: Any, states: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Put what a callback has become into the one of the notebook."""
    state = states.get(callback.state_key)
    for name, value in attributes.items():
        with contextlib.suppress(AttributeError):  # a property of a class that was defined again
            setattr(callback, name, value)
    if state is not None:
        if isinstance(state, Mapping) and "dirpath" in state and hasattr(callback, "dirpath"):
            callback.dirpath = state["dirpath"]  # else Lightning leaves the best score aside
        callback.load_state_dict(state)


def match_dtype(model: Any, weights: Mapping[str, Any]) -> None:
    """Give a model the weights' type, as training it with ``--precision bf16-true`` or ``64-true`` does."""
    types = {item.dtype for item in weights.values() if isinstance(item, torch.Tensor) and item.is_floating_point()}
    model_types = {item.dtype for item in model.parameters() if item.is_floating_point()}
    if len(types) == 1 and types != model_types:
        model.to(types.pop())


def _tunable(owner: Any, callbacks: Iterable[Any]) -> dict[str, Any]:
    """What callbacks tune in a model or in data, and their hyperparameters, which go before attributes of that name."""
    return _tuned(owner, callbacks) | _hyperparameters(owner)


def _tuned(owner: Any, callbacks: Iterable[Any]) -> dict[str, Any]:
    """The attributes of a model or of data that callbacks tune, as far as they are plain values."""
    attributes = vars(owner) if owner is not None else {}
    tuned_names = [getattr(item, name, "") or "" for item in callbacks for name in ("_attr_name", "_batch_arg_name")]
    return {
        name: attributes[name]
        for name in (*_TUNED, *tuned_names)
        if name in attributes and isinstance(attributes[name], _PLAIN)
    }


def _hyperparameters(owner: Any) -> dict[str, Any]:
    """The hyperparameters of a model or of data that are plain values."""
    try:
        values = dict(owner.hparams) if owner is not None else {}
    except Exception:  # whatever a property of the user's raises
        return {}
    return {name: value for name, value in values.items() if isinstance(value, _PLAIN)}


def _numbers(owner: Any) -> dict[str, Any]:
    """The attributes that are numbers, such as a weight that is annealed; not flags, which may tell of an object."""
    attributes = vars(owner) if owner is not None else {}
    return {name: value for name, value in attributes.items() if type(value) in (int, float)}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The plain values that differ: from what to what."""
    return {name: (before.get(name), value) for name, value in now.items() if _values_differ(before.get(name), value)}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that were there before and differ."""
    return {name: value for name, (_, value) in _changes(before, now).items() if name in before}


def _values_differ(first: Any, second: Any) -> bool:
    """Whether two plain values differ; NaN is NaN."""
    return bool(first != second) and not (first != first and second != second)


def _apply_changes(owner: Any, hyperparameters: Mapping[str, Any], attributes: Mapping[str, Any] | None) -> None:
    """Set hyperparameters and attributes that a fit changed where a model or data has them.

    Args:
        owner: the model or the data.
        hyperparameters: those that differ.
        attributes: those of this name are set to them alone, since they may be made from a hyperparameter. None where
            they are unknown: then one that has the value of its hyperparameter follows it.
    """
    current = vars(owner)
    if attributes is None:
        mirrored = [name for name in hyperparameters if name in current and isinstance(current[name], _PLAIN)]
        known_values = _hyperparameters(owner)
        attributes = {
            name: hyperparameters[name]
            for name in mirrored
            if name in known_values and current[name] == known_values[name]
        }
    for name, value in attributes.items():
        if name in current:
            setattr(owner, name, value)
    for name, value in hyperparameters.items():
        if name in owner.hparams:
            owner.hparams[name] = value


def _leaves_out(item: Any) -> bool:
    """Whether a model or a callback has a hook of its own when a checkpoint is saved."""
    library_modules = ("pytorch_lightning.", "lightning.", "lightning_magics.")
    return not getattr(item.on_save_checkpoint, "__module__", "").startswith(library_modules)


def _values(model: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """What tells the values of a model's weights apart; of all of them, or of some.

    Not a tensor's version: what is written through ``.data`` and the statistics of batch norm do not count in it.
    """
    state = model.state_dict(keep_vars=True)
    return {name: _digest(item) for name, item in state.items() if names is None or name in names}


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
    """The shape of a tensor; None of what is no tensor, or takes its shape from what it is given."""
    return tuple(item.shape) if isinstance(item, torch.Tensor) and not torch.nn.parameter.is_lazy(item) else None


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shape(item) for name, item in weights.items()}


def _fits(shapes: Mapping[str, Any], name: str, shape: Any) -> bool:
    """Whether a model whose weights have some shapes can take one of this name and shape."""
    return name in shapes and shapes[name] in (None, shape)
