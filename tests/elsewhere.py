"""Processes that know nothing of the tests, forked from an interpreter that has imported torch and both Lightnings.

An interpreter of its own for each of them would import those for many seconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_SERVER = """
import atexit, gc, json, os, sys, traceback, types
import torch, torchmetrics, lightning.pytorch, pytorch_lightning
gc.freeze()  # a collection in a child must not copy its pages
requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
for line in requests:
    asked, children = json.loads(line), []
    for environment in asked["environments"]:
        children.append(os.fork())
        if not children[-1]:
            break
    else:
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ends), file=replies, flush=True)
        continue
    break
else:
    sys.exit()
for number, name in enumerate(("in", "out", "error")):
    os.dup2(os.open(asked["folder"] + "/" + name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY), number)
os.environ.update(environment)
sys.argv[1:] = asked["arguments"]
main = sys.modules["__main__"] = types.ModuleType("__main__")
status = 0
try:
    exec(compile(asked["code"], asked["filename"], "exec"), main.__dict__)
except BaseException:
    traceback.print_exc()
    status = 1
atexit._run_exitfuncs()
sys.stdout.flush()
os._exit(status)  # to take apart all that was imported costs seconds
"""


class Interpreter:
    """Forks a process for each piece of code that it is given."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def run(
        self, code: str, *arguments: object, given: bytes = b"", ranks: int = 0, filename: str = "<string>"
    ) -> subprocess.CompletedProcess[str]:
        """Run code as ``python -c`` does, or in processes that are told which rank each of them is.

        Args:
            code: what to run.
            arguments: texts for its `sys.argv`.
            given: what it reads.
            ranks: number of processes that are ranks of one another; 0 for a process that is none.
            filename: where the code stands.

        Returns:
            What they printed, and the first exit code that is not 0.
        """
        with TemporaryDirectory() as folder:
            for name, content in (("in", given), ("out", b""), ("error", b"")):
                Path(folder, name).write_bytes(content)
            asked = {
                "code": code, "arguments": [str(item) for item in arguments], "filename": filename, "folder": folder,
                "environments": _environments(ranks),
            }  # fmt: skip
            ends = self._ask(asked)
            out, error = (Path(folder, name).read_text() for name in ("out", "error"))
        return subprocess.CompletedProcess(code, next(filter(None, ends), 0), out, error)

    def _ask(self, asked: dict[str, object], timeout_s: float = 200) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], timeout_s)[0], "it does not end"
        return list(json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        """End it, and what it forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _environments(ranks: int) -> list[dict[str, str]]:
    """What the environment of each process has besides: of ranks, what torch and Lightning look for."""
    if not ranks:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "GLOO_SOCKET_IFNAME": "lo"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
