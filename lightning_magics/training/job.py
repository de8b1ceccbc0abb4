"""A job: what a training process is given, the same in the kernel and in any other process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.events import Verb


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
        loggers: names of `LOGGERS` in `options/declared`, or logger objects.
        checkpoint: to resume from, or None.
        continues: whether an instance that was fitted before goes on from there.
        first_epoch: epoch that a continued fit starts with.
        weights_only: load it as tensors alone.
        leaves_state: whether the fit's whole state is left as its last checkpoint, for the process that waits for it.
        numeric_state: random state and settings of the kernel, for a job that runs in other processes.
        rank: of the process that runs it, among those that run it together.
        notices: what the user should know from the start.
        classes: of the labels of loaders, by name; empty where they have none.
        compiler: of ``torch.compile``, where the model was given compiled; it compiles the steps wherever the job runs.
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
    leaves_state: bool = False
    numeric_state: Any = None
    rank: int = 0
    notices: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    compiler: Any = None

    @property
    def evaluation_loaders(self) -> Any:
        """The loaders of an evaluation as a Trainer takes them: one as it is, for it may be a collection itself."""
        return self.loaders[0] if len(self.loaders) == 1 else list(self.loaders) or None
