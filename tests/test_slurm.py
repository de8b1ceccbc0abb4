"""Slurm itself, asked by `slurm`: two hosts with its daemons."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import cluster as clusters
import pytest

from lightning_magics import slurm


@pytest.fixture
def login(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> clusters.Cluster:
    """This process finds Slurm's commands, as on a login node."""
    monkeypatch.setenv("PATH", f"{cluster.commands}:/usr/bin:/bin")
    return cluster


def wait(done: Callable[[], object], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_submitted_function_runs_on_the_first_node_and_ends(login: clusters.Cluster, tmp_path: Path) -> None:
    said = tmp_path / "said"
    what = slurm.asked(2, 2, "auto", {"partition": "main", "time": 1, "setup": "export SAID=hello"})
    assert (what.nodes, what.processes, what.gpus) == (2, 2, 0)
    command = f"echo $(hostname) $SAID $SLURM_NNODES $SLURM_NTASKS_PER_NODE > {said}"
    job = slurm.submit(what, tmp_path / "slurm", "Net", os.system, command)
    wait(lambda: slurm.state(job).kind == "ended")
    assert slurm.state(job).word == "COMPLETED"
    assert said.read_text() == "n1 hello 2 2\n"
    script = next((tmp_path / "slurm").glob("*_submission.sh")).read_text()
    assert "#SBATCH --signal=B:USR2@15" in script
    assert "#SBATCH --requeue" in script
    assert "#SBATCH --time=1\n" in script
