"""How a run is displayed: html and text of its header, progress, table and end.

Inline styles only, for GitHub removes ``<style>``; it must read without them too. The curves are in `charts`, what
is known of the run in `state`; nothing is displayed here.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Collection, Sequence
from html import escape
from pathlib import Path
from typing import Literal

from .. import formats, scores
from ..formats import one_line
from ..runs import folder
from ..runs.events import Judged, Status
from . import charts, classification, tables
from .state import RunState
from .tables import MUTED, TableCells

_MAX_ROWS = 20
_FIRST_ROWS = 3
_MAX_COLUMNS = 16
_MAX_NAME = 32
_MAX_TEXT = 300  # characters of a notice or a path
_MAX_PRINTED = 5000  # bytes of html that all printed lines take
_MAX_ERROR = 600

SIGNS = {
    "completed": ("✓", "#2da44e"),
    "interrupted": ("■", "#bf8700"),
    "failed": ("✗", "#d9534f"),
    "running": ("●", "#3b8ee0"),
    "diverged": ("⚠", "#bf8700"),
}
_FILL = "var(--jp-brand-color1,var(--vscode-progressBar-background,#2196f3))"
# A background and ink that belong together: VS Code paints widgets white in its dark theme too.
_SURFACE = (
    "background:var(--vscode-editor-background,var(--jp-layout-color0,Canvas));"
    "color:var(--vscode-editor-foreground,var(--jp-ui-font-color1,CanvasText))"
)
_SIDE_BY_SIDE = "display:flex;flex-wrap:wrap;align-items:flex-start;gap:8px 28px"
_TRACK = "rgba(128,128,128,.22)"
_CODE_FONT = "font-family:var(--jp-code-font-family,var(--vscode-editor-font-family,monospace))"
_STAGES = {"sanity": "sanity check", "train": "step", "validate": "validation", "test": "test", "predict": "prediction"}

# Kinds of Pygments' tokens; JupyterLab's themes name the colours, the others read on light and dark.
_CODE_COLOURS = {
    "Keyword": "var(--jp-mirror-editor-keyword-color,#2e8b57)",
    "Name.Function": "var(--jp-mirror-editor-def-color,#4a7fd6)",
    "Name.Class": "var(--jp-mirror-editor-def-color,#4a7fd6)",
    "Name.Builtin": "var(--jp-mirror-editor-builtin-color,#2e8b57)",
    "Literal.String": "var(--jp-mirror-editor-string-color,#c0504d)",
    "Literal.Number": "var(--jp-mirror-editor-number-color,#2f8f7f)",
    "Comment": "var(--jp-mirror-editor-comment-color,#7a8a8a)",
    "Operator": "var(--jp-mirror-editor-operator-color,#a05cc0)",
}


def mimebundle(state: RunState) -> dict[str, str]:
    """Return what stays of a run in a notebook: ``text/html`` with the curves as an image in it, ``text/plain``.

    Whatever cannot be drawn is left out, and says so.
    """
    plain = text(state)
    try:
        return {"text/html": html(state), "text/plain": plain}
    except Exception as error:  # the text still tells how the run ended
        return {"text/plain": f"{plain}\n{_cannot_draw('report', error)}"}


# --- what both forms say


def header(state: RunState) -> tuple[str, str]:
    """Return the run's model and the facts beside it: version, devices, precision, parameters.

    Before it began the facts are how many processes start.
    """
    model, _, version = state.run.partition("/")
    started, facts = state.started, [version]
    if started:
        facts += [started.devices, started.precision]
    elif state.launched:
        processes = formats.plural(state.launched.processes, "process")
        facts.append(f"starting {processes} …" if state.starting and state.queued is None else processes)
    if started and started.monitors:
        facts.append(f"monitors {', '.join(_metric_direction(state, name) for name in started.monitors)}")
    if started and started.parameters is not None:
        frozen = started.trainable_parameters is not None and started.trainable_parameters != started.parameters
        trainable = f" ({formats.count(started.trainable_parameters or 0)} trainable)" if frozen else ""
        facts.append(f"{formats.count(started.parameters)} parameters{trainable}")
    return formats.clip(model, 80), " · ".join(formats.clip(fact, 80) for fact in facts if fact)


def _metric_direction(state: RunState, metric: str) -> str:
    """A metric that decides something, and which way once that is decided."""
    mode = state.directions.get(metric)
    return f"{formats.clip(metric, _MAX_NAME)} ({scores.WORDS[mode]})" if mode else formats.clip(metric, _MAX_NAME)


def summary(state: RunState) -> str:
    """Return in one line how the run ended: ``completed: 5 epochs, 3,300 steps in 4.1 s``."""
    ended, fit = state.ended, state.verb == "fit"
    verb = "" if fit else f"{state.verb} "
    if ended is None:
        return f"{verb}starting" if state.starting else f"{verb}running"
    if ended.status == "failed":
        where = _epoch_suffix(state)
        error = one_line(ended.error or ended.reason or "no error was recorded")
        return f"{verb}failed{where}: {formats.clip(error, _MAX_ERROR)}"
    if ended.status == "interrupted" and state.launched and not state.started:
        return f"{verb}interrupted before it began{_reason_suffix(ended.reason)}"
    if ended.status == "interrupted" and fit:
        where = _epoch_suffix(state)
        how = one_line(ended.error) or "weights kept"
        return f"interrupted{where}, after {formats.plural(ended.steps, 'step')}; {how}{_reason_suffix(ended.reason)}"
    batches = state.step.batch if state.step else 0
    done = (
        f"{formats.plural(ended.epochs, 'epoch')}, {formats.plural(ended.steps, 'step')}"
        if fit
        else formats.plural(batches, "batch") + (" in rank 0" if state.several_ranks else "")
    )
    how = "interrupted after" if ended.status == "interrupted" else "completed:"
    end = f"{verb}{how} {done} in {formats.duration(ended.elapsed_s)}{_reason_suffix(ended.reason)}"
    return " · ".join([end, *_divergence(state)])


def _epoch_suffix(state: RunState) -> str:
    """The epoch that a fit ended in; it may have had no step yet."""
    ended, train, begun = state.ended, state.train, state.started
    if ended is None or begun is None or state.verb != "fit" or (train is None and not ended.epochs):
        return ""
    epoch = max(train.epoch if train else 0, ended.epochs)
    return f" in epoch {min(epoch + 1, begun.max_epochs or epoch + 1)}"


def _divergence(state: RunState) -> list[str]:
    """Which losses are NaN or infinite, and since which epoch."""
    epochs: dict[int, list[str]] = {}
    for name, epoch in state.diverged.items():
        epochs.setdefault(epoch, []).append(formats.clip(name, _MAX_NAME))
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} NaN or infinite from epoch {epoch + 1} on"
        for epoch, names in epochs.items()
    ]


def waiting(state: RunState) -> str:
    """Return how the run's job waits in the queue of a cluster; empty if it does not."""
    queued = state.queued
    if queued is None:
        return ""
    place = f", {queued.position} of {queued.waiting}" if queued.position and queued.waiting else ""
    start = f" · expected to begin {formats.moment(queued.start)}" if queued.start else ""
    return f"in the queue{place}: {one_line(queued.reason)}{start}"


def _reason_suffix(reason: str) -> str:
    return f" · {formats.clip(one_line(reason), _MAX_TEXT)}" if reason else ""


def table(state: RunState) -> TableCells | None:
    """Return the table's header and cells: metrics by epoch, or a row for each dataloader. None if there is none.

    Of many epochs the first, the best and the last are kept, with "…" for what lies between.
    """
    if any(state.results):
        return _results_table(state.results)
    if not state.rows:
        return None
    best, names = state.best_metric, _shown_metrics(state.metrics)
    best_row = state.best(best) if best else None
    rows = list(state.rows.values())
    shown_rows = rows
    if len(rows) > _MAX_ROWS:
        shown_rows = [*rows[:_FIRST_ROWS], *rows[_FIRST_ROWS - _MAX_ROWS + 1 :]]
        if best_row and best_row not in shown_rows:
            shown_rows.insert(_FIRST_ROWS, best_row)
    columns = [formats.column([row.values.get(name) for row in shown_rows]) for name in names]
    if best in names and best_row:
        place = names.index(best)
        columns[place] = tables.mark_best(columns[place], {shown_rows.index(best_row)})
    cells: list[list[str]] = []
    for place, row in enumerate(shown_rows):
        if place and row.epoch > shown_rows[place - 1].epoch + 1 and len(rows) > len(shown_rows):
            cells.append(["…"] + [""] * (len(names) + 1))
        cells.append([str(row.epoch + 1), *(column[place] for column in columns), formats.duration(row.time_s)])
    return ["epoch", *(formats.clip(name, _MAX_NAME) for name in names), "time"], cells


def _shown_metrics(metrics: list[str]) -> list[str]:
    """The metrics that have room in the table: those of training give way first."""
    first = sorted(metrics, key=lambda name: scores.stage_of(name)[1] == "train")[:_MAX_COLUMNS]
    return [name for name in metrics if name in first]


def _results_table(results: list[dict[str, float]]) -> TableCells:
    """A row for each dataloader; Lightning's suffix of the name is told by the row."""
    shown = [{name.partition("/dataloader_idx_")[0]: value for name, value in row.items()} for row in results]
    names = list(dict.fromkeys(name for row in shown for name in row))[:_MAX_COLUMNS]
    columns = [formats.column([row.get(name) for row in shown[:_MAX_ROWS]]) for name in names]
    rows = [[column[place] for column in columns] for place in range(len(shown[:_MAX_ROWS]))]
    labels = [formats.clip(name, _MAX_NAME) for name in names]
    if len(shown) > 1:
        labels, rows = ["dataloader", *labels], [[str(place), *row] for place, row in enumerate(rows)]
    if len(shown) > _MAX_ROWS:
        rows.append(["…"] + [""] * (len(labels) - 1))
    return labels, rows


def notices(state: RunState) -> list[str]:
    """Return the notices, warnings with a sign before them."""
    signs = {"warning": "⚠ ", "loss": "⚠ ", "info": ""}
    return [signs[notice.level] + formats.clip(one_line(notice.text), _MAX_TEXT) for notice in state.notices]


def remarks(state: RunState) -> list[str]:
    """Return the notices, and what was left out to keep the report small."""
    return [*notices(state), *_omissions(state)]


def _omissions(state: RunState) -> list[str]:
    omissions = []
    if state.omitted_notices:
        omissions.append(f"{formats.plural(state.omitted_notices, 'more notice')} in the run's log")
    if len(state.metrics) > _MAX_COLUMNS:
        omissions.append(f"{len(state.metrics) - _MAX_COLUMNS} of {len(state.metrics)} metrics are not shown here")
    if undrawn := charts.undrawn_count(state):
        omissions.append(f"{formats.plural(undrawn, 'more curve')} not drawn here")
    return omissions


def rank_prefix(state: RunState, rank: int) -> str:
    """Return what stands before a line that a rank printed: ``rank 1 │ ``, or nothing where there is one rank."""
    if not state.several_ranks or state.launched is None:
        return ""
    return f"rank {rank:>{len(str(state.launched.processes - 1))}} │ "


def log_call(ranks: Collection[int]) -> str:
    """Return the call that gives all that these ranks printed."""
    return f"run.logs({next(iter(ranks))})" if len(ranks) == 1 else "run.logs(rank)"


def _prints(state: RunState) -> tuple[str, list[str]]:
    """How many printed lines are not kept, if any, and the last ones by rank, cut off where they are too long."""
    omitted = state.prints.omitted()
    note = f"… {formats.plural(sum(omitted.values()), 'line')} before: {log_call(omitted)}" if omitted else ""
    lines = [f"{rank_prefix(state, rank)}{line}".rstrip() for rank, line in state.prints.last()]
    for limit in (100, 50, 25):
        if len(escape("".join(lines), quote=False).encode()) > _MAX_PRINTED:
            lines = [formats.clip(line, limit) for line in lines]
    return note, lines


def footer(state: RunState) -> list[str]:
    """Return where the run is, and its best checkpoint, or the last where no metric chooses."""
    parts = [formats.clip(folder.display_path(state.log_dir), _MAX_TEXT)] if state.log_dir else []
    ended = state.ended
    if ended and ended.best_model_path:
        path = ended.best_model_path
        if state.log_dir and os.path.abspath(path).startswith(os.path.abspath(state.log_dir) + os.sep):
            path = os.path.relpath(path, state.log_dir)
        else:
            path = folder.display_path(path)
        score = ""
        if ended.monitor and ended.best_model_score is not None:
            score = f" ({ended.monitor} {formats.number(ended.best_model_score)})"
        kind = "best" if ended.best_model_score is not None else "last"
        parts.append(f"{kind} checkpoint {formats.clip(path, _MAX_TEXT)}{score}")
        run_folder = folder.RunFolder(Path(state.log_dir).expanduser())
        last = run_folder.last_checkpoint_path
        if kind == "best" and state.log_dir and ended.status == "interrupted" and last.is_file():
            parts.append(f"last checkpoint {os.path.relpath(last, run_folder.path)}")
    return parts


def best(state: RunState) -> str:
    """Return which epoch was best, as ``best val_accuracy 0.9490 in epoch 2``, or nothing."""
    metric = state.best_metric
    row = state.best(metric) if metric else None
    if not metric or row is None:
        return ""
    way = scores.WORDS[scores.mode_of(metric, state.directions)]
    return f"best {metric} {formats.number(row.values[metric])} in epoch {row.epoch + 1} ({way})"


def summary_line(state: RunState) -> str:
    """Return the run in one line, and what was lost of it in another."""
    losses = [formats.clip(one_line(notice.text), _MAX_TEXT) for notice in state.notices if notice.level == "loss"]
    return "\n".join([" · ".join(filter(None, [state.run, summary(state), best(state)])), *losses])


def position(state: RunState) -> str:
    """Return where the run is, as ``epoch 3/5, step 412/660``."""
    fit = state.started is not None and state.verb == "fit"
    return f"{epoch_label(state)}, {step_label(state)}" if fit else step_label(state)


def epoch_label(state: RunState) -> str:
    """Return ``epoch 3/5``, or ``epoch 3`` where there is no limit."""
    last = state.started.max_epochs if state.started else None
    epoch = state.train.epoch if state.train else state.started.first_epoch if state.started else 0
    return f"epoch {epoch + 1}/{last}" if last else f"epoch {epoch + 1}"


def step_label(state: RunState) -> str:
    """Return ``step 412/660``, or the stage's name in place of "step" where it is not training."""
    step = state.step
    if step is None:
        return "preparing …"
    return f"{_STAGES[step.stage]} {step.batch:,}" + (f"/{step.batches:,}" if step.batches else "")


def step_facts(state: RunState) -> list[str]:
    """Return the speed, the time left and the memory, each empty where it is not known."""
    speed, left_s = state.steps_per_s, state.left_s
    memory = state.step.memory_bytes if state.step else None
    return [
        f"{formats.speed(speed)} steps/s" if speed else "",
        "" if left_s is None else f"{formats.remaining(left_s)} left",
        formats.size(memory) if memory else "",
    ]


def ending_lines(state: RunState) -> list[str]:
    """Return what to say at the end where the table and the notices were shown before."""
    return [summary(state), *filter(None, [best(state)]), *_omissions(state), *footer(state)]


# --- text


def text(state: RunState, width: int | None = None) -> str:
    """Return the report as plain text; a table wider than `width` characters is set in several."""
    model, facts = header(state)
    lines = [f"{model} · {facts}" if facts else model]
    if not state.starting:  # the header says so
        lines.append(summary(state))
    if state.queued is not None and state.ended is None:
        lines.append(waiting(state))
    if cells := table(state):
        lines += ["", tables.text_table(cells, width), ""]
    if state.judged is not None:
        lines += [
            tables.text_table(cells, width, classification.TEXT_COLUMNS) + "\n"
            for cells in _judged_tables(state.judged)
        ]
    lines += remarks(state)
    note, printed = _prints(state)
    if printed:
        lines += ["", *filter(None, [note]), *printed, ""]
    lines += [*filter(None, [best(state)]), *footer(state)]
    return "\n".join(lines).strip()


# --- html


def html(state: RunState) -> str:
    """Return the report as html, at most about 100 kB."""
    parts = [html_header(state), _html_summary(state)]
    parts.append(f'<div style="{_SIDE_BY_SIDE}">{html_table(state)}{_html_image(state)}</div>')
    parts.append(_html_judged(state))
    parts += [html_remarks(state), _html_prints(state)]
    if facts := [*filter(None, [best(state)]), *footer(state)]:
        parts.append(_html_small(" · ".join(facts)))
    return f'<div style="margin:2px 0 6px">{"".join(parts)}</div>'


def html_header(state: RunState) -> str:
    """Return the line that names the model and what it runs on; while it is watched, for how long."""
    model, facts = header(state)
    if state.running_s is not None and state.ended is None:
        is_starting = state.starting and state.queued is None
        facts += f" {formats.clock(state.running_s)}" if is_starting else f" · {formats.clock(state.running_s)}"
    return f'<div style="margin-bottom:2px"><b>{escape(model)}</b> <span style="{MUTED}">· {escape(facts)}</span></div>'


def _html_summary(state: RunState) -> str:
    status = state.ended.status if state.ended else "running"
    sign = html_sign("diverged" if status == "completed" and state.diverged else status)
    return f'<div style="margin-bottom:6px;overflow-wrap:anywhere">{sign} {escape(summary(state))}</div>'


def html_sign(status: Status | Literal["diverged"]) -> str:
    """Return the coloured sign of a status."""
    sign, colour = SIGNS[status]
    return f'<span style="color:{colour}">{sign}</span>'


def html_table(state: RunState) -> str:
    """Return the table, or nothing."""
    cells = table(state)
    return tables.html_cells(cells) if cells else ""


def _judged_tables(judged: Judged) -> list[TableCells]:
    mistakes = classification.mistake_table(judged)
    return [classification.class_table(judged), *([mistakes] if mistakes else [])]


def _html_judged(state: RunState) -> str:
    """What a test of a classifier found, or nothing."""
    if state.judged is None:
        return ""
    by_class, *mistakes = (
        tables.html_cells(cells, classification.TEXT_COLUMNS) for cells in _judged_tables(state.judged)
    )
    try:
        image = classification.image(state.judged, state.run)
    except Exception as error:  # as of the curves
        image = _html_small(_cannot_draw("confusion matrix", error))
    worst = "".join(f'<div style="margin-top:8px">Most confident mistakes</div>{rows}' for rows in mistakes)
    return f'<div style="{_SIDE_BY_SIDE};margin-top:8px">{by_class}{image}</div>{worst}'


def _html_image(state: RunState) -> str:
    return html_picture(lambda: charts.png(state), f"curves of {state.run or 'the run'}")


def html_picture(draw: Callable[[], charts.Picture | None], name: str) -> str:
    """Return what is drawn as an image within the html; a line where it cannot be drawn, or nothing."""
    try:
        picture = draw()
    except Exception as error:  # a broken installation of matplotlib fails in its own ways; the table stays
        return _html_small(_cannot_draw("curves", error))
    if picture is None:
        return ""
    data, width, height = picture
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<img alt="{escape(name)}" width="{width}" height="{height}" style="max-width:100%;height:auto" '
        f'src="{source}">'
    )


def _html_small(text: str) -> str:
    return f'<div style="{MUTED};font-size:.9em">{escape(text)}</div>'


def _cannot_draw(subject: str, error: Exception) -> str:
    return f"(The {subject} cannot be drawn: {formats.clip(one_line(f'{type(error).__name__}: {error}'), _MAX_TEXT)})"


def html_remarks(state: RunState) -> str:
    """Return the notices as calm lines, or nothing."""
    return html_lines(remarks(state))


def html_lines(texts: Sequence[str]) -> str:
    """Return lines as calm html, or nothing."""
    lines = "".join(f'<div style="overflow-wrap:anywhere">{escape(line)}</div>' for line in texts)
    return f'<div style="margin:6px 0;font-size:.92em;opacity:.85">{lines}</div>' if lines else ""


def _html_prints(state: RunState) -> str:
    """What ranks printed, as a calm block, or nothing."""
    note, printed = _prints(state)
    if not printed:
        return ""
    above = _html_small(note) if note else ""
    look = f"margin:0;padding:0;background:none;color:inherit;opacity:.85;{_CODE_FONT};font-size:.85em;line-height:1.45"
    text = "\n".join(printed)
    below = f'<pre style="{look};white-space:pre-wrap;overflow-wrap:anywhere">{escape(text, quote=False)}</pre>'
    return f'<div style="margin:6px 0;padding-left:10px;border-left:2px solid {_TRACK}">{above}{below}</div>'


def html_status(state: RunState, hint: str = "") -> str:
    """Return the live header: what runs, a bar for the epochs, one for the steps, speed, time left and memory.

    While processes start, or a job waits in its queue, there are no bars, and room for them.
    """
    room = f'<div style="height:{3 if state.verb == "fit" else 1.5}em"></div>'
    note = html_note(hint) if hint else ""
    if state.queued is not None:
        room = f'<div style="min-height:{3 if state.verb == "fit" else 1.5}em">{escape(waiting(state))}</div>'
    is_waiting = state.starting or state.queued is not None
    return (
        f'<div style="line-height:1.5;font-variant-numeric:tabular-nums;padding:2px 4px;{_SURFACE}">'
        f"{html_header(state)}{room if is_waiting else _html_bars(state)}{note}</div>"
    )


def html_note(text: str) -> str:
    """Return a small line."""
    return f'<div style="{MUTED};font-size:.85em;margin-top:3px">{escape(text)}</div>'


def _html_bars(state: RunState) -> str:
    speed, remaining, memory = step_facts(state)
    step, rows = state.step, []
    if state.started and state.verb == "fit":
        rows.append(_html_bar(epoch_label(state), state.fraction, remaining))
        remaining = ""
    fraction = step.batch / step.batches if step and step.batches else None
    rows.append(_html_bar(step_label(state), fraction, " · ".join(filter(None, [speed, remaining, memory]))))
    grid = "display:grid;grid-template-columns:minmax(11em,max-content) minmax(6em,30em) minmax(13em,1fr);gap:1px 12px"
    return f'<div style="{grid};align-items:center">{"".join(rows)}</div>'


def _html_bar(label: str, fraction: float | None, facts: str) -> str:
    percent = min(max(fraction or 0.0, 0.0), 1.0) * 100
    return (
        f"<div>{escape(label)}</div>"
        f'<div role="progressbar" aria-label="{escape(label)}" aria-valuenow="{percent:.0f}" style="height:6px;'
        f'border-radius:3px;overflow:hidden;background:{_TRACK}">'
        f'<div style="height:100%;border-radius:3px;width:{percent:.1f}%;background:{_FILL}"></div></div>'
        f"<div>{escape(facts)}</div>"
    )


def html_body(state: RunState) -> str:
    """Return what is below the live header: table, curves, notices and what was printed."""
    best_note = html_note(best_text) if (best_text := best(state)) else ""
    return (
        f'<div style="line-height:1.5;padding:0 4px;{_SURFACE}"><div style="{_SIDE_BY_SIDE}">'
        f"{html_table(state)}{charts.svg(state)}</div>{best_note}{html_remarks(state)}{_html_prints(state)}</div>"
    )


def html_code(source: str) -> str:
    """Return Python code in the colours that the front end's theme gives to code."""
    from pygments.lexers import PythonLexer

    parts = []
    for token, text in PythonLexer().get_tokens(source):
        colour = next((value for kind, value in _CODE_COLOURS.items() if str(token).startswith(f"Token.{kind}")), "")
        parts.append(f'<span style="color:{colour}">{escape(text)}</span>' if colour else escape(text))
    return f'<pre style="{_CODE_FONT};line-height:1.35">{"".join(parts)}</pre>'
