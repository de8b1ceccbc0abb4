"""The log of a rank: opening it, appending to it, and reading new lines as it grows.

All writers append to one file: the rank's output (`launch/rank_process`, `launch/supervisor`), Lightning's messages
(`training/messages`), a view that failed (`launch/screen`), and the launcher of a rank, before Python starts (the shell
in `launch/slurm/nodes`). `launch/follow`, `run.logs` and `launch/supervision` read it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

MARK = "#\u2060 "  # begins the lines of a log that the user's code did not print; they begin with no joiner


def mark_lines(text: str) -> str:
    """Return a text for a log, as what the user's code did not print."""
    return "".join(f"{MARK}{line}" for line in text.splitlines(keepends=True))


def redirect_output(path: Path) -> None:
    """Redirect the output of this process to a log, and its input to the null device."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((0, null), (1, log), (2, log)):
        os.dup2(target, number)
    os.close(log)
    os.close(null)


class _QuietFile(io.FileIO):
    """A file that takes only what there is room for, and keeps the first error instead of raising it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self.failure = self.failure or error


class AppendedText(io.TextIOWrapper):
    """Text that is appended to a file line by line; a full disk raises no error: it must not end a training run.

    Args:
        file: its path, or the descriptor of an open one, which stays open.
    """

    def __init__(self, file: Path | int) -> None:
        try:
            self._raw = _QuietFile(file, "a", closefd=not isinstance(file, int))
        except OSError as error:
            self._raw = _QuietFile(os.devnull, "a")
            self._raw.failure = error
        buffer = io.BufferedWriter(self._raw)
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    @property
    def failure(self) -> OSError | None:
        """Why something could not be written, None if everything could."""
        return self._raw.failure


class NewLines:
    """New complete lines of a file that grows; one that has shrunk is read from its beginning.

    Args:
        path: of the file, which may not exist yet.
        most: bytes to read at once; what lies before is skipped. None for all.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path = path
        self._most = most
        self._offset = 0

    def read(self, last: bool = False) -> list[str]:
        """Return the lines that have come since the last time.

        Args:
            last: whether writing has ended; an incomplete last line is then returned too.
        """
        try:
            if not self._path.is_file():  # such as a pipe, which would never end
                return []
            with self._path.open("rb") as file:  # opened for each look: that is when a network file system asks
                size = os.fstat(file.fileno()).st_size
                if size < self._offset:  # it was truncated
                    self._offset = 0
                if size == self._offset:
                    return []
                if self._most is not None and size - self._offset > self._most:
                    file.seek(size - self._most)
                    self._offset = file.tell() + len(file.readline())
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        end = len(data) if last and data else data.rfind(b"\n") + 1
        self._offset += end
        return data[:end].decode("utf-8", errors="replace").removesuffix("\n").split("\n") if end else []
