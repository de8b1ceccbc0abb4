from __future__ import annotations

import importlib
import math

import pytest

from lightning_magics.scores import improves, main_metric, mode_by_name, mode_of, stage_of


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
        "val_l1",
        "val_huber",
        "val_hd95",
        "val_epe",
        "val_bpd",
        "val_crps",
        "val_fpr",
        "val_recon",
        "fpr_at_95_recall",
        "loss_f1",
        "false_positive_rate",
        "negative_log_likelihood",
        "brier_score",
        "lossless_ratio",
        "val_acc_gap",
        "val_accuracy_std",
        "val_1-iou",
        "1 - ssim",
        "one_minus_dice",
    ],
)
def test_errors_and_losses_are_better_when_smaller(name):
    assert mode_of(name) == "min"


@pytest.mark.parametrize(
    "name",
    [
        "val_accuracy",
        "val_1-error",
        "explained_variance",
        "acc",
        "MulticlassF1Score",
        "val_auroc",
        "mAP",
        "bleu",
        "accuracy_per_class",
        "train/iou",
        "r2",
        "val_mIoU",
        "mAP50",
        "acc_top5",
        "recall_at_fpr_1",
        "true_negative_rate",
        "val_log_likelihood",
        "reward_per_step",
        "psnr",
        "spearman",
    ],
)
def test_scores_are_better_when_larger(name):
    assert mode_of(name) == "max"


@pytest.mark.parametrize("name", ["val_l1", "val_recon", "my_metric", "env_step", "r", "f", "lossless_ratio"])
def test_a_name_that_says_nothing_is_unknown_and_what_the_run_decided_comes_before_any_name(name):
    assert mode_by_name(name) is None
    assert mode_of(name, {name: "max"}) == "max"
    assert mode_of("val_loss", {"val_loss": "max"}) == "max"
    assert mode_of("val_loss", {name: "max"}) == "min"


# Whose names say nothing, or that are flagged in torchmetrics against their own definition.
_UNTOLD = {
    *("CramersV", "DunnIndex", "FowlkesMallowsIndex", "PearsonsContingencyCoefficient", "SQuAD", "TheilsU"),
    *("TschuprowsT", "SpectralDistortionIndex", "PeakSignalNoiseRatioWithBlockedEffect", "DaviesBouldinScore"),
    *("DeepImageStructureAndTextureSimilarity",),
}


def test_names_agree_with_what_the_metrics_of_torchmetrics_say_of_themselves():
    told = {
        name: "max" if cls.higher_is_better else "min"
        for part in ("classification", "regression", "image", "text", "retrieval", "clustering", "segmentation")
        for name, cls in vars(importlib.import_module(f"torchmetrics.{part}")).items()
        if isinstance(cls, type) and isinstance(getattr(cls, "higher_is_better", None), bool)
    }
    assert len(told) > 60
    assert {name for name, mode in told.items() if mode_of(name) != mode} <= _UNTOLD


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train_loss", ("loss", "train")),
        ("val/loss", ("loss", "val")),
        ("validation.f1", ("f1", "val")),
        ("valid_top_5", ("top_5", "val")),
        ("loss_val", ("loss", "val")),
        ("dev_loss", ("loss", "val")),
        ("dev/std_dev", ("std_dev", "val")),
        ("std_dev", ("std_dev", "")),
        ("device_time", ("device_time", "")),
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
    assert main_metric(["train_loss", "dev_loss"]) == "dev_loss"
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
    assert improves(value, than, mode_of(metric)) is expected


def test_what_is_negated_goes_the_other_way():
    assert mode_by_name("val_neg_mean_squared_error") == "max"
    assert mode_by_name("neg_log_likelihood") == mode_by_name("val_negative_log_likelihood") == "min"
    assert mode_by_name("val_elbo") is None  # some log the bound, others what they minimise
