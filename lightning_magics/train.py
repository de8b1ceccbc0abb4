"""The only place that makes a Trainer: one job in, events out, the same in the kernel and in any other process.

What the job's model and data are is `build`'s; who starts the process and shows the events is `launch`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .callback import StopFlag, StopRequested, reporter
from .chatter import chatter
from .errors import InputError, MissingPackage
from .events import Ended, Event, Notice, Results, Started, Status, Verb
from .options import metric_and_patience
from .runs import RunFolder
from .scores import better


@dataclass(frozen=True)
class Job:
    """Everything that a training process needs.

    Attributes:
        verb: what to run.
        folder: run folder, which exists.
        package: ``pytorch_lightning`` or ``lightning.pytorch``: the one that the model's class comes from.
        model: LightningModule instance; trained in place.
        trainer: Trainer arguments, checked.
        datamodule: LightningDataModule instance, or None.
        loaders: DataLoaders where there is no datamodule: training and validation for a fit, else all of them.
        amp: mixed precision as the device prefers it.
        early_stop: ``METRIC`` or ``METRIC:PATIENCE``, any number.
        monitor: metric that chooses the best checkpoint.
        loggers: ``tensorboard``, ``csv``, ``mlflow`` or logger objects.
        checkpoint: to resume from, or None.
        continues: whether an instance that was fitted before goes on from there.
        first_epoch: epoch that a continued fit starts with.
        weights_only: load it as tensors alone.
    """

    verb: Verb
    folder: Path
    package: str
    model: Any
    trainer: Mapping[str, Any] = field(default_factory=dict)
    datamodule: Any = None
    loaders: tuple[Any, ...] = ()
    amp: bool = False
    early_stop: tuple[str, ...] = ()
    monitor: str | None = None
    loggers: tuple[Any, ...] = ("tensorboard",)
    checkpoint: Path | None = None
    continues: bool = False
    first_epoch: int = 0
    weights_only: bool = True


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


def train(job: Job, emit: Callable[[Event], None], stop: StopFlag) -> Outcome:
    """Run a job to its end, telling it by events: `Started` first, exactly one `Ended` last.

    Raises:
        InputError: the Trainer refuses its arguments; then no event was sent.
        BaseException: whatever the user's code raised, after ``Ended("failed")``.
    """
    began = time.monotonic()
    folder = RunFolder(job.folder)
    watcher = reporter(job.package, emit, stop, folder.last_checkpoint_path)
    with chatter(folder.log_path(0), lambda text: emit(Notice(text))):
        job = _continued(job)
        trainer = _make_trainer(job, watcher)
        emit(_started(job, trainer))
        before = getattr(job.model, "_trainer", None)
        status: Status = "failed"
        error, predictions = "", None
        try:
            predictions = _run(job, trainer, emit)
            status = "interrupted" if watcher.cut_short else "completed"
        except StopRequested:
            status = "interrupted"
        except BaseException as raised:
            if not isinstance(raised, Exception):
                status = "interrupted"
            error = f"{type(raised).__name__}: {raised}"
            _explain(raised, job, watcher)
            raise
        finally:
            watcher.tell_epoch(trainer)
            if job.verb != "fit" and before is not None:
                job.model.trainer = before  # the fit that the next one continues
            emit(_ended(trainer, status, time.monotonic() - began, error))
    return Outcome(trainer, predictions)


def trainer_class(package: str) -> Any:
    """The Trainer of a Lightning package.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(package).Trainer
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == package.partition(".")[0]:
            raise MissingPackage(package, "this model", package.partition(".")[0].replace("_", "-")) from error
        raise


@contextlib.contextmanager
def seeded(package: str, seed: int | None) -> Iterator[None]:
    """Seed everything within it, as Lightning does, and leave the notebook's own random state as it was.

    Args:
        package: Lightning package.
        seed: None changes nothing.
    """
    if seed is None:
        yield
        return
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    lightning = importlib.import_module(package)
    with importlib.import_module(f"{package}.utilities.seed").isolate_rng():
        lightning.seed_everything(seed, workers=True, verbose=False)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _continued(job: Job) -> Job:
    """Let a job go on from the fit that its instance has behind it, if there is one.

    Epochs and steps are then counted from there, so that ``max_epochs=3`` trains three more.
    """
    behind = getattr(job.model, "_trainer", None)
    if not job.continues or behind is None or behind.global_step == 0 or behind.state.fn != "fit":
        return job
    path = RunFolder(job.folder).continue_checkpoint_path
    state = behind._checkpoint_connector.dump_checkpoint(weights_only=False)  # save_checkpoint keeps all of it, and
    state["callbacks"].pop("Timer", None)  # each fit has its own --max_time
    torch.save(state, path)
    trainer = dict(job.trainer)
    done = {"epochs": behind.current_epoch, "steps": behind.global_step}
    for name in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
        if trainer.get(name) not in (None, -1):
            trainer[name] += done[name[4:]]
    return dataclasses.replace(job, trainer=trainer, checkpoint=path, first_epoch=done["epochs"], weights_only=False)


def bridged(datamodule: Any, package: str) -> Any:
    """Return a DataModule that a Trainer of a package takes: itself, or one that hands its hooks to it.

    Each of the two packages refuses the other's classes, though they are the same code; a notebook that defines its
    data before it imports its Lightning would meet that.
    """
    base = importlib.import_module(package).LightningDataModule
    if isinstance(datamodule, base):
        return datamodule
    theirs = next(cls for cls in type(datamodule).__mro__ if cls.__name__ == "LightningDataModule")

    def hand_over(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            datamodule.trainer = self.trainer
            return getattr(datamodule, name)(*args, **kwargs)

        return hook

    own = [
        name
        for name, member in inspect.getmembers(type(datamodule), inspect.isfunction)
        if not name.startswith("__") and member is not getattr(theirs, name, None) and hasattr(base, name)
    ]
    made = type(type(datamodule).__name__, (base,), {name: hand_over(name) for name in own})()
    if datamodule.hparams:
        made.save_hyperparameters(dict(datamodule.hparams))
    return made


def _run(job: Job, trainer: Any, emit: Callable[[Event], None]) -> Any:
    """Call the Trainer's method; returns predictions, None for the other verbs."""
    if job.verb == "fit":
        _fit(job, trainer)
        return None
    data = {"dataloaders": list(job.loaders) or None}
    if job.datamodule is not None:
        data = {"datamodule": bridged(job.datamodule, job.package)}
    if job.verb == "predict":
        found = trainer.predict(job.model, **data)
        several = len(trainer.num_predict_batches) > 1
        predictions = [joined(batches) for batches in found] if several else joined(found)
        emit(Notice(f"predictions: {describe(predictions)}", level="info"))
        return predictions
    rows = getattr(trainer, job.verb)(job.model, **data, verbose=False)
    emit(Results([{name: float(value) for name, value in row.items()} for row in rows]))
    return None


def _fit(job: Job, trainer: Any) -> None:
    if job.datamodule is not None:
        data = {"datamodule": bridged(job.datamodule, job.package)}
    else:
        data = dict(zip(("train_dataloaders", "val_dataloaders"), job.loaders, strict=False))
    try:
        trainer.fit(job.model, **data, ckpt_path=job.checkpoint, weights_only=job.weights_only)
    except pickle.UnpicklingError as error:
        if job.checkpoint is None or not job.weights_only:
            raise
        raise InputError(
            f"the checkpoint {job.checkpoint} holds Python objects besides tensors, and loading those runs code. "
            "If you trust it, type --weights_only false"
        ) from error


def _make_trainer(job: Job, watcher: Any) -> Any:
    """Make the Trainer of a job.

    Raises:
        InputError: the arguments do not go together.
    """
    package = importlib.import_module(job.package)
    arguments = {**job.trainer}
    _one_device(arguments)
    if job.amp:
        if arguments.get("precision") is not None:
            raise InputError(f"--amp chooses the precision; --precision {arguments['precision']} does too: give one")
        arguments["precision"] = amp_precision(str(arguments.get("accelerator", "auto")))
    arguments.setdefault("default_root_dir", str(job.folder))
    arguments.setdefault("enable_progress_bar", False)
    if job.verb == "fit" and not arguments.get("barebones"):
        made = [_logger(item, job, package) if isinstance(item, str) else item for item in job.loggers]
        arguments["logger"] = made or False  # in the run folder, where Lightning's users and tools look
    elif not arguments.get("barebones"):
        arguments.setdefault("logger", False)
    arguments["callbacks"] = [*_callbacks(job, package, arguments), watcher]
    arguments["plugins"] = _plugins(package, arguments.get("plugins"))
    try:
        return package.Trainer(**arguments)
    except (TypeError, ValueError, package.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"the Trainer refuses its arguments: {' '.join(str(error).split())}") from error


def _one_device(arguments: dict[str, Any]) -> None:
    """Hold an in-kernel job to one device; on a machine of several GPUs, "auto" would take them all."""
    devices = arguments.setdefault("devices", 1)
    text = str(devices).strip()
    many = (
        len(devices) > 1
        if isinstance(devices, list)
        else ("," in text.strip(",") or (text.isdecimal() and int(text) > 1))
    )
    if many or arguments.get("num_nodes", 1) > 1:
        asked = f"--devices {devices}" if many else f"--num_nodes {arguments['num_nodes']}"
        raise InputError(f"{asked} needs several processes; a fit trains in the kernel, on one device: --devices 1")
    if text in ("auto", "-1"):
        arguments["devices"] = 1
    strategy = arguments.get("strategy", "auto")
    if isinstance(strategy, str) and strategy != "auto":
        raise InputError(f"--strategy {strategy} needs processes of its own; a fit trains in the kernel: leave it out")


def amp_precision(accelerator: str) -> str:
    """Mixed precision as a device prefers it: bfloat16 where the hardware has it, float16 on other GPUs."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "16-mixed"
    return "bf16-mixed"


def _callbacks(job: Job, package: Any, arguments: dict[str, Any]) -> list[Any]:
    """The user's callbacks, and those that the options stand for."""
    given = arguments.get("callbacks")
    callbacks = list(given) if isinstance(given, list | tuple) else [given] if given else []
    if job.verb != "fit" or arguments.get("barebones"):
        if not arguments.get("barebones"):
            arguments.setdefault("enable_checkpointing", False)
            arguments.setdefault("enable_model_summary", False)
        return callbacks
    for asked in job.early_stop:
        callbacks.append(_early_stopping(package, asked))
    checkpoint_class = package.callbacks.ModelCheckpoint
    if arguments.get("enable_checkpointing") is False:
        if job.monitor:
            raise InputError(
                f"--monitor {job.monitor} keeps the best checkpoint; --enable_checkpointing false keeps none"
            )
    elif job.monitor or not any(isinstance(callback, package.callbacks.Checkpoint) for callback in callbacks):
        mode = better(job.monitor) if job.monitor else "min"
        folder = RunFolder(job.folder).checkpoints_path
        callbacks.append(checkpoint_class(dirpath=folder, monitor=job.monitor, mode=mode))
    if arguments.get("enable_model_summary"):
        print(package.utilities.model_summary.summarize(job.model))  # noqa: T201 -- asked for: shown in the cell
    if arguments.setdefault("enable_model_summary", True):
        callbacks.append(package.callbacks.ModelSummary())  # not Rich's, which prints; this one goes to the log
    return callbacks


def _early_stopping(package: Any, asked: str) -> Any:
    metric, patience = metric_and_patience(asked)
    return package.callbacks.EarlyStopping(metric, patience=patience or 3, mode=better(metric))


def _plugins(package: Any, given: Any) -> list[Any]:
    """Name the cluster environment: in a notebook that runs inside a Slurm job, Lightning would guess one."""
    plugins = list(given) if isinstance(given, list | tuple) else [given] if given else []
    fabric = "lightning_fabric" if package.__name__ == "pytorch_lightning" else "lightning.fabric"
    environments = importlib.import_module(f"{fabric}.plugins.environments")
    if not any(isinstance(plugin, environments.ClusterEnvironment) for plugin in plugins):
        plugins.append(environments.LightningEnvironment())
    return plugins


def _logger(name: str, job: Job, package: Any) -> Any:
    root, model, version = job.folder.parent.parent, job.folder.parent.name, job.folder.name
    loggers = package.loggers
    if name == "tensorboard":
        return loggers.TensorBoardLogger(root, name=model, version=version)
    if name == "csv":
        return loggers.CSVLogger(root, name=model, version=version)
    try:
        store = f"sqlite:///{root.resolve() / 'mlflow.db'}"
        return loggers.MLFlowLogger(
            experiment_name=model,
            run_name=version,
            tracking_uri=store,
            artifact_location=str(root.resolve() / "mlflow_artifacts"),
        )
    except ModuleNotFoundError as error:
        raise MissingPackage("mlflow", "--logger mlflow", "'lightning-magics[mlflow]'") from error


def _started(job: Job, trainer: Any) -> Started:
    parameters = [item for item in job.model.parameters() if not torch.nn.parameter.is_lazy(item)]
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    steps = trainer.max_steps
    return Started(
        run=RunFolder(job.folder).name,
        verb=job.verb,
        time=time.time(),
        devices=f"{trainer.num_devices} × {name}",
        precision=str(trainer.precision),
        parameters=sum(item.numel() for item in parameters),
        trainable_parameters=sum(item.numel() for item in parameters if item.requires_grad),
        first_epoch=job.first_epoch,
        max_epochs=None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
        max_steps=None if steps in (None, -1) else steps,
        monitor=getattr(trainer.checkpoint_callback, "monitor", None),
    )


def _ended(trainer: Any, status: Status, elapsed_s: float, error: str) -> Ended:
    best = trainer.checkpoint_callback
    score = getattr(best, "best_model_score", None)
    return Ended(
        status=status,
        elapsed_s=elapsed_s,
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        reason=_reason(trainer) if status == "completed" else "",
        error=error,
        best_model_path=str(getattr(best, "best_model_path", "") or ""),
        best_model_score=None if score is None else float(score),
        monitor=getattr(best, "monitor", None),
    )


def _reason(trainer: Any) -> str:
    """Why a fit ended before it reached its last epoch, where a callback decided that."""
    for callback in trainer.early_stopping_callbacks:
        if callback.stopped_epoch:
            return f"early stopping: {callback.monitor} did not improve for {callback.patience} validations"
    return ""


def _explain(raised: BaseException, job: Job, watcher: Any) -> None:
    """Add what a reader of the traceback wants to know: the batch that was at work."""
    if isinstance(raised, Exception) and watcher.batch is not None:
        raised.add_note(f"The batch was {describe(watcher.batch)}.")
    if isinstance(raised, ValueError | KeyError) and job.first_epoch:
        raised.add_note("This fit continues the instance's last one. To keep its weights and begin anew: --resume none")


def describe(value: Any) -> str:
    """Shape and type of a batch, in a line: ``(float32 (64, 1, 8, 8), int64 (64,))``."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(describe(item) for item in value[:8]) + (", …" if len(value) > 8 else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return type(value).__name__


def joined(batches: list[Any]) -> Any:
    """Join the outputs of predict's batches along the batch axis, in input order; a list where that has no meaning."""
    if not batches:
        return batches
    first = batches[0]
    if all(isinstance(batch, torch.Tensor) and batch.ndim for batch in batches):
        same = len({batch.shape[1:] for batch in batches}) == 1
        return torch.cat(batches) if same else batches
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(list(parts)) for parts in zip(*batches, strict=True))
    return batches


def arguments_of(package: str) -> dict[str, Any]:
    """Trainer's parameters and their defaults."""
    parameters = inspect.signature(trainer_class(package).__init__).parameters
    return {name: item.default for name, item in parameters.items() if name != "self"}
