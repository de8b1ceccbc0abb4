"""Slurm's commands, run with a time limit, and what they answered.

What the answers mean is `jobs`' and `partitions`' part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 10.0
_NO_CONTACT = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Unable to establish")


@dataclass(frozen=True)
class Answer:
    """What a command came to.

    Attributes:
        text: what it printed.
        error: Slurm's words where it failed; empty where it worked.
        silent: whether it failed because nobody answered.
    """

    text: str = ""
    error: str = ""
    silent: bool = False

    @property
    def rows(self) -> list[str]:
        """Lines of the text that are not blank."""
        return [line for line in self.text.splitlines() if line.strip()]


def ask(*command: str, timeout_s: float | None = None) -> Answer:
    """Run a command of Slurm's; a failure is an answer too. Times in it are Unix times."""
    timeout_s = timeout_s or TIMEOUT_S
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "%s"}
    try:
        completed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, env=env, check=False
        )
    except OSError as error:
        return Answer(error=f"{command[0]}: {error.strerror}", silent=True)
    except subprocess.TimeoutExpired:
        return Answer(error=f"{command[0]} did not respond within {timeout_s:g} s", silent=True)
    text, message = (
        completed.stdout.decode(errors="replace"),
        " ".join(completed.stderr.decode(errors="replace").split()),
    )
    if not completed.returncode:
        return Answer(text)
    message = message or f"{command[0]} exited with code {completed.returncode}"
    return Answer(text, message, any(phrase in message for phrase in _NO_CONTACT))


def is_installed(command: str = "sbatch") -> bool:
    """Whether a command of Slurm's is on the path."""
    return shutil.which(command) is not None
