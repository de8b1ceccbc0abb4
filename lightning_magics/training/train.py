"""Running a job: one job in, events out, the same in the kernel and in any other process.

The Trainer is made in `trainer`, and events come from `reporter`. Starting the process and showing the events is in
`launch/kernel` and `launch/spawned`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import pickle
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import InputError, RunError, truncated
from ..formats import plural
from ..runs import columns
from ..runs.events import Ended, Event, Notice, Results, Started, Status
from ..runs.folder import RunFolder, display_path, removed_message
from ..transport import payload
from ..transport.loader_workers import loader_workers_ignore_interrupts
from ..transport.stop import Abort, StopFlag, StopRequested
from . import checkpoints, handover, main_module, origins, snapshots, trust
from .batches import describe, joined, named_inputs
from .classification import classification_callback
from .job import Job
from .loggers import hyperparameters_written
from .messages import redirected_messages
from .reporter import label_problem, reporter, unlogged_monitor_problem
from .trainer import as_list, bridged, directions_of, make_trainer, reusable_objects, user_callbacks

_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")  # by Lightning


@dataclass(frozen=True)
class Outcome:
    """What a job gave back besides its events.

    Attributes:
        trainer: the Trainer, at its end.
        predictions: of predict: a tensor (or dict or tuple of tensors) in input order, a list of such for several
            dataloaders, or the list of batch outputs where they cannot be joined.
    """

    trainer: Any
    predictions: Any = None


def train(
    job: Job,
    emit: Callable[[Event], None],
    stop: StopFlag,
    gather: Callable[[Any, Any], Any] | None = None,
    reload_job: Callable[[], Job] | None = None,
) -> Outcome:
    """Run a job to its end, telling it by events: `Started` first, exactly one `Ended` last.

    Args:
        job: what to run.
        emit: takes each event.
        stop: looked at before each batch.
        gather: one of several ranks predicts: makes all ranks' batch outputs of this one's and the Trainer.
        reload_job: of a process that trains for a notebook: reads the job once more, as the notebook has it.

    Raises:
        InputError: the job cannot start: Trainer's arguments, data or checkpoint; then no event was sent.
        KeyboardInterrupt: the user's code raised it.
        BaseException: whatever the user's code raised, after ``Ended("failed")``.
    """
    began = time.monotonic()
    folder = RunFolder(job.folder)
    directions = directions_of(job)
    fit_start = None
    if job.verb == "fit":
        rebuild = functools.partial(_fit_objects, reload_job) if reload_job is not None else None
        fit_start = handover.FitStart(job.model, job.datamodule, user_callbacks(job), rebuild)
    lineage = origins.carried_values(columns.load_schema(folder), folder) if job.verb == "fit" else None
    watcher = reporter(
        job.package,
        emit,
        stop,
        folder.last_checkpoint_path,
        directions,
        fit_start,
        job.leaves_state,
        lineage,
    )
    with (
        redirected_messages(folder.log_path(job.rank), lambda text: emit(Notice(text))),
        loader_workers_ignore_interrupts(),
        _writers_end_quietly(folder),
        hyperparameters_written(job.package),
    ):
        job = continue_job(rewind_job(job))
        added = [classification_callback(job.package, job.datamodule, emit, job.classes)] if job.verb == "test" else []
        trainer = make_trainer(job, [*added, watcher], directions)
        _check_before_start(job, trainer)
        emit(_started_event(job, trainer))
        watcher.tell_directions(trainer, directions.requested)
        for text in job.notices:
            emit(Notice(text, level="info"))
        former_trainer = getattr(job.model, "_trainer", None)
        status: Status = "failed"
        error, predictions = "", None
        try:
            with trust.harmless_allowed(job.checkpoint if job.weights_only else None):
                predictions = _run(job, trainer, emit, gather)
            status = "interrupted" if watcher.cut_short else "completed"
            if text := _nothing_trained(job, trainer, watcher):
                emit(Notice(text, level="loss"))
        except StopRequested:
            status = "interrupted"
        except Abort:
            status, error = "interrupted", "stopped immediately by a second interrupt"
            raise
        except SystemExit as raised:
            if isinstance(raised.__context__, KeyboardInterrupt):  # Lightning's answer to one
                status, error = "interrupted", "KeyboardInterrupt"
                raise KeyboardInterrupt from None
            error = truncated(f"SystemExit: {raised}")
            raise
        except BaseException as raised:
            error = truncated(f"{type(raised).__name__}: {raised}")
            text = unlogged_monitor_problem(raised, trainer) or _label_problem(raised, job, watcher)
            if text:
                error = f"InputError: {text}"
                raise InputError(text) from raised
            if _is_of_removed(raised, folder):
                text = f"{removed_message(folder)} {type(job.model).__name__} in memory keeps its current weights"
                error = f"RunError: {text}"
                raise RunError(text) from raised
            _explain(raised, job, watcher)
            raise
        finally:
            stop.end()
            watcher.tell_epoch(trainer)
            watcher.batch = None
            snapshots.record_last([*reusable_objects(job), *trainer.callbacks])
            added += (watcher, watcher.rates)
            trainer.callbacks = [item for item in trainer.callbacks if item not in added]  # it may run again
            if job.verb != "fit":
                job.model.trainer = former_trainer  # the fit that the next one continues
            emit(_ended_event(trainer, folder, status, time.monotonic() - began, error))
    return Outcome(trainer, predictions)


def _fit_objects(reload_job: Callable[[], Job]) -> handover.FitObjects:
    job = reload_job()
    return job.model, user_callbacks(job), job.datamodule


def _is_of_removed(error: BaseException | None, folder: RunFolder) -> bool:
    """Whether something could not be written because the run's folder was removed."""
    return isinstance(error, OSError) and str(folder.path) in str(error) and folder.is_removed()


@contextlib.contextmanager
def _writers_end_quietly(folder: RunFolder) -> Iterator[None]:
    """Within it a logger's thread says nothing of a folder that was removed: the run itself does."""
    shown_before = threading.excepthook

    def show(raised: Any) -> None:
        if not _is_of_removed(raised.exc_value, folder):
            shown_before(raised)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = shown_before


def _check_before_start(job: Job, trainer: Any) -> None:
    """Find what would fail at once.

    Raises:
        InputError: there is no data for the verb, or the checkpoint cannot be loaded.
    """
    loader = {"fit": "train", "validate": "val"}.get(job.verb, job.verb) + "_dataloader"
    owner = job.model if job.datamodule is None else bridged(job.datamodule, job.package)
    overridden = importlib.import_module(f"{job.package}.utilities.model_helpers").is_overridden
    if not job.loaders and not overridden(loader, owner):
        model = type(job.model).__name__
        if job.datamodule is None:
            remedy = f"Type %lightning_fit {model} DATA" if job.verb == "fit" else "Add it after the model"
            raise InputError(f"there is no data to {job.verb} {model} with. {remedy}")
        part = f"--{job.verb.replace('validate', 'val')}_split 0.1"
        more = f", or set aside a fraction of it: %lightning_data … {part}" if job.verb in ("validate", "test") else ""
        raise InputError(
            f"the data {type(job.datamodule).__name__} has no {loader}, which {job.verb} needs. Pass other data{more}"
        )
    if job.checkpoint is not None and job.weights_only:
        check_checkpoint(job.checkpoint)
    elif job.checkpoint is not None and (undefined := trust.undefined_in(job.checkpoint)):
        raise InputError(
            f"the checkpoint {display_path(job.checkpoint)} needs {undefined[0]}, which this notebook no longer "
            f"defines. Run the cell that defines it again"
        )


def check_checkpoint(path: Path, defined: Collection[str] = ()) -> None:
    """Check that a checkpoint holds nothing but what can be loaded safely.

    Args:
        path: of it.
        defined: names of harmless types that are going to be defined before it is loaded.

    Raises:
        InputError: it holds other objects, or is no checkpoint.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint: torch cannot read it. Type a run or another path")
    if trust.holds_defined(path, defined):
        return
    try:
        with trust.harmless_allowed(path):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        objects = trust.objects_in(path)
        listed = f" ({', '.join(objects[:4])})" if objects else ""
        raise InputError(
            f"the checkpoint {path} contains Python objects other than tensors{listed}, and loading them runs "
            "code. If you trust it, type --weights_only false"
        ) from error
    _check_content(path, state)


def _check_content(path: Path, content: Any) -> None:
    """Check that what a file holds is what Lightning saves.

    Raises:
        InputError: it is not.
    """
    if isinstance(content, Mapping) and "state_dict" in content:
        return
    holds = ", ".join(map(str, list(content)[:3])) if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise InputError(
        f"{display_path(path)} is not a Lightning checkpoint: it has no state_dict, only {holds or 'nothing'}. If "
        f"these are the weights, type model.load_state_dict(torch.load({str(path)!r}))"
    )


def rewind_job(job: Job) -> Job:
    """Put callbacks and loggers that were used before into the state in which they were handed over."""
    used = reusable_objects(job)
    if job.verb != "fit":  # they can still be read for what the last fit left
        snapshots.take_snapshots(used)
        return job
    if job.continues and was_fitted(job.model):
        used = [item for item in used if not _continues_with_model(item, job.package)]
    return dataclasses.replace(job, notices=(*job.notices, *snapshots.rewind(used)))


def _continues_with_model(item: Any, package: str) -> bool:
    """Whether a callback continues with the model: it unfreezes parts of it, or is the user's and has a state."""
    schedule = importlib.import_module(f"{package}.callbacks").BaseFinetuning
    own_state = getattr(getattr(type(item), "state_dict", None), "__module__", package)
    return isinstance(item, schedule) or not f"{own_state}.".startswith(("pytorch_lightning.", "lightning."))


@dataclass(frozen=True)
class _SavedState:
    """The state of a fit that other processes left in a file.

    Attributes:
        path: of the file; `mark` tells whether it is still the same one.
        trusted: whether it may hold other objects than tensors.
        whole: whether it holds more than the weights: a fit can go on from it.
    """

    path: Path
    mark: tuple[int, int]
    trusted: bool
    whole: bool

    @property
    def lost(self) -> str:
        """What has become of it since; empty if it is as it was."""
        if not self.path.exists():
            return f"{display_path(self.path)} no longer exists"
        return f"{display_path(self.path)} has been replaced" if _file_mark(self.path) != self.mark else ""


# Instance → state of its last fit.
_saved_states: weakref.WeakKeyDictionary[Any, _SavedState] = weakref.WeakKeyDictionary()


def _file_mark(path: Path) -> tuple[int, int]:
    """What differs when a file is written anew."""
    stats = path.stat()
    return stats.st_mtime_ns, stats.st_ino


def load_state(path: Path, trusted: bool) -> Any:
    """Read what a run saved; its tensors stay on disk until they are used.

    Args:
        path: of the file.
        trusted: whether it may hold other objects than tensors, which loading creates.

    Raises:
        InputError: it holds other objects, and is not trusted.
    """
    try:
        if trusted and not zipfile.is_zipfile(path):
            return payload.load(path)
        with trust.harmless_allowed(None if trusted else path):
            return torch.load(path, map_location="cpu", weights_only=not trusted, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{display_path(path)} contains Python objects other than tensors, and loading them runs code. If you "
            f"trust it, type torch.load({str(path)!r}, weights_only=False)"
        ) from error


def restore_fit(
    model: Any, callbacks: Any, checkpoint: Path, trusted: bool, datamodule: Any = None
) -> Mapping[str, Any]:
    """Put the state that other processes left into live objects; the rest of it stays on disk for the next fit.

    Args:
        model: LightningModule instance.
        callbacks: of the Trainer, one or several, or None; or what makes them, where their hooks are needed.
        checkpoint: what the run saved last.
        trusted: whether it may hold other objects than tensors, which loading creates.
        datamodule: of the fit, or None.

    Returns:
        What the checkpoint holds. Where `is_whole` says that it is the weights alone, the next fit begins anew.

    Raises:
        InputError: it is no checkpoint.
    """
    mark = _file_mark(checkpoint)
    with main_module.main_definitions(model):
        state = load_state(checkpoint, trusted)
        unpicklable = main_module.drop_unpicklable(model)
    _check_content(checkpoint, state)
    hook_callbacks = callbacks if callable(callbacks) else as_list(callbacks)
    for text in unpicklable + handover.restore(model, hook_callbacks, state, datamodule, display_path(checkpoint)):
        print(text)  # noqa: T201 -- for whoever takes it
    model.trainer = None
    _saved_states[model] = _SavedState(checkpoint, mark, trusted, is_whole(state))
    return cast(Mapping[str, Any], state)


def is_whole(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint holds more than the weights, and a fit can go on from it."""
    return {"callbacks", "optimizer_states", "loops"} <= state.keys()


def continue_job(job: Job) -> Job:
    """Let a job go on from the fit that its instance has behind it, if there is one.

    Epochs and steps are then counted from there, so that ``max_epochs=3`` trains three more. Lightning's callbacks
    begin as they were handed over: each fit has its own patience, best checkpoint and time.
    """
    if not job.continues or job.trainer.get("fast_dev_run"):
        return job
    state = _state_behind(job.model)
    if state is None:
        lost = _saved_states[job.model].lost if job.model in _saved_states else ""
        notice = f"the last fit cannot be continued, because {lost}. This fit keeps the weights and starts at epoch 0"
        return dataclasses.replace(job, continues=False, notices=(*job.notices, notice)) if lost else job
    path = RunFolder(job.folder).continue_checkpoint_path
    states = state.pop("callbacks")
    continuing = {item.state_key for item in reusable_objects(job) if _continues_with_model(item, job.package)}
    # What has been unfrozen is in groups of the optimizer, whose state can be restored only with them.
    kept_states = {
        key: item
        for key, item in states.items()
        if key in continuing or (isinstance(item, Mapping) and "internal_optimizer_metadata" in item)
    }
    if kept_states:
        state["callbacks"] = kept_states
    checkpoints.save(state, path)
    trainer = dict(job.trainer)
    progress = {"epochs": _epochs_done(state), "steps": state["global_step"]}
    for name in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
        if trainer.get(name) not in (None, -1):
            trainer[name] += progress[name[4:]]
    return dataclasses.replace(
        job, trainer=trainer, checkpoint=path, first_epoch=progress["epochs"], weights_only=False, continues=False
    )


def resume_job(job: Job, checkpoint: str) -> Job:
    """Let a job go on from a checkpoint of its own, where it was ended before and has begun again; empty for none."""
    if not checkpoint:
        return job
    done = _epochs_done(load_state(Path(checkpoint), trusted=True))
    return dataclasses.replace(job, checkpoint=Path(checkpoint), first_epoch=done, weights_only=False, continues=False)


def _epochs_done(state: Mapping[str, Any]) -> int:
    """Epochs that a checkpoint's fit need not train again: one that was saved at an epoch's end counts that one."""
    epochs: int = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return epochs


def was_fitted(model: Any) -> bool:
    """Whether an instance has a fit behind it, or the weights of one."""
    trainer = getattr(model, "_trainer", None)
    return (trainer is not None and trainer.global_step > 0) or model in _saved_states


def _state_behind(model: Any) -> dict[str, Any] | None:
    """The state of the fit that an instance has behind it, None if there is none."""
    trainer = getattr(model, "_trainer", None)
    if trainer is not None:
        if trainer.global_step == 0 or trainer.state.fn != "fit":
            return None
        state: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # as save_checkpoint
        return state
    saved = _saved_states.get(model)
    if saved is None or not saved.whole or saved.lost:
        return None
    state = load_state(saved.path, saved.trusted)
    return state | {"state_dict": model.state_dict()}  # the instance's weights may have been changed since


def _run(job: Job, trainer: Any, emit: Callable[[Event], None], gather: Callable[[Any, Any], Any] | None) -> Any:
    """Call the Trainer's method; returns predictions, None for the other verbs."""
    if job.verb == "fit":
        with _compiled(job) as model:
            _fit(job, model, trainer)
        return None
    data: dict[str, Any] = {"dataloaders": job.evaluation_loaders}
    if job.datamodule is not None:
        data = {"datamodule": bridged(job.datamodule, job.package)}
    if job.checkpoint is not None:
        data |= {"ckpt_path": job.checkpoint, "weights_only": job.weights_only}
    if job.verb == "predict":
        with _predicts_by_name(job), _compiled(job) as model:
            outputs = trainer.predict(model, **data)
        several = len(trainer.num_predict_batches) > 1
        if gather is not None:
            outputs = gather(outputs, trainer)
        predictions = [joined(batches) for batches in outputs] if several else joined(outputs)
        emit(Notice(f"predictions: {describe(predictions)}. To store them in a variable: -o NAME", level="info"))
        return predictions
    with _compiled(job) as model:
        rows = getattr(trainer, job.verb)(model, **data, verbose=False)
    results = [{name: float(value) for name, value in row.items()} for row in rows]
    logged = trainer.callback_metrics.items()
    emit(Results(results, {name: float(value) for name, value in logged if not any(name in row for row in results)}))
    return None


@contextlib.contextmanager
def _compiled(job: Job) -> Iterator[Any]:
    """The model as the Trainer takes it: one that was given compiled is compiled within it, and its own afterwards.

    Lightning puts compiled steps onto the instance and leaves them there: it could not be pickled, and the next fit
    would compile what is compiled.
    """
    if job.compiler is None:
        yield job.model
        return
    names = ("_compiler_ctx", *_COMPILED, "log", "log_dict")
    before = {name: vars(job.model)[name] for name in names if name in vars(job.model)}
    for name in ("log", "log_dict"):  # their look at the steps' signatures ends the compiler of torch 2.13
        setattr(job.model, name, torch._dynamo.disable(getattr(job.model, name)))  # type: ignore[no-untyped-call]
    try:
        yield torch._dynamo.OptimizedModule(job.model, job.compiler)
    finally:
        for name in names:
            vars(job.model).pop(name, None)
        vars(job.model).update(before)


@contextlib.contextmanager
def _predicts_by_name(job: Job) -> Iterator[None]:
    """Within it a model without a predict_step of its own takes from batches with names what its forward has names for.

    Lightning's own predict_step gives the whole batch to forward, as its first input.
    """
    model = job.model
    overridden = importlib.import_module(f"{job.package}.utilities.model_helpers").is_overridden
    if overridden("predict_step", model) or "predict_step" in vars(model):
        yield
        return

    def predict_step(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        named = named_inputs(model.forward, batch)
        if named is None:
            return model(batch)
        output = model(**named)
        return getattr(output, "logits", output)

    model.predict_step = predict_step
    try:
        yield
    finally:
        del model.predict_step


def _fit(job: Job, model: Any, trainer: Any) -> None:
    if job.datamodule is not None:
        data = {"datamodule": bridged(job.datamodule, job.package)}
    else:
        data = dict(zip(("train_dataloaders", "val_dataloaders"), job.loaders, strict=False))
    trainer.fit(model, **data, ckpt_path=job.checkpoint, weights_only=job.weights_only)


def _started_event(job: Job, trainer: Any) -> Started:
    parameters = [item for item in job.model.parameters() if not torch.nn.parameter.is_lazy(item)]
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    steps, nodes = trainer.max_steps, trainer.num_nodes
    return Started(
        run=RunFolder(job.folder).name,
        verb=job.verb,
        time=time.time(),
        devices=f"{trainer.num_devices * nodes} × {name}" + (f" on {nodes} nodes" if nodes > 1 else ""),
        precision=str(trainer.precision),
        parameters=sum(item.numel() for item in parameters),
        trainable_parameters=sum(item.numel() for item in parameters if item.requires_grad),
        first_epoch=job.first_epoch,
        max_epochs=None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
        max_steps=None if steps in (None, -1) else steps,
        monitor=_monitor(trainer),
        monitors=_monitors(trainer),
        checkpoint_metric=_own_monitor(job, trainer),
    )


def _monitor(trainer: Any) -> str | None:
    """The metric that chooses the best checkpoint, None if none does."""
    monitor = getattr(trainer.checkpoint_callback, "monitor", None)
    return monitor if isinstance(monitor, str) else None


def _own_monitor(job: Job, trainer: Any) -> str:
    """The metric of the best checkpoint that is kept beside those of the user's callbacks; empty if none is."""
    users = user_callbacks(job)
    added = [item for item in trainer.checkpoint_callbacks if item not in users]
    return next((item.monitor for item in added if getattr(item, "monitor", None)), "") if job.verb == "fit" else ""


def _monitors(trainer: Any) -> list[str]:
    """The metrics that decide something, that of the best checkpoint first."""
    deciding = [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]
    names = [getattr(callback, "monitor", None) for callback in deciding]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _ended_event(trainer: Any, folder: RunFolder, status: Status, elapsed_s: float, error: str) -> Ended:
    best, last = trainer.checkpoint_callback, folder.last_checkpoint_path
    path, score = getattr(best, "best_model_path", ""), getattr(best, "best_model_score", None)
    if status == "interrupted" and score is None and last.is_file():  # no metric has chosen one: the latest is
        path = last
    return Ended(
        status=status,
        elapsed_s=elapsed_s,
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        reason=_reason(trainer) if status == "completed" else "",
        error=error,
        best_model_path=str(path or ""),
        best_model_score=None if score is None else float(score),
        monitor=_monitor(trainer),
    )


def _reason(trainer: Any) -> str:
    """Why a fit ended before it reached its last epoch, where a callback decided that."""
    messages = [callback.stopping_reason_message for callback in trainer.early_stopping_callbacks]
    texts = [" ".join(text.split()).removesuffix(" Signaling Trainer to stop.") for text in messages if text]
    return "; ".join(f"early stopping: {text.removesuffix('.')}" for text in texts)


def _nothing_trained(job: Job, trainer: Any, watcher: Any) -> str:
    """Say that a fit from a checkpoint had reached its end before it began; empty for any other."""
    if job.verb != "fit" or job.checkpoint is None or watcher.trained:
        return ""
    limits = {"max_epochs": (trainer.current_epoch, "epoch"), "max_steps": (trainer.global_step, "step")}
    for name, (done, noun) in limits.items():
        limit = getattr(trainer, name)
        if limit not in (None, -1) and done >= limit:
            return (
                f"nothing was trained: the checkpoint already has {plural(done, noun)}, and --{name} {limit} includes "
                f"them. Type a larger number, such as --{name} {done + limit}"
            )
    return ""


def _label_problem(raised: BaseException, job: Job, watcher: Any) -> str:
    """What to say in place of torch's exception of a label that is no class of the model's; empty for any other."""
    is_of_batch = isinstance(raised, IndexError) and watcher.batch is not None
    return label_problem(job.model, watcher.batch, watcher.stage) if is_of_batch else ""


def _explain(raised: BaseException, job: Job, watcher: Any) -> None:
    """Add what a reader of the traceback wants to know: the batch that was at work."""
    if isinstance(raised, Exception) and watcher.batch is not None:
        raised.add_note(f"The batch was {describe(watcher.batch)}.")
    if isinstance(raised, TypeError) and "default_collate: batch must contain" in str(raised):
        name = "PIL images" if "PIL." in str(raised) else "objects"
        raised.add_note(
            f"The samples contain {name}, which cannot be batched. Convert them to tensors in the dataset, for example "
            f"with transform=torchvision.transforms.ToTensor(), or pass a DataLoader with a collate_fn"
        )
    if isinstance(raised, ValueError | KeyError) and job.first_epoch:
        raised.add_note(
            "This fit continues the instance's last one. To start a new fit from its weights: --resume none"
        )
