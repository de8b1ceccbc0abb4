"""Slurm as an engine."""
# ruff: noqa: D102 -- the Protocol describes them

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ...clusters import Engine, Resources, State
from ...runs.folder import RunFolder
from ..supervision import watch_sigterm
from . import jobs, nodes, submission
from .request import parameter_names, partition_names, resources


class Slurm(Engine):
    """Runs as jobs of a Slurm cluster, submitted through submitit."""

    name = "slurm"
    about = "a Slurm cluster, through submitit: each run is a job, whose ranks are started by `srun`"
    help = (
        ("NAME VALUE", "a parameter of submitit: partition, time (minutes), mem …"),
        ("setup LINE", "a line to run on the node first, such as 'module load cuda'; may be repeated"),
        ("inside", "run in the notebook's own allocation, without queueing"),
        ("requeues N", "maximum number of times to requeue a job after a node failure (default 3)"),
    )
    flags = ("inside", "exclusive", "stderr_to_stdout")
    lines = ("setup", "teardown")

    def parameter_names(self) -> list[str]:
        return parameter_names()

    def parameter_values(self, name: str) -> list[str]:
        return partition_names() if name == "partition" else []

    def defaults(self, settings: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
        return dict(typed) if typed.get("inside") else {**settings, **typed}  # which are of a queue

    def resources(self, nodes: int, devices: Any, accelerator: Any, parameters: Mapping[str, Any]) -> Resources:
        return resources(nodes, devices, accelerator, parameters)

    def submit(self, resources: Resources, folder: Path) -> str:
        place = (str(folder), resources.nodes, resources.processes, resources.requeues)
        run = RunFolder(folder)
        return submission.submit(resources, run.engine_path(self.name), run.name, nodes.job, *place)

    def state(self, job: str) -> State:
        return jobs.state(job)

    def states(self, wanted: Iterable[str]) -> dict[str, State]:
        return jobs.states(wanted)

    def why(self, state: State, folder: Path) -> str:
        return jobs.why(state, folder)

    def cancel(self, job: str) -> None:
        jobs.cancel(job)

    def by_hand(self, job: str, what: Literal["cancel", "show"]) -> str:
        return f"scancel {job}" if what == "cancel" else f"squeue --jobs {job}"

    def supervise(self, resources: Resources, folder: Path, lifeline: int | None) -> None:
        run = RunFolder(folder)
        nodes.NodeRanks(run, resources.nodes, resources.processes, watch_sigterm(), lifeline).run()
