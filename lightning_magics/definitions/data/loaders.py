"""The methods of a generated DataModule: load, setup with its splits, and the loaders.

Every text here is plain Lightning with capital names for what `datamodule` fills in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from ...runs.columns import Labels
from ..generated import expression, method, snippet
from .samples import Split, SplitData

_SETUP = '''
def setup(self, stage=None):
    """Load the data and prepare its splits, once per instance."""
    if self.data is None:
        self.data = self.load()
    if not self.splits:
        SPLIT
'''
_SETUP_STREAM = '''
def setup(self, stage=None):
    """Prepare the splits, which reload their samples for every epoch."""
    if not self.splits:
        SPLIT
'''
_SETUP_LOADED = '''
def setup(self, stage=None):
    """Create the loaders, once per instance."""
    if self.data is None:
        self.data = self.load()
'''
_SPLIT = """
dataset = self.splits["train"]
requested = PARTS
sizes = {name: size if isinstance(size, int) else round(size * len(dataset)) for name, size in requested.items()}
rest = len(dataset) - sum(sizes.values())
if rest < 1 or min(sizes.values()) < 1:
    raise ValueError(f"{len(dataset)} samples cannot be split into {requested}")
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
    array = numpy.require(values, requirements=["C", "W"])
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if tensor.dtype == torch.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if tensor.ndim == 1 and not tensor.is_floating_point() else tensor
'''
_STREAM = '''
class STREAM(torch.utils.data.IterableDataset):
    """Reloads the samples for every epoch; each DataLoader worker takes its share."""

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
    """Memory-mapped arrays; each sample is read on demand."""

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
_TABLES = '''
def _tables(self):
    """Return the table of each split."""
    return TABLES
'''
_LEARN = '''
def _learn(self, table):
    """Record the columns and classes of the first table that a model is trained on."""
    if self.columns is None:
        features = FEATURES
        self.columns = {name: str(kind) for name, kind in features.dtypes.items()}
        CLASSES
'''
_LEARN_CLASSES = """
self.classes = [self._class_name(value) for value in table[self.label].astype("category").cat.categories]
"""
_FILLED = """
tables = self._tables()
self._learn(tables[FIRST])
SPLITS
"""
_ROWS = '''
def _rows(self, table):
    """Return the rows of a table: the features in column order, and the labels if there are any."""
    features = torch.tensor(table[list(self.columns)].to_numpy("float32").copy())
    columns = [features, self._target(table[self.label])] if self.label in table.columns else [features]
    return torch.utils.data.TensorDataset(*columns)
'''
_TARGET = '''
def _target(self, labels):
    """Return labels as numbers: classes as indices, other labels unchanged."""
    if self.labels == "numbers":
        return torch.tensor(labels.to_numpy("float32").copy())
    if self.labels == "indices":
        return torch.tensor(labels.astype("int64").to_numpy("int64").copy())
    labels = labels.astype("category").cat.remove_unused_categories().cat
    places = [self.classes.index(self._class_name(value)) for value in labels.categories]
    return torch.tensor(places, dtype=torch.int64)[torch.tensor(labels.codes.to_numpy("int64").copy())]
'''
_CLASS_NAME = '''
@staticmethod
def _class_name(value):
    """Return the name of a class; whole numbers are written without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
'''
_NUMBERED = '''
def _numbered(self, data, names):
    """Return features and labels, with class names as the numbers of their classes."""
    return (*data[:-1], self._target(names))
'''
_ORDERED = '''
def _ordered(self, data):
    """Return features and labels, with the feature columns in training order."""
    table, *others = data
    return (FEATURES, *others)
'''


def setup_method(parts: dict[Split, SplitData], new_splits: list[str], statements: list[ast.stmt]) -> ast.FunctionDef:
    """Return `setup`.

    Args:
        parts: what the data comes in.
        new_splits: splits that are taken from the training data, by the hyperparameters ``val_split``, ``test_split``.
        statements: statements that fill ``self.splits``.
    """
    forms = {part.form for part in parts.values()}
    if forms == {"loaders"}:
        return method(_SETUP_LOADED)
    body = list(statements)
    if new_splits:
        sizes = ", ".join(f"'{name}': self.hparams.{name}_split" for name in new_splits)
        body += snippet(_SPLIT, PARTS=expression(f"{{{sizes}}}"))
    return method(_SETUP_STREAM if forms == {"stream"} else _SETUP, SPLIT=body)


def split_statements(parts: dict[Split, SplitData], owner: str) -> list[ast.stmt]:
    """Return the statements that fill ``self.splits`` from what was loaded.

    Args:
        parts: what the data comes in.
        owner: name of the DataModule class.
    """
    statements: list[ast.stmt] = []
    if any(part.form == "table" for part in parts.values()):
        statements = snippet("self.splits = {split: self._rows(table) for split, table in tables.items()}")
    else:
        for name, part in parts.items():
            statements += snippet("self.splits[NAME] = DATASET", NAME=ast.Constant(name), DATASET=_dataset(part, owner))
    if has_columns(parts):
        first = "train" if "train" in parts else next(iter(parts))
        statements = snippet(_FILLED, FIRST=ast.Constant(first), SPLITS=statements)
    if set(parts) == {"train"} and parts["train"].has_order:
        statements += snippet('self.splits["predict"] = self.splits["train"]')
    return statements


def has_columns(parts: dict[Split, SplitData]) -> bool:
    """Whether the features of data are tables, whose columns have names, or its labels are names of classes."""
    return any(part.table is not None or part.names for part in parts.values())


def table_attributes(label: Any, labels: Labels) -> list[ast.stmt]:
    """Return the statements that begin an instance of data of tables.

    Args:
        label: name of the column of labels, None if it is not known.
        labels: what they are.
    """
    text = "self.label = LABEL\nself.labels = LABELS\nself.columns = None\nself.classes = None"
    return snippet(text, LABEL=_constant(label), LABELS=ast.Constant(labels))


def table_methods(parts: dict[Split, SplitData], labels: Labels) -> list[ast.FunctionDef]:
    """Return the methods that read tables by the names of their columns, and labels by the names of their classes."""
    tables = [_table(part) for part in parts.values() if part.table is not None or part.names]
    split_names = [ast.Constant(name) for name, part in parts.items() if part.table is not None or part.names]
    is_table = any(part.form == "table" for part in parts.values())
    has_names = any(part.names for part in parts.values())
    text = "table.drop(columns=[self.label], errors='ignore')" if is_table or has_names else "table"
    classes = snippet(_LEARN_CLASSES) if labels == "classes" else []
    methods = [
        method(_TABLES, TABLES=ast.Dict(list(split_names), tables)),
        method(_LEARN, FEATURES=expression(text), CLASSES=classes),
    ]
    if is_table:
        return [*methods, method(_ROWS), method(_TARGET), method(_CLASS_NAME)]
    methods += [method(_NUMBERED), method(_TARGET), method(_CLASS_NAME)] if has_names else []
    if not any(part.table is not None for part in parts.values()):
        return methods
    of_pandas = all(part.table == "pandas" for part in parts.values() if part.table is not None)
    ordered = "TABLE[list(self.columns)]" if of_pandas else "TABLE.to_pandas()[list(self.columns)]"
    ordered += ".to_numpy('float64')" if any(part.mixed for part in parts.values()) else ""
    return [*methods, method(_ORDERED, FEATURES=expression(ordered, TABLE=ast.Name("table", ast.Load())))]


def _table(part: SplitData) -> ast.expr:
    """Return the table of a split, as an expression over what was loaded."""
    text = "self.data" if part.key is None else "self.data[KEY]"
    text += "" if part.form == "table" else "[0]"
    text = text if part.table == "pandas" else f"{text}.to_pandas()"
    if part.names and part.table is None:
        return expression("NAMES.to_frame(self.label)", NAMES=_names(part))
    if part.names:
        text = f"pandas.concat([{text}.reset_index(drop=True), NAMES.rename(self.label)], axis=1)"
        return expression(text, NAMES=_names(part), KEY=_constant(part.key))
    return expression(text, KEY=_constant(part.key))


def _names(part: SplitData) -> ast.expr:
    """Return the labels of a split that are names of classes, as an expression over what was loaded."""
    data = "self.data[-1]" if part.key is None else "self.data[KEY][-1]"
    series = f"{data}.reset_index(drop=True)"
    text = series if part.names == "series" else f"pandas.Series(numpy.asarray({data}).reshape(-1))"
    return expression(text, KEY=_constant(part.key))


def _constant(value: Any) -> ast.expr:
    """Return the code of a plain value."""
    return ast.parse(repr(value), mode="eval").body if isinstance(value, tuple) else ast.Constant(value)


def _dataset(part: SplitData, owner: str) -> ast.expr:
    """Return the dataset of a split, as an expression over what was loaded."""
    key = ast.Constant(part.key)
    data = expression("self.data" if part.key is None else "self.data[KEY]", KEY=key)
    if part.form == "stream":
        cls = ast.Name(f"{owner}Stream", ast.Load())
        return expression("CLS(self.load)" if part.key is None else "CLS(self.load, KEY)", CLS=cls, KEY=key)
    if part.form == "tensors":
        return expression("torch.utils.data.TensorDataset(*DATA)", DATA=data)
    if part.table is not None:
        data = expression("self._ordered(DATA)", DATA=data)
    if part.names:
        data = expression("self._numbered(DATA, NAMES)", DATA=data, NAMES=_names(part))
    if part.is_mapped:
        return expression("CLS(DATA, self._tensor)", CLS=ast.Name(f"{owner}Arrays", ast.Load()), DATA=data)
    if part.form == "arrays":
        several = "torch.utils.data.TensorDataset(*map(self._tensor, DATA))"
        return expression(several if part.several else "self._tensor(DATA)", DATA=data)
    return data


def loader_methods(parts: dict[Split, SplitData], names: list[Split]) -> list[ast.FunctionDef]:
    """Return the methods that give a loader for each split, and what they call."""
    methods = []
    if any(part.form == "loaders" for part in parts.values()):
        for name in names:
            key = parts[name].key
            data = expression("self.data" if key is None else "self.data[KEY]", KEY=ast.Constant(key))
            methods.append(_named(method('def NAME(self):\n    """TEXT"""\n    return DATA', DATA=data), name))
        return methods
    for name in names:
        shuffled = name == "train" and parts["train"].has_order
        text = "self._loader(NAME, shuffle=self.hparams.shuffle)" if shuffled else "self._loader(NAME)"
        call = expression(text, NAME=ast.Constant(name))
        methods.append(_named(method('def NAME(self):\n    """TEXT"""\n    return CALL', CALL=call), name))
    methods.append(method(_LOADER))
    if any(part.form == "arrays" for part in parts.values()):
        methods.append(method(_TO_TENSOR))
    return methods


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


def helper_classes(parts: Iterable[SplitData], owner: str) -> list[ast.ClassDef]:
    """Return the classes that the DataModule needs beside itself: for a stream, and for arrays in files."""
    parts = list(parts)
    needed = {"Stream": any(part.form == "stream" for part in parts), "Arrays": any(part.is_mapped for part in parts)}
    definitions = []
    for suffix, is_needed in needed.items():
        if is_needed:
            (cls,) = snippet({"Stream": _STREAM, "Arrays": _MAPPED}[suffix])
            assert isinstance(cls, ast.ClassDef)
            cls.name = f"{owner}{suffix}"
            definitions.append(cls)
    return definitions
