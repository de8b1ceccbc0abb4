"""From end to end: cells in real kernels and in a real terminal."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from kernel import ANSI, DATA, DIGITS, FIT, SETUP, WIDGET, Kernel

SLOW = """
class Slow(pl.LightningModule):
    seconds = 0.02

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            print("training now")
        time.sleep(self.seconds if batch_idx >= 3 else 0)
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for the tests of this module: a failed or interrupted fit must leave it usable."""
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        kernel.run(SETUP, DIGITS, DATA, SLOW)
        yield kernel
    finally:
        kernel.stop()


def test_the_digits_of_the_design_reach_nine_tenths(kernel: Kernel) -> None:
    kernel.run(FIT)
    assert kernel.value("[run.status, len(run.history)]") == ["completed", 5]
    assert kernel.value("run.metrics['val_accuracy']") > 0.9
    assert kernel.value("run.history[-1]['val_accuracy']") == kernel.value("run.metrics['val_accuracy']")
    assert (kernel.folder / kernel.value("str(run.log_dir)") / "run.json").is_file()


def test_the_final_display_is_plain_html_and_text_of_bounded_size(kernel: Kernel) -> None:
    cell = kernel.cell(FIT)
    assert cell.status == "ok", cell.error
    assert len(cell.outputs) == 1
    assert "val_accuracy" in cell.outputs[0]["text/html"]
    assert "val_accuracy" in cell.outputs[0]["text/plain"]
    assert WIDGET not in cell.outputs[0]
    assert len(json.dumps(cell.outputs)) < 100_000


def test_the_first_interrupt_returns_the_run_with_its_weights(kernel: Kernel) -> None:
    sent = kernel.interrupt_when(
        "before = signal.getsignal(signal.SIGINT)\n"
        "run = %lightning_fit Slow digits --max_epochs 100\n"
        "same = signal.getsignal(signal.SIGINT) is before",
        "training now",
    )
    cell = kernel.finish(sent)
    assert cell.status == "ok", cell.error
    assert kernel.value("[run.status, same]") == ["interrupted", True]
    assert kernel.value("run.trainer.global_step") > 3
    assert kernel.value("float(run.model.layer.weight.detach().abs().sum())") > 0
    saved = json.loads((kernel.folder / kernel.value("str(run.log_dir)") / "run.json").read_text())
    assert saved["status"] == "interrupted"


def test_the_second_interrupt_raises_at_once(kernel: Kernel) -> None:
    kernel.run("class Stuck(Slow):\n    seconds = 60")
    sent = kernel.interrupt_when(
        "handler = signal.getsignal(signal.SIGINT)\n%lightning_fit Stuck digits", "training now"
    )
    time.sleep(1)  # two signals at the same instant are one
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(sent, timeout_s=40)
    assert cell.status == "error"
    assert "KeyboardInterrupt" in cell.error
    assert kernel.value("signal.getsignal(signal.SIGINT) is handler") is True
    kernel.run(FIT)


def test_two_kernels_that_fit_at_the_same_moment_get_two_versions(kernel: Kernel) -> None:
    other = Kernel(kernel.folder)
    try:
        other.run(SETUP, DATA, DIGITS, "%lightning_fit Digits digits --max_steps 1 --quiet")  # all is imported
        for both in (kernel, other):
            both.run(DIGITS.replace("Digits", "Twin"))
        at = time.time() + 1
        fit = f"while time.time() < {at}: pass\nrun = %lightning_fit Twin digits --max_steps 5 --quiet"
        sent = [both.send(fit) for both in (kernel, other)]
        for both, cell in zip((kernel, other), sent, strict=True):
            done = both.finish(cell)
            assert done.status == "ok", done.error
    finally:
        other.stop()
    folders = sorted(path.name for path in (kernel.folder / "lightning_logs" / "Twin").iterdir())
    assert folders == ["version_0", "version_1"]
    records = [json.loads(path.read_text()) for path in kernel.folder.glob("lightning_logs/Twin/*/run.json")]
    assert [record["status"] for record in records] == ["completed", "completed"]


def test_an_error_of_the_users_code_shows_their_line_and_not_ours(kernel: Kernel) -> None:
    kernel.run(
        "%%lightning_model Broken --lr 0.1\n"
        "def __init__(self):\n"
        "    self.layer = nn.Linear(64, 10)\n\n"
        "def training_step(self, batch, batch_idx):\n"
        "    raise ValueError(f'cannot take batch {batch_idx}')\n"
    )
    cell = kernel.cell("%lightning_fit Broken digits --max_epochs 1")
    assert cell.status == "error"
    assert "ValueError: cannot take batch 0" in cell.error
    assert "----> 6     raise ValueError" in cell.error
    assert "lightning_magics/" not in cell.error
    newest = max(kernel.folder.glob("lightning_logs/Broken/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    record = json.loads(newest.read_text())
    assert record["status"] == "failed"
    assert record["error"] == "ValueError: cannot take batch 0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%lightning_fit Digits digits --max_epoch 3", r"--max_epoch.*Did you mean '(--)?max_epochs'"),
        ("%lightning_fit Digts digits", r"Digts.*Did you mean 'Digits'"),
        ("%lightning_fit Digits digits --max_epochs three", "max_epochs.*three"),
        ("%lightning_fit Digits digits --model.hiden 3", r"hiden.*Did you mean '(--model\.)?hidden'"),
        ("%lightning_fit", "MODEL"),
    ],
)
def test_a_typo_is_one_line_that_fails_the_cell(kernel: Kernel, line: str, message: str) -> None:
    before = len(list(kernel.folder.glob("lightning_logs/*/*")))
    cell = kernel.cell(line)
    assert cell.status == "error"
    assert re.search(message, cell.error)
    assert len(cell.error.splitlines()) == 1
    assert len(list(kernel.folder.glob("lightning_logs/*/*"))) == before


class Terminal:
    """IPython in a terminal."""

    def __init__(self, folder: Path) -> None:
        arguments = ["-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit", "--colors=nocolor"]
        self.child = pexpect.spawn(
            sys.executable, arguments, cwd=str(folder), encoding="utf-8", timeout=90, dimensions=(40, 110)
        )
        self._number = 1
        self.wait()

    def wait(self) -> None:
        """Wait until the next cell may be typed."""
        self.child.expect_exact(f"In [{self._number}]: ")

    def enter(self, cell: str) -> None:
        """Type a cell; blank lines end it, and a cell magic takes two of them."""
        lines = [line for line in cell.splitlines() if line.strip()]
        for line in lines + [""] * (0 if len(lines) == 1 else 2 if cell.startswith("%%") else 1):
            self.child.sendline(line)
        self._number += 1


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One terminal for the tests of this module."""
    terminal = Terminal(tmp_path_factory.mktemp("terminal"))
    for cell in (*SETUP.strip().splitlines(), DIGITS, DATA, SLOW):
        terminal.enter(cell)
        terminal.wait()
    yield terminal
    terminal.child.close(force=True)


def test_a_terminal_shows_progress_and_the_final_table(terminal: Terminal) -> None:
    terminal.enter(FIT)
    terminal.wait()
    shown = ANSI.sub("", terminal.child.before).replace("\r", "\n")
    assert re.search(r"^ *epoch +.*val_accuracy", shown, re.M), shown
    assert re.search(r"^ *5 .* 0\.9\d", shown, re.M), shown
    assert "completed: 5 epochs" in shown
    assert "<div" not in shown


def test_ctrl_c_in_a_terminal_returns_the_run(terminal: Terminal) -> None:
    terminal.enter("run = %lightning_fit Slow digits --max_epochs 100")
    terminal.child.expect_exact("training now")
    terminal.child.sendintr()
    terminal.wait()
    terminal.enter("print('status', 'is', run.status)")
    terminal.child.expect_exact("status is interrupted")


def test_a_terminal_trains_in_two_processes_and_in_the_background(terminal: Terminal) -> None:
    for cell, text in (
        ("run = %lightning_fit Slow digits --max_steps 6 --ddp 2", "completed: 1 epoch, 6 steps"),
        ("run = %lightning_fit Slow digits --max_epochs 100 --background", "is running in the background"),
        ("print('it', 'is', run.status)", "it is running"),
        ("again = %lightning_attach {run.name}", ""),
        ("%lightning_stop {run.name}", "will stop after the current batch and be saved"),
        ("print('then', run.wait().status)", "then interrupted"),
    ):
        terminal.enter(cell)
        if text:
            terminal.child.expect_exact(text)
        else:
            terminal.wait()


PLACED = """

%%lightning_model Placed --loss mse_loss

width: int = 1

def on_train_start(self):
    raise RuntimeError("seen on line 8")
nn.Linear(2, width)"""


def test_code_of_a_cell_stands_in_the_lines_of_that_cell(kernel: Kernel) -> None:
    kernel.run(SETUP)
    kernel.run(PLACED)
    kernel.run(PLACED.replace("Placed", "Other").replace("seen", "never seen"))
    kernel.run("import inspect, ipykernel.compiler")
    kernel.run(f"name = ipykernel.compiler.get_file_name({PLACED!r})")
    found = kernel.cell(
        "print(Placed.on_train_start.__code__.co_filename == name, inspect.getsource(Placed.on_train_start))"
    )
    assert found.text == 'True def on_train_start(self):\n    raise RuntimeError("seen on line 8")\n\n'
    failed = kernel.cell("%lightning_fit Placed (torch.rand(8, 2), torch.rand(8, 1)) --max_epochs 1")
    assert re.search(r"Cell In\[\d+\], line 8, in ", failed.error)
    assert '----> 8     raise RuntimeError("seen on line 8")' in failed.error
