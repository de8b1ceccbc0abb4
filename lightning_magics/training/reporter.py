"""Trainer hooks become events; also where a request to stop takes effect, at a batch boundary.

It never draws: who shows the events is not known here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import InputError, did_you_mean
from ..formats import first_and_more, first_few
from ..runs import events
from ..runs.events import Event, Fingerprint, Metrics, Notice, Stage, Step
from ..runs.fingerprint import fingerprints
from ..runs.folder import display_path
from ..runs.provenance import json_values
from ..transport.stop import StopFlag, StopRequested
from . import class_range, snapshots
from .batches import input_conversions
from .directions import MetricDirections
from .handover import KEY, FitStart, dump_checkpoint, layers_failure

_STEP_INTERVAL_S = 0.2  # five a second are enough to look alive
_MOST_INTERVAL_S = 1.0  # of a run that goes on for long: its file stays small
_KEEPS_WEIGHTS_WHOLE = ("SingleDeviceStrategy", "DDPStrategy")  # others have parts of them on each rank

# Lightning's running stage: ours, and the Trainer's property that counts its batches by dataloader.
_EVALUATIONS: dict[str, tuple[Stage, str]] = {
    "sanity_check": ("sanity", "num_sanity_val_batches"),
    "validate": ("validate", "num_val_batches"),
    "test": ("test", "num_test_batches"),
    "predict": ("predict", "num_predict_batches"),
}


class _Reporter:
    """The hooks, without the base class: each of the two Lightning packages has a Callback of its own."""

    _rate_monitor: Any  # Lightning's class

    def __init__(
        self,
        emit: Callable[[Event], None],
        stop: StopFlag,
        save_to: Path,
        directions: MetricDirections,
        fit_start: FitStart | None,
        save_end: bool,
        lineage: Mapping[str, Any] | None,
    ) -> None:
        self._emit = emit
        self._lineage = lineage
        self._directions = directions
        self._fit_start = fit_start
        self._reported_changes: set[str] = set()
        self._all_weights: dict[str, Any] | None = None  # all weights, where the fit's last checkpoint is being made
        self._directed_metrics: set[str] = set()  # metrics whose direction was told
        self._stop = stop
        self._save_to = save_to
        self._save_end = save_end
        self._began = time.monotonic()
        self._next_step = 0.0
        self._trained = 0
        self._batch = 0
        self._batch_checked = False  # whether a batch was looked at
        self._checked_stages: set[str] = set()  # stages whose first labels were looked at
        self.batch: Any = None  # the one at work, to name it in an error
        self.stage = ""  # that it is of
        self._epoch: int | None = None  # an epoch that has ended and is not told yet
        self._logged: dict[str, Any] = {}
        self._before_validation: dict[str, Any] = {}
        self.rates: Any = None  # Lightning's monitor of learning rates, where this one has added it
        self.cut_short = False  # whether a loop other than training was ended by a request to stop

    @property
    def trained(self) -> int:
        """Number of batches that were begun in training."""
        return self._trained

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take note of how the fit begins; callbacks of the model's own are there only now."""
        if self._fit_start is not None:
            callbacks = self._fit_start.callbacks
            snapshots.rewind(item for item in trainer.callbacks if item is not self and item not in callbacks)
            self._fit_start.record_data()

    # Training. An epoch is told at the start of the next one: metrics that the model's own
    # on_train_epoch_end logs come after every ordinary callback's.

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Let learning rates be logged where a scheduler changes them, and the user has not asked for it already."""
        self._emit(Fingerprint(fingerprints(trainer)))
        if self._fit_start is not None:
            self._fit_start.record_weights(pl_module)
        self._tell_tuned(pl_module)
        is_monitored = any(isinstance(item, self._rate_monitor) for item in trainer.callbacks)
        if trainer.loggers and trainer.lr_scheduler_configs and not is_monitored:
            self.rates = type("LearningRates", (_LoggedLearningRates, self._rate_monitor), {})()
            trainer.callbacks = [*trainer.callbacks, self.rates]  # Lightning is going through the list as it was
            self.rates.on_train_start(trainer, pl_module)

    def _tell_tuned(self, model: Any) -> None:
        """Tell which hyperparameters have changed, such as a learning rate that a callback has looked for."""
        if self._fit_start is None:
            return
        changes = self._fit_start.new_changes()
        for name, (before, value) in changes.items():
            if name not in self._reported_changes:  # what changes every epoch is told once
                self._emit(Notice(f"{name} changed from {_short_text(before)} to {_short_text(value)}", level="info"))
        self._reported_changes |= changes.keys()
        if changes:
            self._emit(
                events.Hyperparameters(json_values(dict(model.hparams)), json_values(self._fit_start.data_changes))
            )

    def _tell_unreturnable_weights(self, trainer: Any, model: Any) -> None:
        """Tell which weights the notebook's model cannot be given once the fit has ended, as soon as there are such."""
        if self._fit_start is None or type(trainer.strategy).__name__ not in _KEEPS_WEIGHTS_WHOLE:
            return
        names, raised = self._fit_start.unreturnable_weights()
        if names:
            path, why = display_path(self._save_to), f" {layers_failure(raised)}." if raised else ""
            self._emit(
                Notice(
                    f"{first_and_more(names, 4)} cannot be loaded into {type(model).__name__} in the notebook: these "
                    f"layers are added or resized during the fit.{why} Their weights will be in {path}. To load them "
                    f"after the fit, add the layers to the model, then type "
                    f"model.load_state_dict(torch.load({path!r})['state_dict'])"
                )
            )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.tell_epoch(trainer)
        self._tell_tuned(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._trained += 1
        if self._stop.is_set(self._trained):
            self._stop.end()
            self._save(trainer)
            raise StopRequested
        if batch_idx == 0:  # after all hooks that come before it
            self._tell_unreturnable_weights(trainer, pl_module)
        self._check_batch(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batch = None
        if self._trained == 1:
            for logger in trainer.loggers:
                if hasattr(logger, "see_batch"):  # one of `tensorboard`
                    logger.see_batch(pl_module, batch)
        if self._step_is_due():
            self._step(trainer, "train", batch_idx + 1, trainer.num_training_batches, _step_values(trainer, outputs))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._epoch = trainer.current_epoch

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.tell_epoch(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._tell_tuned(pl_module)
        self._tell_unreturnable_weights(trainer, pl_module)
        if self._save_end:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take note of the weights, of which the model's own hook may leave some out; add what the fit learned.

        The metrics of an epoch are told before its checkpoint is written: a job that is preempted then goes on from it.
        """
        if self._epoch is not None:
            self._metrics(trainer, self._epoch, self._logged, epoch_done=False)
        if self._lineage is not None:
            checkpoint[KEY] = dict(self._lineage)
        if self._all_weights is not None:
            self._all_weights.update(checkpoint["state_dict"])

    def _save(self, trainer: Any) -> None:
        """Save the state of the fit, with all that the notebook's objects are to have of it."""
        if self._fit_start is None:
            trainer.save_checkpoint(self._save_to)
            return
        self._all_weights = {}
        trainer.strategy.save_checkpoint(dump_checkpoint(trainer, self._all_weights, self._fit_start), self._save_to)
        self._all_weights = None
        trainer.strategy.barrier()

    def tell_epoch(self, trainer: Any) -> None:
        """Tell the epoch that has ended, if there is one that was not told."""
        if self._epoch is not None:
            self._metrics(trainer, self._epoch, self._logged, epoch_done=True)
            self._epoch = None

    # Validation within a fit, and the other loops

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        self._logged = dict(trainer.callback_metrics)  # of two batches: not a result
        for monitor in sorted(_monitored(trainer) - self._logged.keys()):
            if monitor.startswith("val"):  # it may still be logged later: at the end of an epoch, every other epoch
                logged = self._logged
                near = did_you_mean(monitor, logged) or f" Logged metrics: {first_few(logged)}" * bool(logged)
                text = f"the monitored metric {monitor!r} was not logged in the sanity check.{near}"
                self._emit(Notice(text, level="info"))
        self.cut_short = False

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._batch = 0
        self._before_validation = dict(trainer.callback_metrics)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Not before the first batch of the last dataloader: metrics that are monitored must exist.
        loaders = getattr(trainer, _EVALUATIONS[trainer.state.stage.value][1])
        if self._stop.is_set(self._trained) and batch_idx and dataloader_idx == len(loaders) - 1:
            self._cut_short(trainer)
        self._check_batch(trainer, pl_module, batch)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def _check_batch(self, trainer: Any, pl_module: Any, batch: Any) -> None:
        """Take note of the batch that is next; of the first, say what its steps change in it.

        Raises:
            InputError: it is the first of a stage, and the model has no outputs for its labels.
        """
        self.batch = batch
        self.stage = stage = trainer.state.stage.dataloader_prefix
        if stage not in self._checked_stages and type(trainer.strategy).__name__ in _KEEPS_WEIGHTS_WHOLE:
            self._checked_stages.add(stage)
            if text := label_problem(pl_module, batch, stage):
                raise InputError(text)
        if not self._batch_checked:
            self._batch_checked = True
            changes = input_conversions(pl_module, batch)
            if changes:
                self._emit(Notice(changes, level="info"))

    def _cut_short(self, trainer: Any) -> None:
        """End a loop other than training as if its data had ended, so that Lightning leaves no half state behind."""
        self.cut_short = True
        if not trainer.sanity_checking:
            stage = trainer.state.stage.value
            text = f"The interrupt ended {stage} early: its metrics cover only {self._batch} batch(es)."
            self._emit(Notice(text))
        raise StopIteration

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.batch = None
        self._batch += 1
        if self._step_is_due():
            self._evaluated(trainer)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            self.tell_directions(trainer, trainer.callback_metrics)
            self._evaluated(trainer)  # the count of all batches is part of the result
        elif not trainer.sanity_checking:
            self._metrics(trainer, trainer.current_epoch, self._before_validation, epoch_done=False)

    on_test_end = on_predict_end = on_validation_end

    def _evaluated(self, trainer: Any) -> None:
        stage, batches = _EVALUATIONS[trainer.state.stage.value]
        self._step(trainer, stage, self._batch, sum(getattr(trainer, batches)), {})

    def _step_is_due(self) -> bool:
        """Whether to tell where the run is: the longer it goes on, the less often."""
        now = time.monotonic()
        if now < self._next_step:
            return False
        self._next_step = now + min(max(_STEP_INTERVAL_S, (now - self._began) / 1000), _MOST_INTERVAL_S)
        return True

    def _step(self, trainer: Any, stage: Stage, batch: int, batches: int | float, values: dict[str, float]) -> None:
        self._emit(
            Step(
                stage=stage,
                epoch=trainer.current_epoch,
                batch=batch,
                batches=None if math.isinf(batches) else int(batches),
                step=trainer.global_step,
                elapsed_s=time.monotonic() - self._began,
                memory_bytes=memory_bytes(trainer.strategy.root_device),
                values=values,
            )
        )

    def tell_directions(self, trainer: Any, metrics: Iterable[str]) -> None:
        """Tell which way metrics get better, each once; of one that decides something also what is unusual in that."""
        new = {name: self._directions.of(name, trainer) for name in metrics if name not in self._directed_metrics}
        if not new:
            return
        self._directed_metrics |= new.keys()
        self._emit(events.Directions(new))
        for name in new.keys() & _monitored(trainer):
            if remark := self._directions.remark(name, trainer):
                self._emit(Notice(remark, level="info"))

    def _metrics(self, trainer: Any, epoch: int, previous: Mapping[str, Any], *, epoch_done: bool) -> None:
        """Tell the metrics that are new to what was known: a value that was logged again is a new tensor."""
        metrics = trainer.callback_metrics
        new = {name: value for name, value in metrics.items() if previous.get(name) is not value}
        self._logged = {**self._logged, **new}
        duplicates = _duplicate_names(trainer)
        values = _values(new, new.keys() - duplicates)
        self.tell_directions(trainer, values)
        self._emit(
            Metrics(
                epoch=epoch,
                step=trainer.global_step,
                elapsed_s=time.monotonic() - self._began,
                values=values,
                epoch_done=epoch_done,
                doubles=_values(new, new.keys() & duplicates),
            )
        )


def reporter(
    package: str,
    emit: Callable[[Event], None],
    stop: StopFlag,
    save_to: Path,
    directions: MetricDirections,
    fit_start: FitStart | None = None,
    save_end: bool = False,
    lineage: Mapping[str, Any] | None = None,
) -> Any:
    """Return the callback for one of the two Lightning packages.

    Args:
        package: ``pytorch_lightning`` or ``lightning.pytorch``.
        emit: takes each event.
        stop: looked at before each batch; once set, the state is saved and `StopRequested` ends the loop.
        save_to: checkpoint to write then.
        directions: of the metrics.
        fit_start: of a fit, its model and data as they were handed over.
        save_end: whether it is written also when a fit ends by itself.
        lineage: what checkpoints of a fit carry of it, see `origins`.
    """
    import importlib

    lightning = importlib.import_module(f"{package}.callbacks")
    own = {"_rate_monitor": lightning.LearningRateMonitor}
    cls = type("Reporter", (_Reporter, lightning.Callback), own)
    return cls(emit, stop, save_to, directions, fit_start, save_end, lineage)


class _LoggedLearningRates:
    """Lightning's monitor of learning rates, which would also count them among the run's metrics."""

    def _extract_stats(self, trainer: Any, interval: str) -> Any:
        stats = super()._extract_stats(trainer, interval)  # type: ignore[misc]
        for name in stats:
            trainer.callback_metrics.pop(name, None)
        return stats


def _short_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def memory_bytes(device: torch.device) -> int | None:
    """Memory in use: the device's for CUDA, else the process's; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


def _monitored(trainer: Any) -> set[str]:
    """The metrics that callbacks compare; a callback of the user's may call anything its monitor."""
    monitors = (getattr(callback, "monitor", None) for callback in trainer.callbacks)
    return {monitor for monitor in monitors if isinstance(monitor, str)}


def label_problem(model: Any, batch: Any, stage: str) -> str:
    """Return which labels of a batch of a stage a model has no outputs for, in a line; empty for none."""
    judged = class_range.checks_labels(model, stage)
    return class_range.label_problem(model, batch, "a batch", type(model).__name__) if judged else ""


def unlogged_monitor_problem(raised: BaseException, trainer: Any) -> str:
    """Return what to say in place of Lightning's exception of a metric that is monitored and not logged; or nothing."""
    logged = trainer.callback_metrics
    for name in _monitored(trainer) - logged.keys():
        if f"`{name}`" in str(raised) or f"monitor={name!r}" in str(raised):
            near = did_you_mean(name, logged)
            return f"the monitored metric {name!r} is not logged.{near} Logged metrics: {', '.join(logged) or 'none'}"
    return ""


def _step_values(trainer: Any, outputs: Any) -> dict[str, float]:
    """What was logged on this step, and the loss that training_step returned where none was logged."""
    logged = cast(Mapping[str, Any], trainer._results.metrics(on_step=True)["callback"])  # no public way
    values = {name: float(value) for name, value in logged.items() if f"{name}_step" not in logged}
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and not any("loss" in name for name in values):
        values["loss"] = float(loss)
    return values


def _values(logged: Mapping[str, Any], names: Collection[str]) -> dict[str, float]:
    """The values of some of the metrics that were logged, in their order."""
    return {name: float(value) for name, value in logged.items() if name in names}


def _duplicate_names(trainer: Any) -> set[str]:
    """The names ``NAME_step`` and ``NAME_epoch`` that Lightning adds where one value is logged by step and by epoch.

    Steps that options build do so themselves: the step's loss alone needs no exchange among ranks.
    """
    training = trainer.fit_loop.epoch_loop
    forked, logged = set(), set()
    for loop in (training, training.val_loop):
        for item in (loop._results or {}).values():  # no public way
            meta = item.meta
            several = meta.add_dataloader_idx and meta.dataloader_idx is not None
            loader = f"/dataloader_idx_{meta.dataloader_idx}" if several else ""
            logged.add(f"{meta.name}{loader}")
            if meta.forked:
                forked |= {f"{meta.forked_name(on_step)}{loader}" for on_step in (True, False)}
    step = getattr(type(trainer.lightning_module), "training_step", None)
    reads = getattr(getattr(step, "__code__", None), "co_names", ())
    is_built = "_step" in reads and hasattr(trainer.lightning_module, "_unpack")
    return (forked - logged) | ({"train_loss_step"} if is_built else set())
