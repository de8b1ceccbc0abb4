"""Runs in processes of their own, in real kernels: what travels, what comes back, and that the numbers are the same."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import DATA, DIGITS, SETUP, Kernel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NET = """
import os, random, sys
import numpy as np

class Net(pl.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.Dropout(0.2), nn.Tanh(), nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]

X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
even = TensorDataset(X[:640], y[:640])

def weights(model):
    return torch.cat([item.detach().flatten().double() for item in model.parameters()])

def draws():
    return [random.getstate()[1][:9], np.random.get_state()[1][:9].tolist(), torch.get_rng_state().tolist()]
"""
SHORT = "--max_epochs 2 --limit_train_batches 6 --limit_val_batches 2 --seed 1 --quiet"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for the tests of this module: no run may leave anything behind in it."""
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        kernel.run(SETUP, DIGITS, DATA, NET)
        yield kernel
    finally:
        kernel.stop()


# Numbers: one process gives those of the kernel to the last bit, several those of one with the same global batch.


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--accumulate_grad_batches 4",
        "--gradient_clip_val 0.05",
        "--gradient_clip_val 0.01 --gradient_clip_algorithm value",
        "--amp",
        "--precision bf16-true",
        "--precision 64-true",
        "--val_check_interval 3 --monitor val_loss",
        "--data.num_workers 1",
    ],
)
@pytest.mark.parametrize("apart", ["--ddp 1", "--background"])
def test_one_process_gives_the_numbers_of_the_kernel(notebook: Kernel, more: str, apart: str) -> None:
    notebook.run(
        f"here = %lightning_fit Net digits {SHORT} {more}",
        f"there = %lightning_fit Net digits {SHORT} {more} {apart}\nthere.wait()",
    )
    assert notebook.value("[here.status, there.status]") == ["completed", "completed"]
    assert notebook.value("torch.equal(weights(here.model), weights(there.model))") is True
    assert notebook.value("here.metrics == there.metrics and here.history == there.history") is True
    assert notebook.value("here.model.dtype == there.model.dtype") is True


def test_two_processes_give_the_numbers_of_one_with_the_same_global_batch(notebook: Kernel) -> None:
    notebook.run(
        "class Certain(Net):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layers[1] = nn.Identity()",
        "whole, half = DataLoader(even, 640), DataLoader(even, 320)",
        "one = %lightning_fit Certain whole whole --max_epochs 6 --seed 1 --quiet",
        "two = %lightning_fit Certain half half --max_epochs 6 --seed 1 --quiet --ddp 2",
    )  # whole epochs in a step: under DDP Lightning shuffles the training data whatever its loader says
    assert notebook.value("float((weights(one.model) - weights(two.model)).abs().max())") < 1e-5
    assert notebook.value("abs(one.metrics['val_loss'] - two.metrics['val_loss'])") < 1e-5
    assert notebook.value("[one.record.steps, two.record.steps]") == [6, 6]


def test_a_seed_gives_the_same_result_each_time_and_draws_nothing_from_the_kernel(notebook: Kernel) -> None:
    notebook.run("before = draws()")
    for place in range(2):
        notebook.run(f"run{place} = %lightning_fit Net digits {SHORT} --ddp 2")
    assert notebook.value("torch.equal(weights(run0.model), weights(run1.model))") is True
    assert notebook.value("run0.metrics == run1.metrics") is True
    assert notebook.value("draws() == before") is True


def test_every_precision_ends_as_it_does_in_the_kernel(notebook: Kernel) -> None:
    for precision in ("16-true", "16-mixed", "32-true", "transformer-engine"):
        line = f"%lightning_fit Net digits {SHORT} --precision {precision}"
        here, there = notebook.cell(line), notebook.cell(f"{line} --ddp 1")
        assert here.status == there.status, (precision, here.error, there.error)
        assert here.error.splitlines()[-1:] == there.error.splitlines()[-1:]


def test_processes_tell_tensorboard_what_the_kernel_does(notebook: Kernel) -> None:
    told = []
    for how in ("", "--ddp 2"):
        notebook.run(f"run = %lightning_fit Net digits {SHORT} --log_every_n_steps 2 {how}")
        found = EventAccumulator(notebook.value("os.path.abspath(run.log_dir)"))
        found.Reload()
        told.append(found.Tags())
    assert told[0] == told[1]
    assert {"lr-Adam", "val_loss"} <= set(told[1]["scalars"])
    assert "hp_metric" not in told[1]["scalars"]
    assert told[1]["tensors"] == ["_hparams_/session_start_info", "_hparams_/session_end_info"]


# What comes back


CONTINUES = """
class Kept(pl.Callback):
    def __init__(self):
        self.seen, self.here = 0, 0
    def on_train_batch_end(self, *a):
        self.seen += 1
        self.here += 1
    def state_dict(self):
        return {"seen": self.seen}
    def load_state_dict(self, state):
        self.seen = state["seen"]

def kept():
    stopping = pl.callbacks.EarlyStopping("val_loss", patience=9)
    return [Kept(), stopping, pl.callbacks.ModelCheckpoint(monitor="val_loss")]

def read(cbs, run):
    best = os.path.basename(cbs[2].best_model_path), run.name in cbs[2].best_model_path
    scores = [round(float(item), 4) for item in (cbs[1].best_score, cbs[2].best_model_score)]
    return [cbs[0].seen, cbs[0].here, cbs[1].wait_count, cbs[1].stopped_epoch, best, scores]
"""


def test_a_fit_goes_on_from_the_last_one_wherever_each_of_them_runs(notebook: Kernel) -> None:
    notebook.run(CONTINUES)
    for name, first, second in (
        ("kk", "", ""),
        ("kp", "", "--ddp 1"),
        ("pk", "--ddp 1", ""),
        ("pp", "--ddp 1", "--ddp 1"),
        ("kb", "", "--background"),
        ("bk", "--background", ""),
    ):
        notebook.run(
            f"torch.manual_seed(3)\n{name}, cbs = Net(), kept()",
            f"run = %lightning_fit {name} digits {SHORT} --callbacks cbs {first}\nrun.wait()",
            f"{name}_first = read(cbs, run)",
            f"{name}_run = %lightning_fit {name} digits {SHORT} --callbacks cbs {second}\n{name}_run.wait()",
            f"{name}_second = read(cbs, {name}_run)",
        )
    for name in ("kp", "pk", "pp", "kb", "bk"):
        assert notebook.value(f"torch.equal(weights({name}), weights(kk))") is True, name
        assert notebook.value(f"[row['epoch'] for row in {name}_run.history]") == [2, 3]
        assert notebook.value(f"{name}_run.record.steps") == 24
        assert notebook.value(f"{name}_first == kk_first") is True, notebook.value(f"[{name}_first, kk_first]")
        assert notebook.value(f"{name}_second == kk_second") is True, notebook.value(f"[{name}_second, kk_second]")


def test_a_fit_of_two_processes_goes_on_as_one_with_the_same_global_batch(notebook: Kernel) -> None:
    notebook.run(
        CONTINUES,
        "class Certain(Net):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layers[1] = nn.Identity()",
        "whole, half = DataLoader(even, 640), DataLoader(even, 320)",
    )
    for name, first, second in (("one", "", ""), ("two", "--ddp 2", ""), ("twice", "--ddp 2", "--ddp 2")):
        loaders = ["half half" if more else "whole whole" for more in (first, second)]
        notebook.run(
            f"torch.manual_seed(3)\n{name}, cbs = Certain(), kept()",
            f"%lightning_fit {name} {loaders[0]} --max_epochs 2 --seed 1 --quiet --callbacks cbs {first}",
            f"{name}_run = %lightning_fit {name} {loaders[1]} --max_epochs 2 --seed 1 --quiet --callbacks cbs {second}",
            f"{name}_read = read(cbs, {name}_run)",
        )
    for name in ("two", "twice"):
        assert notebook.value(f"float((weights(one) - weights({name})).abs().max())") < 1e-5, name
        assert notebook.value(f"[row['epoch'] for row in {name}_run.history]") == [2, 3]
        assert notebook.value(f"{name}_run.record.steps") == 4
        assert notebook.value(f"{name}_read == one_read") is True, notebook.value(f"[{name}_read, one_read]")


def test_a_fit_that_goes_on_draws_other_numbers_each_time_and_none_of_the_kernels(notebook: Kernel) -> None:
    notebook.run(
        "class First(pl.Callback):\n"
        "    def on_train_batch_start(self, trainer, model, batch, batch_idx):\n"
        "        batch_idx or open('first', 'w').write(str(batch[1].tolist()))",
        "net, before = Net(), draws()",
    )
    found = set()
    for _ in range(3):
        notebook.run("%lightning_fit net digits --max_epochs 1 --ddp 1 --callbacks [First()] --quiet")
        found.add((notebook.folder / "first").read_text())
    assert len(found) == 3
    assert notebook.value("draws() == before") is True


def test_callbacks_and_the_best_checkpoint_come_back(notebook: Kernel) -> None:
    notebook.run(
        "class Count(pl.Callback):\n"
        "    seen = 0\n"
        "    def on_train_batch_end(self, *a): self.seen += 1\n"
        "    def state_dict(self): return {'seen': self.seen}\n"
        "    def load_state_dict(self, state): self.seen = state['seen']",
        "count = Count()\nnet = Net()",
        f"run = %lightning_fit net digits {SHORT} --callbacks count --monitor val_loss --ddp 2",
    )
    assert notebook.value("count.seen") == 12
    assert notebook.value("[net is run.model, run.trainer is None]") == [True, True]
    assert notebook.value("os.path.isfile(run.best_model_path)") is True
    best = notebook.value("run.record.best_model_score")
    assert best == pytest.approx(notebook.value("min(row['val_loss'] for row in run.history)"))
    assert notebook.value("[next(net.parameters()).device.type, net.training]") == ["cpu", True]
    notebook.run(f"%lightning_fit net digits {SHORT} --callbacks count")
    assert notebook.value("count.seen") == 24


LATER = """
class Partial(Net):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.moved = nn.Linear(3, 3).requires_grad_(False)

    def on_train_batch_end(self, *a):
        with torch.no_grad():
            self.moved.weight.add_(1)

    def on_save_checkpoint(self, checkpoint):
        for name in [name for name in checkpoint["state_dict"] if name.startswith(("frozen", "moved"))]:
            del checkpoint["state_dict"][name]

class Teacher(Partial):  # as BYOL and MoCo have one: written through .data, with statistics that its kernel writes
    def __init__(self):
        super().__init__()
        self.moved = nn.Sequential(nn.Linear(64, 3), nn.BatchNorm1d(3)).requires_grad_(False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.moved(batch[0])
        for item in self.moved.parameters():
            item.data.mul_(0.9).add_(self.layers[0].bias.data.mean(), alpha=0.1)

class Restoring(Partial):
    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"] |= {"frozen." + name: item for name, item in self.frozen.state_dict().items()}

class Lenient(Partial):
    def __init__(self):
        super().__init__()
        self.strict_loading = False

class Setup(Net):
    def setup(self, stage):
        self.head = nn.Linear(10, 10)

    def forward(self, x):
        return self.head(self.layers(x))

class Online(pl.Callback):
    def on_fit_start(self, trainer, model):
        model.online = nn.Linear(10, 10)
        self.optimizer = torch.optim.SGD(model.online.parameters(), 0.1)

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        with torch.enable_grad():
            nn.functional.cross_entropy(model.online(model(batch[0]).detach()), batch[1]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

def alike(one, other):
    other = other.state_dict()
    return all(torch.equal(item, other[name]) for name, item in one.state_dict().items())

class Late(Net):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.late = nn.Linear(2, 2)
"""


def test_partial_checkpoints_and_layers_that_are_made_later_come_back(notebook: Kernel) -> None:
    notebook.run(LATER)
    for model, more in (
        *(("Partial", ""), ("Teacher", ""), ("Restoring", ""), ("Lenient", ""), ("Setup", "")),
        ("Net", "--callbacks [Online()]"),
    ):
        notebook.run(f"here = %lightning_fit {model} digits {SHORT} {more}")
        for apart in ("--ddp 1", "--background"):
            there = notebook.cell(f"there = %lightning_fit {model} digits {SHORT} {more} {apart}\nthere.wait()")
            assert there.status == "ok", (model, there.error)
            assert "run has no layer" not in there.text, model
            names = notebook.value("[list(here.model.state_dict()), list(there.model.state_dict())]")
            assert sorted(names[0]) == sorted(names[1])
            assert notebook.value("alike(here.model, there.model)") is True, (model, apart)
        loaded = notebook.cell("net = %lightning_load {there.name}")
        assert loaded.status == "ok", (model, loaded.error)
        if model in ("Setup", "Net"):
            assert notebook.value("alike(here.model, net)") is True, model
        else:
            lacks = "moved.bias" if model == "Restoring" else "frozen.weight, frozen.bias, moved.bias"
            lacks = "frozen.weight, frozen.bias" if model == "Teacher" else lacks
            assert f"not in the checkpoint, so the model's initial values are kept: {lacks}\n" in loaded.text
            assert notebook.value("torch.equal(here.model.layers[0].weight, net.layers[0].weight)") is True
    there = notebook.cell(f"there = %lightning_fit Late digits {SHORT} --ddp 1")
    last = "checkpoints/last.ckpt"
    assert "this Late has no layer for late.weight, late.bias from the run; they remain in the checkpoint" in there.text
    assert last in there.text
    notebook.run(f"here = %lightning_fit Late digits {SHORT}")
    assert notebook.value("torch.equal(weights(here.model)[:100], weights(there.model)[:100])") is True


MADE = """
class Classes(pl.LightningDataModule):
    classes = None
    def setup(self, stage):
        self.classes = 10
    def train_dataloader(self):
        return DataLoader(even, batch_size=64)

class Resized(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 2)

    def setup(self, stage):
        self.head = nn.Linear(10, 10)

    def forward(self, x):
        return self.head(self.layers(x))

class Asks(Resized):
    def __init__(self):
        super().__init__()
        del self.head

    def configure_model(self):
        if not hasattr(self, "head"):
            self.head = nn.Linear(10, self.trainer.datamodule.classes)

    def setup(self, stage):
        pass

class Mine(pl.callbacks.ModelCheckpoint):
    def on_fit_start(self, trainer, model):
        model.extra = nn.Linear(2, 2)

class Looks(pl.Callback):
    def on_fit_start(self, trainer, model):
        model.online = nn.Linear(2, 3)
        torch.distributed.is_initialized() and torch.distributed.barrier()
        model.later = nn.Linear(trainer.optimizers[0].param_groups[0]["params"][0].shape[0], 3)

class Groups(pl.Callback):
    group = None
    def on_fit_start(self, trainer, model):
        if torch.distributed.is_initialized() and not Groups.group:
            Groups.group = torch.distributed.new_group()
        if not torch.distributed.is_initialized():
            try: torch.distributed.init_process_group("gloo")
            except ValueError: model.online = nn.Linear(2, 3)
        else: model.online = nn.Linear(2, 3)
        if Groups.group: torch.distributed.all_reduce(torch.ones(1), group=Groups.group)
        model.later = nn.Linear(2, 3)

class Grows(Net):
    def on_train_epoch_start(self):
        self.grown = nn.Linear(2, self.current_epoch + 1)

def told(run):
    lines = [json.loads(line) for line in open(run.folder.events_path)]
    names = [line.get("text") or line["event"] for line in lines]
    return [(place, text) for place, text in enumerate(names) if "cannot be loaded into" in text], names
"""


def test_layers_that_need_data_or_another_shape_come_back_and_what_cannot_is_told_at_once(notebook: Kernel) -> None:
    notebook.run("import json", LATER, MADE)
    for model, more in (("Resized", ""), ("Asks", ""), ("Net", "--callbacks [Mine()]")):
        line = f"%lightning_fit {model} Classes {SHORT} {more}"
        notebook.run(f"here = {line}")
        for apart in ("--ddp 1", "--background"):
            there = notebook.cell(f"there = {line} {apart}\nthere.wait()")
            assert there.status == "ok", (model, there.error)
            assert "of the run" not in there.text
            assert notebook.value("alike(here.model, there.model) and told(there)[0] == []") is True, (model, apart)
    line = "digits --max_epochs 3 --limit_train_batches 2 --limit_val_batches 1 --seed 1 --quiet"
    for model, more, names, count in (
        ("Net", "--callbacks [Looks()] --ddp 2", "later.weight, later.bias", 1),
        ("Net", "--callbacks [Groups()] --ddp 2", "later.weight, later.bias", 1),
        ("Grows", "--background", "grown.weight, grown.bias", 3),
    ):
        there = notebook.cell(f"there = %lightning_fit {model} {line} {more}\nthere.wait()")
        assert there.status == "ok", there.error
        notices, events = notebook.value("told(there)")
        place, text = notices[0]
        assert f"{names} cannot be loaded into {model} in the notebook: these layers are added or resized" in text
        assert f"{notebook.value('there.name')}/checkpoints/last.ckpt" in text
        for cause, raised in (
            ("Looks", "IndexError: list index out of range. T"),
            ("Groups", "ValueError: a hook uses the process group, which exists only during the fit. T"),
        ):
            assert (f"Adding the layers raised {raised}" in text) is (cause in more)
        assert len(notices) == count
        assert "Metrics" not in events[:place]
        assert "Metrics" in events[place:]
        assert (f"has no layer for {names} from the run; they remain" in there.text) is ("Groups" not in more)
    load = re.search(r"model\.load_state_dict\(.*\)", text)
    assert load is not None
    notebook.run(f"model = there.model\nmodel.grown = nn.Linear(2, 3)\n{load[0]}")


def test_what_a_callback_changes_in_the_data_comes_back_and_is_recorded(notebook: Kernel) -> None:
    notebook.run(
        "class Plain(pl.LightningDataModule):\n"
        "    def __init__(self, batch_size=4):\n"
        "        super().__init__()\n        self.batch_size, self.level, self.seen = batch_size, 1, 0\n"
        "    def size(self): return self.batch_size\n"
        "    def train_dataloader(self): return DataLoader(even, self.size())\n"
        "    def val_dataloader(self): return DataLoader(even, 320)\n"
        "    def state_dict(self): return {'seen': self.seen}\n"
        "    def load_state_dict(self, state): self.seen = state['seen']",
        "class Saved(Plain):\n"
        "    def __init__(self, batch_size=4):\n        super().__init__()\n        self.save_hyperparameters()\n"
        "        del self.batch_size\n"
        "    def size(self): return self.hparams.batch_size",
        "class Raises(pl.Callback):\n"
        "    def on_train_epoch_start(self, trainer, model):\n"
        "        trainer.datamodule.level += 1\n        trainer.datamodule.seen += 5\n        model.level *= 0.5",
        "from pytorch_lightning.utilities.parsing import lightning_setattr",
        "class Sets(pl.Callback):\n"  # Lightning's own is refused by --ddp
        "    def on_fit_start(self, trainer, model): lightning_setattr(model, 'batch_size', 32)",
        "class Levelled(Net):\n    def __init__(self):\n        super().__init__()\n        self.level = 1.0",
    )
    finder = "pl.callbacks.BatchSizeFinder(init_val=8,max_trials=3)"
    for data, attribute in (("Plain", "batch_size"), ("Saved", "hparams.batch_size")):
        values = []
        for first, apart in ((finder, ""), (finder, "--background"), ("Sets()", "--ddp 1")):
            line = f"run = %lightning_fit Levelled data --max_epochs 2 --seed 1 --callbacks [{first},Raises()] {apart}"
            cell = notebook.cell(
                f"data = {data}()\n{line}\nrun.wait()\nprint([item.text for item in run._state.notices])"
            )
            assert cell.status == "ok", cell.error
            values.append(notebook.value(f"[data.{attribute}, data.level, data.seen, run.model.level]"))
            size = values[-1][0]
            assert f"data.batch_size changed from 4 to {size}" in cell.text
            assert notebook.value("run.folder.read().data_hyperparameters") == {"batch_size": size}
        assert values == [[32, 3, 10, 0.25]] * 3, (data, values)
    notebook.run("from lightning_magics.runs.catalog import rows\nfound = rows('lightning_logs', model='Levelled')")
    assert notebook.value("[row.hyperparameters['data.batch_size'] for row in found]") == [32] * 6


def test_a_learning_rate_that_a_callback_finds_is_recorded_and_reaches_the_live_model(notebook: Kernel) -> None:
    notebook.run(
        "class Rated(Net):\n"
        "    def __init__(self, lr=0.5):\n        super().__init__()\n        self.save_hyperparameters()\n"
        "    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), self.hparams.lr)",
        "class Plain(Net):\n"
        "    def __init__(self):\n        super().__init__()\n        self.lr = 0.5\n"
        "    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), self.lr)",
    )
    found = "--callbacks [pl.callbacks.LearningRateFinder(1e-4,1,20,early_stop_threshold=None)]"
    for model, attribute in (("Rated", "hparams.lr"), ("Plain", "lr")):
        values = []
        for apart in ("", "--ddp 1", "--background"):
            line = f"run = %lightning_fit {model} digits --max_epochs 1 --seed 1 {found} {apart}"
            cell = notebook.cell(f"{line}\nrun.wait()\nprint([item.text for item in run._state.notices])")
            assert cell.status == "ok", cell.error
            values.append(notebook.value(f"run.model.{attribute}"))
            assert re.search(r"lr changed from 0\.5 to 0\.\d", cell.text)
            if model == "Rated":
                assert notebook.value("run.record.hyperparameters['lr']") == values[-1]
            if model == "Rated" and apart != "--ddp 1":
                notebook.run("loaded = %lightning_load {run.name}")
                assert notebook.value("loaded.hparams.lr") == values[-1], apart
        assert values[0] != 0.5
        assert values == [values[0]] * 3


def test_attributes_made_from_a_hyperparameter_of_their_name_stay_as_they_are(notebook: Kernel) -> None:
    notebook.run(
        "from pathlib import Path",
        "class Derives(Net):\n"
        "    def __init__(self, lr=0.01, hidden='4,8'):\n        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "        self.lr, self.hidden = lr * 10, [int(item) for item in hidden.split(',')]",
        "class Folder(pl.LightningDataModule):\n"
        "    def __init__(self, data_dir='./d', n_val=0.2, batch_size=32):\n        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "        self.data_dir, self.n_val, self.batch_size = Path(data_dir), int(n_val * 1000), batch_size * 2\n"
        "    def train_dataloader(self): return DataLoader(even, self.batch_size)\n"
        "    def val_dataloader(self): return DataLoader(even, 320)",
        "class Lowers(pl.Callback):\n"
        "    def on_train_end(self, trainer, model):\n"
        "        model.hparams.lr, model.hparams.hidden = 0.5, '2'",
    )
    derived = (
        "[net.lr, net.hidden, str(folder.data_dir), type(folder.data_dir).__name__, folder.n_val, folder.batch_size]"
    )
    values = []
    for apart in ("", "--ddp 1", "--background"):
        line = f"run = %lightning_fit net folder --max_epochs 1 --callbacks [Lowers()] {apart}"
        notebook.run(f"net, folder = Derives(), Folder()\n{line}\nrun.wait()")
        found = notebook.value(derived)
        assert found[1:] == [[4, 8], "d", "PosixPath", 200, 64], apart
        values.append([found[0], notebook.value("[net.hparams.lr, net.hparams.hidden, dict(folder.hparams)]")])
    given = {"data_dir": "./d", "n_val": 0.2, "batch_size": 32}
    assert values == [[0.1, [0.5, "2", given]]] * 3


def test_callbacks_in_a_loop_of_spawned_fits_are_as_after_fits_of_the_kernel(notebook: Kernel) -> None:
    notebook.run(
        "class Counts(pl.Callback):\n"
        "    def __init__(self): self.seen, self.batches = 0, []\n"
        "    def on_train_batch_end(self, t, m, o, b, batch_idx): self.seen += 1; self.batches.append(batch_idx)",
        "def made(): return [Counts(), pl.callbacks.EarlyStopping('val_loss', stopping_threshold=100.0), "
        "pl.callbacks.ModelCheckpoint(monitor='val_loss')]",
        "def read(cbs): return [cbs[0].seen, cbs[0].batches, cbs[1].stopped_epoch, float(cbs[2].best_model_score)]",
    )
    for apart in ("", "--ddp 1", "--background"):
        notebook.run("cbs, found = made(), []")
        for _ in range(2):
            notebook.run(
                f"run = %lightning_fit Net digits {SHORT} --callbacks cbs {apart}",
                "run.wait(), run.model\nfound.append(read(cbs))",
            )
            assert notebook.value("[run.record.epochs, run.name in cbs[2].best_model_path]") == [1, True]
        assert notebook.value("found[0] == found[1]") is True
        if not apart:
            notebook.run("first = found")
        assert notebook.value("found == first") is True


def test_a_compiled_model_gives_the_numbers_of_the_model_wherever_it_runs(notebook: Kernel) -> None:
    notebook.run(
        "class Bare(Net):\n    predict_step = pl.LightningModule.predict_step",
        "def counted(graph, inputs):\n    open('graphs', 'a').write('.')\n    return graph.forward",
        "torch.manual_seed(3); net = Bare(); first = {key: value.clone() for key, value in net.state_dict().items()}",
        f"here = %lightning_fit net digits {SHORT}",
        "scored = %lightning_validate net digits --quiet",
        "predicted = %lightning_predict net DataLoader(X,batch_size=64) --quiet",
    )
    for apart in ("", "--ddp 1", "--background"):
        notebook.run("live = Bare(); live.load_state_dict(first); fast = torch.compile(live, backend=counted)")
        notebook.run("open('graphs', 'w').close()")
        notebook.run(f"there = %lightning_fit fast digits {SHORT} {apart}\nthere.wait()")
        assert notebook.value("[there.record.model, there.name.split('/')[0]]") == ["Bare", "Bare"]
        assert notebook.value("there.model is live and os.path.getsize('graphs') > 0") is True
        assert notebook.value("torch.equal(weights(here.model), weights(live))") is True, apart
        assert notebook.value("here.metrics == there.metrics and here.history == there.history") is True
        assert (
            notebook.value("vars(live)['_compiler_ctx'] is None and not {'forward', 'log'} & set(vars(live))") is True
        )
        if apart == "--background":
            continue
        notebook.run(
            f"again = %lightning_validate fast digits --quiet {apart}",
            f"given = %lightning_predict fast DataLoader(X,batch_size=64) --quiet {apart}",
        )
        assert notebook.value("again.metrics == scored.metrics") is True, apart
        assert notebook.value("torch.equal(given.predictions, predicted.predictions)") is True, apart
    notebook.run(
        f"written = %lightning_fit torch.compile(Bare(),backend='eager') digits {SHORT}",
        "kept = %lightning_load {written.name}",
        "run = %lightning_rerun {written.name} --quiet",
    )
    assert notebook.value("type(kept).__name__") == "Bare"
    assert notebook.value("torch.equal(weights(kept), weights(written.model))") is True
    assert notebook.value("run.metrics == written.metrics") is True
    refused = notebook.cell("%lightning_fit torch.compile(nn.Linear(2,2)) digits")
    assert "is a Linear, not a LightningModule" in str(refused.error) + refused.text


def test_second_names_of_one_logged_value_can_be_read_and_are_not_listed(notebook: Kernel) -> None:
    notebook.run(
        "class Both(Net):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])\n"
        "        self.log('train_loss', loss, on_step=True, on_epoch=True)\n"
        "        return loss",
        f"here = %lightning_fit Both digits {SHORT}",
        f"there = %lightning_fit Both digits {SHORT} --ddp 1 --callbacks [pl.callbacks.RichProgressBar()]",
        "attached = %lightning_attach {there.name}",
        "logged = {name: float(value) for name, value in here.trainer.callback_metrics.items()}",
        "scored = %lightning_validate here digits --quiet",
    )
    for run in ("here", "there", "attached"):
        assert notebook.value(f"sorted({run}.metrics)") == ["train_loss", "val_loss"]
        assert notebook.value(f"{{name: {run}.metrics[name] for name in logged}} == logged") is True, run
        assert notebook.value(f"{run}.metrics.get('train_loss_epoch') == logged['train_loss_epoch']") is True
        assert notebook.value(f"[{run}.metrics.get('other'), {run}.metrics.get('other', 1)]") == [None, 1]
    told = notebook.value("[item.text for item in there._state.notices]")
    assert "RichProgressBar is replaced by the live view of the run" in told
    assert notebook.value("scored.metrics['val_loss'] == scored.results[0]['val_loss']") is True
    assert "KeyError: 'other'" in str(notebook.cell("here.metrics['other']").error)


def test_names_of_the_user_that_end_like_lightnings_are_recorded_from_ranks(notebook: Kernel) -> None:
    notebook.run(
        "class Stepped(Net):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        self.log('env_step', float(self.global_step))\n"
        "        self.log('x_epoch', 3.0, on_step=False, on_epoch=True)\n"
        "        return super().training_step(batch, batch_idx)",
        f"run = %lightning_fit Stepped digits {SHORT} --ddp 2 --monitor env_step --enable_progress_bar true",
        "attached = %lightning_attach {run.name}",
        "import json\nrecord = json.load(open(f'{run.log_dir}/run.json'))",
    )
    named = {"env_step": 11.0, "x_epoch": 3.0}
    for found in ("run.metrics", "attached.metrics", "run.history[-1]", "attached.history[-1]", "record['metrics']"):
        assert notebook.value(f"{{name: {found}[name] for name in ('env_step', 'x_epoch')}}") == named, found
    told = notebook.value("[item.text for item in run._state.notices]")
    assert "the progress bar is replaced by the live view of the run" in told
    assert "Epoch 0" not in notebook.value("run.logs()")


def test_early_stopping_ends_all_ranks(notebook: Kernel) -> None:
    notebook.run(
        "stop = pl.callbacks.EarlyStopping('val_loss', stopping_threshold=100.0)",
        "run = %lightning_fit Net digits --max_epochs 50 --limit_train_batches 3 --callbacks stop --ddp 2 --quiet",
    )
    assert notebook.value("[run.status, len(run.history)]") == ["completed", 1]


UNUSUAL = """
class Tied(Net):
    def __init__(self):
        super().__init__(64)
        self.layers[3] = nn.Linear(64, 64)
        self.layers[3].weight = self.layers[0].weight
        self.register_buffer("counter", torch.zeros(1), persistent=False)

    def training_step(self, batch, batch_idx):
        self.counter += 1
        return super().training_step(batch, batch_idx)

class Normed(Net):
    def __init__(self):
        super().__init__()
        self.layers[0] = nn.utils.parametrizations.weight_norm(self.layers[0])

class Configured(Net):
    def __init__(self):
        pl.LightningModule.__init__(self)

    def configure_model(self):
        if not hasattr(self, "layers"):
            self.layers = nn.Sequential(nn.Linear(64, 10))

class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(10))

class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
"""


@pytest.mark.parametrize("model", ["Tied", "Configured", "Manual", "Normed", "Digits"])
def test_models_of_every_make_come_back_as_the_kernel_would_train_them(notebook: Kernel, model: str) -> None:
    notebook.run(UNUSUAL)
    notebook.run(
        f"here = %lightning_fit {model} digits {SHORT}",
        f"there = %lightning_fit {model} digits {SHORT} --ddp 1",
        f"two = %lightning_fit {model} digits {SHORT} --ddp 2",
    )
    assert notebook.value("torch.equal(weights(here.model), weights(there.model))") is True
    assert notebook.value("[two.status, torch.equal(weights(two.model), weights(here.model))]") == ["completed", False]
    if model == "Tied":
        assert notebook.value("two.model.layers[3].weight is two.model.layers[0].weight") is True


def test_lazy_layers_are_sized_before_ranks_share_them(notebook: Kernel) -> None:
    notebook.run(UNUSUAL)
    cell = notebook.cell(f"run = %lightning_fit Lazy digits {SHORT} --ddp 2")
    if cell.status == "ok":
        assert notebook.value("[run.model.layers[0].in_features, run.model.layers[2].in_features]") == [64, 16]
    else:
        assert "uninitialized" in cell.error.lower() or "lazy" in cell.error.lower()


# What travels

HERE = """
from torch.utils.data import Dataset

SHIFT = 1.0
half = lambda x: x / 2

def moved(x):
    return half(x) + SHIFT

class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        return moved(X[place]), y[place]

def stacked(samples):
    return [torch.stack(column) for column in zip(*samples)]

class Step(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step((moved(batch[0]), batch[1]), batch_idx)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_cells_define_reaches_ranks_and_the_workers_of_their_loaders(notebook: Kernel, method: str) -> None:
    notebook.run(
        HERE,
        f"rows = DataLoader(Rows(), 64, num_workers=1, multiprocessing_context={method!r}, collate_fn=stacked)",
        "run = %lightning_fit Step rows --max_epochs 1 --limit_train_batches 3 --ddp 2 --quiet",
    )
    assert notebook.value("[run.status, run.record.steps]") == ["completed", 3]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("net.file = open('held', 'w')", "file"),
        ("net.parts = {'lock': __import__('threading').Lock()}", "parts['lock']"),
        ("net.layers.rows = (row for row in X)", "layers.rows"),
    ],
)
def test_what_cannot_travel_is_named_before_anything_starts(notebook: Kernel, line: str, path: str) -> None:
    notebook.run(f"class Held(Net): pass\nnet = Held()\n{line}")
    cell = notebook.cell(f"%lightning_fit net digits {SHORT} --ddp 2")
    assert cell.status == "error"
    assert path in cell.error
    assert len(cell.error.splitlines()) == 1
    assert not (notebook.folder / "lightning_logs" / "Held").exists()


def test_ranks_change_in_number_and_their_variables_stay_theirs(notebook: Kernel) -> None:
    notebook.run("before = dict(os.environ)")
    for ranks in (2, 1, 3, 2):
        notebook.run(f"run = %lightning_fit Net digits {SHORT} --devices {ranks} --strategy ddp")
        assert notebook.value("len(list(run.folder.path.glob('rank_*.log')))") == ranks
    assert notebook.value("dict(os.environ) == before") is True


@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"])
def test_strategies_by_name(notebook: Kernel, strategy: str) -> None:
    notebook.run(
        "class Unused(Net):\n    def __init__(self):\n        super().__init__()\n        self.spare = nn.Linear(3, 3)",
    )
    cell = notebook.cell(f"run = %lightning_fit Unused digits {SHORT} --devices 2 --strategy {strategy}")
    if strategy.endswith("true"):
        assert cell.status == "ok", cell.error
    else:
        assert "parameters that were not used in producing the loss" in cell.error


def test_what_a_machine_without_gpus_cannot_do_is_one_clear_error(notebook: Kernel) -> None:
    cell = notebook.cell(f"%lightning_fit Net digits {SHORT} --devices 2 --strategy fsdp --accelerator cpu")
    assert "FSDP" in cell.error
    assert "GPU" in cell.error or "CUDA" in cell.error
    before = sorted((notebook.folder / "lightning_logs").iterdir())
    notebook.run(
        "class Batched(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layers[1] = nn.BatchNorm1d(16)"
    )
    cell = notebook.cell(f"%lightning_fit Batched digits {SHORT} --devices 2 --sync_batchnorm true --accelerator cpu")
    assert "SyncBatchNorm" in cell.error
    assert "GPU" in cell.error
    assert sorted((notebook.folder / "lightning_logs").iterdir()) == before or cell.error


def test_a_trainer_that_refuses_leaves_no_folder(notebook: Kernel) -> None:
    notebook.run("class Refused(Net): pass")
    for more in ("", "--ddp 2"):
        cell = notebook.cell(f"run = %lightning_fit Refused digits --limit_train_batches 7.5 {more}")
        assert "limit_train_batches" in cell.error, more
        assert not (notebook.folder / "lightning_logs" / "Refused").exists(), more


# Evaluation


def test_validate_and_test_in_several_processes_give_the_values_of_one(notebook: Kernel) -> None:
    notebook.run("net = Net()")
    for verb in ("validate", "test"):
        notebook.run(
            f"one = %lightning_{verb} net DataLoader(even,64) --quiet",
            f"two = %lightning_{verb} net DataLoader(even,64) --ddp 2 --quiet",
        )
        assert notebook.value("abs(one.results[0]['val_loss'] - two.results[0]['val_loss'])") < 1e-5
    notebook.run(
        "class Pairs(Net):\n    def validation_step(self, batch, batch_idx):\n"
        "        losses = [nn.functional.cross_entropy(self(part[0]), part[1]) for part in batch.values()]\n"
        "        self.log('val_loss', sum(losses), sync_dist=True, batch_size=64)",
        "pairs = pl.utilities.CombinedLoader({'a': DataLoader(even, 64), 'b': DataLoader(even, 64)}, 'min_size')",
        "net = Pairs()",
        "one = %lightning_validate net pairs --quiet",
        "two = %lightning_validate net pairs --ddp 2 --quiet",
    )
    assert notebook.value("abs(one.results[0]['val_loss'] - two.results[0]['val_loss'])") < 1e-5


@pytest.mark.parametrize("size", [1, 64, 65, 129, 640])
def test_predictions_are_in_input_order_with_nothing_dropped_or_doubled(notebook: Kernel, size: int) -> None:
    notebook.run(
        "net = Net()",
        f"few = DataLoader(TensorDataset(X[:{size}], y[:{size}]), 16)",
        "one = %lightning_predict net few --quiet",
        "two = %lightning_predict net few --ddp 2 --quiet",
    )
    assert notebook.value("list(two.predictions.shape)") == [size, 10]
    assert notebook.value("torch.equal(one.predictions, two.predictions)") is True


def test_a_model_that_was_trained_apart_is_evaluated_in_the_kernel(notebook: Kernel) -> None:
    notebook.run(
        f"run = %lightning_fit Net digits {SHORT} --monitor val_loss --ddp 2",
        "found = %lightning_validate Net digits --ckpt_path best --limit_val_batches 2 --quiet",
        "predicted = %lightning_predict Net DataLoader(TensorDataset(X),64) --quiet",
    )
    assert notebook.value("found.status") == "completed"
    assert notebook.value("len(predicted.predictions)") == 1797


# Logs and prints


def test_what_ranks_print_appears_in_the_cell_and_in_their_logs(notebook: Kernel) -> None:
    notebook.run(
        "class Says(Net):\n    def on_train_start(self):\n        print('hello from', self.global_rank)",
    )
    cell = notebook.cell(f"run = %lightning_fit Says digits {SHORT.replace('--quiet', '')} --ddp 2")
    assert cell.status == "ok", cell.error
    shown = json.dumps(cell.outputs) + cell.text
    for rank in range(2):
        assert f"hello from {rank}" in shown
        assert f"hello from {rank}" in notebook.value(f"run.logs({rank})")
        assert f"hello from {1 - rank}" not in notebook.value(f"run.logs({rank})")
    assert "no log for rank 7" in notebook.cell("run.logs(7)").error


# Other kernels


def test_the_job_is_its_owners_and_gone_when_all_have_it(notebook: Kernel) -> None:
    notebook.run(
        "class Waits(Net):\n    def on_train_start(self):\n        time.sleep(2)",
        "run = %lightning_fit Waits digits --max_epochs 1 --limit_train_batches 2 --ddp 2 --background",
    )
    folder = Path(notebook.value("run.log_dir"))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.name in ("job.pt", "control")
    }
    assert set(modes.values()) <= {0o600}
    notebook.run("run.wait()")
    assert not {path.name for path in folder.iterdir()} & {"job.pt", "control", "continue.ckpt"}


def test_inside_a_slurm_job_ranks_are_started_here_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\ntouch srun_was_called\nexit 1\n")
    srun.chmod(0o755)
    slurm = {
        "PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "notebook",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    kernel = Kernel(tmp_path)
    try:
        kernel.run(SETUP, DATA, NET, "before = dict(os.environ)")
        for more in ("--ddp 2", "--background", "--devices 2"):
            kernel.run(f"run = %lightning_fit Net digits {SHORT} {more}\nrun.wait()")
            assert kernel.value("[run.status, run.record.steps]") == ["completed", 12]
        assert kernel.value("dict(os.environ) == before") is True
    finally:
        kernel.stop()
    assert not (tmp_path / "srun_was_called").exists()


def test_what_ranks_listen_to_is_of_their_machine_alone(notebook: Kernel) -> None:
    notebook.run(
        "class Listens(Net):\n"
        "    def on_train_start(self):\n"
        "        import psutil\n"
        "        found = [item.laddr.ip for item in psutil.Process().net_connections() if item.status == 'LISTEN']\n"
        "        print(sorted(found), 'listen')",
        f"run = %lightning_fit Listens digits {SHORT} --ddp 2",
    )
    assert "['127.0.0.1', '127.0.0.1'] listen" in notebook.value("run.logs(0)")  # where they meet, and gloo's
    assert "['127.0.0.1'] listen" in notebook.value("run.logs(1)")


def test_the_other_package_and_processes_that_are_spawned(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    try:
        kernel.run(SETUP.replace("pytorch_lightning as pl", "lightning.pytorch as pl"), DATA, NET)
        kernel.run(
            f"forked = %lightning_fit Net digits {SHORT} --ddp 2",
            "%config LightningMagics.start_method = 'spawn'",
            f"spawned = %lightning_fit Net digits {SHORT} --ddp 2",
        )
        assert kernel.value("'pytorch_lightning' in sys.modules") is False
        assert kernel.value("torch.equal(weights(forked.model), weights(spawned.model))") is True
    finally:
        kernel.stop()
