"""Lightning's own example and test models train in a notebook exactly as they do in a script."""

from typing import Any, NamedTuple

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

# Lightning gives advice on the examples: few workers, no validation data, a loader without a length (UserWarning);
# and it uses what torch 2.13 is going to drop (FutureWarning).
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

IMPORTS = """
import torch
import torch.nn.functional as F
import PACKAGE as pl
from PACKAGE.demos.boring_classes import (
    BoringDataModule, BoringDataModuleNoLen, BoringModel, DemoModel, ManualOptimBoringModel, RandomDataset
)
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Recorder(pl.Callback):
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.steps.append((trainer.global_step, logged, float(outputs["loss"]) if outputs else None))

    def on_validation_epoch_end(self, trainer, model):
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
"""

BORING = """
class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch))
"""

CLASSIFICATION = """
class Model(pl.LightningModule):
    def __init__(self, num_features=32, num_classes=3, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        for i in range(3):
            setattr(self, f"layer_{i}", nn.Linear(num_features, num_features))
            setattr(self, f"layer_{i}a", nn.ReLU())
        self.layer_end = nn.Linear(num_features, 3)

    def forward(self, x):
        for name in ("layer_0", "layer_0a", "layer_1", "layer_1a", "layer_2", "layer_2a", "layer_end"):
            x = getattr(self, name)(x)
        return x

    def configure_optimizers(self):
        return [torch.optim.Adam(self.parameters(), lr=self.lr)], []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=False)
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)
"""

CLASSIFICATION_DATA = """
class Data(pl.LightningDataModule):
    def __init__(self, num_features=32, length=300, num_classes=3, batch_size=10):
        super().__init__()
        self.batch_size = batch_size
        x, y = make_classification(
            length, n_features=num_features, n_classes=num_classes, n_clusters_per_class=1, random_state=42
        )
        self.x, self.y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x[:200], self.y[:200]), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.x[200:], self.y[200:]), batch_size=self.batch_size)
"""

GAN = """
class Model(pl.LightningModule):
    def __init__(self, latent_dim: int = 16, lr: float = 0.0002, b1: float = 0.5, b2: float = 0.999):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent_dim, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.example_input_array = torch.zeros(2, latent_dim)

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, imgs):
        opt_g, opt_d = self.optimizers()
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim).type_as(imgs)
        valid = torch.ones(imgs.size(0), 1).type_as(imgs)
        fake = torch.zeros(imgs.size(0), 1).type_as(imgs)

        self.toggle_optimizer(opt_g)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        real_loss = self.adversarial_loss(self.discriminator(imgs), valid)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss})

    def configure_optimizers(self):
        betas = (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr, betas=betas)
        return opt_g, opt_d

    def train_dataloader(self):
        return DataLoader(RandomDataset(32, 128), batch_size=8)
"""

SEVERAL_LOADERS = """
class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        losses = {name: self.step(part) for name, part in batch.items()}
        self.log_dict({f"train_{name}": loss for name, loss in losses.items()})
        return sum(losses.values())

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.step(batch))

    def train_dataloader(self):
        return {"a": DataLoader(RandomDataset(32, 64), batch_size=4), "b": DataLoader(RandomDataset(32, 32))}

    def val_dataloader(self):
        return [DataLoader(RandomDataset(32, 16)), DataLoader(RandomDataset(32, 24), batch_size=2)]
"""

SEVERAL_OPTIMIZERS = """
class Model(BoringModel):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer, output in ((first, self.layer(batch)), (second, self.other(batch))):
            loss = self.loss(output)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)
        return loss

    def on_train_epoch_end(self):
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        first = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        second = torch.optim.Adam(self.other.parameters(), lr=0.01)
        return [first, second], [
            torch.optim.lr_scheduler.StepLR(first, step_size=1),
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(second, gamma=0.9), "interval": "epoch"},
        ]
"""

SCHEDULED = """
class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
"""


class Example(NamedTuple):
    model: str
    data_cell: str = ""
    data: str = ""  # an expression of the notebook's namespace
    options: dict[str, Any] = {}  # noqa: RUF012 -- never changed


TWO_EPOCHS = {"max_epochs": 2}
EXAMPLES = {
    "boring": Example(BORING, options=TWO_EPOCHS),
    "boring_with_data_module": Example(BORING, data="BoringDataModule()", options=TWO_EPOCHS),
    "demo_model": Example("class Model(DemoModel): ...", data="DataLoader(RandomDataset(32, 64))", options=TWO_EPOCHS),
    "classification": Example(CLASSIFICATION, CLASSIFICATION_DATA, "Data()", {"max_epochs": 3}),
    "manual_optimization": Example("class Model(ManualOptimBoringModel): ...", options=TWO_EPOCHS),
    "gan": Example(GAN, options=TWO_EPOCHS),
    "several_dataloaders": Example(SEVERAL_LOADERS, options=TWO_EPOCHS),
    "several_optimizers": Example(SEVERAL_OPTIMIZERS, options={"max_epochs": 3}),
    "scheduler_on_plateau": Example(SCHEDULED, options={"max_epochs": 3}),
    "iterable_without_length": Example(BORING, data="BoringDataModuleNoLen()", options=TWO_EPOCHS),
    "max_steps": Example(BORING, options={"max_steps": 100, "max_epochs": -1}),
    "fast_dev_run": Example(BORING, options={"fast_dev_run": True}),
    "fast_dev_run_of_3": Example(CLASSIFICATION, CLASSIFICATION_DATA, "Data()", {"fast_dev_run": 3}),
    "val_check_interval": Example(BORING, options={"val_check_interval": 0.25, **TWO_EPOCHS}),
    "gradient_accumulation": Example(BORING, options={"accumulate_grad_batches": 4, **TWO_EPOCHS}),
    "gradient_clipping": Example(BORING, options={"gradient_clip_val": 0.1, **TWO_EPOCHS}),
    "limited_batches": Example(BORING, options={"limit_train_batches": 0.5, "limit_val_batches": 3, **TWO_EPOCHS}),
    "bfloat16": Example(CLASSIFICATION, CLASSIFICATION_DATA, "Data()", {"precision": "bf16-mixed", **TWO_EPOCHS}),
}


def train_in_script(example: Example, package: str, seed: int) -> tuple[Any, Any]:
    """The example in plain Lightning; returns the recorder and the trained model."""
    names: dict[str, Any] = {}
    exec(IMPORTS.replace("PACKAGE", package) + example.model + "\n" + example.data_cell, names)
    names["pl"].seed_everything(seed, workers=True)
    model, recorder = names["Model"](), names["Recorder"]()
    data = eval(example.data, names) if example.data else None
    trainer = names["pl"].Trainer(
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        **example.options,
    )
    trainer.fit(model, data)
    return recorder, model


def train_in_notebook(shell: InteractiveShell, example: Example, package: str, seed: int) -> tuple[Any, Any]:
    """The example as cells; returns the recorder and the run."""
    options = " ".join(f"--{name}={value}" for name, value in example.options.items())
    for cell in (
        IMPORTS.replace("PACKAGE", package) + "\nrecorder = Recorder()",
        "%%lightning_model Model\n" + example.model.lstrip(),
        example.data_cell,
        f"run = %lightning_fit Model {example.data} {options} --seed {seed} --callbacks [recorder]",
    ):
        shell.run_cell(cell).raise_error()
    return shell.user_ns["recorder"], shell.user_ns["run"]


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_trains_as_in_a_script(shell: InteractiveShell, name: str, package: str) -> None:
    expected, trained = train_in_script(EXAMPLES[name], package, seed=7)
    found, run = train_in_notebook(shell, EXAMPLES[name], package, seed=7)
    assert run.status == "completed"
    assert expected.steps
    assert found.steps == expected.steps
    assert found.epochs == expected.epochs
    weights = trained.state_dict()
    assert weights
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_max_time_ends_a_fit_as_in_a_script(shell: InteractiveShell) -> None:
    example = Example(BORING, options={"max_epochs": -1, "max_time": "00:00:00:01"})
    expected, _ = train_in_script(example, "pytorch_lightning", seed=7)
    found, run = train_in_notebook(shell, example, "pytorch_lightning", seed=7)
    both = min(len(found.steps), len(expected.steps))
    assert run.status == "completed"
    assert both > 0
    assert found.steps[:both] == expected.steps[:both]


def test_history_holds_the_losses_of_every_epoch(shell: InteractiveShell) -> None:
    expected, _ = train_in_script(EXAMPLES["classification"], "pytorch_lightning", seed=7)
    _, run = train_in_notebook(shell, EXAMPLES["classification"], "pytorch_lightning", seed=7)
    found = [(row["val_loss"], row["val_acc"]) for row in run.history]
    after_sanity_check = expected.epochs[-3:]
    assert found == [(row["val_loss"], row["val_acc"]) for row in after_sanity_check]
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
