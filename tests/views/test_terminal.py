from __future__ import annotations

import io
import os
import re
import sys

import pexpect
import pytest
from simulated import fit, spawned

from lightning_magics.runs.events import Ended, Launched, Printed, Queued
from lightning_magics.views.state import RunState
from lightning_magics.views.terminal import TextView

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from simulated import fit
from lightning_magics.views import view as views
from lightning_magics.runs.events import Notice, Step
view = views.open_view(refresh_s=0.0, log_dir="logs/Digits/version_3")
for place, event in enumerate(fit(epochs=2)):
    view.handle(event)
    if place == 3:
        print("a line of the user's")
        print("half a line, ", end="", file=sys.stderr)
    if place == 5:
        print("and its other half", file=sys.stderr)
        view.handle(Notice("There is no validation data for some reason that takes a while to explain."))
view.close()
view.close()
print("streams are", "back" if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ else "lost")
"""


def run(tests: str, columns: int) -> tuple[str, list[str]]:
    """Run the script in a terminal; return what it wrote, and the lines that stay visible."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    child = pexpect.spawn(
        sys.executable,
        ["-c", SCRIPT.format(tests=tests)],
        dimensions=(40, columns),
        encoding="utf-8",
        env=environment,
    )
    child.expect(pexpect.EOF, timeout=60)
    raw = child.before
    return raw, [line.split("\r")[-1].rstrip() for line in raw.replace("\r\n", "\n").split("\n")]


def test_a_terminal_shows_a_row_for_each_epoch_and_the_bar_breaks_nothing(request):
    raw, lines = run(str(request.path.parents[1]), 100)
    assert [line for line in lines if line] == [
        "Digits · version_3 · 2 × cpu · bf16-mixed · 1.24 M parameters",
        "a line of the user's",
        "half a line, and its other half",
        "⚠ There is no validation data for some reason that takes a while to explain.",
        "epoch  train_loss  val_loss  val_accuracy      time",
        "    1      0.2671    0.3329        0.7772     0.7 s",
        "    2     0.07136    0.1108        0.9000     0.7 s",
        "completed: 2 epochs, 1,320 steps in 1.3 s",
        "best val_accuracy 0.9000 in epoch 2 (higher is better)",
        "logs/Digits/version_3",
        "streams are back",
    ]
    assert re.search(r"epoch 1/2, step 660/660 \|█+\| 1,000 steps/s · 1 s left · 1.0 GB", raw)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_streams_come_back_whatever_fails_at_the_end(monkeypatch):
    def broken() -> None:
        raise RuntimeError("the bar broke")

    streams = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    view = TextView(RunState(), 0.0)
    for event in list(fit(epochs=1))[:4]:
        view.handle(event)
    assert sys.stdout is not streams[0]
    monkeypatch.setattr(view._bar, "close", broken)
    with pytest.raises(RuntimeError, match="the bar broke"):
        view.close()
    assert (sys.stdout, sys.stderr) == streams


def test_a_stream_that_others_replaced_in_the_meantime_stays(monkeypatch):
    terminal, theirs = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    view = TextView(RunState(), 0.0)
    for event in fit(epochs=1):
        view.handle(event)
    monkeypatch.setattr(sys, "stdout", theirs)
    view.close()
    assert (sys.stdout, sys.stderr) == (theirs, terminal)
    assert "completed: 1 epoch" in theirs.getvalue()


def test_a_narrow_terminal_is_not_overrun(request):
    raw, lines = run(str(request.path.parents[1]), 44)
    assert "epoch 2  train_loss 0.07136  val_loss 0.1108" in lines
    assert "  val_accuracy 0.9000  0.7 s" in lines
    assert "⚠ There is no validation data for some" in lines
    assert max(len(part) for part in re.split(r"[\r\n]+", raw) if "█" in part) <= 44


def test_what_ranks_print_is_printed_with_their_rank(capsys):
    view = TextView(RunState(), 0.0, bar=False)
    for event in list(spawned(processes=2, epochs=1))[:4]:
        view.handle(event)
    assert capsys.readouterr().out.splitlines() == [
        "Digits · version_3 · starting 2 processes …",
        "rank 0 │ 0.0 of 0",
        "rank 1 │ 0.0 of 1",
        "Digits · version_3 · 2 × cpu · bf16-mixed · 1.24 M parameters",
    ]


def test_prints_do_not_flood_a_terminal_and_the_end_says_where_they_are(monkeypatch, capsys):
    monkeypatch.setattr("time.perf_counter", lambda: 5.0)
    view = TextView(RunState(), 0.0, bar=False)
    view.handle(Launched("Digits/version_3", "fit", 0.0, 1))
    for place in range(1000):
        view.handle(Printed(0, f"\x1b[31m{place}"))
    view.handle(Ended("failed", 1.0, error="E: x"))
    view.close()
    assert capsys.readouterr().out.splitlines()[1:] == [
        *map(str, range(50)),
        "… 950 printed lines not shown here: run.logs(0)",
        "failed: E: x",
    ]


def test_a_job_in_the_queue_is_told_when_its_place_changes(capsys):
    view = TextView(RunState(), 0.0, bar=False)
    view.handle(Launched("Digits/version_3", "fit", 0.0, 2))
    for position, start in ((2, 1_790_000_000.0), (2, 1_790_000_060.0), (1, 1_790_000_060.0)):
        view.handle(Queued("waiting for resources (Resources)", position, 2, start))
    view.handle(Queued(""))
    told = [line for line in capsys.readouterr().out.splitlines() if "queue" in line]
    assert [line.partition(":")[0] for line in told] == ["in the queue, 2 of 2", "in the queue, 1 of 2"]


def test_what_is_said_at_the_end_stands_on_a_line_of_its_own(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", Terminal())
    view = TextView(RunState(), 0.0)
    for event in list(fit(epochs=2))[:4]:  # the bar is what was written last
        view.handle(event)
    view.handle(Ended("failed", 0.1, error="ValueError: here"))
    view.close()
    monkeypatch.undo()
    shown = [line.split("\r")[-1] for line in terminal.getvalue().split("\n")]
    assert "failed in epoch 1: ValueError: here" in shown
