"""What `%lightning_runs` costs in a folder of many runs: reading and showing them, in this process.

Run: python benchmarks/listing.py [RUNS [ROUNDS]]
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_magics.runs import events
from lightning_magics.runs import folder as runs
from lightning_magics.runs.record import RunRecord
from lightning_magics.runs.recorder import Recorder
from lightning_magics.training.trainer import trainer_defaults
from lightning_magics.views.listing import Listing

METRICS = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


def write_runs(root: Path, count: int) -> None:
    """Write the runs of a search, with records as large as a fit's."""
    trainer = {name: value for name, value in trainer_defaults("pytorch_lightning").items() if value is not ...}
    for place in range(count):
        folder = runs.create(root, "Digits")
        record = RunRecord(
            folder.name,
            "fit",
            "Digits",
            "running",
            1.79e9 + place,
            data="digits",
            options={"max_epochs": "5", "seed": place, "model": {"hidden": 2 ** (place % 9)}, "data": {}},
            trainer=trainer,
            hyperparameters={"hidden": 2 ** (place % 9), "dropout": 0.1, "lr": 10 ** -(2 + place % 3)},
            seed=place,
            versions={"python": "3.11.7", "lightning-magics": "0.1.0", "torch": "2.13.0", "pytorch-lightning": "2.6.6"},
            git={"commit": "0" * 40, "dirty": False},
        )
        recorder = Recorder(folder, record, print)
        recorder.emit(events.Started(folder.name, "fit", record.started))
        for epoch in range(5):
            values = dict.fromkeys(METRICS, 1 / (1 + epoch + place % 97))
            recorder.emit(events.Metrics(epoch, 23 * (epoch + 1), epoch, values, epoch_done=True))
        recorder.emit(events.Ended("completed", 4.1, 5, 115))
        recorder.close()


def seconds(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median time of a call: by the clock, and of the processor alone, which others do not share in."""
    found = []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - start, time.process_time() - used))
    walls, processor = zip(*found, strict=True)
    return statistics.median(walls), statistics.median(processor)


def epoch_cost_s(epochs: int = 2000) -> float:
    """Median time that the recorder takes for the metrics of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        made = runs.create(folder, "Net")
        recorder = Recorder(made, RunRecord(made.name, "fit", "Net", "running", 0.0), print)
        found = []
        for epoch in range(epochs):
            event = events.Metrics(epoch, epoch, 1.0, dict.fromkeys(METRICS, 1 / (1 + epoch)), epoch_done=True)
            start = time.perf_counter()
            recorder.emit(event)
            found.append(time.perf_counter() - start)
        recorder.close()
        return statistics.median(found)


def main(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        root = Path("lightning_logs")
        write_runs(root, count)
        print(f"{count:,} runs, median of {rounds}; load {os.getloadavg()[0]:.1f}")
        for name, call in {
            "list, text and html": lambda: (lambda found: (repr(found), found._repr_html_()))(Listing(root)),
            "the same by a metric": lambda: repr(Listing(root, sort="val_loss")),
            "with curves": lambda: Listing(root, plot="val_loss")._repr_html_(),
            "as a DataFrame": lambda: Listing(root).df,
        }.items():
            bar = "   (bar: 0.5 s for 1,000)" if name.startswith("list") else ""
            wall_s, processor_s = seconds(call, rounds)
            print(f"{name:<24} {wall_s:6.3f} s, {processor_s:.3f} s of the processor{bar}")
        os.chdir("/")
    print(f"{'recording an epoch':<24} {epoch_cost_s() * 1e6:6.0f} µs, of four metrics")


if __name__ == "__main__":
    main(*(int(item) for item in (sys.argv[1:] + ["1000", "5"][len(sys.argv) - 1 :])))
