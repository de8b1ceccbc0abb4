"""Which way the metrics of a run get better: decided once, in the process that trains.

The order of truth: what was typed, what a callback that compares it goes by, ``higher_is_better`` of the metric object
that was logged, a name that is known; else less is better, as for Lightning's own callbacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torchmetrics import Metric

from ..scores import WORDS, Mode, mode_by_name, mode_of, stage_of


class MetricDirections:
    """The directions of a run's metrics.

    Args:
        requested: metric to direction, as options say.
        callbacks: of the user; those that compare a metric have a direction of their own.
    """

    def __init__(self, requested: Mapping[str, Mode] | None = None, callbacks: Iterable[Any] = ()) -> None:
        self._callbacks: dict[str, tuple[Any, Mode]] = {}
        for callback in callbacks:
            metric, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
            if isinstance(metric, str) and mode in WORDS:
                self._callbacks.setdefault(metric, (callback, mode))
        self._requested = dict(requested or {})
        self._decided = dict(self._requested)
        self._options: set[str] = set()

    @property
    def requested(self) -> dict[str, Mode]:
        """Those that options say."""
        return self._requested

    def with_decided_mode(self, callback: Any) -> Any:
        """Return a callback of an option, which compares a metric the way that is decided once it is logged."""
        self._options.add(callback.monitor)
        base = type(callback)
        callback.__class__ = type(base.__name__, (_DecidesMode, base), {"__qualname__": base.__qualname__})
        callback._directions = self
        _set_mode(callback, self._decided.get(callback.monitor) or mode_of(callback.monitor))
        return callback

    def of(self, metric: str, trainer: Any) -> Mode:
        """Return the direction of a metric that a Trainer has logged."""
        if metric not in self._decided:
            self._decided[metric] = self._first(metric, trainer) or "min"
        return self._decided[metric]

    def _first(self, metric: str, trainer: Any) -> Mode | None:
        _, callback_mode = self._callbacks.get(metric) or (None, None)
        # "min" may be the default that nobody chose.
        if callback_mode and (callback_mode == "max" or metric not in self._options):
            return callback_mode
        return _metric_object_mode(metric, trainer) or mode_by_name(metric)

    def remark(self, metric: str, trainer: Any) -> str:
        """Return what to know of the direction of a metric that is monitored; empty if it is as anyone expects."""
        if metric in self._requested:
            return ""
        natural = _metric_object_mode(metric, trainer) or mode_by_name(metric)
        mode = self._decided[metric]
        callback, callback_mode = self._callbacks.get(metric) or (None, None)
        if callback_mode == mode and natural not in (None, mode):
            return (
                f"{type(callback).__name__} treats the {'smallest' if mode == 'min' else 'largest'} {metric} "
                f"as the best, although {WORDS[natural]}. Pass mode={natural!r}"
            )
        if natural is None and metric in self._options and not callback_mode:
            return f"{metric}: assuming {WORDS[mode]}. To reverse, type {metric}:{'max' if mode == 'min' else 'min'}"
        return ""


class _DecidesMode:
    """What makes a ModelCheckpoint or an EarlyStopping of Lightning's decide when it compares for the first time."""

    _directions: MetricDirections

    def on_load_checkpoint(self: Any, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Go the way of the fit that is continued: Lightning keeps a callback's state under its direction."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)  # type: ignore[misc]
        if self.monitor in self._directions.requested:
            return
        before = self.mode
        for mode in WORDS:
            _set_mode(self, mode)
            if self.state_key in checkpoint.get("callbacks", ()):
                return
        _set_mode(self, before)

    def _run_early_stopping_check(self: Any, trainer: Any) -> None:
        self._decide(trainer, trainer.callback_metrics)
        super()._run_early_stopping_check(trainer)  # type: ignore[misc]

    def _save_topk_checkpoint(self: Any, trainer: Any, monitor_candidates: Mapping[str, Any]) -> None:
        self._decide(trainer, monitor_candidates)
        super()._save_topk_checkpoint(trainer, monitor_candidates)  # type: ignore[misc]

    def _decide(self: Any, trainer: Any, logged: Mapping[str, Any]) -> None:
        if self.monitor in logged and self.mode != self._directions.of(self.monitor, trainer):
            _set_mode(self, self._directions.of(self.monitor, trainer))


def _set_mode(callback: Any, mode: Mode) -> None:
    """Let a callback that has not compared anything yet go a way."""
    import torch

    if callback.mode == mode:
        return
    callback.mode = mode
    worst = torch.tensor(torch.inf if mode == "min" else -torch.inf)
    if hasattr(callback, "kth_value"):
        callback.kth_value = worst
    else:
        callback.min_delta, callback.best_score = -callback.min_delta, worst


def _metric_object_mode(metric: str, trainer: Any) -> Mode | None:
    """What the object of a metric says: the one that was logged, else one that the model has under that name."""
    name = metric.partition("/dataloader_idx_")[0]
    for logged, item in _logged(trainer):
        if name == logged and (mode := _mode(item)):
            return mode
    base = stage_of(name)[0]
    for path, module in trainer.lightning_module.named_modules(remove_duplicate=False):
        if isinstance(module, Metric) and stage_of(path.rpartition(".")[2])[0] == base and (mode := _mode(module)):
            return mode
    return None


def _logged(trainer: Any) -> Iterator[tuple[str, Any]]:
    """The metric objects that were logged, by every name that each has."""
    training = trainer.fit_loop.epoch_loop
    for loop in (training, training.val_loop, trainer.validate_loop, trainer.test_loop):
        for item in (loop._results or {}).values():  # no public way
            if not item.is_tensor:
                for name in {item.meta.name, item.meta.forked_name(False), item.meta.forked_name(True)}:
                    yield name, item.value


def _mode(metric: Any) -> Mode | None:
    """What a metric object says of itself; of one that wraps another, what that says."""
    higher = getattr(metric, "higher_is_better", None)
    if isinstance(higher, bool):
        return "max" if higher else "min"
    inner = getattr(metric, "_base_metric", None) or getattr(metric, "wrapped_metric", None)
    return _mode(inner) if isinstance(inner, Metric) else None
