from pathlib import Path

import pytest
import torch
import torchmetrics
from notebook import SMALL_RUNS, adopt, loader, model, namespace, trainer, validated
from sklearn import metrics as by_hand
from torch import nn
from torch.nn import functional as F

from lightning_magics.commands import api
from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(11, 4, generator=RANDOM)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2])
BITS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0])
LABELS = torch.stack([BITS, 1 - BITS, BITS.flip(0)], dim=1)


def test_classification_metrics_are_of_the_whole_epoch():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy", metrics=("accuracy", "f1", "auroc", "precision")).new()
    found = validated(instance, X, CLASSES)
    scores = instance(X).detach()
    guess = scores.argmax(1)
    assert found == pytest.approx(
        {
            "val_loss": F.cross_entropy(scores, CLASSES).item(),
            "val_accuracy": by_hand.accuracy_score(CLASSES, guess),
            "val_f1": by_hand.f1_score(CLASSES, guess, average="macro"),
            "val_auroc": by_hand.roc_auc_score(CLASSES, scores.softmax(1), multi_class="ovr"),
            "val_precision": by_hand.precision_score(CLASSES, guess, average="macro", zero_division=0),
        },
        abs=1e-5,
    )


@pytest.mark.parametrize("shape", [(11,), (11, 1)])
@pytest.mark.parametrize("shift", [0.0, 0.6])  # logits within 0 and 1 are no probabilities
def test_binary_metrics_take_logits_as_logits(shape, shift):
    names = namespace(shift=shift)
    cell = "def forward(self, x): return self.net(x).sigmoid() * 0.3 + shift\nnn.Linear(4, 1)"
    asked = {"loss": "binary_cross_entropy_with_logits", "metrics": ("accuracy", "auroc")}
    instance = model(cell, names=names, **asked).new()
    found = validated(instance, X, BITS.reshape(shape))
    scores = instance(X).detach().squeeze(1)
    assert found["val_accuracy"] == pytest.approx(by_hand.accuracy_score(BITS, scores > 0))
    assert found["val_auroc"] == pytest.approx(by_hand.roc_auc_score(BITS, scores))
    assert found["val_loss"] == pytest.approx(F.binary_cross_entropy_with_logits(scores, BITS.float()).item())


def test_binary_metrics_take_probabilities_as_probabilities():
    cell = "nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())"
    instance = model(cell, loss="binary_cross_entropy", metrics=("accuracy",)).new()
    guess = instance(X).squeeze(1) > 0.5
    assert validated(instance, X, BITS)["val_accuracy"] == pytest.approx(by_hand.accuracy_score(BITS, guess))


def test_several_labels_at_once_are_a_task():
    asked = {"loss": "binary_cross_entropy_with_logits", "metrics": ("f1",), "task": "multilabel"}
    instance = model("nn.Linear(4, 3)", **asked).new()
    guess = instance(X) > 0
    expected = by_hand.f1_score(LABELS, guess, average="macro", zero_division=0)
    assert validated(instance, X, LABELS)["val_f1"] == pytest.approx(expected)


def test_several_labels_are_not_pooled_as_two_classes():
    asked = {"loss": "binary_cross_entropy_with_logits", "metrics": ("f1",)}
    with pytest.raises(ValueError, match=r"for two classes, but there are 3 outputs.*--task multilabel"):
        validated(model("nn.Linear(4, 3)", **asked).new(), X, LABELS)
    pooled = model("nn.Linear(4, 3)", **asked, task="binary").new()
    expected = by_hand.f1_score(LABELS.flatten(), (pooled(X) > 0).flatten())
    assert validated(pooled, X, LABELS)["val_f1"] == pytest.approx(expected)


def test_training_metrics_start_anew_every_epoch():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy", metrics=("accuracy", "recall"), lr=0.0).new()
    run = trainer(max_epochs=3)
    run.fit(instance, loader(X, CLASSES, batch_size=4), loader(X[:6], CLASSES[:6], batch_size=4))
    expected = by_hand.accuracy_score(CLASSES, instance(X).argmax(1))
    assert run.callback_metrics["train_accuracy"].item() == pytest.approx(expected)
    expected = by_hand.accuracy_score(CLASSES[:6], instance(X[:6]).argmax(1))
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(expected)


def test_several_dataloaders_have_metrics_of_their_own():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy", metrics=("accuracy",)).new()
    parts = [(X[:4], CLASSES[:4]), (X[4:], CLASSES[4:])]
    rows = trainer().validate(instance, [loader(*part) for part in parts], verbose=False)
    for position, (row, (x, y)) in enumerate(zip(rows, parts, strict=True)):
        expected = by_hand.accuracy_score(y, instance(x).argmax(1))
        assert row[f"val_accuracy/dataloader_idx_{position}"] == pytest.approx(expected)


def test_classes_may_be_given_and_targets_be_probabilities():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy", metrics=("accuracy",), num_classes=3).new()
    soft = F.one_hot(CLASSES, 3) * 0.8 + 0.05
    expected = by_hand.accuracy_score(CLASSES, instance(X).argmax(1))
    assert validated(instance, X, soft)["val_accuracy"] == pytest.approx(expected)


def test_too_few_outputs_for_classes_are_an_error():
    instance = model("nn.Linear(4, 1)", loss="lambda output, target: output.mean()", metrics=("accuracy",)).new()
    with pytest.raises(ValueError, match=r"an output of shape \(batch, classes, ...\); found \(4, 1\).*--task binary"):
        validated(instance, X, BITS)


@pytest.mark.parametrize(
    "asked",
    ["torchmetrics.Accuracy('multiclass', num_classes=3)", "mine", "both", "Accuracy", "F1Score(average='micro')"],
)
def test_metrics_may_be_objects_and_calls(asked):
    names = namespace(torchmetrics=torchmetrics, mine=torchmetrics.Accuracy("multiclass", num_classes=3))
    names["both"] = torchmetrics.MetricCollection({"mine": names["mine"].clone()})
    logged = {"mine": "mine", "both": "mine", "F1Score(average='micro')": "f1_score"}.get(asked, "accuracy")
    instance = model("nn.Linear(4, 3)", names=names, loss="cross_entropy", metrics=(asked,)).new()
    expected = by_hand.accuracy_score(CLASSES, instance(X).argmax(1))
    for _ in range(2):  # the notebook's own metric is never the one that counts
        assert validated(instance, X, CLASSES)[f"val_{logged}"] == pytest.approx(expected)


def test_metrics_that_agree_on_the_first_batch_stay_apart():
    names = namespace(strict=torchmetrics.classification.BinaryAccuracy(threshold=0.9))
    asked = {"loss": "binary_cross_entropy_with_logits", "metrics": ("accuracy", "strict")}
    scores = torch.tensor([9.0, 9, -9, -9, 1, 1, 1, 1])
    instance = model("nn.Identity()", names=names, **asked).new()
    found = validated(instance, scores, torch.tensor([1, 1, 0, 0, 1, 1, 1, 1]))
    assert (found["val_accuracy"], found["val_strict"]) == (1.0, 0.5)


def test_metric_objects_without_names_are_each_their_own():
    metrics = [torchmetrics.Accuracy("multiclass", num_classes=3), torchmetrics.AUROC("multiclass", num_classes=3)]
    names = namespace()
    for _ in range(2):
        instance = adopt("Small", nn.Linear(4, 3), names, loss="cross_entropy", metrics=metrics).new()
    found = validated(instance, X, CLASSES)
    expected = by_hand.roc_auc_score(CLASSES, instance(X).detach().softmax(1), multi_class="ovr")
    assert found["val_multiclass_auroc"] == pytest.approx(expected)
    assert [name for name in names if name.startswith("_Small_metrics")] == ["_Small_metrics", "_Small_metrics_2"]


def test_numbers_of_the_notebook_do_not_hide_a_metric_and_functions_come_before_short_names():
    names = namespace(accuracy=0.9, f1=torchmetrics.F1Score("multiclass", num_classes=3, average="micro"))
    names["mse"] = lambda output, target: output.mean() * 0 + 7
    instance = model("nn.Linear(4, 3)", names=names, loss="mse", metrics=("accuracy", "f1")).new()
    found = validated(instance, X, CLASSES)
    assert found["val_loss"] == 7
    assert found["val_f1"] == pytest.approx(found["val_accuracy"])


def test_metrics_and_losses_are_of_all_ranks(elsewhere):
    script = """
import os, sys, warnings, torch
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
from notebook import loader, model, trainer

torch.manual_seed(0)
X, Y = torch.randn(11, 4), torch.arange(11) % 3
instance = model("nn.Linear(4, 3)", loss="cross_entropy", metrics=("accuracy", "f1")).new()
part = slice(0, 5) if os.environ["LOCAL_RANK"] == "0" else slice(5, 11)
options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
run = trainer(**options)
(values,) = run.validate(instance, loader(X[part], Y[part], batch_size=4), verbose=False)
loss = torch.nn.functional.cross_entropy(instance(X), Y).item()
accuracy = (instance(X).argmax(1) == Y).float().mean().item()
if run.is_global_zero:
    assert abs(values["val_loss"] - loss) < 1e-5, (values, loss)
    assert abs(values["val_accuracy"] - accuracy) < 1e-5, (values, accuracy)
trainer(**options, max_epochs=2).fit(instance, loader(X[:6], Y[:6]), loader(X[part], Y[part]))
print("agreed", flush=True)
"""
    done = elsewhere.run(script, Path(__file__).parents[2], ranks=2)
    assert done.stdout.count("agreed") == 2, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"loss": "cross_entrpy"},
            r"--loss cross_entrpy: neither torch nor the notebook has .*Did you mean 'cross_entropy'\?",
        ),
        ({"metrics": ("acuracy",)}, r"--metrics acuracy: neither torch nor the notebook has 'acuracy'. Did you mean"),
        (
            {"metrics": ("ConfusionMatrix",)},
            r"--metrics ConfusionMatrix does not return a single number, so it cannot be logged",
        ),
        (
            {"metrics": ("FBetaScore(bta=2)",)},
            r"--metrics FBetaScore\(bta=2\) cannot be computed.*Unexpected keyword arguments: `bta`",
        ),
        ({"metrics": ("BLEUScore",)}, r"--metrics BLEUScore cannot be computed from output and target"),
        ({"metrics": ("mae",)}, r"--metrics mae is for regression, but this model classifies"),
        ({"metrics": ("number",)}, r"--metrics number is of type int. Type a name of torchmetrics such as accuracy"),
        ({"metrics": ("accuracy", "Accuracy")}, r"--metrics gives 'accuracy' twice"),
        (
            {"loss": "mse_loss", "metrics": ("f1",)},
            r"--metrics f1 is for classification, but --loss mse_loss is for regression",
        ),
    ],
)
def test_what_cannot_be_used_is_said(asked, message):
    names = namespace(number=3)
    with pytest.raises(InputError, match=message):
        model("nn.Linear(4, 3)", names=names, **{"loss": "cross_entropy", **asked})


def test_an_instance_that_was_validated_trains_on(shell):
    net = model("nn.Linear(2, 1)", name="Net", loss="mse_loss", metrics=("mean_absolute_error",)).cls()
    data = loader(torch.rand(6, 2), torch.rand(6, 1))
    quiet = {"quiet": True, "logger": False, "enable_checkpointing": False}
    for _ in range(2):
        assert api.fit(net, data, data, max_epochs=1, **quiet).status == "completed"
        assert api.validate(net, data, quiet=True).status == "completed"
