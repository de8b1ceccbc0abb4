"""The partitions of a Slurm cluster: their nodes, GPUs and time limits, and whether what is asked for is there.

Asked of ``sinfo``; nothing is submitted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import InputError, did_you_mean
from ...formats import plural
from .client import ask

_UNAVAILABLE = ("down", "drain", "drng", "fail", "error", "unk", "inval", "future", "maint", "reboot")
UNLIMITED = 0  # as a time limit


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are alike.

    Attributes:
        names: as Slurm writes them: ``n[1-2]``; `count` how many these are.
        state: in Slurm's words.
        gpus: of each; `cpus` likewise.
    """

    names: str
    count: int
    state: str
    gpus: int
    cpus: int

    @property
    def is_up(self) -> bool:
        """Whether they work, now or once the jobs on them have ended."""
        return not self.state.startswith(_UNAVAILABLE) and not self.state.endswith("*")


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        name: of it.
        nodes: that it has, grouped.
        time_s: time limit of a job that names none, in seconds; `UNLIMITED` for none.
        longest_s: the longest that a job may ask for, likewise.
        is_default: whether it is that of jobs that name none.
    """

    name: str
    nodes: tuple[NodeGroup, ...]
    time_s: int
    longest_s: int
    is_default: bool

    @property
    def most_gpus(self) -> int:
        """GPUs of the node that has most."""
        return max((node.gpus for node in self.nodes), default=0)

    def count(self, gpus: int = 0, up: bool = False) -> int:
        """How many nodes have so many GPUs; `up` counts those alone that work."""
        return sum(node.count for node in self.nodes if node.gpus >= gpus and (node.is_up or not up))

    def gpus_of(self, nodes: int) -> int:
        """The most GPUs that so many nodes all have."""
        counts = sorted({node.gpus for node in self.nodes}, reverse=True)
        return next((gpus for gpus in counts if self.count(gpus) >= nodes), 0)

    def check(self, nodes: int, gpus: int, processes: int, cpus: int) -> None:
        """Refuse what the partition can never give, and what it cannot give before nodes are repaired.

        Args:
            nodes: number of nodes.
            gpus: of each node.
            processes: on each node.
            cpus: of each process.

        Raises:
            InputError: says what it has.
        """
        if gpus > self.most_gpus:
            has = f"its nodes have at most {self.most_gpus}" if self.most_gpus else "its nodes have none"
            raise InputError(
                f"partition {self.name} cannot provide {plural(gpus, 'GPU')} per node: {has}. "
                f"Type --devices {self.most_gpus or 1}{'' if self.most_gpus else ' --accelerator cpu'}"
            )
        most_cpus = max((node.cpus for node in self.nodes), default=0)
        if processes * cpus > most_cpus:
            requested = f"{plural(processes * cpus, 'CPU')} per node ({plural(processes, 'process')} with {cpus} each)"
            raise InputError(
                f"partition {self.name} cannot provide {requested}: its nodes have at most {most_cpus}. "
                f"Type --devices {max(1, most_cpus // cpus)}"
            )
        gpu_phrase = f" with {plural(gpus, 'GPU')}" if gpus else ""
        count = self.count(gpus)
        if nodes > count:
            raise InputError(
                f"--nodes {nodes}: partition {self.name} has {_node_count(count)}{gpu_phrase}. Type --nodes {count}"
            )
        working = self.count(gpus, up=True)
        if nodes > working:
            away = ", ".join(f"{node.names} ({node.state})" for node in self.nodes if not node.is_up)
            alternative = f"--nodes {working}" if working else "another --slurm.partition NAME"
            raise InputError(
                f"--nodes {nodes}: partition {self.name} has {_node_count(working)}{gpu_phrase} available now. "
                f"Unavailable: {away}. "
                f"Type {alternative}, or wait until they are back"
            )


def partitions(timeout_s: float | None = None) -> list[Partition]:
    """Return the partitions of the cluster.

    Raises:
        InputError: Slurm's controller does not answer.
    """
    answer = ask("sinfo", "--all", "--noheader", "--format=%P|%D|%T|%G|%l|%L|%N|%c", timeout_s=timeout_s)
    if answer.error:
        raise InputError(
            f"Slurm does not answer: {answer.error}. Try again later; to check, type `sinfo` in a terminal"
        )
    rows = [line.split("|") for line in answer.rows]
    names = dict.fromkeys(row[0] for row in rows)
    return [_partition(name, [row for row in rows if row[0] == name]) for name in names]


def partitions_named(available: Sequence[Partition], names: str) -> list[Partition]:
    """Return the partitions of a name, of several names with commas between, or of none: the default.

    Raises:
        InputError: there is no such partition.
    """
    listed = ", ".join(item.name for item in available)
    if not names:
        usual = [item for item in available if item.is_default]
        if usual:
            return usual
        raise InputError(f"this cluster has no default partition. Type --slurm.partition NAME, one of: {listed}")
    chosen = []
    for name in names.split(","):
        match = [item for item in available if item.name == name]
        if not match:
            near = did_you_mean(name, [item.name for item in available])
            raise InputError(f"--slurm.partition {name!r} is not a partition of this cluster: {listed}.{near}")
        chosen += match
    return chosen


def gpu_partitions(available: Iterable[Partition]) -> str:
    """The partitions that have GPUs, for a message."""
    listed = ", ".join(f"{item.name} ({item.most_gpus} per node)" for item in available if item.most_gpus)
    return f"GPUs are in: {listed}" if listed else "No partition of this cluster has GPUs"


def gpu_count(gres: str) -> int:
    """Number of GPUs in a list of generic resources: 6 of ``gpu:a100:4(S:0-1),gpu:2,tmp:100``."""
    items = [item.removeprefix("gres:").split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(",")]
    counts = [item[-1] for item in items if item[0] == "gpu"]
    return sum(int(count) if count.isdecimal() else 1 for count in counts)


def parse_duration(text: str) -> int | None:
    """A time limit as Slurm writes it, in seconds: ``1-00:30:00``; `UNLIMITED` for none, None where none is set."""
    if text.lower() in ("infinite", "unlimited"):
        return UNLIMITED
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
        return None
    numbers = [int(part) for part in parts]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, rest = [*numbers, 0, 0][:3]
    elif len(numbers) == 1:
        hours, minutes, rest = 0, numbers[0], 0
    else:
        hours, minutes, rest = ([0, *numbers] if len(numbers) == 2 else numbers)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def _partition(name: str, rows: Sequence[Sequence[str]]) -> Partition:
    nodes = tuple(
        NodeGroup(row[6], int(row[1]), row[2], gpu_count(row[3]), _number(row[7])) for row in rows if int(row[1])
    )
    longest = parse_duration(rows[0][4]) or UNLIMITED
    usual = parse_duration(rows[0][5])
    return Partition(name.rstrip("*"), nodes, longest if usual is None else usual, longest, name.endswith("*"))


def _number(text: str) -> int:
    """4 of ``4`` and of ``4+``, which is said of nodes that are alike in all else."""
    return int(text.rstrip("+"))


def _node_count(count: int) -> str:
    return plural(count, "node") if count else "no nodes"
