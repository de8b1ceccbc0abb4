"""The process that runs TensorBoard: it tells the kernel where it listens, and ends when the kernel does.

Who starts it, and asks whether it still answers, is `boards`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import traceback
import urllib.parse


def main(kernel_fd: int, logdir: str, path: str, port: int | None, strict: bool, passing: str) -> None:
    """Serve until the kernel is gone.

    It is told in one JSON line: ``{"port": 6006}``, or ``{"error": "…", "taken": true}`` where that was the port.

    Args:
        kernel_fd: a socket to the kernel, whose end is the kernel's.
        logdir: folder that TensorBoard reads.
        path: under which it serves, ``/lightning_logs-3f2a91``.
        port: to listen at; None for TensorBoard's own choice, 6006 or the next that is free.
        strict: whether no other port will do.
        passing: folder to remove at the end; empty for none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel = socket.socket(fileno=kernel_fd)
    ending = threading.Thread(target=_end_with, args=(kernel, passing))  # also while TensorBoard is still importing
    ending.start()
    taken = port is not None and not _is_free(port)
    answer: dict[str, object]
    try:
        if taken and strict:
            answer = {"error": f"port {port} is in use", "taken": True}
        else:
            answer = {"port": _launch(logdir, path, None if taken else port)}
    except BaseException as error:  # the edge of this process: SystemExit is how TensorBoard refuses its flags
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    kernel.sendall(json.dumps(answer).encode() + b"\n")
    ending.join()


def _launch(logdir: str, path: str, port: int | None) -> int:
    """Let TensorBoard serve in a thread of its own; returns the port."""
    from tensorboard import program

    board = program.TensorBoard()
    flags = [f"--logdir={logdir}", "--host=127.0.0.1", f"--path_prefix={path}"]
    board.configure(argv=["tensorboard", *flags], port=port)
    return urllib.parse.urlsplit(board.launch()).port or 0


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as TensorBoard does
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _end_with(kernel: socket.socket, passing: str) -> None:
    """End this process once the kernel has let go of it; the data server that TensorBoard starts then ends too."""
    with contextlib.suppress(OSError):
        kernel.recv(1)
    if passing:
        shutil.rmtree(passing, ignore_errors=True)
    os._exit(0)
