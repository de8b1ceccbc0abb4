"""The loggers that can be asked for by name, each writing in the run's folder or beside it.

Those that are given as objects are used as they are, by `trainer`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingPackage
from ..runs.folder import RunFolder
from .tensorboard import tensorboard_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_WRITERS = ("log_hyperparams", "log_metrics", "log_graph", "see_batch", "after_save_checkpoint", "save", "finalize")


def _silence_when_removed(folder: Path, instance: Any) -> Any:
    """Let a logger that writes in the folder of a run write nothing once that was removed: the fit goes on."""
    base: Any = type(instance)

    def unless_removed(name: str) -> Any:
        @functools.wraps(getattr(base, name))
        def write(self: Any, *args: Any, **options: Any) -> Any:
            try:
                return None if RunFolder(folder).is_removed() else getattr(base, name)(self, *args, **options)
            except OSError:
                if not RunFolder(folder).is_removed():
                    raise

        return write

    methods = {name: unless_removed(name) for name in _WRITERS if hasattr(base, name)}
    instance.__class__ = type(base.__name__, (base,), {"__module__": base.__module__, **methods})
    return instance


@contextlib.contextmanager
def hyperparameters_written(package: str) -> Iterator[None]:
    """Within it Lightning's loggers write ``hparams.yaml`` without OmegaConf where that cannot hold a value.

    Where OmegaConf is installed, Lightning converts all values for it, and fails at a range, a frozen dataclass, or
    text such as ``${``; where it is not, Lightning writes them.

    Args:
        package: Lightning package.
    """
    write = importlib.import_module(f"{package}.core.saving").save_hparams_to_yaml

    def save(config_yaml: Any, hparams: Any, use_omegaconf: bool = True) -> None:
        try:
            write(config_yaml, hparams, use_omegaconf)
        except Exception:
            values = vars(hparams) if isinstance(hparams, Namespace) else dict(hparams)
            write(config_yaml, {name: item if _is_yaml(item) else repr(item) for name, item in values.items()}, False)

    modules = [importlib.import_module(f"{package}.loggers.{name}") for name in ("csv_logs", "tensorboard")]
    originals = [module.save_hparams_to_yaml for module in modules]
    for module in modules:
        module.save_hparams_to_yaml = save  # type: ignore[attr-defined]  # no hook comes between
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.save_hparams_to_yaml = original  # type: ignore[attr-defined]


def _is_yaml(value: Any) -> bool:
    """Whether Lightning can write a value as YAML, or leaves it out where yaml raises one of these two errors."""
    import yaml

    try:
        yaml.dump(value)
    except (TypeError, ValueError):
        return True
    except Exception:  # whatever an object raises that is taken apart
        return False
    return True


def need_plain_yaml(package: str, *owners: Any) -> bool:
    """Whether plain Lightning fails to write the hyperparameters of a model or its data: see above."""
    saving = importlib.import_module(f"{package}.core.saving")
    if not saving._OMEGACONF_AVAILABLE:
        return False
    conf, errors = (importlib.import_module(f"omegaconf{name}") for name in ("", ".errors"))
    values = {name: value for owner in owners for name, value in getattr(owner, "hparams_initial", {}).items()}
    try:
        conf.OmegaConf.to_yaml(saving.apply_to_collection(values, conf.DictConfig, conf.OmegaConf.to_container))
    except (errors.UnsupportedValueType, errors.ValidationError):  # for which Lightning has a remedy
        return False
    except Exception:  # whatever OmegaConf and its parser raise
        return True
    return False


def _tensorboard(folder: Path, package: Any) -> Any:
    root, model, version = folder.parent.parent, folder.parent.name, folder.name
    return _silence_when_removed(folder, tensorboard_logger(package.__name__, root, model, version))


def _csv(folder: Path, package: Any) -> Any:
    root, model, version = folder.parent.parent, folder.parent.name, folder.name
    return _silence_when_removed(folder, package.loggers.CSVLogger(root, name=model, version=version))


def _mlflow(folder: Path, package: Any) -> Any:
    """MLflow with its embedded store: a database beside the models' folders."""
    root = folder.parent.parent.resolve()
    database = root / "mlflow.db"
    with _locked(root / ".mlflow.lock"):  # whoever comes first makes the tables: of two at once both would
        database.touch(mode=0o600)  # its owner's alone, as a run folder is
        return package.loggers.MLFlowLogger(
            experiment_name=folder.parent.name,
            run_name=folder.name,
            tracking_uri=f"sqlite:///{database}",
            artifact_location=str(root / "mlflow_artifacts"),
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is within this, for the same path."""
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wandb(folder: Path, package: Any) -> Any:
    """Weights & Biases: a run of its own for each fit, offline unless the user has set WANDB_MODE."""
    offline = "WANDB_MODE" not in os.environ
    if offline:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb would report to its makers even so
    if f"-{os.getpid()}-" not in os.environ.get("WANDB_SERVICE", ""):
        os.environ.pop("WANDB_SERVICE", None)  # the kernel's service would end with it, a run in the background not
    import wandb
    from lightning_utilities.core.rank_zero import rank_zero_only

    base: Any = package.loggers.WandbLogger

    class WandbLogger(base):  # type: ignore[misc]  # of one of the two packages
        """Has a run of its own and ends it with the fit: wandb itself goes on with one until the process ends."""

        _experiment: Any

        @property
        def experiment(self) -> Any:
            first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning's own way to tell
            if self._experiment is None and first and wandb.run is not None:
                # The user's own run, which Lightning would log into.
                self._experiment = wandb.init(**self._wandb_init, reinit="create_new")
                self._experiment.define_metric("trainer/global_step")
                self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            return base.experiment.fget(self)

        def finalize(self, status: str) -> None:
            super().finalize(status)
            if self._experiment is not None:
                self._wandb_init["id"] = self._experiment.id  # for the case that the Trainer is used again
                self._experiment.finish(exit_code=0 if status in ("success", "finished") else 1)
                self._experiment = None

    logger = WandbLogger(
        name=folder.name,
        save_dir=folder,
        project=os.environ.get("WANDB_PROJECT") or folder.parent.name,
        mode="offline" if offline else None,
        settings=wandb.Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous")  # of which wandb warns in the cell, although nobody set it
    return logger


MAKERS = {"tensorboard": _tensorboard, "csv": _csv, "mlflow": _mlflow, "wandb": _wandb}


def make_logger(name: str, folder: Path, package: Any) -> Any:
    """Make a logger.

    Args:
        name: one of `MAKERS`.
        folder: of the run.
        package: Lightning package, imported.

    Raises:
        MissingPackage: what it needs is not installed.
    """
    try:
        return MAKERS[name](folder, package)
    except ModuleNotFoundError as error:
        raise MissingPackage(name, f"--logger {name}", f"'lightning-magics[{name}]'") from error
