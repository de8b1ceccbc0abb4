"""Events as a run sends them, without a run: for tests of what shows them, in this process and in a kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lightning_magics.runs.events import Ended, Event, Launched, Metrics, Printed, Started, Step


def fit(epochs: int = 5, batches: int = 660, sent: int = 10, **ended: Any) -> Iterator[Event]:
    """The events of a fit at 1,000 steps a second: `sent` steps of each epoch, then its metrics.

    Accuracy is best in the last epoch but one.
    """
    facts = ("Digits/version_3", "fit", 0.0, "2 × cpu", "bf16-mixed", 1_240_000, 1_240_000)
    yield Started(*facts, max_epochs=epochs, monitor=ended.get("monitor"))
    yield Step("sanity", 0, 2, 2, 0, 0.0)
    for epoch in range(epochs):
        for part in range(1, sent + 1):
            batch = batches * part // sent
            step = epoch * batches + batch
            yield Step("train", epoch, batch, batches, step, step / 1000, 10**9, {"train_loss": math.exp(-step / 500)})
        values = {"train_loss": math.exp(-step / 500), "val_loss": math.exp(-step / 600)}
        values["val_accuracy"] = 0.9 if epoch == epochs - 1 else 0.95 - 0.9 * math.exp(-step / 400)
        yield Metrics(epoch, step, step / 1000, values, epoch_done=True)
    yield Ended(**{"status": "completed", "elapsed_s": step / 1000, "epochs": epochs, "steps": step, **ended})


def spawned(processes: int = 2, lines: int = 1, **asked: Any) -> Iterator[Event]:
    """The events of a fit in processes of its own: before each of the fit's, every rank prints some lines."""
    yield Launched("Digits/version_3", "fit", 0.0, processes)
    for place, event in enumerate(fit(**asked)):
        for rank in range(processes):
            if lines:
                yield Printed(rank, "\n".join(f"{place}.{line} of {rank}" for line in range(lines)))
        yield event
