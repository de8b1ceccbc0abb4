"""The `Run` that a user holds, and running a job in the kernel's own process.

What is trained is `train`'s, what is shown `views`'; runs in processes of their own are the part of `spawned`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import events, processes, report
from .errors import RunError
from .job import Abort, Job, Stop
from .progress import RunState
from .recorder import Recorder
from .runs import RunFolder, RunRecord, marked, removed, write_text
from .shell import cell_number, running_kernel

if TYPE_CHECKING:
    from .views import View


class LastValues(dict[str, float]):
    """Metric to its last value; Lightning's second names for some of them can be read, and are not listed."""

    def __init__(self, metrics: Mapping[str, float], doubles: Mapping[str, float]) -> None:
        super().__init__(metrics)
        self._doubles = doubles

    def __missing__(self, name: str) -> float:
        return self._doubles[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Last value under a name, second names included."""
        return super().get(name, self._doubles.get(name, default))


class Run:
    """One call of fit, validate, test or predict, and all that came of it.

    Attributes:
        trainer: the Trainer; None where the run had processes of its own.
        record: what ``run.json`` holds.
        folder: the run on disk.
        data: the DataModule, or None, and the DataLoaders that it ran on.
        has_weights: whether the live model has the weights that a fit left.
    """

    def __init__(self, folder: RunFolder, record: RunRecord, state: RunState, job: Job | None) -> None:
        self.record = record
        self.folder = folder
        self.trainer: Any = None
        self.data: tuple[Any, tuple[Any, ...]] = (job.datamodule, job.loaders) if job else (None, ())
        self.has_weights = True
        self._model: Any = job.model if job else None
        self._predictions: Any = None
        self._reading: Callable[[Any], Any] | None = None
        self._state = state
        self._shown_in = cell_number()
        self._stop = Stop()
        self._ended = threading.Event()

    @property
    def model(self) -> Any:
        """The LightningModule instance, with the weights that the run left."""
        return self._model

    @property
    def predictions(self) -> Any:
        """Of predict, in input order; of texts a list with a dict for each: label and probabilities by name."""
        return self._read(self._predictions)

    def _read(self, predictions: Any) -> Any:
        """What predictions say, for what was asked."""
        return predictions if self._reading is None or predictions is None else self._reading(predictions)

    @property
    def judged(self) -> events.Judged | None:
        """Of a test of a classifier: what it found, class by class."""
        return self._state.judged

    @property
    def name(self) -> str:
        """Model and version, ``Digits/version_3``."""
        return self.folder.name

    @property
    def verb(self) -> events.Verb:
        """What ran: fit, validate, test or predict."""
        return self.record.verb

    @property
    def status(self) -> events.Status:
        """How it stands: running, completed, interrupted or failed."""
        return self.record.status

    @property
    def log_dir(self) -> str:
        """Path of the run folder."""
        return str(self.folder.path)

    @property
    def metrics(self) -> dict[str, float]:
        """Last value of every metric; the second names that Lightning has for some can be read too."""
        return LastValues(self.record.metrics, self.record.doubles)

    @property
    def history(self) -> list[dict[str, float]]:
        """A row for each epoch: ``epoch`` (from 0), ``step``, and the metrics by name."""
        return [{"epoch": row.epoch, "step": row.step, **row.values} for row in list(self._state.rows.values())]

    @property
    def results(self) -> list[dict[str, float]]:
        """What validate and test found: a row for each dataloader."""
        return self.record.results

    @property
    def best_model_path(self) -> str:
        """Best checkpoint: by ``--monitor``, else the latest; empty if none was written."""
        return self.record.best_model_path

    def wait(self) -> Run:
        """Wait until the run has ended, and return it."""
        self._ended.wait()
        return self

    def stop(self) -> None:
        """Ask a running run to stop after its batch; one that has ended stays as it is."""
        self._stop.ask()

    def logs(self, rank: int = 0) -> str:
        """What a process of the run wrote to its log.

        Raises:
            RunError: there is no such rank.
        """
        path = self.folder.log_path(rank)
        if not path.is_file():
            raise RunError(f"run {self.name} has no log of rank {rank}: {path} does not exist")
        return path.read_text(encoding="utf-8", errors="replace")

    def __repr__(self) -> str:
        """Name, status and last metrics, in a line."""
        metrics = "".join(f", {name}={value:.4g}" for name, value in self.metrics.items())
        return f"<Run {self.name} {self.status}{metrics}>"

    def _ipython_display_(self) -> None:
        """Show the table and curves; not again in the cell that has just shown them live."""
        from IPython.display import display

        if self._shown_in is None or self._shown_in != cell_number():
            display(report.mimebundle(self._state), raw=True)  # type: ignore[no-untyped-call]
        elif running_kernel() is None:
            raise NotImplementedError  # a terminal shows Out[N] and waits for something: the one line of repr


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
    from .train import train

    screen = Screen(run.folder, view)
    with contextlib.ExitStack() as ending:
        ending.enter_context(interrupts_ask(run._stop))
        ending.callback(run._ended.set)
        with removed_unless_started(run.folder, lambda: view.state.started is not None):
            with recording(run.folder):
                ending.callback(processes.release, processes.hold(run.folder.lock()))
                run.folder.reserve()
                ending.callback(run.folder.make_room)
                run.record = dataclasses.replace(run.record, pid=os.getpid(), host=socket.gethostname())
                recorder = Recorder(run.folder, run.record, screen.show)
                ending.callback(recorder.close)
                write_sources(sources)

            def emit(event: events.Event) -> None:
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
                said = removed(run.folder)
                if view.state.started is not None and run.folder.is_removed() and said not in run.record.error:
                    screen.show(events.Notice(said))
                screen.close()
                run.folder.continue_checkpoint_path.unlink(missing_ok=True)


def write_sources(sources: Mapping[Path, str]) -> None:
    """Write the files that are not empty."""
    for path, source in sources.items():
        if source:
            write_text(path, source)


@contextlib.contextmanager
def recording(folder: RunFolder) -> Iterator[None]:
    """Say in a line that the folder cannot be written.

    Raises:
        RunError: what is within it raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the run cannot be recorded in {folder.path}: {error.strerror}. "
            "Make room, or choose another place: %config LightningMagics.run_dir = 'PATH'"
        ) from error


@contextlib.contextmanager
def removed_unless_started(folder: RunFolder, has_started: Callable[[], bool]) -> Iterator[None]:
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
def removed_unless_begun(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that was interrupted, or failed, before anything could happen in it."""
    try:
        yield
    except BaseException:
        with removed_unless_started(folder, folder.events_path.exists):
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
            self._lost(error)

    def close(self) -> None:
        """Show the result."""
        try:
            self._view.close()
        except Exception as error:  # likewise
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Note in the run's log that nothing is shown any more."""
        with contextlib.suppress(OSError), self._folder.log_path(0).open("a", encoding="utf-8") as log:
            log.write(marked(f"the view ended: {type(error).__name__}: {error}\n"))


@contextlib.contextmanager
def interrupts_ask(stop: Stop) -> Iterator[None]:
    """Within it the first interrupt asks to stop, the second ends the block with KeyboardInterrupt.

    Only the main thread hears signals; in another this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda signum, frame: stop.interrupt())
    try:
        yield
    except Abort:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
