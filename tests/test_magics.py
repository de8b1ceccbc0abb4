from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import pytorch_lightning
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from notebook import SMALL_RUNS

from lightning_magics.commands.call import Call
from lightning_magics.errors import InputError, LightningMagicsError, RunError
from lightning_magics.launch.run import Run
from lightning_magics.launch.slurm import engine
from lightning_magics.training import trust

MODEL = """
import torch, pytorch_lightning as pl
from torch import nn

class Net(pl.LightningModule):
    def __init__(self, hidden: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 1))

    def training_step(self, batch, batch_idx):
        loss = self.net(batch).pow(2).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch).pow(2).mean())

    def predict_step(self, batch, batch_idx):
        return self.net(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)

samples = torch.arange(32.0).reshape(16, 2) / 32
"""


@pytest.fixture
def notebook(shell):
    """A shell in which a model and data are defined; calling it runs a cell and returns its result."""
    out = io.StringIO()

    def run(cell):
        with redirect_stdout(out):
            result = shell.run_cell(cell, store_history=True)
        run.text = out.getvalue()
        out.seek(0)
        out.truncate()
        if result.error_before_exec or result.error_in_exec:
            raise result.error_before_exec or result.error_in_exec
        return result.result

    run.shell = shell
    run(MODEL)
    return run


def test_fit_returns_the_run(notebook):
    notebook("run = %lightning_fit Net samples samples --max_epochs 2 --model.hidden 8 --seed 1")
    run = notebook.shell.user_ns["run"]
    assert isinstance(run, Run)
    assert (run.name, run.status, run.verb) == ("Net/version_0", "completed", "fit")
    assert run.log_dir == str(Path("lightning_logs/Net/version_0").absolute())
    assert run.model.hparams.hidden == 8
    assert [row["epoch"] for row in run.history] == [0, 1]
    assert run.metrics == {name: run.history[-1][name] for name in ("val_loss", "train_loss")}
    assert Path(run.best_model_path).is_file()
    assert run.trainer.current_epoch == 2
    assert run.wait() is run
    assert "`Trainer.fit` stopped" in run.logs()
    with pytest.raises(RunError, match="run Net/version_0 has no log for rank 1"):
        run.logs(1)
    assert repr(run).startswith("<Run Net/version_0 completed, val_loss=")


def test_record_says_how_the_run_came_about(notebook):
    notebook("%lightning_fit Net samples --max_epochs 1 --seed 3 --accumulate_grad_batches 2 --model.hidden 8")
    record = json.loads(Path("lightning_logs/Net/version_0/run.json").read_text())
    assert record["options"] == {
        "seed": 3,
        "weights_only": True,
        "max_epochs": "1",
        "accumulate_grad_batches": "2",
        "model": {"hidden": 8},
        "data": {},
    }
    assert record["trainer"]["accumulate_grad_batches"] == 2
    assert record["hyperparameters"] == {"hidden": 8}
    assert record["status"] == "completed"
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["metrics"]) == {"train_loss"}


def test_source_of_a_class_in_an_ordinary_cell_is_kept(notebook):
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet")
    source = Path("lightning_logs/Net/version_0/source.py").read_text()
    assert source.startswith("import pytorch_lightning as pl\nimport torch\nfrom torch import nn\n\n\nclass Net(")
    assert source.endswith("\n\n\nsamples = torch.arange(32.0).reshape(16, 2) / 32\n")


def test_source_of_an_adopted_class_is_shown(notebook):
    notebook("%lightning_model Net")
    assert notebook.shell.run_line_magic("lightning_source", "Net").startswith("class Net(pl.LightningModule):")
    assert notebook("import lightning_magics; lightning_magics.source('Net')").startswith("class Net(")


def test_the_configuration_of_ipython_may_start_the_warm_process(shell, monkeypatch):
    prewarmed = []
    monkeypatch.setattr("lightning_magics.launch.start.prewarm", prewarmed.append)
    shell.config.LightningMagics.prewarm = True
    shell.run_line_magic("reload_ext", "lightning_magics")
    assert prewarmed == ["pytorch_lightning"]


def test_the_same_seed_gives_the_same_numbers(notebook):
    for name in ("one", "two"):
        notebook(f"{name} = %lightning_fit Net samples samples --max_epochs 2 --seed 5 --quiet")
    one, two = (notebook.shell.user_ns[name] for name in ("one", "two"))
    assert one.history == two.history


def test_seed_holds_for_expressions_of_the_line_too(notebook):
    for name in ("one", "two"):
        notebook(f"{name} = %lightning_fit Net(hidden=8) torch.rand(64,2) --max_epochs 1 --seed 5 --quiet")
    one, two = (notebook.shell.user_ns[name] for name in ("one", "two"))
    assert one.history == two.history


BARE = """
class Bare(Net):
    def __init__(self, size):
        pl.LightningModule.__init__(self)
        self.net = nn.Linear(2, size)
"""
LOOP = """
for net in [Net(3), Net(5)]:
    run = %lightning_fit net samples --max_epochs 1 --quiet --seed 1"""
HOOK = """
class Late(Net):
    def __init__(self):
        pl.LightningModule.__init__(self)
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Linear(2, 1)
"""
UNNAMED = """
import lightning_magics
run = lightning_magics.fit(Net(5), samples, max_epochs=1, quiet=True, seed=1)
"""
NOISY = """
class Noisy(Net):
    def __init__(self, noise=None):
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch, batch_idx):
        change = self.hparams.get("noise")
        return super().training_step(batch if change is None else change(batch), batch_idx)

def shift(by):
    return lambda x: x + by

def shifted(x):
    return x + 5
"""
REMOVED = (
    "The hyperparameter noise is a lambda, which cannot be pickled, so Lightning removes it from hparams. "
    "Use a function that is defined with def in a cell\n"
)


@pytest.mark.parametrize("typed", ["lambda\\ x:x+5", "shift(5)"])
def test_a_hyperparameter_that_cannot_be_pickled_is_removed_everywhere_and_that_is_said(notebook, typed):
    notebook(NOISY)
    notebook("bare = %lightning_fit Noisy samples --max_epochs 1 --seed 1 --quiet")
    notebook(f"run = %lightning_fit Noisy samples --max_epochs 1 --seed 1 --quiet --model.noise {typed}")
    assert notebook.text.startswith(REMOVED)
    run, bare = notebook.shell.user_ns["run"], notebook.shell.user_ns["bare"]
    assert run.metrics == bare.metrics  # as of plain Lightning
    assert "noise" not in run.record.hyperparameters
    notebook("again = %lightning_rerun run --quiet")
    assert "gives the same numbers" in notebook.text
    notebook("net = %lightning_load run")
    assert REMOVED in notebook.text
    assert "noise" not in notebook.shell.user_ns["net"].hparams
    notebook(f"loaded = %lightning_fit Noisy samples --max_epochs 1 --seed 1 --quiet --model.noise {typed}")
    assert notebook.shell.user_ns["loaded"].metrics == bare.metrics
    notebook(f"apart = %lightning_fit Noisy samples --max_epochs 1 --seed 1 --model.noise {typed} --ddp 1")
    assert REMOVED[:-1] in notebook.text
    assert "noise" not in notebook.shell.user_ns["apart"].model.hparams
    notebook("named = %lightning_fit Noisy samples --max_epochs 1 --seed 1 --quiet --model.noise shifted")
    assert "hyperparameter" not in notebook.text
    assert notebook.shell.user_ns["named"].metrics != bare.metrics


@pytest.mark.parametrize(
    "made",
    [
        "for width in (3, 5):\n    net = Net(width)",
        "net = [Net(3) for _ in range(2)][1]",
        "net = Net()\nwith torch.no_grad():\n    for item in net.parameters():\n        item.fill_(0.1)",
        "other = Net()\nnet = Net()\nnet.load_state_dict(other.state_dict())",
        "import copy\nrun = %lightning_fit Net samples --max_epochs 1 --quiet\nnet = copy.deepcopy(run.model)",
        "run = %lightning_fit Net samples --max_epochs 1 --quiet\nnet = Net.load_from_checkpoint(run.best_model_path)",
        "net = Net().double()\nsamples = samples.double()",
    ],
)
@pytest.mark.parametrize("options", ["--seed 1", ""])
def test_an_instance_begins_with_the_same_weights_again(notebook, made, options):
    notebook("torch.rand(3)")  # nothing that makes an instance is seeded
    notebook(made)
    notebook(f"run = %lightning_fit net samples --max_epochs 1 --quiet {options} --data.batch_size 4")
    notebook("again = %lightning_rerun run --quiet")
    assert f"initial weights: those of {notebook.shell.user_ns['run'].name}\n" in notebook.text
    assert "gives the same numbers" in notebook.text
    notebook("%lightning_rerun again --quiet")
    assert "gives the same numbers" in notebook.text


def test_a_rerun_that_resumes_does_not_claim_the_initial_weights(notebook):
    notebook("net = Net()\nrun = %lightning_fit net samples --max_epochs 1 --quiet --seed 1")
    notebook("%lightning_rerun run --quiet --resume last --max_epochs 2")
    assert "initial weights: those" not in notebook.text


def test_a_network_that_a_definition_copies_begins_with_the_same_weights_again(notebook):
    notebook("layer = nn.Linear(2, 1)")
    notebook("%lightning_model layer --loss mse_loss")
    notebook("with torch.no_grad():\n    for item in layer.parameters():\n        item.fill_(0.1)")
    notebook("pairs = [(row, row[:1]) for row in samples]")
    notebook("run = %lightning_fit layer pairs --max_epochs 1 --quiet --seed 1")
    notebook("%lightning_rerun run --quiet")
    assert "gives the same numbers" in notebook.text


def test_layers_that_a_hook_makes_begin_with_the_same_weights_again(notebook):
    notebook(HOOK)
    notebook("run = %lightning_fit Late() samples --max_epochs 1 --quiet --seed 1")
    notebook("import copy\nnet = copy.deepcopy(run.model)")
    notebook("run = %lightning_fit net samples --max_epochs 1 --quiet --seed 1")
    notebook("%lightning_rerun run --quiet")
    assert "gives the same numbers" in notebook.text


def test_weights_that_were_not_kept_are_the_reason_and_not_a_training_that_never_was(notebook):
    notebook(LOOP + " --enable_checkpointing False")
    assert not notebook.shell.user_ns["run"].folder.initial_weights_path.exists()
    notebook("%lightning_rerun run --quiet")
    assert "· the model is an instance, created before the fit set its seed\n" in notebook.text
    notebook("more = %lightning_fit net samples --max_epochs 1 --quiet --seed 1")
    notebook("%lightning_rerun more --quiet")
    assert "continued from an instance that was already trained; this run starts from scratch" in notebook.text
    notebook("anew = %lightning_fit net samples --max_epochs 1 --quiet --seed 1 --resume none")
    notebook("%lightning_rerun anew --quiet")
    assert "gives the same numbers" in notebook.text


@pytest.mark.parametrize("made", [LOOP, UNNAMED])
def test_an_instance_of_a_loop_or_without_a_name_begins_with_the_same_weights_again(notebook, made):
    notebook(made)
    notebook("again = %lightning_rerun run --quiet")
    assert "gives the same numbers" in notebook.text
    notebook("%lightning_rerun again --quiet")
    assert "gives the same numbers" in notebook.text
    if made is UNNAMED:
        notebook("%lightning_rerun run --quiet --model.hidden 2")
        assert "initial weights: those" not in notebook.text
    torch.save({}, notebook.shell.user_ns["run"].folder.initial_weights_path)
    with pytest.raises(
        RunError, match=r"initial weights in \S+ do not fit Net as defined in its source: .* Delete the file"
    ):
        notebook("%lightning_rerun run --quiet")


def test_an_instance_whose_arguments_are_not_recorded_is_not_made_with_others(notebook):
    notebook(BARE)
    notebook(UNNAMED.replace("Net", "Bare"))
    for verb in ("rerun", "load"):
        with pytest.raises(RunError, match=r"the value of size of this Bare is not recorded. Call self.save_hyperp"):
            notebook(f"%lightning_{verb} Bare/version_0")


def test_class_trains_fresh_and_instance_continues(notebook):
    notebook("a = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("b = %lightning_fit a.model samples --max_epochs 1 --quiet")
    notebook("c = %lightning_fit Net samples --max_epochs 1 --quiet")
    a, b, c = (notebook.shell.user_ns[name] for name in "abc")
    assert b.model is a.model
    assert [row["epoch"] for row in b.history] == [1]
    assert c.model is not a.model
    assert not list(b.folder.checkpoints_path.glob("continue*"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_trust_in_a_checkpoint_is_not_taken_from_a_record(notebook):
    notebook("a = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("b = %lightning_fit Net samples --max_epochs 2 --resume a --quiet")
    run = notebook.shell.user_ns["b"]
    state = torch.load(run.record.recipe["options"]["resume"], weights_only=True)
    torch.save({**state, "extra": Evil()}, "odd.ckpt")
    record = json.loads(run.folder.record_path.read_text())
    evaluated = {"callbacks": "[__import__('os').system('touch evil')]", "plugins": "__import__('os').mkdir('evil')"}
    record["recipe"]["options"] |= {"resume": str(Path("odd.ckpt").absolute()), "weights_only": False, **evaluated}
    run.folder.record_path.write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=r"odd\.ckpt contains .* \(extra \(posix\.system\)\), .* type --weights_only false$"
    ):
        notebook("%lightning_rerun b --quiet")
    with pytest.raises(InputError, match=r"type --weights_only false$"):
        notebook("import lightning_magics; lightning_magics.rerun('Net/version_1', quiet=True)")
    with pytest.raises(InputError, match=r"type --weights_only false$"):
        notebook("%lightning_load b --checkpoint odd.ckpt")
    notebook("%lightning_export b train.py")
    script = Path("train.py").read_text()
    assert not Path("evil").exists()
    assert "If you trust it, add weights_only=False to fit." in script
    assert "weights_only" not in script.split('"""')[2]
    notebook("again = %lightning_rerun b --quiet --weights_only false")
    assert Path("evil").is_file()
    assert [row["epoch"] for row in notebook.shell.user_ns["again"].history] == [1]


@pytest.mark.parametrize("where", ["", "--ddp 1"])
def test_a_checkpoint_of_this_session_needs_no_trust_in_its_hyperparameters(notebook, monkeypatch, where):
    notebook(NOISY)
    notebook(f"run = %lightning_fit Noisy samples samples --max_epochs 1 --quiet --model.noise shifted {where}")
    lines = [
        "%lightning_validate run samples --ckpt_path best --quiet",
        "more = %lightning_fit Noisy samples --max_epochs 2 --resume run --quiet --model.noise shifted",
        "net = %lightning_load run",
    ]
    for line in lines:
        notebook(line)
    assert notebook.shell.user_ns["net"].hparams.noise.__name__ == "shifted"
    notebook("%lightning_rerun more --quiet")
    assert "gives the same numbers" in notebook.text
    notebook("%lightning_export more train.py")
    assert "If you trust it, add weights_only=False to fit." in Path("train.py").read_text()
    monkeypatch.setattr(trust, "_written", set())  # as in another kernel
    evaluated = f"{lines[0]} --weights_only false"
    notebook(evaluated)
    for line in [*lines, "%lightning_rerun more --quiet"]:
        with pytest.raises(InputError, match=r"tensors \(the hyperparameter noise \(__main__\.shifted\)\), and"):
            notebook(line)
    notebook("del shifted")
    with pytest.raises(InputError, match=r"needs shifted, which this notebook no longer defines\. Run the cell that"):
        notebook(evaluated)


@pytest.mark.parametrize("where", ["", "--ddp 1"])
def test_a_file_that_a_callback_puts_beside_the_checkpoints_is_not_trusted(notebook, where):
    notebook(
        "import shutil, torch, pytorch_lightning as pl\nfrom pathlib import Path\n"
        "class Odd:\n    def __reduce__(self): return print, ('evil',)\n"
        "torch.save({'state_dict': {}, 'extra': Odd()}, 'odd.ckpt')\n"
        "class Copies(pl.Callback):\n"
        "    def on_train_end(self, trainer, model):\n"
        "        place = Path(trainer.checkpoint_callback.dirpath)\n"
        "        shutil.copy('odd.ckpt', place / 'odd.ckpt')\n"
        "        (place / 'link.ckpt').symlink_to(Path('odd.ckpt').absolute())"
    )
    notebook(f"run = %lightning_fit Net samples samples --max_epochs 1 --quiet --callbacks [Copies()] {where}")
    place = notebook.shell.user_ns["run"].folder.checkpoints_path
    assert all(trust.is_vouched_for(path) == (path.stem not in ("odd", "link")) for path in place.glob("*.ckpt"))
    for name in ("odd", "link"):
        with pytest.raises(InputError, match=r"type --weights_only false$"):
            notebook(f"%lightning_validate run samples --ckpt_path {place}/{name}.ckpt --quiet")


def test_resume_none_begins_anew_with_the_weights(notebook):
    notebook("a = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("b = %lightning_fit a.model samples --max_epochs 1 --resume none --quiet")
    assert [row["epoch"] for row in notebook.shell.user_ns["b"].history] == [0]


@pytest.mark.parametrize("typed", ["a", "last", "Net/version_0", "{a.best_model_path}"])
def test_resume_goes_on_from_a_checkpoint(notebook, typed):
    notebook("a = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook(f"b = %lightning_fit Net samples --max_epochs 3 --resume {typed} --quiet")
    assert [row["epoch"] for row in notebook.shell.user_ns["b"].history] == [1, 2]


def test_last_run_is_found_on_disk_after_a_restart(notebook):
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("%reload_ext lightning_magics")
    notebook("b = %lightning_fit Net samples --max_epochs 3 --resume last --quiet")
    assert [row["epoch"] for row in notebook.shell.user_ns["b"].history] == [1, 2]


def test_evaluation_takes_run_name_and_instance(notebook):
    notebook("run = %lightning_fit Net samples samples --max_epochs 1 --quiet")
    for typed in ("run", "last", "Net", "run.model samples", "Net/version_0"):
        notebook(f"found = %lightning_validate {typed} --quiet")
        found = notebook.shell.user_ns["found"]
        assert found.results == [{"val_loss": notebook.shell.user_ns["run"].metrics["val_loss"]}]
        assert found.metrics == found.results[0]
    assert found.name == "Net/validate_4"


def test_last_to_resume_is_the_last_fit_of_the_model(notebook):
    notebook("class Other(Net): pass")
    for line in ("fit Net samples samples", "validate Net", "fit Other samples"):
        notebook(f"%lightning_{line} --max_epochs 1 --quiet")
    notebook("b = %lightning_fit Net samples --max_epochs 2 --resume last --quiet")
    assert [row["epoch"] for row in notebook.shell.user_ns["b"].history] == [1]


def test_evaluation_says_whose_weights_it_takes_and_never_those_of_a_fit_that_failed_at_once(notebook):
    notebook("%lightning_fit Net samples samples --max_epochs 1")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        notebook("%lightning_fit Net samples[:,:1] --max_epochs 1")
    notebook("v = %lightning_validate Net samples")
    assert "weights of Net/version_0" in notebook.text


def test_a_run_that_nobody_holds_is_not_kept_but_for_the_last_of_its_model(notebook):
    notebook("import gc, weakref\nkept = []")
    for _ in range(3):
        notebook(
            "run = %lightning_fit Net samples --max_epochs 1 --quiet\nkept.append(weakref.ref(run.model))\ndel run"
        )
    notebook("gc.collect()\nalive = [item() is not None for item in kept]")
    assert notebook.shell.user_ns["alive"] == [False, False, True]


def test_data_whose_variable_changed_since_is_not_guessed_at(notebook):
    notebook("%lightning_data samples --batch_size 4")
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("samples = samples[:4]")
    with pytest.raises(InputError, match="type %lightning_data samples again; otherwise rename one"):
        notebook("%lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("%lightning_data samples --batch_size 4")
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    assert notebook.shell.user_ns["run"].record.steps == 1


def test_run_folder_goes_under_the_default_root_dir_that_was_asked_for(notebook):
    notebook("run = %lightning_fit Net samples --max_epochs 1 --default_root_dir there --quiet")
    assert Path("there/lightning_logs/Net/version_0/run.json").is_file()


def test_misspelled_metric_is_found_after_the_sanity_check(notebook):
    with pytest.raises(InputError, match=r"'val_los' is not logged\. Did you mean 'val_loss'\?"):
        notebook("%lightning_fit Net samples samples --max_epochs 1 --early_stop val_los")


def test_a_monitored_metric_that_is_unlike_any_other_is_said_early_and_refused_in_a_line(notebook):
    with pytest.raises(InputError, match=r"^the monitored metric 'val_f1' is not logged\. Logged metrics: val_loss, "):
        notebook("%lightning_fit Net samples samples --max_epochs 2 --early_stop val_f1")
    assert "'val_f1' was not logged in the sanity check. Logged metrics: val_loss" in notebook.text
    with pytest.raises(InputError, match=r"'train_los' is not logged\. Did you mean 'train_loss'\?"):
        notebook("%lightning_fit Net samples samples --max_epochs 2 --monitor train_los --quiet")


def test_a_fit_from_a_checkpoint_that_is_at_its_end_says_that_it_trains_nothing(notebook):
    notebook("a = %lightning_fit Net samples --max_epochs 2 --quiet")
    notebook("b = %lightning_fit a.model samples --max_epochs 2 --resume a")
    assert "nothing was trained: the checkpoint already has 2 epochs, and --max_epochs 2 includes them" in notebook.text
    notebook("b = %lightning_fit a.model samples --max_steps 2 --resume a")
    assert "already has 2 steps, and --max_steps 2 includes them" in notebook.text
    notebook("b = %lightning_fit a.model samples --max_epochs 3 --resume a")
    assert "nothing was trained" not in notebook.text


@pytest.mark.parametrize("how", ["shutil.rmtree(path)", "path.rename(path.with_name('moved'))"])
@pytest.mark.parametrize("more", ["--quiet", "--logger csv --monitor train_loss", "--logger none"])
def test_a_fit_whose_folder_is_removed_goes_on_and_says_so_in_a_line(notebook, how, more):
    notebook(
        "import shutil, pathlib\nclass Ends(pl.Callback):\n    def on_train_batch_start(self, trainer, *rest):\n"
        f"        path = pathlib.Path(trainer.default_root_dir)\n        if trainer.current_epoch == 1: {how}\n"
        "        if trainer.current_epoch == 1: trainer.callbacks.remove(self)"
    )
    notebook(f"run = %lightning_fit Net samples --max_epochs 3 --callbacks [Ends()] {more}")
    run = notebook.shell.user_ns["run"]
    assert (run.status, run.record.epochs, run.best_model_path) == ("completed", 3, "")
    (line,) = [line for line in notebook.text.splitlines() if "removed" in line]
    assert re.search(
        r"The run folder \S+version_0 was removed in epoch \d\. Its record and checkpoints are lost\. "
        r"Net in memory keeps its trained weights$",
        line,
    )
    assert "checkpoint " not in notebook.text
    assert not Path("lightning_logs/Net/version_0").exists()
    notebook("found = %lightning_predict run samples --quiet")
    assert len(notebook.shell.user_ns["found"].predictions) == 16


def test_a_fit_says_that_a_definition_is_older_than_the_last_one_that_was_typed(notebook):
    said = "the last definition of {} failed, so the earlier one is used. Fix its cell and run it again"
    fit = "run = %lightning_fit Model data --max_epochs 1"
    model = "%%lightning_model Model --loss mse_loss\nnn.Linear(2, 1)"
    data = "%%lightning_data data\nsamples, samples[:, :1]"
    define = "import lightning_magics; lightning_magics"
    for cell in (model, data, fit):
        notebook(cell)
    assert "the last definition" not in notebook.text
    for name, failing, good in (
        ("Model", f"{model} / 0", model),
        ("Model", model.replace("--loss", "--los"), model),
        ("Model", f"%{model[2:]}".replace("\nnn.Linear(2, 1)", ""), model),
        ("Model", f"{define}.define_model(None, type('Model', (pl.LightningModule,), {{}}), lr=1)", model),
        ("data", f"{define}.define_data(None, 3)", data),
        ("data", "%%lightning_data data --label kind\nsamples, samples", data),
        ("data", "%%lightning_data\nraise KeyboardInterrupt\nsamples", data),
    ):
        with pytest.raises((Exception, KeyboardInterrupt)):
            notebook(failing)
        notebook(fit)
        assert notebook.text.count("the last definition") == notebook.text.count(said.format(name)) == 1
        notebook(f"{fit} --quiet")
        assert notebook.text.count(said.format(name)) == 1
        notebook(good)
        notebook(fit)
        assert "the last definition" not in notebook.text


def test_a_fit_says_that_the_cell_of_a_class_failed(notebook):
    with pytest.raises(ZeroDivisionError):
        notebook("class Net(pl.LightningModule):\n    rate = 1 / 0")
    notebook("run = %lightning_fit Net samples --max_epochs 1")
    assert "the last definition of Net failed, so the earlier one is used" in notebook.text
    with pytest.raises(ZeroDivisionError):
        notebook(MODEL + "\n1 / 0")
    notebook("run = %lightning_fit Net samples --max_epochs 1")
    assert "the last definition" not in notebook.text


def test_syntax_error_of_a_cell_is_a_line(notebook):
    with pytest.raises(InputError, match=r"the cell cannot be parsed: invalid syntax.*, in line 3: x = = 1"):
        notebook("%%lightning_model A\nn: int = 1\nx = = 1")


def test_error_in_a_function_of_the_line_is_the_users_own(notebook):
    notebook("def make():\n    return undefined_name")
    with pytest.raises(NameError):
        notebook("%lightning_fit make() samples")


def test_semicolon_at_the_end_is_no_part_of_the_line(notebook):
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet;")


def test_second_thread_is_told_to_wait(notebook):
    import lightning_magics

    scope = notebook.shell.user_ns
    caught = []

    class Nested(pytorch_lightning.Callback):
        def on_train_start(self, trainer, model):
            thread = threading.Thread(target=self.fit)
            thread.start()
            thread.join()

        def fit(self):
            try:
                lightning_magics.fit(scope["Net"], scope["samples"], max_epochs=1, quiet=True)
            except InputError as error:
                caught.append(str(error))

    lightning_magics.fit(scope["Net"], scope["samples"], max_epochs=1, quiet=True, callbacks=Nested())
    assert caught == ["Net/version_0 is running in another thread of this kernel. Wait for it, or stop it: run.stop()"]


def test_predictions_for_a_table_without_labels(notebook):
    notebook("import pandas\nframe = pandas.DataFrame({'a': [0.5, 1.0], 'b': [2, 3], 'c': ['x', 'y']})")
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("%lightning_predict run frame[['a','b']] -o preds --quiet")
    assert notebook.shell.user_ns["preds"].shape == (2, 1)
    with pytest.raises(InputError, match="columns that are not numeric: c"):
        notebook("%lightning_predict run frame")


def test_evaluation_can_take_the_best_checkpoint_and_leaves_the_model_as_it_is(notebook):
    notebook(
        "class Worse(Net):\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1, maximize=True)"
    )
    notebook("run = %lightning_fit Worse samples samples --max_epochs 3 --monitor val_loss --quiet")
    run = notebook.shell.user_ns["run"]
    before = [item.clone() for item in run.model.parameters()]
    notebook("found = %lightning_validate run --ckpt_path best")
    assert notebook.shell.user_ns["found"].results[0]["val_loss"] == min(row["val_loss"] for row in run.history)
    assert "weights of lightning_logs/Worse/version_0/checkpoints/" in notebook.text
    assert all(torch.equal(one, other) for one, other in zip(before, run.model.parameters(), strict=True))
    with pytest.raises(InputError, match="--ckpt_path nowhere: there is no checkpoint nowhere"):
        notebook("%lightning_validate run --ckpt_path nowhere")


def test_loop_of_fits_ends_with_the_one_that_was_interrupted(notebook):
    notebook(
        "class Stops(Net):\n    def on_train_start(self):\n        signal.raise_signal(signal.SIGINT)\nimport signal"
    )
    with pytest.raises(KeyboardInterrupt):
        notebook(
            "done = []\n"
            "for _ in range(3):\n"
            "    r = %lightning_fit Stops samples --max_epochs 1\n"
            "    done.append(r.status)"
        )
    assert notebook.shell.user_ns["done"] == ["interrupted"]
    notebook("r = %lightning_fit Net samples --max_epochs 1 --quiet")


def test_predictions_come_in_input_order_and_under_a_name(notebook):
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    notebook("%lightning_predict run samples -o preds --data.batch_size 5 --quiet")
    preds, model = notebook.shell.user_ns["preds"], notebook.shell.user_ns["run"].model
    with torch.no_grad():
        torch.testing.assert_close(preds, model.net(notebook.shell.user_ns["samples"]))


def test_cell_may_hold_magics_of_its_own(notebook):
    notebook("%%lightning_model Small --loss mse_loss\nwidth: int = 1\nplace = %pwd\nnn.Linear(2, width)")
    assert notebook.shell.user_ns["place"] == str(Path.cwd())
    assert "get_ipython" not in notebook.shell.run_line_magic("lightning_source", "Small")


def test_error_in_a_cell_shows_its_line_and_not_our_frames(notebook):
    with pytest.raises(ZeroDivisionError):
        notebook("%%lightning_data broken\nn = 1\nsamples[n / 0]")
    assert "samples[n / 0]" in notebook.text
    assert "lightning_magics/" not in notebook.text


def test_callbacks_and_loggers_are_expressions_of_the_notebook(notebook):
    notebook("from pytorch_lightning.callbacks import EarlyStopping\nfrom pytorch_lightning.loggers import CSVLogger")
    line = "--callbacks [EarlyStopping('val_loss', patience=1)] --logger CSVLogger('.', name='mine') --logger csv"
    notebook(f"run = %lightning_fit Net samples samples --max_epochs 1 {line}")
    assert [type(item).__name__ for item in notebook.shell.user_ns["run"].trainer.loggers] == ["CSVLogger"] * 2
    assert Path("mine").is_dir()


def test_callback_of_the_other_package_is_refused(notebook):
    notebook("from lightning.pytorch.callbacks import EarlyStopping")
    with pytest.raises(InputError, match=r"pytorch_lightning.callbacks import EarlyStopping"):
        notebook("%lightning_fit Net samples --callbacks EarlyStopping('train_loss')")


def test_model_of_the_lightning_package_is_trained_by_its_trainer(notebook):
    notebook(MODEL.replace("pytorch_lightning as pl", "lightning as pl"))
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    assert type(notebook.shell.user_ns["run"].trainer).__module__.startswith("lightning.pytorch")


def test_variables_and_braces_are_expanded_as_in_other_magics(notebook):
    notebook("n = 2\nname = 'Net'\nrun = %lightning_fit $name samples --max_epochs {n + 1} --quiet")
    assert len(notebook.shell.user_ns["run"].history) == 3


def test_fit_works_inside_a_function(notebook):
    notebook("def train(n):\n    import lightning_magics\n    return lightning_magics.fit(Net, samples, max_epochs=n)")
    notebook("run = train(2)")
    assert len(notebook.shell.user_ns["run"].history) == 2


def test_a_line_in_a_function_means_the_functions_own_names(notebook):
    notebook(
        """
hidden, patience, samples_of_all = 3, 9, samples
def train(Net, samples):
    hidden, patience, notes = 6, 1, []
    stop = "[pl.callbacks.EarlyStopping('train_loss', patience=patience)]"
    run = %lightning_fit Net samples --max_epochs patience --model.hidden hidden --quiet --callbacks {stop}
    again = %lightning_fit run samples --max_epochs 2 --quiet --resume run
    tested = %lightning_validate run samples --quiet --limit_val_batches patience
    predicted = %lightning_predict run samples --quiet
    attached = %lightning_attach run
    listed = %lightning_runs --compare run again
    return run, again, tested, predicted, attached, listed

run, again, tested, predicted, attached, listed = train(Net, samples[:4])
"""
    )
    got = notebook.shell.user_ns
    assert got["run"].model.hparams.hidden == 6
    assert (got["run"].record.steps, got["tested"].record.model, len(got["predicted"].predictions)) == (1, "Net", 4)
    assert got["attached"].name == "Net/version_0"
    recipe = got["run"].record.recipe
    assert recipe["arguments"] == {"hidden": "6"}  # no run of the code has the function's variables
    assert recipe["trainer"]["callbacks"] == "[pl.callbacks.EarlyStopping('train_loss', patience=1)]"
    assert recipe["missing"] == {}  # its data is so small that its values are recorded
    before = len(notebook.text)
    notebook("%lightning_rerun Net/version_0 --quiet")
    assert "gives the same numbers" in notebook.text[before:]


def test_a_line_in_a_function_within_another_sees_the_variables_of_both(notebook):
    notebook(
        """
hidden, width = 3, 4
def outer(hidden, width):
    def inner(width):
        def innermost():
            run = %lightning_fit Net samples --max_epochs 1 --seed 1 --quiet --model.hidden "hidden * 10 + width"
            return run
        return [innermost() for _ in range(1)][0]
    return inner(2)

run = outer(1, 7)
"""
    )
    run = notebook.shell.user_ns["run"]
    assert run.model.hparams.hidden == 12
    assert run.record.recipe["missing"] == {}
    notebook("%lightning_rerun run --quiet")
    assert "gives the same numbers" in notebook.text


def test_what_is_defined_in_a_function_takes_the_functions_own_names(notebook):
    notebook(
        """
rate, fixed, words = 9.0, None, None
def make():
    rate, accuracy = 0.125, 0.5
    def fixed(output, target):
        return nn.functional.mse_loss(output, target) * 0 + 7
    small = nn.Linear(2, 1)
    data = torch.utils.data.TensorDataset(samples, samples[:, :1])
    %lightning_model small --loss fixed --optimizer "SGD(lr=rate)" --metrics mae
    %lightning_data data --batch_size 4
    run = %lightning_fit small data --max_epochs 1 --quiet
    return run

run = make()
"""
    )
    run = notebook.shell.user_ns["run"]
    assert (run.metrics["train_loss"], run.model.hparams.lr, run.record.steps) == (7.0, 0.125, 4)
    notebook("again = %lightning_fit small data --max_epochs 1 --quiet")  # after the function has returned
    assert notebook.shell.user_ns["again"].metrics["train_loss"] == 7.0


def test_names_of_runs_metrics_and_files_may_be_those_of_a_functions_variables(notebook, monkeypatch):
    notebook("run = %lightning_fit Net samples samples --max_epochs 1 --quiet")
    boards = []
    monkeypatch.setattr("lightning_magics.views.board.frame.show", boards.append)
    notebook(
        """
name, metric, model, file, weights = "none", "none", "none", "none.py", "none"
def look(name, metric, model, file, run):
    weights = run.best_model_path
    net = %lightning_load name --checkpoint weights
    listed = %lightning_runs --sort metric --plot metric --model model
    tested = %lightning_validate run samples --ckpt_path weights --quiet
    resumed = %lightning_fit Net samples samples --max_epochs 2 --resume weights --quiet
    compared = %lightning_runs --compare name resumed
    %lightning_export name file
    %lightning_board run --height 400
    return net, listed, tested, resumed

net, listed, tested, resumed = look("Net/version_0", "val_loss", "Net", "local.py", run)
"""
    )
    got = notebook.shell.user_ns
    assert (type(got["net"]).__name__, len(got["listed"].rows), got["resumed"].record.epochs) == ("Net", 1, 2)
    assert Path("local.py").is_file()
    assert not Path("none.py").exists()
    assert [asked.command for asked in boards] == ["%lightning_board Net/version_0 --height 400"]


def test_a_line_in_a_function_changes_a_rerun_by_the_functions_names(notebook):
    notebook("hidden = 3\nrun = %lightning_fit Net samples --max_epochs 1 --model.hidden hidden --quiet")
    notebook(
        "def again():\n    hidden = 5\n    run = %lightning_rerun Net/version_0 --model.hidden hidden --quiet\n"
        "    return run\nrun = again()"
    )
    assert notebook.shell.user_ns["run"].model.hparams.hidden == 5
    with pytest.raises(
        InputError, match=r"^-o found cannot set a local variable of a function. Type found = %lightning_predict"
    ):
        notebook("def guess():\n    found = 1\n    %lightning_predict run samples -o found\nguess()")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%lightning_fit", "%lightning_fit takes a model; found none"),
        ("%lightning_fit Nett samples", "no model 'Nett' was found. Did you mean 'Net'?"),
        ("%lightning_fit Net sampels", "no data 'sampels' was found. Did you mean 'samples'?"),
        ("%lightning_data sampels", "no data 'sampels' was found. Did you mean 'samples'? Define it with"),
        ("%lightning_fit Net samples --max_epoch 3", "Did you mean '--max_epochs'?"),
        ("%lightning_fit Net samples --max_epochs three", "--max_epochs takes a whole number; found 'three'"),
        ("%lightning_fit Net samples --precision 16-mixd", "Did you mean '16-mixed'?"),
        ("%lightning_fit Net samples --model.hiden 3", "Net has no hyperparameter 'hiden'. Did you mean 'hidden'?"),
        (
            "%lightning_fit Net samples samples samples",
            "a fit takes training data and, optionally, validation data; found 3",
        ),
        ("%lightning_fit Net() samples --model.hidden 3", "--model.hidden is a constructor argument"),
        ("%lightning_fit nn.Linear(2,1) samples", "is a Linear, not a LightningModule"),
        ("%lightning_fit Net samples --resume nowhere", "no run 'nowhere' was found"),
        ("%lightning_validate Net samples", "Net was not trained in this session"),
        ("%lightning_fit Net --data.batch_size 3", "--data.batch_size needs the data that it applies to"),
        ("%lightning_fit Net samples --nodes 2", "--nodes 2 needs a cluster. Type --nodes 2 --cluster"),
        (
            "%lightning_fit Net samples --slurm.time 3",
            "--slurm.time has no effect without a cluster. Add --cluster slurm",
        ),
        ("import lightning_magics; lightning_magics.fit(Net, slurm=3)", "slurm= takes a dict of parameters; found a"),
        ("%lightning_fit Net", "there is no data to fit Net with. Type %lightning_fit Net DATA"),
        ("%lightning_predict Net() samples -o 1x", "-o takes the name of a variable; found '1x'"),
        ("%lightning_source Nothing", "%lightning_source takes the name of a model or of data; found 'Nothing'."),
        ("%lightning_model", "%lightning_model takes the name of an object defined in another cell"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(notebook, line, message):
    with pytest.raises(LightningMagicsError) as raised:
        notebook(line)
    assert message in str(raised.value)
    assert raised.value._render_traceback_() == [f"{type(raised.value).__name__}: {raised.value}"]
    assert "\n" not in str(raised.value)
    assert not list(Path().glob("lightning_logs/*/version_*"))


def test_a_hyperparameter_of_model_and_data_has_one_value(notebook):
    notebook("%%lightning_data sized --batch_size 8\ntorch.utils.data.TensorDataset(samples, samples)")
    notebook("%%lightning_model Sized --loss mse_loss\nbatch_size: int = 4\nnn.Linear(2, 2)")
    with pytest.raises(InputError, match=r"batch_size \(4 and 8\), .* --model.batch_size 8, or rename one"):
        notebook("%lightning_fit Sized sized --max_epochs 1")
    assert not Path("lightning_logs").exists()
    for more in ("--model.batch_size 8", "--logger none"):
        notebook(f"run = %lightning_fit Sized sized --max_epochs 1 {more}")
        assert notebook.shell.user_ns["run"].status == "completed"


def test_failed_run_is_recorded_and_keeps_what_it_learned(notebook):
    notebook("class Bad(Net):\n    def on_train_epoch_end(self):\n        raise ValueError('no more')")
    with pytest.raises(ValueError, match="no more"):
        notebook("%lightning_fit Bad samples --max_epochs 3")
    assert "failed in epoch 1: ValueError: no more" in notebook.text
    record = json.loads(Path("lightning_logs/Bad/version_0/run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "ValueError: no more")
    notebook("%lightning_validate Bad samples --quiet")


def test_traceback_of_the_users_error_is_theirs_alone(notebook):
    notebook("class Bad(Net):\n    def training_step(self, batch, batch_idx):\n        return undefined_name")
    with pytest.raises(NameError):
        notebook("%lightning_fit Bad samples --max_epochs 3")
    assert "return undefined_name" in notebook.text
    for frame in ("lightning_magics/", "pytorch_lightning/", "IPython/"):
        assert frame not in notebook.text


def test_handler_of_interrupts_is_back_afterwards(notebook):
    before = signal.getsignal(signal.SIGINT)
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet")
    assert signal.getsignal(signal.SIGINT) is before


def test_config_sets_defaults(notebook):
    notebook("%config LightningMagics.run_dir = 'elsewhere'")
    notebook("%config LightningMagics.logger = ['csv']")
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    run = notebook.shell.user_ns["run"]
    assert run.log_dir == str(Path("elsewhere/Net/version_0").absolute())
    assert (run.folder.path / "metrics.csv").is_file()


def test_what_is_wrong_with_a_setting_is_said_of_the_setting(notebook, monkeypatch):
    def refuse(*_):
        raise InputError("--slurm.partion is not a parameter of Slurm")

    monkeypatch.setattr(engine, "resources", refuse)
    notebook("%config LightningMagics.slurm = {'partion': 'gpu'}")
    with pytest.raises(InputError, match=r"Slurm\. It may come from %config LightningMagics\.slurm$"):
        notebook("%lightning_fit Net samples --cluster slurm")


@pytest.mark.parametrize(("has_bfloat16", "told"), [(False, True), (True, False)])
def test_mixed_precision_that_a_processor_only_plays_is_told(notebook, monkeypatch, has_bfloat16, told):
    known = {"architecture": "x86_64", "avx512_bf16": has_bfloat16, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    notebook("run = %lightning_fit Net samples --max_epochs 1 --amp")
    assert ("this CPU has no bfloat16" in notebook.text) == told


def test_parameters_of_a_call_go_over_those_of_the_settings(notebook):
    notebook("%config LightningMagics.slurm = {'partition': 'gpu', 'time': 10}")
    call = Call.of("fit", {"cluster": "slurm", "nodes": 2, "slurm": {"time": 20}})
    assert (call.options.nodes, call.engine) == (2, {"partition": "gpu", "time": 20})
    assert Call.of("test", {"cluster": "slurm", "slurm": {"inside": True}}).engine == {"inside": True}
    assert Call.of("fit", {}).engine == {}


@pytest.mark.parametrize("verb", ["model", "data", "source", "fit", "validate", "test", "predict"])
def test_every_magic_has_help_with_an_example(notebook, verb):
    magic = notebook.shell.magics_manager.magics["line"][f"lightning_{verb}"]
    assert "Example" in magic.__doc__
    assert "{options}" not in magic.__doc__
    notebook(f"%lightning_{verb} --help")
    assert f"lightning_{verb}" in notebook.text


def test_help_of_fit_lists_the_trainers_arguments(notebook):
    notebook("%lightning_fit --help")
    assert "--gradient_clip_val" in notebook.text
    assert "--early_stop" in notebook.text


def test_unload_takes_everything_out(notebook):
    shell = notebook.shell
    matchers = list(shell.Completer.custom_matchers)
    notebook("%unload_ext lightning_magics")
    assert not [name for kind in shell.magics_manager.magics.values() for name in kind if name.startswith("lightning_")]
    assert not [item for item in shell.configurables if type(item).__name__ == "LightningMagics"]
    assert len(shell.Completer.custom_matchers) == len(matchers) - 1
    notebook("%load_ext lightning_magics")
    assert len(shell.Completer.custom_matchers) == len(matchers)
    notebook("%lightning_fit Net samples --max_epochs 1 --quiet")


def test_api_outside_of_a_shell_finds_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import lightning_magics

    scope: dict[str, object] = {}
    exec(MODEL, scope)
    run = lightning_magics.fit(scope["Net"], scope["samples"], max_epochs=1, quiet=True)
    assert run.status == "completed"
    with pytest.raises(InputError, match="'max_epoch' is not an argument of fit"):
        lightning_magics.fit(scope["Net"], scope["samples"], max_epoch=1)
    assert "fit" in dir(lightning_magics)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        lightning_magics.fitt  # noqa: B018 -- the access is the test


def test_what_a_failed_cell_never_reached_is_no_part_of_the_history(notebook):
    with pytest.raises(ZeroDivisionError):
        notebook("before = object()\n1 / 0\nafter = object()")
    session = notebook.shell.magics_manager.registry["LightningMagics"].session
    history, _ = session.history()
    assert history.binding_places("before", 99, 0)
    assert not history.binding_places("after", 99, 0)


def test_a_fit_in_the_middle_of_a_cell_records_what_had_run_by_then(notebook):
    notebook("width = 3\nmodel = Net(width)\nrun = %lightning_fit model samples --max_epochs 1 --quiet\nwidth = 4")
    source = Path("lightning_logs/Net/version_0/source.py").read_text()
    assert source.endswith("width = 3\nmodel = Net(width)\n")


def test_a_fit_does_not_fail_where_its_source_cannot_be_collected(notebook, monkeypatch):
    monkeypatch.setattr("lightning_magics.commands.call.RecipeWriter", lambda *given: 1 / 0)
    notebook("run = %lightning_fit Net samples --max_epochs 1 --quiet")
    assert json.loads(Path("lightning_logs/Net/version_0/run.json").read_text())["recipe"]["missing"] == {
        "Net": "its source could not be collected: ZeroDivisionError: division by zero"
    }
    with pytest.raises(RunError, match="Net/version_0 has no source"):
        notebook("%lightning_load Net/version_0")
    notebook("%lightning_validate Net samples --quiet")
    with pytest.raises(RunError, match=r"validate_0 is a validate run, which does not train a model\. Choose a fit"):
        notebook("%lightning_load Net/validate_0")


def test_runs_are_listed_compared_and_deleted_by_line(notebook):
    for hidden in (4, 8):
        notebook(f"%lightning_fit Net samples samples --max_epochs 2 --model.hidden {hidden} --quiet")
    notebook("held = %lightning_fit Net samples samples --max_epochs 2 --quiet")
    listed = notebook("%lightning_runs Net --sort val_loss --plot val_loss")
    assert {row.run for row in listed.rows} == {"Net/version_0", "Net/version_1", "Net/version_2"}
    assert notebook("%lightning_runs --model Net;").df.shape[0] == 3
    compared = notebook("%lightning_runs --compare Net/version_0 held last Net/version_1")
    assert [row.run for row in compared.rows] == ["Net/version_0", "Net/version_2", "Net/version_1"]
    notebook("%lightning_runs --delete held")
    assert re.match(r"deleted 1 run \([\d.]+ kB\): Net/version_2\n", notebook.text)
    notebook("%lightning_runs Net --keep 1 --yes")
    assert [path.name for path in Path("lightning_logs/Net").iterdir()] == ["version_1"]


def test_record_names_best_metrics_loggers_and_checkpoints(notebook):
    notebook("run = %lightning_fit Net samples samples --max_epochs 3 --monitor val_loss --logger csv --quiet")
    run = notebook.shell.user_ns["run"]
    record = json.loads((run.folder.path / "run.json").read_text())
    best = min(run.history, key=lambda row: row["val_loss"])
    assert record["best_metrics"]["val_loss"] == {"value": best["val_loss"], "epoch": best["epoch"]}
    assert record["trainer"]["logger"] == ["csv"]
    assert [str(run.folder.path / name) for name in record["checkpoints"]] == [run.best_model_path]


SMALL = """
import os
import torch, pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
dl = DataLoader(TensorDataset(torch.rand(8, 2), torch.zeros(8, dtype=torch.long)), 4)
class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


def line(shell: InteractiveShell, code: str) -> str:
    """Run a cell that fails with one line; returns it."""
    with capture_output() as captured:
        result = shell.run_cell(code)
    assert isinstance(result.error_in_exec, LightningMagicsError), captured.stdout
    assert captured.stdout.count("\n") == 1
    return captured.stdout


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
def test_a_working_folder_that_was_removed_is_one_line(shell: InteractiveShell, tmp_path: Path) -> None:
    shell.run_cell(SMALL)
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for code in ("fit Small dl", "fit Small dl --ddp 1", "runs", "board", "load last", "attach last", "stop a/b"):
        assert "the working folder of this notebook was removed. Type %cd" in line(shell, f"%lightning_{code}")
    shell.run_cell(f"%config LightningMagics.run_dir = {str(tmp_path / 'runs')!r}")
    result = shell.run_cell("run = %lightning_fit Small dl --max_epochs 1 --quiet")
    result.raise_error()
    assert shell.user_ns["run"].folder.path == tmp_path / "runs" / "Small" / "version_0"
    shell.run_cell(f"%cd -q {tmp_path}").raise_error()
    shell.run_cell("%config LightningMagics.run_dir = 'lightning_logs'")
    shell.run_cell("run = %lightning_fit Small dl --max_epochs 1 --quiet").raise_error()


def test_names_that_no_folder_can_have_are_one_line(shell: InteractiveShell) -> None:
    shell.run_cell(SMALL)
    for name, reason in (("A" * 300, "a name in it is too long"), ("a\0b", "it contains a NUL character")):
        shell.run_cell(f"%config LightningMagics.run_dir = {name!r}")
        for code in ("fit Small dl", "runs", "board", "attach last"):
            said = line(shell, f"%lightning_{code}")
            assert f"{reason}. Choose another folder: %config LightningMagics.run_dir = 'PATH'" in said
            assert len(said) < 300
        shell.run_cell("%config LightningMagics.run_dir = 'lightning_logs'")
        shell.user_ns["name"] = name
        shell.run_cell("import lightning_magics as lm")
        for code in ("attach", "load", "stop", "rerun", "board"):
            assert "no run '" in line(shell, f"lm.{code}(name)")
        assert "there is no checkpoint" in line(shell, "lm.validate(Small(), dl, ckpt_path=name)")


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
@pytest.mark.parametrize("where", ["", "--ddp 1"])
def test_a_message_of_five_megabytes_and_a_deep_recursion_are_shown_in_short(
    shell: InteractiveShell, where: str
) -> None:
    shell.run_cell(SMALL)
    shell.run_cell(
        "def even(n):\n    return odd(n - 1)\ndef odd(n):\n    return even(n - 1)\n"
        "class Deep(Small):\n    def training_step(self, batch, batch_idx):\n        return even(10**9)\n"
        "class Wrapped(Small):\n    def training_step(self, batch, batch_idx):\n"
        "        try:\n            return even(10**9)\n        except RecursionError as error:\n"
        "            raise ValueError('too deep') from error\n"
        "class Long(Small):\n    def training_step(self, batch, batch_idx):\n"
        "        raise ValueError('begins' + 'x' * 5_000_000 + 'ends')"
    )
    for name in ("Deep", "Wrapped", "Long"):
        with capture_output() as captured:
            result = shell.run_cell(f"%lightning_fit {name} dl --max_epochs 1 --quiet {where}")
        assert len(captured.stdout) < 30_000
        folder = Path("lightning_logs") / name / "version_0"
        assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 150_000
        if name == "Long":
            assert "begins" in captured.stdout
            assert "xends" in captured.stdout
            assert len(str(result.error_in_exec)) == 5_000_010  # the exception itself is whole
            assert len(json.loads((folder / "run.json").read_text())["error"]) < 10_100
        else:
            assert "repeated frames of a recursion are left out." in captured.stdout
            assert "return odd(n - 1)" in captured.stdout


def own_loaders(test):
    """Of a test whose loaders are its own: what Lightning says of them to plain calls of its Trainer."""
    for mark in SMALL_RUNS:
        test = mark(test)
    return test


COMBINED = """
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

class Pair(Net):
    def training_step(self, batch, batch_idx):
        return sum(self.net(part).pow(2).mean() for part in batch.values())

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.training_step(batch, batch_idx))

class Each(Net):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.net(batch).pow(2).mean())

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self.net(batch)

class Own(Net):
    def val_dataloader(self):
        return long

long, short = DataLoader(samples, batch_size=4), DataLoader(samples[:6], batch_size=4)
def combined(mode):
    return CombinedLoader({"long": long, "short": short}, mode)
plainly = pl.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False)
"""


@own_loaders
@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
def test_loaders_that_are_combined_are_read_as_by_plain_lightning(notebook, mode):
    notebook(COMBINED)
    notebook(f"run = %lightning_fit Pair combined('{mode}') combined('{mode}') --max_epochs 1 --quiet")
    for verb in ("validate", "test"):
        result = notebook(f"%lightning_{verb} run combined('{mode}') --quiet")
        plain = notebook(f"plainly.{verb}(run.model, combined('{mode}'), verbose=False)")
        assert result.results == plain


@own_loaders
def test_collections_of_loaders_are_taken_as_by_plain_lightning(notebook):
    notebook(COMBINED)
    notebook("pair = %lightning_fit Pair {'long':long,'short':short} --max_epochs 1 --quiet")
    assert notebook("pair.record.steps") == 4  # of the longer one, the shorter is begun again
    notebook("each = %lightning_fit Each long {'long':long,'short':short} --max_epochs 1 --quiet")
    plain = notebook("plainly.validate(each.model, [long, short], verbose=False)")
    for data in ("combined('sequential')", "{'long':long,'short':short}", "[long,short]", "long short"):
        assert notebook(f"%lightning_validate each {data} --quiet").results == plain
        assert [len(part) for part in notebook(f"%lightning_predict each {data} --quiet").predictions] == [16, 6]
    with pytest.raises(
        InputError,
        match=r"^a dict of the splits 'train', 'val' cannot be used directly. Define it with %lightning_data",
    ):
        notebook("%lightning_fit Pair {'train':long,'val':short} --max_epochs 1")
    with pytest.raises(InputError, match=r"Put loaders that are read together in one split: \{'train': \{…\}\}$"):
        notebook("%%lightning_data pair\n{'long': long, 'short': short}")
    notebook("%%lightning_data pair\n{'train': {'long': long, 'short': short}}")
    assert notebook("%lightning_fit Pair pair --max_epochs 1 --quiet").record.steps == 4


@own_loaders
def test_a_run_is_evaluated_on_the_loaders_of_its_model(notebook):
    notebook(COMBINED)
    notebook("run = %lightning_fit Own long --max_epochs 1 --quiet")
    assert notebook("%lightning_validate run --quiet").results == notebook("plainly.validate(run.model, verbose=False)")
    notebook("run = %lightning_fit Each long --max_epochs 1 --quiet")
    with pytest.raises(InputError, match=r"^there is no data to validate Each with\. Add it after the model"):
        notebook("%lightning_validate run --quiet")


def test_an_interrupt_before_the_start_leaves_no_folder(shell: InteractiveShell, monkeypatch) -> None:
    shell.run_cell(SMALL)

    def interrupted(**_: object) -> None:
        assert Path("lightning_logs/Small/version_0").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_magics.commands.call.open_view", interrupted)
    with capture_output():
        shell.run_cell("%lightning_fit Small dl --max_epochs 1")
    assert list(Path("lightning_logs").iterdir()) == []


def test_a_loaded_model_has_the_hyperparameters_of_its_checkpoint_and_a_rerun_names_those_that_differ(notebook):
    notebook(
        """
class Weighted(pl.LightningModule):
    def __init__(self, scale, made_at=None, rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, 1)
    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) * self.hparams.scale).mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.rate)
"""
    )
    notebook("torch.seed()")
    notebook("scale = torch.rand(1, dtype=torch.bfloat16) + 1")
    fit = "Weighted samples --max_epochs 1 --seed 1 --quiet --model.scale scale --model.made_at time.time_ns()"
    notebook(f"import time\nrun = %lightning_fit {fit}")
    notebook("net = %lightning_load run")
    run, net = notebook.shell.user_ns["run"].model, notebook.shell.user_ns["net"]
    assert torch.equal(net.hparams.scale, run.hparams.scale)
    assert (net.hparams.made_at, net.hparams.rate) == (run.hparams.made_at, 0.1)
    assert torch.equal(net.layer.weight, run.layer.weight)
    notebook("%lightning_rerun run --quiet --model.rate 0.2")
    assert "the hyperparameter scale: tensor(" in notebook.text
    assert "the hyperparameter rate: " not in notebook.text, notebook.text  # which was typed
