"""What TensorBoard is told of a run besides its metrics: hyperparameters, how it ended, the best score, the graph.

A logger that the user made is left as it is. Tracing the graph is in `graph`.
"""

from __future__ import annotations

import importlib
import numbers
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from ..transport.stop import StopRequested
from . import graph
from .batches import converted

_MOST_TEXT = 200  # characters of a hyperparameter


class _HParamsLogger:
    """The methods, without the base class: each of the two Lightning packages has a TensorBoardLogger of its own.

    TensorBoard's HParams tab compares the runs of a folder. It shows the hyperparameters of all of them, and beside
    them the last value of every metric, if no run declares an "experiment" of its own, as Lightning's logger does with
    ``hp_metric``: then it shows what that one run has.
    """

    _package: str
    _begun = False
    _drawn = False

    @rank_zero_only
    def log_hyperparams(self: Any, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Keep hyperparameters for ``hparams.yaml``, and tell TensorBoard that a session with them begins."""
        super().log_hyperparams(params, metrics, step)  # type: ignore[misc]
        if not metrics:  # else it has told them
            self._write_message(
                "session_start_info", hparams=flat_hyperparameters(self.hparams), start_time_secs=time.time()
            )
            self._begun = True

    @rank_zero_only
    def log_graph(self: Any, model: Any, input_array: Any = None) -> None:
        """Draw a model whose user has given an example of its input."""
        example_input = model.example_input_array if input_array is None else input_array
        if example_input is None:
            return

        def example() -> tuple[tuple[Any, ...], Mapping[str, Any]]:
            batch = model._apply_batch_transfer_handler(model._on_before_batch_transfer(example_input))
            by_name = isinstance(batch, Mapping)
            return (() if by_name else batch if isinstance(batch, tuple) else (batch,)), batch if by_name else {}

        self._draw(model, example)

    @rank_zero_only
    def see_batch(self: Any, model: Any, batch: Any) -> None:
        """Draw the network of a cell, for which the first batch is an example."""
        net, unpack = getattr(model, "net", None), getattr(model, "_unpack", None)
        if not isinstance(net, torch.nn.Module) or unpack is None:
            return

        def example() -> tuple[tuple[Any, ...], Mapping[str, Any]]:
            *inputs, named, _ = unpack(batch)  # of a transformers model by name alone
            return converted(model, inputs[0] if inputs else (), named)

        self._draw(net, example)

    def _draw(self: Any, network: torch.nn.Module, example: graph.Example) -> None:
        if not self._drawn:
            self._drawn = True
            graph.draw(self.experiment, network, example, self._package)

    @rank_zero_only
    def after_save_checkpoint(self: Any, checkpoint_callback: Any) -> None:
        """Log the best score so far: by it the HParams tab compares runs whose last epoch is not their best."""
        monitor = getattr(checkpoint_callback, "monitor", None)
        score = getattr(checkpoint_callback, "best_model_score", None)
        if monitor and score is not None:
            step = max(0, checkpoint_callback._last_global_step_saved - 1)  # from 0, as of the other metrics
            self.log_metrics({f"best/{monitor}": float(score)}, step)

    @rank_zero_only
    def finalize(self: Any, status: str) -> None:
        """Tell TensorBoard how the session ended."""
        if self._begun:
            self._begun = False
            failed = status != "success" and not isinstance(sys.exception(), StopRequested)
            from tensorboard.plugins.hparams import api_pb2

            outcome = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
            self._write_message("session_end_info", status=outcome, end_time_secs=time.time())
        super().finalize(status)  # type: ignore[misc]

    def _write_message(self: Any, kind: str, hparams: Mapping[str, Any] | None = None, **values: Any) -> None:
        """Write a message of the HParams plugin; its own writer needs TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        content = plugin_data_pb2.HParamsPluginData(**{kind: values})
        for name, value in (hparams or {}).items():
            is_bool, is_number = isinstance(value, bool), isinstance(value, int | float)
            value_field = "bool_value" if is_bool else "number_value" if is_number else "string_value"
            setattr(getattr(content, kind).hparams[name], value_field, value)
        tag = getattr(metadata, f"{kind.upper()}_TAG")
        description = metadata.create_summary_metadata(content)
        summary = Summary(value=[Summary.Value(tag=tag, metadata=description, tensor=metadata.NULL_TENSOR)])
        self.experiment._get_file_writer().add_summary(summary)


def tensorboard_logger(package: str, root: Path, model: str, version: str) -> Any:
    """Make the TensorBoardLogger of a run, for one of the two Lightning packages.

    Args:
        package: ``pytorch_lightning`` or ``lightning.pytorch``.
        root: folder of all runs.
        model: name of the model's folder in it.
        version: name of the run's folder in that.
    """
    base = importlib.import_module(f"{package}.loggers").TensorBoardLogger
    cls = type("TensorBoardLogger", (_HParamsLogger, base), {"_package": package})
    return cls(root, name=model, version=version, default_hp_metric=False)


def flat_hyperparameters(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return hyperparameters as TensorBoard takes them: ``{"layer/width": 8}``, what is no number as text."""
    flattened: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flattened |= flat_hyperparameters(value, f"{prefix}{name}/")
        elif isinstance(value, bool | str):
            flattened[f"{prefix}{name}"] = value[:_MOST_TEXT] if isinstance(value, str) else value
        elif isinstance(value, numbers.Real) and not isinstance(value, np.timedelta64):  # which says it is a number
            flattened[f"{prefix}{name}"] = float(value)
        elif isinstance(value, torch.Tensor) and value.numel() == 1:
            flattened[f"{prefix}{name}"] = value.item()
        else:
            flattened[f"{prefix}{name}"] = str(value)[:_MOST_TEXT]
    return flattened
