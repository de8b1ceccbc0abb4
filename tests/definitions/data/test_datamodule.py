import inspect
import traceback
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from notebook import CELL, SMALL_RUNS, data, model, namespace, source, trainer
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from lightning_magics.definitions.data import datamodule, samples
from lightning_magics.definitions.definition import PACKAGES, is_datamodule, package_of
from lightning_magics.errors import InputError
from lightning_magics.options import parser as options
from lightning_magics.runs.fingerprint import describe

pytestmark = SMALL_RUNS
COUNTED = "size: int = 20\nX = torch.arange(size * 4.0).reshape(size, 4)\nTensorDataset(X, torch.arange(size) % 3)"
FRAME = pd.DataFrame(
    {"a": [1.0, 2.0, 3.0, 4.0], "b": [1, 2, 3, 4], "kind": ["y", "x", "y", "z"], "price": [0.5, 1, 2, 3]}
)


def ready(definition, **hyperparameters):
    instance = definition.new(**hyperparameters)
    instance.setup("fit")
    return instance


def column(loader, position=1):
    """Return a column of all batches of a loader."""
    return torch.cat([batch[position] for batch in loader])


def has(definition):
    """Return the splits that a DataModule has loaders for."""
    return [name for name in ("train", "val", "test", "predict") if f"{name}_dataloader" in vars(definition.cls)]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_dataset_trains_in_both_packages(package):
    definition = data(COUNTED, package=package, val_split=0.2, batch_size=6)
    instance = model("nn.Linear(4, 3)", package=package, loss="cross_entropy", metrics=("accuracy",)).new()
    run = trainer(package)
    run.fit(instance, datamodule=definition.new())
    assert {"train_accuracy", "val_accuracy"} <= set(run.callback_metrics)
    assert (definition.name, definition.form, definition.package) == ("digits", "dataset", package)
    assert is_datamodule(definition.cls)
    predicted = torch.cat(trainer(package).predict(instance, datamodule=definition.new()))
    assert torch.allclose(predicted, instance(torch.arange(80.0).reshape(20, 4)))


def test_splits_are_seeded_and_leave_nothing_out():
    definition = data(COUNTED, val_split=0.2, test_split=3, split_seed=1)
    parts = [column(getattr(ready(definition), f"{name}_dataloader")(), 0)[:, 0] for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [13, 4, 3]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(20) * 4.0)
    again = data(COUNTED, val_split=0.2, test_split=3, split_seed=1)
    assert torch.equal(column(ready(again).val_dataloader(), 0)[:, 0], parts[1])
    other = ready(definition, split_seed=2).val_dataloader()
    assert not torch.equal(column(other, 0)[:, 0], parts[1])


def test_only_the_splits_that_exist_have_loaders():
    assert has(data(COUNTED)) == ["train", "predict"]
    assert has(data(COUNTED, val_split=2)) == ["train", "val", "predict"]
    names = namespace(a=TensorDataset(torch.ones(6, 2)))
    assert has(data("a, a", names=names)) == ["train", "val"]
    assert has(data("[a, a, a]", names=names)) == ["train", "val", "test"]
    assert has(data("{'train': a, 'validation': a, 'predict': a}", names=names)) == ["train", "val", "predict"]
    assert has(data("{'train': a, 'test': a}", names=names, val_split=2)) == ["train", "val", "test"]
    assert has(data("{'test': a}", names=names)) == ["test"]


def test_training_data_alone_is_shuffled():
    instance = ready(data(COUNTED, val_split=8, batch_size=3, num_workers=0))
    samplers = [type(loader.sampler).__name__ for loader in (instance.train_dataloader(), instance.val_dataloader())]
    assert samplers == ["RandomSampler", "SequentialSampler"]
    in_order = ready(data(COUNTED, shuffle=False)).train_dataloader()
    assert torch.equal(column(in_order, 0)[:, 0], torch.arange(20) * 4.0)


def test_data_is_loaded_once_for_what_loads_the_same():
    names = namespace(loads=[])
    definition = data(f"loads.append(1)\n{COUNTED}", names=names, val_split=2)
    ready(definition)
    ready(definition, val_split=4, batch_size=2)
    assert len(names["loads"]) == 1
    assert len(ready(definition, size=10).splits["predict"]) == 10
    assert len(names["loads"]) == 2


@pytest.mark.parametrize(
    ("cell", "dtypes"),
    [
        ("torch.ones(6, 4), torch.zeros(6)", [torch.float32, torch.float32]),
        ("np.ones((6, 4)), np.zeros(6, dtype='int32')", [torch.float32, torch.int64]),
        ("np.ones((6, 4), dtype='uint8'), np.zeros(6)", [torch.uint8, torch.float32]),
        ("frame[['a', 'b']], frame['b']", [torch.float32, torch.int64]),
        ("[torch.ones(6, 4), torch.zeros(6, dtype=int)]", [torch.float32, torch.int64]),
    ],
)
def test_arrays_and_tensors_become_a_dataset(cell, dtypes):
    instance = ready(data(cell, names=namespace(np=np, frame=FRAME)))
    batch = next(iter(instance.train_dataloader()))
    assert [part.dtype for part in batch] == dtypes


@pytest.mark.parametrize("cell", ["torch.ones(6, 4)", "np.ones((6, 4))"])
def test_batches_of_one_array_are_tensors(cell):
    instance = ready(data(cell, names=namespace(np=np)))
    assert next(iter(instance.train_dataloader())).shape == (6, 4)


def test_pairs_of_arrays_are_splits():
    instance = ready(data("((np.ones((6, 4)), np.ones(6)), (np.ones((3, 4)), np.ones(3)))", names=namespace(np=np)))
    assert (len(instance.splits["train"]), len(instance.splits["val"])) == (6, 3)


def test_a_list_of_samples_is_a_dataset():
    assert len(ready(data("[(torch.ones(2), i) for i in range(7)]")).splits["train"]) == 7
    assert len(ready(data("[{'x': torch.ones(2), 'y': i} for i in range(2)]")).splits["train"]) == 2


def test_a_table_gives_classes_or_numbers():
    names = namespace(frame=FRAME)
    classes = ready(data("frame.drop(columns='price')", names=names, label="kind", shuffle=False))
    assert classes.classes == ["x", "y", "z"]
    assert column(classes.train_dataloader()).tolist() == [1, 0, 1, 2]
    assert column(classes.train_dataloader(), 0).tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    whole = ready(
        data("frame.drop(columns='kind').assign(rank=[2, 0, 1, 0])", names=names, label="rank", shuffle=False)
    )
    assert column(whole.train_dataloader()).tolist() == [2, 0, 1, 0]
    numbers = ready(data("frame.drop(columns='kind')", names=names, label="price", shuffle=False))
    assert column(numbers.train_dataloader()).dtype == torch.float32


def test_a_generator_is_made_anew_every_epoch():
    cell = """
size: int = 7
def samples(n):
    for i in range(n):
        yield torch.tensor([float(i)] * 4), i % 3
samples(size)
"""
    definition = data(cell, batch_size=3)
    instance = ready(definition, size=5)
    for _ in range(2):
        assert column(instance.train_dataloader(), 0)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (definition.form, has(definition)) == ("stream", ["train"])
    run = trainer(max_epochs=2)
    run.fit(model("nn.Linear(4, 3)", loss="cross_entropy").new(), datamodule=definition.new())
    assert run.global_step == 6


def test_workers_share_a_stream(elsewhere):
    script = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from notebook import data
cell = "def samples():\\n    yield from torch.arange(10.0).reshape(10, 1)\\nsamples()"
definition = data(cell, num_workers=2, batch_size=2)
instance = definition.new()
instance.setup("fit")
loader = instance.train_dataloader()
assert loader.persistent_workers
print(sorted(torch.cat(list(loader)).flatten().tolist()))
"""
    done = elsewhere.run(script, Path(__file__).parents[2])
    assert done.stdout.strip() == str([float(i) for i in range(10)]), done.stderr


def test_an_iterable_dataset_is_used_as_it_is():
    cell = "class S(IterableDataset):\n    def __iter__(self):\n        return iter(torch.arange(6.0))\nS()"
    definition = data(cell, batch_size=4)
    assert torch.cat(list(ready(definition).train_dataloader())).tolist() == [0, 1, 2, 3, 4, 5]
    assert definition.form == "iterable"


def test_loaders_are_used_as_they_are():
    names = namespace(a=DataLoader(torch.ones(4, 2)), b=DataLoader(torch.ones(2, 2)))
    instance = ready(data("a, b", names=names))
    assert (instance.train_dataloader(), instance.val_dataloader()) == (names["a"], names["b"])
    assert ready(data("a", names=names)).train_dataloader() is names["a"]
    assert ready(data("{'train': a, 'test': b}", names=names)).test_dataloader() is names["b"]


def test_bare_hooks_become_methods():
    cell = """
size: int = 6
def setup(self, stage=None):
    self.set = TensorDataset(torch.ones(size, 4), torch.zeros(size, dtype=int))
def train_dataloader(self):
    return DataLoader(self.set, batch_size=batch_size)
"""
    definition = data(cell, batch_size=2)
    instance = ready(definition, size=8, batch_size=4)
    assert (len(instance.set), instance.train_dataloader().batch_size) == (8, 4)
    assert dict(definition.new().hparams) == {"size": 6, "batch_size": 2}
    assert data(cell).new().hparams.batch_size == 32
    with pytest.raises(InputError, match=r"--num_workers would have no effect on this data. It takes --batch_size"):
        data(cell, num_workers=2)


def test_hooks_beside_data_go_first():
    cell = f"scale = 3\ndef val_dataloader(self):\n    return DataLoader(self.data, batch_size=scale)\n{COUNTED}"
    assert ready(data(cell)).val_dataloader().batch_size == 3


@pytest.mark.parametrize("package", PACKAGES)
def test_a_datamodule_class_is_taken_as_it_is(package):
    names = namespace()
    start = "    def __init__(self, n=3):\n        super().__init__()"
    cell = f"import {package} as pl\nclass Mine(pl.LightningDataModule):\n{start}"
    definition = data(cell, name="mine", names=names)
    assert definition.cls is names["Mine"] is names["mine"]
    assert (definition.form, definition.package) == ("class", package)
    assert data(names["Mine"], name=None, names=names).name == "Mine"
    with pytest.raises(InputError, match=r"--batch_size would have no effect: Mine is a complete LightningDataModule"):
        data(cell, names=names, batch_size=2)
    with pytest.raises(InputError, match=r"mine has no hyperparameter 'm'. It has n"):
        definition.new(m=2)


def test_objects_of_the_notebook_are_adopted_by_name():
    names = namespace(pair=(torch.ones(6, 4), torch.zeros(6)))
    definition = data(names["pair"], name="pair", names=names, val_split=2)
    assert ready(definition).data is names["pair"]
    assert isinstance(names["pair"], tuple)
    assert definition.cls.__name__ == "PairData"
    unnamed = data(TensorDataset(torch.ones(3, 1)), name="other", names=names)
    assert len(ready(unnamed).splits["train"]) == 3


def test_classes_of_the_notebook_keep_their_names():
    names = namespace(DigitsData=3)
    assert data(COUNTED, names=names).cls.__name__ == "DigitsDataModule"
    assert data(COUNTED, names=names).cls.__name__ == "DigitsDataModule"
    assert names["DigitsData"] == 3


def test_the_source_is_plain_lightning_and_loads_the_same():
    definition = data(COUNTED, val_split=0.25)
    assert "lightning_magics" not in definition.source
    alone = {"__name__": "script"}
    exec(definition.source, alone)
    instance = alone["DigitsData"]()
    instance.setup()
    assert torch.equal(column(instance.val_dataloader(), 0), column(ready(definition).val_dataloader(), 0))


def test_errors_while_data_loads_stand_on_the_cells_lines():
    definition = data("size: int = 3\nX = torch.ones(12 // size, 2)\nTensorDataset(X)")
    with pytest.raises(ZeroDivisionError) as caught:
        ready(definition, size=0)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (CELL, 3, "X = torch.ones(12 // size, 2)")
    assert definition.cls.setup.__code__.co_filename == "<lightning_source DigitsData>"
    assert inspect.getsource(definition.cls.setup) in definition.source


def test_datamodules_travel_by_value():
    instance = ready(data(COUNTED, val_split=2))
    assert len(cloudpickle.loads(cloudpickle.dumps(instance)).splits["val"]) == 2


@pytest.mark.parametrize(
    ("cell", "asked", "message"),
    [
        ("x = 1", {}, r"it does not end in an expression \(add a last line: x\). Data is a Dataset"),
        ("'train'", {}, r"type str cannot be loaded as data. Data is a Dataset"),
        ("'train.csv'", {}, r"files are read as texts, which need --text COLUMN, --label COLUMN and --tokenizer NAME"),
        ("def f(): pass\nf", {}, r"f is a function, which cannot be loaded as data. Call it: f\(\)"),
        (
            "torch.ones(3, 2), torch.ones(2)",
            {},
            r"different lengths \(3, 2\).*\(\(X_train, y_train\), \(X_val, y_val\)\)",
        ),
        ("{'trian': loader}", {}, r"a key for each split; found 'trian'. Did you mean 'train'\?"),
        ("{'train': loader, 'val': frame['b'].values}", {}, r"some splits are DataLoaders and some are not"),
        ("{'val': loader, 'dev': loader}", {}, r"two keys are for the split 'val': 'val', 'dev'"),
        ("frame", {}, r"a label column. Add --label COLUMN, one of a, b, kind, price"),
        ("frame", {"label": "prize"}, r"--label prize: there is no such column. Did you mean 'price'\?"),
        ("frame", {"label": "a"}, r"columns that are not numeric: kind. Encode them"),
        ("frame.replace(2.0, float('nan'))", {"label": "kind"}, r"columns with missing values: a, b, price. Fill them"),
        (
            COUNTED,
            {"label": "a"},
            r"--label would have no effect: it names a column of a DataFrame; found TensorDataset",
        ),
        (COUNTED, {"val_split": 1.5}, r"--val_split 1.5 is neither a fraction between 0 and 1 nor less than the 20"),
        (COUNTED, {"val_split": 0.01}, r"--val_split 0.01: 20 samples leave an empty split"),
        (COUNTED, {"val_split": 15, "test_split": 5}, r"--val_split 15 --test_split 5: 20 samples leave an empty"),
        (COUNTED, {"split_seed": 3}, r"--split_seed would have no effect on this data. It takes --batch_size, --num_w"),
        ("loader", {"batch_size": 3}, r"--batch_size would have no effect on this data. Set it in the cell"),
        ("loader", {"val_split": 3}, r"--val_split 3 is not possible: the data is a DataLoader"),
        (
            "{'train': loader.dataset, 'val': loader.dataset}",
            {"val_split": 3},
            r"--val_split 3 would have no effect: .* already has a val",
        ),
        ("(i for i in range(3))", {"val_split": 3}, r"--val_split 3 is not possible: the data is a stream"),
        ("(i for i in range(3))", {"shuffle": False}, r"--shuffle would have no effect on this data"),
        ("size: int\ntorch.ones(size, 2)", {}, r"data is loaded as soon as it is defined, but 'size' has no value"),
    ],
)
def test_what_cannot_be_used_is_said(cell, asked, message):
    names = namespace(frame=FRAME, loader=DataLoader(torch.ones(6, 2)))
    with pytest.raises(InputError, match=message):
        data(cell, names=names, **asked)


def test_a_split_that_is_overridden_out_of_bounds_is_an_error():
    with pytest.raises(ValueError, match=r"20 samples cannot be split into \{'val': 30\}"):
        ready(data(COUNTED, val_split=2), val_split=30)


def test_a_generator_object_cannot_be_adopted():
    names = namespace(stream=(i for i in range(3)))
    with pytest.raises(
        InputError, match=r"stream is a generator, which can be read only once.*%%lightning_data stream"
    ):
        data(names["stream"], name="stream", names=names)


@pytest.mark.parametrize(
    "value",
    [TensorDataset(torch.ones(5, 2)), torch.ones(5, 2), (np.ones((5, 2)), np.ones(5)), [(torch.ones(2), 1)] * 5],
)
def test_raw_data_gets_a_loader(value):
    first, second = samples.to_dataloaders([value, value], [True, False], {"batch_size": 2})
    samplers = [type(loader.sampler).__name__ for loader in (first, second)]
    assert samplers == ["RandomSampler", "SequentialSampler"]
    assert len(first) == len(second) == 3
    assert len(samples.to_dataloaders([value], [False], {"batch_size": 5})[0]) == 1


def test_loaders_pass_and_streams_are_loaded():
    loader = DataLoader(torch.ones(3, 1))
    assert samples.to_dataloaders([loader], [True], {}) == [loader]
    assert len(list(samples.to_dataloaders([range(5)], [False], {"batch_size": 2})[0])) == 3


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (torch.ones(3), {"batchsize": 3}, r"--data.batchsize is not available here. Did you mean 'batch_size'\?"),
        (DataLoader(torch.ones(3)), {"batch_size": 3}, r"--data.batch_size would have no effect on a DataLoader"),
        ("x.csv", {}, r"type str cannot be loaded as data"),
        (FRAME, {}, r"a DataFrame needs a label column: %lightning_data NAME --label COLUMN"),
        ((i for i in range(3)), {}, r"a generator can be read only once. Create it in a %%lightning_data"),
    ],
)
def test_raw_data_that_cannot_be_loaded_is_described(value, options, message):
    with pytest.raises(InputError, match=message):
        samples.to_dataloaders([value], [True], options)


class Pictures(torch.utils.data.Dataset):
    """Images as torchvision's datasets give them; it counts how often one is read."""

    def __init__(self, transform=None):
        self.transform = transform
        self.reads = []

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.reads.append(index)
        image = Image.new("L", (2, 2))
        return (image if self.transform is None else self.transform(image)), index % 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([(Image.new("RGB", (2, 2)), 0)] * 4, r"a sample holds a PIL image \(Image\), .*torchvision.*ToTensor\(\)"),
        (Pictures(), r"a sample holds a PIL image"),
        (torch.utils.data.Subset(Pictures(), [1, 2]), r"a sample holds a PIL image"),
        ([{"x": torch.ones(2), "image": Image.new("L", (2, 2))}] * 4, r"a sample holds a PIL image"),
        ([(torch.ones(2), None)] * 4, r"a sample holds a value of type NoneType"),
        ([(np.array(["a", "b"]), 1)] * 4, r"a sample holds an array of <U1"),
    ],
)
def test_samples_of_which_no_batch_can_be_made_are_refused(value, message):
    with pytest.raises(InputError, match=message) as refused:
        samples.to_dataloaders([value], [True], {})
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=message):
        data("value", names={**namespace(), "value": value})


def test_samples_of_which_a_batch_can_be_made_are_taken_and_not_read_before():
    pictures = Pictures(transform=lambda image: torch.tensor(np.array(image)))
    loader = samples.to_dataloaders([pictures], [False], {})[0]
    assert pictures.reads == []
    assert next(iter(loader))[0].shape == (4, 2, 2)
    for sample in [("text", 1.5), {"x": np.float32(1), "y": b"1"}, (torch.ones(2), [1, 2], True)]:
        assert len(next(iter(samples.to_dataloaders([[sample] * 4], [False], {})[0]))) == len(sample)


def test_a_cell_with_a_collate_function_of_its_own_takes_any_samples():
    cell = (
        "def train_dataloader(self):\n"
        "    return DataLoader(pictures, batch_size=2, collate_fn=lambda items: torch.tensor([y for _, y in items]))\n"
    )
    instance = ready(data(cell, names={**namespace(), "pictures": Pictures(), "DataLoader": DataLoader}))
    assert next(iter(instance.train_dataloader())).tolist() == [0, 1]


def test_a_cell_can_rebind_a_variable_of_the_notebook():
    names = namespace(X=torch.full((6, 4), 32.0), y=torch.arange(6))
    instance = ready(data("X = X / 16\nX, y", names=names), shuffle=False)
    assert column(instance.train_dataloader(), 0).unique().tolist() == [2]
    assert names["X"].unique().tolist() == [32]


def test_a_hook_reads_what_the_cell_made_while_loading():
    cell = """
X = torch.arange(24.0).reshape(6, 4)
mean = X.mean(0)
def on_after_batch_transfer(self, batch, dataloader_idx):
    return batch - mean
X
"""
    instance = ready(data(cell))
    assert instance.on_after_batch_transfer(torch.zeros(4), 0).tolist() == [-10, -11, -12, -13]


def test_a_property_keeps_its_getter_and_its_setter():
    cell = """
@property
def scale(self):
    return self._scale
@scale.setter
def scale(self, value):
    self._scale = value
[1, 2]
"""
    instance = data(cell).new()
    instance.scale = 7
    assert instance.scale == 7


def test_data_without_a_name_of_its_own_is_a_class_data():
    assert data("[1, 2]", name=None).cls.__name__ == "Data"
    assert data("[1, 2]", name="train_data").cls.__name__ == "TrainData"


def test_a_cells_own_import_tells_its_package():
    definition = data("import pytorch_lightning as pl\n[1, 2]")
    assert definition.package == package_of(definition.cls) == "pytorch_lightning"


def test_whole_numbers_as_labels_are_not_guessed_to_be_classes():
    names = namespace(frame=pd.DataFrame({"a": [1.0, 2, 3, 4], "price": [100, 250, 100, 900]}))
    with pytest.raises(InputError, match=r"price contains whole numbers.*astype\(\{'price': 'float32'\}\).*'category'"):
        data("frame", names=names, label="price")
    instance = ready(data("frame.astype({'price': 'category'})", names=names, label="price", shuffle=False))
    assert column(instance.train_dataloader()).tolist() == [0, 1, 0, 2]
    names["frame"]["price"] = [True, False, False, True]
    instance = ready(data("frame", names=names, label="price", shuffle=False))
    assert column(instance.train_dataloader()).tolist() == [1, 0, 0, 1]


def test_the_users_setup_comes_after_the_data_is_loaded():
    cell = """
def setup(self, stage=None):
    \"\"\"Count.\"\"\"
    self.count = len(self.splits["train"])
[torch.ones(2), torch.zeros(2)]
"""
    instance = ready(data(cell))
    assert instance.count == 2
    assert len(list(instance.train_dataloader())) == 1


def test_arrays_of_text_are_no_features():
    with pytest.raises(InputError, match=r"array of type <U1 is not numeric.*Only the labels of \(X, y\)"):
        data("np.array(['a'])", names=namespace(np=np))
    with pytest.raises(InputError, match="is not numeric"):
        samples.to_dataloaders([np.array(["a", "b"])], [False], {})


@pytest.mark.parametrize(
    "cell", ["[[1., 2.], [3., 4.]], [0, 1]", "[[[1, 2], [3, 4]], ['a', 'b']]", "np.ones((2, 4)), [0, 1]"]
)
def test_lists_that_may_be_columns_are_not_taken_for_splits(cell):
    with pytest.raises(InputError, match=r"2 lists of 2 could be columns or splits.*np.array\(X\).*'train'"):
        data(cell, names=namespace(np=np))


def test_validation_can_have_several_loaders():
    names = namespace(a=DataLoader([1, 2]), b=DataLoader([3]))
    for cell in ("{'train': a, 'val': [a, b]}", "a, [a, b]"):
        instance = ready(data(cell, names=names))
        assert [len(loader) for loader in instance.val_dataloader()] == [2, 1]


def test_defining_leaves_every_random_state_alone():
    states = (np.random.get_state()[2], torch.get_rng_state().tolist())
    data("torch.rand(4, 2), torch.from_numpy(np.random.rand(4))", names=namespace(np=np))
    assert states == (np.random.get_state()[2], torch.get_rng_state().tolist())


def own_memory_bytes():
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_arrays_in_a_mapped_file_stay_there(tmp_path, kind):
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", mode="w+", dtype=kind, shape=(4000, 4096))
    rows[:] = np.arange(4000)[:, None]
    rows.flush()
    np.save(tmp_path / "labels.npy", np.arange(4000, dtype="int32"))
    del rows
    names = namespace(place=str(tmp_path), np=np)
    cell = "X = np.load(f'{place}/rows.npy', mmap_mode='r')\nX[4:], np.load(f'{place}/labels.npy')[4:]"
    before = own_memory_bytes()
    instance = ready(data(cell, names=names, val_split=0.5, batch_size=100))
    directly = samples.to_dataloaders([eval("np.load(f'{place}/rows.npy', mmap_mode='r')", names)], [True], {})[0]
    (features, labels), alone = next(iter(instance.train_dataloader())), next(iter(directly))
    assert own_memory_bytes() - before < 4000 * 4096  # bytes; the file holds four or eight times as many
    assert (features.dtype, labels.dtype, alone.dtype) == (torch.float32, torch.int64, torch.float32)
    assert features.shape == (100, 4096)
    assert torch.equal(features[:, 7], labels.float())
    assert describe(instance.train_dataloader().dataset).count(", ") == 1  # with a hash


def test_the_names_of_a_cell_stay_in_the_notebook():
    names = namespace(loads=[], old=torch.full((6, 4), 32.0))
    cell = """
size: int = 6
loads.append(1)
def halved(): return X / 2
X, y = torch.rand(size, 4), torch.arange(size) % 3
old = old / 16
X, (first, *rest) = X * 2, y.tolist()
for i in range(3): pass
TensorDataset(halved(), y)
"""
    known, asked = {}, options.DataOptions(shuffle=False)
    for _ in range(2):
        known["digits"] = datamodule.data_definition(
            "digits", source(cell), asked, names, "lightning.pytorch", known=known
        )
        instance = ready(known["digits"])
        assert torch.equal(names["X"] / 2, column(instance.train_dataloader(), 0))
        assert (names["y"].tolist(), names["first"], names["rest"]) == ([0, 1, 2] * 2, 0, [1, 2, 0, 1, 2])
        assert (names["i"], names["size"], names["old"].unique().tolist()) == (2, 6, [32])
    assert names["halved"]().shape == (6, 4)
    assert len(names["loads"]) == 2


def test_names_of_a_cell_that_hooks_or_texts_share_stay_too():
    names = namespace(rows=[("good film", "a"), ("bad film", "b")] * 4)
    data("count = len(rows)\nrows * 2", names=names, vocab_size=60, max_length=8)
    assert names["count"] == 8
    data("X = torch.ones(4, 2)\nmean = X.mean(0)\ndef prepare_data(self):\n    self.m = mean\nX", names=names)
    assert names["mean"].tolist() == [1, 1]


def test_a_model_made_of_the_names_of_a_data_cell_trains_again_and_elsewhere(shell, elsewhere, tmp_path):
    cells = (
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset",
        "%%lightning_data digits\nwide: int = 5\ntorch.manual_seed(3)\nX = torch.randn(40, wide)\n"
        "X[0] = 2\ny = (X.sum(1) > 0).long()\nTensorDataset(X, y)",
        "%%lightning_model Net --loss cross_entropy --lr 0.1\nscale = X.std()\n"
        "nn.Sequential(nn.Linear(X.shape[1], wide), nn.Tanh(), nn.Linear(wide, int(y.max()) + 1), nn.Softplus(scale))",
        "run = %lightning_fit Net digits --max_epochs 2 --seed 1 --quiet",
        "again = %lightning_rerun Net/version_0 --quiet\n%lightning_export run train.py",
    )
    for cell in cells:
        shell.run_cell(cell).raise_error()
    metrics = shell.user_ns["run"].metrics
    assert shell.user_ns["again"].metrics == metrics
    done = elsewhere.run(
        f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path('train.py', run_name='__main__')"
    )
    printed = dict(line.split("=") for line in done.stdout.splitlines() if line.startswith("train_loss="))
    assert float(printed["train_loss"]) == metrics["train_loss"], done.stderr


BACKWARDS = {
    "columns": (lambda frame: frame.iloc[:, ::-1], "code"),
    "rows and classes": (lambda frame: frame.iloc[::-1].assign(code=["x", "y", "z"]), "code"),
    "rows and indices": (lambda frame: frame.assign(code=range(3)).iloc[::-1], "code"),
    "rows and numbers": (lambda frame: frame.assign(code=[0.5, 1.5, 2.5]).iloc[::-1], "code"),
    "one block": (lambda frame: pd.DataFrame(frame.to_numpy()[::-1, ::-1], columns=list(frame)), "code"),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_tables_that_pandas_reads_backwards_are_taken(name):
    turn, label = BACKWARDS[name]
    frame = turn(pd.DataFrame(np.arange(9.0).reshape(3, 3), columns=["left", "right", "code"]))
    made = ready(data("frame", names=namespace(frame=frame), label=label))
    expected = frame.drop(columns=label).to_numpy("float32").tolist()
    features, labels = made.splits["train"].tensors
    assert features.tolist() == expected
    assert labels.tolist() == ([0, 1, 2] if "classes" in name else frame[label].tolist())


@pytest.mark.parametrize("turn", ["X[::-1]", "np.flip(X)", "X[:, ::-1]", "X.astype('>f4')", "X.astype('>i8')[::-1]"])
def test_arrays_that_torch_does_not_read_as_they_lie_are_taken(turn):
    X = np.arange(6.0, dtype="float32").reshape(3, 2)
    turned = eval(turn, {"np": np, "X": X})
    made = ready(data("turned, turned[:, 0]", names=namespace(turned=turned)))
    dataset = samples.as_dataset((turned, turned[:, 0]), "arrays")
    for tensors in (made.splits["train"].tensors, dataset.tensors):
        assert [item.tolist() for item in tensors] == [turned.tolist(), turned[:, 0].tolist()]
