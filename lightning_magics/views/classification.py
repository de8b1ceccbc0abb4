"""How the test of a classifier is displayed: precision, recall and F1 by class, the confusion matrix, mistakes.

What there is to show comes as an event of the run (`training/classification` finds it).
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from .. import formats
from ..runs.events import Judged
from . import charts, glyphs
from .tables import TableCells

TEXT_COLUMNS = ("class", "text", "actual", "predicted")  # columns of words
_MAX_ROWS = 30
_MAX_NAME = 24
_MAX_TEXT = 160
_BLUE, _GREY = "#3b8ee0", "#808890"
_DARK = 0.55  # a cell of more than this needs white figures


def per_class(judged: Judged) -> list[dict[str, str | float]]:
    """Return for each class ``class``, ``precision``, ``recall``, ``f1`` and ``texts``, its number in the data.

    As scikit-learn does, what has no predictions or no samples is 0.
    """
    rows: list[dict[str, str | float]] = []
    columns = zip(judged.classes, judged.actual, judged.predicted, judged.correct, strict=True)
    for name, actual, predicted, correct in columns:
        rows.append(
            {
                "class": name,
                "precision": correct / predicted if predicted else 0.0,
                "recall": correct / actual if actual else 0.0,
                "f1": 2 * correct / (actual + predicted) if actual + predicted else 0.0,
                "count": actual,
            }
        )
    return rows


def class_table(judged: Judged) -> TableCells:
    """Return the table by class; of many classes those that do worst."""
    scores = per_class(judged)
    shown = sorted(scores, key=lambda row: row["f1"])[:_MAX_ROWS] if len(scores) > _MAX_ROWS else scores
    rows = [
        [
            formats.clip(str(row["class"]), _MAX_NAME),
            *(f"{row[name]:.3f}" for name in ("precision", "recall", "f1")),
            f"{row['count']:,}",
        ]
        for row in shown
    ]
    if len(scores) > len(shown):
        rows.append([f"… {len(scores) - len(shown)} classes with higher F1", "", "", "", ""])
    return ["class", "precision", "recall", "F1", "count"], rows


def mistake_table(judged: Judged) -> TableCells | None:
    """Return the most confident mistakes, None where there are none."""
    if not judged.mistakes:
        return None
    with_text = any("text" in row for row in judged.mistakes)
    rows = []
    for row in judged.mistakes:
        text = [formats.clip(" ".join(str(row.get("text", "")).split()), _MAX_TEXT)] if with_text else []
        names = [formats.clip(str(row.get(name, "")), _MAX_NAME) for name in ("actual", "predicted")]
        rows.append([*text, *names, f"{float(row.get('probability', 0.0)):.3f}"])
    return [*(["text"] if with_text else []), "actual", "predicted", "probability"], rows


def image(judged: Judged, run: str) -> str:
    """Return the confusion matrix as an image in html, or nothing where there are too many classes for one."""
    if not judged.matrix:
        return ""
    data, width, height = png(judged)
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<img alt="confusion matrix of {escape(run or "the run")}" width="{width}" height="{height}" '
        f'style="max-width:100%;height:auto" src="{source}">'
    )


def png(judged: Judged) -> tuple[bytes, int, int]:
    """Return the confusion matrix as a PNG, with its width and height in CSS pixels.

    Transparent, with colours for light and dark pages; a row is an actual class, its shades parts of that class. A name
    that no font of the machine can show is the number of its class, in the order of the table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    names = [formats.clip(name, 14) for name in judged.classes]
    families = glyphs.families(names)
    names = [glyphs.displayable(name, families, f"#{place}") for place, name in enumerate(names, 1)]
    longest = max(map(glyphs.width, names))
    side = 64 if len(names) <= 4 else 40 if len(names) <= 12 else 24
    left_margin, top_margin = 34 + 7 * longest, 44
    upright = longest * 7 > side
    top_margin += 6 * longest if upright else 0
    width, height = left_margin + side * len(names) + 8, top_margin + side * len(names) + 8
    figure = Figure((width / 100, height / 100), 200, facecolor="none")
    canvas = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, colour: str = _GREY, **look: Any) -> None:
        figure.text(
            x / width, 1 - y / height, text, color=colour, family=families, parse_math=False, usetex=False, **look
        )

    size = 11 * 0.72
    write(left_margin + side * len(names) / 2, 14, "predicted", ha="center", va="center", fontsize=size)
    write(12, top_margin + side * len(names) / 2, "actual", ha="center", va="center", rotation=90, fontsize=size)
    for row, counts in enumerate(judged.matrix):
        y, total = top_margin + side * row, sum(counts) or 1
        write(left_margin - 8, y + side / 2, names[row], ha="right", va="center", fontsize=size)
        rotation: dict[str, Any] = {"rotation": 90, "va": "bottom"} if upright else {"va": "center"}
        write(
            left_margin + side * (row + 0.5),
            top_margin - (6 if upright else 12),
            names[row],
            ha="center",
            fontsize=size,
            **rotation,
        )
        for column, count in enumerate(counts):
            x, fraction = left_margin + side * column, count / total
            corner = (x + 1) / width, 1 - (y + side - 1) / height
            cell = Rectangle(corner, (side - 2) / width, (side - 2) / height, color=_BLUE, alpha=0.06 + 0.94 * fraction)
            cell.set_linewidth(0)
            figure.add_artist(cell)
            colour = "white" if fraction > _DARK else _GREY
            if count or len(names) <= 12:
                bold = "bold" if row == column else "normal"
                place = (x + side / 2, y + side / 2)
                write(*place, f"{count:,}", colour, ha="center", va="center", fontsize=size, weight=bold)
    canvas.draw()  # type: ignore[no-untyped-call]
    return charts.palette_png(canvas), width, height
