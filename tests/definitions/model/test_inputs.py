"""Integers and bool reach layers of floats as numbers; an embedding gets indices, and attention a mask, as they are."""

import pytest
import torch
from notebook import SMALL_RUNS, model, namespace, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_magics.definitions.model.inputs import inputs_of
from lightning_magics.training.batches import input_conversions

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
class Optional(Layers):
    def forward(self, x, ids=None):
        x = self.parts[0](x)
        return self.parts[1](x if ids is None else x + self.names(ids).sum(1))
class Attention(Layers):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
    def forward(self, x, mask=None):
        x = self.attention(x, x, x, key_padding_mask=mask)[0]
        return self.parts[1](self.parts[0](x.mean(1)))
class Encoder(Attention):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, 0, batch_first=True)
        self.attention = nn.TransformerEncoder(layer, 1, None, False)
    def forward(self, x, mask):
        return self.parts[1](self.parts[0](self.attention(x, src_key_padding_mask=mask).mean(1)))
class Needed(Attention):
    def forward(self, x, mask):
        return super().forward(x, mask)
class Hidden(Layers):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
    def forward(self, x, state):
        return self.parts[0](self.lstm(x, (state, state))[0][:, -1])
class Counts(Layers):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.ones(3))
    def forward(self, x):
        self.steps += 1
        self.mean.mul_(0.5)
        for weight in self.parameters():
            weight.data.mul_(0.5)
        return super().forward(x) * self.mean
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


def alone(batch):
    return DataLoader([batch], batch_size=None)


@pytest.mark.parametrize("code", [*NUMBERS, "Numbers()"])
def test_a_network_whose_first_layers_take_floats_takes_numbers(code, capsys):
    made = network(code)
    taken = inputs_of(made)
    assert taken.numbers
    assert taken.numbers == taken.required
    assert not capsys.readouterr().out
    assert not hasattr(made, "seen")


@pytest.mark.parametrize("code", OTHERS)
def test_nothing_is_assumed_of_other_networks(code):
    assert not inputs_of(network(code)).numbers


@pytest.mark.parametrize(
    ("code", "numbers"),
    [
        ("Pair()", (0, "x")),
        ("Optional()", (0, "x")),
        ("Hidden()", (0, "x")),
        ("Attention()", ()),
        ("Needed()", ()),
        ("Encoder()", ()),
        ("nn.TransformerEncoderLayer(4, 2)", ()),
    ],
)
def test_each_input_is_told_apart(code, numbers):
    assert inputs_of(network(code)).numbers == numbers


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("code", ["Attention()", "Needed()", "Encoder()"])
def test_a_mask_of_attention_stays_bool(code, named):
    names = namespace()
    exec(CLASSES, names)
    instance = model(code, loss="cross_entropy", names=names).new().eval()
    x, mask = torch.randn(3, 4, 4), torch.tensor([[False, False, True, True]] * 3)
    with torch.no_grad():
        expected = instance.net(x, mask)
    assert not torch.allclose(expected, instance.net(x, mask.float()))  # with gradients, all layers tell them apart
    labels = torch.tensor([0, 1, 2])
    batch = {"x": x, "mask": mask, "labels": labels} if named else (x, mask, labels)
    assert torch.equal(trainer().predict(instance, alone(batch))[0], expected)
    (found,) = trainer().validate(instance, alone(batch), verbose=False)
    assert found["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(expected, labels)))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("code", "other", "numbers"), [("Optional()", "ids", False), ("Pair()", "names", True), ("Hidden()", "state", True)]
)
def test_indices_beside_numbers_stay_as_they_are(code, other, numbers, named):
    names = namespace()
    exec(CLASSES, names)
    instance = model(code, loss="cross_entropy", names=names).new()
    x, second = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]]), torch.tensor([[0, 3, 2, 1], [2, 2, 1, 0]])
    if code == "Hidden()":
        x, second = x.unsqueeze(1), torch.randn(1, 2, 4)
    x = x if numbers else x.float()  # what forward does with one more input is not known
    with torch.no_grad():
        expected = instance.net(x.float(), second)
    batch = {"x": x, other: second, "labels": torch.tensor([0, 1])} if named else (x, second, torch.tensor([0, 1]))
    assert torch.equal(trainer().predict(instance, alone(batch))[0], expected)
    trainer().fit(instance, alone(batch))
    assert input_conversions(instance, batch) == ("int64 inputs are converted to float32" if numbers else "")


def test_an_optional_input_that_is_not_passed_leaves_numbers_converted():
    names = namespace()
    exec(CLASSES, names)
    instance = model("Optional()", loss="cross_entropy", names=names).new()
    x = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        assert torch.equal(trainer().predict(instance, alone((x, torch.tensor([0, 1]))))[0], instance.net(x.float()))


def test_a_network_of_the_notebook_keeps_its_buffers_and_weights():
    names = namespace()
    exec(CLASSES, names)
    names["net"] = eval("Counts()", names)
    before = {name: item.clone() for name, item in names["net"].state_dict().items()}
    definition = model("net", loss="cross_entropy", names=names)
    instance = definition.new()
    for state in (names["net"].state_dict(), instance.net.state_dict()):
        assert all(torch.equal(state[name], item) for name, item in before.items())
    assert inputs_of(names["net"]).numbers
    instance(torch.zeros(1, 4))
    assert float(instance.net.steps) == 1


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
    assert input_conversions(instance, (inputs, labels)) == said


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
