"""What Lightning says while it works: what a user should act on becomes a notice, the rest goes to the run's log."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from ..runs.log import AppendedText, mark_lines

_TOP_LOGGERS = ("pytorch_lightning", "lightning", "lightning_fabric", "mlflow", "alembic")
_PYTHON_LOGGERS = (*_TOP_LOGGERS, "lightning.pytorch", "lightning.fabric")
_WARNING_MODULES = r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|torchmetrics|torch)\b.*"
# Warnings that a user of this package cannot or need not act on: it made the choice that they are about.
_NOISE = re.compile(
    r"smaller than the logging interval"
    r"|Checkpoint directory .* exists and is not empty"
    r"|dirpath has changed|Be aware that when using `ckpt_path`, callbacks"
    r"|Experiment logs directory"
    r"|You're resuming from a checkpoint that ended before the epoch ended"
    r"|is not supported by the model summary"
    r"|`srun` command is available"  # on a cluster's login node: a fit's processes are named or started by us
    r"|LeafSpec|TorchScript|is deprecated|was deprecated"
)
_REWORDED = [
    (
        re.compile(r"^Using `DistributedSampler` with the dataloaders"),
        "Each process gets the same number of samples, so a few may be counted twice. For exact metrics: --devices 1.",
    ),
    (
        re.compile(r"does not have many workers"),
        "Data is loaded in the training process (num_workers=0). If loading is slow, type --data.num_workers 2.",
    ),
    (
        re.compile(r"defined a `validation_step` but have no `val_dataloader`"),
        "No validation data: only training metrics are shown. Pass a second data argument, or use --val_split.",
    ),
    (
        re.compile(r"`max_epochs` was not set. Setting it to (\d+)"),
        r"No limit was set, so Lightning will train for \1 epochs. Set --max_epochs N, --max_steps N or --max_time.",
    ),
]


@contextlib.contextmanager
def redirected_messages(log_path: Path, notice: Callable[[str], None]) -> Iterator[None]:
    """Send what Lightning logs and warns to `log_path`, and to `notice` what a user should act on, once each.

    Warnings that the user's own code raises are shown as ever. What cannot be written to the log is left out.
    """
    with AppendedText(log_path) as log, _loggers_to(log), _warnings_to(log, notice):
        yield


def reworded(text: str) -> str:
    """Return a Lightning warning as a user of this package would say it, or "" where it is noise."""
    if _NOISE.search(text):
        return ""
    for pattern, rewording in _REWORDED:
        if match := pattern.search(text):
            return match.expand(rewording)
    return " ".join(text.split())


def _is_user_file(filename: str) -> bool:
    return "site-packages" not in filename and "dist-packages" not in filename and not filename.startswith("<frozen")


class _LogHandler(logging.StreamHandler[AppendedText]):
    terminator = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return a message as lines that the user's code did not print."""
        return mark_lines(f"{super().format(record)}\n")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Stay silent: a message of Lightning that cannot be formatted is not for the user to see."""


@contextlib.contextmanager
def _loggers_to(log: AppendedText) -> Iterator[None]:
    """Let Lightning's loggers write to the log alone, and put their handlers back afterwards.

    A logger that got other handlers in the meantime keeps them.
    """
    handler = _LogHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = []
    for logger in map(logging.getLogger, _PYTHON_LOGGERS):
        top = logger.name in _TOP_LOGGERS
        run_handlers: list[logging.Handler] = [handler] if top else []
        before.append((logger, run_handlers, logger.handlers, logger.propagate, logger.level))
        logger.handlers = run_handlers
        logger.propagate = not top
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, run_handlers, handlers, propagate, level in before:
            if logger.handlers is run_handlers:
                added = [item for item in run_handlers if item is not handler]
                logger.handlers, logger.propagate = [*handlers, *added], propagate
                logger.setLevel(level)


@contextlib.contextmanager
def _warnings_to(log: AppendedText, notice: Callable[[str], None]) -> Iterator[None]:
    """Let warnings go to the log and to `notice`; a ``showwarning`` that others set in the meantime stays."""
    show = _WarningRecorder(log, notice)
    with warnings.catch_warnings():
        warnings.filterwarnings("default", module=_WARNING_MODULES)  # in every run anew, once for a place in the code
        warnings.showwarning = show
        try:
            yield
        finally:
            show.active = False
            last = warnings.showwarning
    if last is not show:
        warnings.showwarning = last


class _WarningRecorder:
    """Stands in for ``warnings.showwarning``; once no longer active, it hands on to the one before it."""

    def __init__(self, log: AppendedText, notice: Callable[[str], None]) -> None:
        self.active = True
        self._log = log
        self._notice = notice
        self._before = warnings.showwarning
        self._reported: set[str] = set()

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        if self.active:
            self._log.write(mark_lines(f"{category.__name__}: {text}\n"))
        if not self.active or _is_user_file(filename):
            self._before(message, category, filename, lineno, file, line)
            return
        if issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
            return
        text = reworded(text)
        if text and text not in self._reported:
            self._reported.add(text)
            self._notice(text)
