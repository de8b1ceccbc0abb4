"""Runs a job in the kernel's own process.

Training is in `training/train`, display in `views/view`, and runs in separate processes in `spawned`. The `Run` that is
returned is in `run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError
from ..runs import events
from ..runs.folder import RunFolder, mark_lines, removed_message, write_text
from ..runs.recorder import Recorder
from ..training.job import Job
from ..transport import children
from ..transport.stop import stop_on_interrupt
from .run import Run

if TYPE_CHECKING:
    from ..views.view import View


def run_in_kernel(job: Job, run: Run, view: View, sources: Mapping[Path, str], started: Callable[[Run], None]) -> None:
    """Run a job in this process, to its end.

    Args:
        job: what to run, in a folder that is new and empty.
        run: takes what comes of it.
        view: shows the events.
        sources: files of the folder to write first; empty ones are left out.
        started: called with the run once it has started, so that a failed one can be looked at too.

    Raises:
        KeyboardInterrupt: interrupted twice.
        InputError: the job cannot start; the folder is gone again.
        RunError: the folder cannot be written.
        Exception: what the user's code raised; the run is recorded as failed.
    """
    from ..training.train import train

    screen = Screen(run.folder, view)
    with contextlib.ExitStack() as ending:
        ending.enter_context(stop_on_interrupt(run._stop))
        ending.callback(run._ended.set)
        with remove_unless_started(run.folder, lambda: view.state.started is not None):
            with recording_errors(run.folder):
                ending.callback(children.release, children.hold(run.folder.lock()))
                run.folder.reserve()
                ending.callback(run.folder.release_reserve)
                run.record = dataclasses.replace(run.record, pid=os.getpid(), host=socket.gethostname())
                recorder = Recorder(run.folder, run.record, screen.show)
                ending.callback(recorder.close)
                write_sources(sources)

            lost: list[str] = []

            def emit(event: events.Event) -> None:
                begun = view.state.started
                if not lost and begun is not None and run.folder.is_removed():
                    epoch = view.state.train.epoch if view.state.train is not None else begun.first_epoch
                    lost.append(f"in epoch {epoch + 1}" if job.verb == "fit" else "during the run")
                if lost and isinstance(event, events.Ended):
                    event = dataclasses.replace(event, best_model_path="", best_model_score=None)
                recorder.emit(event)
                run.record = recorder.record
                screen.show(event)
                if isinstance(event, events.Started):
                    started(run)

            try:
                outcome = train(job, emit, run._stop)
                run.trainer, run._predictions = outcome.trainer, outcome.predictions
            finally:
                run._stop.end()
                if lost:
                    view.state.log_dir = ""
                if lost and removed_message(run.folder) not in run.record.error:
                    text = removed_message(run.folder, lost[0])
                    text += f" {run.record.model} in memory keeps its trained weights" if job.verb == "fit" else ""
                    screen.show(events.Notice(text, level="loss"))
                screen.close()
                run.folder.continue_checkpoint_path.unlink(missing_ok=True)


def write_sources(sources: Mapping[Path, str]) -> None:
    """Write the files that are not empty."""
    for path, source in sources.items():
        if source:
            write_text(path, source)


@contextlib.contextmanager
def recording_errors(folder: RunFolder) -> Iterator[None]:
    """Say in a line that the folder cannot be written.

    Raises:
        RunError: what is within it raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the run cannot be recorded in {folder.path}: {error.strerror}. "
            "Free some space, or choose another folder: %config LightningMagics.run_dir = 'PATH'"
        ) from error


@contextlib.contextmanager
def remove_unless_started(folder: RunFolder, has_started: Callable[[], bool]) -> Iterator[None]:
    """Remove the folder of a run that was refused, and the model's folder if nothing else is in it.

    It is then as if the run had not been asked for.
    """
    try:
        yield
    finally:
        if not has_started():
            shutil.rmtree(folder.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.path.parent.rmdir()


@contextlib.contextmanager
def remove_unless_begun(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that was interrupted, or failed, before anything could happen in it."""
    try:
        yield
    except BaseException:
        with remove_unless_started(folder, folder.events_path.exists):
            pass
        raise


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
        with contextlib.suppress(OSError), self._folder.log_path(0).open("a", encoding="utf-8") as log:
            log.write(mark_lines(f"the live view failed: {type(error).__name__}: {error}\n"))
