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
from ...runs.folder import JOB, LOG, RunFolder, marked
from ...transport import exceptions
from ...transport.stop_control import Control, Wish, reach
from ..supervision import (
    CANCELLED,
    ENDED_AT_ONCE,
    GOES_ON,
    KERNEL_ENDED,
    RESUME,
    Supervision,
    as_job,
    clear,
    died,
    is_termination,
    meet,
    tell,
    tell_end,
)
from . import jobs
from .allocation import hosts
from .jobs import NO_FOLDER, NO_PYTHON, no_python, not_shared

_LOOK_S = 0.5
_TO_SAY_WHY_S = 1.0  # for the other ranks, to say what they raised
_TO_QUEUE_S = 2.0  # for Slurm, to queue again what it has ended
_TO_REPORT_S = 10.0  # for srun, to say what became of a rank whose peers have lost it
_TO_END_S = 10.0  # for srun, once it is asked to end all ranks

# What a shell does on a node for each rank. Slurm would open the log before a check could say what is wrong.
_BEFORE = f"""test -e "$0/{JOB}" || exit {NO_FOLDER}
command -v "$1" >/dev/null || exit {NO_PYTHON}
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID NODE_RANK=$SLURM_NODEID
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
        heard: file descriptor that tells of SIGTERM.
        lifeline: file descriptor whose end means that the kernel is gone, None where that is no matter.
        requeues: how often the job is queued again at most after a node was lost; None within an allocation that is
            held, which is not only the run's.
    """

    def __init__(
        self,
        folder: RunFolder,
        nodes: int,
        processes: int,
        heard: int,
        lifeline: int | None = None,
        requeues: int | None = None,
    ) -> None:
        super().__init__(folder, nodes * processes)
        self._nodes = nodes
        self._processes = processes
        self._heard = heard
        self._lifeline = lifeline
        self._requeues = requeues
        self._srun: subprocess.Popen[bytes] | None = None
        self._said = b""  # by srun, what is not a whole line yet
        self._died: dict[int, str] = {}
        self._lost = ""  # what became of a node that srun has lost
        self._last_said = ""
        self._ends = False  # whether ranks are ended by this side, and not by the scheduler
        self._cause: str | None = None  # why the scheduler ended the ranks: empty if it was told to

    def start(self) -> None:
        """Start the ranks."""
        meet(self.ranks, self._processes, hosts(os.environ["SLURM_JOB_NODELIST"])[0] if self._nodes > 1 else "")
        command = [
            "srun",
            f"--nodes={self._nodes}",
            f"--ntasks={self.ranks}",
            f"--ntasks-per-node={self._processes}",
            *self._share(),
            "--kill-on-bad-exit=0",  # the other ranks have something to say too
            *("sh", "-c", _BEFORE, str(self.folder.path.absolute()), sys.executable),
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

    def _share(self) -> list[str]:
        """Options of srun for the processors of a rank, which it has not taken over from the job since Slurm 22.05."""
        if self._requeues is not None:
            cpus = os.environ.get("SLURM_CPUS_PER_TASK")
            return [f"--cpus-per-task={cpus}"] if cpus else []
        here = os.environ.get("SLURM_CPUS_ON_NODE", "")
        each = int(here) // self._processes if here.isdecimal() else 1
        return ["--overlap", f"--cpus-per-task={max(1, each)}"]

    def watch(self, control: Control | Wish) -> str:
        """Wait for the ranks; returns what was wrong with the one that failed, empty if all ended well."""
        ends = [self._heard] if self._lifeline is None else [self._heard, self._lifeline]
        while not control.asked_now():
            if not self._listen(_LOOK_S, ends):
                assert self._srun is not None
                return self._failed() if self._died or self._srun.returncode else ""
            if self._died:
                return self._failed()
            ready = wait(ends, timeout=0)
            if self._heard in ready and is_termination(self._heard):
                self._gather(_TO_SAY_WHY_S, lambda: self._cause is not None)
                return self._scheduled(self._cause or "")
            if self._lifeline in ready:
                return KERNEL_ENDED
            if self.is_removed():
                return "its folder was removed"
        return ENDED_AT_ONCE

    def end(self) -> None:
        """End all ranks: srun does that when it is terminated."""
        self._ends = True
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
        said = self._srun.stderr.fileno()
        if said not in wait([said, *ends], timeout=timeout_s):
            return True
        part = os.read(said, 1 << 16)
        *lines, self._said = (self._said + part).split(b"\n")
        for line in lines:
            self._note(line.decode("utf-8", "replace"))
        if not part:
            self._srun.wait()
        return bool(part)

    def _gather(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Listen for some time to what else there is to hear."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0 and not enough():
            if not self._listen(min(left_s, _LOOK_S)):
                return

    def _note(self, line: str) -> None:
        """Take note of a line of srun's."""
        sys.stderr.write(marked(f"{line}\n"))
        self._last_said = line or self._last_said
        if found := _NODE_LOST.match(line):
            self._lost = f"node {found[1]} failed"
        if found := _NO_ANSWER.match(line):
            self._lost = f"node {found[1]} did not start its processes ({found[2]})"
            self._ends = True  # srun ends those of the other nodes
        if (found := _CANCELLED.match(line)) and not self._ends:
            self._cause = found[1] or ""
        if found := _NO_LAUNCH.match(line):
            self._died[int(found[1])] = f"rank {found[1]} of {self.ranks} could not be started: {found[2]}"
        if found := _REPORT.match(line):
            node, tasks, how = found.groups()
            for rank in _ranks(tasks):
                self._died[rank] = self._described(rank, node, how)

    def _described(self, rank: int, node: str, how: str) -> str:
        """How a rank ended, for a person."""
        code = re.search(r"exit code (\d+)", how)
        if code and int(code[1]) == NO_FOLDER:
            return not_shared(self.folder.path.absolute(), f" on node {node}")
        if code and int(code[1]) == NO_PYTHON:
            return no_python(f" on node {node}")
        number = int(code[1]) if code else -_SIGNALS.get(how.removesuffix(" (core dumped)"), 0)
        if not number and "Out Of Memory" not in how:
            return f"rank {rank} of {self.ranks} ended: {how}, on node {node}"
        return f"{died(rank, self.ranks, number or -9, 'Out Of Memory' in how)}, on node {node}"

    def _failed(self) -> str:
        """What failed: of all ranks the first, unless the scheduler or the loss of a node lies behind it."""
        self._gather(_TO_SAY_WHY_S)
        if self._peer_is_lost():
            self._gather(_TO_REPORT_S, lambda: not self._peer_is_lost())
        self.end()
        if self._cause is not None:
            return self._scheduled(self._cause)
        if self._lost or self._peer_is_lost():
            return self._scheduled("NODE FAILURE")
        return self.why(self._died or {0: f"its processes could not be started: {self._last_said or 'srun failed'}"})

    def _peer_is_lost(self) -> bool:
        """Whether all that ranks say is that another has gone, and nobody says what became of that one."""
        have_raised = {rank for rank in range(self.ranks) if self.folder.error_path(rank).exists()}
        found = exceptions.earliest(self.folder.error_path(rank) for rank in have_raised)
        is_told = bool(self._died.keys() - have_raised) or len(have_raised) == self.ranks
        return found is not None and found.secondary and not is_told

    def _scheduled(self, cause: str) -> str:
        """What the scheduler's ending of the ranks means for the run.

        Args:
            cause: Slurm's words; empty where it gave none: the job was cancelled, or it is to make room and has time.
        """
        lost = self._lost or "a node failed"
        if cause.startswith("TIME LIMIT"):
            return "its job reached its time limit before the current batch ended, so its state was not saved"
        if self._requeues is None:
            return lost if cause.startswith("NODE") else CANCELLED
        job, yields = self.folder.job(), self.folder.yields()
        if cause.startswith("NODE"):
            how = lost
            if _restarts() + 1 - yields > self._requeues:
                with contextlib.suppress(RunError):  # Slurm queues it again by itself
                    jobs.cancel(job)
                return f"{how}, and its job has no requeues left. To allow more: --slurm.requeues {self._requeues + 1}"
        elif cause == "" and not (jobs.gives_way(job) or self._is_queued_again(job)):
            return CANCELLED
        else:
            how = "the job was requeued" if cause.startswith("JOB REQUEUE") else "the job was preempted"
            self.folder.submitted("slurm", job, 1 + yields)
        if not self._is_queued_again(job, _TO_QUEUE_S):
            try:
                jobs.requeue(job)
            except RunError as error:
                return f"{how}, but could not be requeued: {error}"
        tell(self.folder, f"{how}, and is queued again ({time.strftime('%H:%M:%S')})")
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
    with as_job(run, "slurm", os.environ["SLURM_JOB_ID"], longer="--slurm.time MINUTES") as heard:
        losses = restarts - run.yields()
        if losses > requeues:
            tell_end(
                run,
                f"its job lost a node {losses} times and has no requeues left. "
                f"To allow more: --slurm.requeues {losses}",
            )
            clear(run)
            return
        if restarts:
            _resume(run)
        NodeRanks(run, nodes, processes, heard, requeues=requeues).run()


def _resume(folder: RunFolder) -> None:
    """Let ranks go on from the last checkpoint of a job that was ended and has begun again."""
    for path in folder.error_paths():
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if reach(folder.control_path).why():  # a wish of the time limit that was, not of a user
            Wish(folder.control_path, make=True)
    found = folder.newest_checkpoint()
    if found is not None:
        os.environ[RESUME] = str(found)
    where = f"from {found.name}" if found is not None else "from the beginning, because there is no checkpoint"
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    tell(folder, f"the job has restarted on {nodes}, {where} ({time.strftime('%H:%M:%S')})")
