"""What a run asks of a Slurm cluster, checked before anything is submitted, and the submission, through submitit.

How jobs stand is `jobs`' part, what the cluster has `partitions`'. The processes of a job are started on its nodes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import ask, is_installed
from .errors import InputError, MissingPackage, RunError, did_you_mean
from .jobs import NO_FOLDER, NO_PYTHON, State, cancel, requeue, state, states, why
from .partitions import UNLIMITED, Partition, gpus, named, partitions, with_gpus

# Everything about Slurm that the rest of the package needs, under this module's name.
__all__ = [
    "NO_FOLDER",
    "NO_PYTHON",
    "Allocation",
    "Asked",
    "State",
    "allocation",
    "asked",
    "cancel",
    "defaults",
    "hosts",
    "parameter_names",
    "partition_names",
    "requeue",
    "state",
    "states",
    "submit",
    "why",
]
OWN = ("inside", "requeues")  # parameters that are this package's, beside submitit's
SIGNAL_DELAY_S = 90  # submitit's own: how long before the time limit a job is told
# Parameters of submitit that other options stand for, and what is typed in their place.
_INSTEAD = {
    "nodes": "--nodes N",
    "ntasks_per_node": "--devices N: a process for each device",
    "gpus_per_node": "--devices N: a GPU for each",
    "gpus_per_task": "--devices N: a GPU for each",
    "num_gpus": "--devices N: a GPU for each",
    "array_parallelism": "a fit is one job, never an array: leave it out",
    "use_srun": "the processes are started by srun already: leave it out",
    "srun_args": "--slurm.additional_parameters \"{'OPTION': VALUE}\", which reaches sbatch, or a variable of srun's: "
    "--slurm.setup 'export SRUN_…'",
    "teardown": "--slurm.setup \"trap 'COMMAND' EXIT\" is not run either, since the script becomes the run's own "
    "process, which is to hear of the time limit. Clean up in a callback's teardown() hook",
}
# Beginnings of the names of variables that a job has; SLURM_CONF is none.
_OF_A_JOB = (
    *(f"SLURM_{part}" for part in ("JOB", "STEP", "CPU", "MEM", "GPU", "TRES", "TASK", "NODE", "PROC", "LOCAL")),
    *("SLURM_NTASKS", "SLURM_NNODES", "SLURM_NPROCS", "SRUN_"),
)
_ALIASES = {"timeout_min": "time", "mem_gb": "mem", "name": "job_name", "tasks_per_node": "ntasks_per_node"}


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


@dataclass(frozen=True)
class Allocation:
    """Nodes that are held already, by the job that this process is in.

    Attributes:
        job: its id.
        hosts: names of its nodes.
        gpus: on each of them.
    """

    job: str
    hosts: tuple[str, ...]
    gpus: int


def asked(nodes: int, devices: Any, accelerator: Any, parameters: Mapping[str, Any]) -> Asked:
    """Check what a run asks of Slurm.

    Args:
        nodes: number of nodes.
        devices: processes on each node: a number; ``"auto"`` or -1 for one for each GPU; None for one.
        accelerator: ``auto``, ``gpu``, ``cuda`` or ``cpu``.
        parameters: of submitit, and `inside` and `requeues`.

    Raises:
        MissingPackage: submitit is not installed.
        InputError: Slurm is not here, or the cluster cannot give what is asked for.
    """
    if importlib.util.find_spec("submitit") is None:
        raise MissingPackage("submitit", "--cluster slurm", "'lightning-magics[slurm]'")
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise InputError(f"--nodes takes a whole number of at least 1; found {nodes!r}.")
    given = {name: value for name, value in parameters.items() if value is not None}
    inside, requeues = _own(given)
    given = _checked(given)
    if not is_installed("srun" if inside else "sbatch"):
        raise InputError(
            f"--cluster slurm: there is no {'srun' if inside else 'sbatch'} on this machine's path. Start the notebook "
            "on a login node of the cluster, or on a node inside of a job, or type `module load slurm` before it starts"
        )
    wants_gpus = _wants_gpus(accelerator)
    if inside:
        return _asked_inside(nodes, _count(devices), wants_gpus, given, requeues)
    return _asked_of_queue(nodes, _count(devices), wants_gpus, given, requeues)


def submit(what: Asked, folder: Path, name: str, function: Callable[..., Any], *arguments: Any) -> str:
    """Submit a job that calls a function on its first node; return the job's id.

    The batch script becomes the process that calls it: it gets SIGUSR2 before the time limit, and SIGTERM when the
    job is cancelled or gives way.

    Args:
        what: it asks for.
        folder: of submitit's own files: script, pickle and logs; on a file system that the nodes see.
        name: of the job.
        function: is sent with `arguments` by pickle.
        arguments: of the function.

    Raises:
        InputError: Slurm refuses it.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = folder.absolute()
    parameters = {"job_name": name, "time": None, **what.parameters}  # None leaves the time limit to the partition
    setup = [*parameters.pop("setup", ()), *_checks(folder)]
    # `--gpus-per-node` and `--gres` say the same; the kind of GPU can be told by either.
    if what.gpus and "gres" not in parameters:
        parameters["gpus_per_node"] = what.gpus
    delay = parameters.get("signal_delay_s", SIGNAL_DELAY_S)
    forced = {"signal": f"B:USR2@{delay}", "requeue": True, **parameters.pop("additional_parameters", {})}
    executor = SlurmExecutor(folder, python=f"exec {shlex.quote(sys.executable)}")
    executor.update_parameters(
        nodes=what.nodes,
        ntasks_per_node=what.processes,
        setup=setup,
        use_srun=False,
        additional_parameters=forced,
        **parameters,
    )
    try:
        with _outside_of_jobs(), contextlib.redirect_stderr(None):  # submitit prints sbatch's words too
            return str(executor.submit(function, *arguments).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        words = " ".join(str(error).replace("sbatch: error: ", "").split())
        raise InputError(f"Slurm refuses the job: {words or 'sbatch failed'}. Asked for: {_described(what)}") from error


def allocation() -> Allocation | None:
    """The allocation that this process is in; None outside of any."""
    job = os.environ.get("SLURM_JOB_ID", "")
    names = os.environ.get("SLURM_JOB_NODELIST", "")
    if not job or not names:
        return None
    count = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if not count.isdecimal():
        count = str(gpus(ask("squeue", "--noheader", f"--jobs={job}", "--Format=tres-per-node:256").text.strip()))
    return Allocation(job, tuple(hosts(names)), int(count))


def hosts(nodelist: str) -> list[str]:
    """Names of nodes: n1 and n2 of ``n[1-2]``.

    Raises:
        RunError: it is no list of nodes.
    """
    answer = ask("scontrol", "show", "hostnames", nodelist)
    if answer.error:
        raise RunError(f"the nodes {nodelist!r} cannot be told: {answer.error}")
    return answer.text.split()


def defaults(settings: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a run: what was typed, over the settings; these are of a queue, which ``inside`` has none of."""
    return dict(typed) if typed.get("inside") else {**settings, **typed}


def parameter_names() -> list[str]:
    """Names of all parameters that a run takes, for completion; no name where submitit is not installed."""
    if importlib.util.find_spec("submitit") is None:
        return []
    return sorted({*_parameters(), *OWN} - set(_INSTEAD))


def partition_names(timeout_s: float = 1.0) -> list[str]:
    """Names of the partitions, for completion; none where no Slurm answers in time."""
    try:
        return [item.name for item in partitions(timeout_s)]
    except InputError:
        return []


def _parameters() -> Mapping[str, Any]:
    """All parameters that submitit takes for Slurm, with their defaults."""
    from submitit.slurm import slurm as of_submitit

    found: Mapping[str, Any] = of_submitit._get_default_parameters()
    return found


def _own(given: dict[str, Any]) -> tuple[bool, int]:
    """Take this package's own parameters out: inside, and the number of requeues."""
    inside, requeues = given.pop("inside", False), given.pop("requeues", 3)
    if not isinstance(inside, bool):
        raise InputError(f"--slurm.inside takes true or false; found {inside!r}.")
    if isinstance(requeues, bool) or not isinstance(requeues, int) or requeues < 0:
        raise InputError(f"--slurm.requeues takes a whole number of at least 0; found {requeues!r}.")
    return inside, requeues


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Submitit's parameters as it takes them.

    Raises:
        InputError: one is unknown, stands for another option, or has a value that it cannot have.
    """
    known = parameter_names()
    for name in given:
        if name in _INSTEAD:
            raise InputError(f"--slurm.{name} is not taken. Type {_INSTEAD[name]}")
        if name not in known:
            alias = _ALIASES.get(name)
            near = f" Did you mean {alias!r}?" if alias in known else did_you_mean(name, known)
            raise InputError(
                f"--slurm.{name} is not a parameter of Slurm that submitit knows.{near} There are: {', '.join(known)}. "
                f"Others go through --slurm.additional_parameters \"{{'{name.replace('_', '-')}': VALUE}}\""
            )
    found = dict(given)
    for name in ("time", "signal_delay_s"):
        if name in found:
            _check_whole(name, found[name])
    if "setup" in found:
        lines = found["setup"]
        found["setup"] = [lines] if isinstance(lines, str) else list(lines)
    if not isinstance(found.get("additional_parameters", {}), Mapping):
        raise InputError("--slurm.additional_parameters takes a dict: \"{'reservation': 'NAME'}\"")
    return found


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        unit = "minutes" if name == "time" else "seconds"
        raise InputError(f"--slurm.{name} takes a whole number of {unit}, at least 1; found {value!r}.")


def _count(devices: Any) -> int | None:
    """Devices of a node: a number, None for all."""
    if devices is None:
        return 1
    text = str(devices).strip()
    if text in ("auto", "-1"):
        return None
    if isinstance(devices, bool) or not text.isdecimal() or int(text) < 1:
        raise InputError(
            f"--devices {devices}: on a cluster it is the number of processes on each node, and Slurm chooses the "
            "GPUs: --devices 4, or --devices auto for one for each GPU of a node"
        )
    return int(text)


def _wants_gpus(accelerator: Any) -> bool | None:
    """Whether GPUs are asked for; None where the partition decides."""
    name = accelerator if isinstance(accelerator, str) else type(accelerator).__name__
    name = name.lower().removesuffix("accelerator")
    if name not in ("auto", "gpu", "cuda", "cpu"):
        raise InputError(f"--accelerator {name} is not for a cluster. Type --accelerator auto, gpu, cuda or cpu")
    return {"auto": None, "cpu": False}.get(name, True)


def _asked_of_queue(
    nodes: int, count: int | None, wants_gpus: bool | None, given: dict[str, Any], requeues: int
) -> Asked:
    known = partitions()
    chosen = named(known, str(given.get("partition", "")))
    if wants_gpus and not any(item.most_gpus for item in chosen):
        names = ", ".join(item.name for item in chosen)
        raise InputError(
            f"--accelerator gpu: the nodes of partition {names} have no GPUs as far as Slurm knows. "
            f"{with_gpus(known)}. Type --slurm.partition NAME, or --accelerator cpu"
        )
    possible: list[Asked] = []
    refusals: list[InputError] = []
    for partition in chosen:  # of several, Slurm takes the first that can
        try:
            possible.append(_asked_of_partition(partition, nodes, count, wants_gpus, given, requeues))
        except InputError as error:
            refusals.append(error)
    if not possible:
        raise refusals[0]
    return possible[0]


def _asked_of_partition(
    partition: Partition, nodes: int, count: int | None, wants_gpus: bool | None, given: dict[str, Any], requeues: int
) -> Asked:
    has_gpus = bool(partition.most_gpus) and wants_gpus is not False
    processes = (partition.gpus_of(nodes) if has_gpus else 1) if count is None else count
    gpus_asked = processes if has_gpus else 0
    in_gres = gpus(str(given.get("gres", "")))
    if in_gres and in_gres != gpus_asked:
        raise InputError(
            f"--slurm.gres {given['gres']} asks for {in_gres} GPUs a node and --devices for {gpus_asked}: "
            f"type --devices {in_gres}"
        )
    partition.check(nodes, gpus_asked)
    return Asked(nodes, processes, gpus_asked, {**given, **_times(partition, given)}, requeues=requeues)


def _times(partition: Partition, given: Mapping[str, Any]) -> dict[str, Any]:
    """How long before its time limit the job is told.

    Raises:
        InputError: the limit is beyond the partition's, or shorter than that.
    """
    limit_s = int(given.get("time", 0)) * 60 or partition.time_s
    if partition.longest_s != UNLIMITED and limit_s > partition.longest_s:
        longest = partition.longest_s // 60
        raise InputError(
            f"--slurm.time {given['time']}: partition {partition.name} allows {longest} minutes at most. "
            f"Type --slurm.time {longest}, or another --slurm.partition"
        )
    delay_s = given.get("signal_delay_s")
    if delay_s is not None and limit_s != UNLIMITED and delay_s >= limit_s:
        raise InputError(
            f"--slurm.signal_delay_s {delay_s}: the job is told so many seconds before its time limit, which is "
            f"{limit_s} seconds. Type fewer, or a longer --slurm.time"
        )
    if delay_s is None:  # of a short limit, a quarter
        delay_s = SIGNAL_DELAY_S if limit_s == UNLIMITED else min(SIGNAL_DELAY_S, limit_s // 4)
    return {"signal_delay_s": delay_s}


def _asked_inside(
    nodes: int, count: int | None, wants_gpus: bool | None, given: Mapping[str, Any], requeues: int
) -> Asked:
    held = allocation()
    if held is None:
        raise InputError(
            "--slurm.inside: this notebook is not inside of an allocation of Slurm (SLURM_JOB_ID is not set). Start "
            "Jupyter in one (salloc, or a job), or leave --slurm.inside out to submit a job"
        )
    if given:
        name = next(iter(given))
        raise InputError(f"--slurm.{name} is asked of a queue, and --slurm.inside has none. Leave one of them out")
    if nodes > len(held.hosts):
        raise InputError(
            f"--nodes {nodes}: the allocation {held.job} has {len(held.hosts)} ({', '.join(held.hosts)}). "
            f"Type --nodes {len(held.hosts)}"
        )
    if wants_gpus and not held.gpus:
        raise InputError(f"--accelerator gpu: the allocation {held.job} has no GPUs. Type --accelerator cpu")
    has_gpus = bool(held.gpus) and wants_gpus is not False
    processes = (held.gpus if has_gpus else 1) if count is None else count
    if has_gpus and processes > held.gpus:
        raise InputError(
            f"--devices {processes}: the allocation {held.job} has {held.gpus} on each node. Type --devices {held.gpus}"
        )
    return Asked(nodes, processes, processes if has_gpus else 0, {}, inside=True, requeues=requeues)


def _checks(folder: Path) -> list[str]:
    """Lines of a batch script that end it, with a code that says why, on a node that lacks what the run needs."""
    return [
        f"[ -d {shlex.quote(str(folder))} ] || exit {NO_FOLDER}",
        f"[ -x {shlex.quote(sys.executable)} ] || exit {NO_PYTHON}",
    ]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job that this process is in: Slurm would take some for those of the new one."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_OF_A_JOB)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _described(what: Asked) -> str:
    """What was asked for, in a line."""
    parts = [f"{what.nodes} nodes", f"{what.processes} processes a node"]
    parts += [f"{what.gpus} GPUs a node"] if what.gpus else []
    parts += [f"{name} {value}" for name, value in what.parameters.items() if name not in ("setup", "signal_delay_s")]
    return ", ".join(parts)
