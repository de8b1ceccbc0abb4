"""Runs in processes of their own: starting them, watching them from this kernel or another, and what comes back.

The run's folder is all that the two sides share. The processes are started by `start` and watched by
`supervisor`; what they run is in `rank_process`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import clusters
from ..errors import InputError, LightningMagicsError, RunError
from ..runs import columns, events
from ..runs.folder import EventWriter, RunFolder, display_path
from ..runs.record import RunRecord
from ..training.job import Job
from ..transport import children, exceptions
from ..transport.stop import Abort, RemoteStop, Stop, stop_on_interrupt
from ..transport.stop_control import StopFile, StopMemory
from . import start
from .cluster_job import ClusterJob
from .follow import Follower
from .placement import LaunchPlan
from .run import LastValues, Run
from .screen import Screen
from .setup import recording_errors, remove_unless_started, write_sources
from .start import AnyLifeline
from .stop_from_outside import TO_ANSWER_S, TO_END_S, ask_to_stop, kill, kill_supervisor
from .supervision import CANCELLED, ENDED_AT_ONCE, full_disk, remove_temporary_files
from .supervisor import SupervisorRequest

if TYPE_CHECKING:
    from ..views.view import View

_START_POLL_S = 0.05
_RUNNING_POLL_S = 0.2  # between two looks at a run that is under way: each takes the processor from a rank
_CLUSTER_POLL_S = 0.5  # the same of a run on a cluster: what it writes comes over a network


class SpawnedRun(Run):
    """A run in processes of its own.

    Args:
        folder: of the run.
        record: what is known of it.
        view: shows it.
        job: what it runs; None for a run of another kernel.
        build: makes an instance of its model, for a run of another kernel.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        view: View,
        job: Job | None = None,
        build: Callable[[RunRecord], Any] | None = None,
    ) -> None:
        super().__init__(folder, record, view.state, job)
        self._job = job
        self._build = build
        self._screen = Screen(folder, view)
        self._follower = Follower(folder)
        self._cluster_job: ClusterJob | None = None
        self._error: BaseException | None = None
        self._has_results = False  # whether what the run left is in the live objects
        self.has_weights = False

    @property
    def status(self) -> events.Status:
        """Status of the run: running, completed, interrupted or failed."""
        return "running" if not self._ended.is_set() else self.record.status

    @property
    def metrics(self) -> dict[str, float]:
        """Last value of every metric; Lightning's aliases work as keys too."""
        if self._ended.is_set():
            return super().metrics
        rows = [list(row.values.items()) for row in list(self._state.rows.values())]
        return LastValues(dict(item for row in rows for item in row), self._state.doubles)

    @property
    def model(self) -> Any:
        """The LightningModule instance, with the weights produced by the run.

        Raises:
            RunError: the run goes on, or its model is unknown here.
        """
        self._take_results()
        return self._model

    @property
    def predictions(self) -> Any:
        """Of predict, in input order.

        Raises:
            RunError: the run goes on.
        """
        self._take_results()
        if self._predictions is None and self.folder.predictions_path.exists():
            from ..training.train import load_state

            self._predictions = load_state(self.folder.predictions_path, trusted=self._job is not None)
        return self._read(self._predictions)

    def wait(self) -> Run:
        """Wait until the run has ended, take what it left into the live model, and return the run.

        Raises:
            Exception: what the run failed with.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        if self._job is not None:
            self._take_results()
        return self

    def stop(self, now: bool = False) -> None:
        """Stop the run after the current batch; does nothing if it has ended.

        Args:
            now: end its processes at once; nothing more is saved.
        """
        if self._ended.is_set():
            return
        if now:
            kill(self.folder)
            self._ended.wait(TO_END_S)
        elif isinstance(self._stop, RemoteStop):
            self._stop.ask()
        else:
            ask_to_stop(self.folder)

    def watch(self) -> None:
        """Show what happens until the run is over, and take note of its end."""
        try:
            self.follow(time.sleep)
        finally:
            self.finish()

    def follow(self, wait: Callable[[float], None]) -> None:
        """Show what happens until no process works on the run.

        Args:
            wait: for some seconds, or until the run has ended.
        """
        alive, until = True, float("inf")
        if self.folder.cluster_job_id():
            self._cluster_job = ClusterJob(self.folder, self._screen.show)
        calm_s = _RUNNING_POLL_S if self._cluster_job is None else _CLUSTER_POLL_S
        while alive:
            alive = self._goes_on()  # asked before reading: nothing is written after the end
            self.catch_up()
            if self._is_to_end():
                until = min(until, time.monotonic() + TO_END_S)
                if time.monotonic() > until - TO_END_S + TO_ANSWER_S and self._cluster_job is None:
                    kill_supervisor(self.folder)
                alive = alive and time.monotonic() < until
            if alive:
                wait(calm_s if self._state.started else _START_POLL_S)
        self.catch_up(last=True)

    def _goes_on(self) -> bool:
        """Whether processes work on the run, or are to; a job whose folder was removed is first to be gone."""
        if self._cluster_job is None:
            return self.folder.is_alive()
        return (self.folder.is_alive() or self.folder.is_removed()) and self._cluster_job.goes_on()

    def _is_to_end(self) -> bool:
        """Whether it was asked here that its processes end at once."""
        return isinstance(self._stop, RemoteStop) and self._stop.control.is_abort_requested()

    def catch_up(self, last: bool = False) -> None:
        """Show what has happened since the last time; `last` says that nothing more will."""
        for event in self._follower.read(last):
            self._screen.show(event)
            if isinstance(event, events.Started | events.Ended):
                with contextlib.suppress(LightningMagicsError):
                    self.record = self.folder.read()
            if isinstance(event, events.Ended):
                self._stop.end()

    def finish(self, error: str = "") -> None:
        """Take note of the end, and record it if nobody else was left to.

        Args:
            error: why it ended then, if that is known.
        """
        with contextlib.ExitStack() as ending:
            ending.callback(self._ended.set)
            ending.callback(self._screen.close)
            with contextlib.suppress(LightningMagicsError):
                self.record = self.folder.read()
            if self.record.status == "running" and self._is_gone():
                self._record_end(error or (self._cluster_job.why() if self._cluster_job else ""))
            if self.record.status != "running" and self._state.ended is None:  # no event could be written
                self._screen.show(_end_of(self.record))
            if self.record.status == "failed":
                self._error = self._raised_error()
            self._stop = Stop()  # the other one holds a file open
            self._stop.end()
            self._follower.close()

    def _is_gone(self) -> bool:
        """Whether nothing works on a run that says it goes on."""
        if self._cluster_job is not None:
            return not self._cluster_job.goes_on()
        return not (self.folder.is_alive() or self.folder.is_elsewhere())

    def _record_end(self, error: str) -> None:
        """Record the end of a run that says it goes on."""
        status: events.Status = "failed"
        ended = self._state.ended
        if ended is not None:  # the record alone could not be written
            status, error = ended.status, ended.error
        elif error == CANCELLED:
            status = "interrupted"
        elif self._is_to_end():
            status, error = "interrupted", ENDED_AT_ONCE
        elif self.folder.is_removed():
            error = f"its folder {self.folder.path} was removed or renamed during the run"
            self._state.log_dir = ""
        elif not error:
            error = self._raised_message() or (
                "its processes were killed" if self.record.pid else "its processes exited before the run started"
            )
            error += full_disk(self.folder)
        elapsed_s = self._state.elapsed_s
        self.folder.release_reserve()
        ended = events.Ended(status, elapsed_s, self.record.epochs, self.record.steps, error=error)
        self.record = dataclasses.replace(self.record, status=status, elapsed_s=elapsed_s, error=error)
        if not self.folder.is_removed():
            with contextlib.suppress(OSError):
                writer = EventWriter(self.folder.events_path)
                writer.write(ended)
                writer.close()
                self.folder.write(self.record)
            remove_temporary_files(self.folder)
        self._screen.show(ended)

    def _raised_message(self) -> str:
        """What a rank raised, where nobody could record it; empty if none did."""
        paths = self.folder.error_paths()
        first = exceptions.earliest(paths) if self._job is not None else None
        return f"{first.type_name.rpartition('.')[2]}: {first.message}" if first is not None else ""

    def _raised_error(self) -> BaseException:
        """What a run failed with: of a run of this kernel the exception itself."""
        paths = self.folder.error_paths()
        earliest_error = exceptions.earliest(paths) if self._job is not None else None
        if earliest_error is None:
            return RunError(f"{self.name} failed: {self.record.error}. {self._advice()}")
        for path in paths:
            path.unlink(missing_ok=True)
        error = exceptions.rebuild(earliest_error)
        if not isinstance(error, LightningMagicsError) and len(self.folder.log_paths()) > 1:
            error.add_note(f"Raised in rank {earliest_error.rank}; its log: run.logs({earliest_error.rank})")
        return error

    def _advice(self) -> str:
        """What to do after a failure that left no exception."""
        if not self.folder.is_removed():
            return "Its log: run.logs()"
        is_ours = self.verb == "fit" and self._job is not None
        weights_note = f"{self.record.model} in memory keeps its weights from before the fit. " if is_ours else ""
        return f"{weights_note}Run the cell again"

    def _take_results(self) -> None:
        """Take what the run left into the live model, once.

        Raises:
            RunError: the run goes on, or its model is unknown here.
        """
        if not self._ended.is_set():
            raise RunError(f"{self.name} is still running. Wait for it with run.wait(), or stop it with run.stop()")
        if self._has_results:
            return
        if self._model is None and self._build is not None and self.verb == "fit":
            self._model = self._build(self.record)
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            from ..training import snapshots
            from ..training.origins import attach_origin
            from ..training.train import restore_fit
            from ..training.trainer import reusable_objects

            callbacks = self._job.trainer.get("callbacks") if self._job is not None else None
            data = self._job.datamodule if self._job is not None else None
            restore_fit(self._model, callbacks, checkpoint, self._job is not None, data)
            attach_origin(self._model, self.table, self.folder)
            self.has_weights = True
            if self._job is not None:
                snapshots.record_last(reusable_objects(self._job))
            if self._job is not None and self._job.trainer.get("enable_checkpointing") is False:  # needed to continue
                weakref.finalize(self._model, self.folder.last_checkpoint_path.unlink, missing_ok=True)
        self._has_results = True

    def _checkpoint(self) -> Path | None:
        """What the live model takes its weights from, None where it keeps those that it has.

        Raises:
            RunError: the model is made anew, and the run kept nothing.
        """
        last = self.folder.last_checkpoint_path
        if self.verb != "fit":
            return None
        if self._build is None and self.record.error == CANCELLED:
            return self.folder.newest_checkpoint()
        if self._build is None:
            return last if last.exists() and not self.record.error else None
        checkpoint = last if last.exists() else self.folder.newest_checkpoint()  # which a fit in a kernel has alone
        if checkpoint is None:
            raise RunError(
                f"{self.name} has no weights: there is no checkpoint in {display_path(self.folder.checkpoints_path)}"
            )
        return checkpoint


def _end_of(record: RunRecord) -> events.Ended:
    """The end that a record tells."""
    return events.Ended(
        record.status,
        record.elapsed_s or 0.0,
        record.epochs,
        record.steps,
        record.reason,
        record.error,
        record.best_model_path,
        record.best_model_score,
    )


def run_in_processes(
    run: SpawnedRun,
    plan: LaunchPlan,
    sources: Mapping[Path, str],
    started: Callable[[Run], None],
    ended: Callable[[Run], None],
) -> None:
    """Run a job in processes of its own: to its end, or in the background.

    Args:
        run: with a job, in a folder that is new and empty; takes what comes of it.
        plan: number of processes, and how they start.
        sources: files of the folder to write first; empty ones are left out.
        started: called with the run once it goes on.
        ended: called with a run in the background once it is over.

    Raises:
        KeyboardInterrupt: interrupted twice.
        InputError: the job cannot start or cannot be sent; the folder is gone again.
        RunError: the folder cannot be written, or a process died.
        Exception: what the user's code raised; the run is recorded as failed.
    """
    prepared = False
    with remove_unless_started(run.folder, lambda: prepared):
        start_processes = _prepare(run, plan, sources)
        prepared = True
    try:
        with stop_on_interrupt(run._stop):
            run.catch_up()
            started(run)
            if plan.background:
                line = _start(run, start_processes)  # before the cell returns: from then on the run needs no kernel
                threading.Thread(target=_in_background, args=(run, line, ended), name=run.name, daemon=True).start()
                return
            _in_foreground(run, start_processes)
            run.wait()  # an interrupt must not leave the model with half of its weights
    except InputError:
        if run._state.started is None:  # refused: it is as if it had not been asked for
            with remove_unless_started(run.folder, lambda: False):
                pass
        raise


def _start(run: SpawnedRun, start_processes: Callable[[], AnyLifeline]) -> AnyLifeline:
    """Start the processes of a run.

    Raises:
        Abort: interrupted twice.
        RunError: they cannot be started.
    """
    try:
        return start_processes()
    except Abort:
        run.finish()
        raise
    except OSError as error:
        reason = f"its processes could not be started: {error}"
        run.finish(reason)
        raise RunError(f"{run.name} failed: {reason}") from error


def _in_foreground(run: SpawnedRun, start_processes: Callable[[], AnyLifeline]) -> None:
    """Run to the end; with the kernel, the processes end too.

    Raises:
        Abort: interrupted twice.
        RunError: the processes cannot be started.
    """
    _follow(run, _start(run, start_processes))
    if run.record.error == ENDED_AT_ONCE or run.record.status == "running":  # it does not even answer
        raise Abort


def _in_background(run: SpawnedRun, lifeline: AnyLifeline, ended: Callable[[Run], None]) -> None:
    _follow(run, lifeline)
    ended(run)


def _follow(run: SpawnedRun, lifeline: AnyLifeline) -> None:
    with contextlib.ExitStack() as ending:
        ending.callback(run.finish)  # once the line is closed
        run.follow(ending.enter_context(contextlib.closing(lifeline)).wait)
        if run.folder.is_removed():  # the next run may take its name, and must not meet its processes
            lifeline.wait(TO_END_S)


def _replaced_bars(job: Job) -> tuple[str, ...]:
    """Say that progress bars, which would write into the log of the processes, give way to the view."""
    from ..training.trainer import progress_bars

    bars = [type(bar).__name__ for bar in progress_bars(job)]
    if not bars and job.trainer.get("enable_progress_bar"):
        bars = ["the progress bar"]
    verb = "are" if len(bars) > 1 else "is"
    return (f"{' and '.join(bars)} {verb} replaced by the live view of the run",) if bars else ()


def _prepare(run: SpawnedRun, plan: LaunchPlan, sources: Mapping[Path, str]) -> Callable[[], AnyLifeline]:
    """Write everything that the processes need; returns what starts them."""
    from ..training.numerics import NumericState
    from ..training.train import continue_job, rewind_job
    from ..transport import payload

    job, folder = run._job, run.folder
    assert job is not None
    with recording_errors(folder):
        lock = children.hold(folder.lock())
        try:
            folder.reserve()
            folder.write(run.record)
            write_sources(sources)
            writer = EventWriter(folder.events_path)
            writer.write(events.Launched(run.name, run.verb, time.time(), plan.ranks))
            writer.close()
            job = rewind_job(job)
            job = dataclasses.replace(job, notices=(*job.notices, *_replaced_bars(job)))
            continuing = continue_job(job)
            # The kernel's random state stays as it is: drawn from it, each fit of an instance would be like the last.
            random_name = folder.name if continuing is not job and run.record.seed is None else ""
            numeric_state = NumericState.capture(random_name)
            job = dataclasses.replace(continuing, leaves_state=True, numeric_state=numeric_state)
            payload.save(job, folder.job_path)
            shares_memory, path = plan.cluster is None, folder.control_path
            run._stop = RemoteStop(StopMemory(path, plan.ranks) if shares_memory else StopFile(path, make=True))
        except BaseException:
            children.release(lock)
            raise
    if plan.cluster is not None and plan.queues:
        with stop_on_interrupt(run._stop):  # it would leave a job behind that nobody knows
            _submit(folder, plan.cluster, lock)
        return start.NullLifeline
    request = SupervisorRequest.of(folder.path, plan.ranks, plan.background, plan.cluster)

    def notice(text: str) -> None:
        run._screen.show(events.Notice(text))

    def waiting() -> None:
        if run._is_to_end():
            raise Abort

    return functools.partial(start.start, request, lock, job.package, plan.method, notice, waiting)


def _submit(folder: RunFolder, resources: clusters.Resources, lock: int) -> None:
    """Submit a run as a job; its lock is let go, for the job to take.

    Raises:
        InputError: the engine refuses it.
    """
    engine = clusters.engine(resources.engine)
    with contextlib.ExitStack() as ending:
        ending.callback(children.release, lock)
        job = engine.submit(resources, folder.path.absolute())
        ending.callback(engine.cancel, job)
        folder.write_submission(engine.name, job)
        ending.pop_all()
        children.release(lock)


def attach(folder: RunFolder, view: View, build: Callable[[RunRecord], Any]) -> SpawnedRun:
    """Return a run that another kernel started, or this one before it was restarted; a running one is shown live.

    Raises:
        RunError: the folder holds no readable run.
    """
    run = SpawnedRun(folder, folder.read(), view, build=build)
    with contextlib.suppress(RunError):  # said where it is needed
        run.table = columns.load_schema(folder)
    if folder.is_alive():
        run.catch_up()
        threading.Thread(target=run.watch, name=run.name, daemon=True).start()
    else:
        run.watch()
    return run
