"""The errors that this package raises, and how a notebook shows them.

The tree::

    LightningMagicsError
    ├── InputError           what was typed cannot be used; nothing was started
    │   └── MissingPackage   an optional package is not installed
    └── RunError             a run folder cannot be used as asked
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LightningMagicsError(Exception):
    """Base of every error of this package: one line for the user, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback; the cell still fails, so Run All stops."""
        return [f"{type(self).__name__}: {self}"]


class InputError(LightningMagicsError):
    """What was typed cannot be used: says what was asked, what was found and what to type."""


class MissingPackage(InputError):  # noqa: N818 -- reads as what it is in a notebook
    """An optional package is needed and not installed."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed. Type: %pip install {install}")


class RunError(LightningMagicsError):
    """A run folder is missing, broken or not in the state that was asked for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of the known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
