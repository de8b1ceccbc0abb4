"""The methods of a generated DataModule: load, setup with its splits, and the loaders.

Every text here is plain Lightning with capital names for what `datamodules` fills in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Literal

from .generated import expression, method, snippet
from .samples import Part, Split

_SETUP = '''
def setup(self, stage=None):
    """Load the data and prepare its splits, once for an instance."""
    if self.data is None:
        self.data = self.load()
    if not self.splits:
        SPLIT
'''
_SETUP_STREAM = '''
def setup(self, stage=None):
    """Prepare the splits, which load their samples anew for every epoch."""
    if not self.splits:
        SPLIT
'''
_SETUP_LOADED = '''
def setup(self, stage=None):
    """Make the loaders, once for an instance."""
    if self.data is None:
        self.data = self.load()
'''
_SPLIT = """
dataset = self.splits["train"]
asked = PARTS
sizes = {name: size if isinstance(size, int) else round(size * len(dataset)) for name, size in asked.items()}
rest = len(dataset) - sum(sizes.values())
if rest < 1 or min(sizes.values()) < 1:
    raise ValueError(f"{len(dataset)} samples cannot be split into {asked}")
generator = torch.Generator().manual_seed(self.hparams.split_seed)
parts = torch.utils.data.random_split(dataset, [rest, *sizes.values()], generator=generator)
self.splits.update(zip(["train", *sizes], parts))
"""
_LOADER = '''
def _loader(self, split, shuffle=None):
    """Return a loader of a split."""
    return torch.utils.data.DataLoader(
        self.splits[split],
        batch_size=self.hparams.batch_size,
        shuffle=shuffle,
        num_workers=self.hparams.num_workers,
        persistent_workers=self.hparams.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
'''
_TO_TENSOR = '''
@staticmethod
def _tensor(values):
    """Return an array as a tensor: float64 as torch's default float, labels of whole numbers as int64."""
    if isinstance(values, torch.Tensor):
        return values
    tensor = torch.from_numpy(numpy.require(values, requirements="W"))
    if tensor.dtype == torch.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if tensor.ndim == 1 and not tensor.is_floating_point() else tensor
'''
_STREAM = '''
class STREAM(torch.utils.data.IterableDataset):
    """Loads the samples anew for every epoch; each loading worker takes its share."""

    def __init__(self, load, key=None):
        self.load = load
        self.key = key

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        samples = iter(self.load() if self.key is None else self.load()[self.key])
        return samples if worker is None else islice(samples, worker.id, None, worker.num_workers)
'''
_MAPPED = '''
class MAPPED(torch.utils.data.Dataset):
    """Arrays in files: a sample is read when it is asked for."""

    def __init__(self, arrays, to_tensor):
        self.arrays = arrays
        self.to_tensor = to_tensor

    def __len__(self):
        return len(self.arrays[0] if isinstance(self.arrays, tuple | list) else self.arrays)

    def __getitem__(self, index):
        if not isinstance(self.arrays, tuple | list):
            return self.sample(self.arrays, index)
        return tuple(self.sample(array, index) for array in self.arrays)

    def sample(self, array, index):
        rows = array[index : index + 1]
        return self.to_tensor(rows if isinstance(rows, torch.Tensor) else numpy.array(rows))[0]
'''
_TABLE = """
labels = self.data[LABEL]
features = torch.tensor(self.data.drop(columns=LABEL).to_numpy("float32"))
TARGET
self.splits["train"] = torch.utils.data.TensorDataset(features, target)
"""
_INDICES = """
target = torch.tensor(labels.to_numpy("int64"))
"""
_CLASSES = """
labels = labels.astype("category").cat
self.classes = list(labels.categories)
target = torch.tensor(labels.codes.to_numpy("int64"))
"""
_NUMBERS = """
target = torch.tensor(labels.to_numpy("float32"))
"""
Labels = Literal["numbers", "indices", "classes"]
_TARGETS: dict[Labels, str] = {"numbers": _NUMBERS, "indices": _INDICES, "classes": _CLASSES}


def setup(parts: dict[Split, Part], carved: list[str], splits: list[ast.stmt]) -> ast.FunctionDef:
    """Return `setup`.

    Args:
        parts: what the data comes in.
        carved: splits that are taken from the training data, by the hyperparameters ``val_split``, ``test_split``.
        splits: statements that fill ``self.splits``.
    """
    forms = {part.form for part in parts.values()}
    if forms == {"loaders"}:
        return method(_SETUP_LOADED)
    body = list(splits)
    if carved:
        sizes = ", ".join(f"'{name}': self.hparams.{name}_split" for name in carved)
        body += snippet(_SPLIT, PARTS=expression(f"{{{sizes}}}"))
    return method(_SETUP_STREAM if forms == {"stream"} else _SETUP, SPLIT=body)


def splits(parts: dict[Split, Part], owner: str, label: str | None, labels: Labels) -> list[ast.stmt]:
    """Return the statements that fill ``self.splits`` from what was loaded.

    Args:
        parts: what the data comes in.
        owner: name of the DataModule class.
        label: column of the labels, for a table.
        labels: what the labels of a table are: numbers to predict, classes 0, 1, …, or classes by any names.
    """
    if label is not None:
        made = snippet(_TABLE, LABEL=ast.Constant(label), TARGET=snippet(_TARGETS[labels]))
    else:
        made = []
        for name, part in parts.items():
            made += snippet("self.splits[NAME] = DATASET", NAME=ast.Constant(name), DATASET=_dataset(part, owner))
    if set(parts) == {"train"} and parts["train"].has_order:
        made += snippet('self.splits["predict"] = self.splits["train"]')
    return made


def _dataset(part: Part, owner: str) -> ast.expr:
    """Return the dataset of a split, as an expression over what was loaded."""
    key = ast.Constant(part.key)
    data = expression("self.data" if part.key is None else "self.data[KEY]", KEY=key)
    if part.form == "stream":
        cls = ast.Name(f"{owner}Stream", ast.Load())
        return expression("CLS(self.load)" if part.key is None else "CLS(self.load, KEY)", CLS=cls, KEY=key)
    if part.form == "tensors":
        return expression("torch.utils.data.TensorDataset(*DATA)", DATA=data)
    if part.is_mapped:
        return expression("CLS(DATA, self._tensor)", CLS=ast.Name(f"{owner}Arrays", ast.Load()), DATA=data)
    if part.form == "arrays":
        several = "torch.utils.data.TensorDataset(*map(self._tensor, DATA))"
        return expression(several if part.several else "self._tensor(DATA)", DATA=data)
    return data


def loaders(parts: dict[Split, Part], names: list[Split]) -> list[ast.FunctionDef]:
    """Return the methods that give a loader for each split, and what they call."""
    made = []
    if any(part.form == "loaders" for part in parts.values()):
        for name in names:
            key = parts[name].key
            data = expression("self.data" if key is None else "self.data[KEY]", KEY=ast.Constant(key))
            made.append(_named(method('def NAME(self):\n    """TEXT"""\n    return DATA', DATA=data), name))
        return made
    for name in names:
        shuffled = name == "train" and parts["train"].has_order
        text = "self._loader(NAME, shuffle=self.hparams.shuffle)" if shuffled else "self._loader(NAME)"
        call = expression(text, NAME=ast.Constant(name))
        made.append(_named(method('def NAME(self):\n    """TEXT"""\n    return CALL', CALL=call), name))
    made.append(method(_LOADER))
    if any(part.form == "arrays" for part in parts.values()):
        made.append(method(_TO_TENSOR))
    return made


def _named(function: ast.FunctionDef, split: str) -> ast.FunctionDef:
    """Name a method for the split whose loader it returns."""
    texts = {
        "train": "Return the loader of the training data.",
        "val": "Return the loader of the validation data.",
        "test": "Return the loader of the test data.",
        "predict": "Return the loader of the data to predict for, in the order of the data.",
    }
    function.name = f"{split}_dataloader"
    function.body[0] = ast.Expr(ast.Constant(texts[split]))
    return function


def classes(parts: Iterable[Part], owner: str) -> list[ast.ClassDef]:
    """Return the classes that the DataModule needs beside itself: for a stream, and for arrays in files."""
    parts = list(parts)
    wanted = {"Stream": any(part.form == "stream" for part in parts), "Arrays": any(part.is_mapped for part in parts)}
    made = []
    for suffix, is_wanted in wanted.items():
        if is_wanted:
            (cls,) = snippet({"Stream": _STREAM, "Arrays": _MAPPED}[suffix])
            assert isinstance(cls, ast.ClassDef)
            cls.name = f"{owner}{suffix}"
            made.append(cls)
    return made
