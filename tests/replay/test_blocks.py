"""Runs that are made in a loop, a function or another block: each is loaded, run again and exported as it was."""

import ast
import json
import os
from pathlib import Path

import pytest

from lightning_magics.replay import blocks
from lightning_magics.runs import folder as runs

HEAD = """
import torch, numpy as np, pytorch_lightning as pl
import lightning_magics as lm
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
X = torch.randn(32, 4)
ds = TensorDataset(X, (X.sum(1) > 0).long())
dl = DataLoader(ds, batch_size=4)
K = dict(max_epochs=1, quiet=True, seed=1)
class Net(pl.LightningModule):
    def __init__(self, lr=0.1, w=1.0):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x * torch.as_tensor(self.hparams.w).float()), y)
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
"""
LOOP = """
kept = []
for bs in (8, 16):
    ld = DataLoader(ds, batch_size=bs)
    kept.append(lm.fit(Net, ld, **K))
"""
INSTANCES = """
kept = []
for a, b in ((dl, 0.1), (dl, 0.3)):
    for factor in range(1, 3):
        torch.manual_seed(3)
        net = Net(b * factor)
        with open("log.txt", "w") as log:
            try:
                kept.append(lm.fit(net, a, **K))
            except ValueError:
                pass
"""
FUNCTION = """
def sweep(data, bs):
    size = 2 * bs
    ld = DataLoader(data, batch_size=size)
    pair = (ld, DataLoader(data, batch_size=2))
    return lm.fit(Net, *pair, **K)
ld = None
kept = [sweep(ds, bs) for bs in (2, 4)]
"""
COMPREHENSION = """
named = {4: dl, 8: DataLoader(ds, batch_size=8)}
kept = list({size: lm.fit(Net, named[size], model={"w": np.arange(4.) * size}, **K) for size in named}.values())
"""
COUNTER = """
kept, size = [], 2
while size < 8:
    size += 2
    ld = DataLoader(ds, batch_size=size)
    kept.append(lm.fit(Net, ld, **K))
    size += 1
"""
DRAWN = """
kept = []
for fold in range(3):
    order = torch.randperm(32)
    noise = np.random.default_rng().normal(size=4)
    train, rest = torch.utils.data.random_split(ds, [24, 8])
    ld = DataLoader(torch.utils.data.Subset(ds, order[:fold + 9].tolist()), batch_size=4)
    ld = [ld, DataLoader(train, batch_size=5), ld][fold]
    kept.append(lm.fit(Net, ld, model={"w": noise}, **K))
"""
FOLDS = """
kept = []
splits = (np.random.default_rng().permutation(32) for _ in range(3))
for fold, part in enumerate(splits):
    ld = DataLoader(torch.utils.data.Subset(ds, part[:20]), batch_size=4)
    kept.append(lm.fit(Net, ld, **K))
"""
MAGIC = """
def go(bs):
    ld = DataLoader(ds, batch_size=bs)
    return get_ipython().run_line_magic("lightning_fit", "Net ld --max_epochs 1 --quiet --seed 1")
kept = [go(8), go(16)]
"""


def run(shell, *cells):
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


def number():
    return len(list(Path("lightning_logs/Net").glob("version_*")))


@pytest.mark.parametrize("cell", [LOOP, INSTANCES, FUNCTION, COMPREHENSION, COUNTER, DRAWN, FOLDS, MAGIC])
def test_a_run_made_in_a_block_is_loaded_run_again_and_exported_as_it_was(shell, cell):
    run(shell, HEAD, cell)
    kept = shell.user_ns["kept"]
    assert len({one.metrics["loss"] for one in kept}) == len(kept)
    for place, one in enumerate(kept):
        before = number()
        run(shell, f"net_ = lm.load(kept[{place}])")
        assert number() == before
        again = shell.ev(f"lm.rerun(kept[{place}], quiet=True)")
        assert getattr(again, "run", again).metrics == one.metrics
        assert number() == before + 1
        run(shell, f"lm.export(kept[{place}], 'train_{place}.py')")
    text = Path("train_0.py").read_text()
    assert "lightning_magics" not in text
    assert "for " not in text.split("if __name__")[0].split("def main")[0]


def test_what_a_loop_draws_is_recorded_by_value_or_said_to_be_other_numbers(shell, capsys):
    loop = """
for fold in range(2):
    order = torch.randperm(32)
    noise = torch.rand(200, 200)
    ld = DataLoader(TensorDataset(X[order] + noise[:32, :4], ds.tensors[1][order]), batch_size=4)
    run = lm.fit(Net, ld, **K)
"""
    run(shell, HEAD, loop, "lm.rerun(run, quiet=True)")
    source = Path(shell.user_ns["run"].log_dir, "source.py").read_text()
    assert "order = torch.tensor(" in source
    assert "randperm" not in source
    assert "noise = torch.rand(200, 200)\n" in source
    said = (
        "Net/version_1 drew noise in a loop or function, and its source draws different random numbers. "
        "Set a seed just before that line: torch.manual_seed(fold)"
    )
    assert f"· {said}\n" in capsys.readouterr().out
    run(shell, "lm.export(run, 'train.py')")
    assert f"the numbers of the script may differ from the run's: {said}\n" in capsys.readouterr().out
    assert said in Path("train.py").read_text()


def test_the_last_iteration_of_a_loop_that_has_ended_is_what_later_fits_need(shell):
    run(shell, HEAD, LOOP, "run = lm.fit(Net, ld, **K)")
    source = Path(shell.user_ns["run"].log_dir, "source.py").read_text()
    assert "bs = 16\nld = DataLoader(ds, batch_size=bs)\n" in source
    run(shell, "bs = 99", "later = lm.fit(Net, ld, **K)")
    assert list(shell.user_ns["later"].record.recipe["missing"]) == ["bs"]


def test_what_changes_by_itself_is_missing_and_never_guessed(shell):
    loop = "for _ in range(2):\n    ld = DataLoader(ds, batch_size=size)\n    size += 2\n    run = lm.fit(Net, ld, **K)"
    run(shell, HEAD, f"size = 2\n{loop}")
    why = "it changes from one iteration of a loop to the next. Create it inside the loop, before the fit"
    assert shell.user_ns["run"].record.recipe["missing"] == {"size": why}
    with pytest.raises(Exception, match=rf"Net/version_1 needs size, which its source lacks: {why}$"):
        shell.ev("lm.rerun(run, quiet=True)")
    with pytest.raises(Exception, match=rf"cannot be exported. Its source lacks size: {why}$"):
        shell.ev("lm.export(run, 'train.py')")


def test_a_line_that_starts_a_run_gives_values_alone(shell):
    cells = [
        "def score(bs):\n    return lm.fit(Net, DataLoader(ds, batch_size=bs), **K).metrics['loss']",
        "loss = score(8)\nlr = min(0.5, 2 * loss)",
        "run = lm.fit(Net, dl, model={'lr': lr}, **K)\nmodel = run.model",
        "ld = DataLoader(ds, batch_size=max(2, int(loss)))\nother = lm.fit(Net, ld, **K)",
        "last = lm.fit(model, dl, **K)",
    ]
    run(shell, HEAD, *cells)
    source = Path(shell.user_ns["other"].log_dir, "source.py").read_text()
    assert f"loss = {shell.user_ns['loss']!r}\nld = DataLoader" in source
    assert "score" not in source
    assert "lm." not in Path(shell.user_ns["last"].log_dir, "source.py").read_text()


def test_source_of_an_earlier_version_that_would_train_is_refused(shell):
    run(shell, HEAD, "run = lm.fit(Net, dl, **K)")
    folder = runs.RunFolder(Path("lightning_logs/Net/version_0"))
    loop = "for v in (1, 2):\n    dl = DataLoader(ds, batch_size=v)\n    lm.fit(Net, dl)\n"
    record = json.loads(folder.record_path.read_text())
    record["recipe"]["missing"] = {"lm": "it belongs to lightning_magics, and the code must run without"}
    folder.record_path.write_text(json.dumps(record))
    folder.source_path.write_text(folder.source_path.read_text() + loop)
    for call in ("load", "rerun"):
        why = (
            r"cannot be repeated: its recorded source starts a run in line \d+ \(for v in \(1, 2\):\)\. For its weights"
        )
        with pytest.raises(Exception, match=why):
            shell.ev(f"lm.{call}('Net/version_0')")
    assert os.listdir("lightning_logs/Net") == ["version_0"]


@pytest.mark.parametrize(
    ("code", "line", "found"),
    [
        ("for i in x:\n    a = i\n    if a:\n        b = 1\n        fit()\n    c = 2", 5, ["a = i", "b = 1"]),
        ("for i in x:\n    if i: continue\n    a = i\n    fit()", 4, ["a = i"]),
        ("for i in x:\n    a = i\n    if a: break\n    b = i", None, ["a = i"]),
        ("while x:\n    for j in y:\n        a = j\n    fit()", 4, ["for j in y:\n    a = j"]),
        ("if x:\n    a = 1", None, []),
        ("with lock:\n    a = 1", None, []),
        ("with open(p) as f:\n    a = 1", None, ["a = 1"]),
        ("with torch.no_grad():\n    a = net(x)\n    fit()", None, []),
        ("with suppress(E):\n    a = 1\n    fit()", 3, []),
        ("for i in x:\n    a = await i\n    b = i", None, ["a = await i", "b = i"]),
        ("try:\n    a = 1\n    fit()\nexcept E:\n    b = 2\nelse:\n    c = 3", 3, ["a = 1"]),
        ("try:\n    a = 1\nexcept E:\n    b = 2\n    fit()", 5, []),
    ],
)
def test_what_has_run_in_a_block(code, line, found):
    (tree,) = ast.parse(code).body
    parts = blocks.executed_in_block(tree, line, lambda item: "fit" in ast.unparse(item))
    assert [ast.unparse(part) for part in parts if isinstance(part, ast.stmt)] == found


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("if x:\n    a = 1", "created in an if block, which"),
        ("async with x:\n    a = 1", "created in a with block, which"),
        (
            "for i in x:\n    if i: break\n    a = i",
            "created after a break that may have skipped it. Create it before that line",
        ),
        ("for i in x:\n    if i: continue\n    a = i", "created after a continue that may have skipped it"),
        ("for i in x:\n    b = yield i\n    a = i", "created after a yield that may have skipped it"),
    ],
)
def test_why_a_value_of_a_block_is_not_recorded(code, why):
    (tree,) = ast.parse(code).body
    parts = [part for part in blocks.executed_in_block(tree, None, bool) if isinstance(part, blocks.SkippedCode)]
    assert why in next(part.reason for part in reversed(parts) if "a" in part.binds)
    assert all(blocks.is_lost(part.reason) for part in parts)
