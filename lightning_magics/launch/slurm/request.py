"""What a run requests from a Slurm cluster, checked before anything is submitted.

What the cluster has is in `partitions`, the submission in `submission`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ...clusters import Resources
from ...errors import InputError, MissingPackage, did_you_mean
from ...formats import plural
from .allocation import allocation
from .client import is_installed
from .partitions import UNLIMITED, Partition, gpu_count, gpu_partitions, parse_duration, partitions, partitions_named

OWN_PARAMETERS = ("inside", "requeues")  # parameters that are this package's, beside submitit's
SIGNAL_DELAY_S = 90  # submitit's own: how long before the time limit a job is told
# Parameters of submitit that are not taken, and why, or what is typed in their place.
_UNSUPPORTED = {
    "nodes": "type --nodes N",
    **dict.fromkeys(("ntasks_per_node", "gpus_per_node", "gpus_per_task", "num_gpus"), "type --devices N"),
    "array_parallelism": "a run is a single job, not an array",
    "use_srun": "the processes of a run are started by srun",
    "srun_args": "set them as environment variables instead: --slurm.setup 'export SRUN_CPUS_PER_TASK=4'",
}
_ALIASES = {"timeout_min": "time", "mem_gb": "mem", "name": "job_name", "tasks_per_node": "ntasks_per_node"}


def resources(nodes: int, devices: Any, accelerator: Any, parameters: Mapping[str, Any]) -> Resources:
    """Check what a run requests from Slurm.

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
        raise MissingPackage("submitit", "--cluster slurm", "submitit")
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise InputError(f"--nodes takes a whole number of at least 1; found {nodes!r}.")
    specified = {name: value for name, value in parameters.items() if value is not None}
    inside, requeues = _own_parameters(specified)
    parameters = _check_parameters({name: value for name, value in specified.items() if name not in OWN_PARAMETERS})
    if not is_installed("srun" if inside else "sbatch"):
        raise InputError(
            f"--cluster slurm: {'srun' if inside else 'sbatch'} was not found on this machine's PATH. Start the "
            "notebook on a login node of the cluster or inside a job, or run `module load slurm` before starting it"
        )
    wants_gpus = _wants_gpus(accelerator)
    if inside:
        return _allocation_resources(
            nodes, _device_count(devices), wants_gpus, [name for name in specified if name != "inside"]
        )
    return _queue_resources(nodes, _device_count(devices), wants_gpus, parameters, requeues)


def parameter_names() -> list[str]:
    """Names of all parameters that a run takes, for completion; no name where submitit is not installed."""
    if importlib.util.find_spec("submitit") is None:
        return []
    return sorted({*_parameters(), *OWN_PARAMETERS} - set(_UNSUPPORTED))


def partition_names(timeout_s: float = 1.0) -> list[str]:
    """Names of the partitions, for completion; none where no Slurm answers in time."""
    try:
        return [item.name for item in partitions(timeout_s)]
    except InputError:
        return []


def _parameters() -> Mapping[str, Any]:
    """All parameters that submitit takes for Slurm, with their defaults."""
    from submitit.slurm import slurm as of_submitit

    defaults: Mapping[str, Any] = of_submitit._get_default_parameters()
    return defaults


def _own_parameters(specified: Mapping[str, Any]) -> tuple[bool, int]:
    """This package's own parameters: inside, and the number of requeues."""
    inside, requeues = specified.get("inside", False), specified.get("requeues", 3)
    if not isinstance(inside, bool):
        raise InputError(f"--slurm.inside takes true or false; found {inside!r}.")
    if isinstance(requeues, bool) or not isinstance(requeues, int) or requeues < 0:
        raise InputError(f"--slurm.requeues takes a whole number of at least 0; found {requeues!r}.")
    return inside, requeues


def _check_parameters(specified: Mapping[str, Any]) -> dict[str, Any]:
    """Submitit's parameters as it takes them.

    Raises:
        InputError: one is unknown, stands for another option, or has a value that it cannot have.
    """
    available = parameter_names()
    for name in specified:
        if name in _UNSUPPORTED:
            raise InputError(f"--slurm.{name} is not supported: {_UNSUPPORTED[name]}")
        if name not in available:
            alias = _ALIASES.get(name)
            near = f" Did you mean {alias!r}?" if alias in available else did_you_mean(name, available)
            raise InputError(
                f"--slurm.{name} is not a submitit parameter of Slurm.{near} Available: {', '.join(available)}. "
                f"For others, type --slurm.additional_parameters \"{{'{name.replace('_', '-')}': VALUE}}\""
            )
    parameters = dict(specified)
    if isinstance(parameters.get("time"), str):  # as Slurm writes it: 2:00:00
        parameters["time"] = -(-(parse_duration(parameters["time"]) or 0) // 60) or parameters["time"]
    for name in ("time", "signal_delay_s", "cpus_per_task"):
        if name in parameters:
            _check_whole(name, parameters[name])
    for name in {"setup", "teardown"} & parameters.keys():
        parameters[name] = [parameters[name]] if isinstance(parameters[name], str) else list(parameters[name])
    if not isinstance(parameters.get("additional_parameters", {}), Mapping):
        raise InputError("--slurm.additional_parameters takes a dict: \"{'reservation': 'NAME'}\"")
    return parameters


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        unit = {"time": " of minutes, or 2:00:00", "signal_delay_s": " of seconds"}.get(name, "")
        raise InputError(f"--slurm.{name} takes a whole number{unit}; found {value!r}.")


def _device_count(devices: Any) -> int | None:
    """Devices of a node: a number, None for all."""
    if devices is None:
        return 1
    text = str(devices).strip()
    if text in ("auto", "-1"):
        return None
    if isinstance(devices, bool) or not text.isdecimal() or int(text) < 1:
        raise InputError(
            f"--devices {devices}: on a cluster, --devices is the number of processes per node; Slurm chooses the "
            "GPUs. Type --devices 4, for example, or --devices auto for one per GPU"
        )
    return int(text)


def _wants_gpus(accelerator: Any) -> bool | None:
    """Whether GPUs are asked for; None where the partition decides."""
    name = accelerator if isinstance(accelerator, str) else type(accelerator).__name__
    name = name.lower().removesuffix("accelerator")
    if name not in ("auto", "gpu", "cuda", "cpu"):
        raise InputError(
            f"--accelerator {name} is not supported on a cluster. Type --accelerator auto, gpu, cuda or cpu"
        )
    return {"auto": None, "cpu": False}.get(name, True)


def _queue_resources(
    nodes: int, count: int | None, wants_gpus: bool | None, parameters: dict[str, Any], requeues: int
) -> Resources:
    available = partitions()
    chosen = partitions_named(available, str(parameters.get("partition", "")))
    if wants_gpus and not any(item.most_gpus for item in chosen):
        names = ", ".join(item.name for item in chosen)
        raise InputError(
            f"--accelerator gpu: according to Slurm, the nodes of partition {names} have no GPUs. "
            f"{gpu_partitions(available)}. Type --slurm.partition NAME, or --accelerator cpu"
        )
    possible: list[Resources] = []
    refusals: list[InputError] = []
    for partition in chosen:  # of several, Slurm takes the first that can
        try:
            possible.append(_partition_resources(partition, nodes, count, wants_gpus, parameters, requeues))
        except InputError as error:
            refusals.append(error)
    if not possible:
        raise refusals[0]
    return possible[0]


def _partition_resources(
    partition: Partition,
    nodes: int,
    count: int | None,
    wants_gpus: bool | None,
    parameters: dict[str, Any],
    requeues: int,
) -> Resources:
    has_gpus = bool(partition.most_gpus) and wants_gpus is not False
    processes = (partition.gpus_of(nodes) if has_gpus else 1) if count is None else count
    gpus_per_node = processes if has_gpus else 0
    in_gres = gpu_count(str(parameters.get("gres", "")))
    if in_gres and in_gres != gpus_per_node:
        raise InputError(
            f"--slurm.gres {parameters['gres']} requests {plural(in_gres, 'GPU')} per node, but "
            f"--devices {gpus_per_node}. Type --devices {in_gres}"
        )
    partition.check(nodes, gpus_per_node, processes, parameters.get("cpus_per_task", 1))
    return Resources(
        "slurm",
        nodes,
        processes,
        gpus_per_node,
        {**parameters, **_signal_delay(partition, parameters)},
        requeues=requeues,
    )


def _signal_delay(partition: Partition, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """How long before its time limit the job is told.

    Raises:
        InputError: the limit is beyond the partition's, or shorter than that.
    """
    limit_s = int(parameters.get("time", 0)) * 60 or partition.time_s
    if partition.longest_s != UNLIMITED and limit_s > partition.longest_s:
        longest = partition.longest_s // 60
        raise InputError(
            f"--slurm.time {parameters['time']}: partition {partition.name} allows at most {longest} minutes. "
            f"Type --slurm.time {longest}, or another --slurm.partition"
        )
    delay_s = parameters.get("signal_delay_s")
    if delay_s is not None and limit_s != UNLIMITED and delay_s >= limit_s:
        raise InputError(
            f"--slurm.signal_delay_s {delay_s}: the job cannot be signalled {delay_s} seconds before its time limit of "
            f"{limit_s} seconds. Type a smaller value, or a longer --slurm.time"
        )
    if delay_s is None:  # of a short limit, a quarter
        delay_s = SIGNAL_DELAY_S if limit_s == UNLIMITED else min(SIGNAL_DELAY_S, limit_s // 4)
    return {"signal_delay_s": delay_s}


def _allocation_resources(
    nodes: int, count: int | None, wants_gpus: bool | None, queue_parameters: Sequence[str]
) -> Resources:
    current = allocation()
    if current is None:
        raise InputError(
            "--slurm.inside: this notebook is not inside a Slurm allocation (SLURM_JOB_ID is not set). Start Jupyter "
            "inside one (salloc, or a job), or remove --slurm.inside to submit a job"
        )
    if queue_parameters:
        raise InputError(
            f"--slurm.{queue_parameters[0]} applies to a new job, but --slurm.inside submits none. Remove one of them"
        )
    if nodes > len(current.hosts):
        raise InputError(
            f"--nodes {nodes}: allocation {current.job} has {plural(len(current.hosts), 'node')} "
            f"({', '.join(current.hosts)}). Type --nodes {len(current.hosts)}"
        )
    if wants_gpus and not current.gpus:
        raise InputError(f"--accelerator gpu: allocation {current.job} has no GPUs. Type --accelerator cpu")
    has_gpus = bool(current.gpus) and wants_gpus is not False
    processes = (current.gpus if has_gpus else 1) if count is None else count
    if has_gpus and processes > current.gpus:
        raise InputError(
            f"--devices {processes}: allocation {current.job} has {current.gpus} per node. "
            f"Type --devices {current.gpus}"
        )
    if current.cpus is not None and processes > current.cpus:
        raise InputError(
            f"--devices {processes}: allocation {current.job} has {current.cpus} CPUs on this node, and each process "
            f"needs one. Type --devices {current.cpus}, or request more: salloc --cpus-per-task {processes}"
        )
    return Resources("slurm", nodes, processes, processes if has_gpus else 0, inside=True)
