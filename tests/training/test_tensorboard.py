"""What TensorBoard reads of a fit: its event files, and the HParams tab of a real server."""

import json
import urllib.request
from pathlib import Path

import notebook
import pytest
import torch
from notebook import loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch import nn

from lightning_magics.runs.folder import RunFolder
from lightning_magics.training.job import Job
from lightning_magics.training.tensorboard import flat_hyperparameters
from lightning_magics.training.train import train
from lightning_magics.transport.stop import Stop
from lightning_magics.views.board import servers

pytestmark = notebook.SMALL_RUNS
PACKAGES = ("pytorch_lightning", "lightning.pytorch")
X, Y = torch.arange(48.0).reshape(12, 4) / 48, torch.arange(12) % 2
CELL = """
hidden: int = 3
nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.5), nn.Linear(hidden, 2))
"""


def fitted(folder: Path, model, package="pytorch_lightning", stop=None, trainer=None, inputs=X, **asked):
    """Train for two epochs; returns the events that were told, and what TensorBoard reads."""
    RunFolder(folder).checkpoints_path.mkdir(parents=True)
    RunFolder(folder).events_path.touch()
    told = []
    arguments = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, **(trainer or {})}
    job = Job("fit", folder, package, model, arguments, loaders=(loader(inputs, Y), loader(inputs, Y)), **asked)
    train(job, told.append, stop or Stop())
    return told, read(folder)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def defined(package="pytorch_lightning", **asked):
    asked = {"loss": "cross_entropy", "lr": 0.1, "metrics": ("accuracy",), **asked}
    return notebook.model(CELL, package=package, **asked)


def status(found: EventAccumulator) -> int:
    content = found.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    return metadata.parse_session_end_info_plugin_data(content).status


def asked_of(board: servers.Board, page: str, **words: object) -> object:
    request = urllib.request.Request(
        f"http://127.0.0.1:{board.port}{board.path}data/plugin/hparams/{page}",
        json.dumps(words).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_fit_tells_tensorboard_all_there_is_to_see(tmp_path, package):
    told, found = fitted(
        tmp_path / "logs/Digits/version_0",
        defined(package, scheduler="ExponentialLR(gamma=0.9)").new(hidden=5),
        package,
        monitor="val_loss",
    )
    tags = found.Tags()
    assert set(tags["scalars"]) == {
        *("epoch", "train_loss", "train_loss_step", "train_accuracy", "val_loss", "val_accuracy"),
        *("best/val_loss", "lr-Adam"),
    }
    assert tags["graph"]
    assert {"Sequential/Linear[0]", "Sequential/BatchNorm1d[1]"} <= {
        "/".join(node.name.split("/")[:2]) for node in found.Graph().node
    }
    start = metadata.parse_session_start_info_plugin_data(
        found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert {name: value.number_value for name, value in start.hparams.items()} == {"hidden": 5, "lr": 0.1}
    assert status(found) == 1  # success
    assert metadata.EXPERIMENT_TAG not in tags["tensors"]
    rows = [event.values for event in told if type(event).__name__ == "Metrics"]
    assert rows
    assert not [name for row in rows for name in row if name.startswith("lr-")]  # not in the table
    assert found.Scalars("best/val_loss")[-1].value == min(item.value for item in found.Scalars("val_loss"))


def test_the_hparams_tab_compares_runs_of_several_models_by_their_last_values(tmp_path):
    logs = tmp_path / "logs"
    for version, hidden in enumerate((3, 7)):
        fitted(logs / f"Digits/version_{version}", defined().new(hidden=hidden))
    other = notebook.model("width: int = 4\nnn.Linear(width, 2)", loss="cross_entropy", package="pytorch_lightning")
    fitted(logs / "Other/version_0", other.new())
    try:
        board = servers.start(servers.BoardSource.of_folder(logs))
        experiment = asked_of(board, "experiment", experimentName="")
        assert {item["name"] for item in experiment["hparamInfos"]} == {"hidden", "lr", "width"}
        metrics = [item["name"] for item in experiment["metricInfos"]]
        assert "hp_metric" not in {item["tag"] for item in metrics}
        groups = asked_of(
            board,
            "session_groups",
            startIndex=0,
            sliceSize=10,
            allowedStatuses=["STATUS_SUCCESS"],
            colParams=[
                {**column, "includeInResult": True}
                for column in ({"hparam": "hidden"}, *({"metric": metric} for metric in metrics))
            ],
        )["sessionGroups"]
    finally:
        servers.close()
    rows = {
        item["sessions"][0]["name"]: {value["name"]["tag"]: value["value"] for value in item["metricValues"]}
        for item in groups
    }
    assert set(rows) == {"Digits/version_0", "Digits/version_1", "Other/version_0"}
    for run, row in rows.items():
        assert row["val_loss"] == pytest.approx(read(logs / run).Scalars("val_loss")[-1].value)
    assert {item["hparams"].get("hidden") for item in groups} == {3, 7, None}


def test_what_is_told_changes_nothing_of_the_training(tmp_path):
    weights = []
    for loggers in ((), ("tensorboard",)):
        torch.manual_seed(1)
        model = defined().new()
        calls = []
        model.net.register_forward_hook(lambda *seen, calls=calls: calls.append(seen[0].training))
        fitted(tmp_path / f"{len(loggers)}/Digits/version_0", model, loggers=loggers)
        weights.append((model.state_dict(), torch.rand(1), calls))
    (first, random, hooked), (second, random_too, hooked_too) = weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(random, random_too)
    assert hooked == hooked_too


class Stopping(Stop):
    def is_set(self, trained=0):
        return trained > 2


def test_a_fit_that_is_stopped_succeeded_and_one_that_raises_did_not(tmp_path):
    _, found = fitted(tmp_path / "Digits/version_0", defined().new(), stop=Stopping())
    assert status(found) == 1
    model = defined().new()
    model.net[0] = nn.Linear(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fitted(tmp_path / "Digits/version_1", model)
    assert status(read(tmp_path / "Digits/version_1")) == 2


@pytest.mark.parametrize("package", PACKAGES)
def test_an_example_input_of_the_users_draws_the_whole_model(tmp_path, package):
    model = defined(package).new()
    model.example_input_array = X[:2]
    _, found = fitted(tmp_path / "Digits/version_0", model, package)
    assert any(node.name.startswith("Digits/Sequential[net]/Linear[0]") for node in found.Graph().node)


@pytest.mark.parametrize("inputs", [X.double(), (X * 48).byte()])
def test_the_graph_is_drawn_of_inputs_as_the_steps_take_them(tmp_path, inputs):
    _, found = fitted(tmp_path / "logs/Digits/version_0", defined().new(), inputs=inputs)
    assert "Sequential/Linear[0]" in {"/".join(node.name.split("/")[:2]) for node in found.Graph().node}


def test_a_graph_that_cannot_be_traced_is_left_out_and_noted_in_the_log(tmp_path):
    names = notebook.namespace()
    exec(
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n        return self.layer(x) if x.sum() > 0 else self.layer(-x)",
        names,
    )
    model = notebook.model("Odd()", loss="cross_entropy", lr=0.1, package="pytorch_lightning", names=names).new()
    told, found = fitted(tmp_path / "Digits/version_0", model)
    assert not found.Tags()["graph"]
    assert "no graph for TensorBoard: " in RunFolder(tmp_path / "Digits/version_0").log_path(0).read_text()
    assert not [event for event in told if "graph" in getattr(event, "text", "")]


def test_learning_rates_are_logged_once_where_the_user_logs_them_already(tmp_path):
    import pytorch_lightning as pl

    given = pl.callbacks.LearningRateMonitor("epoch")
    _, found = fitted(
        tmp_path / "Digits/version_0",
        defined(scheduler="ExponentialLR(gamma=0.9)").new(),
        trainer={"callbacks": [given]},
    )
    assert len(found.Scalars("lr-Adam")) == 2


@pytest.mark.parametrize("asked", [{"trainer": {"barebones": True, "log_every_n_steps": None}}, {"loggers": ()}])
def test_without_a_logger_nothing_is_told(tmp_path, asked):
    folder = tmp_path / "Digits/version_0"
    fitted(folder, defined(scheduler="ExponentialLR(gamma=0.9)").new(), **asked)
    assert not list(folder.rglob("*tfevents*"))


def test_a_logger_of_the_users_is_left_as_it_is(tmp_path):
    import pytorch_lightning as pl

    own = pl.loggers.TensorBoardLogger(tmp_path, name="own")
    fitted(tmp_path / "Digits/version_0", defined().new(), loggers=(own,))
    found = read(Path(own.log_dir))
    assert found.Scalars("hp_metric")[0].value == -1  # Lightning's, as it was asked for
    assert not found.Tags()["graph"]


def test_hyperparameters_are_told_as_numbers_truths_and_text():
    given = {
        "lr": 1,
        "on": True,
        "name": "x",
        "layer": {"width": 8},
        "sizes": [1, 2],
        "none": None,
        "t": torch.tensor(2),
    }
    assert flat_hyperparameters(given) == {
        "lr": 1.0,
        "on": True,
        "name": "x",
        "layer/width": 8.0,
        "sizes": "[1, 2]",
        "none": "None",
        "t": 2,
    }
    assert len(flat_hyperparameters({"long": "x" * 1000})["long"]) == 200
