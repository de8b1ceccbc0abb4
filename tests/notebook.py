"""A stand-in for a notebook's namespace, and the ways in which tests define and train in it."""

import importlib

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_magics.definitions import cell as cells
from lightning_magics.definitions.data import datamodule
from lightning_magics.definitions.model import model as models
from lightning_magics.options import parser

CELL = "/tmp/ipykernel_1/cell.py"  # a name such as ipykernel gives; no such file exists


def namespace(**names):
    """Return what a notebook holds after its first cell."""
    found = {"__name__": "__main__", **names}
    exec(
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\nfrom torch.utils.data import *",
        found,
    )
    return found


def source(text, filename=CELL):
    return cells.CellSource(text.lstrip("\n"), filename)


def model(text, name="Digits", package="lightning.pytorch", names=None, **asked):
    """Define a model by a cell."""
    names = namespace() if names is None else names
    return models.model_definition(name, source(text), parser.ModelOptions(**asked), names, package)


def adopt(name, found, names, package="lightning.pytorch", **asked):
    """Define a model by an object of the notebook."""
    return models.model_definition(name, found, parser.ModelOptions(**asked), names, package)


def data(text, /, name="digits", package="lightning.pytorch", names=None, **asked):
    """Define data by a cell, or by an object of the notebook."""
    names = namespace() if names is None else names
    cell = source(text) if isinstance(text, str) else text
    return datamodule.data_definition(name, cell, parser.DataOptions(**asked), names, package)


def trainer(package="lightning.pytorch", **asked):
    """Return a Trainer that writes and shows nothing."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "max_epochs": 1,
    }
    return importlib.import_module(package).Trainer(**{**quiet, **asked})


# What Lightning warns of in runs as small as a test's.
SMALL_RUNS = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*does not have many workers",  # tests load in their own process
        ".*LeafSpec.*is deprecated",  # Lightning's own use of this torch
        "You defined a `validation_step` but have no `val_dataloader`",  # some tests train alone
        "You passed in a `val_dataloader` but have no `validation_step`",  # and some models cannot validate
        "Trying to infer the `batch_size`",  # a model of the test's own logs without it
    )
]


def batches(*items):
    """Return a loader of batches as they are."""
    return DataLoader(items, batch_size=None)


def loader(*tensors, batch_size=3):
    """Return batches of tensors in order, the last of them smaller."""
    return DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=batch_size)


def validated(instance, *tensors):
    """Return what validation logs for tensors in uneven batches of 4."""
    (values,) = trainer().validate(instance, loader(*tensors, batch_size=4), verbose=False)
    return values
