"""Integers and bool reach layers of floats as numbers, and an embedding as they are."""

import pytest
import torch
from notebook import SMALL_RUNS, model, namespace, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_magics.batches import adapted
from lightning_magics.inputs import are_numbers

pytestmark = SMALL_RUNS
CLASSES = """
class Layers(nn.Module):
    def __init__(self, first=nn.Linear):
        super().__init__()
        self.names, self.parts = nn.Embedding(4, 2), nn.ModuleList([first(4, 2), nn.Linear(2, 3)])
    def forward(self, x):
        print("followed")
        self.seen = x
        x = x.view(x.shape[0], -1) if type(self) is Flat else x
        for part in self.parts:
            x = torch.relu(part(x))
        return x
class Flat(Layers): pass
class Pair(Layers):
    def forward(self, x, names, scale=None):
        x = x if scale is None else x * scale
        return self.parts[1](self.parts[0](torch.cat([x, x[:, :1]], 1)[:, :4]) + self.look(names))
    def look(self, names):
        return self.names(names).sum(1)
class Numbers(Pair):
    def look(self, names):
        return self.parts[0](torch.flatten(names, 1))
class Rows(Layers):
    def forward(self, x):
        return self.names.weight[x].sum(1)
class Remainder(Layers):
    def forward(self, x):
        return self.parts[0](x % 2)
class Decides(Layers):
    def forward(self, x):
        return self.parts[0](x.float()) if x.sum() > 0 else self.names(x).sum(1)
class Both(Layers):
    def forward(self, x):
        return self.parts[0](x) + self.names(x).sum(1)
class Recurrent(Layers):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 2, batch_first=True)
    def forward(self, x):
        output, _ = self.lstm(x.unsqueeze(1))
        return self.parts[1](output[:, -1])
"""
NUMBERS = [
    "nn.Linear(4, 3)",
    "nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3))",
    "nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten())",
    "nn.LazyLinear(3)",
    "nn.Sequential(Layers(), nn.ReLU())",
    "Layers()",
    "Flat()",
    "Recurrent()",
]
OTHERS = [
    "nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(12, 3))",
    "nn.EmbeddingBag(4, 3)",
    "Layers(nn.Embedding)",
    "Rows()",
    "Remainder()",
    "Decides()",
    "Both()",
]


def network(code):
    names = namespace()
    exec(CLASSES, names)
    return eval(code, names)


@pytest.mark.parametrize("code", [*NUMBERS, "Numbers()"])
def test_a_network_whose_first_layers_take_floats_takes_numbers(code, capsys):
    made = network(code)
    assert are_numbers(made)
    assert not capsys.readouterr().out
    assert not hasattr(made, "seen")


@pytest.mark.parametrize("code", [*OTHERS, "Pair()"])
def test_nothing_is_assumed_of_other_networks(code):
    assert not are_numbers(network(code))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.bool])
@pytest.mark.parametrize("code", ["nn.Sequential(nn.Flatten(), nn.Linear(4, 3))", "Layers()"])
def test_integers_are_trained_and_predicted_with_as_floats(code, dtype):
    names = namespace()
    exec(CLASSES, names)
    instance = model(code, loss="cross_entropy", metrics=("accuracy",), names=names).new()
    inputs, labels = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]).to(dtype), torch.tensor([0, 1, 2])
    with torch.no_grad():
        expected = instance.net(inputs.float())
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=2)
    assert torch.equal(torch.cat(trainer().predict(instance, loader)), expected)
    (found,) = trainer().validate(instance, loader, verbose=False)
    assert found["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(expected, labels)))
    trainer().fit(instance, loader)
    said = f"{str(dtype).removeprefix('torch.')} inputs are converted to float32"
    assert adapted(instance, (inputs, labels)) == said


def test_token_ids_stay_integers():
    instance = model("nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(12, 3))", loss="cross_entropy").new()
    ids = torch.tensor([[0, 1, 2, 3]])
    assert instance._input(ids) is ids
    trainer().fit(instance, DataLoader(TensorDataset(ids, torch.tensor([1]))))


def test_features_of_whole_numbers_are_said_once(shell, capsys):
    for cell in (
        "import numpy as np, pandas as pd, torch\nfrom torch import nn",
        "X, y = np.arange(32).reshape(8, 4) % 5, np.arange(8) % 3",
        "%%lightning_model Net --loss cross_entropy --lr 0.1\nnn.Linear(4, 3)",
        "run = %lightning_fit Net (X,y) (pd.DataFrame(X.astype(bool)),y) --max_epochs 2",
    ):
        shell.run_cell(cell).raise_error()
    assert capsys.readouterr().out.count("inputs are converted to float32") == 1
    shell.run_cell("%lightning_predict run X -o found --quiet").raise_error()
    names = shell.user_ns
    with torch.no_grad():
        assert torch.equal(names["found"], names["run"].model.net(torch.tensor(names["X"]).float()))
