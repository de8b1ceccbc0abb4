"""Runs on two hosts of a Slurm cluster, from a kernel on the first of them."""

import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster import Cluster
from kernel import SETUP, Cell, Kernel

NET = """%%lightning_model Net --loss cross_entropy --lr 0.1 --optimizer SGD
nn.Linear(8, 2)
"""
POINTS = "X = torch.randn(128, 8, generator=torch.Generator().manual_seed(0)); y = (X.sum(1) > 0).long()"
DATA = "%%lightning_data points --batch_size 16\nTensorDataset(X, y)\n"
# The same global batches as two ranks have, in one process: each step's is a batch of either.
REFERENCE = """
from torch.utils.data import DistributedSampler

def trained(net, epochs, seed=3):
    data = TensorDataset(X, y)
    ranks = [DistributedSampler(data, 2, rank, shuffle=True, seed=seed) for rank in range(2)]
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    for epoch in range(epochs):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        places = [list(sampler) for sampler in ranks]
        for step in range(0, 64, 16):
            batch = [data[place] for rank in places for place in rank[step:step + 16]]
            inputs, labels = (torch.stack(part) for part in zip(*batch))
            sgd.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            sgd.step()
    return net
"""
TWO = "--cluster slurm --nodes 2 --slurm.partition main --slurm.time 30"
WAITS_S = 120.0


class Notebook(Kernel):
    """A kernel on the login node, and the folders of its runs."""

    folder: Path

    def __init__(self, kernel: Kernel, cluster: Cluster) -> None:
        self.__dict__ = kernel.__dict__
        self.cluster = cluster
        self.run(SETUP, NET, POINTS, DATA, REFERENCE)

    def record(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / "lightning_logs" / run / "run.json").read_text(encoding="utf-8"))

    def job(self, run: str) -> str:
        path = self.folder / "lightning_logs" / run / "submission.json"
        self.until(path.exists)
        return str(json.loads(path.read_text(encoding="utf-8"))["slurm"])

    def steps(self, run: str) -> int:
        """Steps that the newest beginning of a run has told of."""
        path = self.folder / "lightning_logs" / run / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return max((json.loads(line).get("step", 0) for line in lines if '"Step"' in line), default=0)

    def slow(self, name: str, body: str = "", seconds: float = 0.02) -> None:
        """Define a model whose steps take time, and do something."""
        self.run(
            f"%%lightning_model {name}\nimport os\n"
            "def __init__(self):\n    self.layer = nn.Linear(8, 2)\n"
            f"def training_step(self, batch, batch_idx):\n    {body or 'pass'}\n    time.sleep({seconds})\n"
            "    loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])\n"
            "    self.log('train_loss', loss)\n    return loss\n"
            "def configure_optimizers(self):\n    return torch.optim.SGD(self.parameters(), 0.1)\n"
        )

    def until(self, done: Callable[[], Any]) -> None:
        """Wait for something; where it does not come, say how all stands."""
        end = time.monotonic() + WAITS_S
        while not done():
            if time.monotonic() > end:
                pytest.fail(f"waited in vain; {self._standing()}")
            time.sleep(0.1)

    def _standing(self) -> str:
        cell = Cell()
        with contextlib.suppress(queue.Empty):
            while len(cell.messages) < 10_000:
                cell.messages.append(self.client.get_iopub_msg(timeout=1))
        records = sorted((self.folder / "lightning_logs").glob("*/*/run.json"), key=lambda path: path.stat().st_mtime)
        logs = [*self.cluster.folder.glob("slurm*.log"), *(records[-1].parent.glob("*.log") if records else [])]
        said = {str(path): path.read_text(errors="replace")[-2000:] for path in [*records[-1:], *logs]}
        jobs = self.cluster.run("squeue", "--states=all", "--long") + self.cluster.run("sinfo", "--Node")
        ends = "\n".join(f"--- {path}\n{text}" for path, text in said.items())
        return f"the cell: {cell.error}\n{cell.text}\n{jobs}\n{ends}"


@pytest.fixture(scope="module")
def notebook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with cluster.kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        yield Notebook(kernel, cluster)


def test_two_hosts_train_what_one_process_does(notebook: Notebook, cluster: Cluster) -> None:
    cell = notebook.cell(f"run = %lightning_fit Net points {TWO} --max_epochs 2 --seed 3 --data.num_workers 1")
    assert cell.status == "ok", cell.error
    assert "2 × cpu on 2 nodes" in cell.outputs[-1]["text/plain"]
    assert notebook.value("[run.status, run.record.steps, run.record.epochs]") == ["completed", 8, 2]
    notebook.run("weights = [item.detach().clone() for item in run.model.parameters()]")
    notebook.run("pl.seed_everything(3); net = trained(Net(), 2)")
    assert notebook.value("all(torch.allclose(*pair, rtol=0, atol=1e-5) for pair in zip(weights, net.parameters()))")
    notebook.run("again = %lightning_fit run.model points --max_epochs 1")  # goes on, in the kernel
    assert notebook.value("[again.record.epochs, again.record.steps]") == [3, 16]
    assert cluster.run("squeue", "--noheader") == ""


def test_an_interrupt_stops_all_ranks_at_one_batch_and_brings_the_weights(notebook: Notebook) -> None:
    notebook.slow("Slow")
    sent = notebook.send(f"run = %lightning_fit Slow points {TWO} --max_epochs 1000")
    notebook.until(lambda: notebook.steps("Slow/version_0") > 10)
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert cell.status == "ok", cell.error
    status, steps = notebook.value("[run.status, run.record.steps]")
    assert status == "interrupted"
    saved = torch.load(notebook.folder / "lightning_logs/Slow/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert notebook.value("run.model.layer.weight.tolist()") == saved["state_dict"]["layer.weight"].tolist()


def test_a_rank_that_raises_shows_its_own_line_and_leaves_the_model_as_it_was(notebook: Notebook) -> None:
    notebook.slow("Raises", "assert self.global_rank != 1 or self.global_step < 3, 'rank 1 has had enough'", 0)
    notebook.run("net = Raises(); before = net.layer.weight.tolist()")
    cell = notebook.cell(f"run = %lightning_fit net points {TWO} --max_epochs 2")
    assert "AssertionError: rank 1 has had enough" in cell.error
    assert "self.global_rank != 1" in cell.error  # the line of the cell
    assert "Raised in rank 1; its log: run.logs(1)" in cell.error
    assert "peer" not in cell.error
    assert notebook.value("net.layer.weight.tolist() == before")


def test_a_rank_that_is_killed_is_named_with_its_node_signal_and_log(notebook: Notebook, cluster: Cluster) -> None:
    notebook.slow("Killed", "print('last words of', self.global_rank)")
    sent = notebook.send(f"run = %lightning_fit Killed points {TWO} --max_epochs 1000")
    notebook.until(lambda: notebook.steps("Killed/version_0") > 5)
    assert cluster.kill("n2", "-m lightning_magics.launch.rank")
    cell = notebook.finish(sent)
    assert "rank 1 of 2 was killed by SIGKILL" in cell.error
    assert "on node n2. Last lines of its log" in cell.error
    assert "last words of 1" in cell.error
    assert notebook.record("Killed/version_0")["status"] == "failed"
    notebook.until(lambda: cluster.run("squeue", "--noheader") == "")


def test_a_job_waits_in_the_queue_and_is_withdrawn_by_an_interrupt(notebook: Notebook, cluster: Cluster) -> None:
    notebook.run(NET.replace("Net", "Waiting"))
    with cluster.filled():
        sent = notebook.send(f"run = %lightning_fit Waiting points {TWO} --max_epochs 1")
        job = notebook.job("Waiting/version_0")
        cluster.wait_for(job, "PENDING")
        notebook.manager.interrupt_kernel()
        cell = notebook.finish(sent)
        assert cell.status == "ok", cell.error
        assert "interrupted before it began" in cell.outputs[-1]["text/plain"]
        assert notebook.value("run.status") == "interrupted"
        assert cluster.word(job) in ("CANCELLED", "")


def test_a_job_that_runs_is_ended_at_once(notebook: Notebook, cluster: Cluster) -> None:
    notebook.slow("Ended")
    notebook.run(f"run = %lightning_fit Ended points {TWO} --max_epochs 1000 --background")
    notebook.until(lambda: notebook.steps("Ended/version_0") > 5)
    assert notebook.cell("%lightning_stop Ended/version_0 --now").text == "Ended/version_0 was stopped\n"
    notebook.run("run.wait()")
    assert notebook.value("[run.status, run.record.error]") == ["interrupted", "stopped immediately"]
    assert not (notebook.folder / "lightning_logs/Ended/version_0/job.pt").exists()
    notebook.until(lambda: cluster.run("squeue", "--noheader") == "")


def test_a_job_in_the_background_is_listed_seen_and_stopped_by_another_kernel(
    notebook: Notebook, cluster: Cluster
) -> None:
    """And its own kernel may have been killed."""
    with cluster.kernel(notebook.folder) as first:
        first.run(SETUP, POINTS, DATA)
        Notebook.slow(first, "Long")  # type: ignore[arg-type]
        with cluster.filled():
            first.run(f"run = %lightning_fit Long points {TWO} --max_epochs 1000 --background")
            job = notebook.job("Long/version_0")
            cluster.wait_for(job, "PENDING")
            notebook.run("listed = %lightning_runs Long")
            assert notebook.value("[row.standing for row in listed.rows]") == ["queued"]
            assert "waiting for resources" in notebook.value("str(listed)")
        first.manager.provisioner.process.kill()
    notebook.until(lambda: notebook.steps("Long/version_0") > 5)
    Notebook.slow(notebook, "Long")
    notebook.run("run = %lightning_attach Long/version_0")
    assert notebook.value("run.status") == "running"
    notebook.run("%lightning_stop Long/version_0", "run.wait()")
    status, steps, weights = notebook.value("[run.status, run.record.steps, run.model.layer.weight.tolist()]")
    assert status == "interrupted"
    saved = torch.load(notebook.folder / "lightning_logs/Long/version_0/checkpoints/last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["state_dict"]["layer.weight"].tolist()) == (steps, weights)


def test_a_preempted_job_goes_on_from_its_last_checkpoint(notebook: Notebook, cluster: Cluster) -> None:
    notebook.slow("Preempted", seconds=0.05)
    notebook.run(f"run = %lightning_fit Preempted points {TWO} --max_epochs 12 --background")
    run = "Preempted/version_0"
    notebook.until(lambda: list((notebook.folder / "lightning_logs" / run / "checkpoints").glob("epoch=*")))
    with cluster.filled("urgent"):
        notebook.until(lambda: notebook.value("run._state.queued is not None"))
        assert (
            "in the queue"
            in notebook.cell("from lightning_magics.views import report; print(report.text(run._state))").text
        )
    notebook.run("run.wait()")
    assert notebook.value("[run.status, run.record.epochs, run.record.steps]") == ["completed", 12, 48]
    told = notebook.value("[notice.text for notice in run._state.notices]")
    assert any(text.startswith("the job was preempted, and is queued again") for text in told)
    assert any("has restarted on n[1-2], from epoch=" in text for text in told)
    assert len(notebook.value("[row['epoch'] for row in run.history]")) == 12


def test_a_job_that_lost_a_node_begins_again_and_gives_up_at_last(notebook: Notebook, cluster: Cluster) -> None:
    notebook.slow("Lost")
    notebook.run(f"run = %lightning_fit Lost points {TWO} --max_epochs 1000 --background --slurm.requeues 1")
    notebook.until(lambda: list((notebook.folder / "lightning_logs/Lost/version_0/checkpoints").glob("epoch=*")))
    with cluster.lost("n2"):
        time.sleep(1)
    told = "[notice.text for notice in run._state.notices]"
    notebook.until(lambda: any("has restarted on n[1-2], from epoch=" in text for text in notebook.value(told)))
    steps = notebook.steps("Lost/version_0")
    notebook.until(lambda: notebook.steps("Lost/version_0") > steps)
    with cluster.lost("n2"):
        cell = notebook.cell("run.wait()")
    assert "failed, and its job has no requeues left. To allow more: --slurm.requeues 2" in cell.error
    assert any("failed, and is queued again" in text for text in notebook.value(told))
    notebook.until(lambda: cluster.run("squeue", "--noheader") == "")


def test_what_a_time_limit_leaves_time_for_is_saved(notebook: Notebook, cluster: Cluster) -> None:
    notebook.slow("Limited", seconds=3)  # a batch takes longer than anything that is waited for
    notebook.run(f"run = %lightning_fit Limited points {TWO} --max_epochs 1000 --background")
    notebook.until(lambda: notebook.steps("Limited/version_0") > 0)
    cluster.run("scancel", "--batch", "--signal=USR2", notebook.job("Limited/version_0"))  # as Slurm does
    notebook.run("run.wait()")
    assert notebook.value("run.status") == "interrupted"
    assert "its job was about to reach its time limit: --slurm.time MINUTES" in notebook.value("run.record.reason")
    saved = torch.load(notebook.folder / "lightning_logs/Limited/version_0/checkpoints/last.ckpt", weights_only=True)
    assert notebook.value("run.model.layer.weight.tolist()") == saved["state_dict"]["layer.weight"].tolist()


def test_a_folder_that_a_node_does_not_see_is_said(notebook: Notebook, cluster: Cluster) -> None:
    with cluster.hidden(notebook.folder / "lightning_logs"):
        cell = notebook.cell(f"%lightning_fit Net points {TWO} --max_epochs 1")
    assert f"the run folder was not found on node n2: {notebook.folder}/lightning_logs/Net/version_" in cell.error
    assert "Choose a shared folder: %config LightningMagics.run_dir = '/a/shared/folder'" in cell.error


def test_an_allocation_that_is_held_takes_fits_without_a_queue(notebook: Notebook, cluster: Cluster) -> None:
    job = cluster.submit("--partition=main", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--time=10")
    cluster.wait_for(job, "RUNNING")
    variables = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "2", "SLURM_NTASKS": "2"}
    try:
        notebook.run(f"import os; os.environ.update({variables!r})")
        inside = "--cluster slurm --nodes 2 --slurm.inside"
        cell = notebook.cell(f"run = %lightning_fit Net points {inside} --max_epochs 1")
        assert cell.status == "ok", cell.error
        assert "2 × cpu on 2 nodes" in cell.outputs[-1]["text/plain"]
        assert cluster.run("squeue", "--noheader", "--format=%i") == job
        notebook.slow("Inside")
        refused = notebook.cell(f"%lightning_fit Net points {inside} --devices 3")
        assert f"--devices 3: allocation {job} has 2 CPUs on this node" in refused.error
        one = "--cluster slurm --slurm.inside --devices 2"
        sent = notebook.send(f"run = %lightning_fit Inside points {one} --max_epochs 1000")
        notebook.until(lambda: notebook.steps("Inside/version_0") > 5)
        notebook.manager.interrupt_kernel()
        cell = notebook.finish(sent)
        assert cell.status == "ok", cell.error
        assert notebook.value("run.status") == "interrupted"
        assert cluster.processes("n1", "-m lightning_magics.launch.rank") == []
    finally:
        notebook.run(f"for name in {list(variables)!r}: os.environ.pop(name, None)")
        cluster.run("scancel", job)
        cluster.wait_for(job, "CANCELLED")


def test_evaluations_run_on_the_cluster_too(notebook: Notebook) -> None:
    notebook.run("run = %lightning_fit Net points --max_epochs 1 --seed 1")
    cell = notebook.cell(f"found = %lightning_predict Net points {TWO}")
    assert cell.status == "ok", cell.error
    notebook.run("here = %lightning_predict Net points")
    assert notebook.value("torch.equal(found.predictions, here.predictions)")


def test_sharded_parameters_on_two_hosts_come_back_whole(notebook: Notebook) -> None:
    """FSDP's second form: Lightning refuses the first on CPUs, wherever it runs."""
    notebook.run(
        "%%lightning_model Sharded\n"
        "def __init__(self):\n    self.layer = nn.Linear(8, 2)\n"
        "def configure_model(self):\n"
        "    from torch.distributed.fsdp import fully_shard\n"
        "    if self._trainer is not None:\n"
        "        fully_shard(self.layer, mesh=self.device_mesh['data_parallel'])\n"
        "def training_step(self, batch, batch_idx):\n"
        "    assert type(self.layer.weight).__name__ == 'DTensor'\n"
        "    return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])\n"
        "def configure_optimizers(self):\n    return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    strategy = "pl.strategies.ModelParallelStrategy(save_distributed_checkpoint=False)"
    cell = notebook.cell(f'run = %lightning_fit Sharded points {TWO} --strategy "{strategy}" --max_epochs 1 --seed 3')
    assert cell.status == "ok", cell.error
    notebook.run("pl.seed_everything(3); net = Sharded(); trained(net.layer, 1)")
    assert notebook.value("torch.allclose(run.model.layer.weight, net.layer.weight, rtol=0, atol=1e-5)")
