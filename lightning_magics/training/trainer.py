"""Making the Trainer of a job, and the callbacks, loggers and plugins that its options stand for.

The Trainer is run by `train`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError, MissingPackage
from ..options.parser import metric_and_mode, metric_and_patience
from ..runs.folder import RunFolder
from ..scores import Mode
from . import loggers
from .checkpoints import direct_io
from .directions import MetricDirections
from .job import Job


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


def trainer_defaults(package: str) -> dict[str, Any]:
    """Trainer's parameters and their defaults."""
    parameters = inspect.signature(trainer_class(package).__init__).parameters
    return {name: item.default for name, item in parameters.items() if name != "self"}


def make_trainer(job: Job, reporters: Sequence[Any], directions: MetricDirections) -> Any:
    """Make the Trainer of a job.

    Args:
        job: what it is for.
        reporters: callbacks that tell what happens, after the user's.
        directions: of the run's metrics.

    Raises:
        InputError: the arguments do not go together.
    """
    package = importlib.import_module(job.package)
    arguments = {**job.trainer}
    arguments.setdefault("devices", 1)  # on a machine of several GPUs, "auto" would take them all
    if job.amp:
        if arguments.get("precision") is not None:
            raise InputError(f"--amp and --precision {arguments['precision']} both set the precision. Remove one")
        arguments["precision"] = amp_precision(str(arguments.get("accelerator", "auto")))
    arguments.setdefault("default_root_dir", str(job.folder))
    bars = progress_bars(job)
    if job.leaves_state:  # what a bar writes would be lines of a log
        arguments["callbacks"] = [item for item in user_callbacks(job) if item not in bars]
        arguments["enable_progress_bar"] = False
        bars = []
    _check_bars(bars, arguments)
    arguments.setdefault("enable_progress_bar", bool(bars))
    if job.verb != "fit":
        # What is made in inference mode, such as a metric's state, cannot be trained with: the instance lives on.
        arguments.setdefault("inference_mode", False)
    if job.verb == "fit" and not arguments.get("barebones"):
        instances = [
            loggers.make_logger(item, job.folder, package) if isinstance(item, str) else item for item in job.loggers
        ]
        arguments["logger"] = instances or False  # in the run folder, where Lightning's users and tools look
    elif not arguments.get("barebones"):
        arguments.setdefault("logger", False)
    arguments["callbacks"] = [*_callbacks(job, package, arguments, directions), *reporters]
    arguments["plugins"] = _plugins(
        package, RunFolder(job.folder), arguments.get("plugins"), arguments.get("strategy", "auto")
    )
    try:
        return package.Trainer(**arguments)
    except (TypeError, ValueError, package.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"the Trainer does not accept its arguments: {' '.join(str(error).split())}") from error


def amp_precision(accelerator: str) -> str:
    """Mixed precision as a device prefers it: bfloat16 where the hardware has it, float16 on other GPUs."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "16-mixed"
    return "bf16-mixed"


def amp_notice(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """What to know of mixed precision on this machine: nothing where its hardware has it."""
    accelerator = str(arguments.get("accelerator", "auto"))
    is_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if is_gpu or amp_precision(accelerator) != "bf16-mixed":
        return ()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # of newer torch
    if (
        not capabilities
        or capabilities.get("architecture") != "x86_64"
        or capabilities.get("avx512_bf16")
        or capabilities.get("amx_bf16")
    ):
        return ()
    return ("this CPU has no bfloat16 instructions and emulates them in software, so training is faster without --amp",)


def user_callbacks(job: Job) -> list[Any]:
    """The user's callbacks, as Trainer's argument gives them."""
    return as_list(job.trainer.get("callbacks"))


def as_list(value: Any) -> list[Any]:
    """One or several of something that Trainer takes, or None, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def progress_bars(job: Job) -> list[Any]:
    """The progress bars among the user's callbacks: a wish to see them, where there is a cell to write to."""
    base = importlib.import_module(f"{job.package}.callbacks").ProgressBar
    return [item for item in user_callbacks(job) if isinstance(item, base)]


def _check_bars(bars: Sequence[Any], arguments: Mapping[str, Any]) -> None:
    """Refuse progress bars where another argument says that there are none.

    Raises:
        InputError: names both.
    """
    conflicts = ["--barebones"] if arguments.get("barebones") else []
    conflicts += ["--enable_progress_bar false"] if arguments.get("enable_progress_bar") is False else []
    if bars and conflicts:
        raise InputError(
            f"{conflicts[0]} cannot be combined with the progress bar {type(bars[0]).__name__} of --callbacks. "
            "Remove one of them"
        )


def reusable_objects(job: Job) -> list[Any]:
    """The objects of a job that may be used for several: callbacks, and loggers that are no names."""
    instances = [item for item in job.loggers if not isinstance(item, str)]
    return [*user_callbacks(job), *instances]


def directions_of(job: Job) -> MetricDirections:
    """Which way the metrics of a job get better, as far as that was typed.

    Raises:
        InputError: both ways were typed for one metric.
    """
    modes: dict[str, Mode] = {}
    for text in [*job.early_stop, *([job.monitor] if job.monitor else [])]:
        rest, mode = metric_and_mode(text)
        metric = rest if text == job.monitor else metric_and_patience(rest)[0]
        if mode and modes.setdefault(metric, mode) != mode:
            raise InputError(f"{metric} is set to both :min and :max. Type only one of them")
    return MetricDirections(modes, user_callbacks(job))


def _callbacks(job: Job, package: Any, arguments: dict[str, Any], directions: MetricDirections) -> list[Any]:
    """The user's callbacks, and those that the options stand for."""
    callbacks = as_list(arguments.get("callbacks"))
    if job.verb != "fit" or arguments.get("barebones"):
        if not arguments.get("barebones"):
            keeps = any(isinstance(item, package.callbacks.Checkpoint) for item in callbacks)
            arguments.setdefault("enable_checkpointing", keeps)
            arguments.setdefault("enable_model_summary", False)
        return callbacks
    for option in job.early_stop:
        callbacks.append(directions.with_decided_mode(_early_stopping(package, option)))
    checkpoint_class = package.callbacks.ModelCheckpoint
    if arguments.get("enable_checkpointing") is False:
        if job.monitor:
            raise InputError(
                f"--monitor {job.monitor} saves checkpoints, but --enable_checkpointing false saves none. Remove one"
            )
    elif job.monitor or not any(isinstance(callback, package.callbacks.Checkpoint) for callback in callbacks):
        folder = RunFolder(job.folder).checkpoints_path
        # What the fit is stopped by is what it is for: without --monitor, that chooses the best checkpoint too.
        stops = [item for item in callbacks if isinstance(item, package.callbacks.EarlyStopping) and item.strict]
        if job.monitor:
            checkpoint = checkpoint_class(dirpath=folder, monitor=metric_and_mode(job.monitor)[0])
            callbacks.append(directions.with_decided_mode(checkpoint))
        elif stops:
            checkpoint = checkpoint_class(dirpath=folder, monitor=stops[0].monitor, mode=stops[0].mode)
            callbacks.append(
                directions.with_decided_mode(checkpoint) if stops[0] not in user_callbacks(job) else checkpoint
            )
        else:
            callbacks.append(checkpoint_class(dirpath=folder))
    if arguments.get("enable_model_summary") and job.rank == 0:
        print(package.utilities.model_summary.summarize(job.model))  # noqa: T201 -- asked for: shown in the cell
    if arguments.setdefault("enable_model_summary", True):
        callbacks.append(package.callbacks.ModelSummary())  # not Rich's, which prints; this one goes to the log
    return callbacks


def _early_stopping(package: Any, option: str) -> Any:
    metric, patience = metric_and_patience(metric_and_mode(option)[0])
    return package.callbacks.EarlyStopping(metric, patience=3 if patience is None else patience)


def _plugins(package: Any, folder: RunFolder, user_plugins: Any, strategy: Any) -> list[Any]:
    """Name the cluster environment: in a notebook that runs inside a Slurm job, Lightning would guess one.

    And write checkpoints straight, where neither the user nor the strategy has a way of their own.
    """
    plugins = as_list(user_plugins)
    fabric = "lightning_fabric" if package.__name__ == "pytorch_lightning" else "lightning.fabric"
    environments = importlib.import_module(f"{fabric}.plugins.environments")
    if not any(isinstance(plugin, environments.ClusterEnvironment) for plugin in plugins):
        plugins.append(environments.LightningEnvironment())
    checkpoint_io = importlib.import_module(f"{fabric}.plugins").CheckpointIO
    plain = isinstance(strategy, str) and (strategy == "auto" or strategy.startswith("ddp"))
    if plain and not any(isinstance(plugin, checkpoint_io) for plugin in plugins):
        plugins.append(direct_io(package.__name__, folder))
    return plugins


def bridged(datamodule: Any, package: str) -> Any:
    """Return a DataModule that a Trainer of a package takes: itself, or one that hands its hooks to it.

    Each of the two packages refuses the other's classes, though they are the same code; a notebook that defines its
    data before it imports its Lightning would meet that.
    """
    base = importlib.import_module(package).LightningDataModule
    if isinstance(datamodule, base):
        return datamodule
    their_base = next(cls for cls in type(datamodule).__mro__ if cls.__name__ == "LightningDataModule")

    def hand_over(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            datamodule.trainer = self.trainer
            return getattr(datamodule, name)(*args, **kwargs)

        return hook

    def read(self: Any, name: str) -> Any:
        return getattr(datamodule, name)

    def write(self: Any, name: str, value: Any) -> None:
        if hasattr(base, name):  # a hook that is replaced for its Trainer alone
            object.__setattr__(self, name, value)
        else:
            setattr(datamodule, name, value)

    overridden = [
        name
        for name, member in inspect.getmembers(type(datamodule), inspect.isfunction)
        if not name.startswith("__") and member is not getattr(their_base, name, None) and hasattr(base, name)
    ]
    overridden += [name for name, member in vars(datamodule).items() if callable(member) and hasattr(base, name)]
    hooks = {name: hand_over(name) for name in overridden}
    cls: Any = type(type(datamodule).__name__, (base,), {**hooks, "__getattr__": read, "__setattr__": write})
    return cls.__new__(cls)  # its attributes are those of the other, so that what a callback sets is set there
