"""Which way a metric gets better, guessed from its name, and how names of train, validation and test pair.

Nothing else: what follows from it (early stopping, the best checkpoint, the star in the table) is decided elsewhere.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Literal

_STAGES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

# Names, or parts of names between separators, whose smaller value is the better one.
_MIN = frozenset(
    {
        *("loss", "losses", "nll", "elbo", "kl", "divergence", "energy", "cost", "crossentropy", "entropy", "hinge"),
        *("error", "err", "errors", "mae", "mse", "rmse", "mape", "smape", "wmape", "msle", "rmsle", "rse", "nrmse"),
        *("perplexity", "ppl", "bpc", "bpb", "wer", "cer", "mer", "ter", "eer", "wil", "edit"),
        *("fid", "kid", "lpips", "ece", "brier", "hamming", "distance", "deviance", "regret", "ergas", "bce", "ce"),
    }
)

Mode = Literal["min", "max"]


@functools.lru_cache(maxsize=1024)  # asked for every metric of every epoch
def better(metric: str) -> Mode:
    """Return whether the smaller or the larger value of a metric is the better one, guessed from its name."""
    words = _words(metric)
    joined = "".join(words)
    if joined.endswith(("loss", "error", "distance", "perplexity", "crossentropy")):
        return "min"
    return "min" if any(word in _MIN for word in words) else "max"


def improves(metric: str, value: float, than: float | None) -> bool:
    """Whether a value is better than the best so far, if there is one; a value that is not finite never is."""
    if than is None or not math.isfinite(value):
        return math.isfinite(value)
    return value < than if better(metric) == "min" else value > than


def stage_of(metric: str) -> tuple[str, str]:
    """Split a metric's name into what it measures and where: ``train_loss`` is ``("loss", "train")``.

    Lightning's suffixes ``_step``, ``_epoch`` and ``/dataloader_idx_0`` go the way of the field: the first two are
    dropped, the last stays with the name. The stage is empty where the name tells none.
    """
    name, _, loader = metric.partition("/dataloader_idx_")
    name = re.sub(r"_(step|epoch)$", "", name)
    found = re.match(r"([a-zA-Z]+)[_/.\- ](.+)$", name)
    base, stage = name, ""
    if found and found[1].lower() in _STAGES:
        base, stage = found[2], _STAGES[found[1].lower()]
    else:
        found = re.match(r"(.+)[_/.\- ]([a-zA-Z]+)$", name)
        if found and found[2].lower() in _STAGES:
            base, stage = found[1], _STAGES[found[2].lower()]
    return (f"{base} [{loader}]" if loader else base), stage


def main_metric(metrics: list[str]) -> str | None:
    """Return the metric that tells which epoch was best where none is monitored, or None if there is none.

    It is one of validation: the best training loss is nearly always the last. A score comes before a loss, for a
    loss exists in order to be trained on.
    """
    found = [name for name in metrics if stage_of(name)[1] == "val"]
    scores = [name for name in found if not stage_of(name)[0].endswith("loss")]
    return next(iter(scores or found), None)


def _words(metric: str) -> list[str]:
    """The lower-case words of a name: ``MeanSquaredError`` and ``mean_squared_error`` alike."""
    name = metric.partition("/dataloader_idx_")[0]
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^a-zA-Z0-9]+", spaced) if word]
