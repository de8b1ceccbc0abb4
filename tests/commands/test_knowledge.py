"""What a model knows of its data goes with its weights, whoever put them there."""

import json
import os
import re

import pytest
import torch
from kernel import SETUP
from notebook import SMALL_RUNS

from lightning_magics.errors import InputError
from lightning_magics.training import origins

pytestmark = SMALL_RUNS
NET = "%%lightning_model Net --loss cross_entropy --metrics accuracy --lr 0.1\nnn.Linear(2, 3)"
ROWS = """
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2)).astype("float32")
codes = np.where(X[:, 0] > 0.5, 2, np.where(X[:, 1] > 0, 1, 0))
names = np.array(["ant", "bee", "cat"])[codes]
frame = pd.DataFrame({"left": X[:, 0], "right": X[:, 1], "kind": names})
turned = frame[["kind", "right", "left"]]
loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(codes)), batch_size=16)
def of(model, x=X):
    with torch.no_grad():
        return model(torch.tensor(x))
"""
CHANGED = "the weights of Net have changed since its last recorded fit and do not match any recorded run"


@pytest.fixture
def ns(shell):
    """The names of a notebook in which a model was trained on a table."""
    run(shell, SETUP, ROWS, NET, "%lightning_data frame --label kind")
    run(shell, "table = %lightning_fit Net frame --max_epochs 1 --seed 1 --quiet")
    return shell.user_ns


def run(shell, *cells):
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


def refused(shell, line):
    found = shell.run_cell(line).error_in_exec
    assert isinstance(found, InputError)
    return str(found)


def notices(called):
    return [item.text for item in called._state.notices]


def accuracy(ns, model):
    return float((ns["of"](model).argmax(1).numpy() == ns["codes"]).mean())


def test_a_model_that_was_trained_further_elsewhere_is_matched_as_before_and_said(shell, ns):
    run(shell, "net = table.model\npl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(net, loader)")
    for line in ("%lightning_predict net turned --quiet", "%lightning_test net turned --quiet"):
        run(shell, f"found = {line}")
        assert len([text for text in notices(ns["found"]) if text.startswith(CHANGED)]) == 1
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["net"]))
    run(shell, "found = %lightning_predict table turned --quiet")  # its model has these weights, too
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["net"]))
    run(shell, "more = %lightning_fit net frame --max_epochs 1 --quiet")
    run(shell, "found = %lightning_predict net turned --quiet")
    assert not [text for text in notices(ns["found"]) if "have changed" in text]


def test_weights_of_a_run_on_tensors_are_not_matched_to_an_earlier_table(shell, ns):
    run(shell, "plain = %lightning_fit Net loader --max_epochs 1 --quiet\nnet = table.model")
    assert not ns["plain"].folder.table_path.exists()
    for cell in ("plain.model.state_dict()", "torch.load(plain.best_model_path)['state_dict']"):
        run(shell, f"net.load_state_dict({cell})\nfound = %lightning_predict net turned[['right','left']] --quiet")
        assert torch.allclose(ns["found"].predictions, ns["of"](ns["net"], ns["X"][:, ::-1].copy()))
        assert [text for text in notices(ns["found"]) if "no record that Net was trained on a table" in text]
        if ns["plain"] is not None:  # then the checkpoint alone tells
            run(shell, "plain, path = None, plain.best_model_path\nplain = type('', (), {'best_model_path': path})")


def test_names_and_numbers_are_not_mixed_as_labels_of_a_fit(shell, ns):
    for line, first, second in (
        ("(X,names) (X,codes)", "(X,names)", "(X,codes)"),
        ("(X,codes) (X,names)", "(X,names)", "(X,codes)"),
    ):
        said = refused(shell, f"%lightning_fit Net {line} --max_epochs 1")
        assert said.startswith(f"the labels of {first} are class names, but those of {second} are not")


def test_labels_that_are_numbers_are_read_as_the_classes_in_their_order_and_said(shell, ns):
    run(shell, "fit = %lightning_fit Net (X,names) --max_epochs 1 --seed 1 --quiet")
    for line in ("(X,codes)", "loader"):
        run(shell, f"found = %lightning_test fit {line} --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["fit"].model))
        (said,) = (text for text in notices(ns["found"]) if "are numbers" in text)
        assert said.endswith("are numbers and are read as class indices: 0 = ant, 1 = bee, 2 = cat")
    run(shell, "found = %lightning_test fit (X,names) --quiet")
    assert not [text for text in notices(ns["found"]) if "are numbers" in text]


@pytest.mark.parametrize("labels", ["np.array(['dog'] * 60)", "np.array([None, *names[1:]], dtype=object)", "names"])
def test_labels_are_left_out_of_what_is_predicted(shell, ns, labels):
    run(shell, f"labels = {labels}\nfit = %lightning_fit Net (X,names) --max_epochs 1 --seed 1 --quiet")
    run(shell, "found = %lightning_predict fit (X,labels) --quiet")
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["fit"].model))


def test_other_runs_are_searched_once_for_each_state_of_the_weights(shell, ns, monkeypatch):
    found = []
    monkeypatch.setattr(origins, "find_origin", lambda *asked: found.append(asked))
    run(shell, "net = Net()")
    for _ in range(3):
        run(shell, "%lightning_predict net turned[['left','right']] --quiet")
    assert len(found) == 1
    run(shell, "%lightning_predict net (torch.randn(4,2),) --quiet\n%lightning_predict net loader --quiet")
    assert len(found) == 1
    run(shell, "net.net.bias.data += 1\n%lightning_predict net turned[['left','right']] --quiet")
    assert len(found) == 2
    run(shell, "%lightning_predict table turned --quiet\n%lightning_test table turned --quiet")
    assert len(found) == 2


def test_a_checkpoint_outside_of_its_run_is_read_once_for_what_it_holds(shell, ns, monkeypatch):
    read, load = [], torch.load
    run(shell, "import shutil\nshutil.copy(table.best_model_path, 'kept.ckpt')")
    monkeypatch.setattr(origins, "read_checkpoint", lambda path, trusted: read.append(path) or load(path))
    run(shell, "found = %lightning_test Net turned --ckpt_path kept.ckpt --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["table"].model))
    assert len(read) == 1


def test_columns_in_the_reverse_order_of_the_training_are_matched(shell, ns):
    run(shell, "back = pd.DataFrame(X[:, ::-1].copy(), columns=['right', 'left']).assign(kind=names)")
    run(shell, "%lightning_data back --label kind --val_split 0.3")
    run(shell, "found = %lightning_predict table back --quiet")
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["table"].model))
    run(shell, "net = table.model", "%lightning_fit net back --max_epochs 1 --seed 1 --quiet")
    run(shell, "first = frame[frame.kind != ''][['kind', 'right', 'left']]", "%lightning_data first --label kind")
    run(shell, "%lightning_fit Net first --max_epochs 1 --seed 1 --quiet")
    run(shell, "%lightning_fit Net (np.flip(X),codes[::-1]) --max_epochs 1 --seed 1 --quiet")
    run(
        shell,
        "%%lightning_model Line --loss mse_loss\nnn.Linear(2, 1)",
        "far = frame[['left', 'right']].assign(far=X[:, 0])",
    )
    run(shell, "%lightning_data far --label far", "%lightning_fit Line far --max_epochs 1 --quiet")
    run(shell, "whole = %lightning_test Line far[:] --quiet", "turned = %lightning_test Line far[::-1] --quiet")
    assert ns["turned"].metrics["test_loss"] == pytest.approx(ns["whole"].metrics["test_loss"], rel=1e-5)


SUBSETS = {  # of the rows, without one class, and with their columns in another order
    "table": "kinds = frame[frame.kind != 'ant'][['kind', 'right', 'left']]\n%lightning_data kinds --label kind",
    "features and names": "some = codes > 0\n%%lightning_data kinds\nframe[['right', 'left']][some], names[some]",
    "arrays and names": "some = codes > 0\n%%lightning_data kinds\nX[some], names[some]",
    "splits": "%%lightning_data kinds --label kind\n{'train': turned[30:], 'val': turned[:30][codes[:30] > 0]}",
    "numbers for names": "named = pd.DataFrame({0: X[:, 0], 1: X[:, 1], 'kind': names})\n"
    "%lightning_data named --label kind\n"
    "table = %lightning_fit Net named --max_epochs 1 --seed 1 --quiet\n"
    "kinds = named[named.kind != 'ant'][['kind', 1, 0]]\n%lightning_data kinds --label kind",
}


@pytest.mark.parametrize("name", SUBSETS)
def test_a_script_keeps_the_columns_and_classes_of_the_weights_that_it_goes_on_with(shell, ns, elsewhere, name):
    cells = re.split(r"\n(?=%%)", SUBSETS[name])
    run(shell, *cells, "more = %lightning_fit Net kinds --resume {table.name} --max_epochs 2 --seed 1 --quiet")
    assert ns["more"].data[0].classes == ["ant", "bee", "cat"]
    run(shell, "%lightning_export more more.py")
    done = elsewhere.run(f"import os, runpy; os.chdir({os.getcwd()!r}); runpy.run_path('more.py', run_name='__main__')")
    printed = dict(line.split("=") for line in done.stdout.splitlines() if re.match(r"^\w+=", line))
    assert {name: float(printed[name]) for name in ns["more"].metrics} == ns["more"].metrics


def predicted_in_its_order(shell, ns, model="net"):
    """Whether a model takes the columns of a table by name, as its run did, and says nothing."""
    run(shell, f"found = %lightning_predict {model} turned --quiet")
    right = torch.allclose(ns["found"].predictions, ns["of"](eval(model, ns)))
    return right and not [text for text in notices(ns["found"]) if "columns are used" in text]


def test_a_checkpoint_in_the_folder_of_another_run_is_what_it_holds(shell, ns):
    run(
        shell,
        "from pytorch_lightning.callbacks import ModelCheckpoint",
        "beside = [ModelCheckpoint(dirpath=table.folder.checkpoints_path, filename='second')]",
        "second = %lightning_fit Net (X,codes) --max_epochs 1 --quiet --callbacks beside",
        "swapped = frame[['right', 'left']]",
        "found = %lightning_predict second swapped --quiet --ckpt_path best",
    )
    assert "second.ckpt" in str(ns["second"].best_model_path)
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["second"].model, ns["X"][:, ::-1].copy()))
    assert [text for text in notices(ns["found"]) if "columns are used in the order right, left" in text]


def test_a_file_beside_a_checkpoint_that_is_no_record_changes_nothing(shell, ns):
    run(shell, "import pathlib, shutil\nshutil.copy(table.best_model_path, 'kept.ckpt')")
    run(shell, "pathlib.Path('run.json').write_text('{}')")
    run(shell, "found = %lightning_predict Net turned --ckpt_path kept.ckpt --quiet")
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["table"].model))


@pytest.mark.parametrize("name", ["extra state", "a buffer of NaN", "a sparse buffer", "a buffer that counts"])
def test_a_model_is_known_by_its_weights_whatever_else_it_holds(shell, ns, name):
    more = {
        "extra state": "def get_extra_state(self): return {'seen': 1}\n    def set_extra_state(self, state): pass",
        "a buffer of NaN": "more = torch.tensor([float('nan'), 1])",
        "a sparse buffer": "more = torch.eye(2).to_sparse()",
        "a buffer that counts": "more = torch.zeros(())",
    }[name]
    method, buffer = (more, "") if "def " in more else ("pass", f"self.register_buffer('more', {more[7:]})")
    counts = "self.more += 1" if "counts" in name else "pass"
    run(
        shell,
        f"""class Own(pl.LightningModule):
    {method}
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)
        {buffer or "pass"}
    def forward(self, x):
        {counts}
        return self.layer(x)
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
""",
        "own = %lightning_fit Own frame --max_epochs 1 --quiet",
        "net = Own()\nnet.load_state_dict(own.model.state_dict())",
    )
    for model in ("own.model", "net", "own.model", "net"):
        assert predicted_in_its_order(shell, ns, model)
    assert not [text for text in notices(ns["found"]) if text.startswith("the weights of Own have changed")]


def test_what_a_run_learned_outlives_its_folder(shell, ns):
    run(
        shell,
        "import copy, shutil",
        "class Removes(pl.Callback):\n    def on_train_epoch_end(self, trainer, module):\n"
        "        shutil.rmtree(module.place)",
        "gone = Net()\nNet.place = 'lightning_logs/Net/version_1'",
        "removed = %lightning_fit gone frame --max_epochs 1 --quiet --callbacks Removes()",
    )
    assert not ns["removed"].folder.table_path.exists()
    assert predicted_in_its_order(shell, ns, "gone")
    run(shell, "shutil.rmtree(table.folder.path)\nnet = Net()\nnet.load_state_dict(table.model.state_dict())")
    assert predicted_in_its_order(shell, ns)
    run(shell, "net = copy.deepcopy(table.model)")
    assert predicted_in_its_order(shell, ns)


def test_a_run_with_many_checkpoints_does_not_hide_the_others(shell, ns):
    run(shell, "import shutil\nmany = %lightning_fit Net loader --max_epochs 1 --quiet")
    for number in range(30):
        run(shell, f"shutil.copy(many.best_model_path, many.folder.checkpoints_path / 'copy_{number}.ckpt')")
    run(shell, "net = Net.load_from_checkpoint(table.best_model_path)\ntable.model.net.bias.data += 1")
    origins._MOST_CHECKPOINTS, most = 25, origins._MOST_CHECKPOINTS
    try:
        assert predicted_in_its_order(shell, ns)
    finally:
        origins._MOST_CHECKPOINTS = most


def test_runs_of_another_folder_are_found_once_that_is_configured(shell, ns):
    run(shell, "import shutil\nnet = Net()\nstate = torch.load(table.best_model_path)")
    run(shell, "shutil.copytree('lightning_logs', 'kept_logs')\nshutil.rmtree('lightning_logs')")
    run(shell, "net.load_state_dict(state['state_dict'])\ntable.model.net.bias.data += 1")
    run(shell, "found = %lightning_predict net turned[['right','left']] --quiet")
    assert [text for text in notices(ns["found"]) if "columns are used in the order right, left" in text]
    run(shell, "%config LightningMagics.run_dir = 'kept_logs'")
    try:
        assert predicted_in_its_order(shell, ns)
    finally:
        run(shell, "%config LightningMagics.run_dir = 'lightning_logs'")


def test_a_damaged_record_of_columns_is_made_good_by_the_checkpoint(shell, ns):
    run(shell, "table.folder.table_path.write_text('{')\nnet = %lightning_load Net/version_0")
    assert predicted_in_its_order(shell, ns)
    run(shell, "more = %lightning_fit net frame --max_epochs 1 --quiet")
    assert ns["more"].status == "completed"


def test_a_model_that_changed_elsewhere_is_told_where_something_is_matched_alone(shell, ns):
    run(shell, "net = table.model\nnet.net.bias.data += 1\nfound = %lightning_predict net loader --quiet")
    assert not [text for text in notices(ns["found"]) if "have changed" in text]


def test_the_data_of_a_run_whose_model_has_other_weights_is_matched_to_these_or_refused(shell, ns):
    run(shell, "net = Net()", "ft, renamed = frame[['left', 'right']], np.array(['x', 'y', 'z'])[2 - codes]")
    run(shell, "first = %lightning_fit net (ft,names) (ft,names) --max_epochs 1 --seed 1 --quiet")
    run(shell, "judged = %lightning_validate first --quiet")
    assert notices(ns["judged"])[0] == "weights of Net/version_1"
    assert ns["judged"].results[0]["val_accuracy"] == pytest.approx(accuracy(ns, ns["net"]))
    expected = ns["judged"].results
    # Further training on the same columns and classes: other weights, the same data.
    run(shell, "%lightning_fit net (ft,names) --max_epochs 1 --seed 1 --quiet")
    for line in ("%lightning_validate first", "%lightning_validate judged"):
        run(shell, f"found = {line} --quiet")
        assert notices(ns["found"])[0].startswith("weights of Net/version_2")
        assert ns["found"].results[0]["val_accuracy"] == pytest.approx(accuracy(ns, ns["net"]))
    run(shell, "%lightning_fit net (ft,renamed) --max_epochs 1 --seed 1 --quiet")
    for line in ("%lightning_validate first", "%lightning_validate judged"):
        text = refused(shell, line)
        assert "has the classes ant, bee, cat, but its model's current weights were trained on x, y, z. Use" in text
    run(shell, "found = %lightning_validate first (ft,renamed) --quiet")
    assert notices(ns["found"])[0] == "weights of Net/version_3: the model of Net/version_1 has changed since its fit"
    run(shell, "found = %lightning_validate first --ckpt_path best --quiet")
    assert ns["found"].results == expected
    run(shell, "net.net.bias.data += 1", "found = %lightning_validate first (ft,renamed) --quiet")
    expected = (
        "the current weights do not belong to any recorded run: the model of Net/version_1 has changed since its fit"
    )
    assert notices(ns["found"])[0] == expected


def test_the_tables_of_a_run_whose_model_has_other_weights_are_matched_to_these_or_refused(shell, ns):
    run(shell, "%lightning_data turned --label kind --val_split 0.4", "net = Net()")
    run(shell, "first = %lightning_fit net turned --max_epochs 1 --seed 1 --quiet")
    run(shell, "again = Net()", "%lightning_fit again frame --max_epochs 1 --seed 1 --quiet")
    run(shell, "net.load_state_dict(again.state_dict())", "found = %lightning_validate first --quiet")
    assert notices(ns["found"])[0].startswith("weights of Net/version_2: the model of Net/version_1 has changed since")
    rows = ns["found"].data[0].splits["val"].indices
    right = ns["of"](ns["again"]).argmax(1).numpy() == ns["codes"]
    assert ns["found"].results[0]["val_accuracy"] == pytest.approx(float(right[rows].mean()))
    run(shell, "other = frame.assign(kind=np.array(['x', 'y', 'z'])[codes])", "%lightning_data other --label kind")
    run(shell, "%lightning_fit net other --max_epochs 1 --seed 1 --quiet")
    assert "contains ant, bee, cat, but Net was trained only on x, y, z" in refused(shell, "%lightning_validate first")


@pytest.mark.parametrize("data", ["kinds", "(turned[['right','left']][some],names[some])"])
def test_a_rerun_keeps_the_columns_and_classes_of_an_instance_that_was_trained_before(shell, ns, data):
    run(shell, "net = Net()", "%lightning_fit net frame --max_epochs 1 --seed 1 --quiet", "some = codes > 0")
    run(shell, "kinds = turned[turned.kind != 'ant']", "%lightning_data kinds --label kind")
    run(
        shell,
        f"more = %lightning_fit net {data} --max_epochs 1 --seed 1 --quiet",
        "again = %lightning_rerun more --quiet",
    )
    assert ns["again"].table == ns["more"].table
    assert ns["again"].table.classes == ["ant", "bee", "cat"]
    some = ns["some"]
    for called in (ns["more"], ns["again"]):
        dataset = called.data[0].splits["train"] if data == "kinds" else called.data[1][0].dataset
        features, labels = dataset.tensors
        assert torch.equal(features, torch.tensor(ns["X"][some]))
        assert labels.tolist() == ns["codes"][some].tolist()


WHOLE = {
    "categories": "pd.Series(codes[rows]).astype('category')",
    "text": "codes[rows].astype(str)",
    "objects": "codes[rows].astype(object) == 1",
    "bools as objects": "np.array([True] * len(rows), dtype=object)",
}


@pytest.mark.parametrize("training", ["(X,codes)", "(ft,codes)", "loader"])
def test_whole_numbers_and_bools_are_their_numbers_for_a_model_of_numbers(shell, ns, training):
    run(shell, "ft, rows = frame[['left', 'right']], np.flatnonzero(codes > 0)")
    run(shell, f"net = Net()\nfit = %lightning_fit net {training} --max_epochs 1 --seed 1 --quiet")
    output = ns["of"](ns["net"])[ns["rows"]].argmax(1).numpy()
    for labels in WHOLE.values():
        run(shell, f"labels = {labels}\nnumbers = np.asarray(labels).astype(int)")
        run(shell, "found = %lightning_test net (ft.iloc[rows],labels) --quiet")
        assert ns["found"].results[0]["test_accuracy"] == pytest.approx((output == ns["numbers"]).mean()), labels
        assert not [text for text in notices(ns["found"]) if "numbered" in text]
        run(shell, "held = ft.iloc[rows].assign(y=np.asarray(labels)).astype({'y': 'category'})")
        run(shell, "%%lightning_data columns --label y\n{'train': held, 'test': held}")
        run(shell, "%%lightning_data pairs\n{'train': (ft.iloc[rows], labels), 'test': (ft.iloc[rows], labels)}")
        for data in ("columns", "pairs"):
            run(shell, f"found = %lightning_test net {data} --quiet")
            assert ns["found"].results[0]["test_accuracy"] == pytest.approx((output == ns["numbers"]).mean()), labels
    said = refused(shell, "%lightning_test net (ft,names)")
    assert said.startswith("the labels of (ft,names) contain ant, bee, cat, but Net was trained on numeric")
    run(shell, "more = %lightning_fit net (X[rows],pd.Series(codes[rows]).astype('category')) --max_epochs 1 --quiet")
    run(shell, "found = %lightning_test more (X,codes) --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["net"]))


def table_of(ns, name):
    return json.loads((ns[name].folder.path / "table.json").read_text())


@pytest.mark.parametrize("later", ["(ft,names)", "table"])
def test_a_later_fit_learns_the_columns_that_an_earlier_one_had_not(shell, ns, later):
    run(shell, "ft, tf = frame[['left', 'right']], frame[['right', 'left']]\n%lightning_data frame --label kind")
    later = later.replace("table", "frame")
    run(shell, "n = Net()\n%lightning_fit n (X,names) --max_epochs 1 --seed 1 --quiet")
    run(shell, f"last = %lightning_fit n {later} --max_epochs 1 --seed 1 --quiet")
    assert list(table_of(ns, "last")["columns"]) == ["'left'", "'right'"]
    assert table_of(ns, "last")["classes"] == ["ant", "bee", "cat"]
    run(shell, "found = %lightning_predict n tf --quiet")
    assert torch.allclose(ns["found"].predictions, ns["of"](ns["n"]))
    assert not [text for text in notices(ns["found"]) if "columns" in text]


def test_a_later_fit_keeps_the_columns_and_learns_its_labels(shell, ns):
    run(shell, "ft, tf = frame[['left', 'right']], frame[['right', 'left']]")
    run(shell, "n = Net()\n%lightning_fit n (ft,codes) --max_epochs 1 --seed 1 --quiet")
    run(shell, "more = %lightning_fit n (X,names) --max_epochs 1 --seed 1 --quiet")
    expected = "Net was trained on numeric labels. This fit uses the classes ant, bee, cat instead"
    assert notices(ns["more"])[0] == expected
    run(shell, "found = %lightning_test n (tf,names) --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["n"]))
    run(shell, "more = %lightning_fit n (frame[['left']].assign(up=1.0),names) --max_epochs 1 --seed 1 --quiet")
    expected = "Net was trained on the columns left, right. This fit uses the columns left, up instead"
    assert notices(ns["more"])[0] == expected
    run(shell, "more = %lightning_fit n (X,np.where(names=='ant','fox',names)) --max_epochs 1 --seed 1 --quiet")
    expected = "Net was trained on the classes ant, bee, cat. This fit uses the classes bee, cat, fox instead"
    assert notices(ns["more"])[0] == expected


def test_a_later_fit_learns_its_column_of_labels(shell, ns):
    run(shell, "lab = frame[['right', 'left']].assign(y=codes)\n%lightning_data lab --label y --test_split 0.5")
    run(shell, "n = Net()\n%lightning_fit n (frame[['left','right']],codes) --max_epochs 1 --seed 1 --quiet")
    run(shell, "last = %lightning_fit n lab --max_epochs 1 --seed 1 --quiet\n%lightning_test last lab --quiet")
    run(shell, "held = lab[['y', 'right', 'left']]\nfound = %lightning_test last held --quiet")
    assert ns["found"].results[0]["test_accuracy"] == pytest.approx(accuracy(ns, ns["n"]))


def test_a_fit_says_how_it_takes_the_columns_of_its_validation_data(shell, ns):
    run(shell, "ft, tf = frame[['left', 'right']], frame[['right', 'left']]")
    run(shell, "fit = %lightning_fit Net loader (tf,codes) --max_epochs 1 --seed 1 --quiet")
    said = "no record that Net was trained on a table: columns are used in the order right, left"
    assert notices(ns["fit"])[0] == said
    run(shell, "fit = %lightning_fit Net (ft,codes) (tf,codes) --max_epochs 1 --seed 1 --quiet")
    assert not [text for text in notices(ns["fit"]) if "columns" in text]
    assert refused(shell, "%lightning_fit Net (ft,names) (ft[['left']],names)").startswith(
        "(ft[['left']],names) lacks the column right, which the training data has"
    )
    assert refused(shell, "%lightning_fit Net (X,names) (X,['fox']*60)").startswith(
        "the labels of (X,['fox']*60) contain fox, but the training data has only ant, bee, cat"
    )
    assert refused(shell, "%lightning_fit Net (frame,codes)").startswith(
        "(frame,codes) has columns that are not numeric: kind. Encode them or drop them"
    )


def test_a_resumption_from_a_run_without_a_checkpoint_names_the_last_one_that_has_one(shell, ns):
    run(shell, "bare = %lightning_fit Net frame --max_epochs 1 --enable_checkpointing False --quiet")
    said = refused(shell, "%lightning_fit Net frame --resume last --max_epochs 2 --quiet")
    assert said.startswith(f"--resume last: the run {ns['bare'].name} has no checkpoint in ")
    assert said.endswith(f". Type --resume {ns['table'].name}, which has one")
