"""What every supervisor of a run does: it says that the run is alive, has its ranks watched, and tells the end.

How ranks are started and watched is in `supervisor` for this machine; on a cluster, that is up to its engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping

from ..errors import LightningMagicsError, RunError
from ..runs import events
from ..runs.folder import EventWriter, RunFolder
from ..transport import exceptions
from ..transport.stop_control import StopFile, StopMemory, open_stop_control

ENDED_AT_ONCE = "stopped immediately"
KERNEL_ENDED = "the kernel exited"
CANCELLED = "its job was cancelled"
GOES_ON = "the run goes on in another process"
RESUME = "LIGHTNING_MAGICS_RESUME"  # a variable for the ranks: the checkpoint to go on from
CPUS = "LIGHTNING_MAGICS_CPUS"  # likewise: processors of their node that they may use
_TAIL_LINES = 15
_FULL_BYTES = 1 << 20  # a disk with less than that is full


class Supervision:
    """One run's ranks, watched until their end.

    Args:
        folder: of the run.
        ranks: number of them.
    """

    def __init__(self, folder: RunFolder, ranks: int) -> None:
        self.folder = folder
        self.ranks = ranks
        self._start_inode = _inode(folder)

    def run(self) -> None:
        """Start the ranks and stay until all are gone and the run's end is recorded."""
        try:
            record = dataclasses.replace(self.folder.read(), pid=os.getpid(), host=socket.gethostname())
            self.folder.write(record)
            control = open_stop_control(self.folder.control_path)
            if not control.is_abort_requested():
                self.start()
            error = self.watch(control)
        except Exception as failure:  # the last who can tell
            error = f"its processes could not be run: {type(failure).__name__}: {failure}"
        self.end()
        if error == GOES_ON or self.is_removed():
            return
        record_end(self.folder, error)
        remove_temporary_files(self.folder)

    def is_removed(self) -> bool:
        """Whether the folder was removed or renamed; another run may have the same place by now."""
        return self.folder.is_removed() or _inode(self.folder) != self._start_inode

    def start(self) -> None:
        """Start the ranks."""
        raise NotImplementedError

    def watch(self, control: StopMemory | StopFile) -> str:
        """Wait for the ranks; returns what was wrong with the one that failed, empty if all ended well."""
        raise NotImplementedError

    def end(self) -> None:
        """End all ranks and whatever they started."""
        raise NotImplementedError

    def why(self, deaths: Mapping[int, str]) -> str:
        """What ended the run: what was raised, of all ranks the first, else how one died and its last words.

        Where one dies, the others raise that their peer is gone: that is not the cause.

        Args:
            deaths: ranks that have failed, and how each ended, for a person.
        """
        self.folder.release_reserve()
        paths = {rank: self.folder.error_path(rank) for rank in range(self.ranks)}
        first_error = exceptions.earliest(paths.values())
        silent = [rank for rank in deaths if not paths[rank].exists()]
        if first_error is not None and not (silent and first_error.secondary):
            return f"{first_error.type_name.rpartition('.')[2]}: {first_error.message}"
        for path in paths.values():
            path.unlink(missing_ok=True)
        rank = silent[0] if silent else next(iter(deaths))
        error = f"{deaths[rank]}{full_disk(self.folder)}"
        last_lines = self._last_words(rank)
        log_note = f". Last lines of its log:\n{last_lines}" if last_lines else "; its log is empty"
        log_note = log_note if self.folder.log_path(rank).exists() else ""  # it did not get as far as to begin one
        with contextlib.suppress(OSError):  # the disk is full
            exceptions.save(RunError(f"{self.folder.name} failed: {error}{log_note}"), paths[rank], rank)
        return error

    def _last_words(self, rank: int) -> str:
        try:
            lines = self.folder.log_path(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])


def _inode(folder: RunFolder) -> int:
    """The inode of a run's events, which no other file gets while they are held locked; 0 where it cannot be read."""
    with contextlib.suppress(OSError):
        return os.stat(folder.events_path).st_ino
    return 0


@contextlib.contextmanager
def as_job(folder: RunFolder, engine: str, job: str, longer: str = "") -> Iterator[int]:
    """Supervise a run that was submitted as a job: hold its lock, and handle the engine's signals.

    SIGUSR2 asks all ranks to stop before the time limit: what they save outlives it.

    Args:
        folder: of the run.
        engine: name of the engine.
        job: this job's id.
        longer: what to type for a longer time limit.

    Yields:
        File descriptor that tells of SIGTERM: see `received_sigterm`.
    """

    def ask(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):
            StopFile(folder.control_path).ask(
                reason=f"its job was about to reach its time limit{f': {longer}' if longer else ''}"
            )

    sigterm_fd = watch_sigterm()
    signal.signal(signal.SIGUSR2, ask)
    lock = folder.lock()
    try:
        if (folder.cluster_engine(), folder.cluster_job_id()) != (engine, job):
            folder.write_submission(engine, job)
        yield sigterm_fd
    finally:
        os.close(lock)


def meet(ranks: int, each: int, address: str = "") -> None:
    """Set the environment variables that ranks inherit to find one another.

    Args:
        ranks: number of ranks.
        each: ranks on each node.
        address: of the first node, where this process is; empty if all are on this machine.
    """
    os.environ["MASTER_ADDR"] = address or "127.0.0.1"
    os.environ["MASTER_PORT"] = str(free_port())
    os.environ["WORLD_SIZE"] = str(ranks)
    os.environ["LOCAL_WORLD_SIZE"] = str(each)
    if not address and ranks > 1:
        use_loopback()


def record_end(folder: RunFolder, error: str) -> None:
    """Record the end, unless rank 0 did and nothing else went wrong."""
    folder.release_reserve()
    try:
        record = folder.read()
    except LightningMagicsError:
        return  # the run's folder was removed meanwhile
    is_recorded = record.status != "running"
    if is_recorded and (
        error in ("", ENDED_AT_ONCE, KERNEL_ENDED, CANCELLED, record.error) or record.status == "interrupted"
    ):
        return
    status: events.Status = "interrupted" if error in (ENDED_AT_ONCE, CANCELLED) else "failed"
    elapsed_s = time.time() - record.started
    error = error or "its process exited without reporting a result"
    ended = events.Ended(status, elapsed_s, record.epochs, record.steps, error=error)
    writer = EventWriter(folder.events_path)
    writer.write(ended)
    writer.close()
    with contextlib.suppress(OSError):  # the disk is full: what is on it says "running", and nothing is alive
        folder.write(dataclasses.replace(record, status=status, elapsed_s=elapsed_s, error=error))


def full_disk(folder: RunFolder) -> str:
    """What there is to add to the end of a run if the disk that it writes to is full."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder.path).free < _FULL_BYTES:
            return f"; the disk of {folder.path} is full"
    return ""


def write_notice(folder: RunFolder, text: str) -> None:
    """Tell whoever watches the run something that no rank knows."""
    writer = EventWriter(folder.events_path)
    writer.write(events.Notice(text))
    writer.close()


def remove_temporary_files(folder: RunFolder) -> None:
    """Remove what only the processes of a run needed, and what one that was killed had half written."""
    paths = (folder.job_path, folder.control_path, folder.reserve_path, folder.continue_checkpoint_path)
    for path in (*paths, *folder.temporary_files()):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def watch_sigterm() -> int:
    """Let SIGTERM be heard where ranks are waited for, and nowhere else: at the file descriptor that is returned."""
    sigterm_fd, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return sigterm_fd


def received_sigterm(sigterm_fd: int) -> bool:
    """Take in the signals that have come, waiting for one; whether SIGTERM is among them.

    Every signal that Python handles is heard there, such as that of a DataLoader's worker that has ended.
    """
    return signal.SIGTERM in os.read(sigterm_fd, 1024)


def free_port() -> int:
    """A port of this machine that nothing listens to."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def use_loopback() -> None:
    """Have ranks of one machine talk where no other machine hears; its own host name need not resolve then."""
    for name in ("lo", "lo0"):  # of Linux, of macOS
        if any(name == interface for _, interface in socket.if_nameindex()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def death_message(rank: int, ranks: int, code: int, out_of_memory: bool) -> str:
    """The message for a process that ended without raising."""
    process_name = f"rank {rank} of {ranks}" if ranks > 1 else "the process of the run"
    if code == 128 + signal.SIGTERM:  # of a rank that heard it
        code = -signal.SIGTERM
    if code < 0:
        try:
            outcome = f"was killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            outcome = f"was killed by signal {-code}"
        if -code == signal.SIGKILL:
            outcome += ": the machine ran out of memory" if out_of_memory else _MAYBE_MEMORY
    else:
        outcome = f"exited with code {code}"
        if code == 0:
            outcome += " before the run was complete"
    return f"{process_name} {outcome}"


_MAYBE_MEMORY = " (often because the machine ran out of memory)"
