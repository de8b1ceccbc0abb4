"""Faults of runs in processes of their own, in real kernels: ranks, supervisors, templates and kernels that die."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel import DATA, SETUP, Cell, Kernel

from lightning_magics.runs.folder import RunFolder

NET = """
import os, sys, threading, ctypes
class Net(pl.LightningModule):
    at = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def fault(self, rank):
        pass

    def training_step(self, batch, batch_idx):
        if batch_idx == self.at:
            print("training", os.getpid())
            self.fault(self.global_rank)
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Wrong(Exception):
    "Of the notebook, with a constructor of its own, and something that cannot be pickled."
    def __init__(self, what, code):
        super().__init__(what)
        self.what, self.code, self.lock = what, code, threading.Lock()

def wrong(what):
    raise Wrong(what, 3)

def fail(text):
    raise ValueError(text)
"""


FIT = "run = %lightning_fit Net digits --max_epochs 1 --limit_train_batches 6 --limit_val_batches 2"
LIMIT_S = 150  # until something that comes at all is taken to have failed, on a machine that is busy


class Notebook(Kernel):
    """A kernel, and the processes of its runs: they have its working folder too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run(SETUP, DATA, NET)
        self.pid = self.value("os.getpid()")
        self.run(f"os.environ['TMPDIR'] = {str(folder)!r}")

    @property
    def template(self) -> int:
        return int(self.value("sys.modules['lightning_magics.launch.start']._template._process.pid"))

    def processes(self) -> set[int]:
        """Of runs: neither the kernel, nor the template, its child."""
        found = {pid for pid in pids() if linked(f"/proc/{pid}/cwd") == str(self.folder)}
        return {pid for pid in found if pid != self.pid and parent(pid) != self.pid}

    def wait_for_none(self) -> None:
        until(lambda: not self.processes())

    def fit(self, fault: str = "None", more: str = "--ddp 2", at: int = 2) -> Cell:
        return self.cell(self.faulty(fault, more, at))

    def faulty(self, fault: str, more: str = "--ddp 2", at: int = 2) -> str:
        """A cell whose fit does something in one batch, an expression of `self` and `rank`."""
        return f"Net.fault, Net.at = lambda self, rank: {fault}, {at}\n{FIT} {more}"

    def interrupt_when_training(self, fit: str, fault: str) -> str:
        """Start a fit and interrupt it in a batch; returns what was sent."""
        sent = self.send(f"Net.fault, Net.at = lambda self, rank: {fault}, 2\n{fit}")
        until(lambda: self.processes() and self.record()["pid"] and printed(self))
        self.manager.interrupt_kernel()
        return sent

    def record(self, root: Path | None = None) -> dict[str, Any]:
        """Of the run that was started last."""
        paths = (root or self.folder / "lightning_logs").glob("*/*/run.json")
        records = [dict(json.loads(path.read_text()), folder=path.parent) for path in paths]
        return max(records, key=lambda record: record["started"], default={})


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def linked(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def state(pid: int) -> list[str]:
    """Fields of its state from the third on: how it is, its parent, …; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def parent(pid: int) -> int:
    return int((state(pid) or ["", "0"])[1])


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for many faults: after each of them it must be as before."""
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        yield notebook
    finally:
        notebook.stop()
    until(lambda: not [pid for pid in pids() if linked(f"/proc/{pid}/cwd") == str(notebook.folder)])


@pytest.fixture(autouse=True)
def _nothing_left(notebook: Notebook) -> Iterator[None]:
    """After each test nothing of a run is left: no process, shared memory or socket, nor a finalizer that failed."""
    before = set(os.listdir("/dev/shm"))
    yield
    notebook.wait_for_none()
    until(lambda: not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith(("torch_", "sem."))])
    until(lambda: not list(notebook.folder.glob("pymp-*")))
    logs = [path.read_text(errors="replace") for path in notebook.folder.rglob("rank_*.log")]
    assert not [text for text in logs if "multiprocessing/util.py" in text]


def works(notebook: Notebook) -> None:
    """The next fit works, and leaves nothing that only its processes needed."""
    cell = notebook.fit()
    assert cell.status == "ok", cell.error
    record = notebook.record()
    assert record["status"] == "completed"
    names = {path.name.split(".")[0].split("_")[0] for path in record["folder"].iterdir()}
    assert names.isdisjoint({"job", "control", "error", "predictions", ""})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("fail('in each')", "ValueError: in each"),
        ("rank == 0 and fail('in the first')", "ValueError: in the first"),
        ("rank == 1 and wrong('of the notebook')", "Wrong: of the notebook"),
        (
            "rank == 1 and (threading.Thread(target=time.sleep, args=(1000,)).start(), fail('beside a thread'))",
            "ValueError: beside a thread",
        ),
    ],
)
def test_a_rank_that_raises_shows_the_line_of_the_users_cell(notebook: Notebook, fault: str, error: str) -> None:
    cell = notebook.fit(fault)
    assert cell.status == "error"
    assert error in cell.error
    assert "self.fault(self.global_rank)" in cell.error
    assert "Raised in rank" in cell.error
    assert "lightning_magics/" not in cell.error
    assert notebook.record()["status"] == "failed"
    assert notebook.record()["error"] == error
    notebook.wait_for_none()
    works(notebook)


def test_what_a_loaders_worker_raises_is_shown_and_its_like_are_gone(notebook: Notebook) -> None:
    notebook.run(
        "class Bad(TensorDataset):\n"
        "    def __getitem__(self, place):\n"
        "        if place == 200: fail('sample 200')\n"
        "        return super().__getitem__(place)\n"
        "bad = DataLoader(Bad(torch.rand(400, 64), torch.zeros(400, dtype=torch.long)), 32, num_workers=2)\n"
        "Net.fault = lambda self, rank: None"
    )
    cell = notebook.cell("%lightning_fit Net bad --max_epochs 1 --ddp 2")
    assert cell.status == "error"
    assert "sample 200" in cell.error
    notebook.wait_for_none()


def test_an_error_before_the_first_batch_is_told_too(notebook: Notebook) -> None:
    notebook.run("class Early(Net):\n    def setup(self, stage):\n        fail('in setup')")
    assert "ValueError: in setup" in notebook.cell("%lightning_fit Early digits --ddp 2").error
    notebook.run(
        "def unmade(): fail('on arrival')\n"
        "class Part:\n    def __reduce__(self): return unmade, ()\n"
        "class Unmade(Net):\n    def __init__(self):\n        super().__init__()\n        self.part = Part()"
    )
    assert "ValueError: on arrival" in notebook.cell("%lightning_fit Unmade digits --ddp 2").error


def test_a_live_model_keeps_its_weights_when_the_run_fails(notebook: Notebook) -> None:
    notebook.run("net = Net()\nbefore = net.layer.weight.detach().clone()")
    notebook.run("Net.fault, Net.at = lambda self, rank: rank == 1 and os._exit(3), 4")
    assert notebook.cell("%lightning_fit net digits --max_epochs 1 --ddp 2").status == "error"
    assert notebook.value("bool(torch.equal(net.layer.weight, before))") is True


@pytest.mark.parametrize(
    ("fault", "more", "said"),
    [
        ("rank == 1 and os.kill(os.getpid(), 9)", "--ddp 2", "rank 1 of 2 was killed by SIGKILL"),
        ("rank == 0 and os._exit(3)", "--ddp 2", "rank 0 of 2 exited with code 3"),
        ("rank == 1 and os._exit(0)", "--ddp 2", "rank 1 of 2 exited with code 0 before the run was complete"),
        ("rank == 1 and os.abort()", "--ddp 2", "rank 1 of 2 was killed by SIGABRT"),
        ("rank == 0 and os.kill(os.getpid(), 15)", "--ddp 2", "rank 0 of 2 was killed by SIGTERM"),
        ("rank == 1 and os.kill(os.getpid(), 15)", "--ddp 2", "rank 1 of 2 was killed by SIGTERM"),
        ("os.kill(os.getpid(), 15)", "--ddp 1", "the process of the run was killed by SIGTERM"),
        ("rank == 0 and ctypes.string_at(0)", "--ddp 2 --data.num_workers 2", "rank 0 of 2 was killed by SIGSEGV"),
    ],
)
def test_a_rank_that_dies_is_named_with_the_end_of_its_log(
    notebook: Notebook, fault: str, more: str, said: str
) -> None:
    cell = notebook.fit(fault, more)
    assert cell.status == "error"
    assert said in cell.error
    assert re.search(r"Last lines of its log:\n(.*\n)*training \d+", cell.error)
    assert notebook.record()["error"].startswith(said)
    notebook.wait_for_none()


def test_a_child_of_a_rank_that_is_terminated_ends_alone(notebook: Notebook) -> None:
    notebook.run(
        "def terminated():\n"
        "    import multiprocessing\n"
        "    made = multiprocessing.get_context('fork').Process\n"
        "    children = [made(target=time.sleep, args=(1000,)) for _ in range(9)]\n"
        "    for child in children:\n"
        "        child.start()\n"
        "        child.terminate()\n"
        "        child.join()\n"
        "    print([child.exitcode for child in children] == [-signal.SIGTERM] * 9, 'exit codes')"
    )
    cell = notebook.fit("rank == 1 and terminated()")
    assert cell.status == "ok", cell.error
    assert "True exit codes" in notebook.cell("print(run.logs(1))").text


def test_too_little_memory_shows_as_the_error_that_it_is(notebook: Notebook) -> None:
    limited = (
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (1 << 34, 1 << 34)), bytearray(1 << 35)"
    )
    assert "MemoryError" in notebook.fit(f"rank == 1 and ({limited})").error


def processes_of(notebook: Notebook, cell: str) -> tuple[str, dict[str, int]]:
    """Start a fit in the cell, wait until it trains; returns what was sent and its processes: supervisor and ranks."""
    sent = notebook.send(cell)
    until(lambda: len(notebook.processes()) >= 2 and notebook.record()["status"] == "running" and printed(notebook))
    supervisor = notebook.record()["pid"]
    ranks = {pid for pid in notebook.processes() if parent(pid) == supervisor}
    return sent, {"supervisor": supervisor, **{f"rank {place}": pid for place, pid in enumerate(sorted(ranks))}}


def printed(notebook: Notebook) -> bool:
    logs = list(notebook.record()["folder"].glob("rank_*.log"))
    return bool(logs) and all("training" in log.read_text() for log in logs)


HANG = "time.sleep(1000)"
HALF = "rank == 1 and time.sleep(1000)"  # the other one is in a collective


@pytest.mark.parametrize("fault", [HANG, HALF])
def test_the_supervisor_killed_takes_its_ranks_along(notebook: Notebook, fault: str) -> None:
    sent, found = processes_of(notebook, notebook.faulty(fault))
    os.kill(found["supervisor"], signal.SIGKILL)
    cell = notebook.finish(sent)
    assert "its processes were killed" in cell.error
    notebook.wait_for_none()
    assert notebook.record()["status"] == "failed"
    works(notebook)


def test_a_template_that_was_killed_is_replaced(notebook: Notebook) -> None:
    works(notebook)
    os.kill(notebook.template, signal.SIGKILL)
    works(notebook)
    before = notebook.template
    sent, _ = processes_of(notebook, notebook.faulty("time.sleep(3)"))
    os.kill(before, signal.SIGKILL)
    assert notebook.finish(sent).status == "ok"
    notebook.run(
        "from lightning_magics.launch import start as processes\ntemplate = processes.prewarm('pytorch_lightning')"
    )
    os.kill(notebook.template, signal.SIGKILL)  # as it imports
    works(notebook)


@pytest.mark.parametrize("more", ["--ddp 2", "--ddp 2 --accumulate_grad_batches 3", "--ddp 2 --val_check_interval 2"])
def test_the_first_interrupt_stops_all_ranks_and_returns_the_run(notebook: Notebook, more: str) -> None:
    cell = notebook.finish(
        notebook.interrupt_when_training(f"run = %lightning_fit Net digits --max_epochs 500 {more}", "time.sleep(0.3)")
    )
    assert cell.status == "ok", cell.error
    assert notebook.value("[run.status, run.record.error]") == ["interrupted", ""]
    assert notebook.value("bool(run.model.layer.weight.abs().sum() > 0)") is True
    assert notebook.value("run.record.steps") >= 0


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_an_interrupt_ends_an_evaluation_with_what_it_has(notebook: Notebook, verb: str) -> None:
    notebook.run(
        "def slow(self, batch, batch_idx):\n"
        "    print('training' if batch_idx == 1 else '', os.getpid())\n"
        "    time.sleep(0.1)\n"
        "    return self.layer(batch[0] if isinstance(batch, (list, tuple)) else batch)\n"
        "class Evaluated(Net):\n    test_step = validation_step = predict_step = slow\n"
        "many = TensorDataset(torch.rand(100_000, 64), torch.zeros(100_000, dtype=torch.long))"
    )
    sent = notebook.send(f"run = %lightning_{verb} Evaluated() many --ddp 2")
    until(lambda: notebook.processes() and notebook.record()["verb"] == verb and printed(notebook))
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert cell.status == "ok", cell.error
    assert notebook.value("run.status") == "interrupted"


@pytest.mark.parametrize("fault", [HANG, HALF])
def test_the_second_interrupt_ends_everything_at_once(notebook: Notebook, fault: str) -> None:
    notebook.run("net = Net()\nbefore = net.layer.weight.detach().clone()")
    sent, _ = processes_of(notebook, notebook.faulty(fault).replace("Net digits", "net digits"))
    notebook.manager.interrupt_kernel()
    time.sleep(0.5)  # two signals at the same instant are one
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert "KeyboardInterrupt" in cell.error
    assert notebook.record()["status"] == "interrupted"
    assert notebook.value("bool(torch.equal(net.layer.weight, before))") is True
    works(notebook)


@pytest.mark.parametrize("how", ["interrupts", "--now"])
def test_a_supervisor_that_is_stopped_holds_nothing_up(notebook: Notebook, how: str) -> None:
    more = "--ddp 2" if how == "interrupts" else "--background"
    sent, found = processes_of(notebook, notebook.faulty(HANG, more))
    os.kill(found["supervisor"], signal.SIGSTOP)
    if how == "interrupts":
        notebook.manager.interrupt_kernel()
        time.sleep(0.5)
        notebook.manager.interrupt_kernel()
        assert "KeyboardInterrupt" in notebook.finish(sent).error
    else:
        notebook.finish(sent)
        notebook.run("%lightning_stop last --now", "run.wait()")
    assert notebook.value("get_ipython().run_line_magic('lightning_runs', '').rows[0].status") in (
        ("interrupted", "failed") if how == "--now" else ("interrupted",)
    )
    notebook.wait_for_none()


def test_a_folder_that_is_removed_during_a_fit_of_the_kernel_is_said(notebook: Notebook) -> None:
    for logger in ("False", "tensorboard", "csv"):
        cell = notebook.fit("__import__('shutil').rmtree(self.trainer.default_root_dir)", f"--logger {logger}")
        assert cell.status == "ok", cell.error
        assert "in epoch 1. Its record and checkpoints are lost. " in json.dumps(cell.outputs)
        for text in ("cannot be written", "FileNotFoundError", "checkpoint checkpoints/"):
            assert text not in cell.text + json.dumps(cell.outputs)
    works(notebook)


def is_about_to_start(notebook: Notebook) -> bool:
    """Whether all is prepared, and no process has begun."""
    record = notebook.record()
    return not record["pid"] and record["status"] == "running" and RunFolder(record["folder"]).control_path.exists()


def test_an_interrupt_as_processes_start_gives_a_run_that_was_interrupted(notebook: Notebook) -> None:
    works(notebook)
    os.kill(notebook.template, signal.SIGKILL)  # the next one imports for seconds
    sent = notebook.send(notebook.faulty("None"))
    until(lambda: is_about_to_start(notebook))
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert cell.status == "ok", cell.error
    assert notebook.value("run.status") == "interrupted"
    os.kill(notebook.template, signal.SIGKILL)
    sent = notebook.send(notebook.faulty("None"))
    until(lambda: is_about_to_start(notebook))
    for _ in range(2):
        notebook.manager.interrupt_kernel()
        time.sleep(0.5)
    assert "KeyboardInterrupt" in notebook.finish(sent).error
    assert notebook.record()["status"] == "interrupted"


def test_background_runs_go_on_side_by_side_and_end_as_asked(notebook: Notebook) -> None:
    notebook.run(
        "class Long(Net):\n    def on_train_batch_start(self, *a): time.sleep(0.05)",
        "net = Long()\nbefore = net.layer.weight.detach().clone()\nLong.fault = Long.at = None",
        "a = %lightning_fit net digits --max_epochs 1000 --background\n"
        "b = %lightning_fit Long digits --max_epochs 1000 --background --ddp 2",
    )
    until(lambda: notebook.value("[len(a.metrics) > 0, len(b.metrics) > 0]") == [True, True])
    refused = notebook.cell("a.model").error
    assert "run.wait()" in refused
    assert "run.stop()" in refused
    sent = notebook.send("a.wait()")
    time.sleep(0.5)
    notebook.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in notebook.finish(sent).error
    assert notebook.value("[a.status, b.status]") == ["running", "running"]
    notebook.run("a.stop()\nwhile a.status == 'running': time.sleep(0.05)")
    assert notebook.value("[a.status, bool(torch.equal(net.layer.weight, before))]") == ["interrupted", True]
    notebook.run("a.model")
    assert notebook.value("bool(torch.equal(net.layer.weight, before))") is False
    notebook.run("b.stop(now=True)\nb.wait()")
    assert notebook.value("[b.status, b.record.error]") == ["interrupted", "stopped immediately"]


def test_a_background_run_that_fails_raises_where_it_is_waited_for(notebook: Notebook) -> None:
    assert notebook.fit("fail('behind the scenes')", "--background").status == "ok"
    assert "ValueError: behind the scenes" in notebook.cell("run.wait()").error
    assert notebook.value("run.status") == "failed"
    notebook.run("run = %lightning_fit Net digits --background --limit_train_batches 7.5")
    assert "limit_train_batches" in notebook.cell("run.wait()").error


def test_a_run_whose_folder_is_removed_or_renamed_ends_and_says_so_in_a_line(notebook: Notebook) -> None:
    for more, moved in (("--ddp 2", False), ("--ddp 2 --quiet", True), ("--background", False), ("--background", True)):
        sent, _ = processes_of(notebook, notebook.faulty(HANG, more))
        folder = notebook.record()["folder"]
        folder.rename(notebook.folder / "moved")  # at once: its processes remove files of it too
        if not moved:
            shutil.rmtree(notebook.folder / "moved")
        shown = cell = notebook.finish(sent)
        if more == "--background":
            cell = notebook.cell("run.wait()")
            assert notebook.value("run.status") == "failed"
        assert f"{folder} was removed or renamed during the run" in cell.error
        assert cell.error.endswith("Net in memory keeps its weights from before the fit. Run the cell again")
        assert "run.logs()" not in cell.error
        assert f"lightning_logs/Net/{folder.name}<" not in json.dumps(shown.outputs)
        assert not folder.exists()
        works(notebook)  # under the same name, while processes of the other run may still be there
        notebook.wait_for_none()
        shutil.rmtree(notebook.folder / "moved", ignore_errors=True)


def test_a_record_that_was_broken_meanwhile_holds_nothing_up(notebook: Notebook) -> None:
    sent, _ = processes_of(notebook, notebook.faulty("time.sleep(2)"))
    (notebook.record()["folder"] / "run.json").write_text("{")
    assert notebook.finish(sent).status == "ok"
    assert notebook.value("run.status") == "completed"


def test_a_disk_that_is_full_is_said(notebook: Notebook, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        filler = tmp_path / "filler"
        notebook.run(f"%config LightningMagics.run_dir = {str(tmp_path)!r}")
        notebook.run(
            "def fill():\n"
            f"    with open({str(filler)!r}, 'wb', buffering=0) as file:\n"
            "        try:\n"
            "            while True: file.write(bytes(1000))\n"
            "        except OSError: print('x' * 500_000)"
        )
        notebook.run("fill()")
        assert "No space left" in notebook.fit().error
        for more in ("--ddp 2", "--background", ""):
            filler.unlink()
            cell = notebook.fit("rank == 0 and fill()", more)
            error = notebook.cell("run.wait()").error if more == "--background" else cell.error
            assert "OSError: [Errno 28] No space left on device: " in error
            assert "checkpoints/" in error
            record = notebook.record(tmp_path)  # which another kernel reads too
            assert record["status"] == "failed"
            assert "No space left on device: " in record["error"]
            assert not list(record["folder"].glob("reserve"))
    finally:
        notebook.run("%config LightningMagics.run_dir = 'lightning_logs'")
        notebook.wait_for_none()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_ten_fits_leave_no_file_open_and_no_zombie(notebook: Notebook) -> None:
    def files() -> int:
        return len(os.listdir(f"/proc/{notebook.pid}/fd"))

    notebook.run("import gc")
    for _ in range(2):
        assert notebook.fit().status == "ok"
    notebook.run("gc.collect()")
    before = files()
    for _ in range(10):
        assert notebook.fit().status == "ok"
    notebook.run("gc.collect()")
    until(lambda: files() <= before)  # its threads open one for a moment
    family = (notebook.pid, notebook.template)
    until(lambda: not [pid for pid in pids() if parent(pid) in family and state(pid)[:1] == ["Z"]])


def test_the_idle_template_has_one_thread_no_sockets_of_the_kernel_and_costs_nothing(notebook: Notebook) -> None:
    works(notebook)
    template = notebook.template
    assert len(os.listdir(f"/proc/{template}/task")) == 1
    mine = {linked(f"/proc/{template}/fd/{name}") for name in os.listdir(f"/proc/{template}/fd")}
    kernels = {linked(f"/proc/{notebook.pid}/fd/{name}") for name in os.listdir(f"/proc/{notebook.pid}/fd")}
    assert not {name for name in mine & kernels if name.startswith("socket:")}
    assert len([name for name in mine if name.startswith("socket:")]) == 1
    used = state(template)[11:13]
    time.sleep(3)
    assert state(template)[11:13] == used


def test_ten_thousand_lines_of_each_rank_come_tagged_and_bounded(notebook: Notebook) -> None:
    cell = notebook.fit("[print(f'line {place} of {rank}') for place in range(10_000)]")
    assert cell.status == "ok", cell.error
    shown = json.dumps(cell.outputs)
    assert "line 9999 of 0" in shown
    assert "line 9999 of 1" in shown
    assert len(shown) + len(cell.text) < 100_000


def test_a_run_of_a_kernel_is_not_ended_from_outside(notebook: Notebook) -> None:
    other = Kernel(notebook.folder)
    try:
        other.run("%load_ext lightning_magics")
        sent = notebook.send("Net.at = None\n%lightning_fit Net digits --max_epochs 10000")
        until(lambda: notebook.record().get("pid") == notebook.pid and notebook.record()["status"] == "running")
        for line in ("%lightning_stop last", "%lightning_stop last --now"):
            assert "runs in the kernel of its notebook" in other.cell(line).error
        notebook.manager.interrupt_kernel()
        assert notebook.finish(sent).status == "ok"
        # A child that the fit has left behind keeps nothing alive, and an end that comes late meets nobody.
        notebook.run(
            "class Leaves(pl.Callback):\n"
            "    def on_train_start(self, *a):\n"
            "        self.child = os.fork()\n"
            "        self.child or (time.sleep(1000), os._exit(0))",
            "leaves = Leaves()\nrun = %lightning_fit Net digits --max_epochs 1 --callbacks leaves",
        )
        assert notebook.value("[run.status, run.folder.is_alive()]") == ["completed", False]
        assert "has ended already: completed" in other.cell("%lightning_stop last --now").text
        notebook.run("os.kill(leaves.child, 9); os.waitpid(leaves.child, 0)")
    finally:
        other.stop()


def test_a_kernel_that_is_killed_takes_its_foreground_run_along_and_no_other(
    notebook: Notebook, tmp_path: Path
) -> None:
    killed = Notebook(tmp_path)
    killed.run(
        "class Long(Net):\n    def on_train_batch_start(self, *a): time.sleep(0.05)",
        "b = %lightning_fit Long digits --max_epochs 1000 --background",
        "c = %lightning_fit Long digits --max_epochs 2 --background",
        "d = %lightning_fit Long digits --max_epochs 1000 --background",
        "it = iter(DataLoader(TensorDataset(torch.rand(8, 64)), num_workers=1)); next(it)",
    )
    processes_of(killed, killed.faulty(HANG))
    folder = RunFolder(killed.record()["folder"])
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: not folder.is_alive(), 5)
    assert folder.read().status == "failed"
    killed.stop()  # what is left of its own process group
    b, c, d = (RunFolder(tmp_path / "lightning_logs" / "Long" / f"version_{number}") for number in range(3))
    os.kill(d.read().pid, signal.SIGKILL)
    after = notebook  # which never saw those runs
    after.run(f"%config LightningMagics.run_dir = {str(tmp_path / 'lightning_logs')!r}", "Long = None")
    try:
        until(lambda: not c.is_alive(), 60)
        listed = after.cell("print(repr(get_ipython().run_line_magic('lightning_runs', 'Long')))").text
        assert "running" in next(line for line in listed.splitlines() if "version_0" in line)
        assert "completed" in next(line for line in listed.splitlines() if "version_1" in line)
        assert "failed" in next(line for line in listed.splitlines() if "version_2" in line)
        lacks = after.cell("done = %lightning_attach Long/version_1\ndone.model").error
        assert "the model of Long/version_1 is not defined in this notebook. Run the cell that defines Long" in lacks
        assert "%lightning_load Long/version_1" in lacks
        after.run("class Long(Net): pass", "run = %lightning_attach Long/version_0")
        assert after.value("run.status") == "running"
        after.run("%lightning_stop Long/version_0", "run.wait()")
        assert after.value("[run.status, bool(run.model.layer.weight.abs().sum() > 0)]") == ["interrupted", True]
        assert not b.is_alive()
    finally:
        after.run("%config LightningMagics.run_dir = 'lightning_logs'")
    until(lambda: not [pid for pid in pids() if linked(f"/proc/{pid}/cwd") == str(tmp_path)])


def test_a_background_run_outlives_a_kernel_that_is_killed_while_it_still_starts(tmp_path: Path) -> None:
    killed = Notebook(tmp_path)
    try:
        assert killed.fit(more="--background --ddp 2").status == "ok"  # the first of its kernel: no template is ready
        os.kill(killed.pid, signal.SIGKILL)
        folder = RunFolder(killed.record()["folder"])
        assert folder.is_alive()
        until(lambda: not folder.is_alive())
        record = folder.read()
        assert (record.status, record.steps, record.error) == ("completed", 6, "")
    finally:
        killed.stop()
    until(lambda: not [pid for pid in pids() if linked(f"/proc/{pid}/cwd") == str(tmp_path)])


def test_a_background_run_can_be_ended_before_its_processes_have_begun(notebook: Notebook) -> None:
    works(notebook)
    os.kill(notebook.template, signal.SIGKILL)  # the next one imports for seconds
    notebook.run(notebook.faulty("None", "--background"), "run.stop(now=True)")
    assert "KeyboardInterrupt" not in notebook.cell("run.wait()").error
    assert notebook.value("[run.status, run.record.error]") == ["interrupted", "stopped immediately"]
    works(notebook)


def test_a_thread_of_the_users_holds_no_run_up(notebook: Notebook) -> None:
    soon = "sys.modules['lightning_magics.launch.rank_process'].__dict__.update(_TO_FINISH_S=1)"
    cell = notebook.fit(f"({soon}, threading.Thread(target=time.sleep, args=(1000,), name='sleeper').start())")
    assert cell.status == "ok", cell.error
    assert notebook.value("run.status") == "completed"
    assert "exited while threads were still running: sleeper" in notebook.cell("print(run.logs(1))").text


def test_what_a_rank_raised_is_read_after_the_others_have_ended(notebook: Notebook) -> None:
    (notebook.folder / "heavy.py").write_text(
        "import os, pathlib, time, multiprocessing as m\n"
        f"supervisor = m.current_process().name == 'MainProcess' and os.getpid() != {notebook.pid}\n"
        f"end = time.monotonic() + {LIMIT_S} * supervisor\n"
        "while time.monotonic() < end and not pathlib.Path('seen').exists():\n"
        "    time.sleep(0.05)  # a package that is slow to import\n"
        "class Heavy(Exception): pass\n"
    )
    notebook.run("def heavy():\n    import heavy\n    raise heavy.Heavy('of a package')")
    sent = notebook.send(notebook.faulty(f"heavy() if rank == 1 else {HANG}"))
    until(lambda: notebook.processes() and notebook.record()["status"] == "running" and printed(notebook))
    until(lambda: len(notebook.processes()) == 1, 5)  # the supervisor, which is importing
    (notebook.folder / "seen").touch()
    assert "Heavy: of a package" in notebook.finish(sent).error


def test_a_run_that_is_killed_keeps_the_metrics_that_it_had(notebook: Notebook) -> None:
    fit = notebook.faulty("time.sleep(0.2)").replace("--max_epochs 1", "--max_epochs 10000")
    sent, found = processes_of(notebook, fit)
    until(lambda: notebook.record()["epochs"] >= 1)
    os.kill(found["rank 1"], signal.SIGKILL)
    assert "was killed by SIGKILL" in notebook.finish(sent).error
    record = notebook.record()
    assert 1 <= record["epochs"] < 10_000
    assert record["steps"] >= 6 * record["epochs"]
    assert record["metrics"]["val_loss"] > 0


@pytest.mark.parametrize(
    "spoils", ["import threading; threading.Thread(target=sleep, daemon=True).start()", "os.abort()"]
)
def test_a_package_that_spoils_the_template_is_left_out(notebook: Notebook, tmp_path: Path, spoils: str) -> None:
    (tmp_path / "datasets.py").write_text(
        "import os, sys, time\nsleep = lambda: time.sleep(1000)\n"
        f"if 'lightning_magics.launch.template' in sys.modules: {spoils}\n"
    )
    notebook.run(
        f"from lightning_magics.launch import start as processes\nsys.path.append({str(tmp_path)!r})\nimport datasets",
        "processes.close(); processes._spoilers.clear()",
    )
    try:
        for _ in range(2):
            cell = notebook.fit()
            assert cell.status == "ok", cell.error
            assert "Fast start" not in json.dumps(cell.outputs)
        assert notebook.value("list(processes._spoilers)") == ["datasets"]
    finally:
        notebook.run(f"processes._spoilers.clear()\nsys.path.remove({str(tmp_path)!r})\ndel sys.modules['datasets']")
