"""What runs in processes of their own cost: a real kernel beside scripts of the same model, on the CPU.

Times, rates and memory are medians of rounds in which the ways take turns; each line gives its bar. A machine that
does other things too gives other times: the load is printed.
Run: python benchmarks/launch.py [--what launch|speed|weights|memory|watch|runs|slurm|all] [--rounds N]
`slurm` uses the cluster that it is on; where there is none, two hosts of the tests' own, as root.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import start_new_kernel

MODEL = """
import json, os, time
import torch
import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

class Big(pl.LightningModule):
    def __init__(self, optimizer):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(2500, 2500) for _ in range(20)))
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        return self.layers(batch[0]).mean()

    def configure_optimizers(self):
        return getattr(torch.optim, self.optimizer)(self.parameters(), lr=1e-6)

class Rows(Small):
    def training_step(self, batch, batch_idx):
        return self.layers(batch[0][:, :64] + batch[0].mean()).mean()

class Clock(pl.Callback):
    # When the first and the last training step ended.
    def __init__(self, path):
        self.path, self.first, self.steps = path, None, 0

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.last = time.time()
        self.first = self.first or self.last
        self.steps += 1

    def on_train_end(self, trainer, model):
        if trainer.global_rank == 0:
            with open(self.path, "w") as file:
                json.dump({"first": self.first, "last": self.last, "steps": self.steps}, file)

class Hold(pl.Callback):
    # All data has been read: let others look.
    def on_train_epoch_end(self, trainer, model):
        open(f"held_{trainer.global_rank}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.05)

def loader(rows=2048, width=64, **options):
    return DataLoader(TensorDataset(torch.rand(rows, width), torch.zeros(rows, dtype=torch.long)), **options)
"""
SETUP = f"{MODEL}\n%load_ext lightning_magics"
FIT = "run = %lightning_fit {model} batches --accelerator cpu {where} --logger false --callbacks {callback}"
NODES = "--cluster slurm --nodes 2 --slurm.time 10"
SCRIPT = """
if __name__ == "__main__":
    trainer = pl.Trainer(accelerator="cpu", {where}, strategy="{strategy}", max_epochs=-1, max_steps={steps},
                         logger=False, enable_progress_bar=False, callbacks=[Clock("clock.json")])
    trainer.fit(Small(), loader(batch_size=32))
"""
GIB = 1 << 30


class Kernel:
    """A real kernel with the models defined, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager, self.client = start_new_kernel(cwd=str(folder), env=environment())
        self.cell(SETUP)
        self.cell("batches = loader(batch_size=32)")
        self.pid = self.value("os.getpid()")

    def cell(self, code: str) -> float:
        """Run a cell; returns the seconds that it took."""
        start = time.perf_counter()
        reply = self.client.execute_interactive(code, output_hook=lambda _: None, timeout=600)
        taken = time.perf_counter() - start
        if reply["content"]["status"] != "ok":
            raise SystemExit("\n".join(reply["content"]["traceback"]))
        return taken

    def value(self, expression: str) -> Any:
        """A value that JSON can hold."""
        asked = {"value": f"json.dumps({expression})"}
        reply = self.client.execute_interactive("", user_expressions=asked, output_hook=lambda _: None)
        return json.loads(eval(reply["content"]["user_expressions"]["value"]["data"]["text/plain"]))

    def fit(
        self, steps: int, model: str = "Small", more: str = "", where: str = "--ddp 2"
    ) -> tuple[dict[str, float], float]:
        """Fit with two ranks; returns what the clock of rank 0 says, and the time of the cell's start."""
        self.cell("clock = Clock('clock.json')")
        start = time.time()
        self.cell(f"{FIT.format(model=model, callback='clock', where=where)} --max_steps {steps} {more}")
        return json.loads((self.folder / "clock.json").read_text()), start

    def status(self, name: str) -> int:
        """A line of the kernel's /proc/PID/status, in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def kernel() -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        made = Kernel(Path(folder))
        try:
            yield made
        finally:
            made.client.stop_channels()
            made.manager.shutdown_kernel(now=True)


def torchrun(folder: Path, steps: int) -> tuple[dict[str, float], float]:
    """Fit under torchrun, as `Kernel.fit`."""
    return script(folder, steps, "ddp", "-m", "torch.distributed.run", "--nproc_per_node", "2")


def script(folder: Path, steps: int, strategy: str, *launcher: str) -> tuple[dict[str, float], float]:
    """Fit in a script, as `Kernel.fit`."""
    (folder / "script.py").write_text(MODEL + SCRIPT.format(steps=steps, strategy=strategy, where="devices=2"))
    start = time.time()
    command = [sys.executable, *launcher, "script.py"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment())
    return json.loads((folder / "clock.json").read_text()), start


def show(name: str, values: list[float], unit: str, bar: float | None = None, *, least: bool = False) -> None:
    """Print a line: the median, what it should be, and all values."""
    found = statistics.median(values)
    held = bar is None or (found >= bar if least else found <= bar)
    asked = "" if bar is None else f"{'≥' if least else '≤'} {bar:g} {unit}"
    rounds = ", ".join(f"{value:.3g}" for value in values)
    print(f"{name:68}{found:9.3f} {unit:14}{asked:18}{'' if held else 'MISSED':8}rounds: {rounds}", flush=True)


def launch(rounds: int) -> None:
    found: dict[str, list[float]] = {"warm": [], "processes spawned": [], "torchrun": [], "ddp_spawn in a script": []}

    def first_step(name: str, fitted: tuple[dict[str, float], float]) -> None:
        found[name].append(fitted[0]["first"] - fitted[1])

    with kernel() as ours:
        ours.fit(5)
        for _ in range(rounds):
            first_step("warm", ours.fit(5))
            first_step("torchrun", torchrun(ours.folder, 5))
            first_step("ddp_spawn in a script", script(ours.folder, 5, "ddp_spawn"))
            ours.cell("%config LightningMagics.start_method = 'spawn'")
            first_step("processes spawned", ours.fit(5))
            ours.cell("%config LightningMagics.start_method = 'forkserver'")
        in_a_row = [clock["first"] - start for clock, start in (ours.fit(5) for _ in range(10))]
    for name, values in found.items():
        show(f"launch: to first step, {name}", values, "s", 0.5 if name == "warm" else None)
    show("launch: warm, ten in a row", in_a_row, "s", 0.5)
    ratios = [theirs / ours for ours, theirs in zip(found["warm"], found["torchrun"], strict=True)]
    show("launch: torchrun / warm", ratios, "×", 15, least=True)


def speed(rounds: int, steps: int = 2000) -> None:
    rates: dict[str, list[float]] = {"ours": [], "torchrun": []}
    with kernel() as ours:
        ours.fit(5)
        ways: dict[str, Callable[[], tuple[dict[str, float], float]]] = {
            "ours": lambda: ours.fit(steps),
            "torchrun": lambda: torchrun(ours.folder, steps),
        }
        for number in range(rounds):
            for name in sorted(ways, reverse=number % 2 == 1):
                clock = ways[name]()[0]
                rates[name].append((clock["steps"] - 1) / (clock["last"] - clock["first"]))
    for name, found in rates.items():
        show(f"speed: {name}", found, "steps/s")
    ratios = [a / b for a, b in zip(rates["ours"], rates["torchrun"], strict=True)]
    show("speed: ours / torchrun", ratios, "×", 0.98, least=True)


def weights(rounds: int) -> None:
    ways = {
        "SGD": ("SGD", "--enable_checkpointing false"),
        "SGD, and a checkpoint of Lightning's": ("SGD", ""),
        "Adam, three times the size": ("Adam", "--enable_checkpointing false"),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (optimizer, more) in ways.items():
            with kernel() as ours:
                ours.fit(5)
                base = ours.status("VmRSS")
                ours.cell(f"big = Big('{optimizer}'); batches = loader(2, 2500, batch_size=1)")
                size = 4 * ours.value("sum(item.numel() for item in big.parameters())")
                Path(f"/proc/{ours.pid}/clear_refs").write_text("5")  # VmHWM begins anew
                clock, _ = ours.fit(1, "big", more)
                found[name].append((time.time() - clock["last"], (ours.status("VmHWM") - base) / size))
    for name, rows in found.items():
        seconds, copies = (list(column) for column in zip(*rows, strict=True))
        show(f"weights: back after the last step, {name}", seconds, "s", 3 if name == "SGD" else None)
        show("weights: peak of the kernel", copies, "× the model", 2.05)


def memory(rounds: int) -> None:
    found = []
    for _ in range(rounds):
        small, large = held(8), held(1024)
        found.append([(after - before) / GIB for before, after in zip(small, large, strict=True)])
    ranks, kernel_too, not_of_a_file = (list(column) for column in zip(*found, strict=True))
    show("memory: supervisor and two ranks", ranks, "× the data", 1.3)
    show("memory: the kernel too, which made the data", kernel_too, "× the data")
    show("memory: of it not the file's, so not evictable", not_of_a_file, "× the data", 1.3)


def held(rows: int) -> tuple[int, int, int]:
    """What is held once both ranks have read all MiB rows, in bytes: by supervisor and ranks, by all, not of a file."""
    with kernel() as ours:
        ours.fit(5)
        ours.cell(f"batches = loader({rows}, {1 << 18}, batch_size=4)")
        fit = FIT.format(model="Rows", callback="[Hold()]")
        ours.client.execute(f"{fit} --max_epochs 1 --use_distributed_sampler false")
        while not all((ours.folder / f"held_{rank}").exists() for rank in range(2)):
            time.sleep(0.1)
        top = psutil.Process(ours.pid)
        templates = top.children()
        above = [pss(item.pid) for item in [top, *templates]]
        below = [pss(item.pid) for template in templates for item in template.children(recursive=True)]
        (ours.folder / "go").touch()
        ours.cell("assert run.status == 'completed'")
    ranks = sum(item["Pss"] for item in below)
    return ranks, ranks + sum(item["Pss"] for item in above), sum(item["Pss_Anon"] for item in above + below)


def pss(pid: int) -> dict[str, int]:
    """Proportional set size of a process and its parts, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}


def watch(rounds: int, seconds: float = 20) -> None:
    idle, watching = [], []

    def share(process: psutil.Process) -> float:
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        return (after.user - before.user + after.system - before.system) / seconds * 100

    with kernel() as ours:
        ours.fit(5)
        process = psutil.Process(ours.pid)
        for _ in range(rounds):
            idle.append(share(process))
            ours.cell(f"{FIT.format(model='Small', callback='[]')} --max_epochs -1 --background")
            time.sleep(3)
            watching.append(share(process))
            ours.cell("run.stop(); run.wait()")
    show("watch: the kernel alone", idle, "% of a core")
    show("watch: with a background run", watching, "% of a core", 2)


def runs(rounds: int) -> None:
    with kernel() as ours:
        ours.cell("run = %lightning_fit Small batches --accelerator cpu --max_steps 5 --logger false")
        first = Path(ours.value("run.log_dir"))
        for number in range(1, 1000):
            folder = ours.folder / first.with_name(f"version_{number}")
            folder.mkdir(parents=True)
            shutil.copy(ours.folder / first / "run.json", folder)
        show("runs: %lightning_runs of 1,000", [ours.cell("%lightning_runs") for _ in range(rounds)], "s", 0.5)


def slurm(rounds: int) -> None:
    """Submit → first step, beside ``sbatch`` of a plain Lightning script; on a queue that is empty."""
    found: dict[str, list[float]] = {"our cell": [], "script": []}
    with cluster(), kernel() as ours:
        for _ in range(rounds):
            for name, fit in (
                ("our cell", lambda: ours.fit(5, where=NODES)),
                ("script", lambda: sbatch(ours.folder, 5)),
            ):
                clock, start = fit()
                found[name].append(clock["first"] - start)
    for name, values in found.items():
        show(f"slurm: two nodes submit to first step, {name}", values, "s")
    pairs = zip(found["our cell"], found["script"], strict=True)
    show("slurm: our cell / script", [ours / theirs for ours, theirs in pairs], "×")


def sbatch(folder: Path, steps: int) -> tuple[dict[str, float], float]:
    """Fit in a script that is submitted, as `Kernel.fit`."""
    where = "num_nodes=2, devices=1"
    (folder / "script.py").write_text(MODEL + SCRIPT.format(steps=steps, strategy="ddp", where=where))
    options = ["--wait", "--nodes=2", "--ntasks-per-node=1", "--time=10", "--output=script.log"]
    command = f"srun {sys.executable} script.py"
    start = time.time()
    subprocess.run(
        ["sbatch", *options, f"--wrap={command}"], cwd=folder, check=True, capture_output=True, env=environment()
    )
    return json.loads((folder / "clock.json").read_text()), start


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A Slurm cluster: the one that this machine is of, else two hosts that the tests bring up."""
    if not subprocess.run(["sinfo"], check=False, capture_output=True).returncode:
        yield
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from cluster import started

    with started() as made:
        before = dict(os.environ)
        os.environ.update(made.environment, PATH=f"{made.commands}{os.pathsep}{os.environ['PATH']}")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


WHAT = {
    "launch": launch,
    "speed": speed,
    "weights": weights,
    "memory": memory,
    "watch": watch,
    "runs": runs,
    "slurm": slurm,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=[*WHAT, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for chosen, measure in WHAT.items():
        if asked.what in (chosen, "all"):
            print(f"{chosen}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            measure(asked.rounds)
