"""Runs on disk without training: as the recorder leaves them, and as plain Lightning does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_magics.runs import events, record
from lightning_magics.runs import folder as runs
from lightning_magics.runs.recorder import Recorder

START = 1_790_000_000


def add(root: Path, model: str = "Digits", started: float = 0.0, **facts: Any) -> runs.RunFolder:
    """A run of which there is a record alone."""
    folder = runs.create(root, model, facts.get("verb", "fit"))
    known = {"run": folder.name, "verb": "fit", "model": model, "status": "completed"}
    folder.write(record.RunRecord(**{**known, "started": START + started, **facts}))
    return folder


def fitted(root: Path, metrics: dict[str, Sequence[float]], model: str = "Digits", **facts: Any) -> runs.RunFolder:
    """A fit that told these metrics, an epoch each of 10 steps."""
    folder = runs.create(root, model)
    known = {"run": folder.name, "verb": "fit", "model": model, "status": "running", "started": START}
    recorder = Recorder(folder, record.RunRecord(**{**known, **facts}), print)
    recorder.emit(events.Started(folder.name, "fit", START))
    epochs = max(map(len, metrics.values()))
    for epoch in range(epochs):
        values = {name: series[epoch] for name, series in metrics.items() if epoch < len(series)}
        recorder.emit(events.Metrics(epoch, 10 * (epoch + 1), float(epoch), values, epoch_done=True))
    recorder.emit(events.Ended("completed", 1.0, epochs, 10 * epochs))
    recorder.close()
    return folder


def plain(folder: Path, hparams: str = "hidden: 64\nlr: 0.01\n", table: str = "") -> Path:
    """A run of plain Lightning with a CSV logger."""
    folder.mkdir(parents=True)
    (folder / "hparams.yaml").write_text(hparams)
    if table:
        (folder / "metrics.csv").write_text(table)
    return folder
