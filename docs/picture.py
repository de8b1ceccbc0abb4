"""Takes docs/live-fit.png: a fit while it runs, in a real JupyterLab and a real browser.

Run: python docs/picture.py
"""

import os
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))

import lab  # noqa: E402 -- found where the tests keep it

CELLS = (
    """%load_ext lightning_magics
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset""",
    """%%lightning_model Digits --loss cross_entropy --metrics accuracy --lr 2e-4
hidden: int = 128
nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))""",
    """%%lightning_data digits --batch_size 16 --val_split 0.2
X, y = load_digits(return_X_y=True)
TensorDataset(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y))""",
    "run = %lightning_fit Digits digits --max_epochs 12 --seed 1 --model.hidden 256 --monitor val_accuracy",
)
# How far the fit is to have come, whatever the speed of the machine.
EPOCHS = 6
HAS_COME = """epochs => [...document.querySelectorAll('.jp-OutputArea')].some(
    area => Number(/epoch (\\d+)\\/12/.exec(area.innerText)?.[1]) > epochs)"""


def main() -> None:
    """Run the notebook, and look at it in the middle of its fit."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a tiny network is slower on several
    with tempfile.TemporaryDirectory() as folder, lab.lab(Path(folder, "notebooks")) as jupyter:
        lab.write_notebook(jupyter.folder / "digits.ipynb", *CELLS)
        jupyter.page.set_viewport_size({"width": 1000, "height": 960})
        jupyter.open_notebook("digits.ipynb")
        jupyter.page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        jupyter.run_all()
        jupyter.page.wait_for_function(HAS_COME, arg=EPOCHS, timeout=280_000)
        jupyter.page.locator(".jp-Notebook").screenshot(path=str(DOCS / "live-fit.png"))
        jupyter.interrupt()
        jupyter.wait_idle(120)


if __name__ == "__main__":
    main()
