"""Putting into a live model what a fit in processes of its own left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_magics.training import handover


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
    assert handover.restore(model, [Adds()], {"state_dict": weights}, Data()) == []
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.fixture
def group() -> Iterator[Any]:
    """The process group of a fit with one rank."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield torch.distributed.group.WORLD
    finally:
        torch.distributed.destroy_process_group()


def _join(group: Any) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=2)


@pytest.mark.parametrize(
    "use",
    [
        lambda group: torch.distributed.barrier(),
        lambda group: torch.distributed.new_group([0]),
        lambda group: torch.distributed.all_reduce(torch.ones(1)),
        lambda group: torch.distributed.all_reduce(torch.ones(1), group=group),  # which a hook may have kept
        lambda group: torch.distributed.barrier(group=group),
        lambda group: torch.distributed.broadcast_object_list([1], group=group),
        lambda group: group.allreduce([torch.ones(1)]),
        lambda group: torch.distributed.init_process_group("gloo"),
        _join,
    ],
)
def test_a_trial_of_hooks_never_waits_for_other_ranks(group: Any, use: Callable[[Any], None]) -> None:
    class Waits(pl.LightningModule):
        def on_fit_start(self) -> None:
            self.before = nn.Linear(2, 2)
            self.trainer.strategy.barrier()
            assert self.all_gather(torch.ones(2)).shape == (2,)
            self.after = nn.Linear(2, 2)
            use(group)
            self.late = nn.Linear(2, 2)

    model = Waits()
    fit_start = handover.FitStart(model, None, [], lambda: (Waits(), [], None))
    model.before = model.after = model.late = nn.Linear(2, 2)
    names, raised = fit_start.unreturnable_weights()
    assert names == ["late.weight", "late.bias"]
    assert raised == ["ValueError: a hook uses the process group, which exists only during the fit"]
    torch.distributed.barrier()  # the fit still has its group
    assert torch.distributed.new_group() is not None
