"""Tables as html and as text: one made of cells, for the report of a run, and one made of columns, to compare runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

TableCells = tuple[list[str], list[list[str]]]  # labels of the columns, and rows

MUTED = "opacity:.75"
_STRIPE = "background:rgba(128,128,128,.1)"
_RULE = "border-bottom:1px solid rgba(128,128,128,.6)"
_SIDES = {True: "left", False: "right"}  # of a column's words, and of its numbers
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


def text_table(table: TableCells, width: int | None = None, left_aligned: Collection[str] = ()) -> str:
    """Return a table as text, in as many parts as the width asks for.

    Columns are aligned to the right, those whose labels are in `left_aligned` to the left.
    """
    labels, rows = table
    columns = [[label, *(row[place] for row in rows)] for place, label in enumerate(labels)]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [cell.ljust(wide) if label in left_aligned else cell.rjust(wide) for cell in column]
        for label, column, wide in zip(labels, columns, widths, strict=True)
    ]
    groups, group = [], [0]
    for place in range(1, len(columns)):
        if width and len(group) > 1 and sum(widths[i] + 2 for i in [*group, place]) - 2 > width:
            groups.append(group)
            group = [0]
        group.append(place)
    groups.append(group)
    return "\n\n".join(
        "\n".join("  ".join(padded[i][line] for i in group).rstrip() for line in range(len(rows) + 1))
        for group in groups
    )


def html_cells(table: TableCells, left_aligned: Collection[str] = ()) -> str:
    """Return a table as html; columns of words begin at the left, and their lines are wrapped."""
    labels, rows = table
    are_words = [label in left_aligned for label in labels]
    head = "".join(
        f'<th style="text-align:{_SIDES[is_word]};padding:2px 10px">{escape(label)}</th>'
        for label, is_word in zip(labels, are_words, strict=True)
    )
    stripes = ("", f' style="{_STRIPE}"')
    body = "".join(
        f"<tr{stripes[number % 2]}>{''.join(map(_html_roomy_cell, row, are_words))}</tr>"
        for number, row in enumerate(rows)
    )
    return _html_table(head, body, "white-space:nowrap;line-height:1.25;", _RULE)


def _html_roomy_cell(cell: str, is_word: bool) -> str:
    content, wrapped = (escape(cell), ";white-space:normal;min-width:6em") if is_word else (_html_text(cell), "")
    return f'<td style="text-align:{_SIDES[is_word]};padding:2px 10px{wrapped}">{content}</td>'


def _html_table(head: str, body: str, look: str = "", head_look: str = "") -> str:
    styled = f' style="{head_look}"' if head_look else ""
    return (
        f'<div style="overflow-x:auto"><table style="margin:0;border-collapse:collapse;{look}'
        f'font-variant-numeric:tabular-nums"><thead><tr{styled}>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def html(columns: Sequence[Column]) -> str:
    """Return the table as html, with inline styles only."""
    head = "".join(_html_cell("th", column, column.head or escape(column.label)) for column in columns)
    html_cells = [column.html if column.html is not None else list(map(_html_text, column.cells)) for column in columns]
    body = "".join(
        f'<tr style="text-align:right">'
        f"{''.join(_html_cell('td', column, cell) for column, cell in zip(columns, cells, strict=True))}</tr>"
        for cells in zip(*html_cells, strict=True)
    )
    return _html_table(head, body)


def _html_cell(kind: str, column: Column, content: str) -> str:
    """A cell; its look is said in as few bytes as front ends allow, for there are many cells."""
    look = ["padding:2px 8px"]
    if column.left_aligned or kind == "th":
        look.append(f"text-align:{_SIDES[column.left_aligned]}")
    if " " in content:
        look.append("white-space:nowrap")
    return f'<{kind} style="{";".join(look)}">{content}</{kind}>'


def text(columns: Sequence[Column], width: int | None = None) -> str:
    """Return the table as text, in as many parts as the width asks for."""
    labels, left_aligned = (
        [column.label for column in columns],
        [column.label for column in columns if column.left_aligned],
    )
    lines = [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    return text_table((labels, lines), width, left_aligned)


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
    look = f"{MUTED};font-size:.9em;overflow-wrap:anywhere"
    return "".join(f'<div style="{look}">{escape(line)}</div>' for line in lines)
