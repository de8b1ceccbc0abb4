"""The run folder: every path under it, its record, and making and finding folders.

What happens in a run is told by events (`events`); who trains and who watches is the launcher's (`launch/kernel`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from ..errors import RunError, did_you_mean
from . import events
from .log import AppendedText
from .record import RunRecord

try:
    import fcntl
except ImportError:  # Windows: the record is believed
    fcntl = None  # type: ignore[assignment]

RECORD = "run.json"
JOB = "job.pt"
LOG = "rank_{}.log"  # of each rank
_YIELDS = "yields"  # beside the name of the engine, in the file that names the job
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system without locks: the record is believed
_ROOM_BYTES = 1 << 17  # for what the end of a run writes
_MAX_NAME = 100  # characters, in a message
_MAX_BYTES = 1 << 24  # of a record: what is larger is none
_HEAD_BYTES = 2048  # of a record
_STARTED = re.compile(rb'\n  "started": (\d+(?:\.\d+)?),\n')  # no string of JSON holds a newline
_SILENT_S = 600.0  # a run that cannot be seen otherwise, and tells nothing for so long, is taken for dead
_TO_START_S = 60.0  # from a record to the lock
_UNFINISHED = ".unfinished_"  # begins the name of a run folder that is being made
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # so that opening a pipe does not wait for its other end


class RunFolder:
    """One run on disk; the only place that knows the file names.

    Args:
        path: the folder, ``lightning_logs/Digits/version_3``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record_path = self.path / RECORD
        self.events_path = self.path / "events.jsonl"
        self.source_path = self.path / "source.py"
        self.random_path = self.path / "random_state.json"
        self.initial_weights_path = self.path / "initial_weights.pt"
        self.checkpoints_path = self.path / "checkpoints"
        self.last_checkpoint_path = self.checkpoints_path / "last.ckpt"
        self.continue_checkpoint_path = self.checkpoints_path / "continue.ckpt"
        self.job_path = self.path / JOB
        self.control_path = self.path / "control"
        self.reserve_path = self.path / "reserve"
        self.submission_path = self.path / "submission.json"
        self.predictions_path = self.path / "predictions.pt"
        self.tokenizer_path = self.path / "tokenizer"
        self.texts_path = self.path / "texts.json"
        self.table_path = self.path / "table.json"

    @property
    def name(self) -> str:
        """Model and version, ``Digits/version_3``."""
        return f"{self.path.parent.name}/{self.path.name}"

    def log_path(self, rank: int) -> Path:
        """Log of one process, named by its global rank."""
        return self.path / LOG.format(rank)

    def error_path(self, rank: int) -> Path:
        """What a rank raised, for the kernel that waits for it."""
        return self.path / f"error_{rank}.pkl"

    def error_paths(self) -> list[Path]:
        """What ranks have raised, as far as they have written it."""
        return sorted(self.path.glob("error_*.pkl"))

    def log_paths(self) -> list[Path]:
        """The logs that there are."""
        return sorted(self.path.glob(LOG.format("*")))

    def rank_predictions_path(self, rank: int) -> Path:
        """Predictions of one rank, for rank 0 to join."""
        return self.path / f"predictions_{rank}.pt"

    def temporary_files(self) -> list[Path]:
        """What a process that was killed had not finished writing, or had written for another one to join."""
        patterns = ("predictions_*.pt", f".{RECORD}.*", ".error_*", ".*.ckpt.*", "checkpoints/.*.ckpt.*")
        return [path for pattern in patterns for path in self.path.glob(pattern)]

    def lock(self) -> int:
        """Return a file descriptor that marks the run as alive until its last copy is closed, at the latest by death.

        Raises:
            OSError: the folder cannot be written.
        """
        lock_fd = os.open(self.events_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(lock_fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock_fd)
                raise
        return lock_fd

    def reserve(self) -> None:
        """Take the room on the disk that the end of the run needs, so that it can be told on a full one too.

        Raises:
            OSError: there is not that much room.
        """
        self.reserve_path.write_bytes(os.urandom(_ROOM_BYTES))  # zeros take no room where the file system compresses

    def release_reserve(self) -> None:
        """Give the room back, for the end to be written; a second call does nothing."""
        with contextlib.suppress(OSError):
            self.reserve_path.unlink(missing_ok=True)

    def is_removed(self) -> bool:
        """Whether somebody has removed the folder; an error of the file system says nothing of that."""
        try:
            os.stat(self.events_path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass
        return False

    def is_alive(self) -> bool:
        """Whether a process still works on the run."""
        try:
            file = os.open(self.events_path, os.O_RDONLY | _NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return self._is_starting()
        except OSError:  # such as too many open files: that says nothing of the run
            return True
        try:
            if fcntl is None:
                return self._is_recently_active(file)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks, or a file system that fails
            return self._is_recently_active(file)
        else:
            return self.is_elsewhere() and self._is_recently_active(file)
        finally:
            os.close(file)

    def _is_starting(self) -> bool:
        """Whether the run has a record and is about to be locked."""
        with contextlib.suppress(RunError):
            record = self.read()
            return record.status == "running" and 0 <= time.time() - record.started < _TO_START_S
        return False

    def is_elsewhere(self) -> bool:
        """Whether another machine works on the run or is to, as far as is known: its lock need not be seen here."""
        with contextlib.suppress(RunError):
            record = self.read()
            return record.status == "running" and (
                self.cluster_job_id() != "" or record.host not in ("", socket.gethostname())
            )
        return False

    def _is_recently_active(self, events_file: int) -> bool:
        """Whether the record says that the run goes on, and something has happened in it not long ago.

        A job of a cluster may wait in its queue for days: of that, the cluster is asked.
        """
        with contextlib.suppress(RunError):
            is_silent = time.time() - os.fstat(events_file).st_mtime >= _SILENT_S
            return self.read().status == "running" and (not is_silent or self.cluster_job_id() != "")
        return False

    def cluster_engine(self) -> str:
        """Name of the engine to which the run was submitted, empty if it was not."""
        return next((name for name in self._submission() if name != _YIELDS), "")

    def engine_path(self, engine: str) -> Path:
        """Folder of an engine's own files."""
        return self.path / engine

    def cluster_job_id(self) -> str:
        """Id of the job as which the run was submitted, empty if it was not."""
        return str(self._submission().get(self.cluster_engine(), ""))

    def yields(self) -> int:
        """How often that job has made room for another one, or was queued again by hand."""
        yields = self._submission().get(_YIELDS, 0)
        return yields if isinstance(yields, int) else 0

    def write_submission(self, engine: str, job: str, yields: int = 0) -> None:
        """Keep the run's job: in a file of its own, for it may begin before the one who submits it knows its id."""
        write_text(self.submission_path, json.dumps({engine: job, _YIELDS: yields}) + "\n")

    def _submission(self) -> dict[str, Any]:
        try:
            submission = json.loads(read_text(self.submission_path))
        except (OSError, ValueError):
            return {}
        return submission if isinstance(submission, dict) else {}

    def status(self, record: RunRecord) -> events.Status:
        """How a run stands: one that is recorded as running and that nothing works on has failed."""
        return "failed" if record.status == "running" and not self.is_alive() else record.status

    def write(self, record: RunRecord) -> None:
        """Write the record so that a reader sees either the old one or the new one, complete."""
        write_text(self.record_path, json.dumps(dataclasses.asdict(record), indent=2, default=repr) + "\n")

    def read(self) -> RunRecord:
        """Read the record.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        try:
            record = json.loads(read_text(self.record_path))
            if not isinstance(record, dict):
                raise ValueError("it is not a JSON object")  # noqa: TRY004, TRY301 -- joins the other causes below
            return cast(RunRecord, events.from_dict(RunRecord, record))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"the run {self.name} has no readable record {self.record_path}: {error}") from error

    def has_summaries(self) -> bool:
        """Whether there is something for TensorBoard."""
        return next(self.path.rglob("*.tfevents.*"), None) is not None

    def newest_checkpoint(self) -> Path | None:
        """Checkpoint that was written last, or None."""
        checkpoints = self.all_checkpoints()
        return checkpoints[-1] if checkpoints else None

    def all_checkpoints(self) -> list[Path]:
        """The checkpoints, the oldest first; the name of a metric with a slash in theirs has made folders of it."""
        return sorted(self.checkpoints_path.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)

    def moved_path(self, checkpoint: str) -> Path:
        """Where a checkpoint is by now, if it was in the run's folder when that was elsewhere."""
        parts, name = Path(checkpoint).parts, self.checkpoints_path.name
        below = parts[len(parts) - parts[::-1].index(name) :] if name in parts else parts[-1:]
        return self.checkpoints_path.joinpath(*below)


class EventWriter:
    """Appends events to a run's file, whole lines at once, so that whoever watches sees each as it comes.

    A disk that is full must not end a training run: writing stops, and `failure` says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: AppendedText | None = None
        self.failure = ""
        self._open()

    def _open(self) -> None:
        self._file = AppendedText(self._path)
        with contextlib.suppress(OSError):  # it could not be opened
            if _ends_mid_line(self._path):
                self._file.write("\n")
        self._give_up_if_broken()

    def write(self, event: events.Event) -> None:
        """Append one event."""
        if self._file is None and isinstance(event, events.Ended):  # for which there is room
            self._open()
        if self._file is not None:
            self._file.write(events.to_json(event) + "\n")
            self._give_up_if_broken()

    def _give_up_if_broken(self) -> None:
        if self._file is not None and self._file.failure is not None:
            self.close()

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        if self._file is None:
            return
        self._file.close()
        if self._file.failure is not None:
            self.failure = f"progress is no longer recorded on disk: {self._file.failure}"
        self._file = None


def create(root: str | Path, model: str, verb: events.Verb = "fit", record: RunRecord | None = None) -> RunFolder:
    """Make the next run folder of a model: ``version_N`` for a fit, ``test_N`` and the like for the others.

    It appears with its record, by one rename, so that a kernel which is killed meanwhile leaves no folder that is not
    listed, and two kernels which start at once get two numbers.

    Args:
        root: folder of all runs.
        model: name of the model.
        verb: what is to run.
        record: to begin with; its name is set here.

    Raises:
        RunError: the folder cannot be made.
    """
    prefix = "version" if verb == "fit" else verb
    parent = _model_folder(root, model)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(parent)
        half = RunFolder(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        try:
            half.checkpoints_path.mkdir()
            number = 1 + max((_number(path.name, prefix) for path in parent.glob(f"{prefix}_*")), default=-1)
            while True:
                folder = RunFolder(parent / f"{prefix}_{number}")
                if record is not None:
                    half.write(dataclasses.replace(record, run=folder.name))
                if _publish(half, folder):
                    return folder
                number += 1
        except BaseException:
            shutil.rmtree(half.path, ignore_errors=True)
            raise
    except OSError as error:
        raise RunError(
            f"the run folder cannot be created in {parent}: {error.strerror}. "
            "Choose another folder: %config LightningMagics.run_dir = 'PATH'"
        ) from error


def _publish(half: RunFolder, folder: RunFolder) -> bool:
    """Let a folder that was prepared appear under its own name; False where the name is taken.

    File systems over object storage rename files alone: there the folder is made, and its record comes by a rename.
    """
    try:
        os.rename(half.path, folder.path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        if not half.path.exists() and folder.path.exists():  # over a network, a rename may be reported as lost
            return True
        try:
            folder.path.mkdir(mode=0o700)
        except FileExistsError:
            return False
        if half.record_path.exists():
            os.rename(half.record_path, folder.record_path)
        folder.checkpoints_path.mkdir()
        shutil.rmtree(half.path, ignore_errors=True)
    return True


def _remove_unfinished(parent: Path) -> None:
    """Remove what a kernel that was killed while it made a run folder has left, long ago."""
    for path in parent.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _SILENT_S:
                shutil.rmtree(path)


def removed_message(folder: RunFolder, when: str = "during the run") -> str:
    """What there is to say of a run whose folder somebody removed."""
    return f"The run folder {folder.path} was removed {when}. Its record and checkpoints are lost."


def folder_of(file: Path) -> RunFolder | None:
    """Return the folder of the run that a checkpoint lies in, None where it lies in none."""
    for folder in map(RunFolder, file.absolute().parents):
        with contextlib.suppress(RunError):  # the file has that name, but is not the record of a run
            if folder.record_path.is_file() and folder.read().run:
                return folder
    return None


def is_fit(path: Path) -> bool:
    """Whether the folder of a run is one of a fit, by its name."""
    return path.name.startswith("version_")


def find(root: str | Path, name: str) -> RunFolder:
    """Find a run by its path or by its name ``Digits/version_3``.

    Raises:
        RunError: there is no such run; names the runs that there are.
    """
    for path in (absolute(name), root_folder(root) / name):
        if os.path.isfile(path / RECORD):
            return RunFolder(path)
    run_names = names(root)
    near = did_you_mean(name, run_names)
    raise RunError(f"no run {_brief(name)} was found.{near} {latest_runs(root, ', '.join(run_names[:8]))}")


def latest_runs(root: str | Path, listed: str) -> str:
    """What there is in a folder of runs, in a sentence."""
    return f"Latest runs in {root}: {listed}." if listed else f"There are no runs in {root} yet."


def latest(root: str | Path, model: str) -> RunFolder:
    """Find the fit of a model that was started last.

    Raises:
        RunError: there is none.
    """
    fits = fits_of(root, model)
    if not fits:
        raise RunError(f"no run of {model} was found in {root}")
    return fits[0]


def fits_of(root: str | Path, model: str) -> list[RunFolder]:
    """The fits of a model, the newest first."""
    paths = _model_folder(root, model).glob("version_*/run.json")
    return [RunFolder(path.parent) for path in sorted(paths, key=lambda path: -_number(path.parent.name, "version"))]


def newest(root: str | Path) -> RunFolder:
    """Find the run that was started last, of any model.

    Raises:
        RunError: there is none.
    """
    run_names = names(root)
    if not run_names:
        raise RunError(f"no run was found in {root}")
    return find(root, run_names[0])


def names(root: str | Path) -> list[str]:
    """Names of all runs, the newest first."""
    runs = []
    for path in (path for model in _folders(root_folder(root)) for path in _folders(model)):
        with contextlib.suppress(OSError, RunError):  # no run, or a broken record
            runs.append((_started(path), "/".join(path.rsplit(os.sep, 2)[1:])))
    return [name for _, name in sorted(runs, reverse=True)]


def _folders(path: str | Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


def _started(path: str) -> float:
    """When a run was started, from the beginning of its record: to read the whole of each takes long where many are.

    Raises:
        OSError: it has none.
        RunError: it cannot be read.
    """
    record = os.open(os.path.join(path, RECORD), os.O_RDONLY | _NONBLOCK)
    try:
        match = _STARTED.search(os.read(record, _HEAD_BYTES))
    finally:
        os.close(record)
    return float(match[1]) if match else RunFolder(path).read().started


def display_path(path: str | Path) -> str:
    """Return a path as a user reads it: relative to the working folder where it is below that."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # it is elsewhere; or the working folder is gone
        return str(path)


def read_text(path: Path) -> str:
    """Read a file in UTF-8 that anybody may have put into a run folder.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text, not a regular file (such as a pipe, which would never end), or too large.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("it is not a regular file")
        if info.st_size > _MAX_BYTES:
            raise ValueError(f"it is too large: {info.st_size:,} bytes")
        return file.read(_MAX_BYTES).decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name beside it, then rename it; what UTF-8 cannot hold as a backslash escape."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _ends_mid_line(path: Path) -> bool:
    """Whether a file ends within a line, because its writer was killed or the disk was full."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _model_folder(root: str | Path, model: str) -> Path:
    """Folder of all runs of a model."""
    return root_folder(root) / re.sub(r"[^\w.-]+", "_", model)


def absolute(path: str | Path) -> Path:
    """The same place, whatever the working folder becomes.

    Raises:
        RunError: there is no working folder any more.
    """
    try:
        return Path(os.path.expanduser(path)).absolute()
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not available: the working folder of this notebook was removed. Type %cd ~"
        ) from error


def root_folder(root: str | Path) -> Path:
    """The folder of all runs, which need not exist.

    Raises:
        RunError: it can be none.
    """
    path = absolute(root)
    reason = ""
    try:
        os.lstat(path)
    except ValueError:
        reason = "it contains a NUL character"
    except OSError as error:
        reason = "a name in it is too long" if error.errno == errno.ENAMETOOLONG else ""
    if reason:
        hint = "Choose another folder: %config LightningMagics.run_dir = 'PATH'"
        raise RunError(f"{_brief(str(root))} cannot be used as the run folder: {reason}. {hint}")
    return path


def _brief(name: str) -> str:
    return repr(name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…")


def _number(name: str, prefix: str) -> int:
    digits = name.removeprefix(f"{prefix}_")
    return int(digits) if digits.isdecimal() else -1
