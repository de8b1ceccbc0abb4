"""A rank: one of the processes that train a job which the kernel has put into the run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only

from ..errors import truncated
from ..runs.events import Ended, Event, Notice
from ..runs.folder import RunFolder
from ..runs.log import AppendedText, mark_lines, redirect_output
from ..runs.recorder import Recorder
from ..training import shards, trust
from ..training.job import Job
from ..training.train import resume_job, train
from ..transport import exceptions, payload
from ..transport.loader_workers import patch_worker_pickling
from ..transport.stop import StopFlag, ignore_interrupts
from ..transport.stop_broadcast import BroadcastStop
from ..transport.stop_control import IndependentStop, StopFile, StopMemory, SynchronizedStop, open_stop_control
from .supervision import CPUS, RESUME, received_sigterm, watch_sigterm

_TO_END_S = 1.0  # once it has failed: the other ranks wait for it
_SYNC_S = 1.0
_POLL_S, _SLOW_POLL_S = 0.2, 2.0  # between two looks of rank 0 at the wish to stop, and of another one
_TO_FINISH_S = 15.0  # once it is done, for threads of the user's that have work left


def main(folder: RunFolder, rank: int, ranks: int, local_rank: int | None = None) -> None:
    """Run the folder's job as one of its ranks.

    Args:
        folder: of the run, with the job in it.
        rank: this one, from 0.
        ranks: number of them.
        local_rank: among the ranks of its machine, from 0; None where they are all on this one.

    Raises:
        SystemExit: with 1 where the job failed; what was raised is in the folder.
    """
    ignore_interrupts()
    redirect_output(folder.log_path(rank))
    sys.stdout, sys.stderr = AppendedText(1), AppendedText(2)
    os.environ["RANK"] = str(rank)
    os.environ["LOCAL_RANK"] = str(rank if local_rank is None else local_rank)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # set for good when Lightning was imported, which the template did
    patch_worker_pickling()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _end_when_terminated()
    if local_rank is not None:
        _write_through(folder, rank)
    try:
        _run(folder, rank, ranks)
    except BaseException as error:
        folder.release_reserve()
        try:
            exceptions.save(error, folder.error_path(rank), rank)
        finally:
            _end_soon(_TO_END_S, 1)
        sys.stderr.write(mark_lines(exceptions.traceback_text(exceptions.load(folder.error_path(rank)))))
        raise SystemExit(1) from None
    _end_soon(_TO_FINISH_S, 0)


def _run(folder: RunFolder, rank: int, ranks: int) -> None:
    control = open_stop_control(folder.control_path, _POLL_S if rank == 0 else _SLOW_POLL_S)
    anew = payload.reader(folder.job_path)
    job = dataclasses.replace(anew(), rank=rank)
    if isinstance(control, StopMemory):
        if control.loaded(rank):
            folder.job_path.unlink(missing_ok=True)  # it stays mapped
        threads = job.numeric_state.threads // ranks
    else:
        job = resume_job(job, os.environ.get(RESUME, ""))
        threads = _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    job.numeric_state.apply(ranks, threads)
    if ranks > 1 and os.environ["MASTER_ADDR"] == "127.0.0.1":
        _meet_on_loopback(rank, ranks)
    job.model.cpu()  # where its weights have arrived; it may think that it is on the kernel's GPU
    stop, gather = _stop_flag(control, job, ranks), None
    if job.verb == "predict" and ranks > 1:
        job = shards.job_of_rank(job, rank, ranks)
        gather = functools.partial(_gather_predictions, folder, control, rank)
    if rank == 0:
        _train_and_tell(job, control, stop, gather, anew)
    else:
        train(job, _ignore_event, stop, gather)
    if isinstance(control, StopMemory):
        control.done(rank)


def _meet_on_loopback(rank: int, ranks: int) -> None:
    """Let ranks of one machine meet where no other machine reaches them: torch's own store listens everywhere.

    They join a store that is there already, as under torchrun, whose agent keeps it; here it is rank 0's.
    """
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    if rank == 0:
        place = ("127.0.0.1", int(os.environ["MASTER_PORT"]))
        listening = socket.create_server(place)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            *place, ranks, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        _stores.append(store)


_stores: list[Any] = []  # as long as the process


def _stop_flag(control: StopMemory | StopFile, job: Job, ranks: int) -> StopFlag:
    """How the ranks of a job hear that they are to stop."""
    if job.verb == "predict" and ranks > 1:
        return IndependentStop(control)  # they have different batches, and share no collective
    if isinstance(control, StopMemory):
        return SynchronizedStop(control, job.rank)
    return BroadcastStop(control, job.rank) if job.verb == "fit" and ranks > 1 else IndependentStop(control)


def _cores() -> int:
    """Processors of this machine that the job may use: a task may see those of others too."""
    return int(os.environ.get(CPUS) or 0) or len(os.sched_getaffinity(0))


def _train_and_tell(
    job: Job, control: StopMemory | StopFile, stop: StopFlag, gather: Any, anew: Callable[[], Job]
) -> None:
    """Train as the rank that tells what happens; predictions are kept before the end is told."""
    folder = RunFolder(job.folder)
    recorder = Recorder(folder, folder.read(), _print_notice)
    ended: list[Ended] = []

    def emit(event: Event) -> None:
        if isinstance(event, Ended):
            ended.append(event)
        else:
            recorder.emit(event)

    try:
        outcome = train(job, emit, stop, gather, anew)
        if outcome.predictions is not None:
            _save_predictions(outcome.predictions, folder.predictions_path)
    except BaseException as error:
        if ended and not ended[0].error:
            ended[0] = dataclasses.replace(
                ended[0], status="failed", error=truncated(f"{type(error).__name__}: {error}")
            )
        raise
    finally:
        for event in ended:
            with contextlib.suppress(OSError):  # a folder that goes meanwhile
                event = dataclasses.replace(event, saved=trust.own_marks(folder.all_checkpoints()))
            if event.status == "interrupted":
                event = dataclasses.replace(event, reason=control.reason())
            if event.status != "failed" or isinstance(control, StopMemory):
                recorder.emit(event)  # else the supervisor tells it: it knows whether the job goes on elsewhere
        recorder.close()


def _gather_predictions(
    folder: RunFolder, control: StopMemory | StopFile, rank: int, predictions: Any, trainer: Any
) -> Any:
    """All ranks' predictions in rank 0, in input order; in the others their own."""
    path = folder.rank_predictions_path(rank)
    if rank:
        payload.save(predictions, path, "the predictions")
    trainer.strategy.barrier()
    if rank:
        return predictions
    paths = [folder.rank_predictions_path(item) for item in range(1, trainer.world_size)]
    parts = [predictions, *map(payload.load, paths)]
    for path in paths:
        path.unlink()
    several = len(trainer.num_predict_batches) > 1
    return shards.merged(parts, several=several, cut_short=control.is_requested())


def _save_predictions(predictions: Any, path: Path) -> None:
    """Save predictions: in torch's own format, which reads without running code, unless they hold other objects."""
    half = path.with_name(f"{path.stem}_half{path.suffix}")
    try:
        torch.save(predictions, half)
        os.replace(half, path)
    except OSError:
        raise
    except Exception:  # standard pickle knows nothing of the notebook's classes
        payload.save(predictions, path, "the predictions")


def _ignore_event(event: Event) -> None:
    """Rank 0 alone tells what happens."""


def _print_notice(notice: Notice) -> None:
    sys.stderr.write(mark_lines(f"{notice.text}\n"))


def _end_soon(seconds: float, code: int) -> None:
    """End this process after some time, whatever threads or children of the user's keep it from ending by itself."""

    def end() -> None:
        time.sleep(seconds)
        try:
            others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
            if names := [thread.name for thread in others if not thread.daemon]:
                print(f"The process exited while threads were still running: {', '.join(names)}")  # noqa: T201 -- for all
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def _end_when_terminated() -> None:
    """End this process at SIGTERM, also where its main thread waits for other ranks, which a scheduler ends too.

    Lightning's own handler waits for all ranks, within the handler, and they for this one. What this process forks
    ends as a process does: it must not end this one.
    """
    sigterm_fd = watch_sigterm()
    unblock = functools.partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM})

    def end_as_a_process_does() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    block = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM})
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=end_as_a_process_does)

    def end() -> None:
        while not received_sigterm(sigterm_fd):
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()


def _write_through(folder: RunFolder, rank: int) -> None:
    """Have what is logged and told written every second, where it is read on another machine: nothing waits for it."""
    files = [1, os.open(folder.events_path, os.O_RDONLY)] if rank == 0 else [1]

    def write() -> None:
        while True:
            time.sleep(_SYNC_S)
            for file in files:
                with contextlib.suppress(OSError):
                    os.fsync(file)

    threading.Thread(target=write, daemon=True).start()


def _end_with_parent() -> None:
    """End this process, and all that it started, when the supervisor is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(get_temp_dir(), ignore_errors=True)  # the supervisor would have
        os.killpg(os.getpgid(0), signal.SIGKILL)
