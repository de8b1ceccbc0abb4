"""What the live view costs a fit: the same small model with no bar, Lightning's own, and ours.

The three take turns in one real kernel. A step's time is that of the training loop, from its first batch to
its last; messages are all that the kernel publishes while the cell runs, over the time of the whole cell.
Run: python benchmarks/overhead.py [ROUNDS] [STEPS]
"""

import statistics
import sys
import tempfile
import time
from typing import Any

from jupyter_client.manager import start_new_kernel

SETUP = """
import logging, time, warnings
import torch
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
%load_ext lightning_magics
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
torch.set_num_threads(1)

class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

class Clock(pl.Callback):
    def on_train_start(self, trainer, model):
        self.start = time.perf_counter()

    def on_train_end(self, trainer, model):
        self.step_us = (time.perf_counter() - self.start) / trainer.global_step * 1e6

def loader(batches):
    return DataLoader(TensorDataset(torch.ones(batches * 8, 32)), batch_size=8)

def plain(epochs, batches, bar):
    clock = Clock()
    logger = TensorBoardLogger(".", name="plain")
    trainer = pl.Trainer(max_epochs=epochs, enable_progress_bar=bar, logger=logger, callbacks=[clock])
    trainer.fit(Small(), loader(batches))
    return clock
"""
EPOCHS = 5
WAYS = {
    "no bar": "clock = plain({epochs}, {batches}, bar=False)",
    "Lightning's bar": "clock = plain({epochs}, {batches}, bar=True)",
    "%lightning_fit": "clock = Clock()\nbatches = loader({batches})\n"
    "%lightning_fit Small batches --max_epochs {epochs} --callbacks [clock]",
}


def measure(client: Any, code: str) -> tuple[float, float, float]:
    """Run one cell; return µs a step, messages a second and the seconds of the whole cell."""
    messages = 0

    def count(message: dict[str, Any]) -> None:
        nonlocal messages
        messages += message["msg_type"] not in ("status", "execute_input")

    start = time.perf_counter()
    reply = client.execute_interactive(code, output_hook=count, store_history=False)
    cell_s = time.perf_counter() - start
    if reply["content"]["status"] != "ok":
        raise SystemExit("\n".join(reply["content"]["traceback"]))
    answer = client.execute_interactive("", user_expressions={"us": "clock.step_us"}, output_hook=lambda _: None)
    step_us = float(answer["content"]["user_expressions"]["us"]["data"]["text/plain"])
    return step_us, messages / cell_s, cell_s


def main(rounds: int, steps: int) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        manager, client = start_new_kernel(cwd=folder)
        try:
            client.execute_interactive(SETUP)
            for code in WAYS.values():  # the first of each pays for imports
                measure(client, code.format(epochs=1, batches=100))
            for number in range(rounds):
                ways = list(WAYS)
                for way in ways[number % 3 :] + ways[: number % 3]:
                    code = WAYS[way].format(epochs=EPOCHS, batches=steps // EPOCHS)
                    found[way].append(measure(client, code))
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    report(found, steps)


def report(found: dict[str, list[tuple[float, float, float]]], steps: int) -> None:
    """Print medians; what a way costs over no bar is the median over rounds, for a machine's speed drifts."""
    none = [step_us for step_us, _, _ in found["no bar"]]
    print(f"{steps} steps, median of {len(none)} rounds")
    print(f"{'':18}{'µs/step':>10}{'over none':>12}{'ratio':>8}{'messages/s':>13}{'cell':>10}")
    for way, rows in found.items():
        step_us, rate, cell_s = (statistics.median(column) for column in zip(*rows, strict=True))
        added = [row[0] - base for row, base in zip(rows, none, strict=True)]
        ratio = statistics.median(row[0] / base for row, base in zip(rows, none, strict=True))
        print(
            f"{way:18}{step_us:10.1f}{statistics.median(added):+12.1f}{ratio:8.3f}{rate:13.1f}{cell_s:8.2f} s"
            f"   rounds: {', '.join(f'{value:+.0f}' for value in added)}"
        )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*arguments, *(5, 5000)[len(arguments) :])
