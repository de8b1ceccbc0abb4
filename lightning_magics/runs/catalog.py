"""The runs below a folder, read and chosen: ours by their records, those of plain Lightning by what they logged.

How they are shown is in `views/listing` and `views/comparison`; what a folder without a record holds is in `foreign`.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .. import clusters, scores
from ..errors import InputError, RunError, did_you_mean
from ..formats import first_and_more
from . import foreign
from .events import Status
from .folder import RECORD, RunFolder, latest_runs, names, root_folder
from .record import RunRecord

_YEAR_9999_S = 253_370_764_800
_SHARED_FIELDS = ("trainer", "recipe", "versions", "hardware", "git", "options")  # of a record: equal in many
_MAX_FOREIGN = 4_000_000  # bytes of metrics that plain Lightning logged, read for one listing


@dataclass(frozen=True)
class RunRow:
    """A run folder as it was found.

    Attributes:
        run: name, ``Digits/version_3``.
        path: the folder.
        started: Unix time in seconds; of a folder whose record cannot be read, when the record was last written.
        status: how it stands: a run that died is failed, whatever its record says. None where there is no telling.
        record: what ``run.json`` holds, None if it cannot be read or there is none.
        problem: what is wrong with the folder, empty if nothing is.
        model: name of the model, as far as it is known.
        took_s: seconds that it took, or has taken so far; None where there is no telling.
        epochs: training epochs completed.
        hyperparameters: of the model, and as ``data.NAME`` what was given to the data.
        metrics: last value of every metric; `best` the best one.
        unread: whether it has metrics that were not read, for there are too many.
        queued: why its job waits in the queue of a cluster, empty if it does not.
    """

    run: str
    path: Path
    started: float
    status: Status | None = None
    record: RunRecord | None = None
    problem: str = ""
    model: str = ""
    took_s: float | None = None
    epochs: int = 0
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    unread: bool = False
    queued: str = ""

    @property
    def standing(self) -> str:
        """How it stands, in a word; empty where there is no telling."""
        return "queued" if self.queued else self.status or ""


def rows(root: str | Path, pattern: str = "", model: str = "") -> list[RunRow]:
    """Read the runs below a folder, newest first.

    Args:
        root: folder of all runs, ``lightning_logs``.
        pattern: what the name ``Digits/version_3`` or the model is to hold or, with ``*``, to look like.
        model: name of the model, whole.

    Raises:
        InputError: no run has that model; names the models that there are.
        RunError: there can be no such folder.
    """
    root_folder(root)
    root = Path(root).expanduser()
    own_paths: list[Path] = []
    foreign_paths: list[Path] = []
    for path, recorded in _folders(root):
        (own_paths if recorded else foreign_paths).append(path)
    # Of Lightning's own, only as much is read as is asked for.
    foreign_paths = [
        path for path in foreign_paths if _matches(pattern, path.relative_to(root).as_posix(), _model_of(root, path))
    ]
    shared_values: dict[str, Any] = {}
    matches = [
        *(_share_values(_recorded_row(path), shared_values) for path in own_paths),
        *_foreign_rows(root, foreign_paths),
    ]
    if model:
        models = dict.fromkeys(row.model for row in matches if row.model)
        matches = [row for row in matches if model in (row.model, row.run.partition("/")[0])]
        if models and not matches:
            raise InputError(
                f"--model {model}: no run of this model was found.{did_you_mean(model, models)} "
                f"Models: {first_and_more(models)}"
            )
    matches = _with_job_states([row for row in matches if _matches(pattern, row.run, row.model)])
    return sorted(matches, key=lambda row: (row.started, row.run), reverse=True)


def newest(root: str | Path, count: int) -> list[RunRow]:
    """Read the runs below a folder that were started last: so many of ours, and of plain Lightning's."""
    root = Path(root).expanduser()
    foreign_paths = [path for path, recorded in _folders(root) if not recorded]
    own_paths = [root / name for name in names(root)[:count]]
    return [*map(_recorded_row, own_paths), *_foreign_rows(root, heapq.nlargest(count, foreign_paths, key=_modified_s))]


def _folders(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of runs, and whether each has a record: ours lie two deep, Lightning's own there or one deep."""
    for name in _names(root):
        inner = _names(root / name)
        if foreign.is_run(inner):
            yield root / name, False
        for deeper in inner:
            path = root / name / deeper
            if os.path.lexists(path / RECORD):
                yield path, True
            elif foreign.is_run(_names(path)):
                yield path, False


def _names(folder: Path) -> list[str]:
    """What is in a folder, [] where there is no such folder; hidden names are none of a run."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _recorded_row(path: Path) -> RunRow:
    """A folder with a record."""
    folder = RunFolder(path)
    try:
        record = folder.read()
        status = folder.status(record)
        if not 0 <= record.started < _YEAR_9999_S:
            raise RunError(f"invalid start time: {record.started}")  # noqa: TRY301 -- a broken record like the others
    except RunError as error:
        problem = f"{RECORD} cannot be read: {' '.join(str(error.__cause__ or error).split())}"
        return RunRow(folder.name, path, _modified_s(folder.record_path), problem=problem)
    took_s = record.elapsed_s
    if took_s is None and status == "running":
        took_s = max(0.0, time.time() - record.started)
    data = record.options.get("data")
    of_data = {**(data if isinstance(data, dict) else {}), **record.data_hyperparameters}
    data_parameters = {f"data.{name}": value for name, value in of_data.items()}
    best = record.metrics | {name: item["value"] for name, item in record.best_metrics.items() if "value" in item}
    return RunRow(
        run=folder.name,
        path=path,
        started=record.started,
        status=status,
        record=record,
        model=record.model,
        took_s=took_s,
        epochs=record.epochs,
        hyperparameters=record.hyperparameters | data_parameters,
        metrics=record.metrics,
        best=best,
    )


def _share_values(row: RunRow, shared_values: dict[str, Any]) -> RunRow:
    """Let what is equal in many records be one object: a listing of thousands stays in the notebook's Out."""
    if row.record is None:
        return row
    parts = {name: getattr(row.record, name) for name in _SHARED_FIELDS}
    shared = {name: shared_values.setdefault(repr(part), part) for name, part in parts.items()}
    return dataclasses.replace(row, record=dataclasses.replace(row.record, **shared))


def _with_job_states(rows: list[RunRow]) -> list[RunRow]:
    """Runs that say they go on, with what a cluster says of their jobs: these may wait in its queue, or be gone."""
    folders = [(row.run, RunFolder(row.path)) for row in rows if row.status == "running"]
    jobs_by_run = {
        run: (folder.cluster_engine(), folder.cluster_job_id()) for run, folder in folders if folder.cluster_job_id()
    }
    states_by_job: dict[tuple[str, str], clusters.State] = {}
    for name in {name for name, _ in jobs_by_run.values()}:
        jobs = [job for engine, job in jobs_by_run.values() if engine == name]
        try:
            states = clusters.engine(name).states(jobs)
        except InputError:  # its package is not installed here: the record is believed
            states = {job: clusters.State("unknown") for job in jobs}
        states_by_job |= {(name, job): state for job, state in states.items()}

    def scheduled(row: RunRow) -> RunRow:
        if row.run not in jobs_by_run:
            return row
        state = states_by_job.get(jobs_by_run[row.run])
        if state is None or state.kind == "ended":
            reread = _recorded_row(row.path)  # the cluster was asked later: it may have ended since it was read
            is_recorded = reread.record is None or reread.record.status != "running"
            return reread if is_recorded else dataclasses.replace(row, status="failed")
        return dataclasses.replace(row, queued=state.reason) if state.kind == "queued" else row

    return [scheduled(row) for row in rows]


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is gone already, or a link to nothing
        return 0.0


def _foreign_rows(root: Path, paths: Iterable[Path]) -> Iterator[RunRow]:
    """The runs of plain Lightning; of the newest the metrics too, as long as that takes no time to speak of."""
    budget = _MAX_FOREIGN
    for path in sorted(paths, key=foreign.started, reverse=True):
        try:
            size = foreign.size_bytes(path)
        except OSError:
            continue  # it is gone already
        unread = size > budget
        budget -= 0 if unread else size
        foreign_run = foreign.read(path, with_metrics=not unread)
        yield RunRow(
            run=path.relative_to(root).as_posix(),
            path=path,
            started=foreign_run.started,
            problem=foreign_run.problem,
            model=_model_of(root, path),
            epochs=foreign_run.epochs,
            hyperparameters=foreign_run.hyperparameters,
            metrics=foreign_run.metrics,
            best=foreign_run.best,
            unread=unread,
        )


def _model_of(root: Path, path: Path) -> str:
    """The model of a run of plain Lightning: its logger's name, if it has one."""
    return path.parent.name if path.parent != root else ""


def _matches(pattern: str, *names: str) -> bool:
    return any(pattern in name or fnmatchcase(name, pattern) for name in names)


def rows_named(rows: Sequence[RunRow], names: Iterable[str], where: str) -> list[RunRow]:
    """Return the runs of these names, each once.

    Raises:
        RunError: there is no such run; names the nearest.
    """
    rows_by_name = {row.run: row for row in rows}
    for name in names:
        if name not in rows_by_name:
            near, latest = did_you_mean(name, rows_by_name), latest_runs(where, first_and_more(rows_by_name))
            raise RunError(f"no run {name!r} was found.{near} {latest}")
    return [rows_by_name[name] for name in dict.fromkeys(names)]


def metric_names(rows: Iterable[RunRow]) -> list[str]:
    """Names of the runs' metrics, those that tell most first: the main one, validation, test, training, the rest."""
    counted: dict[str, int] = {}
    for row in rows:
        for name in row.best:
            counted[name] = counted.get(name, 0) + 1
    main = scores.main_metric(sorted(counted, key=lambda name: -counted[name]))
    rank = {"val": 0, "test": 1, "train": 2, "": 3}
    return sorted(counted, key=lambda name: (name != main, rank[scores.stage_of(name)[1]], -counted[name]))


def check_metric(rows: Sequence[RunRow], option: str, metric: str) -> None:
    """Refuse a metric that no run has.

    Raises:
        InputError: names the metrics that there are.
    """
    metrics = metric_names(rows)
    if rows and metric not in metrics:
        available = f"Metrics: {first_and_more(metrics)}" if metrics else "None of the listed runs has metrics"
        near = did_you_mean(metric, metrics)
        raise InputError(f"{option} {metric}: none of the listed runs has this metric.{near} {available}")


def by_metric(rows: Sequence[RunRow], metric: str) -> list[RunRow]:
    """Return the runs, the best by a metric first, those without it last."""
    sign = 1 if direction(rows, metric) == "min" else -1

    def key(row: RunRow) -> tuple[bool, float]:
        value = row.best.get(metric, math.nan)
        return (False, sign * value) if math.isfinite(value) else (True, 0.0)

    return sorted(rows, key=key)


def direction(rows: Iterable[RunRow], metric: str) -> scores.Mode:
    """Return which way a metric of several runs gets better: as the first that tells it decided, else by its name."""
    directions = (row.record.directions for row in rows if row.record is not None)
    return scores.mode_of(metric, next((item for item in directions if metric in item), None))


def best_of(values: Sequence[float | None], mode: scores.Mode) -> float | None:
    """Return the best of several values of a metric, None if there is none."""
    best: float | None = None
    for value in values:
        if value is not None and scores.improves(value, best, mode):
            best = value
    return best


def differing_hyperparameters(rows: Sequence[RunRow]) -> list[str]:
    """Names of the hyperparameters that differ among runs: that is, whose value does, or that one of a model lacks."""
    names = dict.fromkeys(name for row in rows for name in row.hyperparameters)
    return [name for name in names if _differs(rows, name)]


def _differs(rows: Sequence[RunRow], name: str) -> bool:
    rows_with = [row for row in rows if name in row.hyperparameters]
    if len({repr(row.hyperparameters[name]) for row in rows_with}) > 1:
        return True
    models = {row.model for row in rows_with}
    return any(row.hyperparameters and row.model in models and name not in row.hyperparameters for row in rows)
