"""What a supervisor makes of srun's words; that srun says them is shown in test_cluster."""

import subprocess
import sys
import time

import pytest

from lightning_magics.clusters import State
from lightning_magics.errors import RunError
from lightning_magics.launch import cluster_job
from lightning_magics.launch.slurm import jobs
from lightning_magics.launch.slurm.nodes import NodeRanks, _ranks
from lightning_magics.launch.supervision import CANCELLED
from lightning_magics.runs.folder import RunFolder
from lightning_magics.transport import exceptions
from lightning_magics.transport.stop_control import StopFile


@pytest.fixture
def ranks(tmp_path):
    folder = RunFolder(tmp_path)
    folder.events_path.touch()
    return NodeRanks(folder, nodes=2, processes=2, sigterm_fd=0)


def test_ranks_are_read_from_slurms_list_of_tasks():
    assert _ranks("3") == [3]
    assert _ranks("0-2,5,7-8") == [0, 1, 2, 5, 7, 8]


@pytest.mark.parametrize(
    ("said", "rank", "told"),
    [
        (
            "srun: error: n2: task 3: Killed",
            3,
            "rank 3 of 4 was killed by SIGKILL (often because the machine ran out of memory), on node n2",
        ),
        ("srun: error: n1: tasks 0-1: Exited with exit code 3", 1, "rank 1 of 4 exited with code 3, on node n1"),
        (
            "srun: error: n2: task 2: Segmentation fault (core dumped)",
            2,
            "rank 2 of 4 was killed by SIGSEGV, on node n2",
        ),
        (
            "srun: error: n2: task 2: Out Of Memory",
            2,
            "rank 2 of 4 was killed by SIGKILL: the machine ran out of memory, on node n2",
        ),
        ("srun: error: n2: task 2: Something new", 2, "rank 2 of 4 ended: Something new, on node n2"),
        (
            "srun: error: task 3 launch failed: Error configuring interconnect",
            3,
            "rank 3 of 4 could not be started: Error configuring interconnect",
        ),
    ],
)
def test_how_a_rank_ended_is_told_with_its_node(ranks, said, rank, told):
    ranks._note(said)
    assert ranks._deaths[rank] == told


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (98, f"the notebook's Python was not found on node n2: {sys.executable}. Use an environment on a file system"),
        (97, "the run folder was not found on node n2: "),
    ],
)
def test_what_a_node_lacks_is_said(ranks, code, told):
    ranks._note(f"srun: error: n2: task 2: Exited with exit code {code}")
    assert ranks._deaths[2].startswith(told)


def test_a_peer_is_lost_where_others_say_so_and_nobody_knows_what_became_of_it(ranks):
    assert not ranks._peer_is_lost()
    for rank in range(3):
        exceptions.save(RuntimeError("Connection closed by peer [10.0.0.2]:1234"), ranks.folder.error_path(rank), rank)
    assert ranks._peer_is_lost()
    ranks._note("srun: error: n2: task 3: Killed")
    assert not ranks._peer_is_lost()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-25T16:29:02 DUE TO PREEMPTION ***",
            "PREEMPTION",
        ),
        ("slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-25T16:29:02 ***", ""),
    ],
)
def test_the_schedulers_own_end_of_the_ranks_is_heard(ranks, said, cause):
    assert ranks._cause is None
    ranks._note(said)
    assert ranks._cause == cause


def test_what_is_ended_here_was_not_the_scheduler(ranks):
    ranks.end()
    ranks._note("slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-25T16:29:02 ***")
    assert ranks._cause is None
    assert ranks._scheduler_outcome("") == CANCELLED


def test_a_node_that_does_not_answer_is_lost_and_the_ranks_of_the_others_are_not_cancelled(ranks):
    ranks._note("srun: error: Task launch for StepId=1.0 failed on node n2: Job credential expired")
    ranks._note("slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-25T16:29:02 ***")
    assert ranks._cause is None
    assert ranks._scheduler_outcome("NODE FAILURE") == "node n2 did not start its processes (Job credential expired)"


def test_only_sigterm_ends_and_other_signals_do_not(tmp_path):
    """Such as SIGCHLD, which torch handles in Python as soon as a DataLoader has workers."""
    code = (
        "import os, signal, sys\n"
        "from lightning_magics.launch.supervision import received_sigterm, watch_sigterm\n"
        "sigterm_fd = watch_sigterm()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: None)\n"
        "for number in (signal.SIGCHLD, signal.SIGUSR2):\n"
        "    os.kill(os.getpid(), number)\n"
        "    assert not received_sigterm(sigterm_fd)\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert received_sigterm(sigterm_fd) or received_sigterm(sigterm_fd)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_job_that_cannot_be_cancelled_is_tried_again_and_named(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.events_path.touch()
    folder.write_submission("slurm", "17")
    StopFile(folder.control_path, make=True).ask(now=True)
    tried, shown = [], []

    def cancel(job):
        tried.append(job)
        if len(tried) < 2:
            raise RunError("Slurm did not cancel job 17: Socket timed out")

    monkeypatch.setattr(jobs, "state", lambda job: State("running", "RUNNING"))
    monkeypatch.setattr(jobs, "cancel", cancel)
    monkeypatch.setattr(cluster_job, "_QUEUE_S", 0.05)
    watched = cluster_job.ClusterJob(folder, shown.append)
    assert watched.goes_on()
    assert watched.goes_on()
    assert tried == ["17"]  # not at once again
    time.sleep(0.1)
    assert watched.goes_on()
    assert watched.goes_on()
    assert tried == ["17", "17"]
    assert [notice.text for notice in shown] == [
        "Slurm did not cancel job 17: Socket timed out. To cancel the job yourself: scancel 17"
    ]
