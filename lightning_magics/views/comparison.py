"""Runs side by side: their settings, their results, and their curves in one chart.

The runs are found by `catalog`; the table of many is in `listing`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from .. import formats
from ..errors import InputError
from ..runs import catalog, folder
from ..runs.catalog import RunRow
from ..runs.dataframe import DataFrameProxy
from ..runs.folder import RunFolder
from ..runs.record import RunRecord
from . import charts, histories, report, tables
from .charts import RUN_COLOURS, Chart
from .curves import Curve
from .listing import ran_on, status_text, value_text
from .tables import Column

_MAX_CHARTS = 6
_MAX_METRICS = 12
_MAX_VALUE = 40  # characters of an option
_MAX_EQUAL = 400  # characters of what is equal
_EXTREMES = {"min": "lowest", "max": "highest"}
_RESOLVED_OPTIONS = ("model", "data", "logger")  # options that are there as resolved

ComparisonRow = tuple[str, list[str]]  # what is compared, and the cell of each run; without cells a heading


class Comparison(DataFrameProxy):
    """Some runs side by side, as a notebook or a terminal shows them.

    Args:
        root: folder of all runs.
        names: of the runs, in the order of the columns.

    Raises:
        RunError: there is no such run.
        InputError: there are too few or too many.
    """

    def __init__(self, root: str | Path, names: Sequence[str]) -> None:
        super().__init__(catalog.rows_named(catalog.rows(root), names, folder.display_path(Path(root).expanduser())))
        if not 2 <= len(self.rows) <= len(RUN_COLOURS):
            raise InputError(f"--compare takes 2 to {len(RUN_COLOURS)} different runs; found {len(self.rows)}")
        self._facts = [_facts(row) for row in self.rows]
        self._metrics = catalog.metric_names(self.rows)
        self._curves = [histories.curves(row.path) for row in self.rows]

    def __repr__(self) -> str:
        """The comparison as text, as wide as the terminal."""
        table = tables.text(self._columns(), shutil.get_terminal_size().columns)
        drawn = [["", *charts.text(chart, run_names)] for chart, run_names in self._charts()[:_MAX_CHARTS]]
        remarks = ["", *self._remarks()]
        return "\n".join([self._headline(), "", table, *(line for lines in drawn for line in lines), *remarks]).rstrip()

    def _repr_html_(self) -> str:
        """The comparison as html, with inline styles only."""
        headline = f'<div style="margin-bottom:4px">{escape(self._headline())}</div>'
        image = report.html_picture(
            lambda: charts.picture([chart for chart, _ in self._charts()]), "curves of the runs"
        )
        table, below = tables.html(self._columns()), tables.small_html(self._remarks())
        return f'<div style="margin:2px 0 6px">{headline}{table}{below}<div style="margin-top:8px">{image}</div></div>'

    def _headline(self) -> str:
        return f"{len(self.rows)} runs side by side · {formats.plural(len(self._differing()), 'difference')}"

    def _differing(self) -> list[str]:
        """What was asked or found differently."""
        labels = dict.fromkeys(label for facts in self._facts for label in facts)
        return [label for label in labels if len({facts.get(label) for facts in self._facts}) > 1]

    def _remarks(self) -> list[str]:
        """What is equal, and what is left out."""
        differing, facts = self._differing(), self._facts[0]
        equal = [label for label in facts if label not in differing]
        specified = {label for row in self.rows for label in _specified(row)}
        equal_facts = [f"{label} {formats.clip(facts[label], _MAX_VALUE)}" for label in equal if label in specified]
        equal_facts += [f"{more} more" for more in [len(equal) - len(equal_facts)] if more]
        remarks = [f"equal: {formats.clip(' · '.join(equal_facts), _MAX_EQUAL)}"] if equal_facts else []
        if shown := self._metrics[:_MAX_METRICS]:
            directions = [f"{_EXTREMES[catalog.direction(self.rows, name)]} {name}" for name in shown]
            remarks.append(f"★ marks the best: {', '.join(directions)}")
        if (more := len(self._metrics) - _MAX_METRICS) > 0:
            remarks.append(f"… {formats.plural(more, 'more metric')}: the DataFrame, .df, has all")
        if (more := len(self._charts()) - _MAX_CHARTS) > 0:
            remarks.append(f"… {formats.plural(more, 'more curve')} not drawn here")
        return remarks

    def _columns(self) -> list[Column]:
        """A column of what is compared, and one for each run."""
        rows = [*self._settings_rows(), *self._result_rows()]
        labels = [label if not cells else f"  {label}" for label, cells in rows]
        html = [escape(label) if cells else f"<b>{escape(label)}</b>" for label, cells in rows]
        columns = [Column("", labels, left_aligned=True, html=html)]
        for place, row in enumerate(self.rows):
            cells = [cells[place] if cells else "" for _, cells in rows]
            head = tables.swatch(RUN_COLOURS[place]) + escape(row.run)
            columns.append(Column(row.run, cells, head=head))
        return columns

    def _settings_rows(self) -> list[ComparisonRow]:
        """What differs in how the runs were asked for, and in what ran them."""
        differing = self._differing()
        if not differing:
            return [("no settings differ", [])]
        shown = [[formats.clip(facts.get(label, "–"), _MAX_VALUE) for facts in self._facts] for label in differing]
        return [("asked", []), *zip(differing, shown, strict=True)]

    def _result_rows(self) -> list[ComparisonRow]:
        """How the runs ended, and their metrics, the best of each marked."""
        rows: list[ComparisonRow] = [
            ("reached", []),
            ("status", [status_text(row) for row in self.rows]),
            ("took", ["" if row.took_s is None else formats.duration(row.took_s) for row in self.rows]),
            ("epochs", [str(row.epochs) if row.epochs else "" for row in self.rows]),
        ]
        for name in self._metrics[:_MAX_METRICS]:
            best, last = ([values.get(name) for values in kind] for kind in self._values())
            epochs = [_best_epoch(row.record, name) for row in self.rows]
            if best == last and not any(epochs):  # of a test: there is one value
                rows.append((name, self._cells(best, name)))
                continue
            pairs = zip(epochs, self._cells(best, name), strict=True)
            rows.append((f"best {name}", [" ".join(filter(None, pair)) for pair in pairs]))
            rows.append((f"last {name}", self._cells(last, name)))
        return rows

    def _cells(self, values: Sequence[float | None], metric: str) -> list[str]:
        """The values of a metric, the best of them marked where there are several."""
        several = sum(value is not None for value in values) > 1
        best = catalog.best_of(values, catalog.direction(self.rows, metric)) if several else None
        places = {place for place, value in enumerate(values) if best is not None and value == best}
        return tables.mark_best(formats.column(values), places)

    def _values(self) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
        """The best and the last metrics of each run."""
        return [row.best for row in self.rows], [row.metrics for row in self.rows]

    def _charts(self) -> list[tuple[Chart, list[str]]]:
        """The charts, each with the names of the runs that have a line in it."""
        overlays = []
        for metric in dict.fromkeys([*self._metrics, *(name for curves in self._curves for name in curves)]):
            run_curves: dict[int, Curve] = {
                place: curves[metric] for place, curves in enumerate(self._curves) if metric in curves
            }
            if chart := charts.overlay(metric, run_curves):
                overlays.append((chart, [self.rows[place].run for place in run_curves]))
        return overlays


def _facts(row: RunRow) -> dict[str, str]:
    """All that a run was asked for with and was run by, as text."""
    record, facts = row.record, dict(row.hyperparameters)
    if record is not None:
        options = {
            name: value for name, value in record.options.items() if name not in (*_RESOLVED_OPTIONS, *record.trainer)
        }
        arguments = {"model": record.model, "data": record.data, "verb": record.verb} | record.trainer | options
        facts |= {f"--{name}" if name in facts else name: value for name, value in arguments.items()}
        facts |= _environment(record)
    facts |= {"ran on": ran_on(row)}
    source = RunFolder(row.path).source_path
    facts |= {f"code in {source.name}": _digest(source)} if source.is_file() else {}
    return {name: _without_address(value_text(value)) for name, value in facts.items()}


def _environment(record: RunRecord) -> dict[str, str]:
    """Versions and the commit."""
    environment = {f"version of {name}": version for name, version in record.versions.items()}
    commit = str(record.git.get("commit") or "")[:10]
    return environment | {"git commit": f"{commit} with changes" if record.git.get("dirty") else commit}


def _specified(row: RunRow) -> list[str]:
    """What of the facts somebody typed, or the model says."""
    options = row.record.options if row.record else {}
    return [*row.hyperparameters, *options, "model", "data"]


def _digest(path: Path) -> str:
    """What tells whether two files are the same."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    except OSError:
        return ""


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _best_epoch(record: RunRecord | None, metric: str) -> str:
    """The epoch that a metric was best in, counted from 1 as in the report of a fit."""
    best: Mapping[str, float] = record.best_metrics.get(metric, {}) if record else {}
    return f"epoch {best['epoch'] + 1:.0f}:" if "epoch" in best else ""
