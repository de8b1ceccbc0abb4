"""From a notebook to a script and back: real kernels, and scripts that run without this package."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

SETUP = """
import torch
import numpy as np
import pytorch_lightning as pl
from pathlib import Path
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, StackDataset, TensorDataset
torch.set_num_threads(1)
torch.manual_seed(7)
%load_ext lightning_magics
"""
HELPERS = """
FACTOR = 2  # of the labels
kinds = 2 * FACTOR
def labels_of(x):
    # by the sign of two columns
    return (x[:, 0] > 0).long() * FACTOR + (x[:, 1] > 0).long()
def scaled(x):
    return x * scale
"""
CONSTANT = "scale = 0.5"
NETWORK = """%%lightning_model Net --loss cross_entropy --metrics accuracy --lr 1e-2
hidden: int = 8
nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, kinds))
"""
HOOKS = """%%lightning_model Hooks --lr 1e-2
smoothing: float = 0.1
def __init__(self):
    self.layer = nn.Linear(6, kinds)
def training_step(self, batch, batch_idx):
    x, y = batch
    return F.cross_entropy(self.layer(scaled(x)), y, label_smoothing=smoothing)  # smoothed
def validation_step(self, batch, batch_idx):
    x, y = batch
    self.log("val_loss", F.cross_entropy(self.layer(scaled(x)), y))
"""
CLASS = """%%lightning_model
import lightning as L
class Whole(L.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, width), nn.Linear(width, kinds))
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
BERT = """%%lightning_model Bert --metrics accuracy --lr 5e-4
from transformers import BertConfig, BertForSequenceClassification
sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
BertForSequenceClassification(BertConfig(vocab_size=12, max_position_embeddings=8, num_labels=2, **sizes))
"""
# Random numbers are drawn when this data is loaded.
POINTS = """%%lightning_data points --batch_size 16 --val_split 0.25
x = torch.randn(128, 6)
TensorDataset(x, labels_of(x))
"""
TOKENS = """%%lightning_data tokens --batch_size 16 --val_split 0.25
ids = torch.randint(1, 12, (64, 6), generator=torch.Generator().manual_seed(0))
StackDataset(input_ids=ids, labels=(ids == 1).any(dim=1).long())
"""
LOADERS = """
drawn = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))
train_set = TensorDataset(drawn, labels_of(drawn))
val_loader = DataLoader(train_set, batch_size=32)
class Norms(pl.Callback):
    seen = 0
    def on_train_epoch_end(self, trainer, model):
        Norms.seen += 1
net = Net(hidden=5)
"""
UNKNOWN = "files = %timeit -o -q -n1 -r1 1"
ODD = """
class Odd(pl.LightningModule):
    def __init__(self, where=Path("x"), scaling=scaled):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(6, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
class Asking(Odd):
    def on_train_start(self):
        str(files)
"""
# A seed that a function sets, draws that the fit's source lacks, and fits without --seed.
SEEDED = """
def settle(number):
    torch.use_deterministic_algorithms(False)
    np.random.seed(number)
    torch.manual_seed(number)
settle(42)
drawn_anew = torch.randn(64, 6)
anew = DataLoader(TensorDataset(drawn_anew, labels_of(drawn_anew)), batch_size=16, shuffle=True)
"""
LOOKED = "settle(1); whole = Whole(width=5); first = next(iter(anew))"
UNSEEDED = ("Whole anew", "Whole anew --ddp 2", "Whole anew --background", "whole anew", "Whole(width=3) anew")
# Hyperparameters that are objects of the notebook.
OBJECTS = """
import enum, typing
from dataclasses import dataclass
class Act(enum.Enum):
    relu = "relu"
    tanh = "tanh"
@dataclass(frozen=True)
class Sizes:
    scale: float = 1.0
    steps: range = range(3)
class Pair(typing.NamedTuple):
    shift: float
    spare: float = 0.0
    sizes: Sizes = Sizes()
class Doubled:
    factor = 2.0
def noise(x):
    return x + 0.5
class Objects(pl.LightningModule):
    def __init__(
        self, act=Act.relu, sizes=None, pair=None, made=Doubled, noise=None, layers=range(9), names=None, text="${"
    ):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(6, kinds)
    def forward(self, x):
        x = self.hparams.get("noise", torch.abs)(x) * self.hparams.made.factor + self.hparams.pair.shift
        x = x * self.hparams.layers[1] + len(self.hparams.names)
        return self.layer(getattr(F, self.hparams.act.value)(x) * self.hparams.sizes.scale)
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
PLAIN = """
class Plain(pl.LightningModule):
    def __init__(self, act=Act.relu, pair=None, where=Path("y"), layers=range(2), names=frozenset({"a"})):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(6, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
OF_OBJECTS = (
    "--model.act Act.tanh --model.sizes Sizes(2.0) --model.pair Pair(3.0) --model.noise noise --model.layers "
    "range(1,9,2) --model.names frozenset({'a','b'}) --seed 1"
)
KEPT = ["act", "layers", "made", "names", "noise", "pair", "sizes", "text"]
ALIKE = "lightning_magics.fit('Objects', anew, val_loader, seed=1, quiet=True, max_epochs=1, model=given)"
FITS = {
    "Net": "Net points --max_epochs 2 --early_stop val_loss:5 --monitor val_loss --model.hidden kinds",
    "Hooks": "Hooks points --max_epochs 2 --model.smoothing 0.2 --callbacks [Norms()] --logger csv",
    "Whole": "Whole DataLoader(train_set,batch_size=16,shuffle=True) val_loader --max_epochs 2",
    "Bert": "Bert tokens --max_epochs 2 --gradient_clip_val 0.5",
}
# Runs scripts as `python FILE` does, without this package.
RUNNER = """
import contextlib, io, json, runpy, sys
sys.modules["lightning_magics"] = None
found = {}
for path in sys.argv[1:]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(path, run_name="__main__")
    found[path] = printed.getvalue()
print(json.dumps(found))
"""


def clean() -> dict[str, str]:
    """An environment in which nothing points to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Fits, in a kernel that has ended by then: the final metrics by name of the run's model, and what was said."""
    kernel = Kernel(folder)
    found = {}
    try:
        kernel.run(SETUP, HELPERS, CONSTANT, NETWORK, HOOKS, CLASS, BERT, POINTS, TOKENS, LOADERS, UNKNOWN, ODD)
        for name, line in FITS.items():
            kernel.run(f"run = %lightning_fit {line} --seed 1 --quiet", f"%lightning_export {name}/version_0 {name}.py")
            found[name] = kernel.value("run.metrics")
        kernel.run(SEEDED, OBJECTS, "import lightning_magics")
        for how in ("", "--ddp 2", "--background"):
            kernel.run(f"run = %lightning_fit Objects anew val_loader {OF_OBJECTS} --max_epochs 1 --quiet {how}")
            name = kernel.value("run.wait().name")
            assert kernel.value("sorted(run.model.hparams)") == KEPT
            found[name] = kernel.value("run.metrics")
        kernel.run(
            "given = {'act': Act('tanh'), 'sizes': Sizes(2.0), 'pair': Pair(3.0), 'noise': noise}",
            "given |= {'layers': range(1, 9, 2), 'names': frozenset(['b', 'a'])}",
            f"run = {ALIKE}",
        )
        found[kernel.value("run.name")] = kernel.value("run.metrics")
        kernel.run("%lightning_export Objects/version_0 Objects.py")
        kernel.run(
            PLAIN, "%lightning_fit Plain anew --max_epochs 1 --quiet --model.act Act.tanh --model.pair Pair(1.0)"
        )
        kernel.run("%lightning_export Net/version_0 Net.ipynb --notebook", "%lightning_export Whole points Model.py")
        kernel.run("%lightning_fit net train_set --max_epochs 1 --quiet --data.batch_size 8")
        kernel.run("%lightning_fit net train_set --max_epochs 1 --quiet")
        kernel.run("%lightning_fit Odd train_set --max_epochs 1 --quiet")
        kernel.run(SEEDED, "run = %lightning_fit Whole anew val_loader --max_epochs 2 --quiet")
        kernel.run("%lightning_export Whole/version_1 Seeded.py")
        found["Seeded"] = kernel.value("run.metrics")
        kernel.run(LOOKED)
        for line in UNSEEDED:
            kernel.run(f"run = %lightning_fit {line} val_loader --max_epochs 2 --quiet")
            name = kernel.value("run.wait().name")
            found[name] = kernel.value("run.metrics")
        kernel.run("settle(3); compiled = torch.compile(Whole(width=3), backend='eager')")
        kernel.run("run = %lightning_fit compiled anew val_loader --max_epochs 1 --seed 1 --quiet")
        kernel.run("%lightning_export Whole/version_7 Compiled.py")
        found["Compiled"] = kernel.value("run.metrics")
        kernel.run("%lightning_fit Asking train_set --max_epochs 1 --quiet", "scale = 'another'")
        said = [
            "%lightning_export Net/version_0 Net.py",
            "%lightning_export Net/version_0 other.txt",
            "%lightning_export Net/version_0",
            "%lightning_export Asking/version_0 asking.py",
            "%lightning_export Net nodata.py",
            "%lightning_export Odd nodata.py",
            "%lightning_load Asking/version_0",
        ]
        found["said"] = {line: kernel.cell(line).error for line in said}
    finally:
        kernel.stop()
    return found


def printed(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+)=(\S+)$", text, re.M)}


def test_scripts_without_this_package_give_the_numbers_of_the_notebook(folder: Path, metrics) -> None:
    (folder / "runner.py").write_text(RUNNER)
    notebook = json.loads((folder / "Net.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (folder / "of_notebook.py").write_text("\n".join(code))
    files = [f"{name}.py" for name in (*FITS, "Seeded", "Compiled", "Objects")]
    command = [sys.executable, "-I", "runner.py", *files, "of_notebook.py"]
    done = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {path: printed(text) for path, text in json.loads(done.stdout.splitlines()[-1]).items()}
    metrics["Objects"] = metrics["Objects/version_0"]
    for name in (*FITS, "Seeded", "Compiled", "Objects"):
        assert "val_loss" in metrics[name]
        assert found[f"{name}.py"].items() >= metrics[name].items(), name
    assert found["of_notebook.py"].items() >= metrics["Net"].items()


def test_the_script_reads_as_one_that_a_person_wrote(folder: Path, metrics) -> None:
    script = (folder / "Hooks.py").read_text()
    assert script.startswith('"""Train Hooks as in Hooks/version_0."""\n\nimport os\nimport pytorch_lightning as')
    assert "lightning_magics" not in script
    assert "import numpy" not in script
    assert "FACTOR = 2  # of the labels\nkinds = 2 * FACTOR\n" in script
    assert "    # by the sign of two columns\n" in script
    assert max(map(len, script.splitlines())) <= 120
    main = script[script.index("def main") :]
    assert main.startswith(
        "def main():\n"
        "    pl.seed_everything(1, workers=True)\n"
        "    model = Hooks(smoothing=0.2)\n"
        "    data = PointsData()\n"
        "    data.data = pointsData_loaded\n"
        "    trainer = pl.Trainer(\n"
        "        max_epochs=2,\n"
    )
    assert '        callbacks=[Norms()],\n        logger=pl.loggers.CSVLogger("."),\n' in main
    assert main.endswith('\n\n\nif __name__ == "__main__":\n    main()\n')
    assert (
        (folder / "Seeded.py")
        .read_text()
        .startswith(
            '"""Train Whole as in Whole/version_1.\n\n'
            "The code sets its own seed: random numbers drawn in other cells of the notebook are not reproduced.\n"
        )
    )


def test_a_script_runs_under_torchrun(folder: Path, metrics) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "Net.py"]
    done = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("val_loss=") == 1


def test_what_cannot_be_exported_says_what_to_do(folder: Path, metrics) -> None:
    errors = list(metrics["said"].values())
    assert errors[0] == "InputError: Net.py exists. To replace it, add --overwrite"
    assert errors[1] == "InputError: %lightning_export writes a file that ends with .py; found other.txt"
    assert "takes a run or a model, and a file" in errors[2]
    assert errors[3].startswith(
        "InputError: Asking/version_0 cannot be exported. Its source lacks files: a line that only IPython can run "
        "created it: files = get_ipython().run_line_magic('timeit', '-o -q -n1"
    )
    assert "the script needs data to train on: %lightning_export Net DATA FILE" in errors[4]
    assert "the script needs data to train on: %lightning_export Odd DATA FILE" in errors[5]
    assert errors[6] == ""  # it is loaded without a question in the session that wrote it
    assert not (folder / "asking.py").exists()


def test_a_model_that_was_not_trained_is_exported_with_data(folder: Path, metrics) -> None:
    script = (folder / "Model.py").read_text()
    assert "trainer.fit(model, datamodule=data)" in script
    assert "seed_everything" not in script
    compile(script, "Model.py", "exec")


@pytest.fixture(scope="module")
def fresh(folder: Path, metrics) -> Iterator[Kernel]:
    """A kernel that knows nothing of the notebook, nor of where it was."""
    other = folder.parent / "elsewhere"
    shutil.copytree(folder / "lightning_logs", other / "lightning_logs")
    kernel = Kernel(other)
    try:
        kernel.run("%load_ext lightning_magics")
        yield kernel
    finally:
        kernel.stop()


def test_a_run_trained_once_more_in_a_fresh_kernel_gives_the_same_numbers(fresh: Kernel, metrics) -> None:
    for name in FITS:
        cell = fresh.cell(f"again = %lightning_rerun {name}/version_0 --quiet")
        assert cell.status == "ok", cell.error
        assert fresh.value("again.metrics") == metrics[name]
        shown = cell.outputs[-1]
        assert re.match(rf"{name}/version_\d gives the same numbers as {name}/version_0\n", shown["text/plain"])
        assert "identical" in shown["text/html"]
    cell = fresh.cell("%lightning_rerun Net/version_0 --model.hidden 3 --seed 5 --quiet")
    assert cell.status == "ok", cell.error
    assert "differs from Net/version_0" in cell.outputs[-1]["text/plain"]
    assert "· changed: --seed 5\n· changed: --model.hidden 3" in cell.outputs[-1]["text/plain"]


def test_a_fit_without_seed_begins_with_the_random_numbers_that_it_began_with(fresh: Kernel, metrics) -> None:
    fresh.run("import os, torch; torch.manual_seed(5); told = torch.get_rng_state()")
    fresh.run("seeded = os.environ.get('PL_GLOBAL_SEED')")  # by a test that ran before, in the tests' own process
    for number, line in enumerate(UNSEEDED, start=2):
        cell = fresh.cell(f"again = %lightning_rerun Whole/version_{number} --quiet")
        assert cell.status == "ok", cell.error
        told = f"random state: the initial state of Whole/version_{number}, which had no --seed\n"
        assert told in cell.text
        assert fresh.value("again.metrics") == metrics[f"Whole/version_{number}"], line
    assert fresh.value("torch.equal(told, torch.get_rng_state())")
    fresh.run("assert os.environ.get('PL_GLOBAL_SEED') == seeded")
    assert len({str(metrics[f"Whole/version_{number}"]) for number in (2, 3, 4, 5, 6)}) == 5


def test_hyperparameters_that_are_objects_of_the_notebook_are_found_again(fresh: Kernel, metrics) -> None:
    for number in range(4):
        cell = fresh.cell(f"again = %lightning_rerun Objects/version_{number} --quiet")
        assert cell.status == "ok", cell.error
        assert fresh.value("again.metrics") == metrics[f"Objects/version_{number}"]
    assert metrics["Objects/version_0"] == metrics["Objects/version_2"] == metrics["Objects/version_3"]
    for number in (0, 1):  # what a kernel and what ranks have pickled
        fresh.run(f"net = %lightning_load Objects/version_{number} --weights_only false")
        assert fresh.value("sorted(net.hparams)") == KEPT
        assert fresh.value("[list(net.hparams.layers), sorted(net.hparams.names)]") == [[1, 3, 5, 7], ["a", "b"]]
    fresh.run("more = %lightning_fit net anew val_loader --max_epochs 1 --quiet")
    assert fresh.value("(more.status, sorted(more.model.hparams))")[1] == KEPT
    # Objects of the notebook with the names of the run's.
    fresh.run(
        "def noise(x): return x + 0.5",
        "import enum",
        "class Act(enum.Enum):\n    tanh = 'tanh'",
        "old = type(net.hparams.act)",
    )
    model = "{**net.hparams, 'act': Act.tanh, 'noise': noise}"
    fit = "lightning_magics.fit('Objects', anew, val_loader, seed=1, max_epochs=1, quiet=True, model=MODEL)"
    fresh.run("import lightning_magics", f"again = {fit.replace('MODEL', model)}")
    assert fresh.value("again.metrics") == metrics["Objects/version_0"]
    cell = fresh.cell(fit.replace("MODEL", model.replace("noise': noise", "noise': old.tanh")))
    assert (
        "the hyperparameter noise and another hyperparameter use different definitions of Act (this notebook"
        in cell.error
    )


def test_a_loaded_model_has_its_weights_and_goes_on(fresh: Kernel, metrics) -> None:
    cell = fresh.cell("net = %lightning_load Net/version_0 --checkpoint best")
    assert cell.status == "ok", cell.error
    assert re.search(
        r"executing lightning_logs/Net/version_0/source.py: \d+ imports, 1 function, 2 classes, \d other statements",
        cell.text,
    )
    assert "weights: lightning_logs/Net/version_0/checkpoints/epoch=" in cell.text
    fresh.run("seen = %lightning_validate net points --quiet", "named = %lightning_validate Net points --quiet")
    assert fresh.value("seen.metrics['val_loss']") == pytest.approx(metrics["Net"]["val_loss"])
    assert fresh.value("seen.metrics == named.metrics")
    fresh.run("more = %lightning_fit net points --max_epochs 1 --quiet", "%lightning_predict net points --quiet -o out")
    assert fresh.value("[row['epoch'] for row in more.history]") == [2]
    assert fresh.value("len(out)") == 128
    fresh.run("new = %lightning_fit Net points --max_epochs 1 --quiet --ddp 2")
    assert fresh.value("new.status") == "completed"


def test_a_fit_of_a_loaded_model_is_recorded_whole(fresh: Kernel, metrics) -> None:
    fresh.run("%lightning_load Hooks/version_0", "scale = 'of the notebook'")
    fresh.run("again = %lightning_fit Hooks points --max_epochs 2 --seed 1 --model.smoothing 0.2 --quiet")
    assert fresh.value("again.metrics") == metrics["Hooks"]
    assert fresh.value("again.record.recipe['missing']") == {}
    cell = fresh.cell("%lightning_rerun {again.name} --quiet")
    assert cell.status == "ok", cell.error + cell.text
    assert "gives the same numbers as" in cell.outputs[-1]["text/plain"], cell.error


def test_a_run_of_an_instance_says_where_it_began(fresh: Kernel, metrics) -> None:
    cell = fresh.cell("%lightning_rerun Net/version_1 --quiet")  # the source seeds before it makes the instance
    assert "gives the same numbers as Net/version_1" in cell.outputs[-1]["text/plain"], cell.error
    cell = fresh.cell("%lightning_rerun Net/version_1 --seed 3 --quiet")
    assert "instance" not in cell.outputs[-1]["text/plain"], cell.error  # its initial weights are those of the run
    assert "· seed: none → 3" in cell.outputs[-1]["text/plain"], cell.error
    cell = fresh.cell("%lightning_rerun Whole/version_7 --quiet")  # which is compiled
    assert "gives the same numbers as Whole/version_7" in cell.outputs[-1]["text/plain"], cell.error
    cell = fresh.cell("%lightning_rerun Net/version_2 --quiet")
    assert "Net/version_2 continued from an instance that was already trained" in cell.outputs[-1]["text/plain"], (
        cell.error
    )


def test_a_checkpoint_that_is_not_safe_asks(fresh: Kernel, metrics) -> None:
    cell = fresh.cell("%lightning_load Odd/version_0")
    assert cell.status == "error"
    assert (
        "contains Python objects other than tensors (the hyperparameter scaling (__main__.scaled)), and loading them "
        "runs code. If you trust it, type --weights_only" in cell.error
    )
    assert "executing" not in cell.text
    fresh.run("odd = %lightning_load Odd/version_0 --weights_only false")
    fresh.run("pair = %lightning_load Plain/version_0")  # an enum and a named tuple of the source, and a path
    assert fresh.value("[str(item) for item in pair.hparams.values()]") == [
        "Act.tanh",
        "Pair(shift=1.0, spare=0.0, sizes=Sizes(scale=1.0, steps=range(0, 3)))",
        "y",
        "range(0, 2)",
        "frozenset({'a'})",
    ]
    assert fresh.value("str(odd.hparams.where)") == "x"


def test_a_name_that_the_source_lacks_can_be_made_in_the_notebook(fresh: Kernel, metrics) -> None:
    cell = fresh.cell("%lightning_rerun Asking/version_0 --quiet")
    assert cell.status == "error"
    assert "name 'files' is not defined" in cell.error
    fresh.run("files = []", "%lightning_rerun Asking/version_0 --quiet")


def test_a_replaced_name_is_said(fresh: Kernel, metrics) -> None:
    fresh.run("class Whole: pass")
    cell = fresh.cell("%lightning_load Whole/version_0")
    assert "Whole of this notebook is replaced by the run's" in cell.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%lightning_load Net/version_99", "no run 'Net/version_99' was found"),
        (
            "%lightning_load Net/version_0 --checkpoint nowhere.ckpt",
            "Net/version_0 has no checkpoint nowhere.ckpt. It has",
        ),
        ("%lightning_load", "%lightning_load takes a run; found none"),
        ("%lightning_rerun Net/version_0 points", "%lightning_rerun takes one run; found"),
        ("%lightning_rerun Net/version_0 --background", "Leave --background out"),
        ("%lightning_rerun Net/version_0 --max_epoch 3", "Did you mean '--max_epochs'"),
    ],
)
def test_wrong_lines_are_one_line_of_error(fresh: Kernel, line: str, message: str) -> None:
    cell = fresh.cell(line)
    assert cell.status == "error"
    assert message in cell.error
    assert len(cell.error.splitlines()) == 1
