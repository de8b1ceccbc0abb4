from __future__ import annotations

import json
import math

import pytest

from lightning_magics.runs import events

EVERY_KIND = [
    events.Launched("Digits/version_3", "fit", 1.5, processes=2),
    events.Printed(1, "a\nb"),
    events.Started(run="Digits/version_3", verb="fit", time=1.5, max_epochs=5),
    events.Step("train", 1, 20, None, 40, 0.5, 10_000, {"train_loss": 0.25}),
    events.Metrics(1, 40, 0.7, {"val_loss": 0.5}, epoch_done=True),
    events.Results([{"test_loss": 0.5}, {"test_loss": 0.75}]),
    events.Notice("No validation data"),
    events.Ended("failed", 2.0, error="ValueError: a\nb", best_model_score=0.5, monitor="val_loss"),
]


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: type(event).__name__)
def test_event_survives_its_json_line(event):
    line = events.to_json(event)
    assert "\n" not in line
    assert events.from_json(line) == event


def test_nan_and_infinity_survive():
    line = events.to_json(events.Metrics(0, 1, 0.1, {"train_loss": math.nan, "val_loss": math.inf}))
    read = events.from_json(line)
    assert math.isnan(read.values["train_loss"])
    assert read.values["val_loss"] == math.inf


def test_unknown_keys_and_unknown_events_are_ignored():
    line = json.dumps({"event": "Notice", "text": "hello", "colour": "red"})
    assert events.from_json(line) == events.Notice("hello")
    assert events.from_json('{"event": "Telepathy"}') is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"event": "Notice"}', "Notice lacks 'text'"),
        ('{"event": "Notice", "text": 3}', "Notice.text cannot be 3"),
        ('{"event": "Notice", "text": "a", "level": "loud"}', "Notice.level cannot be 'loud'"),
        (
            '{"event": "Metrics", "epoch": true, "step": 1, "elapsed_s": 1, "values": {}}',
            "Metrics.epoch cannot be True",
        ),
        (
            '{"event": "Metrics", "epoch": 1, "step": 1, "elapsed_s": 1, "values": {"a": "b"}}',
            "Metrics.values cannot be",
        ),
        ("[1]", "an event must be a JSON object"),
        ('{"event": "Noti', "Unterminated string"),
    ],
)
def test_broken_line_is_rejected_with_what_is_wrong(line, message):
    with pytest.raises(ValueError, match=message):
        events.from_json(line)
