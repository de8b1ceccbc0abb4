"""The way in to what cells and objects become: definitions of models and data, and loaders of plain data."""

from .datamodules import define_data
from .definition import Definition, check_hyperparameters, is_datamodule, package_of
from .models import define_model
from .samples import to_dataloader, to_dataloaders

__all__ = [
    "Definition",
    "check_hyperparameters",
    "define_data",
    "define_model",
    "is_datamodule",
    "package_of",
    "to_dataloader",
    "to_dataloaders",
]
