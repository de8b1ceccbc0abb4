"""Ending a run from outside: from its notebook, from another one, or from another machine of its cluster.

How the request reaches its processes is in `transport/stop_control`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

from .. import clusters
from ..errors import LightningMagicsError, RunError
from ..runs.folder import RunFolder
from ..transport.stop_control import open_stop_control
from .supervision import CANCELLED, record_end, remove_temporary_files

TO_ANSWER_S = 3.0  # for a supervisor to end its ranks; one that does not is killed
TO_END_S = 15.0  # for a supervisor to end: as an interpreter of its own it takes seconds to begin
_POLL_S = 0.05
_JOB_TO_END_S = 60.0  # for the same of a job of a cluster
_JOB_POLL_S = 0.2


def ask_to_stop(folder: RunFolder) -> None:
    """Ask the processes of a run to stop after their batch; a run that has ended stays as it is.

    Raises:
        RunError: it trains in a kernel, which alone can stop it, or on another machine.
    """
    if not folder.is_alive():
        return
    if folder.cluster_job_id():
        _ask_job(folder)
        return
    _refuse_elsewhere(folder, "")
    try:
        open_stop_control(folder.control_path).ask()
    except FileNotFoundError:
        _refuse_in_kernel(folder)


def kill(folder: RunFolder) -> None:
    """End the processes of a run at once, and wait until they are gone.

    Its supervisor is asked by the memory that they share: a signal could reach a stranger, of another container too.

    Raises:
        RunError: it runs on another machine, or in a kernel, or its supervisor does not answer.
    """
    if folder.cluster_job_id() and folder.is_alive():
        _cancel_job(folder)
        return
    began = time.monotonic()
    until = began + TO_END_S
    while folder.is_alive():
        _refuse_elsewhere(folder, " --now")
        if time.monotonic() > began + TO_ANSWER_S:
            kill_supervisor(folder)
        try:
            open_stop_control(folder.control_path).ask(now=True)
        except FileNotFoundError:  # it is just beginning, or just ending
            _refuse_in_kernel(folder)
        if time.monotonic() > until:
            pid = folder.read().pid or "unknown"
            raise RunError(
                f"the processes of {folder.name} did not exit: their supervisor (process {pid}) is not responding"
            )
        time.sleep(_POLL_S)


def kill_supervisor(folder: RunFolder) -> None:
    """Kill the supervisor of a run that does not answer, for it is stopped; its ranks end with it.

    Nothing else is killed: the process must have the run's folder open, as its supervisor does. Where the system does
    not tell that, nothing is done.
    """
    with contextlib.suppress(OSError, LightningMagicsError, AttributeError):  # the last where there is no pidfd
        record, lock = folder.read(), os.stat(folder.events_path)
        if not record.pid or record.pid == os.getpid() or record.host != socket.gethostname():
            return
        handle = os.pidfd_open(record.pid)  # from here on its number is no other process's
        try:
            opened = [os.stat(path) for path in Path(f"/proc/{record.pid}/fd").iterdir() if os.path.exists(path)]
            if any(os.path.samestat(item, lock) for item in opened):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _refuse_elsewhere(folder: RunFolder, option: str) -> None:
    """Refuse to end a run of another machine, which may not even be seen from here.

    Raises:
        RunError: it is one.
    """
    record = folder.read()
    if record.status == "running" and record.pid and record.host != socket.gethostname():
        raise RunError(f"{folder.name} runs on {record.host}. Type %lightning_stop {folder.name}{option} there")


def _refuse_in_kernel(folder: RunFolder) -> None:
    """Refuse to end a run that has no control: unless it is just beginning or ending, which its record tells.

    Raises:
        RunError: it trains in a kernel.
    """
    record = folder.read()
    if record.status == "running" and record.pid and folder.is_alive():
        raise RunError(f"{folder.name} runs in the kernel of its notebook. Interrupt that kernel (■)")


def _ask_job(folder: RunFolder) -> None:
    """Ask a run's job to stop after its batch; one that waits in the queue is cancelled, and what is gone is told.

    Raises:
        RunError: the scheduler refuses, or does not answer.
    """
    state = clusters.engine(folder.cluster_engine()).state(folder.cluster_job_id())
    if state.kind == "running":
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            open_stop_control(folder.control_path).ask()
    elif state.kind == "unknown":
        raise RunError(f"job {folder.cluster_job_id()} of {folder.name} cannot be stopped: {state.reason}")
    else:
        _cancel_job(folder)


def _cancel_job(folder: RunFolder) -> None:
    """Cancel a run's job, wait until it is gone, and record the end if its processes did not.

    Raises:
        RunError: the scheduler refuses, or the job does not end.
    """
    engine, job = clusters.engine(folder.cluster_engine()), folder.cluster_job_id()
    with contextlib.suppress(FileNotFoundError):
        open_stop_control(folder.control_path).ask(now=True)
    until = time.monotonic() + _JOB_TO_END_S
    was = state = engine.state(job)
    if was.kind != "ended":
        engine.cancel(job)
    while state.kind != "ended":
        if time.monotonic() > until:
            raise RunError(f"job {job} of {folder.name} was cancelled but has not ended: {engine.by_hand(job, 'show')}")
        time.sleep(_JOB_POLL_S)
        state = engine.state(job)
    with contextlib.suppress(LightningMagicsError):
        if folder.read().status == "running":
            record_end(folder, engine.why(was, folder.path) if was.kind == "ended" else CANCELLED)
            remove_temporary_files(folder)
