"""Showing a run while it goes on, and what stays of it: live in a notebook, as text in a terminal, or quietly.

When to draw is decided here; what a run looks like is in `report`, what is known of it in `progress`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from lightning_magics import report
from lightning_magics.events import Event, Started
from lightning_magics.progress import RunState
from lightning_magics.shell import running_kernel
from lightning_magics.terminal import TextView

_SHARE = 0.01  # most of the run's time that drawing may take
_FASTEST_S = 0.15  # a front end is not sent more, whatever is asked for: at most 10 messages a second in all
_BODY_S = 1.0
HINT = "interrupt the kernel (■) to stop after the current batch"


class View(Protocol):
    """Shows a run: takes its events, and at the end leaves the result."""

    state: RunState

    def handle(self, event: Event) -> None:
        """Take in an event, and draw if it is time to."""

    def close(self) -> None:
        """Show the result in place of the progress, and undo what the view changed; a second call does nothing.

        Called also when the run, or `handle`, raised.
        """


def open_view(quiet: bool = False, refresh_s: float = 0.25, log_dir: str = "") -> View:
    """Return the view that fits where this code runs.

    Args:
        quiet: show nothing but one line at the end.
        refresh_s: seconds from one drawing to the next, at least.
        log_dir: folder of the run, shown in the result.
    """
    state = RunState(log_dir)
    kernel = running_kernel()
    if quiet:
        return LineView(state)
    if kernel is None:
        return TextView(state, refresh_s) if _in_terminal() else QuietView(state)
    if not _interactive(kernel):
        return QuietView(state)
    try:
        import ipywidgets  # noqa: F401 -- whether it can be imported at all
    except Exception as error:  # a broken installation fails in its own ways; training goes on without it
        print(f"No live view: ipywidgets cannot be imported ({error}). Type: %pip install ipywidgets")  # noqa: T201
        return TextView(state, refresh_s, bar=False)
    return LiveView(state, refresh_s)


def _in_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # a process without one has None there, a daemon a closed one
        return False


def _interactive(kernel: Any) -> bool:
    """Whether a person sits before the notebook: nbclient, papermill and jupyter execute allow no input.

    ipykernel keeps this part of the request that it executes under a private name. Its public `get_parent` fails in
    threads of ipykernel 7.0.
    """
    return bool(getattr(kernel, "_allow_stdin", True))


class Pace:
    """When to draw next: not before `every_s`, and never more than `share` of the time since the start.

    Args:
        every_s: seconds from one drawing to the next, at least.
        share: most of the time that drawing may take.
    """

    def __init__(self, every_s: float, share: float = _SHARE) -> None:
        self.due = 0.0
        self._every_s = every_s
        self._share = share
        self._start = time.perf_counter()
        self._spent = 0.0

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Measure a drawing, and set when the next is due."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self._spent += now - begun
            self.due = max(now + self._every_s, self._start + self._spent / self._share)


class LiveView:
    """The live view of a notebook, of core ipywidgets; at the end static html takes its place.

    Widgets are two, status and body, so that what changes often is small. Both are plain html: nothing needs a script
    of its own, which VS Code, Colab and JupyterHub would have to fetch.
    """

    def __init__(self, state: RunState, refresh_s: float) -> None:
        self.state = state
        self._refresh_s = max(refresh_s, _FASTEST_S)
        self._pace = Pace(self._refresh_s)
        self._body_due = 0.0
        self._drawn = 0
        self._box: Any = None
        self._handle: Any = None
        self._closed = False

    def handle(self, event: Event) -> None:
        """Take in an event, and draw if it is time to."""
        self.state.apply(event)
        if type(event) is Started:
            self._open()
        elif time.perf_counter() >= self._pace.due and self._box is not None:
            with self._pace.drawing():
                self._draw()

    def _open(self) -> None:
        """Display the widgets. They share one layout and one style: fewer messages to open and to close."""
        import ipywidgets
        from IPython.display import display

        first = report.html_status(self.state, HINT)
        layout = ipywidgets.Layout(width="100%")
        status = ipywidgets.HTML(first, layout=layout)
        body = ipywidgets.HTML("", layout=layout, style=status.style)
        self._box = ipywidgets.VBox([status, body], layout=layout)
        bundle = dict(self._box._repr_mimebundle_())
        bundle["text/plain"] = report.text(self.state)  # what a front end without widgets shows
        self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._pace = Pace(self._refresh_s)  # opening is once; only what is drawn again and again is counted

    def _draw(self) -> None:
        status, body = self._box.children
        status.value = report.html_status(self.state, HINT)
        now = time.perf_counter()
        if now >= self._body_due and self.state.points != self._drawn:
            self._drawn = self.state.points
            self._body_due = now + _BODY_S
            body.value = report.html_body(self.state)

    def close(self) -> None:
        """Put the static result in the widgets' place, so that the saved notebook reads without a kernel.

        The widgets are closed whatever fails before.
        """
        if self._closed or self.state.started is None:
            return
        self._closed = True
        with contextlib.ExitStack() as closing:
            if self._box is not None:
                status, body = self._box.children
                for widget in (status.style, self._box.layout, self._box, body, status):
                    closing.callback(widget.close)
            self.state.end()
            bundle = report.mimebundle(self.state)
            if self._handle is None:  # displaying the widgets failed
                _display(bundle)
            else:
                self._handle.update(bundle, raw=True)


class QuietView:
    """Nothing while the run goes on; at the end the result: for nbclient, papermill, scripts and pipes."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._closed = False

    def handle(self, event: Event) -> None:
        """Take in an event."""
        self.state.apply(event)

    def close(self) -> None:
        """Show the result."""
        if self._closed or self.state.started is None:
            return
        self._closed = True
        self.state.end()
        self._show()

    def _show(self) -> None:
        if running_kernel() is None:
            print(report.text(self.state))  # noqa: T201 -- the user's terminal, pipe or log
        else:
            _display(report.mimebundle(self.state))


class LineView(QuietView):
    """One line at the end: for ``--quiet``."""

    def _show(self) -> None:
        print(report.line(self.state))  # noqa: T201


def _display(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(bundle, raw=True)  # type: ignore[no-untyped-call]
