"""Engines of other packages: one that starts ranks as plain processes, found by its entry point."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import toy_engine
from kernel import SETUP, Kernel
from toy_engine import Toy

from lightning_magics import clusters
from lightning_magics.commands import rerun
from lightning_magics.errors import InputError
from lightning_magics.options.completion import complete
from lightning_magics.options.help import full_help
from lightning_magics.options.parser import parse
from lightning_magics.replay.recipe import Recipe
from lightning_magics.replay.recorded import RecordedRun

NET = """
X = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
loader = DataLoader(TensorDataset(X, (X.sum(1) > 0).long()), 16)

class Net(pl.LightningModule):
    def __init__(self, pause_s=0.0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(8, 2)

    def training_step(self, batch, batch_idx):
        time.sleep(self.hparams.pause_s)
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def weights(run):
    return [item.tolist() for item in run.model.parameters()]
"""
LONG = "Net loader --cluster toy --nodes 2 --max_epochs 5000 --model.pause_s 0.01 --background"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pip installs for a package that names an engine."""
    folder = tmp_path_factory.mktemp("installed")
    installed = folder / "toy_engine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        f"[{clusters.ENTRY_POINTS}]\ntoy = toy_engine:Toy\nbroken = no_such_module:Engine\n"
    )
    return folder


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engines of these tests, in this process."""
    monkeypatch.syspath_prepend(str(folder))
    for known in (clusters._entry_points, clusters.engine):
        known.cache_clear()
    yield
    for known in (clusters._entry_points, clusters.engine):
        known.cache_clear()


@pytest.fixture(scope="module")
def notebook(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parent}")
        kernel = Kernel(tmp_path_factory.mktemp("notebook"))
        try:
            kernel.run(SETUP, NET)
            yield kernel
        finally:
            kernel.stop()


def begun(notebook: Kernel, run: str) -> None:
    """Wait until a background run trains."""
    until = time.monotonic() + 150
    while not notebook.value(f"len({run}.history) > 0"):
        assert time.monotonic() < until, notebook.value(f"{run}.logs()")
        time.sleep(0.2)


def test_another_engine_trains_what_processes_of_this_machine_do_and_brings_the_weights_back(notebook: Kernel) -> None:
    cell = notebook.cell("far = %lightning_fit Net loader --cluster toy --nodes 2 --max_epochs 3 --seed 1")
    assert cell.status == "ok", cell.error
    assert "completed: 3 epochs, 12 steps" in cell.outputs[-1]["text/plain"]  # which came by its events
    notebook.run("near = %lightning_fit Net loader --ddp 2 --max_epochs 3 --seed 1 --quiet")
    assert notebook.value("[far.status, far.record.steps, near.record.steps]") == ["completed", 12, 12]
    assert notebook.value("weights(far) == weights(near) and far.metrics == near.metrics") is True
    again = notebook.cell("again = %lightning_rerun far --quiet")
    assert again.status == "ok", again.error
    assert notebook.value("weights(again) == weights(far) and again.folder.cluster_engine()") == "toy"


def test_a_run_of_another_engine_is_watched_and_stopped_from_another_kernel(notebook: Kernel) -> None:
    notebook.run(f"run = %lightning_fit {LONG}")
    begun(notebook, "run")
    assert notebook.value("[run.status, run.folder.cluster_engine()]") == ["running", "toy"]
    other = Kernel(notebook.folder)
    try:
        other.run(SETUP, NET, "seen = %lightning_attach Net/version_3")
        begun(other, "seen")
        other.run("%lightning_stop Net/version_3", "seen.wait()")
        assert other.value("[seen.status, len(weights(seen))]") == ["interrupted", 2]
    finally:
        other.stop()
    notebook.run("run.wait()")
    assert notebook.value("[run.status, 0 < run.record.steps < 20000]") == ["interrupted", True]


def test_a_job_of_another_engine_is_ended_at_once(notebook: Kernel) -> None:
    notebook.run(f"run = %lightning_fit {LONG}")
    begun(notebook, "run")
    notebook.run("%lightning_stop last --now")
    assert notebook.value("run.wait().status") == "interrupted"


def test_a_rank_that_fails_says_why(notebook: Kernel) -> None:
    notebook.run("class Bad(Net):\n    def training_step(self, batch, batch_idx):\n        raise ValueError('too bad')")
    cell = notebook.cell("%lightning_fit Bad loader --cluster toy --nodes 2 --max_epochs 1 --quiet")
    assert "ValueError: too bad" in cell.error


@pytest.mark.usefixtures("installed")
def test_an_engine_is_found_by_its_name() -> None:
    assert clusters.names() == ["slurm", "broken", "toy"]
    assert isinstance(clusters.engine("toy"), Toy)
    assert len(Path(toy_engine.__file__).read_text(encoding="utf-8").splitlines()) < 60  # as the documentation says
    assert clusters.engine("slurm").name == "slurm"
    with pytest.raises(InputError, match=r"^--cluster 'tyo' is not one of: slurm, broken, toy\. Did you mean 'toy'\?$"):
        clusters.engine("tyo")
    with pytest.raises(InputError, match=r"^--cluster broken: the engine cannot be loaded: ModuleNotFoundError: "):
        clusters.engine("broken")


@pytest.mark.usefixtures("installed")
def test_the_line_of_a_magic_knows_the_engines_that_are_installed() -> None:
    parsed = parse("fit", "Net data --cluster toy --toy.queue night --toy.size 3")
    assert (parsed.options["cluster"], parsed.engines) == ("toy", {"toy": {"queue": "night", "size": 3}})
    with pytest.raises(InputError, match=r"^--cluster 'tou' is not one of: slurm, broken, toy\. Did you mean 'toy'\?"):
        parse("fit", "Net data --cluster tou")
    assert complete("fit", "--cluster t", "t", [], [], []) == ["toy"]
    assert complete("fit", "--to", "--to", [], [], []) == ["--toy."]
    assert "With --cluster toy:" in full_help("fit", everything=True)


@pytest.mark.usefixtures("installed")
def test_a_rerun_on_another_engine_leaves_out_what_was_recorded_for_the_first() -> None:
    recipe = Recipe(options={"cluster": "slurm", "nodes": 2, "slurm": {"partition": "gpu", "time": 10}})
    recorded_run = cast(RecordedRun, SimpleNamespace(recipe=recipe))
    options = rerun.fit_arguments(recorded_run, {"slurm": {"time": 20}})
    assert (options["nodes"], options["slurm"]) == (2, {"partition": "gpu", "time": 20})
    options = rerun.fit_arguments(recorded_run, {"cluster": "toy", "toy": {"queue": "night"}})
    assert (options["nodes"], options["toy"], "slurm" in options) == (2, {"queue": "night"}, False)
    options = rerun.fit_arguments(recorded_run, {"cluster": None})
    assert options.keys() & {"nodes", "slurm"} == set()
