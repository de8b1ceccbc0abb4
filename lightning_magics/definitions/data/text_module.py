"""The generated DataModule of texts: reading, cleaning, tokenizing, vocabulary, batches of like length.

Every text here is plain Lightning with capital names for what `datamodule` fills in; what the data is, and whether
it can be used, is in `text_sources`.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..generated import expression, method, snippet
from ..scopes import binds, names_read
from .files import DELIMITED, Reader
from .samples import Split

Kind = Literal["file", "table", "rows", "pairs"]
Vocabulary = Literal["wordpiece", "bpe"]

_SETUP = '''
def setup(self, stage=None):
    """Read, split and encode the texts, once per instance."""
    if self.data is None:
        self.data = self._encoded(self._columns())
    self.tokenizer, self.classes, self.splits = self.data
'''
_COLUMNS = '''
def _columns(self):
    """Return the texts and the labels of each split."""
    data = self.load()
    return SPLITS
'''
_ORDER_CLASSES = '''
def order_classes(self, classes):
    """Number the labels by these classes, in the order of the model's outputs."""
    tokenizer, before, splits = self._encoded(self._columns()) if self.data is None else self.data
    numbers = torch.tensor([classes.index(name) if name in classes else -1 for name in before])
    self.data = (tokenizer, classes, {split: texts.numbered(numbers) for split, texts in splits.items()})
'''
_OF_SPLIT = '''
def _texts_and_labels(self, data):
    """Return the texts and the labels of a split, both as text."""
    READ
    return (TEXTS, LABELS)
'''
_TABLE = '''
@staticmethod
def _table(path):
    """Return the rows of a file as a DataFrame."""
    BODY
'''
_LABEL = '''
@staticmethod
def _label(value):
    """Return a label as text, or None if it is missing."""
    missing = () if isinstance(value, str) else ("None", "nan", "NaT", "<NA>")
    return None if str(value) in ("", *missing) else str(value)
'''
# No tokenizer takes them.
_WHOLE = '''
@staticmethod
def _whole(text):
    """Return a text with lone surrogates replaced, such as those of a truncated emoji."""
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
'''
_CLEAN = '''
def clean(self, text):
    """Return a text as it is tokenized."""
    if not isinstance(text, str):
        return text
    STEPS
    return text
'''
CLEANING = {
    "html": 'text = html.unescape(re.sub(r"(?s:<!--.*?-->)|</?[A-Za-z][^<>]*>", " ", text))',
    "unicode": 'text = unicodedata.normalize("NFKC", text)',
    "lower": "text = text.lower()",
    "whitespace": 'text = " ".join(text.split())',
}
_ENCODED = '''
def _encoded(self, columns):
    """Return the tokenizer, the names of the classes, and the encoded texts of each split."""
    CLASSES
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {split: torch.tensor([numbers[name] for name in names]) for split, (_, names) in columns.items()}
    CARVED
    tokenizer = TOKENIZER
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    splits = {split: self._encode(tokenizer, texts, labels[split]) for split, (texts, _) in columns.items()}
    PREDICTED
    TAKEN
    return (tokenizer, classes, splits)
'''
_OWN_TOKENIZER = '''
def _own_tokenizer(self):
    """Return the tokenizer of the notebook."""
    return TOKENIZER
'''
_SORTED = """
classes = sorted(set(columns["train"][1]))
if all(name.isdecimal() for name in classes):
    classes.sort(key=int)
"""
_CARVED = 'parts = self._parts(labels["train"])'
_PREDICTED = 'splits["predict"] = splits["train"]'
_TAKEN = 'splits.update({split: splits["train"].take(part) for split, part in parts.items()})'
_PRETRAINED = "transformers.AutoTokenizer.from_pretrained(self.hparams.tokenizer)"
_BUILT = 'self._build_tokenizer(columns["train"][0])'
_BUILT_OF_PART = 'self._build_tokenizer([columns["train"][0][place] for place in parts["train"]])'
_PARTS = '''
def _parts(self, labels):
    """Return the indices of the samples of each split, stratified by class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.hparams.split_seed))
    order = order[labels[order].argsort(stable=True)]
    parts = {}
    for split, size in SIZES.items():
        count = size if isinstance(size, int) else round(size * len(labels))
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[(2 * torch.arange(count) + 1) * len(order) // (2 * count)] = True
        parts[split], order = (order[chosen], order[~chosen])
    parts["train"] = order
    return {split: part.sort().values for split, part in parts.items()}
'''
_BUILD: dict[Vocabulary, str] = {
    "wordpiece": '''
def _build_tokenizer(self, texts):
    """Return a WordPiece tokenizer with a vocabulary built from texts.

    Of equally frequent pieces, the trainer merges those with the lowest ids first, and it numbers the letters
    within words in arbitrary order. So a first training finds the letters alone, and they are passed on sorted.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    learner = tokenizers.Tokenizer(tokenizers.models.WordPiece())
    learner.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    learner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    first = [*special.values()]
    for size in (0, self.hparams.vocab_size):
        first += sorted(piece for piece in learner.get_vocab() if piece.startswith("##"))
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
        learner.train_from_iterator(texts, trainer)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = (learner.normalizer, learner.pre_tokenizer)
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
''',
    "bpe": '''
def _build_tokenizer(self, texts):
    """Return a byte-pair (BPE) tokenizer with a vocabulary built from texts."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=self.hparams.vocab_size,
        special_tokens=[*special.values()],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
''',
}
# A process that tokenized in threads warns of every fork after it, unless the variable says what is wanted: "off" is
# one of its words for no, and tells what is set here from what the user has set.
_ENCODE = '''
def _encode(self, tokenizer, texts, labels=None):
    """Return encoded texts, truncated where they are too long."""
    limit = min(self.hparams.max_length, tokenizer.model_max_length)
    parallel = os.environ.get("TOKENIZERS_PARALLELISM", "off")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if parallel == "off" else parallel
    rows, cut = ([], [])
    for start in range(0, len(texts), 10000):
        part = texts[start : start + 10000]
        encoded = tokenizer(part, truncation=True, max_length=limit)
        rows += [torch.tensor(ids, dtype=torch.int32) for ids in encoded["input_ids"]]
        if tokenizer.is_fast:
            cut += [bool(item.overflowing) for item in encoded.encodings]
        else:
            cut += [len(ids) > limit for ids in tokenizer(part, verbose=False)["input_ids"]]
    os.environ["TOKENIZERS_PARALLELISM"] = parallel
    cut = torch.tensor(cut, dtype=torch.bool)
    lengths = torch.tensor([len(row) for row in rows])
    padding = {"padding_value": tokenizer.pad_token_id, "padding_side": tokenizer.padding_side}
    written = [text.encode(errors="replace") for text in texts]
    sizes = torch.tensor([len(text) for text in written])
    spans = torch.stack([sizes.cumsum(0) - sizes, sizes.cumsum(0)], dim=1)
    written = torch.frombuffer(bytearray(b"".join([*written, b"."])), dtype=torch.uint8)
    return TEXTS(torch.cat(rows), lengths.cumsum(0) - lengths, lengths, labels, cut, padding, written, spans)
'''
_LOADER = '''
def _loader(self, texts, ordered=False, shuffle=False):
    """Return a loader of encoded texts: in their order, or in batches of similar length."""
    ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
    return torch.utils.data.DataLoader(
        texts,
        batch_size=self.hparams.batch_size,
        sampler=None if ordered else ORDER(texts, self.hparams.batch_size, ranks, rank, shuffle),
        collate_fn=texts.collate,
        num_workers=self.hparams.num_workers,
        persistent_workers=self.hparams.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
'''
_TEXTS_DATALOADER = '''
def texts_dataloader(self, texts):
    """Return a loader of texts to predict for, in their order."""
    return self._loader(self._encode(self.tokenizer, CLEANED), ordered=True)
'''
_TEXTS_CLASS = '''
class TEXTS(torch.utils.data.Dataset):
    """Encoded texts: all token ids, concatenated; for each text its start, length, label and whether it was truncated.

    The texts themselves are kept as UTF-8 bytes, concatenated, with the span of each.
    """

    def __init__(self, ids, starts, lengths, labels, cut, padding, written, spans):
        self.ids = ids
        self.starts = starts
        self.lengths = lengths
        self.labels = labels
        self.cut = cut
        self.padding = padding
        self.written = written
        self.spans = spans

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, place):
        start, length = (self.starts[place], self.lengths[place])
        return (self.ids[start : start + length], None if self.labels is None else self.labels[place])

    def take(self, places):
        """Return some of the texts."""
        columns = [column[places] for column in (self.starts, self.lengths, self.labels, self.cut)]
        return type(self)(self.ids, *columns, self.padding, self.written, self.spans[places])

    def numbered(self, numbers):
        """Return the texts with renumbered labels."""
        labels = numbers[self.labels]
        return type(self)(
            self.ids, self.starts, self.lengths, labels, self.cut, self.padding, self.written, self.spans
        )

    def text_of(self, ids, label):
        """Return the text that was encoded as these token ids and has this label, None if there is none."""
        places = ((self.lengths == len(ids)) & (self.labels == label)).nonzero().flatten()
        for column, token in enumerate(ids.tolist()):
            places = places[self.ids[self.starts[places] + column] == token]
        return self.text_at(places[0]) if len(places) else None

    def text_at(self, place):
        """Return the text at an index."""
        start, end = self.spans[place].tolist()
        return bytes(self.written[start:end].tolist()).decode()

    def collate(self, samples):
        """Return a batch, padded to its longest text."""
        rows, labels = zip(*samples)
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, **self.padding).long()
        ones = [torch.ones(len(row), dtype=torch.long) for row in rows]
        mask = torch.nn.utils.rnn.pad_sequence(
            ones, batch_first=True, padding_value=0, padding_side=self.padding["padding_side"]
        )
        batch = {"input_ids": ids, "attention_mask": mask}
        return batch if labels[0] is None else {**batch, "labels": torch.stack(labels)}
'''
_ORDER_CLASS = '''
class ORDER(torch.utils.data.DistributedSampler):
    """The order of texts for each rank, in batches of similar length, so that there is little padding."""

    def __init__(self, texts, batch_size, ranks, rank, shuffle):
        super().__init__(texts, ranks, rank, shuffle=shuffle, seed=int(os.environ.get("PL_GLOBAL_SEED", 0)))
        self.size = batch_size * ranks

    def __iter__(self):
        lengths = self.dataset.lengths
        generator = torch.Generator().manual_seed(self.seed + self.epoch if self.shuffle else 0)
        parts = [lengths.argsort(descending=True, stable=True)]
        if self.shuffle:
            parts = torch.randperm(len(lengths), generator=generator).split(50 * self.size)
            parts = [part[lengths[part].argsort(descending=True)] for part in parts]
        batches = [batch for part in parts for batch in part.split(self.size)]
        shuffled = torch.randperm(len(batches) - 1, generator=generator).tolist()
        order = torch.cat([batches[place] for place in [*shuffled, -1]])
        order = torch.cat([order, order[: self.total_size - len(order)]])
        return iter(order[self.rank :: self.num_replicas].tolist())
'''


@dataclass(frozen=True)
class Text:
    """What the methods of a DataModule of texts are made of.

    Attributes:
        kind: what a split is.
        keys: of each split its key in the data; None where it is all of it.
        text: column of the texts; None for pairs.
        label: column of the labels; None for pairs.
        reader: how a file is read; its `encoding`, of a delimited one `delimiter`, and whether it is `quoted`.
        names: whether the labels are numbers of names that a column of a `datasets.Dataset` has.
        clean: code of each step of cleaning.
        new_splits: splits that are taken from the training data.
        tokenizer: the notebook's own, as code; None for a pretrained or a built one.
        vocabulary: kind of a built one; None for another.
    """

    kind: Kind
    keys: Mapping[Split, Any]
    text: Any = None
    label: Any = None
    reader: Reader = DELIMITED
    delimiter: str = ","
    encoding: str = "utf-8"
    quoted: bool = True
    names: bool = False
    clean: tuple[str | ast.expr, ...] = ()
    new_splits: tuple[Split, ...] = ()
    tokenizer: ast.expr | None = None
    vocabulary: Vocabulary | None = None

    @property
    def splits(self) -> list[Split]:
        """The splits that have a loader."""
        names: set[str] = {*self.keys, *self.new_splits}
        names |= {"predict"} if list(self.keys) == ["train"] else set()
        return [split for split in typing.get_args(Split) if split in names]

    def methods(self, name: str) -> list[ast.FunctionDef]:
        """Return the methods, beside `load`, of a DataModule whose classes are named after `name`."""
        texts = ast.Name(f"{name}Texts", ast.Load())
        methods = [method(_SETUP), *map(self._dataloader, self.splits), self._texts_dataloader(), self._columns()]
        methods.append(self._of_split())
        if self.kind == "file":
            methods.append(self._table())
        methods += [method(_WHOLE), *([] if self.names else [method(_LABEL)])]
        if self.clean:
            methods.append(method(_CLEAN, STEPS=[step for item in self.clean for step in _step_statements(item)]))
        methods += [self._encoded(), method(_ORDER_CLASSES)]
        if self._hides_tokenizer:
            methods.append(method(_OWN_TOKENIZER, TOKENIZER=self.tokenizer))
        if self.new_splits:
            sizes = ", ".join(f"{split!r}: self.hparams.{split}_split" for split in self.new_splits)
            methods.append(method(_PARTS, SIZES=expression(f"{{{sizes}}}")))
        if self.vocabulary is not None:
            methods.append(method(_BUILD[self.vocabulary]))
        methods.append(method(_ENCODE, TEXTS=texts))
        methods.append(method(_LOADER, ORDER=ast.Name(f"{name}Order", ast.Load())))
        return methods

    def _columns(self) -> ast.FunctionDef:
        keys = [ast.Constant(split) for split in self.keys]
        parts = [
            expression("self._texts_and_labels(DATA)", DATA=_item("data", key) if key is not None else _name("data"))
            for key in self.keys.values()
        ]
        return method(_COLUMNS, SPLITS=ast.Dict(list(keys), parts))

    def _of_split(self) -> ast.FunctionDef:
        """Return what reads one split."""
        places = {"text": ast.Constant(self.text), "label": ast.Constant(self.label)}
        read: list[ast.stmt] = []
        text_code, label_code = _name("text"), expression("self._label(label)")
        if self.kind == "pairs":
            texts, labels = "[TEXT for text, _ in data]", "[OF for _, label in data]"
        elif self.kind == "rows":  # of which one may lack a column
            text_code = expression("row.get(NAME)", NAME=places["text"])
            label_code = expression("self._label(row.get(NAME))", NAME=places["label"])
            texts, labels = "[TEXT for row in data]", "[OF for row in data]"
        else:
            texts, labels = "[TEXT for text in data[NAME]]", "[OF for label in data[LABEL]]"
        if self.kind == "file":
            read = snippet("data = self._table(data)")
        if self.names:
            read = snippet("names = data.features[LABEL].names", LABEL=places["label"])
            label_code = expression("names[label]")
        return method(
            _OF_SPLIT,
            READ=read,
            TEXTS=expression(texts, TEXT=self._cleaned(text_code), NAME=places["text"]),
            LABELS=expression(labels, LABEL=places["label"], OF=label_code),
        )

    def _cleaned(self, text: ast.expr) -> ast.expr:
        whole = expression("self._whole(TEXT)", TEXT=text)
        return expression("self.clean(TEXT)", TEXT=whole) if self.clean else whole

    def _table(self) -> ast.FunctionDef:
        body = snippet(
            self.reader.code,
            DELIMITER=ast.Constant(self.delimiter),
            ENCODING=ast.Constant(self.encoding),
            QUOTING=expression("csv.QUOTE_MINIMAL" if self.quoted else "csv.QUOTE_NONE"),
            COLUMNS=ast.List([ast.Constant(name) for name in dict.fromkeys((self.text, self.label))]),
        )
        return method(_TABLE, BODY=body)

    def _encoded(self) -> ast.FunctionDef:
        if self.names:
            data = expression("self.load()") if self.keys["train"] is None else _item("self.load()", self.keys["train"])
            label = ast.Constant(self.label)
            classes = snippet("classes = list(DATA.features[LABEL].names)", DATA=data, LABEL=label)
        else:
            classes = snippet(_SORTED)
        return method(
            _ENCODED,
            CLASSES=classes,
            CARVED=snippet(_CARVED) if self.new_splits else [],
            TOKENIZER=self._tokenizer_code,
            PREDICTED=snippet(_PREDICTED) if "predict" in self.splits and "predict" not in self.keys else [],
            TAKEN=snippet(_TAKEN) if self.new_splits else [],
        )

    @property
    def _hides_tokenizer(self) -> bool:
        """Whether the names of `_encoded` hide the notebook's own tokenizer, as one that is called so."""
        return self.tokenizer is not None and bool(names_read(self.tokenizer) & binds(method(_ENCODED).body))

    @property
    def _tokenizer_code(self) -> ast.expr:
        if self._hides_tokenizer:
            return expression("self._own_tokenizer()")
        built = _BUILT_OF_PART if self.new_splits else _BUILT
        return self.tokenizer or expression(built if self.vocabulary else _PRETRAINED)

    def _texts_dataloader(self) -> ast.FunctionDef:
        cleaned = expression("[TEXT for text in texts]", TEXT=self._cleaned(_name("text")))
        return method(_TEXTS_DATALOADER, CLEANED=cleaned)

    def _dataloader(self, split: Split) -> ast.FunctionDef:
        texts = {
            "train": "Return the loader of the training texts.",
            "val": "Return the loader of the validation texts.",
            "test": "Return the loader of the test texts.",
            "predict": "Return the loader of the texts to predict for, in the order of the data.",
        }
        options = {
            "train": "ordered=not self.hparams.shuffle, shuffle=self.hparams.shuffle",
            "predict": "ordered=True",
        }
        call = expression(f"self._loader(self.splits[SPLIT], {options.get(split, '')})", SPLIT=ast.Constant(split))
        function = method("def NAME(self):\n    'TEXT'\n    return CALL", CALL=call)
        function.name = f"{split}_dataloader"
        function.body[0] = ast.Expr(ast.Constant(texts[split]))
        return function


def helper_classes(name: str) -> list[ast.ClassDef]:
    """Return the classes that a DataModule of texts uses: of encoded texts, and of their order."""
    definitions = []
    for text, role in ((_TEXTS_CLASS, "Texts"), (_ORDER_CLASS, "Order")):
        (cls,) = snippet(text)
        assert isinstance(cls, ast.ClassDef)
        cls.name = f"{name}{role}"
        definitions.append(cls)
    return definitions


def _step_statements(item: str | ast.expr) -> Iterable[ast.stmt]:
    """Return a step of cleaning: one of those that have names, or a function of the notebook."""
    return snippet(CLEANING[item]) if isinstance(item, str) else snippet("text = CLEAN(text)", CLEAN=item)


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _item(data: str, key: Any) -> ast.expr:
    return expression(f"{data}[KEY]", KEY=ast.Constant(key))
