"""The process that starts the ranks of a run, watches them, and tells the end where they cannot.

It has a session of its own, so that no signal to the kernel's group reaches it, and holds the run's lock until the
last rank is gone. A run in the foreground ends with the kernel, whose end of the lifeline closes; one in the
background does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from .. import clusters
from ..runs.folder import RunFolder
from ..runs.log import redirect_output
from ..transport.stop import ignore_interrupts
from ..transport.stop_control import StopFile, StopMemory
from .rank import variables
from .supervision import (
    ENDED_AT_ONCE,
    KERNEL_ENDED,
    Supervision,
    death_message,
    meet,
    received_sigterm,
    watch_sigterm,
)

_POLL_S = 0.2
_TO_SAY_WHY_S = 0.5  # for the other ranks, to say what they raised: the first to end may not be the first to fail


@dataclass(frozen=True)
class SupervisorRequest:
    """What a supervisor is asked to do, sent through its lifeline as one JSON line.

    Attributes:
        folder: run folder, which holds the job.
        ranks: number of ranks.
        background: whether the run outlives the kernel.
        cwd: working folder of the ranks.
        path: ``sys.path`` of the kernel.
        environment: of the kernel.
        resources: requested from an engine, as a dict, within an allocation; None for processes of this machine.
    """

    folder: str
    ranks: int
    background: bool
    cwd: str
    path: list[str]
    environment: dict[str, str]
    resources: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, folder: Path, ranks: int, background: bool, resources: clusters.Resources | None = None
    ) -> SupervisorRequest:
        """Describe a run that is to start in surroundings like this process's."""
        path = [str(item) for item in sys.path]
        requested = None if resources is None else dataclasses.asdict(resources)
        return cls(str(folder.absolute()), ranks, background, _cwd(), path, dict(os.environ), requested)

    def line(self) -> bytes:
        """The request as it is sent."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.path.sep


def main(lifeline: int, lock: int, method: str) -> None:
    """Carry out the request that comes through the lifeline.

    Args:
        lifeline: file descriptor whose end means that the kernel is gone.
        lock: file descriptor that marks the run as alive.
        method: how ranks are started: ``fork`` in a child of the template, else ``spawn``.
    """
    ignore_interrupts()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(lifeline, "rb", buffering=0) as pipe:
        line = b""
        while not line.endswith(b"\n"):
            chunk = pipe.read(1 << 16)
            if not chunk:
                return  # the kernel was gone before it had asked
            line += chunk
        request = SupervisorRequest(**json.loads(line))
        _apply_environment(request)
        if request.resources is None:
            meet(request.ranks, request.ranks)
            _LocalRanks(request, pipe.fileno(), lock, method).run()
            return
        resources = clusters.Resources(**request.resources)
        os.environ.update(variables(request.path))
        ends = None if request.background else pipe.fileno()
        clusters.engine(resources.engine).supervise(resources, Path(request.folder), ends)


def _apply_environment(request: SupervisorRequest) -> None:
    """Make this process's surroundings those of the kernel; ranks inherit them."""
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[:] = request.path
    with contextlib.suppress(OSError):  # the folder was removed; the kernel lives on without it too
        os.chdir(request.cwd)
    redirect_output(RunFolder(request.folder).log_path(0))


class _LocalRanks(Supervision):
    """Ranks that are processes of this machine.

    Args:
        request: what to run.
        lifeline, lock: file descriptors; ranks close their copies.
        method: how ranks are started.
    """

    def __init__(self, request: SupervisorRequest, lifeline: int, lock: int, method: str) -> None:
        super().__init__(RunFolder(request.folder), request.ranks)
        self._request = request
        self._lifeline = lifeline
        self._sigterm_fd = watch_sigterm()
        self._inherited = (lifeline, lock, self._sigterm_fd) if method == "fork" else ()
        self._context: Any = multiprocessing.get_context(method)
        self._processes: list[BaseProcess] = []
        self._codes: dict[int, int] = {}  # rank to exit code
        self._kills = oom_kills()
        self._sockets = ""

    def start(self) -> None:
        """Start the ranks."""
        # Ranks and their DataLoader workers keep their sockets there, and leave them if killed. If this were the
        # folder of get_temp_dir, multiprocessing would fail to remove it at exit, and log a traceback.
        self._sockets = tempfile.mkdtemp(prefix="pymp-")
        cast(Any, multiprocessing.current_process())._config["tempdir"] = self._sockets
        for rank in range(self.ranks):
            process = self._context.Process(target=_rank, args=(self._request, rank, self._inherited))
            process.start()
            self._processes.append(process)

    def watch(self, control: StopMemory | StopFile) -> str:
        """Wait for the ranks; returns what was wrong with the one that failed, empty if all ended well."""
        assert isinstance(control, StopMemory)
        running = {_sentinel(process): rank for rank, process in enumerate(self._processes)}
        listen = [self._sigterm_fd] if self._request.background else [self._sigterm_fd, self._lifeline]
        while not control.is_abort_requested():
            if not running:
                return ""
            ready = wait([*running, *listen], timeout=_POLL_S)
            if self._sigterm_fd in ready and received_sigterm(self._sigterm_fd):
                return ENDED_AT_ONCE
            if self._lifeline in ready:
                return KERNEL_ENDED
            for sentinel in ready:
                rank = running.pop(cast(int, sentinel))
                self._end(rank)
                if self._codes[rank] or not control.is_done(rank):
                    return self._failure(running, control)
            if self.is_removed():
                return "its folder was removed"
        return ENDED_AT_ONCE

    def _failure(self, running: dict[int, int], control: StopMemory) -> str:
        """What failed: the first rank to end may not be the first to fail."""
        until = time.monotonic() + _TO_SAY_WHY_S
        while running and (remaining_s := until - time.monotonic()) > 0:
            for sentinel in wait(list(running), timeout=remaining_s):
                self._end(running.pop(cast(int, sentinel)))
        failed = [rank for rank, code in self._codes.items() if code or not control.is_done(rank)]
        self._end(*running.values())  # before what was raised is read: that imports whatever the user's classes need
        is_oom = oom_kills() > self._kills
        return self.why({rank: death_message(rank, self.ranks, self._codes[rank], is_oom) for rank in failed})

    def end(self) -> None:
        """End all ranks and whatever they started."""
        self._end(*range(len(self._processes)))
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _end(self, *ranks: int) -> None:
        """End ranks and whatever they started: each leads a process group. A second call does nothing.

        No signal can reach a stranger: what has ended keeps its process id until it is joined, here or a moment ago,
        when the next rank was started.
        """
        processes = {rank: self._processes[rank] for rank in ranks if rank not in self._codes}
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()
        for rank, process in processes.items():
            process.join()
            self._codes[rank] = process.exitcode or 0


def _rank(request: SupervisorRequest, rank: int, inherited: tuple[int, ...]) -> None:
    """What a rank does first, in its own process."""
    wakeup = signal.set_wakeup_fd(-1)
    if wakeup >= 0:  # it was forked
        os.close(wakeup)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)
    for fd in inherited:
        os.close(fd)
    from . import rank_process

    rank_process.main(RunFolder(request.folder), rank, request.ranks)


def _sentinel(process: BaseProcess) -> int:
    """What can be waited on until a process ends; multiprocessing's own also waits for all that the process forked."""
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # not Linux, or an old one
        return process.sentinel


def oom_kills(path: str = "/sys/fs/cgroup/memory.events", all_of_it: str = "/proc/vmstat") -> int:
    """How often the system has killed a process for want of memory: in this cgroup, and on the machine."""
    kills = 0
    for name in (path, all_of_it):
        with contextlib.suppress(OSError, ValueError):
            words = Path(name).read_text(encoding="ascii").split()
            if "oom_kill" in words:
                kills += int(words[words.index("oom_kill") + 1])
    return kills
