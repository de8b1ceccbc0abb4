"""A process that stands ready with torch and Lightning imported, and forks the supervisor of each run.

It is exec'ed, never forked from the kernel, so that it has nothing of the kernel's: no sockets, no CUDA context, no
signal handlers. It may have one thread alone, for a fork takes along no other. Blocked in a read, it costs no CPU,
and it ends when the kernel does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback

from ..transport.stop import ignore_interrupts
from . import supervisor


def main(kernel_fd: int, modules: list[str]) -> None:
    """Import modules, say so, then fork a supervisor for each message, until the kernel is gone.

    A message is one byte with two file descriptors, the supervisor's lifeline and the run's lock; its answer is
    one byte. The imports are told in JSON lines, ``{"imports": "torch"}`` before each, and at last ``{"error": ""}``,
    or why this process cannot be forked and, as ``culprit``, the module that made it so.

    Args:
        kernel_fd: a socket to the kernel.
        modules: names to import; those that cannot be are left out.
    """
    ignore_interrupts()
    with socket.socket(fileno=kernel_fd) as kernel:
        culprit = ""
        for name in modules:
            _send(kernel, imports=name)
            try:
                importlib.import_module(name)
            except Exception:  # a package that is broken here is so in the rank that needs it
                traceback.print_exc()
            culprit = culprit or (name if _fork_problem() else "")
        error = _fork_problem()
        if error:
            _send(kernel, error=error, culprit=culprit)
            return
        _send(kernel, error="")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
        gc.collect()
        gc.freeze()  # what is imported is for ever: a collection in a child must not copy its pages
        while True:
            message, fds, _, _ = socket.recv_fds(kernel, 1, 2)
            if not message:
                return
            if os.fork() == 0:
                kernel.close()
                _supervise(*fds)
            for fd in fds:
                os.close(fd)
            kernel.sendall(b"1")


def _send(kernel: socket.socket, **words: str) -> None:
    kernel.sendall(json.dumps(words).encode() + b"\n")


def _supervise(lifeline: int, lock: int) -> None:
    """Be the supervisor of a run; never returns to the loop above."""
    os.setsid()
    try:
        supervisor.main(lifeline, lock, "fork")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _fork_problem() -> str:
    """Why this process cannot be forked, empty if it can."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux
        threads = threading.active_count()
    if threads > 1:
        return f"{threads - 1} extra thread(s) started"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA was initialized"
    return ""
