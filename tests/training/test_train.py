from __future__ import annotations

import os
import random
import signal
import threading
import warnings

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader

from lightning_magics.errors import InputError, MissingPackage
from lightning_magics.runs import events
from lightning_magics.runs import folder as runs
from lightning_magics.training import numerics, train
from lightning_magics.training.batches import describe
from lightning_magics.training.job import Job
from lightning_magics.training.trainer import trainer_class
from lightning_magics.transport.stop import Stop
from lightning_magics.views.state import RunState

PACKAGES = {"pytorch_lightning": pytorch_lightning, "lightning.pytorch": lightning.pytorch}
DATA = torch.arange(32.0).reshape(16, 2) / 32


def make_model(package="pytorch_lightning"):
    class Net(PACKAGES[package].LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.0), nn.Linear(4, 1))

        def training_step(self, batch, batch_idx):
            loss = (self.net(batch) - 1).pow(2).mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", (self.net(batch) - 1).pow(2).mean())

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("test_loss", (self.net(batch) - 1).pow(2).mean())

        def predict_step(self, batch, batch_idx):
            return self.net(batch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    return Net()


def loader(batch_size=4):
    return DataLoader(DATA, batch_size=batch_size)


class StopAfter:
    """Asks to stop once it was looked at a number of times."""

    def __init__(self, looks):
        self.looks = looks

    def is_set(self, trained=0):
        self.looks -= 1
        return self.looks < 0

    def end(self):
        self.looks = 10**9


NEVER = Stop()


def go(root, model, verb="fit", stop=NEVER, package="pytorch_lightning", told=None, **job):
    """Run a job in a new folder; returns the outcome and the events."""
    told = [] if told is None else told
    folder = runs.create(root, "Net", verb)
    folder.events_path.touch()  # as whoever starts a run does: without it, the folder counts as removed
    job.setdefault("loaders", (loader(), loader()))
    job.setdefault("trainer", {"max_epochs": 2})
    job["trainer"] = {"accelerator": "cpu", **job["trainer"]}
    return train.train(Job(verb, folder.path, package, model, **job), told.append, stop), told


def of(kind, told):
    return [event for event in told if isinstance(event, kind)]


def history(told):
    rows = {}
    for event in of(events.Metrics, told):
        rows.setdefault(event.epoch, {}).update(event.values)
    return rows


@pytest.mark.parametrize("package", PACKAGES)
def test_fit_tells_its_start_every_epoch_and_its_end(tmp_path, package):
    outcome, told = go(tmp_path, make_model(package), package=package)
    assert isinstance(outcome.trainer, PACKAGES[package].Trainer)
    assert isinstance(told[0], events.Started)
    assert (told[0].run, told[0].devices, told[0].precision, told[0].max_epochs) == (
        "Net/version_0",
        "1 × cpu",
        "32-true",
        2,
    )
    assert (told[0].parameters, told[0].trainable_parameters) == (17, 17)
    assert [(event.epoch, event.step) for event in of(events.Metrics, told) if event.epoch_done] == [(0, 4), (1, 8)]
    assert isinstance(told[-1], events.Ended)
    assert (told[-1].status, told[-1].epochs, told[-1].steps) == ("completed", 2, 8)
    assert os.path.samefile(told[-1].best_model_path, tmp_path / "Net/version_0/checkpoints/epoch=1-step=8.ckpt")


@pytest.mark.filterwarnings("ignore")  # Lightning's own remarks: the logging interval, its deprecations
def test_values_told_are_those_of_plain_lightning(tmp_path):
    _, told = go(tmp_path, make_model())
    model, seen = make_model(), []

    class Watch(pytorch_lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    plain = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pytorch_lightning.Trainer(max_epochs=2, callbacks=[Watch()], **plain).fit(model, loader(), loader())
    assert list(history(told).values()) == seen


def test_the_metrics_of_an_epoch_are_told_before_its_checkpoint_is_there(tmp_path):
    """A job that is preempted goes on from that checkpoint, and does not come by the epoch again."""
    told, seen = [], []

    class Keeps(pytorch_lightning.callbacks.ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            super()._save_checkpoint(trainer, filepath)
            seen.append(set(history(told)[trainer.current_epoch]))

    model = make_model()
    type(model).on_train_epoch_end = lambda self: self.log("late", float(self.current_epoch))
    go(tmp_path, model, told=told, trainer={"callbacks": [Keeps(save_top_k=-1)], "max_epochs": 2})
    assert seen == [{"train_loss", "val_loss", "late"}] * 2
    ends = [event.epoch for event in of(events.Metrics, told) if event.epoch_done]
    assert ends == [0, 1]


def test_metric_that_the_models_own_epoch_end_logs_is_in_its_epoch(tmp_path):
    model = make_model()
    type(model).on_train_epoch_end = lambda self: self.log("late", float(self.current_epoch))
    _, told = go(tmp_path, model)
    assert [row["late"] for row in history(told).values()] == [0.0, 1.0]


@pytest.mark.parametrize("looks", [1, 6, 9, 14], ids=lambda looks: f"look {looks}")
def test_stopped_fit_is_left_ready_and_resumes_to_its_last_step(tmp_path, looks):
    model = make_model()
    _, told = go(tmp_path, model, stop=StopAfter(looks), trainer={"max_epochs": 3, "num_sanity_val_steps": 0})
    assert told[-1].status == "interrupted"
    assert all(module.training for module in model.modules())
    last = tmp_path / "Net/version_0/checkpoints/last.ckpt"
    assert told[-1].best_model_path == str(last)
    resumed = make_model()
    _, told = go(tmp_path, resumed, checkpoint=last, trainer={"max_epochs": 3, "num_sanity_val_steps": 0})
    assert told[-1].steps == 12


def test_interrupt_during_validation_says_that_its_values_are_partial(tmp_path):
    _, told = go(tmp_path, make_model(), stop=StopAfter(5), trainer={"max_epochs": 3, "num_sanity_val_steps": 0})
    assert "The interrupt ended validate early: its metrics cover only 1 batch(es)." in [
        notice.text for notice in of(events.Notice, told)
    ]


def test_instance_that_is_fitted_again_continues_as_one_long_fit(tmp_path):
    whole, twice = make_model(), make_model()
    go(tmp_path, whole, trainer={"max_epochs": 4})
    go(tmp_path, twice, continues=True)
    go(tmp_path, twice, "validate", loaders=(loader(),), trainer={})  # does not make it forget
    _, told = go(tmp_path, twice, continues=True)
    assert (told[0].first_epoch, told[0].max_epochs, told[-1].epochs, told[-1].steps) == (2, 4, 4, 16)
    for one, other in zip(whole.parameters(), twice.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fit_that_does_not_continue_begins_anew(tmp_path):
    model = make_model()
    go(tmp_path, model)
    _, told = go(tmp_path, model, continues=False)
    assert (told[0].first_epoch, told[-1].epochs, told[-1].steps) == (0, 2, 8)


def test_every_fit_has_its_own_max_time(tmp_path):
    model = make_model()
    for _ in range(2):
        _, told = go(tmp_path, model, continues=True, trainer={"max_epochs": 1, "max_time": "00:00:01:00"})
    assert told[-1].epochs == 2


def test_failure_names_the_batch_and_is_told(tmp_path):
    model = make_model()
    type(model).training_step = lambda self, batch, batch_idx: self.net(batch[:, :1]).mean()
    told = []
    with pytest.raises(RuntimeError, match="cannot be multiplied") as raised:
        go(tmp_path, model, told=told)
    assert raised.value.__notes__ == ["The batch was float32 (4, 2)."]
    assert told[-1].status == "failed"
    assert told[-1].error.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


def test_early_stopping_says_why_the_fit_ended(tmp_path):
    model = make_model()
    type(model).configure_optimizers = lambda self: torch.optim.SGD(self.parameters(), 0.0)
    _, told = go(tmp_path, model, trainer={"max_epochs": 50}, early_stop=("val_loss:2",))
    assert told[-1].status == "completed"
    assert told[-1].epochs == 3
    assert told[-1].reason.startswith(
        "early stopping: Monitored metric val_loss did not improve in the last 2 records."
    )
    assert "Signaling" not in told[-1].reason


def test_monitor_keeps_the_best_checkpoint(tmp_path):
    _, told = go(tmp_path, make_model(), monitor="val_loss")
    assert told[-1].monitor == "val_loss"
    assert told[-1].best_model_score == min(row["val_loss"] for row in history(told).values())


@pytest.mark.parametrize("way", ["option", "object", "beside a checkpoint", "beside a monitor", "not logged"])
def test_what_ends_the_fit_chooses_the_best_checkpoint_unless_something_else_does(tmp_path, way):
    class Both(Scripted):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val_l1", 0.1 * self.current_epoch)

    stop, keep = pytorch_lightning.callbacks.EarlyStopping, pytorch_lightning.callbacks.ModelCheckpoint
    asked, callbacks, monitor = {}, [], "val_score"
    if way in ("option", "beside a monitor"):
        asked = {"early_stop": ("val_score:2:max",)}
    else:
        callbacks = [stop("val_score", mode="max")]
    if way == "beside a monitor":
        asked["monitor"] = monitor = "val_l1"
    elif way == "beside a checkpoint":
        callbacks.append(keep(monitor="val_l1", dirpath=tmp_path))
        monitor = "val_l1"
    elif way == "not logged":
        callbacks, monitor = [stop("val_other", strict=False)], None
    model = Both("val_score", (0.1, 0.9, 0.3, 0.2))
    outcome, told = go(tmp_path, model, trainer={"max_epochs": 4, "callbacks": callbacks}, **asked)
    assert (told[0].monitor, told[-1].monitor) == (monitor, monitor)
    is_own = way == "beside a checkpoint"
    assert told[0].checkpoint_metric == ("" if is_own else monitor or "")
    assert told[-1].best_model_score == (pytest.approx({"val_score": 0.9, "val_l1": 0.0}[monitor]) if monitor else None)
    if monitor == "val_score":
        assert outcome.trainer.checkpoint_callback.mode == "max"
        assert "epoch=1" in told[-1].best_model_path


class Scripted(pytorch_lightning.LightningModule):
    """Logs chosen values under a name, epoch by epoch: as plain numbers, by a metric object, or computed by one."""

    def __init__(self, name, values, higher=None, how="number"):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.name, self.values, self.how = name, values, how
        self.kept = type("Kept", (torchmetrics.MeanMetric,), {"higher_is_better": higher})()
        if how == "computed":
            setattr(self, name, self.kept)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        value = self.values[self.current_epoch]
        if self.how == "number":
            self.log(self.name, value)
        else:
            self.kept.update(value)
        if self.how == "object":
            self.log(self.name, self.kept)

    def on_validation_epoch_end(self):
        if self.how == "computed":
            self.log(self.name, self.kept.compute())
            self.kept.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


DOWN = (0.9, 0.5, 0.3, 0.7)


@pytest.mark.parametrize(
    ("name", "how", "higher", "typed", "mode"),
    [
        ("val_l1", "number", None, "", "min"),
        ("val_anything", "number", None, "", "min"),
        ("val_anything", "number", None, ":max", "max"),
        ("val_accuracy", "number", None, "", "max"),
        ("val_accuracy", "number", None, ":min", "min"),
        ("val_anything", "object", True, "", "max"),
        ("val_accuracy", "object", False, "", "min"),
        ("val_accuracy", "object", None, "", "max"),
        ("val_accuracy", "object", False, ":max", "max"),
        ("val_anything", "computed", True, "", "max"),
    ],
)
def test_checkpoint_early_stop_and_record_go_the_same_way(tmp_path, name, how, higher, typed, mode):
    model = Scripted(name, DOWN, higher, how)
    asked = {"monitor": name + typed, "early_stop": (f"{name}:1{typed}",)}
    outcome, told = go(tmp_path, model, trainer={"max_epochs": 4}, **asked)
    best = outcome.trainer.checkpoint_callback
    epochs = 2 if mode == "max" else 4  # 0.9 is not beaten at once; 0.3 is the lowest, and 0.7 after it the end
    assert (best.mode, float(best.best_model_score)) == (mode, pytest.approx(0.9 if mode == "max" else 0.3))
    assert (len(history(told)), outcome.trainer.early_stopping_callback.mode) == (epochs, mode)
    assert {key: value for event in of(events.Directions, told) for key, value in event.data.items()} == {name: mode}
    assert told[0].monitors == [name]
    said = [notice.text for notice in of(events.Notice, told) if "is better" in notice.text]
    unknown = f"{name}: assuming lower is better. To reverse, type {name}:max"
    assert said == ([unknown] if ("anything" in name and how == "number" and not typed) or name == "val_l1" else [])


def test_a_fit_that_goes_on_keeps_the_best_checkpoint_of_a_direction_that_only_the_metric_object_knows(tmp_path):
    model = Scripted("val_anything", [0.9, 0.5, 0.3, 0.4], True, "object")
    asked = {"monitor": "val_anything", "early_stop": ("val_anything:9",), "continues": True}
    go(tmp_path, model, **asked)
    outcome, told = go(tmp_path, model, **asked)
    assert [row["val_anything"] for row in history(told).values()] == pytest.approx([0.3, 0.4])
    assert float(outcome.trainer.early_stopping_callback.best_score) == pytest.approx(0.4)
    assert (outcome.trainer.early_stopping_callback.wait_count, outcome.trainer.early_stopping_callback.mode) == (
        0,
        "max",
    )


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("how", ["typed", "object"])
def test_a_fit_that_goes_on_has_its_own_patience_and_callbacks_as_they_were_handed_over(tmp_path, how, apart):
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    model, own = Scripted("val_loss", values), pytorch_lightning.callbacks.EarlyStopping("val_loss", patience=1)
    asked = {"trainer": {"max_epochs": 4}, "early_stop": ("val_loss:1",), "continues": True}
    if how == "object":
        asked |= {"trainer": {"max_epochs": 4, "callbacks": own}, "early_stop": ()}
    _, told = go(tmp_path, model, leaves_state=apart, **asked)
    assert told[-1].epochs == 2
    if apart:  # as a run in processes of its own comes back
        model = Scripted("val_loss", values)
        (checkpoint,) = tmp_path.glob("Net/version_0/**/last.ckpt")
        train.restore_fit(model, own if how == "object" else None, checkpoint, trusted=True)
        train.snapshots.record_last([own])
    if how == "object":
        assert own.wait_count == 1
        own.patience = 9  # set by hand: that stays
    else:
        asked["early_stop"] = ("val_loss:9",)
    outcome, told = go(tmp_path, model, **asked)
    stops = outcome.trainer.early_stopping_callback
    assert (told[0].first_epoch, told[-1].epochs, stops.patience, stops.wait_count) == (2, 6, 9, 3)
    assert float(stops.best_score) == pytest.approx(0.3)


def test_a_fit_that_goes_on_has_the_groups_of_the_optimizer_that_a_callback_has_added(tmp_path):
    class Thawing(Scripted):
        def configure_optimizers(self):
            return torch.optim.Adam([item for item in self.parameters() if item.requires_grad], 0.01)

    class Thaws(pytorch_lightning.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.backbone)

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)

    model, thaws = Thawing("val_loss", [0.1] * 6), Thaws()
    model.backbone = nn.Linear(2, 2)
    for _ in range(2):
        outcome, told = go(tmp_path, model, trainer={"max_epochs": 2, "callbacks": thaws}, continues=True)
        assert (told[-1].status, len(outcome.trainer.optimizers[0].param_groups)) == ("completed", 2)


def test_a_callback_that_the_user_made_goes_its_own_way_and_what_is_unusual_in_it_is_said(tmp_path):
    keeps = pytorch_lightning.callbacks.ModelCheckpoint(monitor="val_accuracy")
    _, told = go(
        tmp_path, Scripted("val_accuracy", DOWN), trainer={"max_epochs": 3, "callbacks": [keeps]}, early_stop=()
    )
    assert of(events.Directions, told)[0].data == {"val_accuracy": "min"}
    assert [notice.text for notice in of(events.Notice, told) if "better" in notice.text] == [
        "ModelCheckpoint treats the smallest val_accuracy as the best, although higher is better. Pass mode='max'"
    ]


def test_a_metric_that_is_typed_both_ways_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^val_x is set to both :min and :max\. Type only one of them$"):
        go(tmp_path, Scripted("val_x", DOWN), monitor="val_x:min", early_stop=("val_x:3:max",))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"trainer": {"precision": "64"}, "amp": True}, "--amp and --precision 64 both set the precision"),
        (
            {"trainer": {"accelerator": "gpu"}},
            "the Trainer does not accept its arguments: No supported gpu backend",
        ),
        (
            {"trainer": {"enable_checkpointing": False}, "monitor": "val_loss"},
            "--enable_checkpointing false saves none",
        ),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_before_the_start(tmp_path, job, message):
    told = []
    with pytest.raises(InputError, match=message):
        go(tmp_path, make_model(), told=told, **job)
    assert told == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="one machine without CUDA is looked at")
def test_amp_is_bfloat16_on_the_cpu(tmp_path):
    _, told = go(tmp_path, make_model(), amp=True)
    assert told[0].precision == "bf16-mixed"


def test_fit_inside_a_slurm_job_stays_on_its_device(tmp_path, monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "2"}.items():
        monkeypatch.setenv(name, value)
    outcome, told = go(tmp_path, make_model())
    assert outcome.trainer.world_size == 1
    assert told[-1].status == "completed"


def test_loggers_write_into_the_run_folder(tmp_path):
    go(tmp_path, make_model(), loggers=("tensorboard", "csv"))
    names = {path.name.partition(".")[0] for path in (tmp_path / "Net/version_0").iterdir()}
    assert {"events", "metrics", "hparams", "checkpoints", "rank_0"} <= names


def test_log_holds_what_lightning_says_and_the_notices_what_to_act_on(tmp_path, capfd):
    _, told = go(tmp_path, make_model())
    log = runs.RunFolder(tmp_path / "Net/version_0").log_path(0).read_text()
    assert "`Trainer.fit` stopped: `max_epochs=2` reached." in log
    assert "17        Trainable params" in log
    assert "smaller than the logging interval" in log
    assert not any("logging interval" in notice.text for notice in of(events.Notice, told))
    assert capfd.readouterr() == ("", "")


def test_missing_validation_data_and_missing_end_are_noticed(tmp_path):
    _, told = go(tmp_path, make_model(), loaders=(loader(),), stop=StopAfter(2), trainer={"max_epochs": None})
    shown = " ".join(notice.text for notice in of(events.Notice, told))
    assert "No validation data: only training metrics are shown." in shown
    assert "No limit was set, so Lightning will train for 1000 epochs" in shown


def test_validate_and_test_give_a_row_for_each_dataloader(tmp_path):
    _, told = go(tmp_path, make_model(), "test", loaders=(loader(), loader()), trainer={})
    (results,) = of(events.Results, told)
    assert (told[-3].stage, told[-3].batch, told[-3].batches) == ("test", 8, 8)
    assert [sorted(row) for row in results.rows] == [
        ["test_loss/dataloader_idx_0"],
        ["test_loss/dataloader_idx_1"],
    ]
    assert told[-1].status == "completed"


def test_predictions_are_joined_in_input_order(tmp_path):
    model = make_model()
    outcome, told = go(tmp_path, model, "predict", loaders=(loader(batch_size=5),), trainer={})
    with torch.no_grad():
        torch.testing.assert_close(outcome.predictions, model.net(DATA))
    assert of(events.Notice, told)[-1].text == "predictions: float32 (16, 1). To store them in a variable: -o NAME"


def test_predictions_of_several_dataloaders_stay_apart(tmp_path):
    model = make_model()
    model.predict_step = lambda batch, batch_idx, dataloader_idx=0: {"out": batch, "at": dataloader_idx}
    outcome, _ = go(tmp_path, model, "predict", loaders=(loader(), loader()), trainer={})
    assert [part["at"] for part in outcome.predictions] == [[0] * 4, [1] * 4]
    assert torch.equal(outcome.predictions[1]["out"], DATA)


@pytest.mark.parametrize("package", PACKAGES)
def test_data_module_of_either_package_serves_a_model_of_the_other(tmp_path, package):
    (other,) = set(PACKAGES) - {package}

    class Data(PACKAGES[other].LightningDataModule):
        def __init__(self, batch_size=4):
            super().__init__()
            self.save_hyperparameters()

        def setup(self, stage):
            self.samples = DATA
            assert self.trainer is not None

        def train_dataloader(self):
            return loader(self.hparams.batch_size)

        val_dataloader = predict_dataloader = train_dataloader

    _, told = go(tmp_path, make_model(package), package=package, datamodule=Data(8), loaders=())
    assert (told[-1].status, told[-1].steps) == ("completed", 4)
    data, finder = Data(2), PACKAGES[package].callbacks.BatchSizeFinder(init_val=4, max_trials=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning: as it looks for the size it warns of what it does itself
        _, told = go(
            tmp_path,
            make_model(package),
            package=package,
            datamodule=data,
            loaders=(),
            trainer={"max_epochs": 2, "callbacks": finder},
        )
    assert (told[-1].status, told[-1].steps, data.hparams.batch_size) == ("completed", 4, 8)
    assert [event.data for event in of(events.Hyperparameters, told)] == [{"batch_size": 8}]
    outcome, _ = go(tmp_path, make_model(package), "predict", package=package, datamodule=Data(), trainer={})
    assert outcome.predictions.shape == (16, 1)


def test_interrupted_prediction_returns_what_there_is(tmp_path):
    outcome, told = go(tmp_path, make_model(), "predict", stop=StopAfter(1), loaders=(loader(),), trainer={})
    assert outcome.predictions.shape == (4, 1)
    assert told[-1].status == "interrupted"


def test_checkpoint_with_objects_is_not_loaded_unasked(tmp_path):
    model = make_model()
    go(tmp_path, model)
    path = tmp_path / "object.ckpt"
    torch.save({"state": threading.Event}, path)
    with pytest.raises(InputError, match=r"contains Python objects other than tensors.*--weights_only false"):
        go(tmp_path, model, checkpoint=path)


def test_file_that_is_no_checkpoint_is_named_before_the_start(tmp_path):
    path, told = tmp_path / "no.ckpt", []
    path.write_text("no")
    with pytest.raises(InputError, match=r"no\.ckpt is not a checkpoint: torch cannot read it"):
        go(tmp_path, make_model(), checkpoint=path, told=told)
    assert told == []


@pytest.fixture
def left(tmp_path):
    """A checkpoint of a fit of two epochs."""
    go(tmp_path, make_model(), trainer={"max_epochs": 2})
    return next(tmp_path.glob("Net/version_0/checkpoints/*.ckpt"))


def notices(told):
    return [notice.text for notice in of(events.Notice, told) if "starts at epoch 0" in notice.text]


def test_a_fit_goes_on_from_a_checkpoint_that_is_as_it_was_when_it_was_taken(tmp_path, left):
    model = make_model()
    assert train.is_whole(train.restore_fit(model, None, left, trusted=False))
    _, told = go(tmp_path, model, continues=True)
    assert (told[0].first_epoch, notices(told)) == (2, [])


def test_a_checkpoint_that_was_replaced_or_is_gone_since_is_not_read(tmp_path, left):
    replaced, gone = make_model(), make_model()
    for model in (replaced, gone):
        train.restore_fit(model, None, left, trusted=False)
    left.write_bytes(b"this would not even load")
    os.utime(left, ns=(0, 0))
    said = "the last fit cannot be continued, because "
    how = ". This fit keeps the weights and starts at epoch 0"
    _, told = go(tmp_path, replaced, continues=True)
    assert (told[0].first_epoch, notices(told)) == (0, [f"{said}{runs.display_path(left)} has been replaced{how}"])
    left.unlink()
    _, told = go(tmp_path, gone, continues=True)
    assert (told[0].first_epoch, notices(told)) == (0, [f"{said}{runs.display_path(left)} no longer exists{how}"])


def test_a_checkpoint_that_is_not_trusted_is_read_as_tensors_by_the_next_fit_too(left):
    model = make_model()
    train.restore_fit(model, None, left, trusted=False)
    torch.save({"state_dict": {}, "object": threading.Event}, left)
    train._saved_states[model] = train._SavedState(left, train._file_mark(left), trusted=False, whole=True)
    with pytest.raises(InputError, match="contains Python objects other than tensors"):
        train._state_behind(model)


def test_weights_alone_are_taken_and_a_fit_begins_anew(tmp_path, left):
    state = torch.load(left, weights_only=True)
    del state["callbacks"], state["optimizer_states"], state["lr_schedulers"]  # ModelCheckpoint(save_weights_only=True)
    torch.save(state, left)
    model = make_model()
    assert not train.is_whole(train.restore_fit(model, None, left, trusted=False))
    assert torch.equal(model.net[0].weight, state["state_dict"]["net.0.weight"])
    assert train.was_fitted(model)  # of which its record tells
    _, told = go(tmp_path, model, continues=True)
    assert (told[0].first_epoch, told[-1].status, notices(told)) == (0, "completed", [])


@pytest.mark.parametrize(
    "read", [lambda path: train.restore_fit(make_model(), None, path, False), train.check_checkpoint]
)
def test_a_file_of_something_else_says_what_it_is(tmp_path, read):
    path = tmp_path / "weights.pt"
    torch.save(make_model().state_dict(), path)
    with pytest.raises(InputError) as refused:
        read(path)
    assert str(refused.value) == (
        f"{runs.display_path(path)} is not a Lightning checkpoint: it has no state_dict, only "
        "net.0.weight, net.0.bias, net.2.weight. If these are the weights, type "
        f"model.load_state_dict(torch.load({str(path)!r}))"
    )


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_missing_data_is_named_before_the_start(tmp_path, verb):
    told = []
    how = "Type %lightning_fit Net DATA" if verb == "fit" else "Add it after the model"
    with pytest.raises(InputError, match=rf"there is no data to {verb} Net with\. {how}$"):
        go(tmp_path, make_model(), verb, loaders=(), trainer={}, told=told)
    module = pytorch_lightning.LightningDataModule()
    with pytest.raises(InputError, match=r"the data LightningDataModule has no \w+_dataloader, which"):
        go(tmp_path, make_model(), verb, loaders=(), datamodule=module, trainer={}, told=told)
    assert told == []


@pytest.mark.filterwarnings("ignore")  # Lightning's own remarks
def test_trainer_of_a_stopped_run_works_again(tmp_path):
    model = make_model()
    outcome, _ = go(tmp_path, model, stop=StopAfter(6))
    assert not [item for item in outcome.trainer.callbacks if type(item).__name__ == "Reporter"]
    outcome.trainer.validate(model, loader(), verbose=False)


@pytest.mark.parametrize(
    ("raised", "seen", "status"),
    [(KeyboardInterrupt, KeyboardInterrupt, "interrupted"), (SystemExit, SystemExit, "failed")],
)
def test_exits_of_the_users_code_come_out_as_they_are(tmp_path, raised, seen, status):
    model, told = make_model(), []

    def training_step(batch, batch_idx):
        raise raised

    model.training_step = training_step
    with pytest.raises(seen):
        go(tmp_path, model, told=told)
    assert told[-1].status == status


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_interrupt_reaches_no_worker_of_a_dataloader(tmp_path, method):
    workers = {"num_workers": 1, "multiprocessing_context": method, "worker_init_fn": None}
    listening = DataLoader(Signals(), batch_size=None, **workers)
    model = make_model()
    model.training_step = lambda batch, batch_idx: heard.append(bool(batch)) or None
    heard = []
    go(tmp_path, model, loaders=(listening,), trainer={"max_epochs": 1})
    assert heard == [True]


class Signals(torch.utils.data.Dataset):
    """Its one sample tells whether its process ignores SIGINT."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return torch.tensor(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def test_fast_dev_run_of_a_fitted_instance_is_not_a_continuation(tmp_path):
    model = make_model()
    go(tmp_path, model)
    _, told = go(tmp_path, model, continues=True, trainer={"fast_dev_run": True})
    assert (told[0].first_epoch, told[-1].steps) == (0, 1)


@pytest.mark.filterwarnings("ignore")  # Lightning's own remarks
def test_data_module_made_of_datasets_serves_the_other_package(tmp_path):
    data = lightning.pytorch.LightningDataModule.from_datasets(DATA, batch_size=4)
    _, told = go(tmp_path, make_model(), datamodule=data, loaders=())
    assert told[-1].status == "completed"


def test_random_state_is_restored_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), numerics.seeded("pytorch_lightning", 7):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("package", PACKAGES)
def test_seed_repeats_a_block_and_leaves_the_random_state_as_it_was(package, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    drawn, before = [], (torch.get_rng_state(), random.getstate())
    for _ in range(2):
        with numerics.seeded(package, 7):
            drawn.append((torch.rand(1).item(), random.random()))
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert "PL_GLOBAL_SEED" not in os.environ


def test_missing_lightning_package_names_what_to_install():
    with pytest.raises(MissingPackage, match=r"%pip install no-such-lightning"):
        trainer_class("no_such_lightning")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3), "float32 (2, 3)"),
        ((torch.zeros(2), [torch.ones(1, dtype=torch.int64), "a"]), "(float32 (2,), [int64 (1,), str])"),
        ({"x": torch.zeros(1)}, "{'x': float32 (1,)}"),
        ([0] * 9, "[" + "int, " * 8 + "…]"),
    ],
)
def test_batch_is_described_in_a_line(value, text):
    assert describe(value) == text


# Callbacks and loggers that are used again


class Counts(pytorch_lightning.Callback):
    """What users write: counters, lists of its own, and one of the notebook's."""

    def __init__(self, collected):
        self.seen, self.own, self.collected = 0, [], collected

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += 1
        self.own.append(batch_idx)
        self.collected.append(batch_idx)


def loop(root, made, fits=2, **job):
    """Fit fresh models with the same callbacks; returns the last event and the folder of each."""
    found = []
    for _ in range(fits):
        job["trainer"] = {"max_epochs": 3, **job.get("trainer", {}), "callbacks": made}
        _, told = go(root, make_model(), **job)
        found.append(told[-1])
    return found


def test_a_checkpoint_callback_keeps_the_best_of_each_fit_in_its_own_folder(tmp_path):
    keeps = pytorch_lightning.callbacks.ModelCheckpoint(monitor="val_loss")
    values = [[0.079, 0.9, 0.9], [0.8, 0.779, 0.9]]
    for number, logged in enumerate(values):
        model = Scripted("val_loss", logged)
        _, told = go(tmp_path, model, trainer={"max_epochs": 3, "callbacks": keeps}, loggers=("csv",))
        assert told[-1].best_model_score == pytest.approx(min(logged))
        assert f"version_{number}/" in told[-1].best_model_path == keeps.best_model_path
        assert os.path.isfile(keeps.best_model_path)


def test_early_stopping_timer_and_averages_begin_anew_in_each_fit(tmp_path):
    callbacks = pytorch_lightning.callbacks
    stops = callbacks.EarlyStopping("val_loss", stopping_threshold=100.0, patience=1)
    assert [event.epochs for event in loop(tmp_path, [stops])] == [1, 1]
    stops = callbacks.EarlyStopping("val_loss", patience=1)
    for values in ([0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.5, 0.6, 0.6]):
        _, told = go(tmp_path, Scripted("val_loss", values), trainer={"max_epochs": 3, "callbacks": [stops]})
        assert told[-1].epochs == (3 if values[1] < values[0] else 2)
        assert stops.stopped_epoch == (0 if values[1] < values[0] else 1)
    timer = callbacks.Timer(duration={"seconds": 20})
    timer._duration = 0.0
    assert loop(tmp_path, [timer], 1)[0].epochs == 0
    timer._duration = 60.0  # set by hand: that stays
    assert [event.epochs for event in loop(tmp_path, [timer])] == [3, 3]
    averages = callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    rates = callbacks.LearningRateMonitor()
    assert [event.epochs for event in loop(tmp_path, [averages, rates])] == [3, 3]
    assert len(rates.lrs["lr-Adam"]) == 3


def test_a_users_callback_counts_each_fit_and_what_is_the_notebooks_is_left_alone(tmp_path):
    collected = []
    counts = Counts(collected)
    (first,) = loop(tmp_path, [counts], 1)
    kept = counts.own
    assert (first.steps, counts.seen, len(kept)) == (12, 12, 12)
    counts.extra = "by hand"
    loop(tmp_path, [counts], 1)
    assert (counts.seen, len(counts.own), counts.extra) == (12, 12, "by hand")
    assert len(kept) == 12
    assert kept is not counts.own
    assert (len(collected), counts.collected is collected) == (24, True)


def test_callbacks_that_the_model_configures_are_handed_over_anew_too(tmp_path):
    counts = Counts([])
    for _ in range(2):
        model = make_model()
        model.configure_callbacks = lambda: [counts]
        go(tmp_path, model)
        assert counts.seen == 8


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_a_logger_object_has_a_version_for_each_fit(tmp_path, kind):
    logger = getattr(pytorch_lightning.loggers, kind)(tmp_path / "logs", name="mine")
    for number in range(2):
        go(tmp_path, make_model(), loggers=(logger,))
        assert logger.version == number
        assert (tmp_path / f"logs/mine/version_{number}").is_dir()


def test_what_cannot_be_copied_goes_on_and_that_is_said(tmp_path):
    counts = Counts([])
    counts.lock = threading.Lock()
    go(tmp_path, make_model(), trainer={"max_epochs": 1, "callbacks": counts})
    _, told = go(tmp_path, make_model(), trainer={"max_epochs": 1, "callbacks": counts})
    assert "Counts.lock cannot be copied, so it keeps its value from the last fit" in [
        notice.text for notice in of(events.Notice, told)
    ]
    assert counts.seen == 4


def test_a_metric_that_is_logged_outside_of_the_sanity_check_can_be_monitored(tmp_path):
    class Later(Scripted):
        def validation_step(self, batch, batch_idx):
            self.log("val_acc", 0.5)
            if not self.trainer.sanity_checking:
                self.log("val_acc_best", self.values[self.current_epoch])

    watches = pytorch_lightning.Callback()
    watches.monitor = ["val_acc", "val_other"]
    asked = {"monitor": "val_acc_best", "early_stop": ("val_acc_best:9",)}
    _, told = go(tmp_path, Later("x", DOWN), trainer={"max_epochs": 3, "callbacks": watches}, **asked)
    assert (told[-1].status, told[-1].best_model_score) == ("completed", pytest.approx(0.9))


def test_names_of_the_user_that_end_in_step_or_epoch_are_metrics_and_doubles_of_lightning_are_not(tmp_path):
    class Named(Scripted):
        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).pow(2).mean()
            self.log("env", 3.0)
            self.log("env_step", 5.0)
            self.log("per_epoch", 7.0, on_epoch=True, on_step=False)
            self.log("both", loss, on_epoch=True, on_step=True)
            return loss

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_x", 0.5, on_epoch=True, on_step=True)

    outcome, told = go(tmp_path, Named("x", DOWN), loaders=(loader(), [loader(), loader()]), trainer={"max_epochs": 1})
    found = history(told)[0]
    assert set(found) == {
        *("env", "env_step", "per_epoch", "both"),
        *("val_x/dataloader_idx_0", "val_x/dataloader_idx_1"),
    }
    assert (found["env"], found["env_step"], found["per_epoch"]) == (3.0, 5.0, 7.0)
    state = RunState()
    for event in told:
        state.apply(event)
    logged = outcome.trainer.callback_metrics
    assert set(state.doubles) == logged.keys() - set(found) >= {"both_step", "both_epoch"}
    assert state.doubles == {name: pytest.approx(float(logged[name])) for name in state.doubles}
    curves = [curve for chart in state.charts.values() for curve in chart.values()]
    assert len({id(curve) for curve in state._lines.values()}) == len(state._lines) == len(curves)


@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar"])
def test_a_progress_bar_of_the_user_is_shown(tmp_path, capfd, kind):
    bar = getattr(pytorch_lightning.callbacks, kind)()
    outcome, _ = go(tmp_path, make_model(), trainer={"max_epochs": 1, "callbacks": [bar]})
    assert outcome.trainer.progress_bar_callback is bar
    assert "Epoch 0" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("other", "named"),
    [({"barebones": True}, "--barebones"), ({"enable_progress_bar": False}, "--enable_progress_bar false")],
)
def test_a_progress_bar_and_none_is_refused_by_what_was_typed(tmp_path, other, named):
    bar = pytorch_lightning.callbacks.TQDMProgressBar()
    message = rf"^{named} cannot be combined with the progress bar TQDMProgressBar of --callbacks"
    with pytest.raises(InputError, match=message):
        go(tmp_path, make_model(), trainer={"callbacks": [bar], **other})


def test_a_checkpoint_callback_may_stand_by_in_a_validation(tmp_path):
    keeps = pytorch_lightning.callbacks.ModelCheckpoint(monitor="val_loss")
    _, told = go(tmp_path, make_model(), "validate", loaders=(loader(),), trainer={"callbacks": [keeps]})
    assert told[-1].status == "completed"
