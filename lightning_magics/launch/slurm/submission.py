"""Runs as jobs of a Slurm cluster: the submission, through submitit.

What a run may request is in `request`, the state of jobs in `jobs`. The processes of a job are started on its nodes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...clusters import Resources
from ...errors import InputError
from ...formats import plural
from ..rank import variables
from .jobs import NO_FOLDER, NO_PYTHON
from .partitions import gpu_count
from .request import SIGNAL_DELAY_S

_CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS")  # no variables of a job
# A shell that goes on after the command, and passes on the signal that Slurm sends to the shell alone.
_SUPERVISED = (
    """supervised() { trap 'kill -USR2 $!' USR2; trap : TERM; "$@" & """
    "until wait $!; do code=$?; kill -0 $! 2>/dev/null || return $code; done; }"
)


def submit(resources: Resources, folder: Path, name: str, function: Callable[..., Any], *arguments: Any) -> str:
    """Submit a job that calls a function on its first node; return the job's id.

    The process that calls it gets SIGUSR2 before the time limit, and SIGTERM when the job is cancelled or gives way:
    the batch script becomes that process, or where there are lines to run after it, passes the signal on.

    Args:
        resources: that it requests.
        folder: of submitit's own files: script, pickle and logs; on a file system that the nodes see.
        name: of the job.
        function: is sent with `arguments` by pickle.
        arguments: of the function.

    Raises:
        InputError: Slurm refuses it.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(resources, folder.absolute(), name)
    try:
        with _without_job_variables(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's words too
            return str(executor.submit(function, *arguments).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        words = " ".join(str(error).replace("sbatch: error: ", "").split())
        words = words.removeprefix("Batch job submission failed: ")
        raise InputError(
            f"Slurm rejected the job: {words or 'sbatch failed'}. Requested: {_description(resources)}"
        ) from error


def _executor(resources: Resources, folder: Path, name: str) -> Any:
    """Submitit's, with all that the batch script says."""
    from submitit import SlurmExecutor

    parameters = {"job_name": name, "time": None, **resources.parameters}  # None leaves the time limit to the partition
    setup = [*parameters.pop("setup", ()), *_check_lines(folder)]
    delay_s = parameters.get("signal_delay_s", SIGNAL_DELAY_S)
    forced = {"signal": f"B:USR2@{delay_s}", "requeue": True, **parameters.pop("additional_parameters", {})}
    run = "exec"
    if "teardown" in parameters:
        run = "supervised"
        setup.append(_SUPERVISED)
        parameters["teardown"] = ["code=$?", *parameters["teardown"], "exit $code"]
    if resources.gpus and not gpu_count(str(parameters.get("gres", ""))):  # which may ask for them by their kind
        parameters["gpus_per_node"] = resources.gpus
    executor = SlurmExecutor(folder, python=f"{run} {shlex.quote(sys.executable)}")
    executor.update_parameters(
        nodes=resources.nodes,
        ntasks_per_node=resources.processes,
        setup=setup,
        use_srun=False,
        additional_parameters=forced,
        **parameters,
    )
    return executor


def _check_lines(folder: Path) -> list[str]:
    """Lines of a batch script that end it, with a code that says why, on a node that lacks what the run needs.

    Signals of the time limit are not heard before Python hears them: the shell would end.
    """
    return [
        "trap '' USR2",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables(sys.path).items()),
        f"[ -d {shlex.quote(str(folder))} ] || exit {NO_FOLDER}",
        f"[ -x {shlex.quote(sys.executable)} ] || exit {NO_PYTHON}",
    ]


@contextlib.contextmanager
def _without_job_variables() -> Iterator[None]:
    """Without the variables of a job that this process is in: Slurm would take some for those of the new one."""
    names = [name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name not in _CLUSTER_VARIABLES]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _description(resources: Resources) -> str:
    """What was requested, in a line."""
    parts = [plural(resources.nodes, "node"), f"{plural(resources.processes, 'process')} on each"]
    parts += [f"{plural(resources.gpus, 'GPU')} on each"] if resources.gpus else []
    parts += [
        f"{name} {value}"
        for name, value in resources.parameters.items()
        if name not in ("setup", "teardown", "signal_delay_s")
    ]
    return ", ".join(parts)
