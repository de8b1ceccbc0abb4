"""Interpreters that this process starts, and the file descriptors by which they see that it lives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_private_fds: set[int] = set()


def hold(file: int) -> int:
    """Keep a file descriptor from the children that this process forks: there, nobody would see the kernel die."""
    _private_fds.add(file)
    return file


def release(file: int) -> None:
    """Close a file descriptor that is held; a second call does nothing."""
    if file in _private_fds:
        _private_fds.discard(file)
        os.close(file)


def _close_private_fds() -> None:
    for file in _private_fds:
        with contextlib.suppress(OSError):
            os.close(file)
    _private_fds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_private_fds)


def start_interpreter(
    code: str, fds: tuple[int, ...], output: Any, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Exec an interpreter in a session of its own, with this process's ``sys.path``."""
    path = [str(item) for item in sys.path if item] + [str(Path(__file__).parents[2])]
    program = f"import sys; sys.path[:] = {path!r}; {code}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=fds,
        start_new_session=True,
    )
