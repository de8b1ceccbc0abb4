"""The devices that a run asks for: how many processes it takes, and how Lightning is told.

Asked of Lightning's own accelerators, which count GPUs without making a CUDA context. Starting the processes is in
`spawned`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import clusters
from ..errors import InputError, did_you_mean

_SINGLE_DEVICE_STRATEGIES = ("auto", "single_device", "single_tpu", "single_xla")
_DEVICE_NAMES = {"cuda": "GPU", "mps": "MPS device", "tpu": "TPU core"}


def processes(trainer: Mapping[str, Any], package: str) -> int:
    """Return how many processes Trainer's arguments ask for: one a device, 1 where they do not say.

    Args:
        trainer: Trainer's arguments; `accelerator`, `devices`, `num_nodes` and `strategy` are looked at.
        package: ``pytorch_lightning`` or ``lightning.pytorch``.

    Raises:
        InputError: Lightning would refuse them, or they ask for processes that Lightning starts itself.
    """
    nodes = trainer.get("num_nodes", 1)
    if nodes != 1:
        raise InputError(
            f"--num_nodes {nodes} is not available: a run here uses this machine only. "
            f"To use a cluster, type --nodes {nodes} --cluster slurm"
        )
    strategy = trainer.get("strategy", "auto")
    check_strategy(strategy, package)
    parallel_devices = getattr(strategy, "parallel_devices", None)  # a Strategy object can bring its own
    if parallel_devices:
        return len(parallel_devices)
    accelerator = _accelerator(trainer, package)
    count = len(accelerator.get_parallel_devices(_parse_devices(trainer, accelerator, package)))
    if count > 1 and _is_of_one_device(strategy, package) and strategy != "auto":
        raise InputError(
            f"{_strategy_option(strategy)} trains on one device, but --devices requests {count}. Remove one of them"
        )
    if count > 1 and accelerator.name() == "tpu":
        raise InputError(f"--devices requests {count} TPU cores, but a run can use only one. Type --devices 1")
    return count


def with_resolved_devices(trainer: Mapping[str, Any], package: str) -> dict[str, Any]:
    """Return Trainer's arguments with `devices` definite: the GPUs' indices, or the number of processes.

    What ``"auto"`` and -1 stand for depends on the process that asks, and without `devices` Lightning takes them all.

    Raises:
        InputError: as `processes`.
    """
    processes(trainer, package)
    if getattr(trainer.get("strategy"), "parallel_devices", None):
        return dict(trainer)
    return {**trainer, "devices": _parse_devices(trainer, _accelerator(trainer, package), package)}


def needs_processes(trainer: Mapping[str, Any], package: str) -> bool:
    """Whether a run takes processes of its own: several, or one under a strategy made for several.

    Raises:
        InputError: as `processes`.
    """
    return processes(trainer, package) > 1 or not _is_of_one_device(trainer.get("strategy", "auto"), package)


def with_ddp(trainer: Mapping[str, Any], ddp: bool | int, package: str = "pytorch_lightning") -> dict[str, Any]:
    """Return Trainer's arguments with what the option ``--ddp [N]`` stands for.

    Args:
        trainer: Trainer's arguments; a strategy for several processes stays as it was given.
        ddp: number of processes, or True for all GPUs, or for the devices that are given.
        package: Lightning package.

    Raises:
        InputError: there is no GPU for a bare ``--ddp``, or another argument says otherwise.
    """
    strategy = trainer.get("strategy", "auto")
    if strategy == "auto":
        strategy = "ddp"
    elif _is_of_one_device(strategy, package):
        raise InputError(
            f"--ddp trains in several processes, but {_strategy_option(strategy)} in one. Remove one of them"
        )
    arguments = {**trainer, "strategy": strategy}
    if ddp is True:
        if "devices" not in arguments:
            arguments["devices"] = _gpu_count(arguments, package)
        return arguments
    if ddp < 1:
        raise InputError(f"--ddp needs a positive number of processes, got {ddp}. Type --ddp 2")
    arguments.setdefault("devices", ddp)
    if arguments["devices"] != ddp and processes(arguments, package) != ddp:
        raise InputError(f"--ddp {ddp} and --devices {arguments['devices']} differ. Remove one of them")
    return arguments


def on_cluster(
    trainer: Mapping[str, Any],
    package: str,
    engine: clusters.Engine,
    parameters: Mapping[str, Any],
    nodes: int | None,
    ddp: bool | int,
) -> tuple[dict[str, Any], clusters.Resources]:
    """Return Trainer's arguments for ranks on nodes of a cluster, each with the same number; and what is requested.

    Args:
        trainer: Trainer's arguments.
        package: Lightning package.
        engine: of the cluster.
        parameters: of the engine.
        nodes: number of nodes, if it was given.
        ddp: the option ``--ddp``, as of `with_ddp`.

    Raises:
        InputError: the cluster cannot give what is asked for.
    """
    strategy, accelerator = trainer.get("strategy", "auto"), trainer.get("accelerator", "auto")
    check_strategy(strategy, package)
    count = trainer.get("devices", ddp if ddp is not True else "auto") or None
    resources = engine.resources(nodes or trainer.get("num_nodes", 1), count, accelerator, parameters)
    ranks = resources.nodes * resources.processes
    arguments = {**trainer, "num_nodes": resources.nodes, "devices": resources.processes}
    if accelerator == "auto":  # of the kernel's machine, it would say nothing of the nodes
        arguments["accelerator"] = "gpu" if resources.gpus else "cpu"
    if ranks > 1 and strategy == "auto":
        arguments["strategy"] = "ddp"
    if ranks == 1:
        arguments.setdefault("use_distributed_sampler", False)
    return arguments, resources


def check_cluster(cluster: str | None, nodes: int | None, parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what only a cluster can be asked for, or another one.

    Args:
        cluster: engine that the run is submitted to; None for this machine.
        nodes: number of nodes, if it was given.
        parameters: of each engine that has some.

    Raises:
        InputError: there is no ``--cluster``, or it is another engine's.
    """
    if cluster is None and nodes is not None:
        raise InputError(
            f"--nodes {nodes} needs a cluster. Type --nodes {nodes} --cluster slurm. On this machine, "
            "set the number of processes with --devices N"
        )
    for name, of_engine in parameters.items():
        if cluster is None:
            raise InputError(f"--{name}.{next(iter(of_engine))} has no effect without a cluster. Add --cluster {name}")
        if name != cluster:
            raise InputError(
                f"--{name}.{next(iter(of_engine))} is a parameter of {name}, but the run is submitted to "
                f"{cluster}. Leave it out, or type --cluster {name}"
            )


def _gpu_count(trainer: Mapping[str, Any], package: str) -> int:
    accelerator = _accelerator(trainer, package)
    if accelerator.name() != "cuda":
        raise InputError("--ddp uses all GPUs, but this machine has none. Type a number of processes: --ddp 2")
    count: int = accelerator.auto_device_count()
    return count


def _parse_devices(trainer: Mapping[str, Any], accelerator: Any, package: str) -> Any:
    """The devices as Lightning's accelerator reads them: a number, or the devices' indices."""
    devices = trainer.get("devices", 1)
    misconfiguration = importlib.import_module(f"{package}.utilities.exceptions").MisconfigurationException
    is_all = devices == "auto" or (accelerator.name() == "cpu" and str(devices).strip() == "-1")
    try:
        parsed = accelerator.parse_devices(accelerator.auto_device_count() if is_all else devices)
    except (TypeError, ValueError, misconfiguration) as error:
        raise _refusal(devices, accelerator) from error
    if not parsed:
        raise _refusal(devices, accelerator)
    return parsed


def _refusal(devices: Any, accelerator: Any) -> InputError:
    if accelerator.name() == "cpu":
        return InputError(f"--devices {devices} is not a number of processes, which the CPU needs. Type --devices 2")
    count = accelerator.auto_device_count()
    kind = _DEVICE_NAMES.get(accelerator.name(), accelerator.name())
    available = f"has 1 {kind} (index 0)" if count == 1 else f"has {count} {kind}s (indices 0 to {count - 1})"
    return InputError(
        f"--devices {devices} is not available: this machine {available}. "
        f"Type --devices auto to use all of them, or --accelerator cpu to train on the CPU"
    )


def _accelerator(trainer: Mapping[str, Any], package: str) -> Any:
    """The class of the accelerator that Lightning would choose."""
    registry = importlib.import_module(f"{package}.accelerators").AcceleratorRegistry
    accelerators = {name: registry[name]["accelerator"] for name in sorted(registry.available_accelerators())}
    requested = getattr(trainer.get("strategy"), "accelerator", None) or trainer.get("accelerator", "auto")
    if not isinstance(requested, str):
        candidates = [type(requested)]
        requested = type(requested).__name__
    elif requested in ("auto", "gpu"):  # in Lightning's order
        candidates = [accelerators[name] for name in ("tpu", "mps", "cuda") if requested == "auto" or name != "tpu"]
        candidates += [accelerators["cpu"]] if requested == "auto" else []
    elif requested in accelerators:
        candidates = [accelerators[requested]]
    else:
        names = ["auto", "gpu", *accelerators]
        raise InputError(
            f"--accelerator {requested} is not one of: {', '.join(names)}.{did_you_mean(requested, names)}"
        )
    for accelerator in candidates:
        if accelerator.is_available():
            return accelerator
    available = ", ".join(name for name, accelerator in accelerators.items() if accelerator.is_available())
    raise InputError(
        f"--accelerator {requested} is not available: this machine has {available}. Type --accelerator auto"
    )


def check_strategy(strategy: Any, package: str) -> None:
    """Check that a strategy is Lightning's, and starts no processes by itself.

    Raises:
        InputError: it does not, or does.
    """
    method = getattr(strategy, "_start_method", None)
    if isinstance(strategy, str):
        registry = importlib.import_module(f"{package}.strategies").StrategyRegistry
        if strategy != "auto" and strategy not in registry:
            names = ["auto", *registry.available_strategies()]
            near = did_you_mean(strategy, names) or f" Available: {', '.join(names)}"
            raise InputError(f"--strategy {strategy} is not a Lightning strategy.{near}")
        method = registry[strategy]["init_params"].get("start_method") if strategy != "auto" else None
    if method not in (None, "popen"):
        raise InputError(
            f"{_strategy_option(strategy)} starts its own processes, which does not work in a notebook. "
            "Type --strategy ddp: its processes are started for you"
        )


def _is_of_one_device(strategy: Any, package: str) -> bool:
    if isinstance(strategy, str):
        return strategy in _SINGLE_DEVICE_STRATEGIES
    return isinstance(strategy, importlib.import_module(f"{package}.strategies").SingleDeviceStrategy)


def _strategy_option(strategy: Any) -> str:
    return f"--strategy {strategy if isinstance(strategy, str) else type(strategy).__name__}"


@dataclass(frozen=True)
class LaunchPlan:
    """How a job's processes are started.

    Attributes:
        ranks: number of them.
        background: whether the call returns at once, and the run outlives the kernel.
        method: ``forkserver`` or ``spawn``.
        cluster: what is requested from an engine; None for processes of this machine.
    """

    ranks: int
    background: bool
    method: str
    cluster: clusters.Resources | None = None

    @property
    def queues(self) -> bool:
        """Whether they are a job of their own, which waits in a queue."""
        return self.cluster is not None and not self.cluster.inside
