"""The runs of a folder in a table: what each was, its status and its results.

They are read and chosen by `catalog`; set side by side they are in `comparison`, and how a run looks by itself is
in `report`.
"""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path
from typing import Any

from .. import formats, scores
from ..formats import one_line
from ..runs import catalog, folder
from ..runs.catalog import RunRow
from ..runs.dataframe import DataFrameProxy
from . import charts, histories, report, tables
from .charts import RUN_COLOURS, Chart
from .curves import Curve
from .tables import Column

_MAX_ROWS = 50
_MAX_METRICS = 4
_MAX_PARAMETERS = 6
_MAX_TEXT = 80  # characters of a name or of what it ran on
_MAX_ERROR = 200
_MAX_VALUE = 24  # characters of a hyperparameter
_PLOT = (640, 260)  # of the curves, in CSS pixels


class Listing(DataFrameProxy):
    """Runs as a notebook or a terminal shows them.

    Args:
        root: folder of all runs.
        pattern: which of them; `model` likewise, as `catalog.rows` takes them.
        sort: metric to sort by, the best first; by time, the newest first, if empty.
        plot: metric whose curves are drawn; none if empty.

    Raises:
        InputError: there is no such model or metric.
    """

    def __init__(self, root: str | Path, pattern: str = "", model: str = "", sort: str = "", plot: str = "") -> None:
        rows = catalog.rows(root, pattern, model)
        for option, metric in (("--sort", sort), ("--plot", plot)):
            if metric:
                catalog.check_metric(rows, option, metric)
        super().__init__(catalog.by_metric(rows, sort) if sort else rows)
        self._where = folder.display_path(Path(root).expanduser())
        self._chosen = " ".join(filter(None, [pattern, model]))
        self._sort = sort
        self._plot = plot
        first = filter(None, [sort, plot])
        self._metrics = list(dict.fromkeys([*first, *catalog.metric_names(rows)]))
        self._parameters = catalog.differing_hyperparameters(rows)
        self._curves = _curves(self.rows, plot) if plot else {}

    def __repr__(self) -> str:
        """The table as text, as wide as the terminal."""
        if not self.rows:
            return self._headline()
        names = [self.rows[place].run for place in self._curves]
        plot = [line for chart in self._charts() for line in [*charts.text(chart, names), ""]]
        table = tables.text(self._columns(), shutil.get_terminal_size().columns)
        below = [*self._problems(), *self._remarks()]
        return "\n".join([self._headline(), "", *plot, table, *below])

    def _repr_html_(self) -> str:
        """The table as html, with inline styles only."""
        headline = f'<div style="margin-bottom:4px">{escape(self._headline())}</div>'
        if not self.rows:
            return headline
        image = report.html_picture(lambda: charts.picture(self._charts()), f"curves of {self._plot}")
        table, problems = tables.html(self._columns()), report.html_lines(self._problems())
        below = problems + tables.small_html(self._remarks())
        return f'<div style="margin:2px 0 6px">{headline}{image}{table}{below}</div>'

    def _headline(self) -> str:
        matching = f" for {self._chosen!r}" if self._chosen else ""
        if not self.rows:
            hint = "%lightning_runs lists all" if self._chosen else "%lightning_fit MODEL DATA starts one"
            return f"no runs{matching} in {self._where}: {hint}"
        standing = [row.standing for row in self.rows]
        facts = [f"{formats.plural(len(self.rows), 'run')}{matching} in {self._where}"]
        facts += [f"{standing.count(word)} {word}" for word in ("running", "queued") if word in standing]
        facts += [f"the best {self._sort} first ({self._better()})"] if self._sort else []
        return " · ".join([*facts, "best value of each metric"] if self._metrics else facts)

    def _better(self) -> str:
        return scores.WORDS[catalog.direction(self.rows, self._sort)]

    def _remarks(self) -> list[str]:
        """What is left out, and where it is."""
        remarks, hint = [], "%lightning_runs PATTERN lists fewer"
        if (more := len(self.rows) - _MAX_ROWS) > 0:
            remarks.append(f"… {formats.plural(more, 'more run' if self._sort else 'older run')}; {hint}")
        if self._plot and (more := sum(self._plot in row.best for row in self.rows) - len(self._curves)):
            remarks.append(f"… {formats.plural(more, 'more curve')} not drawn; {hint}")
        hidden = [
            formats.plural(more, noun)
            for noun, more in (
                ("hyperparameter", len(self._parameters) - _MAX_PARAMETERS),
                ("metric", len(self._metrics) - _MAX_METRICS),
            )
            if more > 0
        ]
        if hidden:
            remarks.append(f"… {' and '.join(hidden)} more: the DataFrame, .df, has all")
        if more := sum(row.unread for row in self.rows):
            remarks.append(f"… the metrics of {formats.plural(more, 'run')} of plain Lightning are not read; {hint}")
        return remarks

    def _charts(self) -> list[Chart]:
        """The curves of the metric that was asked for, if there are any."""
        chart = charts.overlay(self._plot, dict(enumerate(self._curves.values())), *_PLOT)
        return [chart] if chart else []

    def _columns(self) -> list[Column]:
        """The table; columns that nothing stands in are left out."""
        shown = self.rows[:_MAX_ROWS]
        colours = {place: RUN_COLOURS[number] for number, place in enumerate(self._curves)}
        names = [formats.clip(row.run, _MAX_TEXT) for row in shown]
        marked = [
            tables.swatch(colours[place]) + escape(name) if place in colours else escape(name)
            for place, name in enumerate(names)
        ]
        columns = [
            Column("run", names, left_aligned=True, html=marked),
            Column("status", list(map(status_text, shown)), left_aligned=True, html=list(map(_html_status, shown))),
            Column("started", [formats.moment(row.started) if row.started else "" for row in shown], left_aligned=True),
            Column("took", ["" if row.took_s is None else formats.duration(row.took_s) for row in shown]),
            Column("epochs", [str(row.epochs) if row.epochs else "" for row in shown]),
            *(_parameter(name, shown) for name in self._parameters[:_MAX_PARAMETERS]),
            *(self._metric(name, shown) for name in self._metrics[:_MAX_METRICS]),
            Column("ran on", list(map(ran_on, shown)), left_aligned=True),
        ]
        return [column for column in columns if any(column.cells)]

    def _problems(self) -> list[str]:
        """Why runs that are shown failed, or what is wrong with their folders; in lines, for a column would be wide."""
        problems = [(row, _problem(row)) for row in self.rows[:_MAX_ROWS]]
        return [f"{status_text(row)[0]} {row.run}: {formats.clip(text, _MAX_ERROR)}" for row, text in problems if text]

    def _metric(self, name: str, shown: list[RunRow]) -> Column:
        """A metric at its best; of the one that is sorted by, the best of all is marked."""
        cells = formats.column([row.best.get(name) for row in shown])
        if name == self._sort and cells[0]:
            cells = tables.mark_best(cells, {0})
        return Column(formats.clip(name, _MAX_VALUE), cells)


def _curves(rows: list[RunRow], metric: str) -> dict[int, Curve]:
    """The curves of the first runs that have one, by the run's place."""
    curves: dict[int, Curve] = {}
    for place, row in enumerate(rows):
        if metric in row.best or row.unread:
            curve = histories.curves(row.path).get(metric)
            if curve is not None and len(curve.points(2)) > 1:
                curves[place] = curve
        if len(curves) == len(RUN_COLOURS):
            break
    return curves


def status_text(row: RunRow) -> str:
    """Return a run's status with its sign."""
    if row.status:
        return f"{report.SIGNS[row.status][0]} {row.standing}"
    return "⚠ broken" if row.problem else "· unknown"


def _html_status(row: RunRow) -> str:
    return f"{report.html_sign(row.status)} {row.standing}" if row.status else status_text(row)


def ran_on(row: RunRow) -> str:
    """Return the devices of a run, and its precision."""
    record = row.record
    facts = [record.devices, record.precision] if record else [] if row.problem else ["plain Lightning"]
    return formats.clip(" · ".join(filter(None, facts)), _MAX_TEXT)


def _problem(row: RunRow) -> str:
    if row.queued:
        return one_line(row.queued)
    if row.status == "failed" and row.record:
        return one_line(row.record.error) or "ended unexpectedly"
    return one_line(row.problem)


def _parameter(name: str, shown: list[RunRow]) -> Column:
    values = [row.hyperparameters.get(name) for row in shown]
    is_numeric = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in values)
    cells = [
        formats.clip(value_text(value), _MAX_VALUE) if name in row.hyperparameters else ""
        for row, value in zip(shown, values, strict=True)
    ]
    return Column(formats.clip(name, _MAX_VALUE), cells, left_aligned=not is_numeric)


def value_text(value: Any) -> str:
    """Return a hyperparameter or an option as it is typed."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return one_line(str(value))
