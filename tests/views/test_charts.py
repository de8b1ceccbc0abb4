from __future__ import annotations

import io
import math
import sys

import pytest
from simulated import fit

from lightning_magics.runs.events import Metrics, Started
from lightning_magics.views import charts, report
from lightning_magics.views.state import RunState


def fold(*events) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def metrics(count: int, epochs: int = 3) -> RunState:
    started = Started("Net/version_0", "fit", 0.0)
    return fold(started, *(Metrics(e, e, float(e), {f"val_m{i}": e + i for i in range(count)}) for e in range(epochs)))


def test_losses_come_first_and_values_by_step_are_faint_beside_those_by_epoch():
    loss, accuracy = charts.charts(fold(*fit()))
    assert (loss.title, accuracy.title) == ("loss", "accuracy")
    assert [(line.stage, line.faint) for line in loss.lines] == [("train", True), ("train", False), ("val", False)]
    assert loss.x == (0, 3300)


def test_values_by_step_are_not_faint_while_there_is_no_line_by_epoch():
    (loss,) = charts.charts(fold(*list(fit(epochs=1))[:-2]))
    assert [(line.stage, line.faint) for line in loss.lines] == [("train", False)]


def test_a_single_value_is_no_curve():
    assert charts.charts(metrics(1, epochs=1)) == []
    assert charts.svg(metrics(1, epochs=1)) == ""
    assert charts.png(metrics(1, epochs=1)) is None


def test_at_most_six_charts_are_drawn_and_the_rest_is_told():
    state = metrics(9)
    assert charts.svg(state).count("<svg") == 6
    assert charts.undrawn_count(state) == 3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.91, 0.99, [0.92, 0.94, 0.96, 0.98]),
        (-3e-7, 4e-7, [-2e-7, 0, 2e-7, 4e-7]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_values_that_never_change_and_huge_ones_can_be_drawn():
    started = Started("Net/version_0", "fit", 0.0)
    for value in (0.0, 1.0, -1e30, 1e-30):
        state = fold(started, *(Metrics(e, 5, 1.0, {"val_loss": value}) for e in range(3)))
        assert "<polyline" in charts.svg(state)
        assert charts.png(state)


def test_names_are_escaped():
    state = fold(Started("a", "fit", 0.0), *(Metrics(e, e, 1.0, {"<script>": 1.0, "$x_": 2.0}) for e in range(2)))
    assert "<script>" not in charts.svg(state)
    assert "&lt;script&gt;" in charts.svg(state)
    assert charts.png(state)


def test_the_image_is_transparent_twice_as_fine_as_shown_and_drawn_without_pyplot():
    from PIL import Image

    sys.modules.pop("matplotlib.pyplot", None)
    data, width, height = charts.png(fold(*fit()))
    image = Image.open(io.BytesIO(data))
    assert image.size == (2 * width, 2 * height)
    assert image.convert("RGBA").getpixel((0, 0))[3] == 0
    assert "matplotlib.pyplot" not in sys.modules


def test_few_values_by_step_are_left_out_beside_those_by_epoch():
    loss, _ = charts.charts(fold(*fit(epochs=3, sent=2)))
    assert [(line.stage, line.faint) for line in loss.lines] == [("train", False), ("val", False)]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#1f1f1f", "#111111"])
def test_lines_and_text_of_a_picture_stand_out_on_light_and_dark_pages(page):
    lines = {*charts.COLOURS.values(), *charts.RUN_COLOURS, *(colour for _, colour in report.SIGNS.values())}
    assert {colour: contrast(colour, page) for colour in lines if contrast(colour, page) < 3} == {}
    assert contrast(charts._GREY, page) > 3.8


def test_the_chart_of_a_loss_that_is_no_number_says_so():
    begun = Started("Net/version_0", "fit", 0.0)
    values = [{"val_loss": 0.5, "train_loss": math.nan}, {"val_loss": 0.4, "train_loss": math.nan}]
    told = [Metrics(epoch, 10 * epoch + 10, 0.1, row, epoch_done=True) for epoch, row in enumerate(values)]
    (drawn,) = charts.charts(fold(begun, *told))
    assert drawn.note == "NaN or inf: train from epoch 1"
    assert [line.stage for line in drawn.lines] == ["val"]
    both = [Metrics(0, 10, 0.1, {"val_loss": math.nan, "train_loss": math.nan}, epoch_done=True)]
    (empty,) = charts.charts(fold(begun, *both))
    assert (empty.title, empty.lines) == ("loss", [])
    assert empty.note == "NaN or inf: train from epoch 1, val from epoch 1"
    assert empty.note in charts.svg(fold(begun, *both))
    assert charts.png(fold(begun, *both)) is not None
