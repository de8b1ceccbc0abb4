"""Class names as the labels of ``(X, y)``: numbered once, and matched by name from then on."""

import json
import re

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
        with pytest.raises(InputError, match=f"{message}|may be columns or splits"):
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
