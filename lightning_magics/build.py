"""The way in to what cells become: definitions of models and data, their instances, and loaders of plain data."""

from .definition import Definition, check_hyperparameters, is_datamodule, package_of
from .models import define_model

__all__ = ["Definition", "check_hyperparameters", "define_model", "is_datamodule", "package_of"]
