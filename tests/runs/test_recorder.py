from __future__ import annotations

import dataclasses
import os

from lightning_magics.runs import events
from lightning_magics.runs import folder as runs
from lightning_magics.runs.record import RunRecord
from lightning_magics.runs.recorder import Recorder

RECORD = RunRecord(run="Net/version_0", verb="fit", model="Net", status="running", started=1.0)


def test_a_run_that_is_killed_keeps_its_metrics(tmp_path):
    folder = runs.create(tmp_path, "Net")
    recorder = Recorder(folder, RECORD, print)
    recorder.emit(events.Metrics(3, 40, 1.0, {"train_loss": 0.5, "val_loss": 0.4}, epoch_done=True))
    found = folder.read()
    assert (found.status, found.epochs, found.steps) == ("running", 4, 40)
    assert found.metrics == {"train_loss": 0.5, "val_loss": 0.4}
    recorder.close()


def test_many_epochs_write_few_records_and_the_last_holds_all(tmp_path, monkeypatch):
    folder = runs.create(tmp_path, "Net")
    recorder = Recorder(folder, RECORD, print)
    written = []
    monkeypatch.setattr(runs.RunFolder, "write", lambda self, record: written.append(record))
    for epoch in range(100):
        recorder.emit(events.Metrics(epoch, epoch, 1.0, {"val_loss": 1.0 / (1 + epoch)}, epoch_done=True))
    assert 1 <= len(written) < 100
    recorder.emit(events.Ended("completed", 1.0, epochs=100, steps=100))
    recorder.close()
    assert written[-1] == dataclasses.replace(
        RECORD,
        status="completed",
        elapsed_s=1.0,
        epochs=100,
        steps=100,
        metrics={"val_loss": 0.01},
        best_metrics={"val_loss": {"value": 0.01, "epoch": 99}},
    )


def test_the_best_value_of_every_metric_is_kept_with_its_epoch(tmp_path):
    folder = runs.create(tmp_path, "Net")
    recorder = Recorder(folder, RECORD, print)
    for epoch, (loss, accuracy) in enumerate([(0.5, 0.6), (0.3, 0.8), (float("nan"), float("inf")), (0.4, 0.8)]):
        recorder.emit(events.Metrics(epoch, epoch, 1.0, {"val_loss": loss, "val_accuracy": accuracy}, epoch_done=True))
    recorder.emit(events.Ended("completed", 1.0))
    recorder.close()
    found = folder.read()
    assert found.metrics == {"val_loss": 0.4, "val_accuracy": 0.8}
    assert found.best_metrics == {"val_loss": {"value": 0.3, "epoch": 1}, "val_accuracy": {"value": 0.8, "epoch": 1}}


def test_the_checkpoints_that_stay_are_named_relative_to_the_run(tmp_path):
    folder = runs.create(tmp_path, "Net")
    recorder = Recorder(folder, RECORD, print)
    for place, name in enumerate(("epoch=0-step=2.ckpt", "last.ckpt", "continue.ckpt")):
        (folder.checkpoints_path / name).touch()
        os.utime(folder.checkpoints_path / name, (place, place))
    recorder.emit(events.Ended("completed", 1.0))
    recorder.close()
    assert folder.read().checkpoints == ["checkpoints/epoch=0-step=2.ckpt", "checkpoints/last.ckpt"]


def test_the_result_of_a_test_is_among_the_metrics(tmp_path):
    folder = runs.create(tmp_path, "Net", "test")
    recorder = Recorder(folder, dataclasses.replace(RECORD, verb="test"), print)
    recorder.emit(events.Results([{"test_loss": 0.5}, {"test_acc": 0.9}]))
    recorder.emit(events.Ended("completed", 1.0))
    recorder.close()
    assert folder.read().metrics == {"test_loss": 0.5, "test_acc": 0.9}
