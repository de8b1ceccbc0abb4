"""Curves drawn: as light SVG while a run goes on, as one PNG in what stays. Both show the same.

What the curves are is in `state`, of several runs in `histories`; the html around them is in `report`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Literal

from .. import formats, scores
from . import glyphs

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .curves import Curve
    from .state import LineKey, RunState

Points = list[tuple[float, float]]
Picture = tuple[bytes, int, int]

# Colours of at least 3:1 on white and on dark pages alike; the text of the image has no theme to follow.
COLOURS = {"train": "#d9702a", "val": "#3b8ee0", "test": "#27a06a", "": "#8b6fd6"}
# Likewise, for runs over one another; more than these are not told apart.
RUN_COLOURS = (
    *("#3b8ee0", "#d9702a", "#27a06a", "#d9534f", "#8b6fd6"),
    *("#b8860b", "#1593a8", "#d562b3", "#8c6d5a", "#7f8c8d"),
)
_GREY = "#767e86"
_MAX_CHARTS = 6
_ACROSS = 3
_MAX_DOTS = 12  # dots show the epochs as long as these can be told apart
_FEW = 8  # values by step that are not drawn beside those by epoch
_MANY_LINES = 5  # in a chart: more make a large file
_MAX_POINTS = 160  # of a line: more than this is not seen at the charts' size
_WIDTH, _HEIGHT = 290, 170  # of a chart, in CSS pixels
_POINTS = 0.72  # of matplotlib for a CSS pixel, at 100 pixels an inch
_BLOCKS = "▁▂▃▄▅▆▇█"
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 24, 20


@dataclass(frozen=True)
class ChartLine:
    """A line ready to draw.

    Attributes:
        stage: what the legend calls it; empty for nothing.
        faint: whether it stands back: values by step beside those by epoch.
        points: of the line.
        colour: of the line; that of its stage if empty.
    """

    stage: str
    faint: bool
    points: Points
    colour: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw: the metric, its lines, the range of each axis, its size in CSS pixels, and a note."""

    title: str
    lines: list[ChartLine]
    x: tuple[float, float]
    y: tuple[float, float]
    width: int = _WIDTH
    height: int = _HEIGHT
    note: str = ""

    @property
    def stages(self) -> list[str]:
        """The stages that its lines show, each once."""
        return list(dict.fromkeys(line.stage for line in self.lines))


@dataclass(frozen=True)
class Stroke:
    """A line of a chart, in CSS pixels; without a colour it has that of the text."""

    points: Points
    colour: str | None
    width: float
    opacity: float
    dots: bool = False


@dataclass(frozen=True)
class Label:
    """A text of a chart, in CSS pixels; without a colour it has that of the text around."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str | None = None
    bold: bool = False
    muted: bool = False


def charts(state: RunState) -> list[Chart]:
    """Return the charts that have a line to show, losses first."""
    drawable: dict[str, Chart] = {}
    for title, lines in state.charts.items():
        stages = [line.stage for line in lines if not line.by_step and len(lines[line].points(2)) > 1]
        drawn = [
            ChartLine(line.stage, line.by_step and line.stage in stages, curve.points(_MAX_POINTS))
            for line, curve in sorted(lines.items(), key=_order)
            # A few values by step say less than the epochs beside them, and look like a mistake.
            if not (line.by_step and line.stage in stages and len(curve.points(_MAX_POINTS)) < _FEW)
        ]
        if chart := _chart(title, drawn):
            drawable[title] = chart
    diverged: dict[str, list[str]] = {}
    for name, epoch in state.diverged.items():
        title, stage = scores.stage_of(name)
        diverged.setdefault(title, []).append(f"{stage or title} from epoch {epoch + 1}")
    for title, stages in diverged.items():
        empty = Chart(title, [], (0.0, max(row.step for row in state.rows.values())), (0.0, 1.0))
        drawable[title] = replace(drawable.get(title, empty), note=f"NaN or inf: {', '.join(stages)}")
    return sorted(drawable.values(), key=lambda chart: not scores.is_loss(chart.title))


def overlay(metric: str, curves: Mapping[int, Curve], width: int = _WIDTH, height: int = _HEIGHT) -> Chart | None:
    """Return a chart of one metric of several runs, or None if there is no line to show.

    Args:
        metric: its title.
        curves: of each run, by the place of its colour in `RUN_COLOURS`.
        width: in CSS pixels.
        height: likewise.
    """
    drawn = [ChartLine("", False, curve.points(_MAX_POINTS), RUN_COLOURS[place]) for place, curve in curves.items()]
    return _chart(metric, drawn, width, height)


def _chart(title: str, drawn: list[ChartLine], width: int = _WIDTH, height: int = _HEIGHT) -> Chart | None:
    """A chart whose axes fit its lines; None if none of them is a line."""
    if not any(len(line.points) > 1 for line in drawn):
        return None
    xs = [x for line in drawn for x, _ in line.points]
    first = 0.0 if 4 * min(xs) <= max(xs) else min(xs)  # a resumed run starts where it starts
    return Chart(title, drawn, (first, max(xs)), _range([y for line in drawn for _, y in line.points]), width, height)


def _order(item: tuple[LineKey, Curve]) -> tuple[bool, int]:
    """Values by step lie below those by epoch, training below validation."""
    return not item[0].by_step, list(COLOURS).index(item[0].stage)


def _range(values: list[float]) -> tuple[float, float]:
    """The range of the y axis. Of many values the outermost hundredth may lie outside: often the first loss."""
    values = sorted(values)
    skip = len(values) // 100
    low, high = values[skip], values[-1 - skip]
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values within a range, at most `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power, 20 * power) if (high - low) / step <= most)
    return [round(step * i, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def text(chart: Chart, labels: Sequence[str], columns: int = 32) -> list[str]:
    """Return a chart as lines of text: its title, then each of its lines by its label, first and last value.

    Args:
        chart: to draw.
        labels: of its lines.
        columns: characters of a line of the chart.
    """
    end_values = [formats.column([line.points[0][1], line.points[-1][1]]) for line in chart.lines]
    rows = [
        (label, first, _spark(line.points, chart, columns), last)
        for label, line, (first, last) in zip(labels, chart.lines, end_values, strict=True)
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    drawn = [f"  {label:<{widths[0]}}  {first:>{widths[1]}} {spark} {last}" for label, first, spark, last in rows]
    return [chart.title, *drawn]


def _spark(points: Points, chart: Chart, columns: int) -> str:
    """A line as blocks of eight heights; blank where it has not begun, or has ended."""
    scale = (columns - 1) / ((chart.x[1] - chart.x[0]) or 1.0)
    low, high = chart.y
    spark, index = "", 0
    for column in range(columns):
        while index + 1 < len(points) and (points[index + 1][0] - chart.x[0]) * scale <= column:
            index += 1
        has_begun = (points[0][0] - chart.x[0]) * scale <= column + 1
        has_ended = column > math.ceil((points[-1][0] - chart.x[0]) * scale)
        fraction = min(max((points[index][1] - low) / (high - low), 0.0), 1.0)
        spark += _BLOCKS[min(int(8 * fraction), 7)] if has_begun and not has_ended else " "
    return spark


def undrawn_count(state: RunState) -> int:
    """Number of charts beyond those that are drawn."""
    return max(0, len(charts(state)) - _MAX_CHARTS)


def shapes(chart: Chart) -> list[Stroke | Label]:
    """Lay a chart out: what to draw, in CSS pixels from its top left corner."""
    right, bottom = chart.width - _RIGHT, chart.height - _BOTTOM
    x_scale = (right - _LEFT) / ((chart.x[1] - chart.x[0]) or 1.0)
    y_scale = (bottom - _TOP) / (chart.y[1] - chart.y[0])

    def place(x: float, y: float) -> tuple[float, float]:
        inside = min(max(y, chart.y[0]), chart.y[1])
        return _LEFT + (x - chart.x[0]) * x_scale, bottom - (inside - chart.y[0]) * y_scale

    marks: list[Stroke | Label] = [Label(_LEFT, 13, formats.clip(chart.title, chart.width // 12), bold=True)]
    if chart.note:
        height = _TOP + 10 if chart.lines else (_TOP + bottom) / 2
        marks.append(Label((_LEFT + right) / 2, height, chart.note, "middle", muted=True))
    grid = ticks(*chart.y) if chart.lines else []
    for value, label in zip(grid, formats.axis(grid), strict=True):
        height = place(0, value)[1]
        marks.append(Stroke([(_LEFT, height), (right, height)], None, 1, 0.18))
        marks.append(Label(_LEFT - 6, height + 3.5, label, "end", muted=True))
    first, last = (formats.count(round(x)) for x in chart.x)
    under = chart.height - 5
    marks += [
        Label(_LEFT, under, first, muted=True),
        Label((_LEFT + right) / 2, under, "step", "middle", muted=True),
        Label(right, under, last, "end", muted=True),
    ]
    for line in chart.lines:
        is_short = not line.faint and len(line.points) <= _MAX_DOTS
        width, opacity = (1, 0.5) if line.faint else (1.6, 1.0)
        colour = line.colour or COLOURS[line.stage]
        marks.append(Stroke([place(*point) for point in line.points], colour, width, opacity, dots=is_short))
    legend = float(right)
    for stage in reversed([stage for stage in chart.stages if stage]):
        marks.append(Label(legend, 13, stage, "end"))
        legend -= 7 * len(stage) + 4
        marks.append(Stroke([(legend - 14, 9), (legend, 9)], COLOURS[stage], 2.4, 1.0))
        legend -= 24
    return marks


def svg(state: RunState) -> str:
    """Return the charts as html with inline SVG; text takes the colour of the page."""
    width = min(_ACROSS, max(1, len(state.charts))) * _WIDTH  # room for those to come, so that nothing jumps
    drawn = "".join(_svg_chart(chart) for chart in charts(state)[:_MAX_CHARTS])
    return f'<div style="width:{width}px;max-width:100%">{drawn}</div>' if drawn else ""


def _svg_chart(chart: Chart) -> str:
    drawn = "".join(_svg_stroke(item) if isinstance(item, Stroke) else _svg_label(item) for item in shapes(chart))
    size = f'width="{chart.width}" height="{chart.height}" viewBox="0 0 {chart.width} {chart.height}"'
    return (
        f'<svg role="img" aria-label="{escape(chart.title)}" {size} fill="currentColor" font-size="11" '
        f'style="font-family:inherit;vertical-align:top">{drawn}</svg>'
    )


def _svg_stroke(stroke: Stroke) -> str:
    colour = stroke.colour or "currentColor"
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in stroke.points)
    look = f'stroke-width="{stroke.width}"' + (f' stroke-opacity="{stroke.opacity}"' if stroke.opacity < 1 else "")
    dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in stroke.points if stroke.dots)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" {look}/>{"".join(dots)}'


def _svg_label(label: Label) -> str:
    look = "".join(
        [
            f' text-anchor="{label.anchor}"' if label.anchor != "start" else "",
            f' fill="{label.colour}"' if label.colour else "",
            ' font-weight="600"' if label.bold else "",
            ' opacity=".65"' if label.muted else "",
        ]
    )
    return f'<text x="{label.x:g}" y="{label.y:.1f}"{look}>{escape(label.text)}</text>'


def png(state: RunState) -> Picture | None:
    """Return the charts of a run as one picture; None if there is nothing to draw."""
    return picture(charts(state))


def picture(charts: Sequence[Chart]) -> Picture | None:
    """Return charts of one size as one PNG, with its width and height in CSS pixels; None if there is none.

    Transparent, with colours for light and dark pages. Drawn without pyplot, so that the user's figures and backend
    stay as they are, and without axes, which would take most of the time.
    """
    charts = charts[:_MAX_CHARTS]
    if not charts:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = charts[0].width, charts[0].height
    width = min(_ACROSS, len(charts)) * across
    height = -(-len(charts) // _ACROSS) * down
    is_large = height > down or max(len(chart.lines) for chart in charts) > _MANY_LINES
    scale = 1.5 if is_large else 2.0  # pixels of the image for each on the page
    figure = Figure((width / 100, height / 100), 100 * scale, facecolor="none")
    canvas = FigureCanvasAgg(figure)
    for place, chart in enumerate(charts):
        row, column = divmod(place, _ACROSS)
        for shape in shapes(chart):
            _draw(figure, shape, column * across, row * down, (width, height))
    canvas.draw()  # type: ignore[no-untyped-call]
    return palette_png(canvas), width, height


def _draw(figure: Figure, shape: Stroke | Label, left: int, top: int, size: tuple[int, int]) -> None:
    """Put a shape of a chart, whose corner is at left and top, on the figure."""
    from matplotlib.lines import Line2D

    if isinstance(shape, Label):
        families = glyphs.families([shape.text])
        figure.text(
            (left + shape.x) / size[0],
            1 - (top + shape.y) / size[1],
            glyphs.displayable(shape.text, families, glyphs.ascii_text(shape.text)),
            family=families,
            ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
            va="baseline",
            fontsize=11 * _POINTS,
            color=shape.colour or _GREY,
            weight="bold" if shape.bold else "normal",
            parse_math=False,
            usetex=False,
        )
        return
    xs = [(left + x) / size[0] for x, _ in shape.points]
    ys = [1 - (top + y) / size[1] for _, y in shape.points]
    line = Line2D(xs, ys, linewidth=shape.width * _POINTS, color=shape.colour or _GREY, alpha=shape.opacity)
    line.set(linestyle="-", marker="o" if shape.dots else "", markersize=4.4 * _POINTS)
    figure.add_artist(line)


def palette_png(canvas: FigureCanvasAgg) -> bytes:
    """Return a drawn figure as PNG with a palette, which is a third of the size."""
    from PIL import Image

    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    file = io.BytesIO()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), pixels)
    image.quantize(64, method=Image.Quantize.FASTOCTREE).save(file, "PNG")
    return file.getvalue()
