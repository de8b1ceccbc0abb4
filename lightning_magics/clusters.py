"""The interface to an engine, which runs jobs on a cluster; engines are found here by name.

Another package can add one through an entry point: see "Adding an engine" in the documentation.
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
        kind: queued, running, ended; or unknown if the cluster does not respond.
        word: the engine's name for the state; for Slurm: PENDING, RUNNING, TIMEOUT, NODE_FAIL, CANCELLED …
        reason: readable explanation of why the job is waiting, or how it ended.
        position: place of a queued job in its partition by priority, from 1.
        waiting: number of queued jobs in that partition.
        start: estimated start of a queued job, as Unix time in seconds.
        nodes: nodes of the job, in the engine's notation: ``n[1-2]``.
        restarts: number of times the job was requeued.
        exit_code: exit code of the job's script.
        signal: number of the signal that ended it, or 0.
        is_cancelled: whether it ended because it was cancelled.
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
        parameters: checked engine parameters; for Slurm, those of submitit: `partition`, `time` in minutes …
        inside: whether to start in the current allocation, without queueing.
        requeues: maximum number of times to requeue a job after a node failure.
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
        about: one-line description of what it runs on, for the documentation.
        help: rows for ``--help-all``: a parameter as typed, and its description.
        flags: parameters that can be typed without a value, meaning true.
        lines: parameters that may be repeated, each adding a line to a script.
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
            devices: processes on each node: a number, ``"auto"`` or -1 (one per GPU), or None (one).
            accelerator: ``auto``, ``gpu``, ``cuda`` or ``cpu``.
            parameters: by name.

        Raises:
            MissingPackage: the engine lacks a package.
            InputError: the cluster cannot provide this, or cannot be reached.
        """
        ...

    def submit(self, resources: Resources, folder: Path) -> str:
        """Submit a job that supervises the ranks of the run in a folder; return the job's id.

        Raises:
            InputError: the job is rejected.
        """
        ...

    def state(self, job: str) -> State:
        """Return the state of a job; a job that the engine no longer knows counts as ended."""
        ...

    def states(self, jobs: Iterable[str]) -> dict[str, State]:
        """Return the states of jobs by id; jobs unknown to the queue may be omitted."""
        return {job: self.state(job) for job in jobs}

    def why(self, state: State, folder: Path) -> str:
        """Return a message for the user that says why a run's job ended, and what to type if that helps."""
        return state.reason or f"the job has ended ({state.word or 'reason unknown'})"

    def cancel(self, job: str) -> None:
        """Cancel a job; do nothing if it has ended.

        Raises:
            RunError: the request is refused, or the cluster does not respond.
        """
        ...

    def by_hand(self, job: str, what: Literal["cancel", "show"]) -> str:
        """Return the shell command that cancels or shows a job."""
        return f"{what} job {job} with the tools of {self.name}"

    def supervise(self, resources: Resources, folder: Path, lifeline: int | None) -> None:
        """Supervise ranks within the current allocation; used if `resources.inside` is set.

        Args:
            resources: of the run.
            folder: of the run.
            lifeline: file descriptor that reaches end-of-file when the kernel exits; None if the run outlives
                the kernel.
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
    """Return the engine with the given name.

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
        instance: Engine = cls()
    except Exception as error:  # whatever another package raises when it is imported
        raise InputError(f"--cluster {name}: the engine cannot be loaded: {type(error).__name__}: {error}") from error
    return instance


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    """The engines of other packages, by name."""
    from importlib import metadata  # takes longer to import than all of %load_ext

    return {item.name: item for item in metadata.entry_points(group=ENTRY_POINTS)}
