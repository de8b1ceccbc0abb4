"""Class names as the labels of ``(X, y)``: numbered once, and matched by name from then on."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from kernel import SETUP
from notebook import SMALL_RUNS, data, namespace

from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
NET = "%%lightning_model Net --loss cross_entropy --metrics accuracy --lr 0.1\nnn.Linear(2, 3)"
VALUES = """
import numpy as np, pandas as pd, polars
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2)).astype("float32")
y = np.where(X[:, 0] > 0.5, "cat", np.where(X[:, 1] > 0, "dog", "eel"))
some = y != "cat"
"""
LABELS = {
    "array": "y",
    "objects": "y.astype(object)",
    "list": "y.tolist()",
    "series": "pd.Series(y, name='kind', index=range(100, 160))",
    "categories": "pd.Series(y).astype('category')",
    "polars": "polars.Series('kind', y)",
    "column": "pd.DataFrame({'kind': y})",
}
FEATURES = {"array": "X", "tensor": "torch.tensor(X)", "table": "pd.DataFrame(X, columns=['one', 'two'])"}


@pytest.fixture
def ns(shell):
    """The names of a notebook with features and class names."""
    for cell in (SETUP, VALUES, NET):
        shell.run_cell(cell).raise_error()
    return shell.user_ns


def run(shell, cell):
    shell.run_cell(cell).raise_error()


def check(shell, ns, tested):
    """Train by a line in ``fit``, then test rows of two classes alone."""
    kept = json.loads((ns["fit"].folder.path / "table.json").read_text())
    assert kept["classes"] == ["cat", "dog", "eel"]
    with torch.no_grad():
        output = ns["fit"].model(torch.tensor(ns["X"][ns["some"]]))
    codes = torch.tensor([{"dog": 1, "eel": 2}[name] for name in ns["y"][ns["some"]]])
    run(shell, f"found = %lightning_test fit {tested} --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(float((output.argmax(1) == codes).float().mean()))
    assert ns["found"].results[0]["test_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(output, codes)), rel=1e-4
    )
    assert ns["found"].judged.classes == ["cat", "dog", "eel"]
    assert ns["found"].judged.actual == [0, *torch.bincount(codes)[1:].tolist()]
    assert ns["found"].judged.correct == [
        int(((output.argmax(1) == codes) & (codes == place)).sum()) for place in range(3)
    ]


def test_class_names_in_a_line_are_numbered_once(shell, ns):
    for labels in LABELS.values():
        run(shell, f"labels = {labels}")
        run(shell, "fit = %lightning_fit Net (X,labels) --max_steps 2 --quiet")
        check(shell, ns, "(X[some],y[some].tolist())")
    check(shell, ns, "(torch.tensor(X[some]),pd.Series(y[some]).astype('category'))")
    check(shell, ns, "(pd.DataFrame(X[some]),y[some])")
    with pytest.raises(InputError, match=r"contain fox, but Net was trained only on cat, dog, eel"):
        run(shell, "%lightning_test fit (X[:1],['fox'])")


@pytest.mark.parametrize(("features", "labels"), [("array", "list"), ("tensor", "polars"), ("table", "series")])
def test_class_names_of_defined_data_are_numbered_once(shell, ns, labels, features):
    run(shell, f"features, labels = {FEATURES[features]}, {LABELS[labels]}")
    run(shell, "%%lightning_data named --val_split 0.2\n(features, labels)")
    run(shell, "fit = %lightning_fit Net named --max_epochs 2 --quiet")
    run(shell, f"held = {FEATURES[features].replace('X', 'X[some]')}")
    check(shell, ns, "(held,y[some])")
    run(shell, "%%lightning_data part\n{'train': (held, y[some]), 'test': (held, y[some].tolist())}")
    check(shell, ns, "part")
    run(shell, "%%lightning_data odd\n(held[:1], ['fox'])")
    with pytest.raises(InputError, match=r"contains fox, but Net was trained only on cat, dog, eel"):
        run(shell, "%lightning_validate fit odd")


@pytest.mark.parametrize("features", FEATURES.values())
@pytest.mark.parametrize("labels", LABELS.values())
def test_every_kind_of_class_names_is_data(features, labels):
    names = namespace()
    exec(VALUES, names)
    made = data(f"({features}, {labels})", names=names).new()
    made.setup("fit")
    inputs, numbers = made.splits["train"].tensors
    assert torch.equal(inputs, torch.tensor(names["X"]))
    assert made.classes == ["cat", "dog", "eel"]
    assert [made.classes[number] for number in numbers] == names["y"].tolist()


def test_a_rerun_and_a_script_number_the_classes_alike(shell, ns, elsewhere, tmp_path):
    run(shell, f"%%lightning_data named --val_split 0.2\n{VALUES}\n(X, y)")
    run(shell, "fit = %lightning_fit Net named --max_epochs 2 --seed 1 --quiet")
    run(shell, "again = %lightning_rerun fit --quiet")
    assert ns["again"].metrics == ns["fit"].metrics
    run(shell, "%lightning_export fit train.py")
    done = elsewhere.run(
        f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path('train.py', run_name='__main__')"
    )
    printed = dict(line.split("=") for line in done.stdout.splitlines() if line.startswith(("val_", "train_")))
    assert {name: float(printed[name]) for name in ns["fit"].metrics} == dict(ns["fit"].metrics)
    run(shell, "line = %lightning_fit Net (X,y) --max_epochs 1 --seed 1 --quiet")
    run(shell, "again = %lightning_rerun line --quiet")
    assert ns["again"].metrics == ns["line"].metrics
    assert json.loads((ns["again"].folder.path / "table.json").read_text())["classes"] == ["cat", "dog", "eel"]


@pytest.mark.parametrize("labels", ["y", "np.searchsorted(['cat','dog','eel'],y)"])
def test_arrays_of_a_line_train_the_same_once_defined_as_the_export_says(shell, ns, labels):
    shell.run_cell(VALUES, store_history=True).raise_error()
    run(shell, f"line = %lightning_fit Net (X,{labels}) --max_epochs 2 --seed 1 --quiet")
    advice = r"Run (.*) in a cell, then (.*), then (.*), and"
    with pytest.raises(InputError, match=rf"was not defined with %lightning_data\. {advice}") as refused:
        run(shell, "%lightning_export line train.py")
    for cell in re.findall(advice, str(refused.value))[0]:
        run(shell, f"fit = {cell} --max_epochs 2 --seed 1 --quiet" if "lightning_fit" in cell else cell)
    assert ns["fit"].metrics == ns["line"].metrics


def test_a_loss_of_numbers_takes_no_class_names(shell, ns):
    run(shell, "%%lightning_model Line --loss mse_loss\nnn.Linear(2, 1)")
    run(shell, "%%lightning_data named\n(X, y)")
    for line in ("named", "(X,y)"):
        with pytest.raises(InputError, match=r"--loss mse_loss expects numbers, but the labels of .* are classes"):
            run(shell, f"%lightning_fit Line {line} --max_epochs 1")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("X, np.array(['a', None, 'b'], dtype=object)", r"the labels have missing values, the first at position 1\."),
        ("X, np.array(['a', 2.5, 'b'], dtype=object)", r"the labels mix class names with float values, such as 2.5"),
        ("{'train': (X, ['a', 'b', 'c']), 'val': (X, np.arange(3))}", r"the split 'train' are class names, but those"),
        (
            "{'train': (torch.tensor(X), np.arange(3)), 'val': (pd.DataFrame(X), np.arange(3))}",
            r"the split 'val' is a table, but the split 'train' is not, .* Use tables in both, or arrays in both",
        ),
        (
            "{'train': (X, ['a', 'b', 'c']), 'val': (pd.DataFrame(X), ['a', 'b', 'c'])}",
            r"the split 'val' is a table, but the split 'train' is not",
        ),
        (
            "{'train': (X, ['a', 'b', 'c']), 'val': (X, ['a', 'b', 'z'])}",
            r"split 'val' contain z, but the training data has only a, b",
        ),
        ("X, ['a', 'b']", r"the features and the class names have different lengths \(3, 2\)"),
        (
            "np.array([['a'], ['b'], ['c']]), np.arange(3)",
            r"array of type <U1 is not numeric\. Only the labels of \(X, y\) can be text",
        ),
    ],
)
def test_labels_that_are_no_class_names_are_refused(cell, message):
    with pytest.raises(InputError, match=message):
        data(cell, names=namespace(np=np, pd=pd, polars=polars, X=np.ones((3, 2), "float32")))


@pytest.mark.parametrize("features", ["X", "torch.tensor(X)", "pd.DataFrame(X)"])
def test_labels_that_are_no_array_of_all_samples_are_refused_before_anything_starts(shell, ns, features):
    run(shell, "fit = %lightning_fit Net (X,y) --max_steps 2 --quiet")
    run(shell, f"X = {features}")
    runs = sorted(ns["fit"].folder.path.parent.iterdir())
    for labels, message in (
        *((single, r"item 2 of the data is a single value \(1\), not an array") for single in ("1", "np.array(1)")),
        ("torch.tensor(1)", r"item 2 of the data is a single value \(1\), not an array with one row per sample"),
        *((single, r"item 2 of the data is a single value \(cat\), not an") for single in ("'cat'", "np.array('cat')")),
        ("np.str_('cat')", r"item 2 of the data is a single value \(cat\), not an array with one row per sample"),
        ("np.array('2020',dtype='datetime64[Y]')", r"item 2 of the data is a single value \(2020"),
        ("None", r"item 2 of the data is None, not an array with one row per sample. Expected \(X, y\)"),
        ("y,None", r"item 3 of the data is None, not an array"),
        ("[]", r"item 2 of the data is a list, not an array\. Convert it: np\.array\(y\)"),
        ("list(range(60))", r"item 2 of the data is a list, not an array\. Convert it: np\.array\(y\)"),
        *((short, r"different lengths \(60, 10\)") for short in ("y[:10]", "y[:10].tolist()", "pd.Series(y[:10])")),
        ("np.array([])", r"the arrays have different lengths \(60, 0\)"),
    ):
        for line in ("fit Net", "validate fit", "predict fit"):
            with pytest.raises(InputError, match=message):
                run(shell, f"_ = %lightning_{line} (X,{labels})")
        with pytest.raises(InputError, match=f"{message}|could be columns or splits"):
            run(shell, f"%%lightning_data odd\n(X, {labels})")
    for single in ("np.array(1)", "torch.tensor(1)", "np.float32(1)"):
        with pytest.raises(InputError, match=r"item 1 of the data is a single value \(1(\.0)?\), not an array"):
            run(shell, f"_ = %lightning_fit Net ({single},y)")
        with pytest.raises(InputError, match=r"a value of type \w+ cannot be loaded as data"):
            run(shell, f"_ = %lightning_fit Net ({single})")
    assert sorted(ns["fit"].folder.path.parent.iterdir()) == runs


@pytest.mark.parametrize("empty", ["(X[:0], np.arange(0))", "(X[:0], y[:0])", "X[:0]", "torch.ones(0, 2)"])
def test_training_data_without_samples_is_refused(shell, ns, empty):
    for cell in (f"_ = %lightning_fit Net {empty.replace(' ', '')}", f"%%lightning_data nothing\n{empty}"):
        with pytest.raises(InputError, match=r"the training data has no samples"):
            run(shell, cell)


LABELS_OUT_OF_RANGE = """
import numpy as np, pandas as pd
from torch.utils.data import DataLoader, TensorDataset
F, y = torch.randn(60, 2), torch.arange(60) % 3
high, low, ignored = y.clone(), y.clone(), y.clone()
high[5], low[5:9], ignored[5:9] = 5, -1, -100
four = np.array(list("abcd"))[np.arange(60) % 4]
frame = pd.DataFrame({"one": F[:, 0].numpy(), "two": F[:, 1].numpy(), "kind": np.arange(60) % 4})
loader = DataLoader(TensorDataset(F, high), batch_size=4)
samples = [(row, int(label)) for row, label in zip(F, high)]
fine = [(row, int(label)) for row, label in zip(F, y)]
class Marks(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 3, 1)
        self.calls = []
    def forward(self, x):
        self.calls.append(len(x))
        return self.net(x) + torch.zeros(len(x), 1, 1, 1)
"""


@pytest.fixture
def three(shell):
    """The names of a notebook with a model of three classes, and labels of others."""
    for cell in (SETUP, LABELS_OUT_OF_RANGE, "%%lightning_model Net --loss cross_entropy --lr 0.1\nnn.Linear(2, 3)"):
        shell.run_cell(cell).raise_error()
    return shell.user_ns


def refused(shell, cell):
    with pytest.raises(InputError) as caught:
        run(shell, cell)
    return str(caught.value)


@pytest.mark.parametrize("data", ["(F,high)", "(F.numpy(),high.numpy())", "loader", "(F,y) (F,high)"])
def test_labels_without_an_output_are_refused_before_a_fit(shell, three, data):
    name = data.split()[-1]
    assert refused(shell, f"%lightning_fit Net {data} --max_epochs 1 --quiet") == (
        f"the labels of {name} contain 5 (1 of 60), but Net has 3 outputs (classes 0 to 2). "
        "Give the network 6 outputs, or number the classes from 0"
    )
    assert not list(Path("lightning_logs").glob("Net/*"))


def test_labels_without_an_output_are_refused_in_definitions_and_evaluations(shell, three):
    run(shell, "pair = (F, low)\n%lightning_data pair --val_split 0.2")
    assert "the labels of pair contain -1 (" in (text := refused(shell, "%lightning_fit Net pair --quiet"))
    assert text.endswith('--loss "CrossEntropyLoss(ignore_index=-1)"')
    run(shell, "%lightning_data frame --label kind --val_split 0.2")
    assert "the labels of frame contain 3 (" in refused(shell, "%lightning_fit Net frame --max_epochs 1 --quiet")
    assert refused(shell, "%lightning_fit Net (F,four) --max_epochs 1 --quiet") == (
        "(F,four) has 4 classes (a, b, c, d), but Net has 3 outputs. Give the network 4 outputs"
    )
    run(shell, "run = %lightning_fit Net (F,y) --max_epochs 1 --quiet")
    for verb in ("validate", "test"):
        assert "contain 5 (1 of 60)" in refused(shell, f"%lightning_{verb} run (F,high) --quiet")


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        ("nn.Linear(2, 3, bias=False)", "F"),
        ("nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))", "ids"),
        ("nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 3, 2, bias=False), nn.Flatten())", "F"),
    ],
)
def test_parts_that_are_none_do_not_hide_the_outputs(shell, three, network, inputs):
    run(shell, "ids = torch.randint(0, 9, (60, 2))")
    run(shell, f"%%lightning_model Plain --loss cross_entropy\n{network}")
    text = refused(shell, f"%lightning_fit Plain ({inputs},high) --max_epochs 1 --quiet")
    assert text.startswith(f"the labels of ({inputs},high) contain 5 (1 of 60), but Plain has 3 outputs")


def test_messages_about_objects_name_their_types(shell, three, capsys):
    run(shell, "import lightning_magics\nodd = F.clone()\nodd[7, 1] = np.nan")
    assert refused(shell, "lightning_magics.fit(Net, (F, high), max_epochs=1, quiet=True)").startswith(
        "the labels of tuple contain 5 (1 of 60), but Net has 3 outputs"
    )
    run(shell, "run = lightning_magics.fit(Net, (odd, y), max_epochs=1)")
    assert "tuple has NaN or infinite values in the features (1 of 60 samples" in capsys.readouterr().out


def test_labels_to_ignore_are_legal(shell, three):
    run(shell, "run = %lightning_fit Net (F,ignored) --max_epochs 1 --quiet")
    run(shell, '%%lightning_model Own --loss "CrossEntropyLoss(ignore_index=-1)"\nnn.Linear(2, 3)')
    run(shell, "run = %lightning_fit Own (F,low) --max_epochs 1 --quiet")
    assert np.isfinite(three["run"].metrics["train_loss"])


def test_an_evaluation_of_no_samples_is_refused(shell, three):
    run(shell, "run = %lightning_fit Net (F,y) --max_epochs 1 --quiet")
    run(shell, "parts = {'train': (F, y), 'val': (F[:0], y[:0]), 'test': (F[:0], y[:0])}\n%lightning_data parts")
    run(shell, "none = DataLoader(TensorDataset(F[:0], y[:0]))\nstacked = DataLoader(none.dataset, collate_fn=list)")
    for verb, typed, what in (
        ("predict", "F[:0]", "F[:0]"),
        ("predict", "frame[['one','two']][:0]", "frame[['one','two']][:0]"),
        ("test", "(F[:0],y[:0])", "(F[:0],y[:0])"),
        ("test", "none", "none"),
        ("test", "stacked", "stacked"),
        ("validate", "parts", "the split 'val' of parts"),
        ("test", "parts", "the split 'test' of parts"),
    ):
        said = f"{what} has no samples to {verb}. Pass data with at least one sample"
        assert refused(shell, f"%lightning_{verb} run {typed} --quiet") == said


def test_the_labels_of_samples_are_seen_in_the_batch_that_has_them(shell, three):
    options = "--max_epochs 1 --quiet --data.shuffle false --data.batch_size 4"
    for typed in ("samples", "fine samples"):
        text = refused(shell, f"%lightning_fit Net {typed} {options}")
        assert text.startswith("the labels of a batch contain 5 (1 of 4), but Net has 3 outputs")
    run(
        shell,
        "%%lightning_data own\ndef on_after_batch_transfer(self, batch, i):\n"
        "    return batch[0], batch[1].clamp(0, 2)\nF, high",
    )
    run(shell, "%lightning_fit Net own --max_epochs 1 --quiet")


def test_the_outputs_are_counted_without_the_network_seeing_data(shell, three):
    run(
        shell,
        "%lightning_model Marks --loss cross_entropy\nimages, marks = torch.randn(8, 1, 4, 4), torch.zeros(8, 4, 4)",
    )
    run(shell, "run = %lightning_fit Marks (images,marks) --max_epochs 1 --quiet")
    assert three["run"].model.net.calls == [8]
    run(shell, "marks[0, 0, 0] = 7")
    assert "contain 7 (1 of 128)" in refused(shell, "%lightning_fit Marks (images,marks) --max_epochs 1 --quiet")


def test_values_that_are_not_finite_are_told_with_their_place(shell, three, capsys):
    run(
        shell,
        "odd = F.clone()\nodd[7, 1], odd[9, 0] = np.nan, np.inf\nholes = frame.assign(kind=y.numpy())\n"
        "holes.loc[[3, 4], 'two'] = np.inf",
    )
    run(shell, "%lightning_data holes --label kind --val_split 0.2")
    for typed, where in (
        ("(odd,y)", "(odd,y) has NaN or infinite values in the features (2 of 60 samples, the first at position 7)"),
        ("holes", "holes has NaN or infinite values in the column two (2 of 60 samples, the first at position 3)"),
        ("(holes[['one','two']],y)", "values in the column two (2 of 60 samples, the first at position 3)"),
    ):
        capsys.readouterr()
        run(shell, f"run = %lightning_fit Net {typed} --max_epochs 1")
        assert capsys.readouterr().out.count(where) == 1
    run(shell, "run = %lightning_fit Net (F,y) --max_epochs 1")
    assert "NaN" not in capsys.readouterr().out


def test_values_of_rows_that_a_subset_leaves_out_are_not_told(shell, three, capsys):
    run(
        shell,
        "from torch.utils.data import Subset\nodd = F.clone()\nodd[7, 1] = np.nan\nkeep = [*range(7), *range(8, 60)]\n"
        "clean, some = Subset(TensorDataset(odd, y), keep), Subset(TensorDataset(odd, y), [7, 8])",
    )
    run(shell, "run = %lightning_fit Net clean --max_epochs 1")
    assert "NaN" not in capsys.readouterr().out
    run(shell, "run = %lightning_fit Net some --max_epochs 1")
    where = "some has NaN or infinite values in the features (1 of 2 samples, the first at position 7)"
    assert where in capsys.readouterr().out
