"""What a person sees in JupyterLab, in a real browser."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import lab
import nbformat
import pytest
from PIL import Image

from lightning_magics.launch.stop_from_outside import kill
from lightning_magics.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(lab.CHROMIUM is None, reason="needs the browser Chromium")

# The fit goes on until the test has seen enough, and then to its end.
FIT = """
import sys, time, pathlib
sys.path.insert(0, {tests!r})
from simulated import fit
from lightning_magics.views import view as views
view = views.open_view(log_dir="logs/Digits/version_3")
go_on, waited = pathlib.Path("seen"), 0
for place, event in enumerate(fit(epochs=3)):
    view.handle(event)
    while 15 <= place <= 20 and not go_on.exists() and waited < 30:
        view.handle(event)
        time.sleep(0.1)
        waited += 0.1
view.close()
"""


BARS = ".jp-OutputArea [role=progressbar]"
STOP = '.jp-OutputArea button:text-is("Stop")'
CURVE = ".jp-OutputArea svg[aria-label=loss] polyline"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    """JupyterLab over an empty folder."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    with lab.lab(folder) as jupyter:
        yield jupyter
    for record in folder.glob("lightning_logs/*/*/run.json"):  # a run in the background outlives all that
        kill(RunFolder(record.parent))


@dataclass(frozen=True)
class Seen:
    """A fit as it was seen live, and the notebook that was saved at its end."""

    text: str
    bars: int
    notebook: nbformat.NotebookNode


@pytest.fixture(scope="module")
def seen(jupyter: lab.Lab, request: pytest.FixtureRequest) -> Seen:
    """Run the notebook of a fit, look while it goes on, and save it when it has ended."""
    lab.write_notebook(jupyter.folder / "fit.ipynb", FIT.format(tests=str(request.path.parent)))
    jupyter.open_notebook("fit.ipynb")
    jupyter.run_all()
    jupyter.wait_for_text("epoch 2/3")
    jupyter.page.wait_for_selector(CURVE, state="attached")
    text, bars = jupyter.outputs(), jupyter.page.locator(BARS).count()
    (jupyter.folder / "seen").touch()
    jupyter.wait_for_text("completed")
    jupyter.wait_idle()
    return Seen(text, bars, jupyter.save("fit.ipynb"))


def assert_report(jupyter: lab.Lab) -> None:
    """The page shows the report of the fit: its table, and its curves as an image that has loaded."""
    jupyter.wait_for_text("completed: 3 epochs, 1,980 steps")
    assert re.search(r"2\s+0\.0714\s+0\.1108\s+0\.9168\s★", jupyter.outputs())
    assert jupyter.page.evaluate("document.querySelector('.jp-OutputArea img').naturalWidth") > 500
    assert "Error displaying widget" not in jupyter.outputs()
    assert jupyter.page.locator(BARS).count() == 0


def test_a_fit_is_shown_live(seen):
    assert seen.bars == 2
    for text in (
        "Digits · version_3 · 2 × cpu",
        "epoch 2/3",
        "interrupt the kernel (■) to stop after the current batch",
    ):
        assert text in seen.text
    assert re.search(r"val_accuracy\s+time\s+1\s+0\.2671\s+0\.3329\s+0\.7772\s★", seen.text)


def test_what_is_saved_is_html_and_text_without_a_widget(seen):
    (output,) = seen.notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    state = seen.notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    assert not state.get("state")


def test_the_saved_notebook_reads_without_running(seen, jupyter):
    jupyter.open_notebook("fit.ipynb")
    assert_report(jupyter)


def test_the_saved_notebook_reads_where_it_is_not_trusted(seen, jupyter):
    stranger = nbformat.from_dict(seen.notebook)
    stranger.cells[0].source += "# changed by a stranger"
    nbformat.write(stranger, jupyter.folder / "stranger.ipynb")
    jupyter.open_notebook("stranger.ipynb", trusted=False)
    assert_report(jupyter)


def test_the_saved_notebook_reads_as_html(seen, jupyter):
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "fit.ipynb"]
    subprocess.run(command, cwd=jupyter.folder, check=True, capture_output=True)
    page = jupyter.page.context.browser.new_page()
    page.goto((jupyter.folder / "fit.html").as_uri(), wait_until="domcontentloaded")
    assert "completed: 3 epochs, 1,980 steps" in page.inner_text("body")
    assert page.evaluate("document.querySelector('.jp-OutputArea img').naturalWidth") > 500
    page.close()


DIGITS = (
    """%load_ext lightning_magics
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset""",
    """%%lightning_model Digits --loss cross_entropy --metrics accuracy --lr 1e-3
hidden: int = 128                       # an annotated assignment is a hyperparameter
dropout: float = 0.1
nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))""",
    """%%lightning_data digits --batch_size 64 --val_split 0.2
X, y = load_digits(return_X_y=True)
TensorDataset(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y))""",
)


def open_digits(jupyter: lab.Lab, *cells: str) -> None:
    """Open a notebook that begins with the digits; its kernel is that of the test before, which has all imported."""
    lab.write_notebook(jupyter.folder / "digits.ipynb", *DIGITS, *cells)
    jupyter.open_notebook("digits.ipynb")


def test_the_first_notebook_of_a_user_reaches_nine_tenths(jupyter):
    fit = "run = %lightning_fit Digits digits --max_epochs 5 --model.hidden 256 --seed 1"
    open_digits(jupyter, fit, "'reached', run.metrics['val_accuracy'] > 0.9")
    jupyter.run_all()
    jupyter.wait_for_text("('reached', True)", timeout_s=120)
    jupyter.wait_idle()
    shown = jupyter.outputs()
    assert "completed: 5 epochs, 115 steps" in shown
    assert "★" in shown
    saved = jupyter.save("digits.ipynb")
    assert len(str(saved.cells[3].outputs)) < 100_000
    jupyter.open_notebook("digits.ipynb")
    jupyter.wait_for_text("completed: 5 epochs, 115 steps")
    assert jupyter.page.evaluate("document.querySelector('.jp-OutputArea img').naturalWidth") > 500
    assert "Error displaying widget" not in jupyter.outputs()


def test_the_interrupt_button_ends_a_fit_and_the_next_cell_has_the_run(jupyter):
    fit = "run = %lightning_fit Digits digits --max_epochs 100000"
    status = "'status', run.status, run.trainer.global_step > 0, next(run.model.parameters()).device.type"
    open_digits(jupyter, fit, status)
    jupyter.run_all()
    jupyter.wait_for_text("steps/s", timeout_s=120)
    jupyter.interrupt()
    jupyter.wait_for_text("('status', 'interrupted', True, 'cpu')")
    jupyter.wait_idle()
    assert re.search(r"interrupted in epoch \d+, after [\d,]+ steps; weights kept", jupyter.outputs())
    assert jupyter.page.locator(BARS).count() == 0


def test_stop_ends_a_background_fit_while_other_cells_run(jupyter):
    fit = "run = %lightning_fit Digits digits --max_epochs 100000 --background"
    stopped = "run.wait(); 'stopped', run.status, run.record.steps > 0"
    open_digits(jupyter, fit, "'free', run.status", stopped)
    for place in range(5):
        jupyter.run_cell(place)
    jupyter.wait_for_text("('free', 'running')", timeout_s=120)
    jupyter.wait_for_text("steps/s")
    jupyter.page.click(STOP)
    jupyter.wait_for_text("weights kept")
    jupyter.run_cell(5)
    jupyter.wait_for_text("('stopped', 'interrupted', True)")
    jupyter.wait_idle()
    assert jupyter.page.locator(STOP).count() == 0
    (output,) = [item for item in jupyter.save("digits.ipynb").cells[3].outputs if "data" in item]
    assert set(output.data) == {"text/html", "text/plain"}


def test_the_interrupt_button_ends_a_fit_in_two_processes(jupyter):
    fit = "run = %lightning_fit Digits digits --max_epochs 100000 --ddp 2"
    status = "'status', run.status, run.record.steps > 0, next(run.model.parameters()).device.type"
    open_digits(jupyter, fit, status)
    jupyter.run_all()
    jupyter.wait_for_text("steps/s", timeout_s=120)
    assert "2 × cpu" in jupyter.outputs()
    jupyter.interrupt()
    jupyter.wait_for_text("('status', 'interrupted', True, 'cpu')")
    jupyter.wait_idle()
    assert re.search(r"interrupted in epoch \d+, after [\d,]+ steps; weights kept", jupyter.outputs())


def test_a_background_fit_outlives_the_page_and_the_kernel(jupyter):
    fit = "run = %lightning_fit Digits digits --max_epochs 100000 --background"
    attach = "again = %lightning_attach Digits/version_{}"
    open_digits(jupyter, fit, "'name', run.name", "", "again.wait(); again")
    for place in range(5):
        jupyter.run_cell(place)
    jupyter.wait_for_text("('name', 'Digits/version_", timeout_s=120)
    jupyter.wait_for_text("steps/s")
    version = re.search(r"\('name', 'Digits/version_(\d+)'\)", jupyter.outputs())[1]
    jupyter.save("digits.ipynb")

    jupyter.page.reload(wait_until="domcontentloaded")  # the kernel goes on, and shows the fit in the new page
    jupyter.wait_for_text("steps/s")
    assert jupyter.page.locator(STOP).count() == 1

    jupyter.restart_kernel()
    jupyter.edit_cell(5, attach.format(version))
    for place in (0, 1, 2, 5):
        jupyter.run_cell(place)
    jupyter.page.click(f'.jp-Cell[data-windowed-list-index="5"] {STOP}', timeout=60_000)
    jupyter.wait_for_text("weights kept")
    jupyter.run_cell(6)
    jupyter.wait_idle()
    assert "Digits/version_" + version in jupyter.outputs() or f"version_{version}" in jupyter.outputs()


BOARD = ".jp-OutputArea object[type='text/html']"


def shown_curve(jupyter: lab.Lab, metric: str) -> str:
    """Wait until the last frame of a board shows a metric's curve; returns the frame's address."""
    jupyter.page.wait_for_selector(f"{BOARD}[data]", timeout=60_000)
    url = jupyter.page.locator(BOARD).last.get_attribute("data")
    until = time.monotonic() + 60
    while not (found := [frame for frame in jupyter.page.frames if frame.url.startswith(url.partition("?")[0])]):
        assert time.monotonic() < until, [frame.url for frame in jupyter.page.frames]
        jupyter.page.wait_for_timeout(100)
    board = found[-1]
    board.fill("input[placeholder='Filter tags (regex)']", f"^{metric}$", timeout=60_000)
    chart = board.wait_for_selector(f"card-view:has-text('{metric}') line-chart canvas", timeout=60_000)
    while not has_colour(chart.screenshot()):
        assert time.monotonic() < until, board.inner_text("body")
        jupyter.page.wait_for_timeout(200)
    assert "Digits/version_" in board.inner_text("body")
    return url


def has_colour(picture: bytes) -> bool:
    """Whether a curve is drawn: the rest of a chart is white and grey."""
    _, saturation, _ = Image.open(io.BytesIO(picture)).convert("HSV").split()
    return sum(saturation.histogram()[60:]) > 50


def test_the_board_shows_a_running_fit_after_its_server_and_its_kernel_were_killed(jupyter):
    calm = (
        "import os, time\nimport pytorch_lightning as pl\nfrom lightning_magics.views.board import servers as boards\n"
        "class Calm(pl.Callback):\n    def on_train_batch_end(self, *args):\n        time.sleep(0.05)"
    )
    fit = "run = %lightning_fit Digits digits --max_epochs 100000 --background --callbacks [Calm()] --board"
    pids = "'pids', os.getpid(), [server._process.pid for server in boards._servers.values()]"
    open_digits(jupyter, calm, fit, "%lightning_board --height 560", pids)
    for place in range(5):
        jupyter.run_cell(place)
    beside_fit = shown_curve(jupyter, "train_loss_step")
    assert re.search(r"\?runFilter=%5EDigits%2Fversion_\d+%24$", beside_fit)
    jupyter.run_cell(6)
    jupyter.wait_for_text("('pids', ")
    kernel, server = map(int, re.search(r"\('pids', (\d+), \[(\d+)\]\)", jupyter.outputs()).groups())

    os.kill(server, signal.SIGKILL)
    jupyter.run_cell(5)
    jupyter.wait_idle()
    assert shown_curve(jupyter, "train_loss_step") == beside_fit.partition("?")[0]

    os.kill(kernel, signal.SIGKILL)
    jupyter.page.click(".jp-Dialog button:has-text('Ok')", timeout=30_000)
    jupyter.wait_idle()
    jupyter.edit_cell(0, "%load_ext lightning_magics")
    jupyter.run_cell(0)
    jupyter.run_cell(5)
    jupyter.wait_idle()
    shown_curve(jupyter, "train_loss_step")

    saved = jupyter.save("digits.ipynb")
    (output,) = saved.cells[5].outputs
    output.data["text/html"] = output.data["text/html"].replace(":600", ":1600")  # as if the server had gone
    saved.cells = saved.cells[5:6]
    nbformat.write(saved, jupyter.folder / "tomorrow.ipynb")
    for trusted in (True, False):
        jupyter.open_notebook("tomorrow.ipynb", trusted=trusted, kernel=False)
        jupyter.wait_for_text("Its server stops with the kernel; %lightning_board --height 560 starts it again.")
