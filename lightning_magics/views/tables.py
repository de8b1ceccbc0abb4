"""A table of columns, as html and as text: where runs stand in rows or side by side.

The table of one run is in `report`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from . import report

_STAR, _ROOM = " ★", "  "  # end the cells of a column in which the best is marked


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        label: its header.
        cells: what it says, as text.
        left_aligned: whether it begins at the left, as text does; numbers end at the right.
        html: the cells as html, where they are more than their text; `head` the label likewise.
    """

    label: str
    cells: list[str]
    left_aligned: bool = False
    html: list[str] | None = None
    head: str = ""


def html(columns: Sequence[Column]) -> str:
    """Return the table as html, with inline styles only."""
    head = "".join(_html_cell("th", column, column.head or escape(column.label)) for column in columns)
    html_cells = [column.html if column.html is not None else list(map(_html_text, column.cells)) for column in columns]
    body = "".join(
        f'<tr style="text-align:right">'
        f"{''.join(_html_cell('td', column, cell) for column, cell in zip(columns, cells, strict=True))}</tr>"
        for cells in zip(*html_cells, strict=True)
    )
    return (
        '<div style="overflow-x:auto">'
        '<table style="margin:0;border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _html_cell(kind: str, column: Column, content: str) -> str:
    """A cell; its look is said in as few bytes as front ends allow, for there are many cells."""
    look = ["padding:2px 8px"]
    if column.left_aligned or kind == "th":
        look.append(f"text-align:{'left' if column.left_aligned else 'right'}")
    if " " in content:
        look.append("white-space:nowrap")
    return f'<{kind} style="{";".join(look)}">{content}</{kind}>'


def text(columns: Sequence[Column], width: int) -> str:
    """Return the table as text, in as many parts as the width asks for."""
    labels, left_aligned = (
        [column.label for column in columns],
        [column.label for column in columns if column.left_aligned],
    )
    lines = [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    return report.text_table((labels, lines), width, left_aligned)


def swatch(colour: str) -> str:
    """Return a piece of a curve's line as html, to tell whose it is."""
    return f'<span style="color:{colour};font-weight:700">━</span> '


def mark_best(cells: Sequence[str], best: Collection[int]) -> list[str]:
    """Return cells with the best of them marked; all keep room for the star, so that numbers line up."""
    return [cell and cell + (_STAR if place in best else _ROOM) for place, cell in enumerate(cells)]


def _html_text(cell: str) -> str:
    """A cell's text as html, with its star or the room for one."""
    if not cell.endswith((_STAR, _ROOM)):
        return escape(cell)
    value = escape(cell[: -len(_STAR)])
    room = '<span style="display:inline-block;width:1.3em">{}</span>'
    return f"<b>{value}</b>{room.format('&nbsp;★')}" if cell.endswith(_STAR) else value + room.format("")


def small_html(lines: Sequence[str]) -> str:
    """Return lines as small html below a table."""
    return "".join(
        f'<div style="opacity:.65;font-size:.9em;overflow-wrap:anywhere">{escape(line)}</div>' for line in lines
    )
