import importlib
import os
import random
from pathlib import Path

import numpy
import pytest
import torch
from notebook import SMALL_RUNS, trainer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
)

from lightning_magics.definitions.definition import PACKAGES
from lightning_magics.errors import InputError
from lightning_magics.training.job import Job
from lightning_magics.training.shards import job_of_rank, merged, sharded
from lightning_magics.training.trainer import bridged

pytestmark = SMALL_RUNS


class Rows(Dataset):
    """Numbers from 0, that know which of them were loaded."""

    def __init__(self, count):
        self.count = count
        self.loaded = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.loaded.append(index)
        return torch.tensor(float(index))


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(torch.arange(float(self.count)))


class SizedStream(Stream):
    def __len__(self):
        return self.count


class Uneven:
    """A batch sampler of one's own: batches of 1, 2, 3, 4."""

    def __iter__(self):
        return iter([[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]])

    def __len__(self):
        return 4


class Doubling(DataLoader):
    """A class whose constructor is its own; Lightning could not make another of it."""

    def __init__(self, rows, secret):
        super().__init__(rows, batch_size=3, collate_fn=lambda items: 2 * torch.stack(items))
        self.hidden = secret


class Keeping(DataLoader):
    """A class that iterates in its own way, over what its constructor made."""

    def __init__(self, rows):
        super().__init__(rows, batch_size=3)
        self.made = list(super().__iter__())

    def __iter__(self):
        return iter(self.made)


class Passing(DataLoader):
    """A class that changes what its base gives."""

    def __iter__(self):
        return (-batch for batch in super().__iter__())


class Numbers:
    """An iterable of batches, no DataLoader."""

    def __iter__(self):
        return iter(torch.arange(10.0).split(3))


def values(batches):
    return [batch.tolist() for batch in batches]


def ranks(make, world=2, limit=None):
    """What each rank reads of the loaders that `make` makes."""
    return [list(sharded(make(), rank, world, limit)) for rank in range(world)]


MAKERS = {
    "even": lambda: DataLoader(Rows(12), 3),
    "uneven": lambda: DataLoader(Rows(10), 3),
    "a batch": lambda: DataLoader(Rows(2), 3),
    "none": lambda: DataLoader(Rows(0), 3),
    "no batching": lambda: DataLoader(Rows(5), None),
    "batch sampler": lambda: DataLoader(Rows(10), batch_sampler=Uneven()),
    "reversed": lambda: DataLoader(Rows(10), 3, sampler=range(9, -1, -1)),
    "of a generator": lambda: DataLoader(Rows(10), 3, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "subclass": lambda: Doubling(Rows(10), "secret"),
    "its own way": lambda: Keeping(Rows(10)),
    "passing on": lambda: Passing(Rows(10), 3),
    "stream": lambda: DataLoader(Stream(10), 3),
    "sized stream": lambda: DataLoader(SizedStream(10), 3),
    "stream without batching": lambda: DataLoader(Stream(5), None),
    "iterable": Numbers,
    "workers": lambda: DataLoader(Rows(10), 3, num_workers=1, persistent_workers=True),
    "workers of a stream": lambda: DataLoader(Stream(10), 3, num_workers=1),
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("kind", MAKERS)
def test_all_batches_of_one_device_are_read_once(kind, world):
    parts = ranks(MAKERS[kind], world)
    assert values(merged(parts, several=False)) == values(MAKERS[kind]())
    assert [len(part) for part in parts] == sorted((len(part) for part in parts), reverse=True)


def test_each_rank_loads_its_own_samples_alone():
    for rank, indices in enumerate([[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]):
        loader = DataLoader(Rows(10), 3)
        list(sharded(loader, rank, 2))
        assert loader.dataset.loaded == indices


@pytest.mark.parametrize("kind", ["uneven", "no batching", "sized stream", "subclass", "its own way"])
def test_lengths_are_the_ranks_own(kind):
    for rank in range(2):
        shard = sharded(MAKERS[kind](), rank, 2)
        assert len(shard) == len(list(shard))


@pytest.mark.parametrize("kind", ["stream", "iterable", "a batch"])
def test_no_rank_has_a_length_where_one_could_have_none(kind):
    for rank in range(2):
        with pytest.raises(TypeError, match="not every rank has batches, or their number is not known"):
            len(sharded(MAKERS[kind](), rank, 2))


def test_the_last_smaller_batch_is_predicted_too_as_lightning_does_on_one_device():
    def dropping():
        return DataLoader(Rows(10), 3, drop_last=True)

    assert values(merged(ranks(dropping), several=False)) == values(DataLoader(Rows(10), 3))
    loader = dropping()
    sharded(loader, 0, 2)
    assert len(loader) == 3  # the user's own is as it was


def test_collections_keep_their_shape():
    made = sharded({"a": MAKERS["uneven"](), "b": [MAKERS["stream"](), MAKERS["even"]()]}, 1, 2)
    assert values(made["a"]) == [[3.0, 4.0, 5.0], [9.0]]
    assert values(made["b"][0]) == [[3.0, 4.0, 5.0], [9.0]]
    assert values(made["b"][1]) == [[3.0, 4.0, 5.0], [9.0, 10.0, 11.0]]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_combined_loader_stays_one(package):
    combined = importlib.import_module(f"{package}.utilities").CombinedLoader([MAKERS["even"](), MAKERS["uneven"]()])
    made = sharded(combined, 0, 2)
    assert type(made) is type(combined)
    assert [len(loader) for loader in made.flattened] == [2, 2]
    assert [len(loader) for loader in combined.flattened] == [4, 4]


@pytest.mark.parametrize(("limit", "count"), [(None, 4), (1.0, 4), (3, 3), (1, 1), (9, 4), (0.5, 2), (0.8, 3), (0, 0)])
def test_a_limit_is_of_the_whole_run(limit, count):
    found = merged(ranks(MAKERS["uneven"], 2, limit), several=False)
    assert values(found) == values(MAKERS["uneven"]())[:count]


@pytest.mark.parametrize("kind", ["stream", "iterable", "sized stream"])
def test_a_limit_ends_a_stream(kind):
    assert values(merged(ranks(MAKERS[kind], 2, 3), several=False)) == values(MAKERS[kind]())[:3]


def test_limits_that_fit_no_loader_are_refused():
    with pytest.raises(InputError, match=r"--limit_predict_batches 0\.5 is a fraction, but .* Type a whole number"):
        sharded(MAKERS["stream"](), 0, 2, 0.5)
    with pytest.raises(
        InputError, match=r"--limit_predict_batches 0\.1 of 4 batches is less than one\. Type at least 0\.25"
    ):
        sharded(MAKERS["uneven"](), 0, 2, 0.1)


class Drawn:
    """A sampler in an order drawn from Python's, NumPy's and torch's own random numbers."""

    def __iter__(self):
        order = list(range(10))
        random.shuffle(order)
        numpy.random.shuffle(order)
        yield from (order[place] for place in torch.randperm(10))

    def __len__(self):
        return 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Rows(10), 3, shuffle=True),
        lambda: DataLoader(Rows(10), 3, sampler=Drawn()),
        lambda: DataLoader(Rows(10), 3, shuffle=True, num_workers=1),
    ],
)
def test_shuffled_batches_are_read_once_though_ranks_draw_otherwise(make):
    parts = []
    for rank in range(2):
        torch.manual_seed(rank)
        random.seed(rank)
        numpy.random.seed(rank)
        part = []
        for batch in sharded(make(), rank, 2):
            part.append(batch)
            torch.rand(rank + 1), random.random(), numpy.random.rand()
        parts.append(part)
    found = torch.cat(merged(parts, several=False)).tolist()
    assert sorted(found) == list(range(10))
    assert found != sorted(found)


def test_drawing_an_order_leaves_the_models_random_numbers():
    def drawn(read):
        torch.manual_seed(5)
        random.seed(5)
        numpy.random.seed(5)
        read()
        return torch.rand(2).tolist(), random.random(), numpy.random.rand()

    assert drawn(lambda: list(sharded(DataLoader(Rows(10), 3, sampler=Drawn()), 0, 2))) == drawn(lambda: None)


def test_the_runs_seed_chooses_the_order(monkeypatch):
    def found(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        return values(merged(ranks(lambda: DataLoader(Rows(10), 3, shuffle=True)), several=False))

    assert found(1) == found(1) != found(2)


def test_a_loader_that_was_iterated_keeps_its_workers_and_its_batches():
    loader = MAKERS["workers"]()
    whole = values(loader)
    assert values(sharded(loader, 1, 2)) == whole[1::2]
    assert values(loader) == whole
    loader._iterator._shutdown_workers()


def test_no_worker_is_started_before_the_first_batch():
    started = []

    class Telling(Doubling):
        def _get_iterator(self):
            started.append(True)
            return super()._get_iterator()

    batches = iter(sharded(Telling(Rows(10), "secret"), 0, 2))
    assert not started
    next(batches)
    assert started == [True]


def test_samples_that_are_divided_already_are_refused():
    rows = Rows(10)
    divided = DistributedSampler(rows, num_replicas=2, rank=0)
    expected = r"^%lightning_predict splits the batches .* DistributedSampler, .* its DataLoader without a sampler$"
    for loader in (
        DataLoader(rows, 3, sampler=divided),
        DataLoader(rows, batch_sampler=BatchSampler(divided, 3, False)),
    ):
        with pytest.raises(InputError, match=expected):
            sharded(loader, 0, 2)
    alone = DataLoader(rows, 3, sampler=DistributedSampler(rows, num_replicas=1, rank=0, shuffle=False))
    assert values(merged([list(sharded(alone, rank, 2)) for rank in range(2)], several=False)) == values(alone)


def test_outputs_come_back_in_order():
    assert merged([[0, 2, 4], [1, 3]], several=False) == [0, 1, 2, 3, 4]
    assert merged([[0], None, []], several=False) == [0]
    assert merged([None, None], several=False) is None
    assert merged([[], []], several=False) == []
    assert merged([[["a", "b"], ["e"]], [["c", "d"]]], several=False) == [["a", "b"], ["c", "d"], ["e"]]
    assert merged([[[0, 3], ["a"]], [[1], []], [[2], []]], several=True) == [[0, 1, 2, 3], ["a"]]
    assert merged([[[0], ["a"]], None], several=True) == [[0], ["a"]]


def test_ranks_that_read_other_data_are_found_out():
    with pytest.raises(InputError, match=r"the processes predicted 3, 1 batches, which cannot be .* --devices 1$"):
        merged([[0, 2, 4], [1]], several=False)
    with pytest.raises(InputError, match="predicted 1, 2 batches"):
        merged([[0], [1, 3]], several=False)


RUNS = {
    "a loader": lambda package: {"loaders": (MAKERS["uneven"](),)},
    "fewer batches than ranks": lambda package: {"loaders": (MAKERS["a batch"](),)},
    "several": lambda package: {"loaders": (MAKERS["a batch"](), MAKERS["stream"](), MAKERS["even"]())},
    "a model's own": lambda package: {"model": loads_itself(package, DataLoader(Rows(10), 3, drop_last=True))},
    "a data module's": lambda package: {"datamodule": data(package, {"a": MAKERS["uneven"](), "b": MAKERS["even"]()})},
    "the other package's": lambda package: {"datamodule": data(*(set(PACKAGES) - {package}), MAKERS["reversed"]())},
    "half": lambda package: {"loaders": (MAKERS["even"](),), "trainer": {"limit_predict_batches": 0.5}},
    "three": lambda package: {"loaders": (MAKERS["stream"](),), "trainer": {"limit_predict_batches": 3}},
    "none": lambda package: {"loaders": (MAKERS["even"](),), "trainer": {"limit_predict_batches": 0}},
    "one": lambda package: {"loaders": (MAKERS["even"](),), "trainer": {"fast_dev_run": True}},
    "workers": lambda package: {"loaders": (MAKERS["workers"](),)},
    "its own batches": lambda package: {"loaders": (MAKERS["batch sampler"](), MAKERS["passing on"]())},
}


def model(package):
    class Model(importlib.import_module(package).LightningModule):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            assert batch.device == self.device
            return dataloader_idx, batch

    return Model()


def loads_itself(package, loader):
    made = model(package)
    type(made).predict_dataloader = lambda self: loader
    return made


def data(package, loaders):
    class Data(importlib.import_module(package).LightningDataModule):
        def setup(self, stage):
            self.loaders = loaders

        def predict_dataloader(self):
            return self.loaders

    return Data()


def writer(package, found):
    class Writer(importlib.import_module(f"{package}.callbacks").BasePredictionWriter):
        def write_on_batch_end(self, trainer, model, outputs, indices, batch, batch_idx, dataloader_idx):
            found[f"batch {dataloader_idx}/{batch_idx}"] = indices

        def write_on_epoch_end(self, trainer, model, predictions, indices):
            found["epoch"] = indices

    return Writer("batch_and_epoch")


def predicted(package, run, rank=None):
    """Predict on one device, or as one of two ranks.

    Returns:
        What the Trainer does, if for several loaders, and what samples a prediction writer is told of.
    """
    asked = RUNS[run](package)
    job = Job(**{"verb": "predict", "folder": Path(), "package": package, "model": model(package), **asked})
    more = {}
    if rank is not None:
        fabric = {"pytorch_lightning": "lightning_fabric", "lightning.pytorch": "lightning.fabric"}[package]
        environment = importlib.import_module(f"{fabric}.plugins.environments").LightningEnvironment()
        more = {"strategy": "ddp", "devices": 2, "plugins": [environment]}
        job = job_of_rank(job, rank, 2)
    written = {}
    made = trainer(package, **{**job.trainer, **more}, callbacks=[writer(package, written)])
    owner = None if job.datamodule is None else bridged(job.datamodule, package)
    found = made.predict(job.model, dataloaders=list(job.loaders) or None, datamodule=owner)
    return found, len(made.num_predict_batches) > 1, written


def predict_as_rank(package, folder):
    """Run all of them in a process that is a rank."""
    rank = int(os.environ["RANK"])
    torch.save({run: predicted(package, run, rank) for run in RUNS}, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module", params=PACKAGES)
def both_ranks(request, tmp_path_factory, elsewhere):
    """The package, and what the two ranks of each run predicted, in real processes over gloo."""
    folder = tmp_path_factory.mktemp("ranks")
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/training']\n"
        "import test_shards as t; t.predict_as_rank(*sys.argv[2:])"
    )
    done = elsewhere.run(script, Path(__file__).parents[1], request.param, folder, ranks=2)
    assert done.returncode == 0, done.stderr
    return request.param, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices", "ignore:.*custom batch sampler")
@pytest.mark.parametrize("run", RUNS)
def test_two_processes_predict_what_one_device_does(run, both_ranks):
    package, parts = both_ranks
    expected, several, _ = predicted(package, run)
    assert [part[run][1] for part in parts] == [several, several]
    assert plain(merged([part[run][0] for part in parts], several=several)) == plain(expected)


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices", "ignore:.*custom batch sampler")
@pytest.mark.parametrize("run", RUNS)
def test_a_prediction_writer_is_told_the_samples_of_each_batch(run, both_ranks):
    package, parts = both_ranks
    expected = predicted(package, run)[2]
    told = [part[run][2] for part in parts]
    own = {name: indices for name, indices in expected.items() if name != "epoch"}
    for name, indices in own.items():
        loader, _, batch = name.removeprefix("batch ").partition("/")
        if expected["epoch"][int(loader)]:  # else Lightning still tells those of the loader before
            assert told[int(batch) % 2][f"batch {loader}/{int(batch) // 2}"] == indices
    assert sum(len(part) - ("epoch" in part) for part in told) == len(own)
    for loader, batches in enumerate(expected.get("epoch", [])):
        assert [part["epoch"][loader] for part in told] == [batches[0::2], batches[1::2]]


def plain(found):
    """Outputs as lists, which compare."""
    if isinstance(found, torch.Tensor):
        return found.tolist()
    return [plain(item) for item in found] if isinstance(found, list | tuple) else found


def test_data_that_cannot_predict_is_left_as_it_is():
    """Who looks for its ``predict_dataloader`` is to find none."""
    lightning = importlib.import_module("lightning.pytorch")
    for asked in ({}, {"datamodule": lightning.LightningDataModule()}):
        job = Job("predict", Path(), "lightning.pytorch", model("lightning.pytorch"), **asked)
        found = job_of_rank(job, 0, 2)
        assert "predict_dataloader" not in {**vars(found.model), **vars(found.datamodule or found.model)}


def test_a_part_of_the_batches_is_not_taken_twice():
    job = Job("predict", Path(), "lightning.pytorch", None, loaders=(MAKERS["even"](),))
    for limit, left in ((0.5, 1.0), (3, 3), (None, None)):
        asked = {} if limit is None else {"limit_predict_batches": limit}
        found = job_of_rank(Job(**{**vars(job), "trainer": asked}), 1, 2)
        assert found.trainer.get("limit_predict_batches") == left
        assert job.trainer == {}


def test_what_was_stopped_is_put_in_order_up_to_the_first_gap() -> None:
    assert merged([["a", "c", "e"], ["b"]], several=False, cut_short=True) == ["a", "b", "c"]
    assert merged([["a"], ["b", "d", "f"]], several=False, cut_short=True) == ["a", "b"]
    assert merged([None, ["b"]], several=False, cut_short=True) == []
