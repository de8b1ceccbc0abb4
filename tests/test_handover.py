"""Putting into a live model what a fit in processes of its own left."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_magics import handover


class Grows(pl.LightningModule):
    """Its setup needs data that is set up."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList()

    def setup(self, stage: str) -> None:
        self.first = nn.Linear(self.trainer.datamodule.width, 2)


class Adds(pl.Callback):
    """Adds a layer each time that its hook runs."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.heads.append(nn.Linear(2, 2))


class Data(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.width = 3


def test_a_hook_that_added_its_layer_is_not_run_again_for_one_that_needs_data() -> None:
    weights = {"first.weight": torch.ones(2, 3), "first.bias": torch.ones(2)}
    weights |= {"heads.0.weight": torch.ones(2, 2), "heads.0.bias": torch.ones(2)}
    model = Grows()
    assert handover.take(model, [Adds()], {"state_dict": weights}, Data()) == []
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
