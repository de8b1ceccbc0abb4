"""The errors that this package raises, and how a notebook shows them.

The tree::

    LightningMagicsError
    ├── InputError           what was typed cannot be used; nothing was started
    │   └── MissingPackage   an optional package is not installed
    ├── RunError             a run folder cannot be used as asked
    └── BoardError           TensorBoard does not start
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from .shell import running_shell


class LightningMagicsError(Exception):
    """Base of every error of this package: one line for the user, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback; the cell still fails, so Run All stops."""
        return [f"{type(self).__name__}: {self}"]


class InputError(LightningMagicsError):
    """What was typed cannot be used; the message says why, and what to type instead."""


class MissingPackage(InputError):  # noqa: N818 -- reads as what it is in a notebook
    """An optional package is needed and not installed."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Type: %pip install {install}"
        )


class RunError(LightningMagicsError):
    """A run folder is missing, broken or not in the required state."""


class BoardError(LightningMagicsError):
    """TensorBoard could not be started."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of the known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


_MAX_CHARACTERS, _LAST_CHARACTERS = 10_000, 1_000  # of a message that is shown or recorded; of these, at its end
_MAX_FRAMES, _ROUNDS = 60, 3  # more frames than that are looked through for a recursion; of it so many rounds are shown
_PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]|^<frozen|" + re.escape(os.path.dirname(os.__file__) + os.sep))
# Frames that hand a call on, and tell a user nothing.
_FORWARDING = re.compile(
    r"[/\\](pytorch_lightning|lightning|lightning_fabric|IPython|ipykernel)[/\\]"
    r"|[/\\]torch[/\\]nn[/\\]modules[/\\](module|container)\.py$|[/\\]contextlib\.py$"
)


@contextlib.contextmanager
def short_traceback() -> Iterator[None]:
    """Let IPython show an exception of the user's code without the frames of this package and Lightning.

    The exception keeps its whole traceback, for ``%debug``.
    """
    try:
        yield
    except LightningMagicsError:
        raise
    except (Exception, KeyboardInterrupt) as raised:
        error = raised  # outlives the except block
        shell = running_shell()
        if shell is not None:
            with contextlib.suppress(AttributeError):  # an exception class with __slots__ is shown whole
                error._render_traceback_ = lambda: _render(shell, error)  # type: ignore[union-attr]
        raise


def _render(shell: Any, error: BaseException) -> list[str]:
    traceback = shortened_traceback(error)
    for cause in _causes(error):
        if _depth(cause.__traceback__) > _MAX_FRAMES:
            cause.__traceback__ = shortened_traceback(cause)  # IPython renders it as it is
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, traceback, tb_offset=0)
    return [truncated(line) for line in lines]


def truncated(text: str) -> str:
    """Return a text without its middle, where it is longer than anybody reads; the exception itself keeps it."""
    if len(text) <= _MAX_CHARACTERS:
        return text
    left_out = len(text) - _MAX_CHARACTERS
    return f"{text[: -_LAST_CHARACTERS - left_out]} … ({left_out:,} characters left out) … {text[-_LAST_CHARACTERS:]}"


def shortened_traceback(error: BaseException) -> TracebackType | None:
    """Return a copy of an exception's traceback: the user's own frames, and what the last of them called.

    A traceback without a frame of the user has all of them. Of a recursion, the first and the last rounds are there,
    and the exception has a note of the others: IPython would take minutes to render each.
    """
    frames = _user_frames(error.__traceback__)
    folded = _without_repeats(frames)
    note = f"{len(frames) - len(folded):,} repeated frames of a recursion are left out."
    if len(folded) < len(frames) and note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    short = None
    for item in reversed(folded):
        short = TracebackType(short, item.tb_frame, item.tb_lasti, item.tb_lineno)
    return short


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause is not error and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _depth(traceback: TracebackType | None) -> int:
    depth = 0
    while traceback is not None:
        depth, traceback = depth + 1, traceback.tb_next
    return depth


def _without_repeats(frames: list[TracebackType]) -> list[TracebackType]:
    """Leave out the lines that are passed again and again: of each, the first and the last times stay."""
    if len(frames) <= _MAX_FRAMES:
        return frames
    times: dict[tuple[Any, int], list[int]] = {}
    for place, item in enumerate(frames):
        times.setdefault((item.tb_frame.f_code, item.tb_lineno), []).append(place)
    kept = {place for places in times.values() for place in (*places[:_ROUNDS], *places[-_ROUNDS:])}
    return [frames[place] for place in sorted(kept)]


def _user_frames(traceback: TracebackType | None) -> list[TracebackType]:
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    users = [place for place, item in enumerate(frames) if _is_users(item)]
    if not users:
        return frames
    kept = [frames[place] for place in users]
    return kept + [item for item in frames[users[-1] + 1 :] if not _is_forwarding(item.tb_frame.f_code.co_filename)]


def _is_users(traceback: TracebackType) -> bool:
    """Whether a frame runs code of a cell or of the user's own modules."""
    filename = traceback.tb_frame.f_code.co_filename
    return not _is_forwarding(filename) and not _INSTALLED.search(filename)


def _is_forwarding(filename: str) -> bool:
    return filename.startswith(_PACKAGE_FOLDER) or _FORWARDING.search(filename) is not None
