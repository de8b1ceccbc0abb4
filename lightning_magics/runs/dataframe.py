"""Runs as a pandas DataFrame, and what acts as one."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import MissingPackage
from .catalog import RunRow, metric_names

_FACTS: dict[str, Callable[[RunRow], Any]] = {
    "model": lambda row: row.model,
    "verb": lambda row: row.record.verb if row.record else None,
    "data": lambda row: row.record.data if row.record else None,
    "status": lambda row: "broken" if row.problem else row.standing or None,
    "started": lambda row: datetime.datetime.fromtimestamp(row.started),
    "took_s": lambda row: row.took_s,
    "epochs": lambda row: row.epochs,
    "steps": lambda row: row.record.steps if row.record else None,
    "seed": lambda row: row.record.seed if row.record else None,
    "devices": lambda row: row.record.devices if row.record else None,
    "precision": lambda row: row.record.precision if row.record else None,
    "error": lambda row: row.problem or (row.record.error if row.record else None),
}


def frame(rows: Sequence[RunRow]) -> Any:
    """Return a DataFrame of runs, a row for each, named by the run.

    Its columns are facts of the run, then hyperparameters and metrics under their own names: a metric with its best
    value, and as ``last NAME`` with its last one. A hyperparameter that is called as another column is ``model.NAME``.
    Times of day are local, other times in seconds.

    Raises:
        MissingPackage: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingPackage("pandas", "a DataFrame of the runs", "pandas") from error
    metrics = metric_names(rows)
    reserved = {*metrics, *_FACTS}
    columns: dict[str, list[Any]] = {name: [fact(row) for row in rows] for name, fact in _FACTS.items()}
    for name in dict.fromkeys(name for row in rows for name in row.hyperparameters):
        columns[f"model.{name}" if name in reserved else name] = [row.hyperparameters.get(name) for row in rows]
    columns |= {name: [row.best.get(name) for row in rows] for name in metrics}
    columns |= {f"last {name}": [row.metrics.get(name) for row in rows] for name in metrics}
    return pandas.DataFrame(columns, index=pandas.Index([row.run for row in rows], name="run"))


class DataFrameProxy:
    """Runs that have a display of their own and act as their DataFrame in all else.

    ``listing.sort_values("val_loss")`` and ``listing["val_loss"]`` are the DataFrame's. It is made when something of it
    is first asked for, so that a look at the runs does not wait for pandas, and works without it.

    Attributes:
        rows: the runs.
    """

    def __init__(self, rows: list[RunRow]) -> None:
        self.rows = rows
        self._frame: Any = None

    @property
    def df(self) -> Any:
        """The runs as a pandas DataFrame, as `frame` describes it.

        Raises:
            MissingPackage: pandas is not installed.
        """
        if self._frame is None:
            self._frame = frame(self.rows)
        return self._frame

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("rows", "df"):  # front ends ask every object for the former
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.df, name)

    def __getitem__(self, key: Any) -> Any:
        return self.df[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.df)

    def __len__(self) -> int:
        return len(self.rows)
