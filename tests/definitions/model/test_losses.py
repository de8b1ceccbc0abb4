import functools

import pytest
import torch
import torchmetrics
from notebook import SMALL_RUNS, adopt, batches, model, namespace, trainer, validated
from sklearn import metrics as by_hand
from torch import nn
from torch.nn import functional as F

from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(11, 4, generator=RANDOM)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2])
NUMBERS = torch.randn(11, generator=RANDOM)


@pytest.mark.parametrize("target", [NUMBERS, NUMBERS[:, None], (NUMBERS * 9).long()])
def test_regression_never_broadcasts(target):
    instance = model("nn.Linear(4, 1)", loss="mse_loss", metrics=("mae", "rmse", "r2")).new()
    found = validated(instance, X, target)
    output, numbers = instance(X).detach().squeeze(1), target.squeeze().float()
    assert found == pytest.approx(
        {
            "val_loss": by_hand.mean_squared_error(numbers, output),
            "val_mae": by_hand.mean_absolute_error(numbers, output),
            "val_rmse": by_hand.root_mean_squared_error(numbers, output),
            "val_r2": by_hand.r2_score(numbers, output),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("loss", ["mse_loss", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_whole_numbers_for_a_target_train_in_every_precision(loss, precision):
    run = trainer(precision=precision)
    run.fit(model("nn.Linear(4, 1)", loss=loss).new(), batches((X, CLASSES.clamp(max=1))))
    assert torch.isfinite(run.callback_metrics["train_loss"])


@pytest.mark.parametrize(
    "target",
    [
        lambda values: {"name": "a", "value": values},
        lambda values: (values, values),
        lambda values: [{"value": value} for value in values],
    ],
)
def test_a_mean_over_batches_counts_samples_in_any_kind_of_target(target):
    def mean(output, target):
        first = target["value"] if isinstance(target, dict) else target[0]
        return torch.as_tensor(first["value"] if isinstance(first, dict) else first).mean() + 0 * output.sum()

    instance = model("nn.Linear(4, 1)", names=namespace(mine=mean), loss="mine").new()
    items = [(torch.ones(count, 4), target(torch.full((count,), float(count)))) for count in (4, 1)]
    (values,) = trainer().validate(instance, batches(*items), verbose=False)
    assert values["val_loss"] == pytest.approx((4 * 4 + 1) / 5)


def test_a_target_without_a_batch_axis_is_of_one_sample():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy").new()
    (values,) = trainer().validate(instance, batches((X[0], CLASSES[0])), verbose=False)
    assert values["val_loss"] == pytest.approx(F.cross_entropy(instance(X[0]), CLASSES[0]).item())


def test_shapes_that_do_not_match_are_an_error():
    instance = model("nn.Linear(4, 2)", loss="mse_loss").new()
    with pytest.raises(
        ValueError, match=r"output and target have the shapes \(11, 2\) and \(11,\), which do not match"
    ):
        trainer().fit(instance, batches((X, NUMBERS)))


def test_python_objects_are_taken_as_they_are():
    metric = torchmetrics.MeanAbsoluteError()
    names = namespace()
    instance = adopt(
        "A", nn.Linear(4, 1), names, loss=functools.partial(F.huber_loss, delta=0.5), metrics=[metric]
    ).new()
    output = instance(X).detach().squeeze(1)
    found = validated(instance, X, NUMBERS)
    assert found["val_loss"] == pytest.approx(F.huber_loss(output, NUMBERS, delta=0.5).item(), rel=1e-4)
    assert found["val_mean_absolute_error"] == pytest.approx(by_hand.mean_absolute_error(NUMBERS, output))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("cross_entropy", "torch.nn.functional.cross_entropy(output, target)"),
        ("cross-entropy", "torch.nn.functional.cross_entropy(output, target)"),
        ("CrossEntropyLoss", "self.loss = torch.nn.CrossEntropyLoss()"),
        ("nn.CrossEntropyLoss(label_smoothing=0.1)", "self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)"),
        ("made", "self.loss = deepcopy(made)"),
        ("mine", "mine(output, target)"),
        ("F.cross_entropy", "F.cross_entropy(output, target)"),
        ("partial(F.cross_entropy, label_smoothing=smoothing)", "label_smoothing=smoothing"),
    ],
)
def test_a_loss_may_be_a_name_a_class_an_object_or_a_function(asked, expected):
    names = namespace(made=nn.CrossEntropyLoss(), partial=functools.partial)
    names["mine"] = lambda output, target: F.cross_entropy(output, target)
    definition = model("smoothing: float = 0.1\nnn.Linear(4, 3)", names=names, loss=asked, metrics=("accuracy",))
    assert expected in definition.source
    assert {"val_loss", "val_accuracy"} <= set(validated(definition.new(), X, CLASSES))


@pytest.mark.parametrize("name", ["loss", "target", "output", "stage", "size"])
def test_a_loss_may_have_any_name(name):
    names = namespace(**{name: lambda output, target: F.cross_entropy(output, target)})
    instance = model("nn.Linear(4, 3)", names=names, loss=name).new()
    expected = F.cross_entropy(instance(X), CLASSES).item()
    assert validated(instance, X, CLASSES)["val_loss"] == pytest.approx(expected)


def test_the_notebooks_loss_of_an_unknown_kind_is_called_as_it_is():
    names = namespace(mine=lambda output, target: (output.squeeze(1) - target).abs().mean())
    instance = model("nn.Linear(4, 1)", names=names, loss="mine", metrics=("mae",)).new()
    found = validated(instance, X, NUMBERS)
    assert found["val_loss"] == pytest.approx(found["val_mae"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"loss": "cross_entrpy"},
            r"--loss cross_entrpy: neither torch nor the notebook has .*Did you mean 'cross_entropy'\?",
        ),
        ({"loss": "x = 1"}, r"--loss 'x = 1' is not a Python expression"),
        ({"loss": "nn.CrossEntropy()"}, r"--loss 'nn.CrossEntropy' cannot be evaluated: AttributeError"),
        ({"loss": "CrossEntropyLoss(label=1)"}, r"--loss .*there is no argument 'label'.*It takes weight"),
        ({"loss": "number"}, r"--loss number is of type int; a loss is called with output and target"),
        ({"loss": "gaussian_nll_loss"}, r"--loss gaussian_nll_loss needs more than output and target: var"),
        ({"loss": "dict"}, r"neither torch nor the notebook has 'dict'"),
        (
            {"metrics": ("ConfusionMatrix",)},
            r"--metrics ConfusionMatrix does not return a single number, so it cannot be logged",
        ),
        (
            {"metrics": ("FBetaScore(bta=2)",)},
            r"--metrics FBetaScore\(bta=2\) cannot be computed.*Unexpected keyword arguments: `bta`",
        ),
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
