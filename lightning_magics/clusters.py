"""The interface to an engine, which runs jobs on a cluster; engines are found here by name.

Another package adds one by an entry point: see "Adding an engine" in the documentation.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .errors import InputError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "lightning_magics.engines"  # the group in which other packages name theirs
_CLASSES = {"slurm": ("lightning_magics.launch.slurm.engine", "Slurm")}
BUILT_IN = tuple(_CLASSES)


@dataclass(frozen=True)
class State:
    """The state of a job.

    Attributes:
        kind: queued, running, ended; or unknown, where nobody answers.
        word: the engine's own; of Slurm PENDING, RUNNING, TIMEOUT, NODE_FAIL, CANCELLED …
        reason: for a person: why it waits, or how it ended.
        position: of one that waits, among those of its partition by priority, from 1; `waiting` how many these are.
        start: the engine's estimate of one that waits, Unix time in seconds.
        nodes: that it has or had, as the engine writes them: ``n[1-2]``.
        restarts: how often it was put back into the queue.
        exit_code: of its script; `signal` the number of the signal that ended it.
        is_cancelled: whether it ended because somebody cancelled it.
    """

    kind: Literal["queued", "running", "ended", "unknown"]
    word: str = ""
    reason: str = ""
    position: int | None = None
    waiting: int | None = None
    start: float | None = None
    nodes: str = ""
    restarts: int = 0
    exit_code: int = 0
    signal: int = 0
    is_cancelled: bool = False


@dataclass(frozen=True)
class Resources:
    """What a run requests from an engine.

    Attributes:
        engine: its name.
        nodes: number of nodes.
        processes: ranks on each node.
        gpus: on each node; 0 for none.
        parameters: the engine's own, checked; of Slurm submitit's: `partition`, `time` in minutes …
        inside: start in the allocation that this process is in, without a queue.
        requeues: how often a job that lost a node is put back into the queue at most.
    """

    engine: str
    nodes: int
    processes: int
    gpus: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inside: bool = False
    requeues: int = 3


class Engine(Protocol):
    """What an engine provides. Methods with a body here are optional.

    Attributes:
        name: what is typed after ``--cluster``, and before a parameter: ``--slurm.partition``.
        about: what it runs on, in a line of the documentation.
        help: rows of ``--help-all``: a parameter as it is typed, and what it does.
        flags: parameters that mean true without a value.
        lines: parameters that may be given again, each a line of a script.
    """

    name: str
    about: str
    help: Sequence[tuple[str, str]] = ()
    flags: Collection[str] = ()
    lines: Collection[str] = ()

    def parameter_names(self) -> list[str]:
        """Names of its parameters, for completion."""
        return []

    def parameter_values(self, name: str) -> list[str]:
        """Values that a parameter may have, for completion."""
        return []

    def defaults(self, settings: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a run: those that were typed take precedence over the settings."""
        return {**settings, **typed}

    def resources(self, nodes: int, devices: Any, accelerator: Any, parameters: Mapping[str, Any]) -> Resources:
        """Check what a run requests, before anything starts.

        Args:
            nodes: number of nodes.
            devices: processes on each node: a number; ``"auto"`` or -1 for one for each GPU; None for one.
            accelerator: ``auto``, ``gpu``, ``cuda`` or ``cpu``.
            parameters: by name.

        Raises:
            MissingPackage: the engine lacks a package.
            InputError: the cluster cannot give that, or is not reached from here.
        """
        ...

    def submit(self, resources: Resources, folder: Path) -> str:
        """Submit a job that supervises the ranks of the run in a folder; return the job's id.

        Raises:
            InputError: it is refused.
        """
        ...

    def state(self, job: str) -> State:
        """Return the state of a job; one that is no longer known has ended."""
        ...

    def states(self, jobs: Iterable[str]) -> dict[str, State]:
        """Return the states of jobs by id; a job that the queue does not know may be left out."""
        return {job: self.state(job) for job in jobs}

    def why(self, state: State, folder: Path) -> str:
        """Why the job of a run ended, as a message for the user, with what to type where that helps."""
        return state.reason or f"the job has ended ({state.word or 'reason unknown'})"

    def cancel(self, job: str) -> None:
        """Cancel a job; one that has ended stays as it is.

        Raises:
            RunError: it is refused, or nobody answers.
        """
        ...

    def by_hand(self, job: str, what: Literal["cancel", "show"]) -> str:
        """The shell command that cancels a job, or shows it."""
        return f"{what} job {job} with the tools of {self.name}"

    def supervise(self, resources: Resources, folder: Path, lifeline: int | None) -> None:
        """Supervise ranks within the allocation that this process is in, where `resources.inside` is set.

        Args:
            resources: of the run.
            folder: of the run.
            lifeline: file descriptor whose end means that the kernel is gone, None where that is no matter.
        """
        raise NotImplementedError(f"{self.name} cannot run inside an allocation")


def names() -> list[str]:
    """The names of all engines: those of this package first."""
    return [*BUILT_IN, *sorted(_entry_points().keys() - set(BUILT_IN))]


def is_engine(name: str) -> bool:
    """Whether there is an engine of that name."""
    return name in BUILT_IN or name in _entry_points()


@functools.cache
def engine(name: str) -> Engine:
    """Return the engine of a name.

    Raises:
        InputError: there is none, or its package cannot be imported.
    """
    if not is_engine(name):
        raise InputError(f"--cluster {name!r} is not one of: {', '.join(names())}.{did_you_mean(name, names())}")
    try:
        if name in _CLASSES:
            module, attribute = _CLASSES[name]
            cls = getattr(importlib.import_module(module), attribute)
        else:
            cls = _entry_points()[name].load()
        made: Engine = cls()
    except Exception as error:  # whatever another package raises when it is imported
        raise InputError(f"--cluster {name}: the engine cannot be loaded: {type(error).__name__}: {error}") from error
    return made


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    """The engines of other packages, by name."""
    from importlib import metadata  # takes longer to import than all of %load_ext

    return {item.name: item for item in metadata.entry_points(group=ENTRY_POINTS)}
