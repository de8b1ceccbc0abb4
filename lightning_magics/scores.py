"""Which way a metric gets better, as far as its name tells, and how names of train, validation and test pair.

Nothing else: what a run takes for better is decided by `directions`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Literal

STAGES: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}

# Words of names whose smaller value is the better one; they come before those of the larger: ``loss_f1`` is a loss.
_MIN = frozenset(
    """
    loss losses nll nlpd kl kld divergence energy cost crossentropy entropy hinge error err errors mae
    mse rmse mape smape wmape msle rmsle rse nrmse perplexity ppl bpc bpb bpd wer cer mer ter eer wil edit fid
    kid lpips dists ece mce brier crps hamming distance deviance regret ergas bce ce epe hd hausdorff chamfer
    huber fpr fnr fdr frr miss false disparity misclassification latency bouldin gap std stddev deviation
    """.split()  # noqa: SIM905 -- a list of a hundred words reads worse
)
_MAX = frozenset(
    """
    accuracy acc bacc f fbeta fscore auc auroc auprc auprg aupr roc prc gini ap map precision recall ppv npv
    tpr tnr sensitivity specificity iou miou giou jaccard dice psnr ssim msssim snr sdr pesq stoi vif bleu
    sacrebleu rouge rougel meteor chrf cider em r rsquared r2 pearson spearman kendall corr correlation
    concordance ccc pcc kappa mcc matthews top hit hits hitrate ndcg dcg mrr reward rewards return returns
    success win wins sharpe score similarity agreement purity nmi ari silhouette nse kge likelihood logp
    quality
    """.split()  # noqa: SIM905 -- a list of a hundred words reads worse
)
_MIN_ENDINGS = ("loss", "error", "distance", "perplexity", "crossentropy", "errorrate", "falloutrate", "fallout")
_MAX_ENDINGS = (
    *("accuracy", "precision", "recall", "iou", "f1", "score", "auroc", "auc", "ssim", "explainedvariance"),
    *("exactmatch", "noiseratio", "distortionratio", "fidelity", "truepositiverate", "truenegativerate"),
)

Mode = Literal["min", "max"]
WORDS: dict[Mode, str] = {"min": "lower is better", "max": "higher is better"}


@functools.lru_cache(maxsize=1024)  # asked for every metric of every epoch
def mode_by_name(metric: str) -> Mode | None:
    """Return whether the smaller or the larger value of a metric is the better one, None where its name is unknown."""
    inverse = re.search(r"(?:^|[_/. ])(?:1 ?- ?|one_minus_)(.+)$", metric)  # 1-ssim
    words = _words(f"neg_{inverse[1]}" if inverse else metric)
    if "at" in words[1:]:  # fpr_at_95_recall
        words = words[: words.index("at", 1)]
    if "neg" in words:  # neg_mean_squared_error, of scikit-learn
        inner = mode_by_name("_".join(words[words.index("neg") + 1 :]))
        return {"min": "max", "max": "min"}.get(inner or "")  # type: ignore[return-value]
    joined = "".join(words)
    stems = {word.rstrip("0123456789") for word in words}
    if joined.endswith(_MIN_ENDINGS) or not _MIN.isdisjoint({*words, *stems}):
        return "min"
    if "negativeloglikelihood" in joined or "rankedprobability" in joined:
        return "min"
    whole = {word for word in words if len(word) > 1}
    long = {stem for stem in stems if len(stem) > 1} | {word[0] for word in words if word in ("f1", "f2", "r2")}
    return "max" if joined.endswith(_MAX_ENDINGS) or not _MAX.isdisjoint(whole | long) else None


def mode_of(metric: str, directions: Mapping[str, Mode] | None = None) -> Mode:
    """Return whether the smaller or the larger value of a metric is the better one.

    Args:
        metric: its name.
        directions: what a run decided of its metrics; of others the name tells, and an unknown one is better when it
            is smaller, as for Lightning's own callbacks.
    """
    return (directions or {}).get(metric) or mode_by_name(metric) or "min"


def improves(value: float, than: float | None, mode: Mode) -> bool:
    """Whether a value is better than the best so far, if there is one; a value that is not finite never is."""
    if than is None or not math.isfinite(value):
        return math.isfinite(value)
    return value < than if mode == "min" else value > than


def is_loss(metric: str) -> bool:
    """Return whether a metric is a loss by its name."""
    return stage_of(metric)[0].endswith("loss")


def stage_of(metric: str) -> tuple[str, str]:
    """Split a metric's name into what it measures and where: ``train_loss`` is ``("loss", "train")``.

    Lightning's suffixes ``_step``, ``_epoch`` and ``/dataloader_idx_0`` go the way of the field: the first two are
    dropped, the last stays with the name. The stage is empty where the name tells none.
    """
    name, _, loader = metric.partition("/dataloader_idx_")
    name = re.sub(r"_(step|epoch)$", "", name)
    match = re.match(r"([a-zA-Z]+)[_/.\- ](.+)$", name)
    base, stage = name, ""
    if match and match[1].lower() in STAGES:
        base, stage = match[2], STAGES[match[1].lower()]
    else:
        match = re.match(r"(.+)[_/.\- ]([a-zA-Z]+)$", name)
        if match and match[2].lower() in STAGES and match[2].lower() != "dev":  # std_dev is a deviation
            base, stage = match[1], STAGES[match[2].lower()]
    return (f"{base} [{loader}]" if loader else base), stage


def main_metric(metrics: list[str]) -> str | None:
    """Return the metric that tells which epoch was best where none is monitored, or None if there is none.

    It is one of validation: the best training loss is nearly always the last. A score comes before a loss, for a
    loss exists in order to be trained on.
    """
    validation = [name for name in metrics if stage_of(name)[1] == "val"]
    scores = [name for name in validation if not is_loss(name)]
    return next(iter(scores or validation), None)


def _words(metric: str) -> list[str]:
    """The lower-case words of a name: ``MeanSquaredError`` and ``mean_squared_error`` alike."""
    name = metric.partition("/dataloader_idx_")[0]
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^a-zA-Z0-9]+", spaced) if word]
