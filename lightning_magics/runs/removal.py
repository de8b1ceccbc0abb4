"""Deleting runs: which may go, how much that frees, and taking them away."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import formats
from ..errors import RunError
from .catalog import RunRow
from .folder import RunFolder, shown

_MOST_NAMES = 20


def obstacle(root: Path, row: RunRow) -> str:
    """Return why a run is not deleted, and what to do; empty if it can be."""
    folder, record = RunFolder(row.path), row.record
    if not os.path.lexists(folder.record_path):
        return (
            f"{row.run} was written by plain Lightning, so whether it is still running is unknown. If it is not, "
            f"delete its folder yourself: {shown(row.path)}"
        )
    place = row.path.resolve()
    if place != root.resolve() / row.path.parent.name / row.path.name:
        return f"{row.run} is a symbolic link to {place}. Delete it yourself"
    if record is None and not folder.events_path.exists():
        return (
            f"{row.run} has an unreadable record and may not be a run. If it is one, delete its folder "
            f"yourself: {shown(row.path)}"
        )
    if row.status == "running" or folder.is_alive():
        return f"{row.run} is running. Stop it first: %lightning_stop {row.run}"
    if record is not None and folder.is_elsewhere():
        return f"{row.run} is running on {record.host}, according to its record. Delete it there"
    return ""


def size_bytes(found: Sequence[RunRow]) -> int:
    """Return how much room runs take on the disk; of a file that has several names each counts."""
    total = 0
    for row in found:
        for folder, _, files in os.walk(row.path):
            for name in files:
                with contextlib.suppress(OSError):  # it is gone already
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total


def described(found: Sequence[RunRow]) -> str:
    """Return how many runs these are, how much room they take, and their names."""
    names = [row.run for row in found[:_MOST_NAMES]]
    names += [f"{len(found) - _MOST_NAMES} more"] if len(found) > _MOST_NAMES else []
    return f"{formats.plural(len(found), 'run')} ({formats.size(size_bytes(found))}): {', '.join(names)}"


def delete(root: Path, found: Sequence[RunRow]) -> str:
    """Delete runs, all of them or, where one may not be, none; returns what was deleted.

    The record goes last, so that what is interrupted can be named again.

    Raises:
        RunError: one of them may not be deleted, or the disk refuses it.
    """
    for row in found:
        if reason := obstacle(root, row):
            raise RunError(f"{reason}. Nothing was deleted")
    told = described(found)
    for place, row in enumerate(found):
        try:
            _remove(RunFolder(row.path))
        except OSError as error:
            raise RunError(
                f"{row.run} cannot be deleted: {error.strerror}: {shown(error.filename or row.path)}. "
                f"Already deleted: {', '.join(item.run for item in found[:place]) or 'nothing'}"
            ) from error
    return f"deleted {told}"


def _remove(folder: RunFolder) -> None:
    """Remove a run's folder, and the model's if nothing else is in it; links are removed and never followed."""
    with os.scandir(folder.path) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != str(folder.record_path):
            os.unlink(entry.path)
    shutil.rmtree(folder.path)
    with contextlib.suppress(OSError):
        folder.path.parent.rmdir()
