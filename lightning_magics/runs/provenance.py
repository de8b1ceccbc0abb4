"""Where a run comes from: versions, hardware and git commit, for its record."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..version import __version__


def versions(package: str) -> dict[str, str]:
    """Versions of Python, this package, torch and the Lightning package in use."""
    versions = {"python": platform.python_version(), "lightning-magics": __version__}
    for name in ("torch", package.partition(".")[0].replace("_", "-"), "torchmetrics"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # installed without metadata
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Machine, processor and number of torch's threads: sums may differ in their last digits by these.

    A rerun names each one that differs (`replay/agreement`), so that only facts that can change results belong here.
    """
    import torch

    facts: dict[str, Any] = {"machine": platform.machine(), "processor": _processor()}
    return facts | {"threads": torch.get_num_threads()}


@functools.cache
def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def git() -> dict[str, Any]:
    """Commit of the working directory and whether tracked files differ from it (None where git does not tell).

    Empty outside a repository.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Output of a git command; None where it fails or takes longer than a fit should wait for it.

    Without locks that git may leave out: another git of the user's never waits for this one.
    """
    command = ["git", "--no-optional-locks", *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=1, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them; what it cannot hold as its ``repr``, shortened."""
    return {str(name): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = str(value) if value.dtype.kind in "mM" else value.item()  # of a date or a time span
    if type(value) in (list, tuple):
        value = [_plain(item) for item in value]
    if isinstance(value, dict):  # some kinds of them, such as a Counter, cannot be copied item by item
        value = {key: _plain(item) for key, item in value.items()}
    if isinstance(value, PurePath):
        value = str(value)
    return value if _is_json(value) else repr(value)[:200]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
