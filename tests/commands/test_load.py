"""What a load brings back: here hyperparameters of unusual types, as they were."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

CELL = """
import numpy as np, pandas as pd
import torch, pytorch_lightning as pl
import lightning_magics as lm
from torch.utils.data import DataLoader, TensorDataset
dl = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 2), batch_size=4)
class Net(pl.LightningModule):
    def __init__(self, value=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


@pytest.mark.parametrize(
    "value",
    [
        np.datetime64("2020-01-02"),
        np.datetime64("2020-01-02T03:04:05.5", "ns"),
        np.timedelta64(3, "D"),
        pd.Timestamp("2020-01-02", tz="UTC"),
        pd.NA,
        np.float32(0.1),
        np.arange(3.0),
    ],
    ids=repr,
)
def test_a_hyperparameter_is_recorded_and_comes_back_as_it_was(shell, value):
    shell.user_ns["value"] = value
    cells = (CELL, "run = lm.fit(Net, dl, model={'value': value}, max_epochs=1, quiet=True)", "net = lm.load(run)")
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()
    (loaded,) = shell.user_ns["net"].hparams.values()
    if isinstance(value, np.ndarray | np.generic):
        np.testing.assert_array_equal(loaded, value)
    else:
        assert loaded is value or loaded == value
    if isinstance(value, np.datetime64 | np.timedelta64):
        assert (type(loaded), loaded.dtype) == (type(value), value.dtype)
        assert shell.user_ns["run"].record.hyperparameters == {"value": str(value)}
    assert "value" in Path(shell.user_ns["run"].log_dir, "hparams.yaml").read_text()
