"""Shows a run in its view, wherever the run trains; a view that fails does not end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runs import events
from ..runs.folder import RunFolder
from ..runs.log import AppendedText, mark_lines

if TYPE_CHECKING:
    from ..views.view import View


class Screen:
    """Shows events in a view; a front end that has gone away must not end a training run."""

    def __init__(self, folder: RunFolder, view: View) -> None:
        self._folder = folder
        self._view = view
        self._broken = False

    def show(self, event: events.Event) -> None:
        """Show an event; what is known of the run is kept up to date in any case."""
        if self._broken:
            self._view.state.apply(event)
            return
        try:
            self._view.handle(event)
        except Exception as error:  # the edge to a front end that may have gone
            self._broken = True
            self._log_failure(error)

    def close(self) -> None:
        """Show the result."""
        try:
            self._view.close()
        except Exception as error:  # likewise
            self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        """Note in the run's log that nothing is shown any more."""
        with AppendedText(self._folder.log_path(0)) as log:
            log.write(mark_lines(f"the live view failed: {type(error).__name__}: {error}\n"))
