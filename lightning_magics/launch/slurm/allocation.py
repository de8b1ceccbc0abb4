"""Nodes that are held already: the allocation of Slurm that this process is in.

Requesting others is in `submission`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...errors import RunError
from .client import ask
from .partitions import gpu_count


@dataclass(frozen=True)
class Allocation:
    """Nodes that are held already, by the job that this process is in.

    Attributes:
        job: its id.
        hosts: names of its nodes.
        gpus: on each of them.
        cpus: on the node that this process is on; None if that is not known.
    """

    job: str
    hosts: tuple[str, ...]
    gpus: int
    cpus: int | None = None


def allocation() -> Allocation | None:
    """The allocation that this process is in; None outside of any."""
    job = os.environ.get("SLURM_JOB_ID", "")
    names = os.environ.get("SLURM_JOB_NODELIST", "")
    if not job or not names:
        return None
    count = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if not count.isdecimal():
        count = str(gpu_count(ask("squeue", "--noheader", f"--jobs={job}", "--Format=tres-per-node:256").text.strip()))
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return Allocation(job, tuple(hosts(names)), int(count), int(cpus) if cpus.isdecimal() else None)


def hosts(nodelist: str) -> list[str]:
    """Names of nodes: n1 and n2 of ``n[1-2]``.

    Raises:
        RunError: it is no list of nodes.
    """
    answer = ask("scontrol", "show", "hostnames", nodelist)
    if answer.error:
        raise RunError(f"the node list {nodelist!r} cannot be expanded: {answer.error}")
    return answer.text.split()
