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
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, cast

from . import events, raised
from .control import Control
from .errors import LightningMagicsError, RunError
from .runs import EventWriter, RunFolder

_TAIL_LINES = 15
ENDED_AT_ONCE = "ended at once"
_KERNEL_ENDED = "the kernel ended"
_LOOK_S = 0.2
_TO_SAY_WHY_S = 0.5  # for the other ranks, to say what they raised: the first to end may not be the first to fail


@dataclass(frozen=True)
class Request:
    """What a supervisor is asked to do, sent through its lifeline as one JSON line.

    Attributes:
        folder: run folder, which holds the job.
        ranks: number of ranks.
        background: whether the run outlives the kernel.
        cwd: working folder of the ranks.
        path: ``sys.path`` of the kernel.
        environment: of the kernel.
    """

    folder: str
    ranks: int
    background: bool
    cwd: str
    path: list[str]
    environment: dict[str, str]

    @classmethod
    def of(cls, folder: Path, ranks: int, background: bool) -> Request:
        """Describe a run that is to start in surroundings like this process's."""
        return cls(
            str(folder.absolute()), ranks, background, _cwd(), [str(item) for item in sys.path], dict(os.environ)
        )

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(lifeline, "rb", buffering=0) as pipe:
        line = b""
        while not line.endswith(b"\n"):
            part = pipe.read(1 << 16)
            if not part:
                return  # the kernel was gone before it had asked
            line += part
        request = Request(**json.loads(line))
        _surround(request)
        _Supervisor(request, pipe.fileno(), lock, method).run()


def _surround(request: Request) -> None:
    """Make this process's surroundings those of the kernel; ranks inherit them."""
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[:] = request.path
    with contextlib.suppress(OSError):  # the folder was removed; the kernel lives on without it too
        os.chdir(request.cwd)
    RunFolder(request.folder).take_output(0)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(_free_port())
    os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(request.ranks)
    if request.ranks > 1 and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name that does not resolve is no obstacle then


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Supervisor:
    """One run's ranks.

    Args:
        request: what to run.
        lifeline, lock: file descriptors; ranks close their copies.
        method: how ranks are started.
    """

    def __init__(self, request: Request, lifeline: int, lock: int, method: str) -> None:
        self._request = request
        self._folder = RunFolder(request.folder)
        self._lifeline = lifeline
        self._terminated, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # seen where ranks are waited for, nowhere else
        self._inherited = (lifeline, lock, self._terminated, wakeup) if method == "fork" else ()
        self._context: Any = multiprocessing.get_context(method)
        self._ranks: list[BaseProcess] = []
        self._codes: dict[int, int] = {}  # rank to exit code
        self._kills = oom_kills()

    def run(self) -> None:
        """Start the ranks and stay until all are gone and the run's end is recorded."""
        sockets = ""
        try:
            record = dataclasses.replace(self._folder.read(), pid=os.getpid(), host=socket.gethostname())
            self._folder.write(record)
            control = Control(self._folder.control_path)
            sockets = get_temp_dir()  # where ranks and their DataLoader workers have theirs: killed, they leave them
            for rank in range(0 if control.asked_now() else self._request.ranks):
                process = self._context.Process(target=_rank, args=(self._request, rank, self._inherited))
                process.start()
                self._ranks.append(process)
            error = self._watch(control)
        except Exception as failure:  # the last who can tell
            error = f"its processes cannot be run: {type(failure).__name__}: {failure}"
        self._end(*range(len(self._ranks)))
        shutil.rmtree(sockets, ignore_errors=True)
        self._tell_end(error)
        clear(self._folder)

    def _watch(self, control: Control) -> str:
        """Wait for the ranks; returns what was wrong with the one that failed, empty if all ended well."""
        left = {_sentinel(process): rank for rank, process in enumerate(self._ranks)}
        listen = [self._terminated] if self._request.background else [self._terminated, self._lifeline]
        while not control.asked_now():
            if not left:
                return ""
            ready = wait([*left, *listen], timeout=_LOOK_S)
            if self._terminated in ready:
                return ENDED_AT_ONCE
            if self._lifeline in ready:
                return _KERNEL_ENDED
            for sentinel in ready:
                rank = left.pop(cast(int, sentinel))
                self._end(rank)
                if self._codes[rank] or not control.is_done(rank):
                    return self._why(rank, left, control)
            if self._folder.is_removed():
                return "its folder was removed"
        return ENDED_AT_ONCE

    def _why(self, rank: int, left: dict[int, int], control: Control) -> str:
        """What ended a rank: what was raised, of all ranks the first, else signal or exit code and its last words.

        Where one dies, the others raise that their peer is gone: that is not the cause.
        """
        until = time.monotonic() + _TO_SAY_WHY_S
        while left and (rest_s := until - time.monotonic()) > 0:
            for sentinel in wait(list(left), timeout=rest_s):
                self._end(left.pop(cast(int, sentinel)))
        failed = [item for item, code in self._codes.items() if code or not control.is_done(item)]
        self._end(*left.values())  # before what was raised is read: that imports whatever the user's classes need
        paths = {item: self._folder.error_path(item) for item in range(self._request.ranks)}
        found = raised.earliest(paths.values())
        silent = [item for item in failed if not paths[item].exists()]
        if found is not None and not (silent and found.secondary):
            return f"{found.type_name.rpartition('.')[2]}: {found.message}"
        rank = silent[0] if silent else rank
        for path in paths.values():
            path.unlink(missing_ok=True)
        error = died(rank, len(paths), self._codes[rank], oom_kills() > self._kills)
        words = self._last_words(rank)
        more = f". The end of its log:\n{words}" if words else "; its log is empty"
        raised.save(RunError(f"{self._folder.name} failed: {error}{more}"), paths[rank], rank)
        return error

    def _last_words(self, rank: int) -> str:
        try:
            lines = self._folder.log_path(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])

    def _end(self, *ranks: int) -> None:
        """End ranks and whatever they started: each leads a process group. A second call does nothing.

        No signal can reach a stranger: what has ended keeps its process id until it is joined, here or a moment ago,
        when the next rank was started.
        """
        left = {rank: self._ranks[rank] for rank in ranks if rank not in self._codes}
        for process in left.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()
        for rank, process in left.items():
            process.join()
            self._codes[rank] = process.exitcode or 0

    def _tell_end(self, error: str) -> None:
        """Record the end, unless rank 0 did and nothing else went wrong."""
        try:
            record = self._folder.read()
        except LightningMagicsError:
            return  # the run's folder was removed meanwhile
        told = record.status != "running"
        if told and (error in ("", ENDED_AT_ONCE, _KERNEL_ENDED, record.error) or record.status == "interrupted"):
            return
        status: events.Status = "interrupted" if error == ENDED_AT_ONCE else "failed"
        elapsed_s = time.time() - record.started
        error = error or "its process ended without saying how"
        ended = events.Ended(status, elapsed_s, record.epochs, record.steps, error=error)
        writer = EventWriter(self._folder.events_path)
        writer.write(ended)
        writer.close()
        with contextlib.suppress(OSError):  # the disk is full: what is on it says "running", and nothing is alive
            self._folder.write(dataclasses.replace(record, status=status, elapsed_s=elapsed_s, error=error))


def clear(folder: RunFolder) -> None:
    """Remove what only the processes of a run needed, and what one that was killed had half written."""
    passed = ("predictions_*.pt", f".{folder.record_path.name}.*", ".error_*", ".*.ckpt.*", "checkpoints/.*.ckpt.*")
    found = [path for pattern in passed for path in folder.path.glob(pattern)]
    for path in (folder.job_path, folder.control_path, folder.continue_checkpoint_path, *found):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _rank(request: Request, rank: int, inherited: tuple[int, ...]) -> None:
    """What a rank does first, in its own process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)
    for fd in inherited:
        os.close(fd)
    from . import worker

    worker.main(RunFolder(request.folder), rank, request.ranks)


def _sentinel(process: BaseProcess) -> int:
    """What can be waited on until a process ends; multiprocessing's own also waits for all that the process forked."""
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # not Linux, or an old one
        return process.sentinel


def died(rank: int, ranks: int, code: int, out_of_memory: bool) -> str:
    """The message for a process that ended without raising."""
    who = f"rank {rank} of {ranks}" if ranks > 1 else "the process of the run"
    if code < 0:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            how = f"was killed by signal {-code}"
        if -code == signal.SIGKILL:
            how += ", by the system: the machine ran out of memory" if out_of_memory else _MAYBE_MEMORY
    else:
        how = f"ended with exit code {code}"
        if code == 0:
            how += " before its work was done"
    return f"{who} {how}"


_MAYBE_MEMORY = " (which is also what a system does that is short of memory)"


def oom_kills(path: str = "/sys/fs/cgroup/memory.events", all_of_it: str = "/proc/vmstat") -> int:
    """How often the system has killed a process for want of memory: in this cgroup, and on the machine."""
    found = 0
    for name in (path, all_of_it):
        with contextlib.suppress(OSError, ValueError):
            words = Path(name).read_text(encoding="ascii").split()
            if "oom_kill" in words:
                found += int(words[words.index("oom_kill") + 1])
    return found
