"""The interface to an engine: the state of its jobs, and the resources that a run requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class State:
    """How a job stands.

    Attributes:
        kind: queued, running, ended; or unknown, where nobody answers.
        word: Slurm's own: PENDING, RUNNING, TIMEOUT, NODE_FAIL, CANCELLED, FAILED …; FORGOTTEN is none of these
        reason: for a person: why it waits, or how it ended.
        position: of one that waits, among those of its partition by priority, from 1; `waiting` how many these are.
        start: Slurm's estimate of one that waits, Unix time in seconds.
        nodes: that it has or had, as Slurm writes them: ``n[1-2]``.
        restarts: how often it was put back into the queue.
        exit_code: of its batch script; `signal` the number of the signal that ended it.
    """

    kind: Literal["queued", "running", "ended", "unknown"]
    word: str
    reason: str = ""
    position: int | None = None
    waiting: int | None = None
    start: float | None = None
    nodes: str = ""
    restarts: int = 0
    exit_code: int = 0
    signal: int = 0


@dataclass(frozen=True)
class Asked:
    """What a run asks of Slurm.

    Attributes:
        nodes: of the job.
        processes: on each node.
        gpus: on each node; 0 for none.
        parameters: submitit's, checked: `partition`, `time` in minutes, `setup` a list of lines …
        inside: start in the allocation that this process is in, without a queue.
        requeues: how often a job that lost a node is put back into the queue at most.
    """

    nodes: int
    processes: int
    gpus: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inside: bool = False
    requeues: int = 3
