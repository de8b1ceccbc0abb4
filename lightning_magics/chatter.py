"""What Lightning says while it works: what a user should act on becomes a notice, the rest goes to the run's log."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TextIO

_TOP_LOGGERS = ("pytorch_lightning", "lightning", "lightning_fabric", "mlflow", "alembic")
_LOGGERS = (*_TOP_LOGGERS, "lightning.pytorch", "lightning.fabric")
_SPEAKERS = r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|torchmetrics|torch)\b.*"

# Warnings that a user of this package cannot or need not act on: it made the choice that they are about.
_NOISE = re.compile(
    r"smaller than the logging interval"
    r"|Checkpoint directory .* exists and is not empty"
    r"|dirpath has changed|Be aware that when using `ckpt_path`, callbacks"
    r"|Experiment logs directory"
    r"|You're resuming from a checkpoint that ended before the epoch ended"
    r"|is not supported by the model summary"
    r"|LeafSpec|TorchScript|is deprecated|was deprecated"
)
_REWORDED = [
    (
        re.compile(r"does not have many workers"),
        "Data is loaded in the training process (num_workers=0). If loading is slow, type --data.num_workers 2.",
    ),
    (
        re.compile(r"defined a `validation_step` but have no `val_dataloader`"),
        "No validation data: only training metrics are shown. Give a second data argument, or --val_split to the data.",
    ),
    (
        re.compile(r"`max_epochs` was not set. Setting it to (\d+)"),
        r"No end was asked for, so Lightning trains \1 epochs: say --max_epochs N, --max_steps N or --max_time.",
    ),
]


@contextlib.contextmanager
def chatter(log_path: Path, notice: Callable[[str], None]) -> Iterator[None]:
    """Send what Lightning logs and warns to `log_path`, and to `notice` what a user should act on, once each.

    Warnings that the user's own code raises are shown as ever.
    """
    with (
        log_path.open("a", encoding="utf-8", errors="replace") as log,
        _loggers_to(log),
        warnings.catch_warnings(),
    ):
        shown = warnings.showwarning
        told: set[str] = set()

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = str(message)
            log.write(f"{category.__name__}: {text}\n")
            if _of_user(filename):
                shown(message, category, filename, lineno, file, line)
                return
            if issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
                return
            text = reworded(text)
            if text and text not in told:
                told.add(text)
                notice(text)

        warnings.showwarning = show
        warnings.filterwarnings("always", module=_SPEAKERS)
        yield


def reworded(text: str) -> str:
    """Return a Lightning warning as a user of this package would say it, or "" where it is noise."""
    if _NOISE.search(text):
        return ""
    for pattern, better in _REWORDED:
        if found := pattern.search(text):
            return found.expand(better)
    return " ".join(text.split())


def _of_user(filename: str) -> bool:
    return "site-packages" not in filename and "dist-packages" not in filename and not filename.startswith("<frozen")


@contextlib.contextmanager
def _loggers_to(file: IO[str]) -> Iterator[None]:
    """Let Lightning's loggers write to the file alone, and put their handlers back afterwards."""
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        top = logger.name in _TOP_LOGGERS
        logger.handlers = [handler] if top else []
        logger.propagate = not top
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
