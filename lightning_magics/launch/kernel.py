"""Runs a job in the kernel's own process.

Training is in `training/train`, display in `views/view`, and runs in separate processes in `spawned`. The `Run` that is
returned is in `run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs import events
from ..runs.folder import removed_message
from ..runs.recorder import Recorder
from ..training.job import Job
from ..transport import children
from ..transport.stop import stop_on_interrupt
from .run import Run
from .screen import Screen
from .setup import recording_errors, remove_unless_started, write_sources

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
