"""What a fit learned of its table belongs to the run: later data is matched by name, or refused."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
import torch
from kernel import SETUP, Kernel
from notebook import SMALL_RUNS, data, namespace

from lightning_magics.errors import InputError
from lightning_magics.runs import columns

pytestmark = SMALL_RUNS
NET = "%%lightning_model Net --loss cross_entropy --metrics accuracy --lr 0.1\nnn.Linear(3, 3)"
FRAME = """
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
big, small, flag = rng.normal(size=60) * 3, rng.normal(size=60), rng.random(60) > 0.5
kind = np.where(big > 2, "a", np.where(small > 0, "b", "c"))
frame = pd.DataFrame({"big": big, "small": small, "flag": flag, "kind": kind})
part = frame[frame.kind != "a"][["kind", "flag", "small", "big"]]
codes = torch.tensor(part.kind.map({"a": 0, "b": 1, "c": 2}).to_numpy())
def of(model, order=("big", "small", "flag")):
    with torch.no_grad():
        return model(torch.tensor(part[list(order)].to_numpy("float32")))
"""
TABLE = "%%lightning_data table --label kind --val_split 0.2\nframe"
HELD = "%%lightning_data held --label kind\n{'train': part, 'val': part, 'test': part}"


@pytest.fixture
def ns(shell):
    """The names of a notebook in which a model was trained on a table."""
    for cell in (SETUP, FRAME, NET, TABLE, "run = %lightning_fit Net table --max_epochs 1 --seed 1 --quiet"):
        shell.run_cell(cell).raise_error()
    return shell.user_ns


def run(shell, cell):
    shell.run_cell(cell).raise_error()


def truth(ns):
    """Accuracy and loss of the held rows, as torch gives them."""
    output, codes = ns["of"](ns["run"].model), ns["codes"]
    loss = torch.nn.functional.cross_entropy(output, codes)
    return float((output.argmax(1) == codes).float().mean()), float(loss)


def test_rows_of_some_classes_in_other_columns_are_tested_as_what_they_are(shell, ns):
    accuracy, loss = truth(ns)
    run(shell, f"{HELD}")
    run(shell, "found = %lightning_test run held --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy)
    assert ns["found"].results[0]["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert ns["found"].judged.classes == ["a", "b", "c"]
    assert ns["found"].judged.actual == [0, *ns["part"].kind.value_counts().sort_index().tolist()]
    run(shell, "found = %lightning_validate run held --quiet")
    assert ns["found"].results[0]["val_accuracy"] == pytest.approx(accuracy)
    run(shell, "%lightning_data part --label kind")
    run(shell, "found = %lightning_predict run part --quiet")
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["run"].model))
    # Labels of another type are the same classes.
    for kind in ("'category'", "object"):
        run(shell, f"more = part.astype({{'kind': {kind}}})")
        run(shell, "%%lightning_data more_held --label kind\n{'train': more, 'test': more}")
        run(shell, "found = %lightning_test run more_held --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy)
    assert ns["run"].data[0].columns.keys() == {"big", "small", "flag"}


def test_a_table_is_predicted_for_by_the_names_of_its_columns(shell, ns):
    expected = ns["of"](ns["run"].model)
    for table in ("part", "part[['flag', 'big', 'small']]", "part.astype({'big': 'float32'})"):
        run(shell, f"%lightning_predict run {table} -o found --quiet")
        assert torch.allclose(ns["found"], expected)
    for made in (polars.from_pandas(ns["part"]), pyarrow.Table.from_pandas(ns["part"], preserve_index=False)):
        ns["other"] = made
        run(shell, "%lightning_predict run other -o found --quiet")
        assert torch.allclose(ns["found"], expected)


def test_a_table_is_tested_by_the_names_of_its_columns_and_of_its_labels(shell, ns):
    accuracy, loss = truth(ns)
    for table in ("part", "part[['flag', 'kind', 'big', 'small']]", "part.astype({'kind': 'category'})"):
        run(shell, f"found = %lightning_test run {table} --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy)
        assert ns["found"].results[0]["test_loss"] == pytest.approx(loss, rel=1e-4)
    ns["other"] = polars.from_pandas(ns["part"])
    run(shell, "found = %lightning_validate run other --quiet")
    assert ns["found"].results[0]["val_accuracy"] == pytest.approx(accuracy)
    for table, message in {
        "part.drop(columns='kind')": "lacks the label column kind, which Net was trained on.",
        "part.rename(columns={'kind': 'kinds'})": "lacks the label column kind, which Net was trained on. Did",
        "part.replace({'kind': {'b': 'd'}})": "contains d, but Net was trained only on a, b, c",
        "part.assign(kind=None)": "has columns with missing values: kind",
        "part.drop(columns='big')": "lacks the column big, which Net was trained on.",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)) as raised:
            run(shell, f"%lightning_test run {table}")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("label", ["code", "price"])
def test_a_table_is_tested_on_labels_that_are_numbers(shell, ns, label):
    run(
        shell,
        f"frame['code'], frame['price'] = frame.kind.map({{'a': 0, 'b': 1, 'c': 2}}), frame.big * 2\n"
        f"frame = frame[['big', 'small', '{label}']]",
    )
    outputs, loss = (3, "cross_entropy") if label == "code" else (1, "mse_loss")
    run(shell, f"%%lightning_model Other --loss {loss}\nnn.Linear(2, {outputs})")
    run(shell, f"%%lightning_data numbers --label {label}\n{{'train': frame, 'test': frame}}")
    run(shell, "other = %lightning_fit Other numbers --max_epochs 1 --quiet")
    run(shell, "by_name = %lightning_test other numbers --quiet")
    run(shell, f"found = %lightning_test other frame[['{label}','small','big']] --quiet")
    assert ns["found"].results == ns["by_name"].results
    run(shell, f"pair = %lightning_fit Other (frame[['big','small']],frame['{label}']) --max_epochs 1 --quiet")
    with pytest.raises(InputError, match=r"the label column of frame is unknown: Other was trained"):
        run(shell, "%lightning_test pair frame")


REFUSED = {
    "part[['big', 'small']]": "lacks the column flag, which Net was trained on. The columns must be big, small, flag",
    "part.rename(columns={'big': 'bigg'})": "lacks the column big, which Net was trained on. Did you mean 'bigg'?",
    "part[['kind']].assign(x=1, y=2)": "lacks the columns big, small, flag, which Net was trained on. It has x, y",
    "part.assign(x=1)": "has the column x, which Net was not trained on. Remove extra columns: frame.drop(columns=['x'",
    "part.assign(big='1')": "but Net was trained on numbers (float64). Convert it: frame['big'].astype('float64')",
    "part.assign(big=part.big.where(part.big > 0))": "has columns with missing values: big. Fill them",
    "part[['big', 'big', 'small', 'flag']]": "has duplicate column names: big",
}


def test_columns_that_the_model_was_not_trained_on_are_refused_in_one_line(shell, ns):
    for table, message in REFUSED.items():
        with pytest.raises(InputError, match=re.escape(message)) as raised:
            run(shell, f"%lightning_predict run {table}")
        assert "\n" not in str(raised.value)


def test_labels_that_the_model_was_not_trained_on_are_refused(shell, ns):
    run(shell, "%%lightning_data more --label kind\nx = part.replace({'kind': {'b': 'd'}})\n{'train': x, 'test': x}")
    with pytest.raises(InputError, match=r"the column 'kind' of more contains d, but Net was trained only on a, b, c"):
        run(shell, "%lightning_test run more")
    run(shell, "%%lightning_data more --label kind\nx = part.drop(columns='flag')\n{'train': x, 'test': x}")
    with pytest.raises(InputError, match=r"more lacks the column flag, which Net was trained on"):
        run(shell, "%lightning_test run more")


def test_what_is_taken_in_another_type_is_said(shell, ns, capsys):
    run(shell, "%lightning_predict run part.assign(flag=part.flag.astype(int)) -o found")
    assert torch.allclose(ns["found"], ns["of"](ns["run"].model))
    assert "the column 'flag' of part.assign(flag=part.flag.astype(int)) has type int64, but was bool" in (
        capsys.readouterr().out
    )


def test_a_fit_that_goes_on_keeps_columns_and_classes_and_a_new_one_learns_its_own(shell, ns):
    run(shell, HELD)
    run(shell, "net = run.model\nmore = %lightning_fit net held --max_epochs 1 --quiet")
    assert list(ns["more"].data[0].columns) == ["big", "small", "flag"]
    assert ns["more"].data[0].classes == ["a", "b", "c"]
    run(shell, "fresh = %lightning_fit Net held --max_epochs 1 --quiet")
    assert list(ns["fresh"].data[0].columns) == ["flag", "small", "big"]
    assert ns["fresh"].data[0].classes == ["b", "c"]
    run(shell, "mine = HeldData()\nother = %lightning_fit Net mine --max_epochs 1 --quiet")
    run(shell, "found = %lightning_test run mine --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(
        float((ns["of"](ns["run"].model).argmax(1) == ns["codes"]).float().mean())
    )
    run(shell, "again = %lightning_fit Net mine --max_epochs 1 --quiet")
    assert ns["again"].data[0].classes == ["b", "c"]
    run(shell, "x = frame.rename(columns={'flag': 'sign'})")
    run(shell, "%lightning_data x --label kind")
    run(shell, "another = %lightning_fit net x --max_epochs 1 --quiet")
    assert list(ns["another"].data[0].columns) == ["big", "small", "sign"]
    assert "sign" in (ns["another"].folder.path / "table.json").read_text()


def test_whole_numbers_stay_what_they_are(shell, ns):
    """Labels 0, 1, 2 are the model's outputs; rows of 1 and 2 alone are not 0 and 1."""
    run(shell, "numbered = frame.assign(kind=frame.kind.map({'a': 0, 'b': 1, 'c': 2}))")
    run(shell, "%%lightning_data numbers --label kind\nnumbered")
    run(shell, "run = %lightning_fit Net numbers --max_epochs 1 --quiet")
    for kind in ("'category'", "str", "float"):
        run(shell, f"held = numbered[numbered.kind > 0].astype({{'kind': {kind}}})")
        run(shell, "%%lightning_data more --label kind\n{'train': held, 'test': held}")
        run(shell, "found = %lightning_test run more --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx(truth(ns)[0])


def test_numbers_to_predict_stay_numbers(shell, ns):
    run(shell, "%%lightning_model Line --loss mse_loss --lr 0.001\nnn.Linear(2, 1)")
    run(shell, "priced = frame[['small', 'big']].assign(price=frame.big * 2 + 0.5)")
    run(shell, "%%lightning_data prices --label price\npriced")
    run(shell, "run = %lightning_fit Line prices --max_epochs 1 --quiet")
    run(shell, "held = priced[['price', 'big', 'small']].astype({'price': int}).assign(price=range(60))")
    run(shell, "%%lightning_data more --label price\n{'train': held, 'test': held}")
    run(shell, "found = %lightning_test run more --quiet")
    with torch.no_grad():
        output = ns["run"].model(torch.tensor(ns["held"][["small", "big"]].to_numpy("float32")))
    expected = torch.nn.functional.mse_loss(output.flatten(), torch.arange(60.0))
    assert ns["found"].results[0]["test_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_columns_with_numbers_for_names(shell, ns):
    run(shell, "plain = pd.DataFrame(frame[['big', 'small', 'flag']].to_numpy(float)).assign(kind=list(kind))")
    run(shell, "plain.columns = [0, 1, 2, 3]\n")
    run(shell, "%lightning_data plain --label 3")
    run(shell, "run = %lightning_fit Net plain --max_epochs 1 --quiet")
    run(shell, "%lightning_predict run plain[[2,1,0]] -o found --quiet")
    run(shell, "%lightning_predict run plain -o expected --quiet")
    assert torch.equal(ns["found"], ns["expected"])
    assert ns["expected"].shape == (60, 3)
    with pytest.raises(InputError, match=r"lacks the column 1, which Net was trained on"):
        run(shell, "%lightning_predict run plain[[2,0]]")


@pytest.mark.parametrize("line", ["pairs", "(frame[['big','small','flag']],codes)"])
def test_features_with_names_and_labels_apart_are_matched_too(shell, ns, line):
    run(shell, "codes = pd.Series(frame.kind.map({'a': 0, 'b': 1, 'c': 2}), name='kind')")
    cell = "X, y = frame[['big', 'small', 'flag']], codes\n((X, y), (X[['flag', 'big', 'small']], y))"
    if line == "pairs":
        with pytest.raises(InputError, match=r"--label kind has no effect: y already holds the labels of \(X, y\)"):
            run(shell, f"%%lightning_data pairs --label kind\n{cell}")
        run(shell, f"%%lightning_data pairs\n{cell}")
    run(shell, f"run = %lightning_fit Net {line} --max_epochs 1 --quiet")
    run(shell, "%lightning_predict run part -o found --quiet")
    assert torch.allclose(ns["found"], ns["of"](ns["run"].model))
    run(shell, "found = %lightning_validate run (frame[['flag','big','small']],codes) --quiet")
    if line == "pairs":
        run(shell, "same = %lightning_validate run --quiet")
        assert ns["same"].results[0]["val_loss"] == pytest.approx(ns["found"].results[0]["val_loss"])
    with pytest.raises(InputError, match=r"lacks the column flag, which Net was trained on"):
        run(shell, "%lightning_validate run (frame[['big','small']],codes)")
    run(shell, HELD)
    with pytest.raises(InputError, match=r"contains b, c, but Net was trained on numeric labels"):
        run(shell, "%lightning_test run held")


UNKNOWN = "no record that Net was trained on a table: columns are used in the order "


def test_a_model_whose_table_is_not_known_says_once_how_columns_are_taken(shell, ns, capsys):
    run(shell, HELD)
    run(shell, "loader = DataLoader(TensorDataset(torch.randn(9, 3), torch.arange(9) % 3))")
    run(shell, "fresh, net = Net(), Net()\n%lightning_fit net loader --max_steps 1 --quiet")
    for line, said in {
        "%lightning_test fresh held": "flag, small, big; classes are numbered 0 = b, 1 = c",
        "%lightning_predict fresh part[['flag','small','big']]": "flag, small, big",
        "%lightning_validate net (part[['small','flag','big']],codes)": "small, flag, big",
        "%lightning_predict net part[['flag','small','big']]": "flag, small, big",
    }.items():
        capsys.readouterr()
        run(shell, line)
        out = capsys.readouterr().out
        assert f"{UNKNOWN}{said}" in out
        assert out.count("columns are used") == 1


FRESH = "net = Net()\nnet.load_state_dict"
COPIES = {
    "deepcopy": "net = copy.deepcopy(run.model)",
    "deepcopy that was changed": "net = copy.deepcopy(run.model)\nnet.net.bias.data[0] += 1e-6",
    "load_from_checkpoint": "net = Net.load_from_checkpoint(run.best_model_path)",
    "pickle": "net = pickle.loads(pickle.dumps(run.model))",
    "torch.save": "torch.save(run.model, 'net.pt')\nnet = torch.load('net.pt', weights_only=False)",
    "weights of a checkpoint": f"{FRESH}(torch.load(run.best_model_path)['state_dict'])",
    "weights of a model": f"{FRESH}(run.model.state_dict())",
    "weights in a file": f"torch.save(run.model.state_dict(), 'weights.pt')\n{FRESH}(torch.load('weights.pt'))",
    "into another model": "net = second.model\nnet.load_state_dict(torch.load(run.best_model_path)['state_dict'])",
}


def test_a_copy_of_a_model_has_its_columns_and_classes(shell, ns):
    run(shell, "import copy, pickle")
    run(shell, HELD)
    accuracy, expected = truth(ns)[0], ns["of"](ns["run"].model)
    run(shell, "other = frame[['flag', 'small', 'big', 'kind']].assign(kind=frame.kind.map(dict(a='z', b='y', c='x')))")
    run(shell, "%lightning_data other --label kind")
    run(shell, "second = %lightning_fit Net other --max_epochs 1 --seed 1 --quiet")
    for way, cell in COPIES.items():
        run(shell, cell)
        run(shell, "%lightning_predict net part -o found --quiet")
        assert torch.allclose(ns["found"], expected, atol=1e-5), way
        run(shell, "found = %lightning_test net held --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy), way
        assert not [item.text for item in ns["found"]._state.notices if "columns are used" in item.text], way
    run(shell, "found = %lightning_test net part[['flag','kind','small','big']] --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy)
    assert ns["found"].judged.classes == ["a", "b", "c"]
    assert ns["found"].judged.actual == [0, *ns["part"].kind.value_counts().sort_index().tolist()]
    assert sum(ns["found"].judged.correct) == round(accuracy * len(ns["part"]))


def test_a_class_of_the_notebook_keeps_its_columns_and_stays_as_it_was_written(shell, ns):
    run(
        shell,
        """
class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def forward(self, x):
        return self.layer(x)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
before = set(vars(Own))
""",
    )
    run(shell, "own = %lightning_fit Own table --max_epochs 1 --quiet")
    run(shell, "net = Own.load_from_checkpoint(own.best_model_path)\n%lightning_predict net part -o found --quiet")
    assert torch.allclose(ns["found"], ns["of"](ns["own"].model))
    assert set(vars(ns["Own"])) == ns["before"]
    assert list(ns["own"].model.state_dict()) == ["layer.weight", "layer.bias"]
    assert not ns["own"].model.hparams


def test_a_checkpoint_outside_of_its_run_holds_the_columns(shell, ns):
    run(shell, HELD)
    accuracy, expected = truth(ns)[0], ns["of"](ns["run"].model)
    shutil.copy(ns["run"].best_model_path, "kept.ckpt")
    assert set(torch.load("kept.ckpt")["lightning_magics"]) == {"table", "run"}
    shutil.rmtree("lightning_logs/Net/version_0")
    run(shell, "other = frame[['flag', 'small', 'big', 'kind']]\nnet = Net()")
    run(shell, "%lightning_data other --label kind")
    run(shell, "second = %lightning_fit Net other --max_epochs 1 --seed 1 --quiet")
    for model in ("Net", "net", "second"):
        run(shell, f"%lightning_predict {model} part -o found --quiet --ckpt_path kept.ckpt")
        assert torch.allclose(ns["found"], expected)
    run(shell, "found = %lightning_test Net held --quiet --ckpt_path kept.ckpt")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy)
    run(shell, "%lightning_data part --label kind")
    run(shell, "more = %lightning_fit Net part --resume kept.ckpt --max_epochs 2 --quiet")
    kept = json.loads((ns["more"].folder.path / "table.json").read_text())
    assert list(kept["columns"]) == ["'big'", "'small'", "'flag'"]
    assert kept["classes"] == ["a", "b", "c"]


SPLITS = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6], "kind": ["x", "y", "z"]})


def ready(definition):
    instance = definition.new()
    instance.setup("fit")
    return instance


@pytest.mark.parametrize(
    "cell", ["frame, frame[['kind', 'b', 'a']]", "{'train': frame, 'val': frame[['b', 'a', 'kind']][1:]}"]
)
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_splits_may_be_tables(cell, package):
    if package == "polars":
        cell = re.sub(r"frame(\[.*?\]\])?(\[1:\])?", lambda found: f"polars.from_pandas({found[0]})", cell)
    made = ready(data(cell, names=namespace(frame=SPLITS, polars=polars), label="kind"))
    features, labels = made.splits["val"].tensors
    assert made.splits["train"].tensors[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert features.tolist() == [[1, 4], [2, 5], [3, 6]][-len(features) :]
    assert labels.tolist() == [0, 1, 2][-len(labels) :]


def test_a_split_to_predict_for_needs_no_labels():
    cell = "{'test': frame, 'train': frame, 'predict': frame[['b', 'a']]}"
    made = ready(data(cell, names=namespace(frame=SPLITS), label="kind"))
    assert [column.tolist() for column in made.splits["predict"].tensors] == [[[1, 4], [2, 5], [3, 6]]]


@pytest.mark.parametrize(
    ("cell", "label", "message"),
    [
        ("frame, frame[['kind', 'b']]", "kind", r"the split 'val' lacks the column a, which the training data has"),
        (
            "frame[:2], frame",
            "kind",
            r"the column 'kind' of the split 'val' contains z, but the training data has only",
        ),
        ("frame, frame[['a', 'b']]", "kind", r"the split 'val' lacks the label column kind"),
        ("{'train': frame, 'val': frame}", None, r"the split 'train'.* Name the label column: --label COLUMN"),
        ("{'train': frame, 'val': (frame[['a']], frame['b'])}", "kind", r"some splits are tables and some are not"),
        ("frame[['a', 'a', 'kind']]", "kind", r"the table has duplicate column names: a"),
        ("frame.rename(columns={'a': pd.Timestamp(0)})", "kind", r"the column name Timestamp.* not text or a number"),
        ("(sparse, np.ones(3))", None, r"a sparse matrix \(3 × 4\) cannot be loaded as data.*X.toarray\(\)"),
        ("{'train': (sparse, np.ones(3))}", None, r"a sparse matrix \(3 × 4\) cannot be loaded as data"),
    ],
)
def test_tables_that_cannot_be_used_are_described(cell, label, message):
    from scipy import sparse

    names = namespace(frame=SPLITS, pd=pd, np=np, sparse=sparse.csr_matrix((3, 4)))
    with pytest.raises(InputError, match=message):
        data(cell, names=names, label=label)


def test_features_of_types_that_have_none_in_common_become_numbers():
    names = namespace(frame=pd.DataFrame({"a": [1.5, 2], "b": [True, False]}))
    made = ready(data("frame, frame['b'].astype(int)", names=names))
    assert made.splits["train"].tensors[0].tolist() == [[1.5, 1], [2, 0]]


def test_weights_of_a_checkpoint_bring_the_columns_of_their_run(shell, ns, capsys):
    run(shell, f"{HELD}")
    expected = truth(ns)[0]
    run(shell, "other = frame[['flag', 'small', 'big', 'kind']].assign(kind=frame.kind.map(dict(a='z', b='y', c='x')))")
    run(shell, "%lightning_data other --label kind")
    run(shell, "second = %lightning_fit Net other --max_epochs 1 --seed 1 --quiet")  # the newest of the name
    run(shell, "found = %lightning_test Net held --quiet --ckpt_path {run.best_model_path}")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(expected)
    run(shell, "shown = %lightning_predict second part --ckpt_path {run.best_model_path} --quiet")
    assert torch.allclose(ns["shown"].predictions, ns["of"](ns["run"].model))
    run(shell, "held_again = held_frame = part.assign(flag=part.flag.astype('int'))")
    run(shell, "%%lightning_data numbers --label kind\n{'train': held_frame, 'test': held_frame}")
    run(shell, "where = 'best'\nfound = %lightning_test run numbers --quiet --ckpt_path where")
    notices = [item.text for item in ns["found"]._state.notices]
    assert notices[0].startswith("weights of ")
    assert any("flag" in text for text in notices[1:])  # what is said of the data stays
    # The columns are those of the run that goes on, in their order; so are its classes.
    run(shell, "%lightning_data part --label kind")
    run(shell, "more = %lightning_fit Net part --resume {run.name} --max_epochs 2 --quiet")
    assert list(json.loads((ns["more"].folder.path / "table.json").read_text())["columns"]) == [
        "'big'",
        "'small'",
        "'flag'",
    ]
    assert ns["more"].data[0].classes == ["a", "b", "c"]


def test_a_fresh_model_is_not_matched_to_a_run_that_is_attached(shell, ns):
    run(shell, "held = %lightning_attach Net/version_0")
    ns["held"]._model = None  # as of a run of another kernel, whose model nobody has asked for
    run(shell, "%lightning_data part --label kind")
    run(shell, NET.replace("Net", "Two").replace("3, 3", "3, 2"))
    run(shell, "two = %lightning_fit Two part --max_epochs 1 --quiet")
    assert ns["two"].data[0].classes == ["b", "c"]


def test_values_that_a_later_cell_changes_in_place_are_said(shell, ns):
    run(shell, "%%lightning_data scaled --label kind\nown = frame.copy()\nown")
    run(shell, "own['big'] /= own['big'].max()")
    run(shell, "changed = %lightning_fit Net scaled --max_epochs 1 --quiet")
    said = "The values of scaled were changed in place after its cell ran"
    assert [item.text for item in ns["changed"]._state.notices if said in item.text]
    run(shell, "%%lightning_data scaled --label kind\nown = frame.copy()\nown")
    run(shell, "same = %lightning_fit Net scaled --max_epochs 1 --quiet")
    assert not [item.text for item in ns["same"]._state.notices if said in item.text]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a notebook that has trained on a table, in three ways."""
    kernel = Kernel(tmp_path_factory.mktemp("tables"))
    try:
        kernel.run(SETUP, FRAME, NET, TABLE, HELD)
        kernel.run("run = %lightning_fit Net table --max_epochs 2 --seed 1 --quiet")
        kernel.run("apart = %lightning_fit Net table --max_epochs 2 --seed 1 --quiet --background\napart.wait()")
        kernel.run("two = %lightning_fit Net table --max_epochs 2 --seed 1 --quiet --ddp 2")
        kernel.run("again = %lightning_rerun Net/version_0 --quiet")
        kernel.run("torch.save([of(item.model) for item in (run, apart, two, again)], 'expected.pt')")
        kernel.run("part.to_pickle('part.pkl')\n%lightning_export run train.py")
        yield kernel
    finally:
        kernel.stop()


@pytest.mark.parametrize("name", ["run", "apart", "two", "again"])
def test_every_way_to_train_keeps_the_columns(trained, name):
    trained.run(f"%lightning_predict {name} part -o found --quiet", f"expected = of({name}.model)")
    assert trained.value("torch.allclose(found, expected)")
    trained.run("from lightning_magics.training.origins import carried_origin, weights_mark")
    # So no other run is searched.
    assert trained.value(f"carried_origin({name}.model).mark == weights_mark({name}.model)")
    trained.run(f"test = %lightning_test {name} held --quiet --ddp 2")
    trained.run("good = (expected.argmax(1) == codes).float().mean().item()")
    assert trained.value("test.results[0]['test_accuracy']") == pytest.approx(trained.value("good"), abs=0.05)
    assert trained.value("test.judged.classes") == ["a", "b", "c"]


def test_another_kernel_matches_a_table_to_a_run(trained):
    kernel = Kernel(trained.folder)
    try:
        kernel.run(
            SETUP, "import pandas as pd\npart, expected = pd.read_pickle('part.pkl'), torch.load('expected.pt')", NET
        )
        for place in range(3):
            kernel.run(f"%lightning_predict Net/version_{place} part -o found --quiet")
            assert kernel.value(f"torch.allclose(found, expected[{place}])")
        kernel.run(
            "from pathlib import Path",
            "net = Net.load_from_checkpoint(next(Path('lightning_logs/Net/version_1/checkpoints').glob('*.ckpt')))",
            "%lightning_predict net part -o found --quiet",
        )
        assert kernel.value("torch.allclose(found, expected[1])")
        assert "lacks the columns big, small" in kernel.cell("%lightning_predict Net/version_1 part[['flag']]").error
        kernel.run("net = %lightning_load Net/version_0", "%lightning_predict net part -o found --quiet")
        assert kernel.value("torch.allclose(found, expected[0])")
        kernel.run(HELD, "test = %lightning_test net held --quiet")
        assert kernel.value("test.judged.classes") == ["a", "b", "c"]
    finally:
        kernel.stop()


SCRIPT = "runpy.run_path('train.py', run_name='__main__')"


def test_a_script_trains_the_same_on_its_table(trained, elsewhere):
    table = json.loads((trained.folder / "lightning_logs/Net/version_0/table.json").read_text())
    assert table == {
        "columns": {"'big'": "float64", "'small'": "float64", "'flag'": "bool"},
        "label": "'kind'",
        "labels": "classes",
        "classes": ["a", "b", "c"],
    }
    done = elsewhere.run(f"import os, runpy; os.chdir({str(trained.folder)!r}); {SCRIPT}")
    printed = dict(line.split("=") for line in done.stdout.splitlines() if re.match(r"^\w+=", line))
    metrics = trained.value("dict(run.metrics)")
    assert {name: float(printed[name]) for name in metrics} == metrics


def test_classes_are_no_numbers_for_a_loss(shell, ns):
    for loss in ("mse_loss", "nn.HuberLoss(delta=2.0)", "nn.L1Loss", "smooth_l1"):
        run(shell, f'%%lightning_model Line --loss "{loss.replace("smooth_l1", "smooth_l1_loss")}"\nnn.Linear(3, 1)')
        with pytest.raises(
            InputError, match=r"_loss expects numbers, but the labels of table are classes. Define Line"
        ):
            run(shell, "%lightning_fit Line table --max_epochs 1")
    run(shell, "%%lightning_data flags --label flag\nframe[['big', 'small', 'flag']]")
    run(shell, "%%lightning_model Line --loss mse_loss\nnn.Linear(2, 1)")
    run(shell, "%lightning_fit Line flags --max_epochs 1 --quiet")


def test_labels_that_are_numbers_are_refused_by_a_loss_of_classes_and_what_is_changed_is_said_once(shell, ns, capsys):
    run(shell, "%%lightning_data prices --label big\nframe[['big', 'small', 'flag']].assign(more=1)")
    with pytest.raises(
        InputError, match=r"the labels of prices are numbers \(.*\), but the loss of Net expects classes"
    ):
        run(shell, "%lightning_fit Net prices --max_epochs 1")
    run(shell, "%%lightning_data whole --label kind\nframe.assign(kind=(frame.kind == 'b').astype(float))")
    run(shell, "%lightning_fit Net whole --max_epochs 2")
    assert capsys.readouterr().out.count("float32 labels are converted to class indices") == 1


@pytest.mark.parametrize(("column", "advice"), [(None, "them with .astype('float32')"), ("y", "it: frame['y'].astype")])
def test_labels_that_are_no_numbers_are_told_how_to_become_such(column: str | None, advice: str) -> None:
    known = columns.TableSchema({}, labels="numbers")
    with pytest.raises(InputError, match=rf"was trained on numbers\. Convert {re.escape(advice)}"):
        columns.check_labels(pd.Series(["1", "2"], name=column), known, "classes", "Net", "(X, y)")


def test_labels_of_another_index_are_refused_or_are_by_position_as_they_say(shell, ns):
    run(
        shell,
        "X, y = frame[['big', 'small', 'flag']].astype(float), frame.kind\nturned = y[::-1]\n"
        "some, fresh = X[20:].set_axis(range(7, 47)), y[20:].reset_index(drop=True)",
    )
    again = (
        "have the same index as the features, but in another order. "
        "To align them, type y.loc[X.index]; to match them by position, y.to_numpy()"
    )
    other = "the labels of (some,y[20:]) have the index 20, 21, 22, 23, 24, 25, 26, 27, …, but the features have 7, 8, "
    for cell, said in (
        ("%lightning_fit Net (X,turned) --quiet", f"the labels of (X,turned) {again}"),
        ("%lightning_test run (X,turned.to_frame()) --quiet", f"the labels of (X,turned.to_frame()) {again}"),
        ("%lightning_fit Net (X.big,turned) --quiet", f"the labels of (X.big,turned) {again}"),
        ("%%lightning_data pair\nX, turned", f"the labels {again}"),
        ("%%lightning_data pair\n{'train': (X, y), 'val': (X.big, turned)}", f"the labels {again}"),
        ("%lightning_fit Net (some,y[20:]) --quiet", other),
    ):
        with pytest.raises(InputError) as caught:
            run(shell, cell)
        assert str(caught.value).startswith(said)
    for labels in ("turned.loc[X.index]", "y.to_numpy()", "y"):
        run(shell, f"same = %lightning_fit Net (X,{labels}) --max_epochs 1 --seed 1 --quiet")
    run(shell, "%lightning_fit Net (some,fresh) --max_epochs 1 --quiet")
    run(shell, "%lightning_predict run (X,turned) --quiet")


def test_labels_named_like_a_feature_have_no_column_of_their_own(shell, ns):
    run(shell, "X, y = frame[['big', 'small', 'flag']].astype(float), frame.kind.rename('small')")
    run(shell, "%%lightning_data pair\nX, y")
    for typed in ("(X,y)", "pair"):
        run(shell, f"found = %lightning_fit Net {typed} --max_epochs 1 --seed 1 --quiet")
        assert ns["found"].table.names == ["big", "small", "flag"]
        run(shell, "judged = %lightning_test found (X,y) --quiet")
        with torch.no_grad():
            output = ns["found"].model(torch.tensor(ns["X"].to_numpy("float32")))
        right = output.argmax(1).numpy() == ns["y"].map({"a": 0, "b": 1, "c": 2}).to_numpy()
        assert ns["judged"].results[0]["test_accuracy"] == pytest.approx(right.mean())


def test_a_frame_that_is_a_definition_too_is_evaluated_as_the_frame_where_that_has_no_split(shell, ns, capsys):
    run(shell, "%lightning_data frame --label kind")
    with torch.no_grad():
        output = ns["run"].model(torch.tensor(ns["frame"][["big", "small", "flag"]].to_numpy("float32")))
    right = (output.argmax(1).numpy() == ns["frame"].kind.map({"a": 0, "b": 1, "c": 2}).to_numpy()).mean()
    for verb, split in (("test", "test"), ("validate", "val")):
        capsys.readouterr()
        run(shell, f"found = %lightning_{verb} run frame")
        assert ns["found"].results[0][f"{split}_accuracy"] == pytest.approx(right)
        assert f"frame has no {split} split, so all rows of the table are used" in capsys.readouterr().out
    run(shell, "found = %lightning_predict run frame --quiet")
    assert torch.allclose(ns["found"].predictions, output)
    run(shell, "%lightning_data frame --label kind --test_split 0.5")
    run(shell, "found = %lightning_test run frame --quiet")
    assert sum(ns["found"].judged.actual) == 30
