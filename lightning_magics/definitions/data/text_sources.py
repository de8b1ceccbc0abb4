"""What data of texts is: files, frames, rows, pairs; which columns and splits it has; and whether it can be trained on.

The DataModule that is generated for it is in `text_module`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...errors import InputError, MissingPackage, did_you_mean
from ...formats import first_few
from .. import hub
from ..definition import has_base
from ..generated import expression
from . import files
from .samples import SPLITS, Split, check_sizes
from .text_module import CLEANING, Kind, Text, Vocabulary

if TYPE_CHECKING:
    from ...options.parser import DataOptions
    from ..lookup import Notebook

OPTIONS = ("text", "tokenizer", "vocab_size", "vocabulary", "max_length", "clean", "encoding")
# Changing one of these at a fit encodes the texts anew.
ENCODING = frozenset(("tokenizer", "vocab_size", "max_length", "val_split", "test_split", "split_seed"))
Columns = Mapping[str, tuple[Sequence[Any], Sequence[Any]]]  # split → texts, labels

_MOST_CLASSES = 1000
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
_MOST_UNKNOWN = 0.5  # of all tokens of texts
_LEAST_BPE = 260  # the bytes, and four special tokens


def are_for_texts(options: DataOptions) -> bool:
    """Whether options are for texts."""
    return options.text is not None or options.tokenizer is not None or options.vocab_size is not None


def find_texts(value: Any, options: DataOptions, notebook: Notebook) -> tuple[Text, dict[Path, Any]]:
    """Find what texts are in, how they are read, and how they are to be encoded.

    Args:
        value: the data: a path, DataFrame, `datasets.Dataset`, list of dicts or of pairs; or several of one kind, as
            a dict by split or as a tuple of train, val and test.
        options: of the magic.
        notebook: where names are looked up.

    Returns:
        What the DataModule is made of, and the tables of files, which have been read.

    Raises:
        InputError: it is nothing of that, or a column or an option is missing.
    """
    splits = _splits(value)
    kinds = {split: _kind(part) for split, part in splits.values()}
    kind = next(iter(kinds.values()))
    if set(kinds.values()) != {kind}:
        listed = ", ".join(f"{split} {name}" for split, name in kinds.items())
        raise InputError(
            f"the splits are of different kinds: {listed}. Pass all of them as files, or all as DataFrames"
        )
    parts = dict(splits.values())
    if "train" not in parts:
        raise InputError(
            f"texts need a training split, which defines the classes; found only {', '.join(parts)}. Add one: "
            f"{{'train': …, {next(iter(parts))!r}: …}}"
        )
    source = _TextSource(kind, {split: key for key, (split, _) in splits.items()}, options)
    for split, part in parts.items():
        source.check_split(part, "" if list(parts) == ["train"] else f" in the split {split!r}")
        if kind != "file":
            _check_scores(_labels(part, kind, options.label), options.label)
    return source.description(notebook), source.tables


@dataclass
class _TextSource:
    """What is known of the data so far."""

    kind: Kind
    keys: dict[Split, Any]
    options: DataOptions
    text_files: dict[Path, files.TextFile] = field(default_factory=dict)
    tables: dict[Path, Any] = field(default_factory=dict)
    names: bool = False

    def check_split(self, part: Any, where: str) -> None:
        """Look at a split: whether its columns are there, and how its file is read.

        Raises:
            InputError: a column is missing, or the file cannot be read.
        """
        options = self.options
        if self.kind == "pairs":
            useless = [f"--{name}" for name in ("text", "label") if getattr(options, name) is not None]
            if useless:
                raise InputError(f"{', '.join(useless)} would have no effect on pairs of a text and a label")
            return
        if options.encoding is not None and self.kind != "file":
            raise InputError(f"--encoding {options.encoding} would have no effect: the texts are not in a file")
        columns = self._file_columns(Path(part)) if self.kind == "file" else _columns(part)
        for option, value in (("text", options.text), ("label", options.label)):
            if value is None:
                raise InputError(f"texts need --{option} COLUMN. The columns{where} are {first_few(columns)}")
            if value not in columns:
                near = did_you_mean(value, columns)
                raise InputError(
                    f"--{option} {value}: there is no such column{where}.{near} It has {first_few(columns)}"
                )
            if columns.count(value) > 1:
                raise InputError(
                    f"--{option} {value}: {columns.count(value)} columns{where} have that name. Rename one"
                )
        self.names = self.kind == "table" and _has_names(part, options.label)
        if self.names and min(part[options.label], default=0) < 0:
            raise InputError(f"--label {options.label}: some texts{where} have no label (-1). Leave that split out")

    def _file_columns(self, path: Path) -> list[str]:
        """The columns of a file, which is read."""
        try:
            file = files.read(path, (self.options.text, self.options.label), self.options.encoding)
        except ValueError as error:
            raise _unreadable_error(path, error) from error
        for other in self.text_files.values():
            if file.format != other.format:
                raise InputError(
                    f"the files of the splits have different formats: {other.path.name} ({other.format}) and "
                    f"{path.name} ({file.format}). Use one format for all"
                )
        self.text_files[path] = file
        return file.columns

    @property
    def quoted(self) -> bool:
        """Whether quotes go round the fields of the files."""
        return all(file.quoted is not False for file in self.text_files.values())

    def read_tables(self) -> None:
        """Make the tables of the files.

        Raises:
            InputError: one cannot be read.
        """
        for path, file in self.text_files.items():
            try:
                self.tables[path] = files.read_table(file, self.quoted, str(self.options.label))
            except ValueError as error:
                raise _unreadable_error(path, error) from error
        self.text_files = {
            path: dataclasses.replace(file, text="", table=None) for path, file in self.text_files.items()
        }

    def description(self, notebook: Notebook) -> Text:
        """Return what the DataModule is made of.

        Raises:
            InputError: the tokenizer is not told, is told twice, or cannot be had.
        """
        options = self.options
        if (options.tokenizer is None) == (options.vocab_size is None):
            raise InputError(
                "texts need either --tokenizer NAME (such as bert-base-uncased, or a folder) or --vocab_size N, which "
                "builds a vocabulary from the training texts"
            )
        if options.vocabulary is not None and options.vocab_size is None:
            raise InputError("--vocabulary would have no effect without --vocab_size N")
        tokenizer = None
        if options.tokenizer is not None and not isinstance(options.tokenizer, str):
            _check_tokenizer(options.tokenizer)
            tokenizer = notebook.reference(options.tokenizer, "tokenizer")
        self.read_tables()
        file_format = next((file.format for file in self.text_files.values()), files.FileFormat(files.DELIMITED))
        return Text(
            self.kind,
            self.keys,
            options.text,
            options.label,
            file_format.reader,
            file_format.delimiter,
            file_format.encoding,
            self.quoted,
            self.names,
            clean=tuple(_cleaning_step(item, notebook) for item in options.clean),
            tokenizer=tokenizer,
            vocabulary=None if options.vocab_size is None else cast(Vocabulary, options.vocabulary or "wordpiece"),
        )


def _unreadable_error(path: Path, error: ValueError) -> InputError:
    return InputError(f"{path} cannot be read: {' '.join(str(error).split())}")


def resolve_tokenizer(tokenizer: Any, notebook: Notebook) -> Any:
    """Return the tokenizer that an option means: a name or a folder as text, or an object."""
    if isinstance(tokenizer, str):
        tokenizer = notebook.scope.get(tokenizer, tokenizer)
    if isinstance(tokenizer, Path) or (isinstance(tokenizer, str) and tokenizer.startswith("~")):
        tokenizer = str(Path(tokenizer).expanduser())
    return tokenizer


def _check_tokenizer(tokenizer: Any) -> None:
    """Check that an object is a tokenizer of transformers.

    Raises:
        InputError: it is something else.
    """
    if not has_base(tokenizer, "PreTrainedTokenizerBase"):
        kind = type(tokenizer).__name__
        of_tokenizers = type(tokenizer).__module__.partition(".")[0] == "tokenizers"
        example = "transformers.PreTrainedTokenizerFast(tokenizer_object=…, unk_token='[UNK]', pad_token='[PAD]')"
        remedy = f"Wrap it: {example}" if of_tokenizers else "Pass a name, a folder or a tokenizer object"
        raise InputError(f"--tokenizer takes a transformers tokenizer; found a {kind}. {remedy}")


def are_paths(value: Any) -> bool:
    """Whether data is a file, or several."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return bool(parts) and all(map(_is_path, parts))


def hub_dataset_code(name: str, namespace: dict[str, Any]) -> ast.expr:
    """Return code that loads a data set of the Hugging Face hub, by the package datasets.

    Raises:
        InputError: it cannot be had.
    """
    if importlib.util.find_spec("datasets") is None:
        purpose = f"{name} is not a file ({', '.join(files.ENDINGS)}), and loading a dataset from the hub"
        raise MissingPackage("datasets", purpose, "datasets")
    hub.check(name, "dataset")
    namespace.setdefault("datasets", importlib.import_module("datasets"))
    return expression("datasets.load_dataset(NAME)", NAME=ast.Constant(name))


def _splits(value: Any) -> dict[Any, tuple[Split, Any]]:
    """The splits of data by their key in it; None is the key of data that is one.

    Raises:
        InputError: a split has an unknown name, or two have the same.
    """
    if isinstance(value, Mapping) and any(str(key).lower() in SPLITS for key in value):
        splits_by_key: dict[Any, tuple[Split, Any]] = {}
        for key, part in value.items():
            split = SPLITS.get(str(key).lower())
            if split is None and hasattr(value, "column_names"):
                continue  # a DatasetDict may have more, such as "unsupervised"
            if split is None or split == "predict":
                raise InputError(f"texts take the splits train, val and test; found {key!r}")
            if split in [item for item, _ in splits_by_key.values()]:
                raise InputError(f"two keys are for the split {split!r}: {', '.join(map(repr, value))}. Leave one out")
            splits_by_key[key] = (split, part)
        return splits_by_key
    if isinstance(value, tuple) and 1 < len(value) <= 3 and not isinstance(value[0], tuple | str):
        return {place: (split, value[place]) for place, split in enumerate(_IN_ORDER[: len(value)])}
    if isinstance(value, tuple) and 1 < len(value) <= 3 and all(_is_path(item) for item in value):
        return {place: (split, value[place]) for place, split in enumerate(_IN_ORDER[: len(value)])}
    return {None: ("train", value)}


_IN_ORDER: tuple[Split, ...] = ("train", "val", "test")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path) and files.is_file_of_texts(Path(value))


def _kind(part: Any) -> Kind:
    """What one split is.

    Raises:
        InputError: nothing that texts are in.
    """
    if isinstance(part, str | Path):
        return "file"
    if _columns(part) and not isinstance(part, Sequence):
        return "table"
    if isinstance(part, Sequence) and part and all(isinstance(row, Mapping) for row in part):
        return "rows"
    if isinstance(part, Sequence) and part and all(isinstance(row, tuple | list) and len(row) == 2 for row in part):
        return "pairs"
    raise InputError(
        f"texts are in a file ({', '.join(files.ENDINGS)}), a DataFrame, a Dataset of the package datasets, a list of "
        f"dicts or a list of (text, label); found a value of type {type(part).__name__}"
    )


def _columns(part: Any) -> list[str]:
    """The columns of a table, or of the first of a list's rows."""
    if isinstance(part, Sequence) and part and isinstance(part[0], Mapping):
        part = part[0]
    columns = getattr(part, "column_names", None)  # of datasets
    if columns is None:
        columns = getattr(part, "columns", None)  # of a DataFrame
    if columns is None:
        columns = part.keys() if isinstance(part, Mapping) else ()
    return list(columns)


def _has_names(part: Any, label: Any) -> bool:
    """Whether a column of labels has names, as that of a `datasets.Dataset` may."""
    return bool(getattr((getattr(part, "features", None) or {}).get(label), "names", None))


def _cleaning_step(item: Any, notebook: Notebook) -> str | ast.expr:
    """A step of cleaning: its name, or code of the notebook's own function.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(item, str) and item in CLEANING:
        return item
    if isinstance(item, str):
        function = notebook.scope.get(item)
        if item.isidentifier() and not callable(function):
            near = did_you_mean(item, [*CLEANING, *notebook.scope])
            raise InputError(
                f"--clean {item}: neither {', '.join(CLEANING)} nor a function of the notebook has that name.{near}"
            )
        item = notebook.evaluate(item, "--clean") if function is None else function
    if not callable(item):
        raise InputError(f"--clean takes {', '.join(CLEANING)} or a function of a text; found {item!r}")
    return notebook.reference(item, "clean")


def encode_texts(instance: Any, text: Text, tables: Mapping[Path, Any] | None = None) -> Any:
    """Return the encoded texts of a DataModule, with what goes with them.

    Args:
        instance: of its class, with the hyperparameters that they are encoded by.
        text: what it is made of.
        tables: of files that have been read already, by their paths.

    Raises:
        InputError: they cannot be trained on.
    """
    hparams = instance.hparams
    if isinstance(hparams.get("tokenizer"), str):
        hub.check(hparams.tokenizer, "tokenizer")
    if text.vocabulary == "bpe" and hparams.vocab_size < _LEAST_BPE:
        raise InputError(
            f"--vocab_size {hparams.vocab_size} is too small: bpe needs {_LEAST_BPE}, or type --vocabulary wordpiece"
        )
    if tables:
        instance._table = lambda path: tables[Path(path)]
    try:
        columns = instance._columns()
    except ValueError as error:
        raise InputError(f"the texts cannot be read: {' '.join(str(error).split())}") from error
    _check_columns(columns)
    if text.kind == "file":
        _check_file_labels(set(columns["train"][1]))
    check_sizes({split: hparams[f"{split}_split"] for split in text.new_splits}, len(columns["train"][0]))
    encoded = instance._encoded(columns)
    _check_encoded(encoded, set(columns["train"][1]))
    return encoded


def _check_encoded(encoded: Any, all_labels: set[str]) -> None:
    """Check what is left for training, and that the tokenizer is for such texts.

    Args:
        encoded: tokenizer, names of the classes, and encoded texts of each split.
        all_labels: labels of the training texts before some were taken for other splits.

    Raises:
        InputError: a label is in other splits alone, or the tokenizer has no padding token, or does not know what texts
            are made of.
    """
    tokenizer, classes, splits = encoded
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"the tokenizer has no padding token. Set one when loading it, such as tokenizer = AutoTokenizer."
            f"from_pretrained(…, pad_token={(tokenizer.unk_token or '[PAD]')!r}), and type --tokenizer tokenizer"
        )
    train = splits["train"]
    remaining = {classes[number] for number in train.labels.unique().tolist()}
    if remaining != all_labels:
        raise InputError(
            f"no training texts are left with the label {first_few(sorted(map(repr, all_labels - remaining)))}: they "
            f"are all in the other splits. Add more texts with it, remove those texts, or pass your own splits"
        )
    unknown_fraction = (
        float((train.ids == tokenizer.unk_token_id).float().mean()) if tokenizer.unk_token_id is not None else 0.0
    )
    if unknown_fraction > _MOST_UNKNOWN:
        raise InputError(
            f"{unknown_fraction:.0%} of the tokens are unknown to the tokenizer (vocabulary size {len(tokenizer):,}). "
            f"Use a tokenizer trained on similar texts"
        )


def _check_columns(columns: Columns) -> None:
    """Check the texts and labels of all splits.

    Raises:
        InputError: a text is empty or none, a label is missing, or unseen in training.
    """
    for split, (texts, labels) in columns.items():
        where = "" if len(columns) == 1 else f" of the split {split!r}"
        if not texts:
            raise InputError(f"there are no texts{where or ' in the data'}")
        empty = [row for row, text in enumerate(texts, 1) if not isinstance(text, str) or not text.strip()]
        if empty:
            kinds = {type(texts[row - 1]).__name__ for row in empty} - {"str", "NoneType", "float"}
            what = f"of type {', '.join(sorted(kinds))}" if kinds else "empty"
            raise InputError(
                f"the text is {what} in {_rows(empty)}{where}. Remove rows without text; --clean is applied before "
                f"this check"
            )
        missing = [row for row, label in enumerate(labels, 1) if label is None]
        if missing:
            raise InputError(f"the label is missing in {_rows(missing)}{where}. Remove those rows")
    train_labels = set(columns["train"][1])
    if len(train_labels) < 2:
        raise InputError(
            f"all training texts have the label {min(train_labels)!r}, but a classifier needs at least two classes"
        )
    if len(train_labels) > max(_MOST_CLASSES, len(columns["train"][1]) // 2):
        raise InputError(
            f"the label column has {len(train_labels):,} different values, too many to be classes. "
            f"Choose another column: --label COLUMN"
        )
    for split, (_, labels) in columns.items():
        unseen = sorted(set(labels) - train_labels)
        if unseen:
            unseen_text = first_few([repr(label) for label in unseen])
            train_text = first_few(sorted(map(repr, train_labels)))
            raise InputError(
                f"the split {split!r} has labels that no training text has: {unseen_text}. The training texts "
                f"have {train_text}"
            )


def _labels(part: Any, kind: Kind, column: Any) -> list[Any]:
    """The labels of a split that is no file, as they are."""
    if kind == "pairs":
        return [label for _, label in part]
    return [row.get(column) for row in part] if kind == "rows" else list(part[column])


def _check_scores(labels: Iterable[Any], column: Any) -> None:
    """Check that labels are not numbers with a decimal point, which classes do not have.

    Raises:
        InputError: they are.
    """
    distinct = list(dict.fromkeys(labels))
    scores = [label for label in distinct if isinstance(label, Real) and not isinstance(label, Integral)]
    if not scores or any(math.isnan(label) for label in scores):  # a label that is missing is told elsewhere
        return
    name = f"--label {column}" if column is not None else "the column of labels"
    raise InputError(
        f"{name} contains decimal numbers ({first_few(map(str, scores))}), but texts need classes as labels. To use "
        f"them as classes, convert them: astype(int) or astype(str)"
    )


def _check_file_labels(labels: set[str]) -> None:
    """Check that the labels of a file are not all numbers, some of which have a decimal point.

    Raises:
        InputError: they are.
    """
    if all(map(_NUMBER.fullmatch, labels)) and not all(label.lstrip("+-").isdecimal() for label in labels):
        raise InputError(
            f"the labels are numbers ({first_few(sorted(labels, key=float))}), but texts need classes as labels. To "
            f"use them as classes, read the file as a DataFrame and convert them: astype(str)"
        )


def _rows(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(f"{row:,}" for row in rows[:3]) + more


def summary(data: Any, is_built: bool) -> str:
    """Return in a line what was encoded: how many texts of each split, the classes, and how many were cut.

    Args:
        data: tokenizer, names of the classes, and encoded texts of each split.
        is_built: whether the vocabulary was built, and may have become another size than was asked for.
    """
    tokenizer, classes, splits = data
    whole = splits.get("predict", None)
    parts = {split: texts for split, texts in splits.items() if split != "predict" or len(splits) == 1}
    counts = " · ".join(f"{len(texts):,} {split}" for split, texts in parts.items())
    cut, total, longest = truncation_counts(splits)
    lengths = whole.lengths if whole is not None else splits["train"].lengths
    about = f"{float(lengths.float().mean()):.0f} tokens on average, at most {longest}"
    truncation = f"{cut:,} of {total:,} are truncated to {longest} tokens" if cut else "none truncated"
    vocabulary = f"; {len(tokenizer):,} tokens in the vocabulary" if is_built else ""
    return f"{counts} texts; {len(classes)} classes: {first_few(classes)}; {about}; {truncation}{vocabulary}"


def truncation_counts(splits: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return how many texts were cut, of how many, and the length of the longest that is left."""
    parts = [texts for split, texts in splits.items() if split != "predict" or len(splits) == 1]
    return (
        sum(int(texts.cut.sum()) for texts in parts),
        sum(len(texts) for texts in parts),
        max(int(texts.lengths.max()) for texts in parts),
    )
