"""Setting up the folder of a run, wherever it trains, and removing it where the run does not start."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import RunError
from ..runs.folder import RunFolder, write_text


def write_sources(sources: Mapping[Path, str]) -> None:
    """Write the files that are not empty."""
    for path, source in sources.items():
        if source:
            write_text(path, source)


@contextlib.contextmanager
def recording_errors(folder: RunFolder) -> Iterator[None]:
    """Say in a line that the folder cannot be written.

    Raises:
        RunError: what is within it raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the run cannot be recorded in {folder.path}: {error.strerror}. "
            "Free some space, or choose another folder: %config LightningMagics.run_dir = 'PATH'"
        ) from error


@contextlib.contextmanager
def remove_unless_started(folder: RunFolder, has_started: Callable[[], bool]) -> Iterator[None]:
    """Remove the folder of a run that was refused, and the model's folder if nothing else is in it.

    It is then as if the run had not been asked for.
    """
    try:
        yield
    finally:
        if not has_started():
            shutil.rmtree(folder.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.path.parent.rmdir()


@contextlib.contextmanager
def remove_unless_begun(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that was interrupted, or failed, before anything could happen in it."""
    try:
        yield
    except BaseException:
        with remove_unless_started(folder, folder.events_path.exists):
            pass
        raise
