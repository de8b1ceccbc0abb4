"""A real kernel, and the cells that tests begin with."""

import ast
import json
import queue
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
import signal, time
import torch
import pytorch_lightning as pl
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
%load_ext lightning_magics
"""
DIGITS = """%%lightning_model Digits --loss cross_entropy --metrics accuracy --lr 1e-3
hidden: int = 128                       # an annotated assignment is a hyperparameter
dropout: float = 0.1
nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))
"""
DATA = """%%lightning_data digits --batch_size 64 --val_split 0.2
X, y = load_digits(return_X_y=True)
TensorDataset(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y))
"""
FIT = "run = %lightning_fit Digits digits --max_epochs 5 --model.hidden 256 --seed 1"
WIDGET = "application/vnd.jupyter.widget-view+json"
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass
class Cell:
    """What a cell came to."""

    status: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """The error as the front end shows it, without colors."""
        shown = [message["content"]["traceback"] for message in self.messages if message["msg_type"] == "error"]
        return ANSI.sub("", "\n".join(shown[0])) if shown else ""

    @property
    def text(self) -> str:
        """All that was printed."""
        return "".join(message["content"].get("text", "") for message in self.messages)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What a notebook would save: each display in its last state."""
        saved: dict[str, dict[str, Any]] = {}
        for message in self.messages:
            if message["msg_type"] in ("display_data", "update_display_data"):
                content = message["content"]
                saved[content["transient"].get("display_id") or message["header"]["msg_id"]] = content["data"]
        return list(saved.values())


class Kernel:
    """A real kernel, driven as a front end drives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager, self.client = start_new_kernel(cwd=str(folder))

    def send(self, code: str) -> str:
        return self.client.execute(code)

    def finish(self, sent: str, until: str | None = None, timeout_s: float = 120) -> Cell:
        """Collect what the cell publishes until it is done, or until it has printed a text."""
        cell = Cell()
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=timeout_s)
            except queue.Empty:
                pytest.fail(f"the kernel said nothing for {timeout_s} s; so far:\n{cell.text}")
            if message["parent_header"].get("msg_id") != sent:
                continue
            cell.messages.append(message)
            if until is not None and until in cell.text:
                return cell
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        reply = self.client.get_shell_msg(timeout=timeout_s)
        while reply["parent_header"].get("msg_id") != sent:
            reply = self.client.get_shell_msg(timeout=timeout_s)
        cell.reply = reply["content"]
        cell.status = cell.reply["status"]
        return cell

    def cell(self, code: str) -> Cell:
        return self.finish(self.send(code))

    def run(self, *cells: str) -> None:
        """Run cells that must succeed."""
        for code in cells:
            cell = self.cell(code)
            assert cell.status == "ok", cell.error

    def value(self, expression: str) -> Any:
        """Value of an expression that JSON can hold."""
        sent = self.client.execute("import json", user_expressions={"value": f"json.dumps({expression})"})
        found = self.finish(sent).reply["user_expressions"]["value"]
        assert found["status"] == "ok", f"{expression}: {found['ename']}: {found['evalue']}"
        return json.loads(ast.literal_eval(found["data"]["text/plain"]))

    def interrupt_when(self, code: str, text: str) -> str:
        """Start a cell and interrupt it as soon as it has printed a text."""
        sent = self.send(code)
        self.finish(sent, until=text)
        self.manager.interrupt_kernel()
        return sent

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
