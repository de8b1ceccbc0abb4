"""Jobs of Slurm: how each stands, in Slurm's words and in those for a person; cancelling and requeueing.

What a job requests is in `request`, its submission in `submission`.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...clusters import State
from ...errors import RunError
from .client import Answer, ask, is_installed

# Exit codes of the lines that a batch script checks a node with.
NO_FOLDER = 97
NO_PYTHON = 98
_NO_OUTPUT_FILE = 53  # "signal" that Slurm reports where a node cannot open the job's output file
_MAX_START_S = 300 * 24 * 3600  # a job without a time limit counts as a year: a start after it tells nothing
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_CANCELLED = "CANCELLED"
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_WAIT_REASONS = {
    "Resources": "waiting for resources",
    "Priority": "behind jobs of higher priority",
    "BeginTime": "its start time has not been reached",
    "Dependency": "waiting for another job",
    "DependencyNeverSatisfied": "waiting for a job that did not end as required, so it will never start",
    "JobHeldUser": "held by its user. To release it: scontrol release JOB",
    "JobHeldAdmin": "held by an administrator",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionConfig": "no node of the partition has the requested resources",
    "PartitionNodeLimit": "it requests more nodes than the partition allows",
    "PartitionTimeLimit": "it requests more time than the partition allows",
    "ReqNodeNotAvail": "a requested node is not available",
    "Licenses": "waiting for a license",
    "Reservation": "waiting for its reservation",
    "QOSMaxJobsPerUserLimit": "you have reached your limit of running jobs",
    "QOSMaxGRESPerUser": "you have reached your GPU limit",
    "AssocGrpGRES": "your account has reached its GPU limit",
    "AssocMaxJobsLimit": "your account has reached its limit of running jobs",
    "launch_failed_requeued_held": "held because it could not be started on its node",
}
# Fields of squeue's output, each with its width; read by place, since values may hold any character.
_FIELDS = {
    "JobID": 32,
    "State": 32,
    "Reason": 256,
    "StartTime": 32,
    "NodeList": 1024,
    "PriorityLong": 32,
    "Partition": 256,
    "RestartCnt": 16,
    "exit_code": 16,
}


FORGOTTEN = State("ended", "FORGOTTEN", "Slurm no longer has a record of the job")


def states(jobs: Iterable[str]) -> dict[str, State]:
    """Return how jobs stand, all asked for at once; one that the queue does not know is left out.

    Where Slurm does not answer, each is unknown, with the reason.
    """
    wanted = list(dict.fromkeys(jobs))
    if not wanted:
        return {}
    answer = _squeue(f"--jobs={','.join(wanted)}", "--states=all")
    if answer.error and "Invalid job id" not in answer.error:  # which it says of a single one that it does not know
        return {job: State("unknown", "", answer.error) for job in wanted}
    rows = {row["JobID"]: row for row in map(_row, answer.text.splitlines()) if row["JobID"] in wanted}
    queue = _Queue(row["Partition"] for row in rows.values() if row["State"] == "PENDING")
    return {job: _state(row, queue) for job, row in rows.items()}


def state(job: str) -> State:
    """Return how one job stands; where the queue has forgotten it, what the accounting says, or `FORGOTTEN`."""
    job_state = states([job]).get(job)
    if job_state is None:
        return _accounting_state(job) or FORGOTTEN
    if job_state.is_cancelled:  # by whom, only the accounting says
        record = _accounting_state(job)
        return replace(job_state, reason=record.reason) if record is not None and record.kind == "ended" else job_state
    return job_state


def cancel(job: str) -> None:
    """Cancel a job; one that has ended stays as it is.

    Raises:
        RunError: Slurm refuses, or does not answer.
    """
    _run_command("cancel", job, "scancel", job)


def requeue(job: str) -> None:
    """Put a job back into the queue.

    Raises:
        RunError: Slurm refuses, or does not answer.
    """
    _run_command("requeue", job, "scontrol", "requeue", job)


def is_being_preempted(job: str) -> bool:
    """Whether a job that still runs is to make room: it has some time left, in which its processes are ended."""
    description = ask("scontrol", "--oneliner", "show", "job", job).text
    match = re.search(r"PreemptTime=(\S+)", description)
    return match is not None and match[1] not in ("None", "(null)", "Unknown", "0")


def not_shared_message(folder: Path, where: str) -> str:
    """The message for a node that does not see the run's folder."""
    return (
        f"the run folder was not found{where}: {folder} is not on a file system that all nodes share. "
        f"Choose a shared folder: %config LightningMagics.run_dir = '/a/shared/folder'"
    )


def no_python_message(where: str) -> str:
    """The message for a node without the kernel's Python."""
    return (
        f"the notebook's Python was not found{where}: {sys.executable}. Use an environment on a file system that "
        f"all nodes share, or make it available there: --slurm.setup 'module load …'"
    )


def why(state: State, folder: Path) -> str:
    """How a job came to its end, for a person, with what to type where something is to be done.

    Args:
        state: of the job.
        folder: the run's.
    """
    where = f" on {state.nodes}" if state.nodes else ""
    if state.exit_code == NO_FOLDER or (state.word == "FAILED" and state.signal == _NO_OUTPUT_FILE):
        return not_shared_message(folder, where)
    if state.exit_code == NO_PYTHON:
        return no_python_message(where)
    reasons = {
        _CANCELLED: f"the job was {state.reason or 'cancelled'}",
        "TIMEOUT": "the job reached its time limit. For more time: --slurm.time MINUTES",
        "DEADLINE": "the job reached its deadline",
        "NODE_FAIL": f"a node of the job failed{f' ({state.nodes})' if state.nodes else ''}",
        "BOOT_FAIL": f"a node of the job did not start{f': {state.nodes}' if state.nodes else ''}",
        "OUT_OF_MEMORY": f"the job ran out of memory{where}. For more memory: --slurm.mem 64GB",
        "PREEMPTED": "the job was preempted by one of higher priority",
        "COMPLETED": "the job has ended",
        "FORGOTTEN": "the job has ended, but Slurm no longer has a record of how",
    }
    if state.word in reasons:
        return reasons[state.word]
    if state.kind != "ended":
        return state.reason or f"the job is {state.word.lower() or 'unknown'}"
    outcome = f"signal {state.signal}" if state.signal else f"exit code {state.exit_code}"
    return f"the job ended with {outcome}{where} ({state.word})"


def _run_command(verb: str, job: str, *command: str) -> None:
    answer = ask(*command)
    if answer.error:
        raise RunError(f"Slurm did not {verb} job {job}: {answer.error}")


def _squeue(*options: str) -> Answer:
    fields = ",".join(f"{name}:{width}" for name, width in _FIELDS.items())
    return ask("squeue", "--noheader", f"--Format={fields}", *options)


def _row(line: str) -> dict[str, str]:
    row, offset = {}, 0
    for name, width in _FIELDS.items():
        row[name] = line[offset : offset + width].strip()
        offset += width
    return row


class _Queue:
    """The jobs that wait in some partitions; asked for only if a position is wanted."""

    def __init__(self, partitions: Iterable[str]) -> None:
        self.rows: list[dict[str, str]] = []
        names = ",".join(dict.fromkeys(partitions))
        if names and _shows_all():
            self.rows = [_row(line) for line in _squeue("--states=PENDING", f"--partition={names}").text.splitlines()]

    def place(self, row: dict[str, str]) -> tuple[int, int] | None:
        """Position of a job by priority, from 1, and how many wait in its partition."""
        waiting = [other for other in self.rows if other["Partition"] == row["Partition"]]
        before = [other for other in waiting if _priority_key(other) < _priority_key(row)]
        return (len(before) + 1, len(waiting)) if waiting else None


def _priority_key(row: dict[str, str]) -> tuple[int, int]:
    """What jobs are ordered by: a higher priority, then a lower number."""
    number = re.match(r"\d+", row["JobID"])
    return -_number(row["PriorityLong"]), int(number[0]) if number else 0


@functools.cache
def _shows_all() -> bool:
    """Whether the queue shows the jobs of others: without them, a position would mean nothing."""
    config = ask("scontrol", "show", "config").text
    private = re.search(r"^PrivateData\s*=\s*(.*)$", config, re.M)
    return private is None or "jobs" not in private[1]


def _state(row: dict[str, str], queue: _Queue) -> State:
    word = row["State"]
    kind = _kind(word)
    code, number = _exit_status(row["exit_code"])
    job_state = State(
        kind,
        word,
        nodes=row["NodeList"],
        restarts=_number(row["RestartCnt"]),
        exit_code=code,
        signal=number,
        is_cancelled=word == _CANCELLED,
    )
    if kind == "queued":
        place = queue.place(row) or (None, None)
        return replace(
            job_state, reason=_wait_reason(row), position=place[0], waiting=place[1], start=_start(row["StartTime"])
        )
    if kind == "ended":
        return replace(job_state, reason="cancelled" if job_state.is_cancelled else _reason_text(row["Reason"]))
    return replace(job_state, reason="its processes are exiting") if word == "COMPLETING" else job_state


def _kind(word: str) -> Literal["queued", "running", "ended"]:
    return "queued" if word in _QUEUED else "running" if word in _RUNNING else "ended"


def _wait_reason(row: dict[str, str]) -> str:
    """Why a job waits: in plain words, with Slurm's own."""
    if row["State"] == "CONFIGURING":
        return "its nodes are being prepared"
    reason = row["Reason"].strip("()")
    first = reason.partition(",")[0]
    if first == "BeginTime" and _number(row["RestartCnt"]):
        return "requeued; it can start again in a moment (BeginTime)"
    if first in ("", "None"):
        return "waiting to be scheduled"
    return f"{_WAIT_REASONS.get(first, 'waiting')} ({reason})"


def _reason_text(reason: str) -> str:
    return "" if reason in ("", "None") else reason


def _start(text: str) -> float | None:
    """When a job is to start; None where Slurm does not know, or only that other jobs have no limit."""
    start_s = _number(text)
    return float(start_s) if 0 < start_s < time.time() + _MAX_START_S else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _exit_status(text: str) -> tuple[int, int]:
    """Exit code and signal: of ``3:0``, or of the status as wait() gives it."""
    code, colon, number = text.partition(":")
    if colon:
        return _number(code), _number(number)
    status = _number(text)
    number_of_signal = status & 0x7F
    return (0, number_of_signal) if number_of_signal else (status >> 8, 0)


def _accounting_state(job: str) -> State | None:
    """What the accounting says of a job; None where there is none, or it does not know the job."""
    if not is_installed("sacct"):
        return None
    fields = "State,ExitCode,NodeList"
    rows = ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", f"--format={fields}").rows
    if not rows:
        return None
    text, code, nodes = [*rows[-1].split("|"), "", ""][:3]
    word, _, rest = text.partition(" ")
    exit_code, number = _exit_status(code)
    is_cancelled = word == _CANCELLED
    reason = _cancelled_by(rest) if is_cancelled else ""
    nodes = "" if nodes == "None assigned" else nodes
    return State(_kind(word), word, reason, nodes=nodes, exit_code=exit_code, signal=number, is_cancelled=is_cancelled)


def _cancelled_by(text: str) -> str:
    """``by 1001`` as the accounting has it, with the user's name."""
    import pwd  # which Windows lacks, as it lacks Slurm

    number = text.removeprefix("by ").strip()
    try:
        return f"cancelled by {pwd.getpwuid(int(number)).pw_name}"
    except (ValueError, KeyError):
        return f"cancelled {text}".strip()
