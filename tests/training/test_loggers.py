"""Loggers by name, in a real kernel: what they keep, and that nothing of them shows in the cell or goes on after it."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import pytorch_lightning
from kernel import DATA, DIGITS, SETUP, Kernel

from lightning_magics.errors import MissingPackage
from lightning_magics.options import declared
from lightning_magics.replay import script
from lightning_magics.training import loggers

FIT = "run = %lightning_fit Digits digits --max_epochs 2 --limit_train_batches 3 --limit_val_batches 2 --quiet"
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs the package wandb")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        kernel.run(SETUP, DIGITS, DATA)
        yield kernel
    finally:
        kernel.stop()


def offline(folder: Path) -> list[bytes]:
    """What each run of Weights & Biases in a run folder recorded."""
    return [path.read_bytes() for path in folder.glob("wandb/offline-run-*/*.wandb")]


@needs_wandb
def test_wandb_keeps_a_run_of_each_fit_in_its_folder_and_says_nothing(notebook):
    for hidden in (16, 17):
        cell = notebook.cell(f"{FIT} --logger wandb --model.hidden {hidden}")
        assert cell.status == "ok", cell.error
        assert cell.text.startswith("Digits/version_")
        assert cell.text.count("\n") == 1
        (kept,) = offline(Path(notebook.value("run.log_dir")))
        version = notebook.value("run.folder.path.name")
        for text in ("val_accuracy", "train_loss", "hidden", str(hidden), version):
            assert text.encode() in kept
        assert notebook.value("__import__('wandb').run") is None
    assert not (notebook.folder / "wandb").exists()
    cell = notebook.cell("run.trainer.validate(run.model, run.data[0], verbose=False)")  # the Trainer can be used again
    assert cell.status == "ok", cell.error
    assert len(offline(Path(notebook.value("run.log_dir")))) == 2


@needs_wandb
def test_a_wandb_run_of_the_users_own_stays_theirs(notebook):
    notebook.run(
        "import wandb; own = wandb.init(mode='offline', dir='.', settings=wandb.Settings(silent=True))",
        f"{FIT} --logger wandb",
    )
    assert notebook.value("wandb.run is own")
    assert len(offline(Path(notebook.value("run.log_dir")))) == 1
    notebook.run("own.finish()")


@needs_wandb
def test_two_processes_log_once_and_leave_no_process_behind(notebook):
    cell = notebook.cell(f"{FIT} --ddp 2 --logger wandb mlflow csv --model.hidden 18")
    assert cell.status == "ok", cell.error
    folder = Path(notebook.value("run.log_dir"))
    (kept,) = offline(folder)
    assert b"val_accuracy" in kept
    assert_in_mlflow(notebook.folder / "lightning_logs/mlflow.db", folder.name, "18")
    assert (folder / "metrics.csv").is_file()
    deadline = time.monotonic() + 20
    while (left := services(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert notebook.value("'WANDB_SERVICE' in __import__('os').environ")  # of the kernel, which the ranks inherited


def services(folder: Path) -> list[psutil.Process]:
    """Processes that work in a run folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in item.path for item in process.open_files()):
                found.append(process)
    return found


def assert_in_mlflow(database: Path, run: str, hidden: str) -> None:
    """The embedded store has the run, finished, with its parameters and metrics."""
    with contextlib.closing(sqlite3.connect(database)) as store:
        ((number, status),) = store.execute("select run_uuid, status from runs where name = ?", (run,)).fetchall()
        assert status == "FINISHED"
        assert ("hidden", hidden) in store.execute(
            "select key, value from params where run_uuid = ?", (number,)
        ).fetchall()
        rows = store.execute("select key, step, value from metrics where run_uuid = ?", (number,)).fetchall()
    assert {"train_loss", "val_loss", "val_accuracy"} <= {key for key, _, _ in rows}
    assert len([value for key, _, value in rows if key == "val_loss"]) == 2


def test_mlflow_keeps_parameters_and_metrics_in_its_embedded_store(notebook):
    cell = notebook.cell(f"{FIT} --logger mlflow --model.hidden 19")
    assert cell.status == "ok", cell.error
    assert cell.text.count("\n") == 1
    assert_in_mlflow(notebook.folder / "lightning_logs/mlflow.db", Path(notebook.value("run.log_dir")).name, "19")


def test_each_logger_that_can_be_named_can_be_made_and_exported():
    assert {*declared.LOGGERS} == loggers.MAKERS.keys() == script.LOGGERS.keys()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_names_the_command(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", False)
    message = rf"^--logger {name} needs the package '{name}', .* Type: %pip install 'lightning-magics\[{name}\]'$"
    with pytest.raises(MissingPackage, match=message):
        loggers.make_logger(name, tmp_path / "Net/version_0", pytorch_lightning)
