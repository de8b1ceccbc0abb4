"""The view of a terminal: a line for each epoch, and below them a bar that what the user prints does not break.

For terminal IPython and scripts; how numbers and tables look is in `formats` and `report`.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from typing import Any, TextIO

from .. import formats
from ..runs.events import Event, Launched, Metrics, Notice, Printed, Queued, Started, Step, Watched
from . import prints, report, tables
from .state import EpochRow, RunState

_NARROWEST = 8  # of a column of numbers
STOPPING = "stopping after this batch …"
_MAX_PRINTED = 1000  # characters of a line that a rank printed


class Terminal:
    """A stream with a bar at its end: whatever else is written comes before the bar.

    Stands in for ``sys.stdout`` and ``sys.stderr`` while a run goes on.

    Args:
        stream: where the text goes.
        bar: the bar at the end, a `tqdm` on the same terminal.

    Attributes:
        stream: as above.
        line_open: whether what was written last is not a complete line yet.
    """

    def __init__(self, stream: TextIO, bar: Any) -> None:
        self.stream = stream
        self._bar = bar
        self.line_open = False

    def write(self, text: str) -> int:
        """Write text where the bar was."""
        if text:
            if not self.line_open:
                self._bar.clear()
            self.line_open = not text.endswith("\n")
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class TextView:
    """Lines of text, and a bar while the run goes on.

    Args:
        state: what is known of the run.
        refresh_s: seconds from one drawing of the bar to the next, at least.
        bar: whether there is one; a notebook without widgets would fill with its traces.
    """

    def __init__(self, state: RunState, refresh_s: float, bar: bool = True) -> None:
        self.state = state
        self._refresh_s = refresh_s
        self._with_bar = bar
        self._bar: Any = None
        self._is_drawn = False
        self._streams: tuple[Terminal, Terminal] | None = None
        self._due = 0.0
        self._names: list[str] = []
        self._shown_notices = 0
        self._stopping = False
        self._waiting: tuple[str, int | None] | None = None
        self._allowance = prints.Allowance()
        self._closed = False

    def handle(self, event: Event) -> None:
        """Take in an event; print what is new, and draw the bar if it is time to."""
        self.state.apply(event)
        if isinstance(event, Step):
            now = time.perf_counter()
            if self._bar is not None and now >= self._due:
                self._due = now + self._refresh_s
                self._draw(event)
        elif isinstance(event, Printed):
            self._print_lines(event)
        elif isinstance(event, Launched):
            self._allowance = prints.Allowance(event.processes)
            self._say_header()
        elif isinstance(event, Started):
            self._open()
        elif isinstance(event, Metrics) and event.epoch_done:
            self._print_row(self.state.rows[event.epoch])
        elif isinstance(event, Notice):
            self._print_notices()
        elif isinstance(event, Queued):
            self._say_waiting()
        elif isinstance(event, Watched) and event.stopping and not self._stopping:
            self._stopping = True
            _say(STOPPING)

    def _say_header(self) -> None:
        _say(" · ".join(filter(None, report.header(self.state))))

    def _say_waiting(self) -> None:
        """Say how the job waits, when that has changed; that it is expected a little later is no change."""
        queued = self.state.queued
        waiting = (queued.reason, queued.position) if queued else None
        if waiting != self._waiting and queued is not None:
            _say(report.waiting(self.state))
        self._waiting = waiting

    def _open(self) -> None:
        self._say_header()
        if not self._with_bar or self._bar is not None:
            return
        from tqdm import tqdm

        class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
            monitor_interval = 0  # no thread: the bar is drawn where the run is

        self._bar = Bar(total=1, file=sys.stdout, leave=False, dynamic_ncols=True, delay=self._refresh_s)
        self._streams = (Terminal(sys.stdout, self._bar), Terminal(sys.stderr, self._bar))
        sys.stdout, sys.stderr = self._streams

    def _draw(self, step: Step) -> None:
        if self._streams is None or any(stream.line_open for stream in self._streams):
            return  # the user's line is not complete: the bar would run into it
        label, facts = report.position(self.state), [fact for fact in report.step_facts(self.state) if fact]
        while facts and len(label) + sum(len(fact) + 3 for fact in facts) + _NARROWEST > _width():
            facts.pop()
        self._bar.bar_format = " ".join(["{desc} |{bar}|", " · ".join(facts)])
        self._bar.total, self._bar.n = step.batches or 1, step.batch if step.batches else 0
        self._bar.set_description_str(label, refresh=False)
        self._bar.refresh()
        self._is_drawn = True

    def _print_row(self, row: EpochRow) -> None:
        """Print an epoch: as a row under its header, or where the terminal is too narrow as running text."""
        names = self.state.metrics
        widths = [max(len(name), _NARROWEST) for name in names]
        cells = [formats.number(row.values[name]) if name in row.values else "" for name in names]
        epoch, width = str(row.epoch + 1), _width()
        if 5 + sum(widths) + 2 * len(names) + 2 + _NARROWEST > width:
            pairs = "  ".join(f"{name}\u00a0{cell}" for name, cell in zip(names, cells, strict=True) if cell)
            whole = f"epoch {epoch}  {pairs}  {formats.duration(row.time_s)}"
            filled = textwrap.fill(whole, width, subsequent_indent="  ", break_on_hyphens=False)
            _say(filled.replace("\u00a0", " "))
            return
        if names != self._names:
            self._names = names
            _say(self._line("epoch", names, widths, "time"))
        _say(self._line(epoch, cells, widths, formats.duration(row.time_s)))

    @staticmethod
    def _line(epoch: str, cells: list[str], widths: list[int], time: str) -> str:
        middle = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([epoch.rjust(5), *middle, time.rjust(_NARROWEST)])

    def _print_notices(self) -> None:
        for remark in report.notices(self.state)[self._shown_notices :]:
            _say(textwrap.fill(remark, _width(), subsequent_indent="  "))
        self._shown_notices = len(self.state.notices)

    def _print_lines(self, event: Printed) -> None:
        """Print what a rank printed, as far as that does not flood the terminal."""
        now_s = time.perf_counter()
        shown = [line for line in prints.lines(event.text) if self._allowance.take(event.rank, now_s)]
        if shown:
            tag = report.rank_prefix(self.state, event.rank)
            _say("\n".join(tag + formats.clip(line, _MAX_PRINTED) for line in shown))

    def close(self) -> None:
        """Remove the bar, restore the streams, and print how the run ended."""
        if self._closed or not self.state.run:
            return
        self._closed = True
        self._restore_streams()
        self.state.end()
        if self.state.results and (table := report.table(self.state)):
            _say(tables.text_table(table, _width()))
        if omitted := self._allowance.omitted:
            lines = formats.plural(sum(omitted.values()), "printed line")
            _say(f"… {lines} not shown here: {report.log_call(omitted)}")
        for line in report.ending_lines(self.state):
            _say(line)

    def _restore_streams(self) -> None:
        """Take the bar away, and put the streams back where they are still ours."""
        if self._streams is None:
            return
        stdout, stderr = self._streams
        try:
            if self._is_drawn and not any(stream.line_open for stream in self._streams):
                self._bar.clear()  # closing does so only where it drew the bar by itself
            self._bar.close()
        finally:
            if sys.stdout is stdout:
                sys.stdout = stdout.stream
            if sys.stderr is stderr:
                sys.stderr = stderr.stream


def _width() -> int:
    return shutil.get_terminal_size().columns


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 -- the user's terminal
