from __future__ import annotations

import sys

import pytest
import pytorch_lightning
import torch
from notebook import SMALL_RUNS, loader
from recorded import plain

from lightning_magics.runs import catalog, foreign
from lightning_magics.views import histories

pytestmark = SMALL_RUNS


APPLY = "!!python/object/apply:os.system"


class Net(pytorch_lightning.LightningModule):
    def __init__(self, hidden: int = 4, sizes: tuple[int, ...] = (2, 3)):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).pow(2).mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("logger", [pytorch_lightning.loggers.TensorBoardLogger, pytorch_lightning.loggers.CSVLogger])
def test_what_plain_lightning_wrote_is_read(tmp_path, logger):
    data = loader(torch.arange(12.0).reshape(6, 2) / 12)
    trainer = pytorch_lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=logger(tmp_path, name="Net"),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Net(hidden=8), data, data)
    (row,) = catalog.rows(tmp_path)
    assert (row.run, row.model, row.status, row.problem) == ("Net/version_0", "Net", None, "")
    assert row.hyperparameters == {"hidden": 8, "sizes": [2, 3]}
    assert row.epochs == 3
    assert {"val_loss", "train_loss_epoch"} <= set(row.best)
    assert not {"epoch", "step", "hp_metric", "train_loss_step"} & set(row.best)
    assert row.metrics["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-6)
    curve = histories.curves(row.path)["val_loss"]
    assert len(curve.points(10)) == 3
    assert abs(row.started - row.path.stat().st_mtime) < 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: x\nc: [1, 2]\nd: {e: 0.5}\n", {"a": 1, "b": "x", "c": [1, 2], "d": {"e": 0.5}}),
        ("a: !!python/object/apply:os.system ['touch {here}/ran']\n", {"a": f"{APPLY} ['touch {{here}}/ran']"}),
        ("a: !!python/name:os.system\nb: !own 3", {"a": "", "b": "3"}),
        ("é: [ü, [1]]\nb: 2", {"é": "[ü, [1]]", "b": 2}),
        ("a: &x [1, 1]\nb: &y [*x, *x]\nc: [*y, *y]\n", {"a": [1, 1], "b": "&y [*x, *x]", "c": "[*y, *y]"}),
        ("- 1\n", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_hyperparameters_are_read_as_data_and_never_run(tmp_path, text, expected):
    here = str(tmp_path)
    folder = plain(tmp_path / "version_0", text.replace("{here}", here))
    found = foreign.read(folder, with_metrics=True)
    wanted = {name: item.replace("{here}", here) if isinstance(item, str) else item for name, item in expected.items()}
    assert found.problem == ""
    assert found.hyperparameters == wanted
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "hparams.yaml cannot be read: while parsing a flow sequence"),
        ("x" * 300_000, "hparams.yaml cannot be read: it is larger than 262144 bytes"),
        ("[" * 100_000, "hparams.yaml cannot be read: it is nested more than 50 levels deep"),
        ("a: !!int x", "hparams.yaml cannot be read: invalid literal for int()"),
    ],
)
def test_hyperparameters_that_cannot_be_read_are_told(tmp_path, text, problem):
    assert foreign.read(plain(tmp_path / "version_0", text), with_metrics=True).problem.startswith(problem)


def test_a_table_that_is_being_written_is_read_up_to_there(tmp_path):
    folder = plain(tmp_path / "version_0", table="epoch,step,val_loss,note\n0,9,0.5,x\n0,9,nan,\n1,19,0.7,\n2,2")
    found = foreign.read(folder, with_metrics=True)
    assert (found.best, found.metrics, found.problem) == ({"val_loss": 0.5}, {"val_loss": 0.7}, "")


def test_events_that_are_cut_off_or_broken(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "version_0")
    for step in range(3):
        writer.add_scalar("val_loss", 1.0 - step / 4, step)
    writer.close()
    (path,) = (tmp_path / "version_0").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert foreign.read(path.parent, with_metrics=True).metrics == {"val_loss": 0.75}
    assert foreign.read(path.parent, with_metrics=True).started == pytest.approx(path.stat().st_mtime, abs=5)
    path.write_bytes(b"\x05" + b"\0" * 11 + b"\xff" * 9 + whole)
    assert foreign.read(path.parent, with_metrics=True).problem.startswith("the metrics cannot be read: events.out.tf")


def test_events_without_tensorboard_are_told(tmp_path, monkeypatch):
    (tmp_path / "events.out.tfevents.1").write_bytes(b"x" * 40)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert foreign.read(tmp_path, with_metrics=True).problem.startswith("the metrics cannot be read: ")
