"""The process that runs TensorBoard: it tells the kernel where it listens, and ends when the kernel does.

Who starts it, and asks whether it still answers, is `servers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import traceback
import urllib.parse
from typing import Any

from ...transport.stop import ignore_interrupts

_RELOAD_S = 2  # between two looks at the log folder
_LIVE = b"""const settings = "_tb_global_settings"
if (!localStorage.getItem(settings))
  localStorage.setItem(settings, '{"autoReload": true, "timeSeriesSettingsPaneOpened": false}')
"""


def main(kernel_fd: int, logdir: str, path: str, port: int | None, strict: bool, temporary_folder: str) -> None:
    """Serve until the kernel is gone.

    It is told in one JSON line: ``{"port": 6006}``, or ``{"error": "…", "taken": true}`` where that was the port.

    Args:
        kernel_fd: a socket to the kernel, whose end is the kernel's.
        logdir: folder that TensorBoard reads.
        path: under which it serves, ``/lightning_logs-3f2a91``.
        port: to listen at; None for TensorBoard's own choice, 6006 or the next that is free.
        strict: whether no other port will do.
        temporary_folder: folder to remove at the end; empty for none.
    """
    ignore_interrupts()
    kernel = socket.socket(fileno=kernel_fd)
    ending = threading.Thread(
        target=_end_with, args=(kernel, temporary_folder)
    )  # also while TensorBoard is still importing
    ending.start()
    is_taken = port is not None and not _is_free(port)
    answer: dict[str, object]
    try:
        if is_taken and strict:
            answer = {"error": f"port {port} is in use", "taken": True}
        else:
            answer = {"port": _launch(logdir, path, None if is_taken else port)}
    except BaseException as error:  # the edge of this process: SystemExit is how TensorBoard refuses its flags
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    kernel.sendall(json.dumps(answer).encode() + b"\n")
    ending.join()


def _launch(logdir: str, path: str, port: int | None) -> int:
    """Let TensorBoard serve in a thread of its own; returns the port."""
    from tensorboard import program

    def server(app: Any, flags: Any) -> Any:
        return program.create_port_scanning_werkzeug_server(_Live(app, path), flags)

    board = program.TensorBoard(server_class=server)
    flags = [f"--logdir={logdir}", "--host=127.0.0.1", f"--path_prefix={path}", f"--reload_interval={_RELOAD_S}"]
    board.configure(argv=["tensorboard", *flags], port=port)
    return urllib.parse.urlsplit(board.launch()).port or 0


class _Live:
    """TensorBoard's pages with other settings at first: they load new values by themselves, and leave room for curves.

    Off, as TensorBoard has it, a running fit would seem to stand still. What the user sets is kept by the browser.

    Args:
        app: TensorBoard's WSGI application.
        path: under which it serves.
    """

    def __init__(self, app: Any, path: str) -> None:
        self._app = app
        self._path = path

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request."""
        page = environ.get("PATH_INFO", "").removeprefix(self._path)
        if page == "/live.js":
            headers = [("Content-Type", "text/javascript"), ("Content-Length", str(len(_LIVE)))]
            start_response("200 OK", [*headers, ("X-Content-Type-Options", "nosniff")])
            return [_LIVE]
        if page not in ("/", "/index.html"):
            return self._app(environ, start_response)
        started: list[Any] = []
        body = b"".join(self._app(environ, lambda *arguments: started.extend(arguments)))
        body = body.replace(b"<head>", b'<head><script src="live.js"></script>', 1)
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        start_response(started[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as TensorBoard does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _end_with(kernel: socket.socket, temporary_folder: str) -> None:
    """End this process once the kernel has let go of it; the data server that TensorBoard starts then ends too."""
    with contextlib.suppress(OSError):
        kernel.recv(1)
    if temporary_folder:
        shutil.rmtree(temporary_folder, ignore_errors=True)
    os._exit(0)
