import copy
import logging
import re

import pytest
import torch
import transformers
from notebook import SMALL_RUNS, data, model, namespace, trainer
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from lightning_magics.definitions import matching
from lightning_magics.definitions.model import fine_tuning
from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
PAIRS = [("a warm film", "good"), ("dull", "bad"), ("warm and funny", "good"), ("two long hours", "bad")] * 4
TINY = """
BertForSequenceClassification(BertConfig(vocab_size=60, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=8, max_position_embeddings=16, num_labels=2))
"""


def names(**more):
    return namespace(
        BertConfig=BertConfig, BertForSequenceClassification=BertForSequenceClassification, BertModel=BertModel, **more
    )


def tiny(**asked):
    return model(TINY, "Tiny", names=names(), **asked)


def tiny_encoder():
    return BertModel(BertConfig(vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))


def films(**asked):
    return data(PAIRS, "films", **{"vocab_size": 60, "max_length": 16, "batch_size": 4, **asked}).new()


def fit(instance, **asked):
    run = trainer(**asked)
    run.fit(instance, datamodule=films())
    return run


def weights(instance):
    return {name: item.detach().clone() for name, item in instance.named_parameters()}


def moved(before, instance):
    """Names of the parameters that training changed."""
    return {name for name, item in instance.named_parameters() if not torch.equal(item, before[name])}


def test_weight_decay_leaves_out_biases_and_norms():
    definition = tiny(weight_decay=0.1)
    assert (
        "AdamW(self._parameter_groups(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)"
        in definition.source
    )
    instance = definition.new()
    decayed, others = instance.configure_optimizers().param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    of = {id(item): name for name, item in instance.named_parameters()}
    assert all(of[id(item)].endswith(".bias") or "LayerNorm" in of[id(item)] for item in others["params"])
    assert not any(of[id(item)].endswith(".bias") or "LayerNorm" in of[id(item)] for item in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(of)


def test_a_warm_up_is_a_part_of_all_steps():
    definition = tiny(scheduler="linear_warmup", warmup=0.25, lr=0.08)
    assert (
        "transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps=round(self.hparams.warmup *"
        in definition.source
    )
    rates = []
    instance = definition.new()
    instance.on_train_batch_start = lambda batch, batch_idx: rates.append(instance.optimizers().param_groups[0]["lr"])
    fit(instance, max_epochs=2)
    assert rates == pytest.approx([0, 0.04, 0.08, 0.08 * 5 / 6, 0.08 * 4 / 6, 0.08 * 3 / 6, 0.08 * 2 / 6, 0.08 * 1 / 6])


@pytest.mark.parametrize(
    ("scheduler", "made"),
    [
        (
            "cosine_warmup",
            "get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=round(self.hparams.warmup * self.",
        ),
        (
            "constant-warmup",
            "get_constant_schedule_with_warmup(optimizer, num_warmup_steps=round(self.hparams.warmup * s",
        ),
        (
            "linear_warmup(num_warmup_steps=7)",
            "get_linear_schedule_with_warmup(optimizer, num_training_steps=self.trainer.",
        ),
    ],
)
def test_schedules_of_transformers_are_known_by_short_names(scheduler, made):
    definition = model("nn.Linear(4, 3)", loss="cross_entropy", scheduler=scheduler)
    assert made in definition.source
    assert "'interval': 'step'" in definition.source
    assert ("warmup: float=0.1" in definition.source) == ("round" in made)


def test_a_class_around_an_encoder_trains_as_a_transformers_model_does(tmp_path):
    tiny_encoder().save_pretrained(tmp_path)
    cell = """
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel.from_pretrained(FOLDER)
    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids, attention_mask).pooler_output
"""
    definition = model(cell, "Head", names=names(FOLDER=str(tmp_path)), loss="cross_entropy")
    assert "torch.optim.AdamW(self._parameter_groups(), lr=self.hparams.lr)" in definition.source
    assert all(part.training for part in definition.new().modules())


def test_what_is_frozen_does_not_train():
    instance = tiny(freeze=("embeddings", "encoder.layer.[01]")).new()
    frozen = {name for name, item in instance.named_parameters() if not item.requires_grad}
    assert {name.split(".")[2] + name.split(".")[4] for name in frozen if "layer." in name} == {"encoder0", "encoder1"}
    before = weights(instance)
    fit(instance)
    assert {name for name in before if "embeddings" in name or "layer.0" in name or "layer.1" in name} == frozen
    changed = moved(before, instance)
    assert not changed & frozen
    assert any("layer.2" in name for name in changed)
    with pytest.raises(ValueError, match=r"no parameter name matches 'encodr'. Some names: net.bert.embeddings"):
        tiny(freeze=("encoder",)).new(freeze=["encodr"])


def test_layers_are_unfrozen_one_after_the_other_from_the_last():
    instance = tiny(freeze=("bert",), unfreeze_every=1, lr=0.01).new()
    layers = instance.frozen_layers
    assert layers == [
        "net.bert.pooler",
        *(f"net.bert.encoder.layer.{number}" for number in (2, 1, 0)),
        "net.bert.embeddings",
    ]
    before = weights(instance)
    fit(instance, max_epochs=3)
    changed = {instance._layer(name) for name in moved(before, instance)}
    assert changed == {"net.classifier", *layers[:2]} or changed == {"net", *layers[:2]}


def test_classes_have_weights_by_how_rare_they_are():
    instance = tiny(class_weights=("balanced",)).new()
    run = trainer()
    skewed = data([*PAIRS, *[("dull", "bad")] * 8], "films", vocab_size=60, max_length=16).new()
    run.fit(instance, datamodule=skewed)
    assert instance.loss_weights.tolist() == pytest.approx([24 / (2 * 16), 24 / (2 * 8)])
    given = tiny(class_weights=(1, "3")).new()
    assert given.loss_weights.tolist() == [1.0, 3.0]
    output, target = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, 1])
    expected = nn.functional.cross_entropy(output, target, weight=torch.tensor([1.0, 3.0]))
    assert torch.equal(given._loss(output, target), expected)
    assert "loss_weights" not in given.state_dict()


def test_an_encoder_that_a_hook_loads_trains(tmp_path):
    tiny_encoder().save_pretrained(tmp_path)
    cell = """
dropout: float = 0.3
def __init__(self):
    self.bert = BertModel.from_pretrained(FOLDER)
    self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, 2))
def forward(self, input_ids, attention_mask):
    return self.head(self.bert(input_ids, attention_mask).pooler_output)
"""
    definition = model(cell, "Own", names=names(FOLDER=str(tmp_path)), loss="cross_entropy", metrics=("accuracy",))
    assert "torch.optim.AdamW(self._parameter_groups(), lr=self.hparams.lr)" in definition.source
    instance = definition.new()
    assert all(part.training for part in instance.modules()), "from_pretrained leaves a model in evaluation mode"
    assert instance.hparams.lr == 5e-5
    assert "train_accuracy" in fit(instance).callback_metrics


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"unfreeze_every": 1}, r"--unfreeze_every would have no effect without --freeze PATTERN"),
        ({"warmup": 0.1}, r"--warmup would have no effect without a scheduler such as --scheduler linear_warmup"),
        (
            {"warmup": 100, "scheduler": "linear_warmup"},
            r"--warmup 100 is not a fraction of all steps, such as 0.1. .*linear_warmup\(num_warmup_steps=100\)",
        ),
        ({"class_weights": ("even",)}, r"--class_weights takes balanced or a number for each class, .* found 'even'"),
        (
            {"class_weights": (1, 2), "loss": "mse_loss"},
            r"--class_weights needs --loss cross_entropy; found --loss mse",
        ),
        (
            {"scheduler": "linear_warmpu"},
            r"neither torch nor the notebook has 'linear_warmpu'. Did you mean 'linear_warmup'",
        ),
    ],
)
def test_options_of_fine_tuning_that_do_not_fit_are_said(asked, message):
    with pytest.raises(InputError, match=message):
        tiny(**asked)


def test_a_hook_that_an_option_needs_is_the_cell_s():
    cell = "def setup(self, stage):\n    self.net = nn.Linear(4, 2)\ndef forward(self, x):\n    return self.net(x)"
    with pytest.raises(InputError, match=r"--class_weights balanced would have no effect: the cell has its own setup"):
        model(cell, class_weights=("balanced",))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("AutoModel.from_pretrained('/no/such')", r"there is no folder /no/such with a model"),
        ("name: str = '/no/such'\nAutoModel.from_pretrained(name)", r"there is no folder /no/such with a model"),
        (
            "AutoModel.from_pretrained(FOLDER)",
            r"the folder .* does not contain a model: it has none of \*.safetensors, ",
        ),
        (
            "AutoModel.from_pretrained(pretrained_model_name_or_path='/no/such')",
            r"there is no folder /no/such with a model",
        ),
        (
            "AutoTokenizer.from_pretrained(FOLDER)",
            r"the folder .* does not contain a tokenizer: it has none of tokenizer.json",
        ),
    ],
)
def test_a_pretrained_name_is_checked_before_the_cell_runs(cell, message, tmp_path):
    with pytest.raises(InputError, match=message):
        model(f"from transformers import AutoModel, AutoTokenizer\n{cell}", names=names(FOLDER=str(tmp_path)))


def test_other_classes_that_load_are_left_alone():
    class Elsewhere(nn.Linear):
        @classmethod
        def from_pretrained(cls, name):
            return cls(4, 2)

    assert model("Elsewhere.from_pretrained('resnet-0')", names=namespace(Elsewhere=Elsewhere), loss="cross_entropy")


def test_a_model_is_loaded_without_a_bar(tmp_path, capfd):
    tiny_encoder().save_pretrained(tmp_path)
    capfd.readouterr()
    with fine_tuning.quiet_transformers():
        BertForSequenceClassification.from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_which_weights_are_new_is_said_in_a_line(tmp_path, capfd):
    tiny_encoder().save_pretrained(tmp_path)
    capfd.readouterr()
    cell = "BertForSequenceClassification.from_pretrained(FOLDER)"
    definition = model(cell, "Tiny", names=names(FOLDER=str(tmp_path)))
    line = "newly initialized weights (not in the checkpoint): classifier.weight, classifier.bias"
    assert definition.summary.replace("bias, classifier.weight", "weight, classifier.bias") == line
    assert capfd.readouterr() == ("", "")
    assert tiny().summary == ""


def test_weights_of_another_class_are_said_to_be_no_use():
    names = [f"encoder.layer.{number}.weight" for number in range(9)]
    notice = fine_tuning.new_weights_notice(names)
    assert re.search(r"encoder.layer.5.weight and 3 more. Does the checkpoint belong", notice)
    old = "Some weights of Bert were newly initialized: ['head.bias', 'head.weight']\nYou should probably TRAIN"
    with fine_tuning.collect_new_weights() as found:
        logging.getLogger("transformers.modeling_utils").warning(old)
    assert found == ["head.bias", "head.weight"]


def test_a_pattern_that_matches_nothing_is_said_with_the_cell():
    cell = "nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))"
    with pytest.raises(InputError, match=r"--freeze wieght: no parameter .*\. Did you mean 'weight'\? Some"):
        model(cell, loss="cross_entropy", freeze=("wieght",))
    model(cell, loss="cross_entropy", freeze=("net.0",))


def test_an_encoder_alone_is_no_classifier():
    with pytest.raises(
        InputError, match=r"this transformers model has no head and no loss. .* AutoModelForSequenceClass"
    ):
        model("BertModel(BertConfig(vocab_size=60, hidden_size=8, num_attention_heads=2))", names=names())


def padded_on(side):
    """A tokenizer of `PAIRS` that pads on a side."""
    tokenizer = copy.deepcopy(films().data[0])
    tokenizer.padding_side = side
    return tokenizer


SMALL = "hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16"
CLASSIFIERS = {
    "GPT2": "n_embd=8, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3, initializer_range=1.0",
    "Llama": f"{SMALL}, initializer_range=1.0",
    "OPT": "hidden_size=8, num_hidden_layers=2, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=8, init_std=1.0",
    "Bert": f"{SMALL}, initializer_range=1.0",
    "Roberta": f"{SMALL}, initializer_range=1.0, max_position_embeddings=64",
    "T5": "d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, eos_token_id=3, decoder_start_token_id=0",
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_beside_a_text_does_not_change_its_output(kind, side):
    tokenizer = padded_on(side)
    cell = f"{kind}ForSequenceClassification({kind}Config(vocab_size=60, pad_token_id=0, {CLASSIFIERS[kind]}))"
    classes = {name: getattr(transformers, name) for name in (f"{kind}ForSequenceClassification", f"{kind}Config")}
    instance = model(cell, "Tiny", names=namespace(**classes)).new().eval()
    datamodule = data(PAIRS, "films", names=namespace(mine=tokenizer), tokenizer="mine").new()
    with torch.no_grad():
        (together,) = (instance.predict_step(batch, 0) for batch in datamodule_batches(datamodule, "dull", PAIRS[0][0]))
        (alone,) = (instance.predict_step(batch, 0) for batch in datamodule_batches(datamodule, "dull"))
        steps = [instance(**batch).logits for batch in datamodule_batches(datamodule, "dull", PAIRS[0][0])]
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert torch.equal(steps[0], together)
    told = "the outputs of Tiny have no label names. The labels of films are numbered 0 = bad, 1 = good"
    assert matching.check(instance, datamodule, "Tiny", "films", None, (), trains=True) == (told,)


def datamodule_batches(datamodule, *texts):
    datamodule.setup()
    return list(datamodule.texts_dataloader(list(texts)))


def test_a_classifier_that_looks_for_another_padding_token_is_refused():
    cell = f"GPT2ForSequenceClassification(GPT2Config(vocab_size=60, pad_token_id=5, {CLASSIFIERS['GPT2']}))"
    classes = {name: getattr(transformers, name) for name in ("GPT2ForSequenceClassification", "GPT2Config")}
    instance = model(cell, "Tiny", names=namespace(**classes)).new()
    message = (
        r"Tiny ignores the padding token 5, but films is padded with 0, .* Pass pad_token_id=0 to from_pretrained\(…\)"
    )
    with pytest.raises(InputError, match=message):
        matching.check(instance, films(), "Tiny", "films", None, (), trains=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_network_that_does_not_ignore_padding_is_told(side):
    cell = """
class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 2)
    def forward(self, input_ids, attention_mask):
        return self.embed(input_ids).mean(dim=1)
"""
    instance = model(cell, "Mean", loss="cross_entropy").new()
    datamodule = data(PAIRS, "films", names=namespace(mine=padded_on(side)), tokenizer="mine").new()
    assert matching.check(instance, datamodule, "Mean", "films", None, (), trains=True) == (
        f"the output of Mean for a text depends on its batch: padding on the {side} is not ignored. Use attention_mask",
    )


OTHER_SIDE = "Use attention_mask, or set tokenizer.padding_side = {!r}"


@pytest.mark.parametrize(
    ("side", "places", "taken", "advice"),
    [
        ("left", "None", "last[:, -1]", "Use attention_mask, for position_ids too"),
        ("left", "None", "last[rows, ends]", OTHER_SIDE.format("right")),
        ("left", "None", "(last * mask).sum(1)", OTHER_SIDE.format("right")),
        ("left", "counted", "last[:, -1]", ""),
        ("left", "counted", "last[rows, ends]", ""),
        ("right", "counted", "last[:, -1]", OTHER_SIDE.format("left")),
        ("right", "None", "last[:, -1]", "Use attention_mask"),
        ("right", "None", "(last * mask).sum(1)", ""),
        ("right", "None", "(last * mask).sum(1).softmax(dim=0)", "the other texts in its batch, even without padding"),
    ],
)
def test_what_is_advised_about_padding_helps(side, places, taken, advice):
    cell = f"""
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.out = GPT2Model(GPT2Config(vocab_size=60, {CLASSIFIERS["GPT2"]})), nn.Linear(8, 2)
    def forward(self, input_ids, attention_mask):
        counted = (attention_mask.cumsum(1) - 1).clamp(min=0)
        last = self.net(input_ids=input_ids, attention_mask=attention_mask, position_ids={places}).last_hidden_state
        mask, rows = attention_mask.unsqueeze(-1), torch.arange(len(last))
        ends = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        return self.out({taken})
"""
    classes = {"GPT2Model": transformers.GPT2Model, "GPT2Config": transformers.GPT2Config}
    instance = model(cell, "Own", loss="cross_entropy", names=namespace(**classes)).new()
    datamodule = data(PAIRS, "films", names=namespace(mine=padded_on(side)), tokenizer="mine").new()
    told = matching.check(instance, datamodule, "Own", "films", None, (), trains=True)
    assert [text.endswith(advice) for text in told] == ([True] if advice else [])


def test_a_tokenizer_without_a_padding_token_is_said():
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=films().data[0].backend_tokenizer, unk_token="[UNK]"
    )
    message = r"the tokenizer has no padding token. Set one when loading it, .*\(…, pad_token='\[UNK\]'\), and"
    with pytest.raises(InputError, match=message):
        data(PAIRS, "films", names=namespace(mine=tokenizer), tokenizer="mine")
    tokenizer.eos_token = "[SEP]"
    assert data(PAIRS, "films", names=namespace(mine=tokenizer), tokenizer="mine").loaded[0].pad_token == "[SEP]"
