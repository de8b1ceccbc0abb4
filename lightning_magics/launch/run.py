"""The object that a call returns: live while the run is in progress, then its metrics, weights and predictions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RunError
from ..runs import events
from ..runs.columns import TableSchema
from ..runs.folder import RunFolder
from ..runs.record import RunRecord
from ..shell import cell_number, running_kernel
from ..training.job import Job
from ..transport.stop import Stop
from ..views import report
from ..views.state import RunState


class LastValues(dict[str, float]):
    """The last value of each metric; Lightning's aliases of some can be read too, but are not listed."""

    def __init__(self, metrics: Mapping[str, float], doubles: Mapping[str, float]) -> None:
        super().__init__(metrics)
        self._doubles = doubles

    def __missing__(self, name: str) -> float:
        return self._doubles[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The last value of a metric, by name or alias."""
        return super().get(name, self._doubles.get(name, default))


class Run:
    """One call of fit, validate, test or predict, and its results.

    Attributes:
        trainer: the Trainer; None where the run had processes of its own.
        record: what ``run.json`` holds.
        folder: the run on disk.
        data: the DataModule, or None, and the DataLoaders that it ran on.
        table: columns and classes that the data was matched to, including those a fit recorded; None if the data has
            neither.
        texts: that a prediction was made for; empty for other data.
        has_weights: whether the live model has the weights produced by the run.
    """

    def __init__(self, folder: RunFolder, record: RunRecord, state: RunState, job: Job | None) -> None:
        self.record = record
        self.folder = folder
        self.trainer: Any = None
        self.data: tuple[Any, tuple[Any, ...]] = (job.datamodule, job.loaders) if job else (None, ())
        self.table: TableSchema | None = None
        self.texts: tuple[str, ...] = ()
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
        """The LightningModule instance, with the weights produced by the run."""
        return self._model

    @property
    def predictions(self) -> Any:
        """Predictions in input order; for text, a list of dicts with the label and the probabilities."""
        return self._read(self._predictions)

    def _read(self, predictions: Any) -> Any:
        """What predictions say, for what was asked."""
        return predictions if self._reading is None or predictions is None else self._reading(predictions)

    @property
    def judged(self) -> events.Judged | None:
        """For a test of a classifier: the results by class."""
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
        """Status of the run: running, completed, interrupted or failed."""
        return self.record.status

    @property
    def log_dir(self) -> str:
        """Path of the run folder."""
        return str(self.folder.path)

    @property
    def metrics(self) -> dict[str, float]:
        """Last value of every metric; Lightning's aliases work as keys too."""
        return LastValues(self.record.metrics, self.record.doubles)

    @property
    def history(self) -> list[dict[str, float]]:
        """A row for each epoch: ``epoch`` (from 0), ``step``, and the metrics by name."""
        return [{"epoch": row.epoch, "step": row.step, **row.values} for row in list(self._state.rows.values())]

    @property
    def results(self) -> list[dict[str, float]]:
        """Results of validate and test: one row per dataloader."""
        return self.record.results

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint by ``--monitor`` or ``--early_stop``, else of the latest.

        Empty if there is none.
        """
        return self.record.best_model_path

    def wait(self) -> Run:
        """Wait until the run has ended, and return it."""
        self._ended.wait()
        return self

    def stop(self) -> None:
        """Stop the run after the current batch; does nothing if it has ended."""
        self._stop.ask()

    def logs(self, rank: int = 0) -> str:
        """The log of one process of the run.

        Raises:
            RunError: there is no such rank.
        """
        path = self.folder.log_path(rank)
        if not path.is_file():
            raise RunError(f"run {self.name} has no log for rank {rank}: {path} does not exist")
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
