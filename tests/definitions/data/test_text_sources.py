import collections
import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
from notebook import CELL, SMALL_RUNS, data, model, namespace, trainer
from transformers import ByT5Tokenizer

from lightning_magics.definitions.data import datamodule
from lightning_magics.definitions.data import text_sources as texts
from lightning_magics.definitions.definition import PACKAGES
from lightning_magics.errors import InputError
from lightning_magics.options import parser as options

pytestmark = SMALL_RUNS
GOOD = ["a warm and moving film", "warm and funny", "a moving story and a good one", "good", "a good warm film"]
BAD = ["dull and long", "two long hours", "a dull story and a bad one", "bad", "a bad long film"]
PAIRS = [pair for text, other in zip(GOOD, BAD, strict=True) for pair in ((text, "good"), (other, "bad"))] * 3
ROWS = [{"sentence": text, "label": label} for text, label in PAIRS]
BUILT = {"vocab_size": 80, "max_length": 16}
COLUMNS = {"text": "sentence", "label": "label"}


def define(value, names=None, adopted=False, **asked):
    """Define the data `films` by an object of the notebook; a path by the cell that it is, unless it is adopted."""
    if adopted:
        names = names or namespace()
        return datamodule.data_definition("films", value, options.DataOptions(**asked), names, "lightning.pytorch")
    value = repr(value) if isinstance(value, str) else value
    return data(value, "films", names=names, **{**BUILT, **asked})


def ready(definition, **hyperparameters):
    instance = definition.new(**hyperparameters)
    instance.setup("fit")
    return instance


def decoded(instance, split):
    """The texts and labels of a split, in its order."""
    found = instance.splits[split]
    return [
        (instance.tokenizer.decode(ids.tolist(), skip_special_tokens=True), instance.classes[label])
        for ids, label in (found[place] for place in range(len(found)))
    ]


def write(path, rows):
    """Write rows in the form that the name of a file tells."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        frame.to_csv(path, index=False, sep={".csv": ","}.get(path.suffix, "\t"))
    return path


class Column(list):
    """A column of `Table`."""


class Table:
    """The part of a `datasets.Dataset` that matters: columns by name, and the names of labels."""

    def __init__(self, **columns):
        self.columns_by_name = columns
        self.column_names = list(columns)
        label = collections.namedtuple("ClassLabel", "names")(["bad", "good"])
        self.features = {"sentence": object(), "label": label}

    def __getitem__(self, name):
        return Column(self.columns_by_name[name])


class TableDict(dict):
    """The part of a `datasets.DatasetDict` that matters."""

    @property
    def column_names(self):
        return {name: table.column_names for name, table in self.items()}


def table(labels=(0, 1, 0, 1)):
    return Table(sentence=["dull and long", "warm and funny", "two long hours", "good"], label=list(labels))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_texts_are_read_from_files(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    instance = ready(define(str(path), **COLUMNS))
    assert decoded(instance, "train") == [(text, label) for text, label in PAIRS]
    assert instance.classes == ["bad", "good"]


@pytest.mark.parametrize(
    "value", [PAIRS, ROWS, pd.DataFrame(ROWS), {"sentence": [*GOOD, *BAD], "label": [1] * 5 + [0] * 5}]
)
def test_texts_are_read_from_objects(value):
    instance = ready(define(value, **({} if value is PAIRS else COLUMNS)))
    assert ("a warm and moving film", instance.classes[-1]) in decoded(instance, "train")
    batch = next(iter(instance.train_dataloader()))
    assert {name: part.dtype for name, part in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), torch.int64
    )


def test_a_dataset_of_the_package_datasets_brings_the_names_of_its_labels():
    instance = ready(define(TableDict(train=table(), test=table(), unsupervised=table()), **COLUMNS))
    assert instance.classes == ["bad", "good"]
    assert decoded(instance, "train")[:2] == [("dull and long", "bad"), ("warm and funny", "good")]
    assert set(instance.splits) == {"train", "test"}
    with pytest.raises(InputError, match=r"--label label: some texts in the split 'test' have no label \(-1\). Leave"):
        define(TableDict(train=table(), test=table([-1, -1, -1, -1])), **COLUMNS)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_cell_trains_in_both_packages_and_its_text_needs_nothing_of_this_one(package):
    definition = data("pairs", "films", package=package, names=namespace(pairs=PAIRS), val_split=0.2, **BUILT)
    bag = """
class Bag(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.embed, self.out = nn.Embedding(80, width, padding_idx=0), nn.Linear(width, 2)
    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
"""
    instance = model(bag, "Bag", package=package, loss="cross_entropy", metrics=("accuracy", "f1")).new()
    run = trainer(package, max_epochs=2)
    run.fit(instance, datamodule=definition.new())
    assert {"train_accuracy", "val_accuracy", "val_f1"} <= set(run.callback_metrics)
    assert "lightning_magics" not in definition.source
    scope = {"pairs": PAIRS}
    exec(definition.source, scope)
    alone = scope["FilmsData"]()
    alone.setup()
    assert [len(alone.splits[name]) for name in ("train", "val", "predict")] == [24, 6, 30]


def test_files_for_each_split_come_by_name_or_in_order(tmp_path):
    train, dev = (str(write(tmp_path / name, rows)) for name, rows in (("train.tsv", ROWS), ("dev.tsv", ROWS[:4])))
    for value in ({"train": train, "dev": dev}, (train, dev)):
        definition = define(value, **COLUMNS)
        assert [len(part) for part in ready(definition).splits.values()] == [30, 4]
        assert definition.summary.startswith("30 train · 4 val texts; 2 classes: bad, good; ")
        assert not hasattr(definition.cls, "test_dataloader") or "test_dataloader" not in vars(definition.cls)


def test_splits_have_as_large_a_share_of_every_class():
    skewed = [
        (f"{word} number {number}", label)
        for label, word, count in (("a", "red", 80), ("b", "blue", 20))
        for number in range(count)
    ]
    instance = ready(define(skewed, val_split=0.2, test_split=10))
    counts = {name: collections.Counter(label for _, label in decoded(instance, name)) for name in instance.splits}
    assert counts == {
        "train": {"a": 56, "b": 14},
        "val": {"a": 16, "b": 4},
        "test": {"a": 8, "b": 2},
        "predict": {"a": 80, "b": 20},
    }
    places = [text for name in ("train", "val", "test") for text, _ in decoded(instance, name)]
    assert sorted(places) == sorted(text for text, _ in skewed)
    again, other = ready(define(skewed, val_split=0.2)), ready(define(skewed, val_split=0.2, split_seed=1))
    assert decoded(again, "val") == decoded(instance, "val") != decoded(other, "val")


def test_the_vocabulary_is_built_from_the_training_texts_alone(tmp_path):
    held_out = [("quixotic zebra", "good"), ("xylophone", "bad")]
    instance = ready(define({"train": PAIRS, "val": held_out}, vocab_size=500))
    vocabulary = instance.tokenizer.get_vocab()
    assert "warm" in vocabulary
    assert not {"zebra", "quixotic", "xylophone"} & set(vocabulary)
    assert [instance.tokenizer.decode([number]) for number in range(4)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def test_a_vocabulary_of_byte_pairs_gives_back_any_text():
    instance = ready(define([*PAIRS, ("Ça va, naïve 🎬?", "good")], vocab_size=300, vocabulary="bpe", max_length=64))
    assert decoded(instance, "train")[-1] == (" Ça va, naïve 🎬?", "good")
    assert len(instance.tokenizer) == 300


VOCABULARIES = """
import json, sys
from lightning_magics.definitions.data import datamodule as datamodules
from lightning_magics.options import parser as options
names = {"__name__": "__main__", "pairs": [tuple(pair) for pair in json.load(sys.stdin)]}
for kind in ("wordpiece", "bpe"):
    asked = options.DataOptions(vocab_size=290, vocabulary=kind)
    made = datamodules.data_definition("pairs", names["pairs"], asked, names, "lightning.pytorch")
    print(json.dumps(made.loaded[0].get_vocab()))
"""


def test_the_same_texts_give_the_same_vocabulary_in_each_interpreter():
    # Most pieces of these are as frequent as others, so that the order in which they are met would decide.
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", VOCABULARIES]
    told = subprocess.run(command, input=json.dumps(PAIRS), env=environment, capture_output=True, text=True)
    for kind, line in zip(("wordpiece", "bpe"), told.stdout.splitlines(), strict=True):
        for _ in range(2):
            built = ready(define(PAIRS, vocab_size=290, vocabulary=kind)).tokenizer
            assert built.get_vocab() == json.loads(line)


def test_pieces_of_words_are_no_special_tokens():
    tokenizer = ready(define(PAIRS)).tokenizer
    assert sorted(tokenizer.all_special_tokens) == ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    ids = tokenizer("warmly ##e [SEP]")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "warmly e"
    assert tokenizer.convert_ids_to_tokens(ids)[-4:] == ["[UNK]", "e", "[SEP]", "[SEP]"]


def test_an_object_can_be_the_tokenizer():
    built = ready(define(PAIRS)).tokenizer
    names = namespace(mine=built)
    for given in ("mine", built):
        definition = data(PAIRS, "films", names=names, tokenizer=given)
        assert "tokenizer = mine" in definition.source
        assert ready(definition).tokenizer is built
    names["tokenizer"] = names.pop("mine")
    assert ready(data(PAIRS, "films", names=names, tokenizer="tokenizer")).tokenizer is built


def test_texts_are_cleaned_as_asked():
    names = namespace(shout=lambda text: f"{text} !")
    html = "<p>A&nbsp;  WARM &amp; <b>moving</b>\nfilm</p>"
    definition = data(
        [(html, "good"), ("bad", "bad")],
        "films",
        names=names,
        clean=("html", "unicode", "lower", "whitespace", "shout"),
        **BUILT,
    )
    assert definition.cls().clean(html) == "a warm & moving film !"
    assert "shout" in definition.source
    with pytest.raises(
        InputError, match=r"--clean hmtl: neither html, unicode, .* nor a function .* Did you mean 'html'"
    ):
        define(PAIRS, clean=("hmtl",))


def test_texts_that_are_cut_are_counted():
    long = [("word " * 40, "long"), ("word " * 14, "fits"), ("word", "short")]
    definition = define(long, max_length=16)
    assert "1 of 3 are truncated to 16 tokens" in definition.summary
    assert ready(definition).splits["train"].cut.tolist() == [True, False, False]
    assert "none truncated" in define(long, max_length=64).summary


def test_a_batch_is_padded_to_its_longest_text_and_holds_texts_of_like_length():
    lengths = torch.randint(1, 60, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    many = [("word " * length, ("a", "b")[number % 2]) for number, length in enumerate(lengths)]
    instance = ready(define(many, max_length=100, val_split=80, batch_size=8))
    for loader, is_same in ((instance.train_dataloader(), False), (instance.val_dataloader(), True)):
        batches = list(loader)
        masks = [batch["attention_mask"] for batch in batches]
        assert all(mask.any(dim=0).all() for mask in masks)
        assert sum(map(torch.sum, masks)) / sum(mask.numel() for mask in masks) > 0.9
        widths = [mask.shape[1] for mask in masks]
        assert widths != sorted(widths, reverse=True)  # a few batches tell of all texts
        loader.sampler.set_epoch(1)
        assert (widths == [batch["input_ids"].shape[1] for batch in loader]) == is_same
        assert sum(len(batch["labels"]) for batch in batches) == len(loader.dataset)
    in_order = next(iter(instance.predict_dataloader()))["attention_mask"].sum(dim=1) - 2
    assert in_order.tolist() == lengths[:8]


def test_each_epoch_has_other_batches_and_ranks_share_them():
    instance = ready(define(PAIRS * 20, batch_size=4))
    sampler = instance.train_dataloader().sampler
    first = list(sampler)
    assert sorted(first) == list(range(600))
    sampler.set_epoch(1)
    assert list(sampler) != first
    order = type(sampler)
    ranks = [list(order(instance.splits["train"], 4, 2, rank, True)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == list(range(600))
    lengths = instance.splits["train"].lengths
    # The same step of both ranks has texts of like length, so that none waits for the other.
    steps = [[lengths[place] for rank in ranks for place in rank[start : start + 4]] for start in range(0, 300, 4)]
    assert sum(max(step) - min(step) for step in steps) / len(steps) < 0.5


def test_without_shuffle_training_keeps_the_order():
    instance = ready(define(PAIRS, shuffle=False, batch_size=30))
    assert next(iter(instance.train_dataloader()))["labels"].tolist() == [1, 0] * 15


def test_texts_are_encoded_once_for_all_that_encodes_the_same(monkeypatch):
    definition = define(PAIRS, val_split=0.2)
    encode, calls = definition.cls._encode, []
    monkeypatch.setattr(definition.cls, "_encode", lambda *args: calls.append(1) or encode(*args))
    ready(definition)
    ready(definition, batch_size=2)
    assert not calls
    assert int(ready(definition, max_length=4).splits["train"].lengths.max()) == 4
    assert calls == [1]
    ready(definition, max_length=4)
    assert calls == [1]


def test_no_fork_after_tokenizing_is_warned_of(capfd, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    definition = define(PAIRS * 100, val_split=0.2, num_workers=1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "off"
    assert len(next(iter(ready(definition).train_dataloader()))["labels"]) == 32
    assert "huggingface/tokenizers" not in capfd.readouterr().err


@pytest.mark.parametrize(("given", "seen"), [(None, "true"), ("off", "true"), ("false", "false"), ("true", "true")])
def test_all_splits_are_tokenized_in_threads_unless_the_user_says_otherwise(given, seen, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    instance, asked = ready(define(PAIRS)), []

    class Watching:
        def __getattr__(self, name):
            return getattr(instance.tokenizer, name)

        def __call__(self, *args, **options):
            asked.append(os.environ["TOKENIZERS_PARALLELISM"])
            return instance.tokenizer(*args, **options)

    if given is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", given)
    for _ in range(2):
        instance._encode(Watching(), ["a", "b"])
    assert asked == [seen] * 2


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    rows = [{"sentence": f"text {stars}", "label": stars} for stars in (10, 9, 1, 2) * 3]
    assert ready(define(rows, **COLUMNS)).classes == ["1", "2", "9", "10"]
    assert ready(define(pd.DataFrame(rows), **COLUMNS)).classes == ["1", "2", "9", "10"]
    assert ready(define(str(write(tmp_path / "a.csv", rows)), **COLUMNS)).classes == ["1", "2", "9", "10"]


def test_a_quote_in_a_tab_separated_file_is_a_sign_like_any_other(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('sentence\tlabel\n"warm" they say\tgood\nit is 6" long\tbad\n')
    assert [text.replace(" ", "") for text, _ in decoded(ready(define(str(path), **COLUMNS)), "train")] == [
        '"warm"theysay',
        'itis6"long',
    ]
    path.write_text('sentence\tlabel\n"warm\nand ""moving"""\tgood\nbad\tbad\n')
    assert decoded(ready(define(str(path), **COLUMNS)), "train")[0][0].split() == ["warm", "and", '"', "moving", '"']


def test_a_delimiter_is_found_by_the_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffsentence;label\nwarm, and moving;good\nbad;bad\n", encoding="utf-8")
    assert decoded(ready(define(str(path), **COLUMNS)), "train")[0] == ("warm, and moving", "good")


@pytest.mark.parametrize(
    ("value", "asked", "message"),
    [
        (ROWS, {}, r"texts need --text COLUMN. The columns are sentence, label"),
        (ROWS, {"text": "sentence"}, r"texts need --label COLUMN. The columns are sentence, label"),
        (
            ROWS,
            {"text": "sentense", "label": "label"},
            r"--text sentense: there is no such column. Did you mean 'sentence'\? It has sentence, label",
        ),
        (
            {"train": ROWS, "val": [{"sentence": "a"}]},
            COLUMNS,
            r"--label label: there is no such column in the split 'val'. It has sentence",
        ),
        (PAIRS, {"text": "sentence"}, r"--text would have no effect on pairs of a text and a label"),
        ([*PAIRS, (" ", "good"), (None, "bad")], {}, r"the text is empty in rows 31, 32. Remove rows without text"),
        ([*PAIRS, (3, "good")], {}, r"the text is of type int in row 31. Remove rows without text"),
        ([*PAIRS, ("a", None)], {}, r"the label is missing in row 31. Remove those rows"),
        (
            {"train": PAIRS, "test": [("a", "fine")]},
            {},
            r"the split 'test' has labels that no training text has: 'fine'. The training texts have 'bad', 'good'",
        ),
        (
            [("a", 1), ("b", 1)],
            {},
            r"all training texts have the label '1', but a classifier needs at least two classes",
        ),
        (
            [("a", number) for number in range(1001)],
            {},
            r"the label column has 1,001 different values, too many to be classes",
        ),
        ({"val": PAIRS}, {}, r"texts need a training split, which defines the classes; found only val"),
        ({"train": PAIRS, "extra": PAIRS}, {}, r"texts take the splits train, val and test; found 'extra'"),
        ({"train": PAIRS, "val": ROWS}, COLUMNS, r"the splits are of different kinds: train pairs, val rows. Pass all"),
        (
            torch.ones(3),
            {},
            r"texts are in a file \(.csv, .* or a list of \(text, label\); found a value of type Tensor",
        ),
        (
            PAIRS,
            {"tokenizer": "bert-base-uncased"},
            r"texts need either --tokenizer NAME .* or --vocab_size N, which bu",
        ),
        (ROWS, {"vocab_size": None, **COLUMNS}, r"texts need either --tokenizer NAME"),
        (PAIRS, {"vocab_size": None, "tokenizer": "/no/such"}, r"there is no folder /no/such with a tokenizer"),
        (PAIRS, {"vocabulary": "bpe"}, r"--vocab_size 80 is too small: bpe needs 260, or type --vocabulary wordpiece"),
        (
            [*PAIRS, ("one", "odd")],
            {"val_split": 16},
            r"no training texts are left with the label 'odd': they are all in the other splits. Add more",
        ),
        (
            [*ROWS, {"sentence": "a"}, {"label": "good"}],
            COLUMNS,
            r"the text is empty in row 32. Remove rows without text",
        ),
        ([*ROWS, {"sentence": "a"}], COLUMNS, r"the label is missing in row 31"),
        ([*PAIRS, (None, "good")], {"clean": ("lower", "html")}, r"the text is empty in row 31"),
        (
            PAIRS,
            {"vocab_size": None, "tokenizer": tokenizers.Tokenizer(tokenizers.models.WordLevel())},
            r"--tokenizer takes a transformers tokenizer; found a Tokenizer. Wrap it: transformers.PreTrainedTok",
        ),
        (PAIRS, {"val_split": 40}, r"--val_split 40 is neither a fraction between 0 and 1 nor less than the 30"),
        (
            {"train": PAIRS, "val": PAIRS},
            {"val_split": 0.1},
            r"--val_split 0.1 would have no effect: the data already has a val split",
        ),
        ("no.tsv", COLUMNS, r"there is no file no.tsv"),
        ("no.docx", COLUMNS, r"no.docx is not a supported text file. Supported endings: .csv, .tsv"),
    ],
)
def test_what_cannot_be_trained_on_is_said(value, asked, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        define(value, names=namespace(films=value), **asked)


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text("sentence,label\n")
    with pytest.raises(InputError, match=r"reviews.jsonl cannot be read: Expected object or value"):
        define(str(path), **COLUMNS)
    with pytest.raises(InputError, match=r"there is no file .*review.jsonl. Did you mean 'reviews.jsonl'\?"):
        define(str(tmp_path / "review.jsonl"), **COLUMNS)


def test_files_of_splits_are_written_in_one_way(tmp_path):
    names = [str(write(tmp_path / name, ROWS)) for name in ("a.tsv", "a.csv", "a.jsonl", "b.tsv")]
    for other, told in ((1, r"a.csv \(fields separated by a comma\)"), (2, r"a.jsonl \(JSON lines\)")):
        message = rf"have different formats: a.tsv \(fields separated by a tab\) and {told}. Use one format for all"
        with pytest.raises(InputError, match=message):
            define((names[0], names[other]), **COLUMNS, adopted=True, vocab_size=80)
    for order in (("train", "val"), ("val", "train")):
        films = dict.fromkeys(order, names[2])
        assert ready(define(films, **COLUMNS, adopted=True, vocab_size=80)).classes == ["bad", "good"]


def test_quotes_that_stand_alone_join_no_rows(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('sentence\tlabel\n"warm they say\tgood\nbad\tbad\n"dull"\tbad\na long "one"\tgood\n')
    texts = [text for text, _ in decoded(ready(define(str(path), **COLUMNS)), "train")]
    assert [text.replace(" ", "") for text in texts] == ['"warmtheysay', "bad", '"dull"', 'along"one"']


def test_a_field_too_many_is_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('sentence,label\n"warm, they say",good\nI like it, really,good\nbad,bad\n')
    message = r"a.csv has more fields than columns in row 2. Put texts that contain a comma in quotes"
    with pytest.raises(InputError, match=message):
        define(str(path), **COLUMNS)


def test_any_word_of_a_file_is_a_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sentence,label\nwarm,None\nbad,nan\n")
    assert ready(define(str(path), **COLUMNS)).classes == ["None", "nan"]
    path.write_text("sentence,label\nwarm,None\nbad\n")
    with pytest.raises(InputError, match=r"the label is missing in row 2"):
        define(str(path), **COLUMNS)


def test_what_a_fit_changes_is_checked_as_what_was_defined(tmp_path):
    definition = define(PAIRS, val_split=0.2)
    with pytest.raises(InputError, match=r"--val_split 1.5 is neither a fraction"):
        definition.new(val_split=1.5)
    with pytest.raises(InputError, match=r"--val_split 200 is neither a fraction between 0 and 1 nor less than the 30"):
        definition.new(val_split=200)
    assert len(ready(definition, val_split=0.5).splits["val"]) == 15
    ready(definition).tokenizer.save_pretrained(tmp_path)
    definition = define(PAIRS, vocab_size=None, tokenizer=str(tmp_path))
    with pytest.raises(InputError, match=r"there is no folder /no/such with a tokenizer"):
        definition.new(tokenizer="/no/such")


def test_a_tokenizer_that_knows_nothing_is_said(tmp_path):
    ready(define([(text.upper(), label) for text, label in PAIRS])).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"\d\d% of the tokens are unknown to the tokenizer \(vocabulary size \d\d\)"):
        define(PAIRS, vocab_size=None, tokenizer=str(tmp_path))


def test_what_a_tokenizer_of_python_cuts_is_counted():
    definition = define(
        PAIRS, vocab_size=None, tokenizer="letters", max_length=6, names=namespace(letters=ByT5Tokenizer())
    )
    lengths = [len(text.encode()) + 1 for text, _ in PAIRS]
    assert ready(definition).splits["train"].cut.tolist() == [length > 6 for length in lengths]


def test_what_stands_between_signs_is_no_html():
    clean = define(PAIRS, clean=("html", "whitespace")).cls().clean
    assert clean("I <3 it and rate it 9 > 8") == "I <3 it and rate it 9 > 8"
    assert clean('<p class="a">warm<br/>and</p><!-- not\nthis --> &amp; moving') == "warm and & moving"


def test_a_name_that_the_class_needs_and_another_cell_replaced_is_said():
    names = namespace()
    definition = define(PAIRS, names=names, clean=("html",))
    names["html"] = "<b>"
    with pytest.raises(InputError, match=r"films's html was replaced by another cell. Rename one of them, or run fil"):
        definition.new()


def test_a_name_of_the_hub_is_loaded_by_the_package_datasets(monkeypatch, tmp_path):
    asked = {**BUILT, **COLUMNS}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        r"some/films is not a file .* needs the package 'datasets', which is not installed. Type: %pip install datase"
    )
    with pytest.raises(InputError, match=message):
        define("some/films", adopted=True, **asked)
    stand_in = types.ModuleType("datasets")
    stand_in.load_dataset = lambda name: TableDict(train=table()) if name == "some/films" else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: stand_in)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.setattr("lightning_magics.definitions.hub.check", lambda name, role: None)
    definition = define("some/films", adopted=True, **asked)
    assert "import datasets" in definition.source
    assert "return datasets.load_dataset('some/films')" in definition.source
    assert ready(definition).classes == ["bad", "good"]


def test_options_of_texts_are_refused_for_other_data():
    with pytest.raises(InputError, match=r"--max_length, --clean would have no effect on this data"):
        data("torch.ones(6, 2)", max_length=3, clean=("lower",))


def test_labels_of_numpy_are_those_of_python():
    frame = pd.DataFrame({"sentence": GOOD + BAD, "label": np.array([1] * 5 + [0] * 5, dtype="int8")})
    assert ready(define(frame, **COLUMNS)).classes == ["0", "1"]


def test_a_cell_can_end_in_a_path_and_keep_hooks_of_its_own(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    cell = f"size: int = 4\ndef setup(self, stage):\n    self.seen = len(self.splits['train'])\n{str(path)!r}"
    definition = data(cell, "films", **BUILT, **COLUMNS)
    assert ready(definition).seen == 30
    assert definition.cls.setup.__code__.co_filename == CELL


def test_the_longest_text_and_the_cuts_are_told_for_a_fit():
    splits = ready(define([("word " * 40, "long"), ("word", "short")] * 2, max_length=16, val_split=2)).splits
    assert texts.truncation_counts(splits) == (2, 4, 16)


def test_scores_are_not_taken_for_classes(tmp_path):
    scored = [
        {"sentence": text, "label": score} for text, score in zip(GOOD, [2.5, 10.0, 40.0, 2.5, 10.0], strict=True)
    ]
    rated = [{**row, "label": float(place % 2 + 2)} for place, row in enumerate(scored)]
    for rows in (scored, rated):
        pairs = [(row["sentence"], row["label"]) for row in rows]
        for value, asked in ((pd.DataFrame(rows), COLUMNS), (rows, COLUMNS), (pairs, {})):
            with pytest.raises(InputError, match=r"contains decimal numbers \(2.*\), but texts need classes as labels"):
                define(value, names=namespace(), adopted=True, **BUILT, **asked)
        for ending in ("csv", "tsv", "jsonl", "parquet"):
            path = write(tmp_path / f"scored.{ending}", rows)
            with pytest.raises(InputError, match=r"the labels are numbers \(2.*\), but texts need classes as labels"):
                define(str(path), **COLUMNS)
        named = pd.DataFrame(rows).astype({"label": str})
        assert ready(define(named, names=namespace(), adopted=True, **BUILT, **COLUMNS)).classes[0] in ("10.0", "2.0")


def plain(path, **asked):
    """The texts and labels of a file, as they are read by the class that was defined."""
    definition = define(str(path), **COLUMNS, **asked)
    names = {}
    exec(definition.source, names)
    alone = names[definition.cls.__name__]()._columns()["train"]
    assert [list(column) for column in definition.cls()._columns()["train"]] == [list(column) for column in alone]
    assert ready(definition).classes == sorted(set(alone[1]))
    return list(zip(*alone, strict=True))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "cp1251", "gb18030"]
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_files_are_read_in_any_encoding(tmp_path, name, encoding):
    path, accented = write(tmp_path / name, ROWS), {"cp1251": "щука", "gb18030": "好"}.get(encoding, "café")
    rows = [{"sentence": f"{accented} {row['sentence']}", "label": accented[:2] + row["label"]} for row in ROWS]
    text = write(path, rows).read_text(encoding="utf-8")
    path.write_bytes(
        (text if not name.startswith("a.json") else text.encode().decode("unicode_escape")).encode(encoding)
    )
    is_told = encoding in ("utf-8", "utf-8-sig", "utf-16")
    if not is_told:
        with pytest.raises(
            InputError, match=rf"{name} is not UTF-8: .*\. Type its encoding, such as --encoding cp1252"
        ):
            define(str(path), **COLUMNS)
    assert plain(path, **({} if is_told else {"encoding": encoding})) == [
        (row["sentence"], row["label"]) for row in rows
    ]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "zip"])
def test_files_that_are_compressed_are_read(tmp_path, ending):
    expected = [(row["sentence"], row["label"]) for row in ROWS]
    pd.DataFrame(ROWS).to_csv(tmp_path / f"a.csv.{ending}", index=False)
    assert plain(tmp_path / f"a.csv.{ending}") == expected
    pd.DataFrame(ROWS).to_json(tmp_path / f"a.jsonl.{ending}", orient="records", lines=True)
    assert plain(tmp_path / f"a.jsonl.{ending}") == expected
    (tmp_path / f"b.csv.{ending}").write_bytes(b"nothing of that kind")
    with pytest.raises(InputError, match=rf"b.csv.{ending} cannot be read: "):
        define(str(tmp_path / f"b.csv.{ending}"), **COLUMNS)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "sentence,label\nwarm,None\nbad,NA\n", [("warm", "None"), ("bad", "NA")]),
        ("a.csv", "sentence,label\nwarm,007\nbad,08\n", [("warm", "007"), ("bad", "08")]),
        (
            "a.csv",
            'label,sentence\na,"warm, and\nmoving"\nb,"say ""no"""\n',
            [("warm, and\nmoving", "a"), ('say "no"', "b")],
        ),
        ("a.csv", "sentence,label\nNone,a\nnan,b\n", [("None", "a"), ("nan", "b")]),
        ("a.csv", "sentence,label,sense,sense\nwarm,a,1,2\nbad,b,1,2\n", [("warm", "a"), ("bad", "b")]),
        ("a.csv", f"sentence,label\n{'warm ' * 40_000},a\nbad,b\n", [("warm " * 40_000, "a"), ("bad", "b")]),
        (
            "a.json",
            '{"sentence":"warm","label":"007"}\n{"sentence":"bad","label":"NA"}',
            [("warm", "007"), ("bad", "NA")],
        ),
        ("a.json", '{"sentence": ["warm", "bad"], "label": [1, 0]}', [("warm", "1"), ("bad", "0")]),
        (
            "a.jsonl",
            '{"sentence":"warm","label":true}\n\n{"sentence":"bad","label":"x"}',
            [("warm", "True"), ("bad", "x")],
        ),
        ("a.json", '\ufeff[{"sentence":"warm","label":1},{"sentence":"bad","label":2}]', [("warm", "1"), ("bad", "2")]),
    ],
)
def test_what_a_file_holds_is_read_as_it_stands_there(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert plain(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "sentence,label,sentence\nwarm,a,1\n",
            r"--text sentence: 2 columns have that name. Rename one",
        ),
        (
            "a.csv",
            'sentence,label\na,x\n"warm,x\nbad,y\nlong 6",y\n',
            r"a.csv has a stray quote in line 3 that merges the next rows",
        ),
        (
            "a.csv",
            'sentence,label\na,x\nb,y\n"warm,x\nbad,y\n',
            r"a.csv has a stray quote in line 4 that merges the next rows into",
        ),
        (
            "a.csv",
            'sentence,label\na,x\nb,y\n"warm,x\nis 6" long,y\n',
            r"a.csv has a stray quote in line 4 that merges the next rows",
        ),
        (
            "a.csv",
            'label,sentence\nx,a\ny,b\nx,"warm\ny,bad\ny,6"\n',
            r"a.csv has a stray quote in line 4 that merges the next rows",
        ),
        ("a.csv", "", r"a.csv cannot be read: it is empty"),
        ("a.json", '{"sentence": "warm"', r"a.json cannot be read: "),
        ("a.json", '[{"sentence": "warm", "label": null}]', r"the label is missing in row 1"),
    ],
)
def test_what_a_file_does_not_hold_is_said(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        define(str(tmp_path / name), **COLUMNS)


def test_an_encoding_that_has_no_effect_is_said(tmp_path):
    with pytest.raises(InputError, match=r"--encoding latn-1 is not a Python encoding. Did you mean 'latin-1'"):
        define(str(write(tmp_path / "a.csv", ROWS)), **COLUMNS, encoding="latn-1")
    with pytest.raises(InputError, match=r"--encoding utf-16 would have no effect: .*a.parquet is a Parquet file"):
        define(str(write(tmp_path / "a.parquet", ROWS)), **COLUMNS, encoding="utf-16")
    with pytest.raises(InputError, match=r"--encoding utf-16 would have no effect: the texts are not in a file"):
        define(ROWS, **COLUMNS, encoding="utf-16")


def test_a_file_is_read_once(tmp_path, monkeypatch):
    path, opened = write(tmp_path / "a.csv", ROWS), []
    get_handle = pd.io.common.get_handle
    monkeypatch.setattr(
        "pandas.io.common.get_handle", lambda *args, **options: opened.append(1) or get_handle(*args, **options)
    )
    definition = define(str(path), **COLUMNS)
    path.unlink()
    ready(definition)
    assert opened == [1]


def test_halves_of_characters_are_texts_as_others():
    instance = ready(define([*PAIRS, ("half \ud83d of 🎬", "good")]))
    assert instance.splits["train"].text_at(30) == "half \ufffd of 🎬"
    assert len(list(instance.texts_dataloader(["\ud83c\udfac", "\udfac"]))) == 1


def test_a_label_of_an_object_may_be_any_word():
    assert ready(define([("warm", "None"), ("bad", "nan")])).classes == ["None", "nan"]
    frame = pd.DataFrame({"sentence": ["warm", "bad"], "label": ["NA", "<NA>"]})
    assert ready(define(frame, **COLUMNS)).classes == ["<NA>", "NA"]
    for missing in (None, float("nan"), pd.NA):
        with pytest.raises(InputError, match=r"the label is missing in row 3"):
            define(pd.DataFrame({"sentence": ["a", "b", "c"], "label": ["x", "y", missing]}), **COLUMNS)
