"""Slurm itself, asked by `submission`: two hosts with its daemons."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster as clusters
import pytest

from lightning_magics.clusters import Resources, State
from lightning_magics.errors import InputError, MissingPackage, RunError
from lightning_magics.launch.slurm import allocation, client, jobs, partitions, request, submission
from lightning_magics.launch.slurm.engine import Slurm
from lightning_magics.launch.slurm.request import resources

BIN = Path(sys.executable).parent


@pytest.fixture
def login(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> clusters.Cluster:
    """This process finds Slurm's commands, as on a login node."""
    monkeypatch.setenv("PATH", f"{cluster.commands}:{os.environ['PATH']}")
    return cluster


@pytest.fixture
def job(login: clusters.Cluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Submits shell commands as jobs, and cancels those that are left."""
    submitted: list[str] = []

    def submit(command: str, nodes: int = 1, **parameters: Any) -> str:
        what = resources(nodes, 1, "auto", parameters)
        submitted.append(submission.submit(what, tmp_path / "slurm", "Net", os.system, command))
        return submitted[-1]

    yield submit
    for left in submitted:
        jobs.cancel(left)
    until(lambda: all(state.kind == "ended" for state in jobs.states(submitted).values()))


def until(done: Callable[[], object], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def ended(job: str) -> State:
    until(lambda: jobs.state(job).kind == "ended")
    return jobs.state(job)


def test_a_submitted_function_runs_on_the_first_node_and_ends(login: clusters.Cluster, tmp_path: Path) -> None:
    said = tmp_path / "said"
    what = resources(2, 2, "auto", {"partition": "main", "time": "0:30", "setup": "export SAID=hello"})
    assert (what.nodes, what.processes, what.gpus) == (2, 2, 0)
    command = f"echo $(hostname) $SAID $SLURM_NNODES $SLURM_NTASKS_PER_NODE > {said}"
    job = submission.submit(what, tmp_path / "slurm", "Net", os.system, command)
    assert ended(job).word == "COMPLETED"
    assert jobs.why(jobs.state(job), tmp_path) == "the job has ended"
    assert said.read_text() == "n1 hello 2 2\n"
    script = (tmp_path / "slurm" / f"{job}_submission.sh").read_text()
    assert "#SBATCH --signal=B:USR2@15\n" in script
    assert "#SBATCH --requeue\n" in script
    assert "#SBATCH --time=1\n" in script


def test_jobs_that_wait_say_why_and_at_which_place(
    login: clusters.Cluster, job: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with login.filled():
        first, second = job("sleep 60", 2, time=2), job("sleep 60", time=2)
        until(lambda: jobs.states([first])[first].start)
        found = jobs.states([first, second, "4242"])
        assert set(found) == {first, second}
        assert (found[first].kind, found[first].word) == ("queued", "PENDING")
        assert found[first].reason == "waiting for resources (Resources)"
        assert (found[first].position, found[first].waiting) == (1, 2)
        assert (found[second].position, found[second].waiting) == (2, 2)
        assert 0 < (found[first].start or 0) - time.time() < 600
        jobs.cancel(second)
        assert jobs.why(ended(second), Path()) == "the job was cancelled"
    until(lambda: jobs.state(first).kind == "running")
    assert jobs.state(first).nodes == "n[1-2]"


def test_a_job_gives_way_to_one_of_higher_priority_and_waits_again(
    login: clusters.Cluster, job: Callable[..., str]
) -> None:
    ours = job("sleep 60", 2)
    until(lambda: jobs.state(ours).kind == "running")
    with login.filled("urgent"):
        until(lambda: jobs.state(ours).kind == "queued")
        state = jobs.state(ours)
        assert (state.word, state.restarts) == ("PENDING", 1)
        assert state.reason == "requeued; it can start again in a moment (BeginTime)"


def test_a_job_can_be_put_back_into_the_queue(job: Callable[..., str]) -> None:
    ours = job("sleep 60")
    until(lambda: jobs.state(ours).kind == "running")
    jobs.requeue(ours)
    until(lambda: jobs.state(ours).kind == "queued")
    assert jobs.state(ours).restarts == 1
    with pytest.raises(RunError, match=r"^Slurm did not requeue job 4242: Invalid job id specified"):
        jobs.requeue("4242")


def test_how_a_job_ended_is_told(login: clusters.Cluster) -> None:
    failed, killed = login.submit(command="exit 3"), login.submit(command="kill -9 $$")
    assert (ended(failed).word, ended(failed).exit_code) == ("FAILED", 3)
    assert re.fullmatch(r"the job ended with exit code 3 on n\d \(FAILED\)", jobs.why(ended(failed), Path()))
    assert ended(killed).signal == 9
    assert re.fullmatch(r"the job ended with signal 9 on n\d \(FAILED\)", jobs.why(ended(killed), Path()))


def test_a_folder_that_a_node_does_not_see_is_named(
    login: clusters.Cluster, job: Callable[..., str], tmp_path: Path
) -> None:
    with login.hidden(tmp_path):
        unseen = job("true", nodelist="n2")
        elsewhere = job("true", nodelist="n2", additional_parameters={"output": "/dev/null", "error": "/dev/null"})
        assert ended(elsewhere).exit_code == jobs.NO_FOLDER
        for state in (ended(unseen), ended(elsewhere)):
            assert jobs.why(state, tmp_path) == (
                f"the run folder was not found on n2: {tmp_path} is not on a file system that all nodes share. "
                "Choose a shared folder: %config LightningMagics.run_dir = '/a/shared/folder'"
            )


def test_a_python_that_a_node_lacks_is_named(login: clusters.Cluster, job: Callable[..., str]) -> None:
    with login.hidden(BIN):
        state = ended(job("true", nodelist="n2"))
    assert state.exit_code == jobs.NO_PYTHON
    assert jobs.why(state, Path()).startswith(f"the notebook's Python was not found on n2: {sys.executable}. Use an")


@pytest.mark.parametrize("parameters", [{}, {"teardown": "touch cleaned"}])
def test_the_job_is_told_of_its_time_limit(
    login: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any]
) -> None:
    """What Slurm does before the limit, asked for now: the process that runs the function gets the signal."""
    monkeypatch.chdir(tmp_path)  # where the job runs, too
    program = (
        "signal.signal(12, lambda *_: (path / 'told').touch()); (path / 'ready').touch(); signal.pause(); "
        "(path / 'done').touch(); import os; os._exit(5)"
    )
    setting = {"signal": signal, "path": tmp_path}
    ours = submission.submit(resources(1, 1, "auto", parameters), tmp_path / "slurm", "Net", exec, program, setting)
    until((tmp_path / "ready").exists)
    login.run("scancel", "--signal=USR2", "--batch", ours)
    assert (ended(ours).word, ended(ours).exit_code) == ("FAILED", 5)
    assert (tmp_path / "told").exists()
    assert (tmp_path / "done").exists()
    assert (tmp_path / "cleaned").exists() == bool(parameters)


def test_gpus_of_a_node_are_asked_for_and_the_time_is_the_partitions(login: clusters.Cluster, tmp_path: Path) -> None:
    what = resources(1, "auto", "auto", {"partition": "gpu"})
    assert (what.processes, what.gpus, what.parameters["signal_delay_s"]) == (2, 2, submission.SIGNAL_DELAY_S)
    job = submission.submit(what, tmp_path / "slurm", "Net", os.system, f"echo $SLURM_GPUS_ON_NODE > {tmp_path}/gpus")
    assert login.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%l") == "10:00"
    assert ended(job).word == "COMPLETED"
    assert (tmp_path / "gpus").read_text() == "2\n"


def test_gpus_are_left_alone_where_the_cpu_is_asked_for(login: clusters.Cluster) -> None:
    assert resources(1, 3, "cpu", {"partition": "gpu"}).gpus == 0
    assert resources(1, None, "gpu", {"partition": "gpu"}).gpus == 1
    assert resources(1, 1, "auto", {"partition": "gpu", "gres": "gpu:a100:1"}).gpus == 1
    assert resources(1, "auto", "auto", {}).processes == 1
    assert resources(1, 2, "auto", {"partition": "main,gpu"}).gpus == 0


GPUS = (
    "from lightning_magics.launch.slurm.request import resources;"
    "print(resources(1, 'auto', 'auto', {'inside': True}).gpus)"
)
INSIDE = """
import json
from lightning_magics.launch.slurm import allocation, request
from lightning_magics.errors import InputError
held = allocation.allocation()
found = request.resources(2, 2, "auto", {"inside": True})
said = [held.job, *held.hosts, held.gpus, found.nodes, found.processes, found.gpus, found.inside]
for nodes, accelerator, parameters in ((3, "auto", {}), (1, "gpu", {}), (1, "auto", {"requeues": 1})):
    try:
        request.resources(nodes, 1, accelerator, {"inside": True, **parameters})
    except InputError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_an_allocation_that_is_held_already_is_used(login: clusters.Cluster, tmp_path: Path) -> None:
    (tmp_path / "inside.py").write_text(INSIDE)
    said = login.run("salloc", "--quiet", "--nodes=2", sys.executable, str(tmp_path / "inside.py"))
    job, *found = json.loads(said.splitlines()[-1])
    assert found[:7] == ["n1", "n2", 0, 2, 2, 0, True]
    assert found[7:] == [
        f"--nodes 3: allocation {job} has 2 nodes (n1, n2). Type --nodes 2",
        f"--accelerator gpu: allocation {job} has no GPUs. Type --accelerator cpu",
        "--slurm.requeues applies to a new job, but --slurm.inside submits none. Remove one of them",
    ]
    gpu = ("--partition=gpu", "--gpus-per-node=1", "--nodes=1")
    assert login.run("salloc", "--quiet", *gpu, sys.executable, "-c", GPUS).endswith("1")


@pytest.mark.parametrize(
    ("nodes", "devices", "accelerator", "parameters", "message"),
    [
        (
            1,
            1,
            "auto",
            {"partition": "man"},
            "--slurm.partition 'man' is not a partition of this cluster: main, urgent, gpu. Did you mean 'main'?",
        ),
        (1, 1, "auto", {"nodes": 2}, "--slurm.nodes is not supported: type --nodes N"),
        (
            1,
            1,
            "auto",
            {"gpus_per_node": 2},
            "--slurm.gpus_per_node is not supported: type --devices N",
        ),
        (1, 1, "auto", {"partitoin": "x"}, r"--slurm.partitoin is not a submitit .* Did you mean 'partition'\? Avail"),
        (1, 1, "auto", {"timeout_min": 3}, r"--slurm.timeout_min is .* Did you mean 'time'\? Available: account, "),
        (1, 1, "auto", {"time": 0}, "--slurm.time takes a whole number of minutes, or 2:00:00; found 0."),
        (1, 1, "auto", {"time": "soon"}, "--slurm.time takes a whole number of minutes, or 2:00:00; found 'soon'."),
        (1, 1, "auto", {"requeues": -1}, "--slurm.requeues takes a whole number of at least 0; found -1."),
        (
            1,
            1,
            "auto",
            {"partition": "gpu", "time": 100},
            "--slurm.time 100: partition gpu allows at most 60 minutes. Type --slurm.time 60, or another "
            "--slurm.partition",
        ),
        (
            1,
            1,
            "auto",
            {"time": 1, "signal_delay_s": 90},
            "--slurm.signal_delay_s 90: the job cannot be signalled 90 seconds before its time limit of 60 seconds. "
            "Type a smaller value, or a longer --slurm.time",
        ),
        (3, 1, "auto", {}, "--nodes 3: partition main has 2 nodes. Type --nodes 2"),
        (
            1,
            5,
            "auto",
            {},
            r"partition main cannot provide 5 CPUs per node \(5 processes with 1 each\): its nodes have at most 4. "
            "Type --devices 4",
        ),
        (
            1,
            2,
            "auto",
            {"cpus_per_task": 3},
            r"partition main cannot provide 6 CPUs per node \(2 processes with 3 each\): its nodes have at most 4. "
            "Type --devices 1",
        ),
        (0, 1, "auto", {}, "--nodes takes a whole number of at least 1; found 0."),
        (
            1,
            3,
            "auto",
            {"partition": "gpu"},
            "partition gpu cannot provide 3 GPUs per node: its nodes have at most 2. Type --devices 2",
        ),
        (
            2,
            2,
            "auto",
            {"partition": "gpu"},
            "--nodes 2: partition gpu has 1 node with 2 GPUs. Type --nodes 1",
        ),
        (
            1,
            1,
            "gpu",
            {},
            "--accelerator gpu: according to Slurm, the nodes of partition main have no GPUs. GPUs are in: "
            r"gpu \(2 per node\). Type --slurm.partition NAME, or --accelerator cpu",
        ),
        (1, 1, "tpu", {}, "--accelerator tpu is not supported on a cluster. Type --accelerator auto, gpu, cuda or cpu"),
        (1, [0, 1], "auto", {}, r"--devices \[0, 1\]: on a cluster, --devices is the number of processes per node"),
        (
            1,
            2,
            "auto",
            {"partition": "gpu", "gres": "gpu:a100:1"},
            "--slurm.gres gpu:a100:1 requests 1 GPU per node, but --devices 2. Type --devices 1",
        ),
        (
            1,
            1,
            "auto",
            {"inside": True},
            r"--slurm.inside: this notebook is not inside a Slurm allocation \(SLURM_JOB_ID is not set\). ",
        ),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_first(
    login: clusters.Cluster, nodes: int, devices: Any, accelerator: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        resources(nodes, devices, accelerator, parameters)


def test_nodes_that_are_down_are_named(login: clusters.Cluster) -> None:
    with login.lost("n2"), pytest.raises(InputError) as refused:
        resources(2, 1, "auto", {})
    said = str(refused.value).replace("down*", "down")  # the star: it does not respond
    assert said == (
        "--nodes 2: partition main has 1 node available now. Unavailable: n2 (down). Type --nodes 1, or wait until "
        "they are back"
    )


def test_what_slurm_refuses_is_said_in_its_words(job: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        InputError,
        match=r"^Slurm rejected the job: Invalid generic resource \(gres\) specification\. "
        r"Requested: 1 node, 1 process on each, gres ponies:3$",
    ):
        job("true", gres="ponies:3")
    assert capfd.readouterr() == ("", "")


def test_a_machine_without_slurm_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"^--cluster slurm: sbatch was not found on this machine's PATH\. Start the "):
        resources(2, 1, "auto", {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingPackage, match=r"'submitit', .* Type: %pip install submitit$"):
        resources(2, 1, "auto", {})


def test_a_controller_that_does_not_answer_is_no_end(login: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.state("4242") == jobs.FORGOTTEN
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    [controller] = login.kill("n1", "slurmctld -D", signal.SIGSTOP)
    try:
        assert jobs.state("4242") == State("unknown", "", "squeue did not respond within 0.5 s")
        assert request.partition_names(0.5) == []
        with pytest.raises(
            InputError, match=r"^Slurm does not answer: sinfo did not respond within 0.5 s\. Try again later; "
        ):
            resources(1, 1, "auto", {})
        with pytest.raises(RunError, match=r"^Slurm did not cancel job 4242: scancel did not respond within 0.5 s$"):
            jobs.cancel("4242")
    finally:
        os.kill(controller, signal.SIGCONT)


def test_a_kernel_of_the_login_node_completes_and_refuses(cluster: clusters.Cluster, tmp_path: Path) -> None:
    with cluster.kernel(tmp_path) as kernel:
        kernel.run("%load_ext lightning_magics\nimport socket, time")
        assert kernel.value("socket.gethostname()") == "n1"
        assert kernel.value("get_ipython().complete('%lightning_fit Net --slurm.partition u')[1]") == ["urgent"]
        assert kernel.value("get_ipython().complete('%lightning_fit Net --slurm.part')[1]") == ["--slurm.partition"]
        kernel.run('%config LightningMagics.slurm = {"partition": "gpu"}')
        sent = kernel.interrupt_when("print('begun')\ntime.sleep(60)", "begun")
        assert "KeyboardInterrupt" in kernel.finish(sent).error


def test_names_are_known_for_completion(login: clusters.Cluster) -> None:
    assert request.partition_names() == ["main", "urgent", "gpu"]
    assert {"partition", "time", "setup", "inside", "requeues"} <= set(request.parameter_names())
    assert not {"nodes", "gpus_per_node", "use_srun"} & set(request.parameter_names())
    assert allocation.hosts("n[1-2],g07") == ["n1", "n2", "g07"]


def test_the_accounting_remembers_what_the_queue_has_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with clusters.started(accounting=True) as cluster:
        monkeypatch.setenv("PATH", f"{cluster.commands}:{os.environ['PATH']}")
        failed, cancelled = cluster.submit(command="exit 3"), cluster.submit("--hold")
        jobs.cancel(cancelled)
        until(lambda: jobs.state(cancelled).reason == "cancelled by root")
        assert jobs.why(jobs.state(cancelled), tmp_path) == "the job was cancelled by root"
        until(lambda: not jobs.states([failed]), 180)
        state = jobs.state(failed)
        assert (state.kind, state.word, state.exit_code) == ("ended", "FAILED", 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinite", partitions.UNLIMITED),
        ("n/a", None),
        ("30", 1800),
        ("10:00", 600),
        ("1:00:00", 3600),
        ("2-00:30:00", 174600),
        ("1-12", 129600),
    ],
)
def test_time_limits_are_read(text: str, seconds: int | None) -> None:
    assert partitions.parse_duration(text) == seconds


def test_gpus_are_counted() -> None:
    assert [
        partitions.gpu_count(text) for text in ("gpu:a100:4(S:0-1),gpu:2,tmp:100", "gpu", "gpu:a100", "(null)")
    ] == [
        6,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (State("ended", "TIMEOUT"), "the job reached its time limit. For more time: --slurm.time MINUTES"),
        (State("ended", "NODE_FAIL", nodes="n2"), "a node of the job failed (n2)"),
        (
            State("ended", "OUT_OF_MEMORY", nodes="n2"),
            "the job ran out of memory on n2. For more memory: --slurm.mem 64GB",
        ),
        (State("ended", "PREEMPTED"), "the job was preempted by one of higher priority"),
        (State("queued", "PENDING", "waiting for resources (Resources)"), "waiting for resources (Resources)"),
    ],
)
def test_why_a_job_ended_is_said_for_a_person(state: State, message: str) -> None:
    assert jobs.why(state, Path()) == message


def test_settings_of_a_queue_do_not_count_inside() -> None:
    assert Slurm().defaults({"partition": "gpu"}, {"time": 3}) == {"partition": "gpu", "time": 3}
    assert Slurm().defaults({"partition": "gpu"}, {"inside": True}) == {"inside": True}


def test_what_is_asked_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Resources("slurm", 1, 1).nodes = 2  # type: ignore[misc]
