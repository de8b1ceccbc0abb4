"""The ranks of a run on the nodes of a cluster, started by one ``srun`` and watched through it.

Its supervisor is the script of a Slurm job, on the job's first node; within an allocation that a notebook is in
already, it is a process beside the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from ...errors import RunError
from ...runs.folder import JOB, LOG, RunFolder
from ...runs.log import mark_lines
from ...transport import exceptions
from ...transport.stop_control import StopFile, StopMemory, open_stop_control
from ..supervision import (
    CANCELLED,
    CPUS,
    ENDED_AT_ONCE,
    GOES_ON,
    KERNEL_ENDED,
    RESUME,
    Supervision,
    as_job,
    death_message,
    meet,
    received_sigterm,
    record_end,
    remove_temporary_files,
    write_notice,
)
from . import jobs
from .allocation import hosts
from .jobs import NO_FOLDER, NO_PYTHON, no_python_message, not_shared_message

_POLL_S = 0.5
_TO_SAY_WHY_S = 1.0  # for the other ranks, to say what they raised
_TO_QUEUE_S = 2.0  # for Slurm, to queue again what it has ended
_TO_REPORT_S = 10.0  # for srun, to say what became of a rank whose peers have lost it
_TO_END_S = 10.0  # for srun, once it is asked to end all ranks

# What a shell does on a node for each rank. Slurm would open the log before a check could say what is wrong.
_RANK_SCRIPT = f"""test -e "$0/{JOB}" || exit {NO_FOLDER}
command -v "$1" >/dev/null || exit {NO_PYTHON}
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID NODE_RANK=$SLURM_NODEID {CPUS}=$SLURM_CPUS_ON_NODE
exec "$1" -u -m lightning_magics.launch.rank "$0" >>"$0/{LOG.format("$RANK")}" 2>&1
"""
_REPORT = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.+)")
_NO_LAUNCH = re.compile(r"srun: error: task (\d+) launch failed: (.+)")
_NO_ANSWER = re.compile(r"srun: error: Task launch for \S+ failed on node (\S+): (.+)")
_NODE_LOST = re.compile(r"srun: error: Node failure on (\S+)")
_CANCELLED = re.compile(r"slurmstepd.*: error: \*\*\* \w+ \S+ ON \S+ CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")
_SIGNALS = {"Killed": 9, "Terminated": 15, "Segmentation fault": 11, "Aborted": 6, "Bus error": 7}


class NodeRanks(Supervision):
    """Ranks that are the tasks of a Slurm step.

    Args:
        folder: of the run, on a file system that all nodes share.
        nodes: number of nodes.
        processes: ranks on each node.
        sigterm_fd: file descriptor that tells of SIGTERM.
        lifeline: file descriptor whose end means that the kernel is gone, None where that is no matter.
        requeues: how often the job is queued again at most after a node was lost; None within an allocation that is
            held, which is not only the run's.
    """

    def __init__(
        self,
        folder: RunFolder,
        nodes: int,
        processes: int,
        sigterm_fd: int,
        lifeline: int | None = None,
        requeues: int | None = None,
    ) -> None:
        super().__init__(folder, nodes * processes)
        self._nodes = nodes
        self._processes = processes
        self._sigterm_fd = sigterm_fd
        self._lifeline = lifeline
        self._requeues = requeues
        self._srun: subprocess.Popen[bytes] | None = None
        self._partial_line = b""  # by srun, what is not a whole line yet
        self._deaths: dict[int, str] = {}
        self._node_failure = ""  # what became of a node that srun has lost
        self._last_line = ""
        self._is_ending = False  # whether ranks are ended by this side, and not by the scheduler
        self._cause: str | None = None  # why the scheduler ended the ranks: empty if it was told to

    def start(self) -> None:
        """Start the ranks."""
        meet(self.ranks, self._processes, hosts(os.environ["SLURM_JOB_NODELIST"])[0] if self._nodes > 1 else "")
        command = [
            "srun",
            f"--nodes={self._nodes}",
            f"--ntasks={self.ranks}",
            f"--ntasks-per-node={self._processes}",
            *self._cpu_options(),
            "--kill-on-bad-exit=0",  # the other ranks have something to say too
            *("sh", "-c", _RANK_SCRIPT, str(self.folder.path.absolute()), sys.executable),
        ]
        # What binds the notebook to its processors does not bind its ranks.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_CPU_BIND")}
        quiet = subprocess.DEVNULL
        self._srun = subprocess.Popen(
            command,
            stdin=quiet,
            stdout=quiet,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def _cpu_options(self) -> list[str]:
        """Options of srun for the processors of a rank, which it has not taken over from the job since Slurm 22.05."""
        if self._requeues is not None:
            cpus = os.environ.get("SLURM_CPUS_PER_TASK")
            return [f"--cpus-per-task={cpus}"] if cpus else []
        cpus_here = os.environ.get("SLURM_CPUS_ON_NODE", "")
        cpus_per_rank = int(cpus_here) // self._processes if cpus_here.isdecimal() else 1
        return ["--overlap", f"--cpus-per-task={max(1, cpus_per_rank)}"]

    def watch(self, control: StopMemory | StopFile) -> str:
        """Wait for the ranks; returns what was wrong with the one that failed, empty if all ended well."""
        ends = [self._sigterm_fd] if self._lifeline is None else [self._sigterm_fd, self._lifeline]
        while not control.is_abort_requested():
            if not self._listen(_POLL_S, ends):
                assert self._srun is not None
                return self._failure() if self._deaths or self._srun.returncode else ""
            if self._deaths:
                return self._failure()
            ready = wait(ends, timeout=0)
            if self._sigterm_fd in ready and received_sigterm(self._sigterm_fd):
                self._gather(_TO_SAY_WHY_S, lambda: self._cause is not None)
                return self._scheduler_outcome(self._cause or "")
            if self._lifeline in ready:
                return KERNEL_ENDED
            if self.is_removed():
                return "its folder was removed"
        return ENDED_AT_ONCE

    def end(self) -> None:
        """End all ranks: srun does that when it is terminated."""
        self._is_ending = True
        if self._srun is None:
            return
        for end in (self._srun.terminate, self._srun.kill):
            if self._srun.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._srun.wait(_TO_END_S)

    def _listen(self, timeout_s: float, ends: Sequence[int] = ()) -> bool:
        """Take in what srun says, for some time at most; returns whether it goes on."""
        assert self._srun is not None
        assert self._srun.stderr is not None
        stderr_fd = self._srun.stderr.fileno()
        if stderr_fd not in wait([stderr_fd, *ends], timeout=timeout_s):
            return True
        chunk = os.read(stderr_fd, 1 << 16)
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        for line in lines:
            self._note(line.decode("utf-8", "replace"))
        if not chunk:
            self._srun.wait()
        return bool(chunk)

    def _gather(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Listen for some time to what else there is to hear."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0 and not enough():
            if not self._listen(min(left_s, _POLL_S)):
                return

    def _note(self, line: str) -> None:
        """Take note of a line of srun's."""
        sys.stderr.write(mark_lines(f"{line}\n"))
        self._last_line = line or self._last_line
        if match := _NODE_LOST.match(line):
            self._node_failure = f"node {match[1]} failed"
        if match := _NO_ANSWER.match(line):
            self._node_failure = f"node {match[1]} did not start its processes ({match[2]})"
            self._is_ending = True  # srun ends those of the other nodes
        if (match := _CANCELLED.match(line)) and not self._is_ending:
            self._cause = match[1] or ""
        if match := _NO_LAUNCH.match(line):
            self._deaths[int(match[1])] = f"rank {match[1]} of {self.ranks} could not be started: {match[2]}"
        if match := _REPORT.match(line):
            node, tasks, outcome = match.groups()
            for rank in _ranks(tasks):
                self._deaths[rank] = self._description(rank, node, outcome)

    def _description(self, rank: int, node: str, outcome: str) -> str:
        """How a rank ended, for a person."""
        code = re.search(r"exit code (\d+)", outcome)
        if code and int(code[1]) == NO_FOLDER:
            return not_shared_message(self.folder.path.absolute(), f" on node {node}")
        if code and int(code[1]) == NO_PYTHON:
            return no_python_message(f" on node {node}")
        code_or_signal = int(code[1]) if code else -_SIGNALS.get(outcome.removesuffix(" (core dumped)"), 0)
        if not code_or_signal and "Out Of Memory" not in outcome:
            return f"rank {rank} of {self.ranks} ended: {outcome}, on node {node}"
        return f"{death_message(rank, self.ranks, code_or_signal or -9, 'Out Of Memory' in outcome)}, on node {node}"

    def _failure(self) -> str:
        """What failed: of all ranks the first, unless the scheduler or the loss of a node lies behind it."""
        self._gather(_TO_SAY_WHY_S)
        if self._peer_is_lost():
            self._gather(_TO_REPORT_S, lambda: not self._peer_is_lost())
        self.end()
        if self._cause is not None:
            return self._scheduler_outcome(self._cause)
        if self._node_failure or self._peer_is_lost():
            return self._scheduler_outcome("NODE FAILURE")
        return self.why(self._deaths or {0: f"its processes could not be started: {self._last_line or 'srun failed'}"})

    def _peer_is_lost(self) -> bool:
        """Whether all that ranks say is that another has gone, and nobody says what became of that one."""
        raised = {rank for rank in range(self.ranks) if self.folder.error_path(rank).exists()}
        earliest_error = exceptions.earliest(self.folder.error_path(rank) for rank in raised)
        is_explained = bool(self._deaths.keys() - raised) or len(raised) == self.ranks
        return earliest_error is not None and earliest_error.secondary and not is_explained

    def _scheduler_outcome(self, cause: str) -> str:
        """What the scheduler's ending of the ranks means for the run.

        Args:
            cause: Slurm's words; empty where it gave none: the job was cancelled, or it is to make room and has time.
        """
        node_failure = self._node_failure or "a node failed"
        if cause.startswith("TIME LIMIT"):
            return "its job reached its time limit before the current batch ended, so its state was not saved"
        if self._requeues is None:
            return node_failure if cause.startswith("NODE") else CANCELLED
        job, yields = self.folder.cluster_job_id(), self.folder.yields()
        if cause.startswith("NODE"):
            reason = node_failure
            if _restarts() + 1 - yields > self._requeues:
                with contextlib.suppress(RunError):  # Slurm queues it again by itself
                    jobs.cancel(job)
                return (
                    f"{reason}, and its job has no requeues left. To allow more: --slurm.requeues {self._requeues + 1}"
                )
        elif cause == "" and not (jobs.is_being_preempted(job) or self._is_queued_again(job)):
            return CANCELLED
        else:
            reason = "the job was requeued" if cause.startswith("JOB REQUEUE") else "the job was preempted"
            self.folder.write_submission("slurm", job, 1 + yields)
        if not self._is_queued_again(job, _TO_QUEUE_S):
            try:
                jobs.requeue(job)
            except RunError as error:
                return f"{reason}, but could not be requeued: {error}"
        write_notice(self.folder, f"{reason}, and is queued again ({time.strftime('%H:%M:%S')})")
        return GOES_ON

    def _is_queued_again(self, job: str, seconds: float = 0.0) -> bool:
        """Whether Slurm has put the job back into its queue by itself, now or within some time."""
        until = time.monotonic() + seconds
        while True:
            state = jobs.state(job)
            if state.kind == "queued" or state.restarts > _restarts():
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)


def _end_with_parent() -> None:
    """End srun, and so the ranks, when the supervisor is killed; on Linux."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _restarts() -> int:
    """How often the job has begun before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _ranks(tasks: str) -> list[int]:
    """The numbers of ``0-2,5``."""
    spans = [part.partition("-") for part in tasks.split(",") if part]
    return [rank for first, _, last in spans for rank in range(int(first), int(last or first) + 1)]


def job(folder: str, nodes: int, processes: int, requeues: int) -> None:
    """Be the supervisor of a run as the script of its Slurm job, on the job's first node.

    Args:
        folder: of the run.
        nodes: number of nodes.
        processes: ranks on each node.
        requeues: how often it is queued again at most after a node was lost.
    """
    run = RunFolder(folder)
    restarts = _restarts()
    with as_job(run, "slurm", os.environ["SLURM_JOB_ID"], longer="--slurm.time MINUTES") as sigterm_fd:
        losses = restarts - run.yields()
        if losses > requeues:
            record_end(
                run,
                f"its job lost a node {losses} times and has no requeues left. "
                f"To allow more: --slurm.requeues {losses}",
            )
            remove_temporary_files(run)
            return
        if restarts:
            _resume(run)
        NodeRanks(run, nodes, processes, sigterm_fd, requeues=requeues).run()


def _resume(folder: RunFolder) -> None:
    """Let ranks go on from the last checkpoint of a job that was ended and has begun again."""
    for path in folder.error_paths():
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if open_stop_control(folder.control_path).reason():  # a wish of the time limit that was, not of a user
            StopFile(folder.control_path, make=True)
    checkpoint = folder.newest_checkpoint()
    if checkpoint is not None:
        os.environ[RESUME] = str(checkpoint)
    origin = (
        f"from {checkpoint.name}" if checkpoint is not None else "from the beginning, because there is no checkpoint"
    )
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    write_notice(folder, f"the job has restarted on {nodes}, {origin} ({time.strftime('%H:%M:%S')})")
