"""The runs of a folder in a table: what each was, how it stands and what it reached.

Only records are read; the run of one row is `launch`'s, how a run looks by itself `report`'s.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path

from lightning_magics import formats, report, runs, scores
from lightning_magics.errors import RunError
from lightning_magics.events import Status
from lightning_magics.runs import RunFolder, RunRecord

_MOST_ROWS = 50
_MOST_METRICS = 3
_MOST_TEXT = 80  # characters of a name, of what it ran on, or of an error
_LABELS = ["run", "status", "started", "took", "epochs", "metrics", "ran on"]
_LEFT = ("run", "status", "started", "metrics", "ran on")  # the others are numbers


@dataclass(frozen=True)
class Row:
    """A run folder as it was found.

    Attributes:
        run: name, ``Digits/version_3``.
        started: Unix time in seconds; of a folder whose record cannot be read, when the record was last written.
        status: how it stands: a run that died is failed, whatever its record says. None where there is no telling.
        record: what ``run.json`` holds, None if it cannot be read.
        problem: what is wrong with the folder, empty if nothing is.
    """

    run: str
    started: float
    status: Status | None = None
    record: RunRecord | None = None
    problem: str = ""


def rows(root: str | Path, pattern: str = "") -> list[Row]:
    """Read the runs below a folder, newest first.

    Args:
        root: folder of all runs, ``lightning_logs``.
        pattern: what the name ``Digits/version_3`` or the model is to hold or, with ``*``, to look like.
    """
    found = [_read(path) for path in Path(root).expanduser().glob("*/*/run.json")]
    kept = [row for row in found if _matches(row, pattern)]
    return sorted(kept, key=lambda row: (row.started, row.run), reverse=True)


def _read(path: Path) -> Row:
    folder = RunFolder(path.parent)
    try:
        record = folder.read()
        return Row(folder.name, record.started, folder.status(record), record)
    except RunError as error:
        cause = error.__cause__ or error
        return Row(folder.name, _written(path), problem=f"run.json cannot be read: {report.one_line(str(cause))}")


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is gone already, or a link to nothing
        return 0.0


def _matches(row: Row, pattern: str) -> bool:
    names = [row.run, row.record.model if row.record else ""]
    return any(pattern in name or fnmatchcase(name, pattern) for name in names)


class Listing:
    """Runs as a notebook or a terminal shows them.

    Args:
        root: folder of all runs.
        pattern: which of them, as `rows` takes it.

    Attributes:
        rows: the runs, newest first.
    """

    def __init__(self, root: str | Path, pattern: str = "") -> None:
        self.rows = rows(root, pattern)
        self._where = runs.shown(Path(root).expanduser())
        self._pattern = pattern

    def __repr__(self) -> str:
        """The table as text, as wide as the terminal."""
        if not self.rows:
            return self._headline()
        cells = [_cells(row) for row in self.rows[:_MOST_ROWS]]
        for line, row in zip(cells, self.rows, strict=False):
            line[1] = " ".join(filter(None, [_sign(row), line[1]]))
        table = report.text_table((_LABELS, cells), shutil.get_terminal_size().columns, _LEFT)
        return "\n".join([self._headline(), "", table, *filter(None, [self._left_out()])])

    def _repr_html_(self) -> str:
        """The table as html, with inline styles only."""
        headline = f'<div style="margin-bottom:4px">{escape(self._headline())}</div>'
        if not self.rows:
            return headline
        head = "".join(_html_cell("th", label, label) for label in _LABELS)
        body = "".join(_html_row(row) for row in self.rows[:_MOST_ROWS])
        below = f'<div style="opacity:.65;font-size:.9em">{escape(self._left_out())}</div>' if self._left_out() else ""
        return (
            f'<div style="margin:2px 0 6px">{headline}<div style="overflow-x:auto">'
            '<table style="margin:0;border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{below}</div>"
        )

    def _headline(self) -> str:
        matching = f" for {self._pattern!r}" if self._pattern else ""
        if not self.rows:
            hint = "%lightning_runs lists all" if self._pattern else "%lightning_fit MODEL DATA makes one"
            return f"no runs{matching} in {self._where}: {hint}"
        running = sum(row.status == "running" for row in self.rows)
        facts = [f"{formats.plural(len(self.rows), 'run')}{matching} in {self._where}"]
        return " · ".join([*facts, f"{running} running"] if running else facts)

    def _left_out(self) -> str:
        more = len(self.rows) - _MOST_ROWS
        return f"… {formats.plural(more, 'older run')}; %lightning_runs PATTERN lists fewer" if more > 0 else ""


def _cells(row: Row) -> list[str]:
    """What the table says of a run, under its labels."""
    name, record = formats.clip(row.run, _MOST_TEXT), row.record
    started = formats.moment(row.started) if row.started else ""
    if record is None:
        return [name, "broken", started, "", "", formats.clip(row.problem, _MOST_TEXT), ""]
    return [
        name,
        row.status or "",
        started,
        _took(row, record),
        str(record.epochs) if record.epochs else "",
        _outcome(row, record),
        formats.clip(" · ".join(filter(None, [record.devices, record.precision])), _MOST_TEXT),
    ]


def _took(row: Row, record: RunRecord) -> str:
    """Seconds that a run took, or has taken so far."""
    if record.elapsed_s is not None:
        return formats.duration(record.elapsed_s)
    return formats.duration(max(0.0, time.time() - record.started)) if row.status == "running" else ""


def _outcome(row: Row, record: RunRecord) -> str:
    """What a run reached, or why it failed."""
    if row.status == "failed":
        return formats.clip(report.one_line(record.error) or "stopped before its end", _MOST_TEXT)
    monitor, best = record.options.get("monitor"), record.best_model_score
    found = [f"best {monitor} {formats.number(best)}"] if isinstance(monitor, str) and best is not None else []
    found += [f"{name} {formats.number(record.metrics[name])}" for name in _main(list(record.metrics))]
    return " · ".join(formats.clip(item, _MOST_TEXT) for item in found[:_MOST_METRICS])


def _main(metrics: list[str]) -> list[str]:
    """The metrics, those that tell most first: the main one, those of validation and test, those of training."""
    first = scores.main_metric(metrics)
    return sorted(metrics, key=lambda name: (name != first, scores.stage_of(name)[1] in ("train", "")))


def _sign(row: Row) -> str:
    return report.SIGNS[row.status][0] if row.status else "⚠"


def _html_row(row: Row) -> str:
    cells = dict(zip(_LABELS, map(escape, _cells(row)), strict=True))
    sign = report.html_sign(row.status) if row.status else _sign(row)
    cells["status"] = f"{sign} {cells['status']}"
    return f"<tr>{''.join(_html_cell('td', label, cell) for label, cell in cells.items())}</tr>"


def _html_cell(kind: str, label: str, content: str) -> str:
    side = "left" if label in _LEFT else "right"
    width = "min-width:14em" if label == "metrics" else "white-space:nowrap"
    return f'<{kind} style="text-align:{side};padding:2px 8px;{width}">{content}</{kind}>'
