"""IPython magics that turn notebook cells into a PyTorch LightningModule and a training run."""

__version__ = "0.1.0"
