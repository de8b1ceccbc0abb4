"""Curves drawn: as light SVG while a run goes on, as one PNG in what stays. Both show the same.

What the curves are is in `progress`; the html around them is in `report`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lightning_magics import formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_magics.curves import Curve
    from lightning_magics.progress import Line, RunState

Points = list[tuple[float, float]]

# Colours that read on white and on black alike; the text of the image has no theme to follow.
COLOURS = {"train": "#e8833a", "val": "#3b8ee0", "test": "#2ca86f", "": "#8b6fd6"}
_GREY = "#808890"
_MOST_CHARTS = 6
_MOST_POINTS = 160  # of a line: more than this is not seen at the charts' size
_WIDTH, _HEIGHT = 290, 170  # of a chart, in CSS pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 24, 20


@dataclass(frozen=True)
class Drawn:
    """A line ready to draw: its stage, whether faint (values by step beside those by epoch) and its points."""

    stage: str
    faint: bool
    points: Points


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw: the metric, its lines, and the range of each axis."""

    title: str
    lines: list[Drawn]
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def stages(self) -> list[str]:
        """The stages that its lines show, each once."""
        return list(dict.fromkeys(line.stage for line in self.lines))


def charts(state: RunState) -> list[Chart]:
    """Return the charts that have a line to show, losses first."""
    found = []
    for title, lines in state.charts.items():
        stages = [line.stage for line in lines if not line.by_step and len(lines[line].points(2)) > 1]
        drawn = [
            Drawn(line.stage, line.by_step and line.stage in stages, curve.points(_MOST_POINTS))
            for line, curve in sorted(lines.items(), key=_order)
        ]
        if any(len(line.points) > 1 for line in drawn):
            xs = [x for line in drawn for x, _ in line.points]
            first = 0.0 if 4 * min(xs) <= max(xs) else min(xs)  # a resumed run starts where it starts
            found.append(Chart(title, drawn, (first, max(xs)), _range([y for line in drawn for _, y in line.points])))
    return sorted(found, key=lambda chart: not chart.title.endswith("loss"))


def _order(item: tuple[Line, Curve]) -> tuple[bool, int]:
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


def left_out(state: RunState) -> int:
    """Number of charts beyond those that are drawn."""
    return max(0, len(charts(state)) - _MOST_CHARTS)


def svg(state: RunState) -> str:
    """Return the charts as html with inline SVG; text takes the colour of the page."""
    width = min(3, max(1, len(state.charts))) * _WIDTH  # room for those to come, so that nothing jumps
    drawn = "".join(_svg_chart(chart) for chart in charts(state)[:_MOST_CHARTS])
    return f'<div style="width:{width}px;max-width:100%">{drawn}</div>' if drawn else ""


def _svg_chart(chart: Chart) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x_scale = (right - _LEFT) / ((chart.x[1] - chart.x[0]) or 1.0)
    y_scale = (bottom - _TOP) / (chart.y[1] - chart.y[0])

    def place(x: float, y: float) -> tuple[float, float]:
        inside = min(max(y, chart.y[0]), chart.y[1])
        return _LEFT + (x - chart.x[0]) * x_scale, bottom - (inside - chart.y[0]) * y_scale

    grid = ticks(*chart.y)
    parts = [f'<text x="{_LEFT}" y="13" font-weight="600">{escape(formats.clip(chart.title, 24))}</text>']
    for value, label in zip(grid, formats.axis(grid), strict=True):
        height = place(0, value)[1]
        parts.append(f'<path d="M{_LEFT} {height:.1f}H{right}" stroke="currentColor" stroke-opacity=".13"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 3.5:.1f}" text-anchor="end" opacity=".65">{label}</text>')
    parts += [
        f'<text x="{place_x}" y="{_HEIGHT - 5}" text-anchor="{anchor}" opacity=".65">{label}</text>'
        for place_x, anchor, label in _x_labels(chart, right)
    ]
    parts += [_svg_line(line, [place(x, y) for x, y in line.points]) for line in chart.lines]
    legend = right
    for stage in reversed(chart.stages):
        if stage:
            parts.append(f'<text x="{legend}" y="13" text-anchor="end" fill="{COLOURS[stage]}">{stage}</text>')
            legend -= 9 * len(stage)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return (
        f'<svg role="img" aria-label="{escape(chart.title)}" {size} fill="currentColor" font-size="11" '
        f'style="font-family:inherit;vertical-align:top">{"".join(parts)}</svg>'
    )


def _x_labels(chart: Chart, right: int) -> list[tuple[int, str, str]]:
    return [
        (_LEFT, "start", formats.count(round(chart.x[0]))),
        ((_LEFT + right) // 2, "middle", "step"),
        (right, "end", formats.count(round(chart.x[1]))),
    ]


def _svg_line(line: Drawn, placed: Points) -> str:
    colour = COLOURS[line.stage]
    look = 'stroke-width="1" stroke-opacity=".5"' if line.faint else 'stroke-width="1.6"'
    path = (
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}" fill="none" stroke="{colour}" {look}/>'
    )
    if line.faint or len(placed) > 12:  # dots show the epochs as long as these can be told apart
        return path
    return path + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in placed)


def png(state: RunState) -> tuple[bytes, int, int] | None:
    """Return the charts as one PNG, with its width and height in CSS pixels; None if there is nothing to draw.

    Transparent, with colours for light and dark pages. Drawn without pyplot, so that the user's figures and backend
    stay as they are.
    """
    found = charts(state)[:_MOST_CHARTS]
    if not found:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(found))
    down = -(-len(found) // across)
    figure = Figure(figsize=(across * _WIDTH / 100, down * _HEIGHT / 100), facecolor="none")
    FigureCanvasAgg(figure)
    for place, chart in enumerate(found):
        row, col = divmod(place, across)
        left, low = col * _WIDTH + _LEFT, (down - 1 - row) * _HEIGHT + _BOTTOM
        box = (
            left / (across * _WIDTH),
            low / (down * _HEIGHT),
            (_WIDTH - _LEFT - _RIGHT) / (across * _WIDTH),
            (_HEIGHT - _TOP - _BOTTOM) / (down * _HEIGHT),
        )
        _draw(figure.add_axes(box), chart)
    return _small(figure, 2.0 if down == 1 else 1.5), across * _WIDTH, down * _HEIGHT


def _draw(axes: Axes, chart: Chart) -> None:
    """Draw a chart as the SVG shows it."""
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    for line in chart.lines:
        xs, ys = [x for x, _ in line.points], [min(max(y, chart.y[0]), chart.y[1]) for _, y in line.points]
        dots = "o" if not line.faint and len(xs) <= 12 else ""
        width, opacity = (0.75, 0.5) if line.faint else (1.2, 1.0)
        axes.plot(
            xs,
            ys,
            color=COLOURS[line.stage],
            linewidth=width,
            alpha=opacity,
            marker=dots,
            markersize=3.3,
            clip_on=False,
        )
    axes.set_xlim(chart.x if chart.x[1] > chart.x[0] else (chart.x[0] - 1, chart.x[0] + 1))
    axes.set_ylim(chart.y)
    grid = ticks(*chart.y)
    axes.set_yticks(grid, formats.axis(grid), fontsize=8, color=_GREY)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=4)
    axes.grid(axis="y", color=_GREY, alpha=0.22, linewidth=0.75)
    axes.set_axisbelow(True)
    right, inner = _WIDTH - _RIGHT, (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)

    def write(x: float, y: float, text: str, anchor: str, colour: str, weight: str = "normal") -> None:
        place = ((x - _LEFT) / inner[0], 1 - (y - _TOP) / inner[1])
        axes.text(
            *place, text, transform=axes.transAxes, ha=anchor, fontsize=8, color=colour, weight=weight, parse_math=False
        )

    write(_LEFT, 13, formats.clip(chart.title, 24), "left", _GREY, "bold")
    for x, anchor, label in _x_labels(chart, right):
        write(x, _HEIGHT - 5, label, {"start": "left", "middle": "center", "end": "right"}[anchor], _GREY)
    legend = right
    for stage in reversed(chart.stages):
        if stage:
            write(legend, 13, stage, "right", COLOURS[stage])
            legend -= 9 * len(stage)


def _small(figure: Figure, fineness: float) -> bytes:
    """Return the figure as PNG with `fineness` pixels a CSS pixel, and with a palette: a third of the size."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100 * fineness, facecolor="none")
    small = io.BytesIO()
    Image.open(file).quantize(64, method=Image.Quantize.FASTOCTREE).save(small, "PNG", optimize=True)
    return small.getvalue()
