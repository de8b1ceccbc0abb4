"""Runs on two hosts of a Slurm cluster, from a kernel on the first of them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster import Cluster
from kernel import SETUP, Kernel

NET = """%%lightning_model Net --loss cross_entropy --lr 0.1 --optimizer SGD
nn.Linear(8, 2)
"""
DATA = """%%lightning_data points --batch_size 16
rng = torch.Generator().manual_seed(0)
X = torch.randn(128, 8, generator=rng)
TensorDataset(X, (X.sum(1) > 0).long())
"""
TWO = "--cluster slurm --nodes 2 --slurm.partition main --slurm.time 30"
WAITS_S = 60.0


class Notebook(Kernel):
    """A kernel on the login node, and the folders of its runs."""

    kernel: Kernel
    folder: Path

    def __init__(self, kernel: Kernel) -> None:
        self.__dict__ = kernel.__dict__
        self.run(SETUP, NET, DATA)

    def record(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / "lightning_logs" / run / "run.json").read_text(encoding="utf-8"))

    def job(self, run: str) -> str:
        path = self.folder / "lightning_logs" / run / "submission.json"
        until(path.exists)
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


def until(done: Callable[[], Any], seconds: float = WAITS_S) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def notebook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with cluster.kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        yield Notebook(kernel)


def test_two_hosts_train_what_one_process_does(notebook: Notebook, cluster: Cluster) -> None:
    cell = notebook.cell(f"run = %lightning_fit Net points {TWO} --max_epochs 2 --seed 3 --accelerator cpu")
    assert cell.status == "ok", cell.error
    assert "2 × cpu on 2 nodes" in cell.outputs[-1]["text/plain"]
    assert notebook.value("[run.status, run.record.steps, run.record.epochs]") == ["completed", 8, 2]
    notebook.run("weights = [item.detach().clone() for item in run.model.parameters()]")
    # The same global batches, in one process: each step's is a batch of every rank.
    notebook.run(
        "from torch.utils.data import DistributedSampler",
        "data = TensorDataset(X, (X.sum(1) > 0).long())",
        "ranks = [DistributedSampler(data, 2, rank, shuffle=True, seed=3) for rank in range(2)]",
        "pl.seed_everything(3); net = Net(); loss = nn.functional.cross_entropy",
        "sgd = torch.optim.SGD(net.parameters(), 0.1)",
        """for epoch in range(2):
    for sampler in ranks: sampler.set_epoch(epoch)
    halves = [[list(ranks[rank])[16 * step:16 * step + 16] for rank in range(2)] for step in range(4)]
    for step in halves:
        batch = [data[place] for place in sum(step, [])]
        x, y = torch.stack([x for x, _ in batch]), torch.stack([y for _, y in batch])
        sgd.zero_grad(); loss(net(x), y).backward(); sgd.step()""",
    )
    assert notebook.value("max(float((one - other).abs().max()) for one, other in zip(weights, net.parameters()))") < 1e-5
    notebook.run("again = %lightning_fit run.model points --max_epochs 1")  # goes on, in the kernel
    assert notebook.value("[again.record.epochs, again.record.steps]") == [3, 16]
    assert cluster.run("squeue", "--noheader") == ""


def test_an_interrupt_stops_all_ranks_at_one_batch_and_brings_the_weights(notebook: Notebook) -> None:
    notebook.slow("Slow")
    sent = notebook.send(f"run = %lightning_fit Slow points {TWO} --max_epochs 1000")
    until(lambda: (notebook.folder / "lightning_logs/Slow").exists() and notebook.steps("Slow/version_0") > 10)
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert cell.status == "ok", cell.error
    status, steps = notebook.value("[run.status, run.record.steps]")
    assert status == "interrupted"
    saved = torch.load(notebook.folder / "lightning_logs/Slow/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert notebook.value("run.model.layer.weight.tolist()") == saved["state_dict"]["layer.weight"].tolist()
