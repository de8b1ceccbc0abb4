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
from .folder import RunFolder, display_path

_MAX_NAMES = 20


def deletion_problem(root: Path, row: RunRow) -> str:
    """Return why a run is not deleted, and what to do; empty if it can be."""
    folder, record = RunFolder(row.path), row.record
    if not os.path.lexists(folder.record_path):
        return (
            f"{row.run} was written by plain Lightning, so whether it is still running is unknown. If it is not, "
            f"delete its folder yourself: {display_path(row.path)}"
        )
    place = row.path.resolve()
    if place != root.resolve() / row.path.parent.name / row.path.name:
        return f"{row.run} is a symbolic link to {place}. Delete it yourself"
    if record is None and not folder.events_path.exists():
        return (
            f"{row.run} has an unreadable record and may not be a run. If it is one, delete its folder "
            f"yourself: {display_path(row.path)}"
        )
    if row.status == "running" or folder.is_alive():
        return f"{row.run} is running. Stop it first: %lightning_stop {row.run}"
    if record is not None and folder.is_elsewhere():
        return f"{row.run} is running on {record.host}, according to its record. Delete it there"
    return ""


def size_bytes(rows: Sequence[RunRow]) -> int:
    """Return how much room runs take on the disk; of a file that has several names each counts."""
    total = 0
    for row in rows:
        for folder, _, files in os.walk(row.path):
            for name in files:
                with contextlib.suppress(OSError):  # it is gone already
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total


def deletion_summary(rows: Sequence[RunRow]) -> str:
    """Return how many runs these are, how much room they take, and their names."""
    names = [row.run for row in rows[:_MAX_NAMES]]
    names += [f"{len(rows) - _MAX_NAMES} more"] if len(rows) > _MAX_NAMES else []
    return f"{formats.plural(len(rows), 'run')} ({formats.size(size_bytes(rows))}): {', '.join(names)}"


def delete(root: Path, rows: Sequence[RunRow]) -> str:
    """Delete runs, all of them or, where one may not be, none; returns what was deleted.

    The record goes last, so that what is interrupted can be named again.

    Raises:
        RunError: one of them may not be deleted, or the disk refuses it.
    """
    for row in rows:
        if reason := deletion_problem(root, row):
            raise RunError(f"{reason}. Nothing was deleted")
    summary = deletion_summary(rows)
    for place, row in enumerate(rows):
        try:
            _remove(RunFolder(row.path))
        except OSError as error:
            raise RunError(
                f"{row.run} cannot be deleted: {error.strerror}: {display_path(error.filename or row.path)}. "
                f"Already deleted: {', '.join(item.run for item in rows[:place]) or 'nothing'}"
            ) from error
    return f"deleted {summary}"


def _remove(folder: RunFolder) -> None:
    """Remove a run's folder, and the model's if nothing else is in it; links are removed and never followed."""
    with os.scandir(folder.path) as directory:
        entries = list(directory)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != str(folder.record_path):
            os.unlink(entry.path)
    shutil.rmtree(folder.path)
    with contextlib.suppress(OSError):
        folder.path.parent.rmdir()
