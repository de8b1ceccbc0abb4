from __future__ import annotations

from lightning_magics.views import tables


def test_a_table_that_is_too_wide_is_set_in_parts():
    labels = ["epoch", "train_loss", "val_loss", "time"]
    assert tables.text_table((labels, [["1", "0.5", "0.6 ★", "2 s"]]), 21).splitlines() == [
        "epoch  train_loss",
        "    1         0.5",
        "",
        "epoch  val_loss  time",
        "    1     0.6 ★   2 s",
    ]


def test_stars_are_of_numbers_and_not_of_words():
    html = tables.html_cells((["text", "score"], [["good ★", "0.5 ★"], ["bad  ", "0.4  "]]), ("text",))
    assert ">good ★</td>" in html
    assert '<b>0.5</b><span style="display:inline-block;width:1.3em">&nbsp;★</span></td>' in html
    assert '>0.4<span style="display:inline-block;width:1.3em"></span></td>' in html
