from __future__ import annotations

import copy
import errno
import io
import linecache
import os
import random
import stat
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as L
import torch
import torchmetrics
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_magics.errors import InputError, RunError
from lightning_magics.training.job import Job
from lightning_magics.transport import payload, pickling

CELL = """\
import torch, pytorch_lightning as L
from torch import nn
from torch.utils.data import DataLoader, Dataset
factor = 3
log = None
def helper(x):
    return x * factor
class Squares(Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, i):
        return torch.tensor([float(i)]), torch.tensor([helper(i) * 1.0])
class Stop(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        print("epoch", trainer.current_epoch)
class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Squares(), batch_size=4, collate_fn=lambda rows: [torch.stack(c) for c in zip(*rows)])
class Net(L.LightningModule):
    def __init__(self, hidden=8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.scale = lambda x: helper(x)
    def training_step(self, batch, index):
        if log:
            log.write("step")
        return nn.functional.mse_loss(self.net(self.scale(batch[0])), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.001)
"""
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def cell(monkeypatch):
    """What a cell of a notebook defined: a module `__main__` with its names."""
    main, filename = types.ModuleType("__main__"), "/nowhere/cell_1.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(linecache.cache, filename, (len(CELL), None, CELL.splitlines(keepends=True), filename))
    exec(compile(CELL, filename, "exec"), main.__dict__)
    return main


def job(model=None, **fields):
    return Job(verb="fit", folder=Path("run"), package="pytorch_lightning", model=model, **fields)


def sent(value, tmp_path):
    """Through a file and back; the file is removed while it is mapped."""
    path = tmp_path / "sent.pt"
    payload.save(value, path)
    back = payload.load(path)
    path.unlink()
    return back


@pytest.fixture
def python(elsewhere):
    """Runs code in another Python, where warnings are errors; returns what it printed."""

    def run(code, *arguments):
        done = elsewhere.run(f"import warnings; warnings.simplefilter('error')\n{code}", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def refused(value, tmp_path, name=""):
    path = tmp_path / "refused.pt"
    with pytest.raises(InputError) as caught:
        payload.save(value, path, name)
    assert not path.exists()
    return str(caught.value)


def test_what_a_cell_defined_trains_in_a_process_that_knows_nothing_of_it(cell, python, tmp_path):
    path = tmp_path / "job.pt"
    model = cell.Net(hidden=5)
    payload.save(job(model, datamodule=cell.Data(), trainer={"max_epochs": 2, "callbacks": [cell.Stop()]}), path)
    code = f"""
import sys, warnings, inspect, pathlib, logging
warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
from lightning_magics.transport import payload
job = payload.load(pathlib.Path(sys.argv[1]))
import pytorch_lightning as L
before = job.model.net[0].weight.clone()
L.Trainer(accelerator="cpu", **job.trainer, **{QUIET!r}).fit(job.model, datamodule=job.datamodule)
print(job.model.hparams.hidden, bool((before != job.model.net[0].weight).any()))
print(inspect.getsource(job.model.training_step).splitlines()[0].strip())
"""
    assert python(code, path).splitlines() == [
        "epoch 0", "epoch 1", "5 True", "def training_step(self, batch, index):"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["classes", "ops", "nn"])
def test_a_variable_may_be_called_as_a_part_of_torch(name, tmp_path):
    notebook = {"__name__": "__main__", "torch": torch, name: 3}
    exec(f"def count():\n    return {name} + torch.ones(1).numel()", notebook)
    assert sent(notebook["count"], tmp_path)() == 4


def test_a_trainer_and_running_iterators_stay_behind(cell, tmp_path):
    model, data = cell.Net(), cell.Data()
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
    loader = DataLoader(TensorDataset(torch.arange(8.0)), num_workers=1, persistent_workers=True)
    next(iter(loader))
    model.mine = trainer
    other, other_data, other_loader = sent((model, data, loader), tmp_path)
    assert data.trainer is not None
    assert loader._iterator is not None
    assert (other._trainer, other.mine, other_data.trainer, other_loader._iterator) == (None, None, None, None)
    assert model._trainer is trainer


def test_a_dataloader_gives_the_same_batches(cell, tmp_path):
    loader = DataLoader(
        cell.Squares(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3),
        worker_init_fn=lambda worker: None, collate_fn=lambda rows: torch.stack([x for x, _ in rows]),
    )  # fmt: skip
    other = sent(loader, tmp_path)
    assert torch.equal(torch.cat(list(loader)), torch.cat(list(other)))


def test_metrics_and_generators_of_random_numbers_go_on(tmp_path):
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=3)
    metric.update(torch.tensor([1, 2]), torch.tensor([1, 1]))
    other = sent(metric, tmp_path)
    other.update(torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert other.compute() == 0.75
    numbers = np.random.default_rng(5)
    assert sent(numbers, tmp_path).random() == numbers.random()
    assert sent(random.Random(5), tmp_path).random() == random.Random(5).random()


def test_views_and_tied_weights_share_their_memory(tmp_path):
    base = torch.randn(400, 100)
    views = {
        "base": base, "rows": base[10:], "bits": base.view(torch.int32), "array": base.numpy(), "turned": base.T,
        "pairs": torch.view_as_complex(base.view(-1, 2)),
    }  # fmt: skip
    other = sent(views, tmp_path)
    other["base"][20, 0] = 7
    assert other["rows"][10, 0] == 7
    assert other["bits"].view(torch.float32)[20, 0] == 7
    assert other["array"][20, 0] == 7
    assert other["turned"][0, 20] == 7
    assert other["pairs"][1000].real == 7
    assert base[20, 0] != 7
    small = torch.randn(4)
    first, second = sent((small, small[1:]), tmp_path)
    first[1] = 7
    assert second[0] == 7
    net = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    net[1].weight = net[0].weight
    other = sent(net, tmp_path)
    assert other[0].weight is other[1].weight


def test_tensors_of_every_kind_are_equal_and_aligned_as_torchs_own(tmp_path):
    tensors = [
        torch.tensor(3.0), torch.empty(0), torch.arange(5), torch.zeros(70_001, dtype=torch.bool),
        torch.randn(300, 300, dtype=torch.bfloat16), torch.randn(300, 300).t()[::2], torch.eye(400).to_sparse(),
        nn.Parameter(torch.randn(20_000)),
    ]  # fmt: skip
    for tensor, other in zip(tensors, sent(tensors, tmp_path), strict=True):
        assert other.dtype == tensor.dtype
        assert type(other) is type(tensor)
        assert other.requires_grad == tensor.requires_grad
        assert torch.equal(other.to_dense(), tensor.to_dense())
        assert other.is_sparse or other.untyped_storage().data_ptr() % 64 == 0


ARRAYS = {
    "big-endian": np.arange(2e5).astype(">f8"),
    "datetime64": np.arange(200_000).astype("M8[s]"),
    "strided": np.arange(1e6).reshape(1000, 1000)[::2, ::-3],
    "transposed": np.arange(1e6).reshape(1000, 1000).T,
    "structured": np.ones(200_000, dtype=[("a", "i4"), ("b", "S5")]),
    "0-d": np.array((np.arange(2e5),), dtype=[("a", "f8", 200_000)]),
    "text": np.array(["ab"] * 100_000),
    "float16": np.ones(1_000_000, np.float16),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_big_arrays_lie_outside_the_pickle_and_are_equal_and_writable(name, tmp_path, monkeypatch):
    array = ARRAYS[name]
    pickled = []
    loads = payload.pickle.loads
    monkeypatch.setattr(payload.pickle, "loads", lambda data, **more: pickled.append(more) or loads(data, **more))
    other = sent({"held": [array]}, tmp_path)["held"][0]
    assert [view.nbytes for view in pickled[-1]["buffers"]] == [array.nbytes]
    assert (other.dtype, other.shape) == (array.dtype, array.shape)
    assert np.array_equal(other, array)
    other[...] = other[...].copy()  # writable


def test_small_arrays_and_their_subclasses_are_equal(tmp_path):
    arrays = [
        np.zeros((0, 5)), np.array(3), np.ma.array(np.eye(400)), np.array([{1}], object),
        np.zeros(100_000).view(np.recarray), np.array([None] * 100_000),
    ]  # fmt: skip
    for array, other in zip(arrays, sent(arrays, tmp_path), strict=True):
        assert (type(other), other.dtype, other.shape) == (type(array), array.dtype, array.shape)
        assert np.array_equal(other, array)


def test_pandas_frames_are_equal(tmp_path):
    count = 50_000
    frame = pd.DataFrame({
        "whole": np.arange(count), "real": np.arange(count) / 3, "text": ["a"] * count,
        "time": pd.date_range("2020", periods=count, freq="s"), "kind": pd.Categorical(["u", "v"] * (count // 2)),
    })  # fmt: skip
    pd.testing.assert_frame_equal(sent(frame, tmp_path), frame)
    pd.testing.assert_frame_equal(sent(frame.iloc[::3], tmp_path), frame.iloc[::3])


def test_a_memory_map_goes_as_its_file_and_part_of_one_as_data(tmp_path):
    mapped = np.memmap(tmp_path / "data.bin", np.float32, "w+", shape=(500, 100))
    mapped[:] = 2
    path = tmp_path / "sent.pt"
    payload.save(mapped, path)
    other = payload.load(path)
    assert path.stat().st_size < 5000
    assert (Path(other.filename), other.mode) == (tmp_path / "data.bin", "r+")
    assert np.array_equal(other, mapped)
    part = mapped[100:]
    assert np.array_equal(sent(part, tmp_path), part)


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_modules_go_on_and_can_be_sent_again(make, tmp_path):
    layer = make(nn.Linear(6, 6)).eval()
    other = sent(sent(layer, tmp_path), tmp_path)
    x = torch.randn(3, 6)
    assert torch.equal(other(x), layer(x))
    assert parametrize.is_parametrized(other, "weight")
    assert other.state_dict().keys() == layer.state_dict().keys()
    assert torch.equal(copy.deepcopy(other)(x), layer(x))
    parametrize.remove_parametrizations(other, "weight")
    assert type(other) is nn.Linear


def test_what_one_process_writes_no_other_sees_and_the_data_is_in_memory_once(python, tmp_path):
    path = tmp_path / "data.pt"
    count = 16_000_000
    payload.save({"tensor": torch.ones(count), "array": np.ones(count, np.float32)}, path)
    code = """
import sys, pathlib, os
from lightning_magics.transport import payload
held = payload.load(pathlib.Path(sys.argv[1]))
total = held["tensor"].sum().item() + held["array"].sum().item()
held["tensor"][0] = 5; held["array"][0] = 5
maps = [line.split() for line in open("/proc/self/smaps")] if os.path.exists("/proc/self/smaps") else []
at = next((i for i, words in enumerate(maps) if words[-1] == sys.argv[1]), None)
own = next(int(words[1]) for words in maps[at:] if words[0] == "Anonymous:") if at is not None else 0
print(total, own < 1000)
"""
    assert python(code, path).split() == [str(2.0 * count), "True"]
    assert python(code, path).split() == [str(2.0 * count), "True"]


def test_a_file_is_its_owners_alone_from_the_first_byte_and_replaces_another(tmp_path, monkeypatch):
    path = tmp_path / "job.pt"
    path.write_bytes(b"old")
    path.chmod(0o644)
    modes = []
    write = payload._write

    def look(file, *rest):
        modes.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        write(file, *rest)

    monkeypatch.setattr(payload, "_write", look)
    payload.save([1], path)
    assert (modes, payload.load(path)) == ([0o600], [1])


def test_a_full_disk_is_told_and_nothing_half_written_stays(python, tmp_path):
    code = """
import sys, resource, signal, pathlib, torch
from lightning_magics.transport import payload
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    payload.save(torch.zeros(1 << 20), pathlib.Path(sys.argv[1]))
except payload.RunError as error:
    print(error)
"""
    path = tmp_path / "job.pt"
    told = python(code, path)
    assert f"{path} cannot be written (4,19" in told
    assert f"bytes): {os.strerror(errno.EFBIG)}. Free some space" in told
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_missing_or_not_whole_is_told(tmp_path):
    path = tmp_path / "job.pt"
    with pytest.raises(RunError, match=r"cannot be read: .*No such file"):
        payload.load(path)
    path.touch()
    with pytest.raises(RunError, match=r"cannot be read: .*empty"):
        payload.load(path)
    payload.save(torch.zeros(100_000), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="is incomplete or from another version"):
        payload.load(path)


def test_a_notebooks_class_keeps_its_methods_where_its_payload_is_read_back(cell, tmp_path):
    model = cell.Net()
    step = cell.Net.training_step
    other = sent(model, tmp_path)
    assert type(other) is cell.Net
    assert cell.Net.training_step is step
    assert step.__globals__ is vars(cell)


def test_the_streams_of_a_process_go_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert sent({"out": sys.stdout, "err": sys.stderr}, tmp_path) == {"out": sys.stdout, "err": sys.stderr}


class Held(Dataset):
    def __init__(self, **held):
        self.x = torch.zeros(10)
        vars(self).update(held)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return index


class Refuses:
    __slots__ = ("held",)

    def __reduce__(self):
        raise ValueError("I stay\nhere")


ADVICE = ", or train in the kernel, without --devices, --ddp or --background."


@pytest.fixture
def file(tmp_path):
    with (tmp_path / "log.txt").open("w+") as file:
        yield file


def test_an_open_file_is_named_with_its_place_and_the_way_out(cell, file, tmp_path):
    model = cell.Net()
    model.log_file = file
    assert refused(job(model), tmp_path) == (
        f"the model cannot be sent to another process: model.log_file is an open file ({file.name!r}). "
        f"Open it in setup() or on_fit_start(), which run in that process{ADVICE}"
    )
    dataset = Held(file=file)
    assert f"the data cannot be sent to another process: loaders[0].dataset.file is an open file ({file.name!r}). Open it on first use in the dataset's __getitem__" in refused(job(cell.Net(), loaders=(DataLoader(dataset),)), tmp_path)  # fmt: skip  # noqa: E501
    data = cell.Data()
    data.train_set = dataset
    assert "datamodule.train_set.file is an open file" in refused(job(cell.Net(), datamodule=data), tmp_path)
    callback = cell.Stop()
    callback.f = file
    told = refused(job(cell.Net(), trainer={"callbacks": [callback]}), tmp_path)
    assert "a Trainer argument cannot be sent to another process: trainer['callbacks'][0].f is an open" in told


def test_a_file_open_for_reading_is_not_copied_behind_the_users_back(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for mode in ("r", "rb"):
        with (tmp_path / "a.txt").open(mode) as file:
            assert "the held[0] is an open file" in refused([file], tmp_path, "the held")


def test_what_a_function_uses_is_named_with_the_function(cell, file, tmp_path):
    cell.log = file
    told = refused(job(cell.Net()), tmp_path)
    assert "the global name `log` that Net.training_step uses is an open file" in told
    cell.log = {"held": [threading.Lock()]}
    told = refused(job(cell.Net()), tmp_path)
    assert "the global name `log['held'][0]` that Net.training_step uses is a lock. Create it in setup()" in told
    cell.log = None
    loader = DataLoader(Held(), collate_fn=lambda rows: file)
    assert "the variable `file` that a lambda uses is an open file" in refused(job(loaders=(loader,)), tmp_path)

    def collate(rows, file=file):
        return rows

    told = refused(job(loaders=(DataLoader(Held(), collate_fn=collate),)), tmp_path)
    assert "collate.__defaults__[0] is an open file" in told


def test_what_cannot_travel_is_found_in_modules_slots_classes_and_cycles(cell, tmp_path):
    model = cell.Net()
    model.net[1].parent = [model]
    model.net[2].cache = threading.Thread()
    assert "model.net[2].cache is a thread. Start it" in refused(job(model), tmp_path)
    model = cell.Net()
    model.hparams["stream"] = (part for part in "ab")
    assert "model.hparams['stream'] is a generator" in refused(job(model), tmp_path)
    cell.Net.shared = threading.RLock()
    assert "Net.shared is a lock" in refused(job(cell.Net()), tmp_path)
    del cell.Net.shared
    model = cell.Net()
    model.held = {"k": (1, Refuses())}
    told = refused(job(model), tmp_path)
    assert (
        "model.held['k'][1] is an object of class test_payload.Refuses, which cannot be pickled: I stay here. Create"
        in told
    )


def test_a_value_that_is_no_job_is_called_by_its_name(tmp_path):
    assert "the predictions cannot be sent to another process: the predictions[0] is a lock. Create it where it is used" in refused([threading.Lock()], tmp_path, "the predictions")  # fmt: skip  # noqa: E501
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "excessively deep recursion required. Train in the kernel" in refused(deep, tmp_path, "list")


def test_looking_for_what_cannot_travel_takes_no_data_apart(tmp_path, monkeypatch):
    dataset = Held(x=torch.zeros(1000, 1000), array=np.zeros((1000, 1000))[::2], z=threading.Lock())
    looked = []
    reduced = payload._reduce_array
    monkeypatch.setattr(payload, "_reduce_array", lambda array: looked.append(1) or reduced(array))
    assert "loaders[0].z is a lock" in refused(job(loaders=(dataset,)), tmp_path)
    assert len(looked) == 1  # for the pickle, not for the search


def test_sources_of_cells_are_added_and_known_ones_stay(monkeypatch, tmp_path):
    assert pickling.cell_sources([__file__, "/nowhere/unknown.py"]) == {}
    monkeypatch.setitem(linecache.cache, "/nowhere/a.py", (2, None, ["a\n"], "/nowhere/a.py"))
    monkeypatch.delitem(linecache.cache, "/nowhere/b.py", raising=False)
    assert pickling.cell_sources(["/nowhere/a.py"]) == {"/nowhere/a.py": "a\n"}
    pickling.add_sources({"/nowhere/a.py": "other\n", "/nowhere/b.py": "b\n"})
    linecache.checkcache()
    assert linecache.getline("/nowhere/a.py", 1) == "a\n"
    assert linecache.getline("/nowhere/b.py", 1) == "b\n"
    del linecache.cache["/nowhere/b.py"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_tensors_of_a_gpu_arrive_on_the_cpu(tmp_path):
    layer = nn.Linear(300, 300).cuda()
    layer.weight.data[0, 0] = 2
    other = sent(layer, tmp_path)
    assert other.weight.device.type == "cpu"
    assert torch.equal(other.weight, layer.weight.cpu())


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_part_of_a_mapped_file_goes_by_its_path(tmp_path, order):
    np.save(tmp_path / "whole.npy", np.asarray(np.arange(200_000.0).reshape(500, 400), order=order))
    whole = np.load(tmp_path / "whole.npy", mmap_mode="r")
    parts = [whole, whole[3:], whole[::2], whole[::-1], whole[:, 5], whole.T, np.asarray(whole)[7:], whole[:0]]
    payload.save(parts, tmp_path / "payload")
    assert (tmp_path / "payload").stat().st_size < 10_000
    found = payload.load(tmp_path / "payload")
    assert [item.shape for item in found] == [item.shape for item in parts]
    assert all(np.array_equal(item, part) for item, part in zip(found, parts, strict=True))
    payload.save(found, tmp_path / "again")  # from the process that it was sent to
    assert (tmp_path / "again").stat().st_size < 10_000
    changed = np.load(tmp_path / "whole.npy", mmap_mode="c")
    changed[0, 0] = -1  # in memory alone
    payload.save(changed[:2], tmp_path / "changed")
    assert payload.load(tmp_path / "changed")[0, 0] == -1
