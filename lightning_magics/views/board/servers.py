"""The TensorBoard servers of this kernel: each is started, found alive again, replaced where it died, and ended.

What such a process does is in `process`, where a board is shown in `frame`: nothing is displayed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import itertools
import json
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ...errors import MissingPackage
from ...runs.folder import RunFolder, display_path, root_folder
from ...transport.children import hold, release, start_interpreter

_START_S = 60.0
_PROBE_S = 5.0
_END_S = 5.0
_REPAIR = "To repair it: %pip install --upgrade --force-reinstall tensorboard"


@dataclass(frozen=True)
class BoardSource:
    """What a board shows; the same places are equal, however they were spelled.

    Attributes:
        places: a folder, or several by the name that TensorBoard is to show; resolved.
        title: as a user reads it.
    """

    places: tuple[tuple[str, str], ...]
    title: str = field(compare=False)

    @classmethod
    def of_folder(cls, folder: str | Path) -> BoardSource:
        """All that is below a folder, which need not exist yet."""
        path = root_folder(folder).resolve()
        return cls((("", str(path)),), display_path(path))

    @classmethod
    def of_places(cls, places: Iterable[RunFolder | Path]) -> BoardSource:
        """Some runs or folders alone, each under the last parts of its path; a folder shows all that is below it."""
        sources = {root_folder(item.path if isinstance(item, RunFolder) else item).resolve(): item for item in places}
        paths = [path for path in sorted(sources) if not any(outer in sources for outer in path.parents)]
        if len(paths) == 1 and isinstance(sources[paths[0]], Path):
            return cls.of_folder(paths[0])
        names = _unique_names({path: 2 if isinstance(sources[path], RunFolder) else 1 for path in paths})
        return cls(tuple(sorted(names.items())), ", ".join(sorted(names)))

    @property
    def path(self) -> str:
        """Under which the board is served: another board at the same port, or a stranger, has nothing there."""
        first = self.places[0][0] or Path(self.places[0][1]).name
        name = re.sub(r"[^\w.-]+", "_", first if len(self.places) == 1 else "runs")
        return f"/{name}-{hashlib.sha256(repr(self.places).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Board:
    """A server that answers.

    Attributes:
        port: on 127.0.0.1, where it listens.
        path: of its first page, ``/lightning_logs-3f2a91/``.
        title: what it shows, as a user reads it.
    """

    port: int
    path: str
    title: str


@dataclass(frozen=True)
class BoardFailure:
    """No server was started.

    Attributes:
        reason: what was wrong, and what to type next.
    """

    reason: str


class _Server:
    """One server: its process, which lives as long as this end of a socket, and where it listens.

    Args:
        source: what it shows.
        port: to listen at, if that is free; None for any.
        strict: whether no other port will do.
    """

    def __init__(self, source: BoardSource, port: int | None, strict: bool) -> None:
        self._source = source
        self.port = port
        with contextlib.ExitStack() as undo:
            self._temporary_folder = "" if source.places[0][0] == "" else _link_folder(dict(source.places))
            undo.callback(shutil.rmtree, self._temporary_folder, ignore_errors=True)
            self._logdir = self._temporary_folder or source.places[0][1]
            self._socket, child_socket = socket.socketpair()
            hold(self._socket.fileno())
            undo.callback(lambda: release(self._socket.detach()))
            request = (self._logdir, source.path, port, strict, self._temporary_folder)
            code = f"from lightning_magics.views.board.process import main; main({child_socket.fileno()}, *{request!r})"
            with child_socket:
                self._log = undo.enter_context(tempfile.TemporaryFile())
                self._process = start_interpreter(code, (child_socket.fileno(),), self._log, dict(os.environ))
            undo.pop_all()  # it has started

    def wait(self) -> Board | BoardFailure:
        """Wait until it listens, or has failed to."""
        answer, ready = b"", select.poll()
        ready.register(self._socket, select.POLLIN)
        while not answer.endswith(b"\n"):
            if not ready.poll(_START_S * 1000):
                return BoardFailure(f"TensorBoard has not started within {_START_S:.0f} s. Try again. {_REPAIR}")
            chunk = self._socket.recv(4096)
            if not chunk:
                return BoardFailure(f"TensorBoard exited while starting: {self._last_words()}. {_REPAIR}")
            answer += chunk
        message = json.loads(answer)
        if message.get("taken"):
            return BoardFailure(
                f"{message['error']} by another program. Choose another --port, or leave it out to use a free one"
            )
        if "error" in message:
            return BoardFailure(f"TensorBoard cannot start: {message['error']}. {_REPAIR}")
        self.port = message["port"]
        return self.board()

    def board(self) -> Board:
        """Where it is."""
        return Board(self.port or 0, f"{self._source.path}/", self._source.title)

    def answers(self) -> bool:
        """Whether it serves this log folder now; its process being there does not tell."""
        if self._process.poll() is not None:
            return False
        return _fetch(self.board(), "data/environment").get("data_location") == self._logdir

    def end(self) -> None:
        """End it, and wait until it is gone."""
        release(self._socket.detach())
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it was stopped, or hangs
            self._process.kill()
            self._process.wait()
        self._log.close()
        if self._temporary_folder:  # it was killed before it could
            shutil.rmtree(self._temporary_folder, ignore_errors=True)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


_servers: dict[BoardSource, _Server] = {}
_lock = threading.Lock()  # a fit opens its board in a thread


def check_installed() -> None:
    """Check early that TensorBoard is installed.

    Raises:
        MissingPackage: there is none.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingPackage("tensorboard", "showing TensorBoard", "tensorboard")


def start(source: BoardSource, port: int | None = None) -> Board | BoardFailure:
    """Return this kernel's server for a source: the one that answers, else a new one.

    A server that takes the place of a dead one listens where that did, if it can: what shows it in the page and in
    other tabs then goes on.

    Args:
        source: what to show.
        port: the only one that will do; None for 6006 or the next that is free.
    """
    with _lock:
        old_server = _servers.get(source)
        is_alive = old_server is not None and old_server.answers()
        if old_server is not None and is_alive and port in (None, old_server.port):
            return old_server.board()
        if old_server is not None and not is_alive:
            _servers.pop(source).end()
        try:
            new_server = _Server(source, port or (old_server.port if old_server else None), strict=port is not None)
        except OSError as error:
            return BoardFailure(f"TensorBoard cannot be started: {error}")
        try:
            outcome = new_server.wait()
        except BaseException:  # interrupted
            new_server.end()
            raise
        if isinstance(outcome, BoardFailure):
            new_server.end()
            return outcome
        if old_server is not None and is_alive:  # the user wants another port
            old_server.end()
        _servers[source] = new_server
        return outcome


def has_values(board: Board, run: str) -> bool:
    """Whether a board has something to show of a run."""
    return run in _fetch(board, "data/plugin/scalars/tags")


def _fetch(board: Board, page: str) -> dict[str, Any]:
    """What a server answers; empty if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", board.port, timeout=_PROBE_S)  # past any proxy of the user's
    try:
        connection.request("GET", f"{board.path}{page}")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}


def close() -> None:
    """End all servers of this kernel."""
    with _lock:
        while _servers:
            _servers.popitem()[1].end()


def _unique_names(lengths: Mapping[Path, int]) -> dict[str, str]:
    """Paths under names, none of which is another's or lies below it: a link would be made through a link.

    Args:
        lengths: of each path, none within another, how many of its last parts are its name where nothing clashes.
    """
    names = {path: PurePath(*path.relative_to(path.anchor).parts[-length:]) for path, length in lengths.items()}
    clashing = {
        path
        for pair in itertools.permutations(names, 2)
        if names[pair[0]].is_relative_to(names[pair[1]])
        for path in pair
    }
    if clashing:
        return _unique_names({path: length + (path in clashing) for path, length in lengths.items()})
    return {str(name): str(path) for path, name in names.items()}


def _link_folder(paths: Mapping[str, str]) -> str:
    """A folder of links to some places, which is how TensorBoard asks to be shown these alone.

    Its own ``--logdir_spec`` is discouraged by it, and reads more slowly.

    Raises:
        OSError: links cannot be made.
    """
    folder = tempfile.mkdtemp(prefix="lightning_board_")
    try:
        for name, path in paths.items():
            link = Path(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path, target_is_directory=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
