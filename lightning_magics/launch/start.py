"""Starting the supervisor of a run: from a template that stands ready, or as an interpreter of its own.

What a supervisor does is in `supervisor`, what the template does in `template`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from ..transport.children import hold, release, start_interpreter
from .supervisor import SupervisorRequest

# Imported by the template: what every run needs, and what many models do, if the kernel has it too.
_NEEDED = ("lightning_magics.launch.rank_process", "torch.utils.tensorboard", "torchmetrics")
_COMMON = ("torchvision", "torchaudio", "transformers", "datasets", "pandas", "sklearn", "scipy")
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow, which pandas imports
}


_POLL_S = 0.1  # of waiting, so that an interrupt is heard


class Lifeline:
    """The kernel's end of the pipe to a supervisor; closed, a run in the foreground ends at once."""

    def __init__(self, file: int) -> None:
        self._file = hold(file)

    def wait(self, timeout_s: float) -> None:
        """Wait until the supervisor has ended, or for some time."""
        ended = select.poll()
        ended.register(self._file, 0)  # its end alone
        ended.poll(timeout_s * 1000)

    def close(self) -> None:
        """Let go of the supervisor."""
        release(self._file)


class NullLifeline:
    """In place of a lifeline, for a job of a cluster: it does not depend on the kernel."""

    def wait(self, timeout_s: float) -> None:
        """Wait for some time."""
        time.sleep(timeout_s)

    def close(self) -> None:
        """There is nothing to let go of."""


class TemplateClient:
    """The template of this kernel, seen from the kernel: it starts that process, and asks it for supervisors.

    Args:
        modules: names to import.

    Attributes:
        error: why it is of no use, empty if it is of use; None as long as that is not known.
        culprit: the module whose import made it so, empty if that is none alone.
    """

    def __init__(self, modules: list[str]) -> None:
        self._socket, child_socket = socket.socketpair()
        hold(self._socket.fileno())
        self._listening = threading.Lock()  # several runs may start at once
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the process
        code = f"from lightning_magics.launch.template import main; main({child_socket.fileno()}, {modules!r})"
        self._process = start_interpreter(code, (child_socket.fileno(),), self._log, {**os.environ, **_ONE_THREAD})
        child_socket.close()
        self._answer = b""
        self.error: str | None = None
        self.culprit = ""

    def is_alive(self) -> bool:
        """Whether the process stands ready, or imports, or has said that it is of no use."""
        return self._process.poll() is None or (bool(self.error) and self._process.returncode >= 0)

    def ready(self, timeout_s: float | None) -> bool:
        """Wait until it is ready, or can be told not to become so; returns whether that is known."""
        with self._listening:
            while self.error is None:
                if not _is_readable(self._socket, timeout_s):
                    return False
                chunk = b""
                with contextlib.suppress(ConnectionError):
                    chunk = self._socket.recv(4096)
                self._answer += chunk
                if not chunk:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(1)  # its end of the socket closes before its exit code is there
                    self.error = f"the warm process exited: {self._last_words()}"
                    self.culprit = self._last_message().get("imports", "")
                elif "error" in (message := self._last_message()):
                    self.error, self.culprit = message["error"], message.get("culprit", "")
        return True

    def _last_message(self) -> dict[str, str]:
        """The last whole line that it has sent."""
        lines = self._answer.split(b"\n")[:-1]
        return dict(json.loads(lines[-1])) if lines else {}

    def fork(self, lifeline: int, lock: int, waiting: Callable[[], None]) -> None:
        """Fork a supervisor, and wait for the answer: what is sent to a process that is just dying is lost.

        Raises:
            OSError: the template is gone.
        """
        with self._listening:
            try:
                socket.send_fds(self._socket, [b"1"], [lifeline, lock])
                while not _is_readable(self._socket, _POLL_S):
                    waiting()
                answer = self._socket.recv(1)
            except BaseException:
                self._kill()  # its answer would be taken for that to the next one
                raise
            if not answer:
                self._kill()  # it closes its socket before its exit code is there
                raise ConnectionResetError

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")

    def close(self) -> None:
        """End it; the supervisors that it forked go on."""
        release(self._socket.detach())
        self._log.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


def _is_readable(file: socket.socket, timeout_s: float | None) -> bool:
    """Wait until there is something to read, or its end; `select.select` knows no descriptor above 1,023."""
    waited = select.poll()
    waited.register(file, select.POLLIN)
    return bool(waited.poll(None if timeout_s is None else timeout_s * 1000))


_template: TemplateClient | None = None
_spoilers: set[str] = set()  # of `_COMMON`, what a template does not survive or cannot be forked with
_lock = threading.Lock()


def prewarm(package: str) -> TemplateClient:
    """Return this kernel's template; starts it where there is none that lives, without what spoiled the last one."""
    global _template
    with _lock:
        if _template is not None and not _template.is_alive():
            _template.ready(1)  # it may have said what it died of
        if _template is not None and (not _template.is_alive() or _template.culprit in _COMMON):
            _spoilers.add(_template.culprit)
            _template.close()
            _template = None
        if _template is None:
            common = [name for name in _COMMON if name in sys.modules and name not in _spoilers]
            _template = TemplateClient([package, *_NEEDED, *common])
        return _template


def close() -> None:
    """End the template."""
    global _template
    with _lock:
        if _template is not None:
            _template.close()
        _template = None


def start(
    request: SupervisorRequest,
    lock: int,
    package: str,
    method: str,
    notice: Callable[[str], None],
    waiting: Callable[[], None],
) -> Lifeline:
    """Start the supervisor of a run.

    Args:
        request: what it is to do.
        lock: file descriptor that marks the run as alive, held; closed here.
        package: Lightning package for the template to import.
        method: ``forkserver``, from the template, or ``spawn``, a new interpreter for each process. A run in the
            background does not wait for a template that still imports: the kernel may die meanwhile.
        notice: told when the template is of no use, and processes are spawned instead.
        waiting: called again and again while the template imports; what it raises ends the waiting.
    """
    read_fd, write_fd = os.pipe()
    lifeline = Lifeline(write_fd)
    try:
        line = memoryview(request.line())
        if method != "forkserver" or not _fork(read_fd, lock, package, notice, None if request.background else waiting):
            code = f"from lightning_magics.launch.supervisor import main; main({read_fd}, {lock}, 'spawn')"
            process = start_interpreter(code, (read_fd, lock), subprocess.DEVNULL, dict(os.environ))
            threading.Thread(target=process.wait, daemon=True).start()  # no zombie
        os.close(read_fd)
        read_fd = -1  # so that a write fails, rather than waits, when the supervisor is gone
        with contextlib.suppress(BrokenPipeError):  # then nothing is alive, which whoever follows the run sees
            while line:
                line = line[os.write(write_fd, line) :]
    except BaseException:
        lifeline.close()
        raise
    finally:
        if read_fd >= 0:
            os.close(read_fd)
        release(lock)
    return lifeline


def _fork(
    lifeline: int, lock: int, package: str, notice: Callable[[str], None], waiting: Callable[[], None] | None
) -> bool:
    """Fork a supervisor from the template; returns whether that was possible, which may need no waiting."""
    for _ in range(3):  # one that was killed is replaced, and one that an import made useless
        template = prewarm(package)
        while not template.ready(_POLL_S if waiting else 0):
            if waiting is None:
                return False
            waiting()
        if template.error:
            if template.is_alive() and template.culprit not in _COMMON:
                break
            continue
        try:
            template.fork(lifeline, lock, waiting or (lambda: None))
        except OSError:
            continue
        return True
    by = f" while importing {template.culprit}" if template.culprit else ""
    notice(
        f"Fast start is unavailable ({template.error or 'the warm process exited'}{by}). "
        "Starting new Python processes instead; this takes a few seconds longer."
    )
    return False


AnyLifeline = Lifeline | NullLifeline
