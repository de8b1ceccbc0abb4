"""Showing a run while it goes on, and what stays of it: live in a notebook, as text in a terminal, or quietly.

When to draw is decided here; what a run looks like is in `report`, what is known of it in `state`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..errors import LightningMagicsError
from ..runs.events import Event, Launched, Started
from ..shell import running_kernel, running_shell, takes_input
from . import report
from .state import RunState
from .terminal import STOPPING, TextView

_SHARE = 0.01  # most of the run's time that drawing may take
_FASTEST_S = 0.15  # a front end is not sent more, whatever is asked for: at most 10 messages a second in all
_BODY_S = 1.0
HINT = "interrupt the kernel (■) to stop after the current batch"
AGAIN = "interrupt again (■) to stop immediately"
RELOADED = (
    "The page was reloaded during this run, so the notebook cannot save this view. %lightning_attach {run} in a cell "
    "shows one that is saved."
)


class View(Protocol):
    """Shows a run: takes its events, and at the end leaves the result."""

    state: RunState

    def handle(self, event: Event) -> None:
        """Take in an event, and draw if it is time to."""

    def close(self) -> None:
        """Show the result in place of the progress, and undo what the view changed; a second call does nothing.

        Called also when the run, or `handle`, raised.
        """


def open_view(
    quiet: bool = False,
    refresh_s: float = 0.25,
    log_dir: str = "",
    on_stop: Callable[[], None] | None = None,
    background: bool = False,
) -> View:
    """Return the view that fits where this code runs.

    Args:
        quiet: show nothing but one line at the end.
        refresh_s: seconds from one drawing to the next, at least.
        log_dir: folder of the run, shown in the result.
        on_stop: asks the run to stop; called when the user presses Stop, perhaps in another thread, so that it should
            do no more than set a flag. None where the kernel is not free to hear a button.
        background: whether the user goes on to other things while the run does: what cannot be shown in a place of
            its own is not shown then.
    """
    state = RunState(log_dir)
    kernel = running_kernel()
    if background and (quiet or kernel is None or not takes_input(kernel)):
        return BackgroundView(state)
    if quiet:
        return LineView(state)
    if kernel is None:
        return TextView(state, refresh_s) if _in_terminal() else QuietView(state)
    if not takes_input(kernel):
        return QuietView(state)
    try:
        import ipywidgets  # noqa: F401 -- whether it can be imported at all
    except Exception as error:  # a broken installation fails in its own ways; training goes on without it
        print(f"No live view: ipywidgets cannot be imported ({error}). Type: %pip install ipywidgets")  # noqa: T201
        return BackgroundView(state) if background else TextView(state, refresh_s, bar=False)
    return LiveView(state, refresh_s, on_stop)


def _in_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # a process without one has None there, a daemon a closed one
        return False


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
    of its own, which VS Code, Colab and JupyterHub would have to fetch. A run that can be stopped has a button too.

    One thread at a time drives it, not always the same; the button's handler may come in between from another.
    """

    def __init__(self, state: RunState, refresh_s: float, on_stop: Callable[[], None] | None = None) -> None:
        self.state = state
        self._refresh_s = max(refresh_s, _FASTEST_S)
        self._on_stop = on_stop
        self._stopping = False
        self._refused = ""
        self._pace = Pace(self._refresh_s)
        self._body_due = 0.0
        self._drawn = 0
        self._box: Any = None
        self._status: Any = None
        self._body: Any = None
        self._button: Any = None
        self._widgets: list[Any] = []
        self._handle: Any = None
        self._reloaded = False
        self._closed = False
        self._drawing = threading.Lock()  # between the run's thread and the button's

    def handle(self, event: Event) -> None:
        """Take in an event, and draw if it is time to."""
        self.state.apply(event)
        first = type(event) is Launched or type(event) is Started
        if first and self._box is None:
            self._open()
        elif self._box is not None:
            urgent = first or (self.state.stopping and not self._stopping)
            if urgent or time.perf_counter() >= self._pace.due:
                with self._drawing, self._pace.drawing():
                    self._draw()

    def _open(self) -> None:
        """Display the widgets. They share one layout and one style: fewer messages to open and to close."""
        import ipywidgets
        from IPython.display import display

        view, opened = self, threading.Event()

        class Status(ipywidgets.HTML):  # type: ignore[misc]  # ipywidgets has no types
            """Notices that a page requests what is shown already: it was reloaded."""

            def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
                view._reloaded |= key is None and opened.is_set()
                return super().get_state(key, drop_defaults)

        first = report.html_status(self.state, self._hint())
        layout = ipywidgets.Layout(width="100%", margin="0")  # no seam of another colour around what is drawn
        self._status = Status(first, layout=layout)
        self._body = ipywidgets.HTML("", layout=layout, style=self._status.style)
        self._widgets = [self._status, self._body, layout, self._status.style]
        top = self._status if self._on_stop is None else self._with_button(ipywidgets, layout)
        self._box = ipywidgets.VBox([top, self._body], layout=layout)
        self._widgets.insert(0, self._box)
        bundle = dict(self._box._repr_mimebundle_())
        bundle["text/plain"] = report.text(self.state)  # what a front end without widgets shows
        self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        opened.set()
        self._pace = Pace(self._refresh_s)  # opening is once; only what is drawn again and again is counted

    def _with_button(self, ipywidgets: Any, layout: Any) -> Any:
        """The status with Stop at its right."""
        own = ipywidgets.Layout(width="auto", flex="0 0 auto")
        self._button = button = ipywidgets.Button(
            description="Stop", tooltip="stop after the current batch", layout=own
        )
        button.on_click(self._on_stop_click)
        row = ipywidgets.HBox([self._status, button], layout=layout)
        self._widgets = [row, button, *self._widgets, button.layout, button.style]
        return row

    def _on_stop_click(self, button: Any) -> None:
        """Hand on that Stop was pressed, and show it."""
        with self._drawing:
            if self._closed or self._on_stop is None:
                return
            try:
                self._on_stop()
            except LightningMagicsError as error:  # what a handler raises is shown nowhere
                self._refused = str(error)
            else:
                self._show_stopping()
            self._status.value = report.html_status(self.state, self._hint())

    def _show_stopping(self) -> None:
        self._stopping = True
        if self._button is not None:
            self._button.disabled = True

    def _hint(self) -> str:
        """What the user can do, has done, or cannot do."""
        if self._refused:
            return self._refused
        if self._stopping:
            return STOPPING if self._on_stop else f"{STOPPING} {AGAIN}"
        return "" if self._on_stop else HINT

    def _draw(self) -> None:
        if self.state.stopping and not self._stopping:
            self._show_stopping()
        self._status.value = report.html_status(self.state, self._hint())
        now = time.perf_counter()
        if now >= self._body_due and self.state.points != self._drawn:
            self._drawn = self.state.points
            self._body_due = now + _BODY_S
            self._body.value = report.html_body(self.state)

    def close(self) -> None:
        """Put the static result in the widgets' place, so that the saved notebook reads without a kernel.

        The widgets are closed whatever fails before. A page that was reloaded does not hear of the result in their
        place: there they show it themselves, as long as the kernel lives.
        """
        if self._closed or not self.state.run:
            return
        with self._drawing, contextlib.ExitStack() as closing:
            self._closed = True
            for widget in reversed(self._widgets):
                closing.callback(widget.close)
            self.state.end()
            bundle = report.mimebundle(self.state)
            if self._handle is None:  # displaying the widgets failed
                _display(bundle)
                return
            self._handle.update(bundle, raw=True)
            if self._reloaded and "text/html" in bundle:
                self._status.value = bundle["text/html"] + report.html_note(RELOADED.format(run=self.state.run))
                self._body.value = ""
                if self._button is not None:
                    self._button.layout.display = "none"
                closing.pop_all()


class BackgroundView:
    """One line when a run has been launched, and nothing after it: the prompt, or the cell, is the user's again."""

    def __init__(self, state: RunState) -> None:
        self.state = state

    def handle(self, event: Event) -> None:
        """Take in an event; say once how to come back to the run."""
        self.state.apply(event)
        if type(event) is not Launched:
            return
        run = event.run
        how = f"%lightning_attach {run} shows it, %lightning_stop {run} stops it"
        if running_shell() is None:
            how = "run.wait() waits until it ends, run.stop() stops it"
        print(f"{run} is running in the background. {how}.", flush=True)  # noqa: T201 -- the user's terminal or cell

    def close(self) -> None:
        """Note the end; nothing is shown."""
        self.state.end()


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
        if self._closed or not self.state.run:
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
        print(report.summary_line(self.state))  # noqa: T201


class HiddenView(QuietView):
    """Nothing at all: of a run that is read for what it left."""

    def _show(self) -> None:
        pass


def _display(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(bundle, raw=True)  # type: ignore[no-untyped-call]
