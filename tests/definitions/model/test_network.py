import pytest
import torch
from notebook import SMALL_RUNS, adopt, batches, model, namespace, trainer
from torch.utils.data import DataLoader
from transformers import BatchEncoding, BertConfig, BertForSequenceClassification, BertForTokenClassification

from lightning_magics.definitions.definition import PACKAGES
from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
CONFIG = (
    "config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, "
    "intermediate_size=8, num_labels=3)\n"
)
CELL = f"layers: int = 1\n{CONFIG}BertForSequenceClassification(config).eval()"
IDS = torch.arange(70).reshape(10, 7) % 20
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2])
ROWS = [{"input_ids": ids, "labels": label} for ids, label in zip(IDS, LABELS, strict=True)]


def names():
    return namespace(
        BertConfig=BertConfig,
        BertForSequenceClassification=BertForSequenceClassification,
        BertForTokenClassification=BertForTokenClassification,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_transformers_model_trains_with_its_own_loss(package):
    definition = model(CELL, package=package, names=names(), metrics=("accuracy",))
    instance = definition.new(layers=2)
    assert definition.form == "transformers"
    assert instance.net.training
    assert len(instance.net.bert.encoder.layer) == 2
    optimizer = instance.configure_optimizers()
    assert (type(optimizer).__name__, optimizer.param_groups[0]["lr"]) == ("AdamW", 5e-5)
    run = trainer(package)
    run.fit(instance, DataLoader(ROWS, 4), DataLoader(ROWS, 4))
    with torch.no_grad():
        instance.net.eval()
        output = instance.net(input_ids=IDS, labels=LABELS)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(output.loss.item(), rel=1e-4)
    accuracy = (output.logits.argmax(1) == LABELS).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy)
    logits = torch.cat(trainer(package).predict(instance, DataLoader(ROWS, 4)))
    assert torch.allclose(logits, output.logits, atol=1e-6)


class Wrapper(torch.nn.Module):
    """A network around a transformers model in evaluation mode, as from_pretrained gives it."""

    def __init__(self, bert):
        super().__init__()
        self.base_model = bert.eval()

    def forward(self, *inputs, **named):
        return self.base_model(*inputs, **named)


def test_a_pretrained_part_trains_in_training_mode_unless_it_is_frozen():
    cell = CELL.replace("BertFor", "made = BertFor").replace(".eval()", "")
    own = {**names(), "Wrapper": Wrapper}
    instance = model(f"{cell}\nWrapper(made)", names=own, loss="mse_loss").new()
    assert instance.net.base_model.training
    frozen = model(f"{cell}\nWrapper(made.requires_grad_(False))", names=own, loss="mse_loss").new()
    assert not frozen.net.base_model.training


def test_a_wrapped_transformers_model_trains_with_its_own_loss():
    class Peft(Wrapper):
        peft_config = None

    cell = CELL.replace("BertFor", "Peft(BertFor") + ")"
    definition = model(cell, names={**names(), "Peft": Peft})
    assert definition.form == "transformers"
    run = trainer()
    run.fit(definition.new(), batches({"input_ids": IDS, "labels": LABELS}))
    assert torch.isfinite(run.callback_metrics["train_loss"])


def test_batches_of_a_tokenizer_are_passed_by_name():
    instance = model(CELL, names=names()).new()
    run = trainer()
    run.fit(instance, batches(BatchEncoding({"input_ids": IDS, "label": LABELS})))
    assert torch.isfinite(run.callback_metrics["train_loss"])


def test_labels_of_tokens_that_count_for_nothing_are_left_out():
    cell = CELL.replace("SequenceClassification", "TokenClassification")
    instance = model(cell, names=names(), metrics=("accuracy",)).new()
    labels = IDS % 3
    labels[:, 4:] = -100
    (values,) = trainer().validate(instance, batches({"input_ids": IDS, "labels": labels}), verbose=False)
    guess = instance.eval().net(input_ids=IDS).logits.argmax(-1)
    assert values["val_accuracy"] == pytest.approx((guess == labels)[:, :4].float().mean().item())


def test_a_configuration_tells_that_there_are_several_labels():
    cell = CELL.replace("num_labels=3", "num_labels=3, problem_type='multi_label_classification'")
    instance = model(cell, names=names(), metrics=("accuracy",)).new()
    labels = torch.nn.functional.one_hot(LABELS, 3).float()
    (values,) = trainer().validate(instance, batches({"input_ids": IDS, "labels": labels}), verbose=False)
    guess = instance.eval().net(input_ids=IDS).logits > 0
    assert values["val_accuracy"] == pytest.approx((guess == labels).float().mean().item())


def test_a_configuration_tells_that_numbers_are_compared():
    cell = CELL.replace("num_labels=3", "num_labels=1")
    instance = model(cell, names=names(), metrics=("mae",)).new()
    (values,) = trainer().validate(instance, batches({"input_ids": IDS, "labels": LABELS.float()}), verbose=False)
    output = instance.eval().net(input_ids=IDS).logits.squeeze(1)
    assert values["val_mae"] == pytest.approx((output - LABELS).abs().mean().item())
    with pytest.raises(
        InputError, match=r"--metrics f1 is for classification, but the model's own loss is for regression"
    ):
        model(cell, names=names(), metrics=("f1",))


def test_a_loss_given_for_a_transformers_model_is_used():
    instance = model(CELL, names=names(), loss="nn.CrossEntropyLoss(label_smoothing=0.5)").new()
    (values,) = trainer().validate(instance, batches({"input_ids": IDS, "labels": LABELS}), verbose=False)
    expected = instance.loss(instance.eval().net(input_ids=IDS).logits, LABELS)
    assert values["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((IDS, LABELS), r"a transformers model takes batches by name, such as a dict; found a list"),
        ({"input_ids": IDS}, r"a batch for a transformers model needs labels; found input_ids"),
    ],
)
def test_a_batch_that_fits_no_transformers_model_is_described(batch, message):
    with pytest.raises(TypeError, match=message):
        trainer().fit(model(CELL, names=names()).new(), batches(batch))


def test_an_existing_transformers_model_is_adopted():
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    bert = BertForSequenceClassification(config).eval()
    definition = adopt("bert", bert, namespace(bert=bert))
    assert definition.form == "transformers"
    assert definition.new().net.training
    assert not bert.training


def test_a_transformers_model_is_known_before_its_hyperparameters_are():
    cell = "layers: int\nBertForSequenceClassification(BertConfig(num_hidden_layers=layers))"
    assert model(cell, names=names()).form == "transformers"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metrics": ("accuracy",)}, r"--metrics cannot be used on a causal language model.*Write validation_step"),
        ({"loss": "cross_entropy"}, r"--loss cannot be used on a causal language model.*Leave it out"),
    ],
)
def test_what_does_not_shift_the_labels_of_a_causal_language_model_is_refused(asked, message):
    cell = "from transformers import GPT2Config as C, GPT2LMHeadModel as M\nM(C(n_layer=1, n_embd=4, n_head=1))"
    with pytest.raises(InputError, match=message):
        model(cell, **asked)


def test_defining_a_model_imports_no_front_end(elsewhere):
    code = (
        "import sys\n"
        "from lightning_magics.definitions import cell as cells\n"
        "from lightning_magics.definitions.model import model as models\n"
        "from lightning_magics.options import parser as options\n"
        "cell = cells.CellSource('import torch\\ntorch.nn.Linear(2, 2)', 'cell.py')\n"
        "names = {'__name__': '__main__'}\n"
        "models.model_definition('A', cell, options.ModelOptions(loss='mse_loss'), names, 'pytorch_lightning')\n"
        "print({'IPython', 'ipywidgets'} & set(sys.modules))\n"
    )
    done = elsewhere.run(code)
    assert done.stdout.strip() == "set()", done.stderr
