from __future__ import annotations

import math

import pytest

from lightning_magics.scores import better, improves, main_metric, stage_of


@pytest.mark.parametrize(
    "name",
    [
        "val_loss",
        "val/loss",
        "loss",
        "valid_nll",
        "MeanSquaredError",
        "val_rmse",
        "test_wer",
        "perplexity",
        "error_rate",
        "val_cross_entropy",
        "CrossEntropyLoss",
        "FID",
        "val_loss/dataloader_idx_1",
        "reconstructionloss",
        "val_mae_epoch",
    ],
)
def test_errors_and_losses_are_better_when_smaller(name):
    assert better(name) == "min"


@pytest.mark.parametrize(
    "name",
    [
        "val_accuracy",
        "acc",
        "MulticlassF1Score",
        "val_auroc",
        "mAP",
        "bleu",
        "accuracy_per_class",
        "train/iou",
        "r2",
        "lossless_ratio",
        "psnr",
        "spearman",
    ],
)
def test_scores_are_better_when_larger(name):
    assert better(name) == "max"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train_loss", ("loss", "train")),
        ("val/loss", ("loss", "val")),
        ("validation.f1", ("f1", "val")),
        ("valid_top_5", ("top_5", "val")),
        ("loss_val", ("loss", "val")),
        ("train_loss_step", ("loss", "train")),
        ("train_loss_epoch", ("loss", "train")),
        ("test_acc/dataloader_idx_1", ("acc [1]", "test")),
        ("loss", ("loss", "")),
        ("lr-AdamW", ("lr-AdamW", "")),
        ("validity_score", ("validity_score", "")),
        ("train_", ("train_", "")),
    ],
)
def test_a_name_tells_what_is_measured_and_where(name, expected):
    assert stage_of(name) == expected


def test_the_main_metric_is_a_validation_score_then_a_validation_loss_and_never_one_of_training():
    assert main_metric(["train_loss", "train_acc", "val_loss", "val_acc"]) == "val_acc"
    assert main_metric(["train_loss", "val_loss"]) == "val_loss"
    assert main_metric(["train_loss", "loss", "accuracy"]) is None
    assert main_metric([]) is None


@pytest.mark.parametrize(
    ("metric", "value", "than", "expected"),
    [
        ("val_loss", 0.1, 0.2, True),
        ("val_loss", 0.2, 0.2, False),
        ("val_accuracy", 0.1, 0.2, False),
        ("val_accuracy", 0.3, 0.2, True),
        ("val_loss", 0.1, None, True),
        ("val_loss", math.nan, None, False),
        ("val_accuracy", math.inf, 0.5, False),
    ],
)
def test_improvement_goes_the_way_of_the_metric_and_is_finite(metric, value, than, expected):
    assert improves(metric, value, than) is expected
