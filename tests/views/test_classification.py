import dataclasses
import io
import re

import matplotlib.figure
import pytest
from matplotlib import font_manager
from PIL import Image

from lightning_magics.runs import events
from lightning_magics.views import answers, charts, classification, glyphs, report
from lightning_magics.views.curves import Curve
from lightning_magics.views.state import RunState

JUDGED = events.Judged(
    classes=["bad", "good"],
    actual=[428, 444],
    predicted=[410, 462],
    correct=[380, 414],
    matrix=[[380, 48], [30, 414]],
    mistakes=[
        {"text": "a <b>film", "actual": "bad", "predicted": "good", "probability": 0.99812},
        {"text": "warm " * 60, "actual": "good", "predicted": "bad", "probability": 0.9},
    ],
)


def state(judged=JUDGED):
    found = RunState()
    found.apply(events.Started("Films/test_0", "test", 0.0))
    found.apply(events.Results([{"test_accuracy": 0.9106}]))
    found.apply(judged)
    found.apply(events.Ended("completed", 1.0))
    return found


def test_scores_are_by_class():
    bad, good = classification.per_class(JUDGED)
    assert bad == {"class": "bad", "precision": 380 / 410, "recall": 380 / 428, "f1": 760 / 838, "count": 428}
    assert good["f1"] == pytest.approx(2 * (414 / 462) * (414 / 444) / (414 / 462 + 414 / 444))
    never = events.Judged(["a", "b"], [0, 3], [0, 3], [0, 3], [], [])
    assert classification.per_class(never)[0] == {"class": "a", "precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 0}


def test_the_report_of_a_test_shows_classes_matrix_and_mistakes():
    html = report.html(state())
    assert "0.927" in html
    assert "a &lt;b&gt;film" in html
    assert "Most confident mistakes" in html
    assert re.findall(r'<img alt="([^"]*)" width="\d+" height="\d+"', html) == ["confusion matrix of Films/test_0"]
    assert "<script" not in html
    assert len(html) < 100_000


def test_the_text_of_a_test_shows_classes_and_mistakes():
    text = report.text(state())
    assert re.search(r"class  precision  recall     F1  count\nbad        0.927   0.888  0.907    428\ngood ", text)
    assert re.search(r"text +actual  predicted  probability\na <b>film +bad +good +0.998", text)


def test_the_image_is_transparent_and_has_a_cell_for_each_pair():
    data, width, height = classification.png(JUDGED)
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    assert picture.size == (2 * width, 2 * height)
    assert picture.getpixel((0, 0))[3] == 0
    strong = picture.getpixel((2 * width - 16 - 110, 2 * height - 16 - 110))  # of the last cell, beside its number
    weak = picture.getpixel((2 * width - 16 - 110, 2 * height - 16 - 240))
    assert strong[3] > 200 > 60 > weak[3] > 0


def test_of_many_classes_those_that_do_worst_are_shown():
    many = [f"class {number}" for number in range(40)]
    correct = list(range(40))
    judged = events.Judged(many, [40] * 40, [40] * 40, correct, [], [])
    _, rows = classification.class_table(judged)
    assert len(rows) == 31
    assert rows[0][0] == "class 0"
    assert rows[-1][0] == "… 10 classes with higher F1"
    assert classification.image(judged, "") == ""
    assert classification.mistake_table(judged) is None
    assert "confusion" not in report.html(state(judged))


def test_mistakes_without_texts_have_no_column_for_them():
    judged = events.Judged(
        ["a", "b"], [1, 1], [2, 0], [1, 0], [], [{"actual": "b", "predicted": "a", "probability": 0.75}]
    )
    assert classification.mistake_table(judged) == (["actual", "predicted", "probability"], [["b", "a", "0.750"]])


def test_what_was_judged_is_read_from_the_events_of_a_run():
    assert events.from_json(events.to_json(JUDGED)) == JUDGED


def test_answers_name_label_and_probabilities():
    import torch

    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    found = answers.answers(["warm", "<dull>"], ["bad", "good"], logits)
    assert [answer["label"] for answer in found] == ["good", "bad"]
    assert found[0]["probabilities"]["good"] == found[0]["probability"] == pytest.approx(0.8808, abs=1e-4)
    assert "&lt;dull&gt;" in found._repr_html_()
    one = answers.answers(["warm", "dull"], ["bad", "good"], torch.tensor([[2.0], [-2.0]]))
    assert [answer["label"] for answer in one] == ["good", "bad"]
    other = torch.zeros(2, 7, 3)
    assert answers.answers(["warm", "dull"], ["bad", "good"], other) is other


def test_many_answers_are_shown_in_part():
    import torch

    found = answers.answers(["warm"] * 60, ["bad", "good"], torch.zeros(60, 2))
    assert len(found) == 60
    assert "… 10 more" in found._repr_html_()


@pytest.mark.parametrize(
    ("classes", "known", "shown"),
    [
        (["差评", "好评 :)"], ("DejaVu Sans",), ["#1", "#2"]),
        (["bad", "好评"], ("DejaVu Sans",), ["bad", "#2"]),
        (["schön", "плохо"], ("DejaVu Sans",), ["schön", "плохо"]),
        (["bad", "\u2316"], ("DejaVu Sans", "STIXGeneral"), ["bad", "\u2316"]),  # which matplotlib's second font has
    ],
)
def test_names_that_no_font_has_are_numbers_in_the_picture(monkeypatch, classes, known, shown):
    drawn = []
    write = matplotlib.figure.Figure.text
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "text",
        lambda self, x, y, text, **look: drawn.append(text) or write(self, x, y, text, **look),
    )
    fonts = [font for font in font_manager.fontManager.ttflist if font.name in known]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    judged = dataclasses.replace(JUDGED, classes=classes)
    classification.png(judged)  # a glyph that is missing is warned of, which is an error here
    assert [name for name in drawn if name in shown] == [shown[0], shown[0], shown[1], shown[1]]
    html = report.html(state(judged))
    assert all(f">{name}<" in html for name in classes)


def test_a_chart_of_a_metric_in_chinese_is_drawn_without_a_warning(monkeypatch):
    usual = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    found = RunState()
    found.apply(events.Started("Net/version_0", "fit", 0.0))
    curve = Curve()
    for step in range(3):
        curve.add(step, float(step))
    assert charts.picture([charts.overlay("准确率", {0: curve})])
    assert glyphs.ascii_text("val_准确率") == "val_\\u51c6\\u786e\\u7387"
