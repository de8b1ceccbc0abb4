from __future__ import annotations

import math

import pytest
from simulated import fit, spawned

from lightning_magics.runs.events import Ended, Launched, Metrics, Notice, Results, Started, Step
from lightning_magics.views.state import LineKey, RunState


def fold(*events) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def started(**changes) -> Started:
    return Started(**{"run": "Net/version_0", "verb": "fit", "time": 0.0, "max_epochs": 4, **changes})


def step(epoch: int, batch: int, elapsed_s: float, batches: int | None = 100, stage="train", **values) -> Step:
    return Step(stage, epoch, batch, batches, epoch * 100 + batch, elapsed_s, values=values)


def test_an_epoch_is_a_row_and_later_values_replace_earlier_ones():
    state = fold(
        started(),
        step(0, 1, 1.0),
        Metrics(0, 50, 1.5, {"val_loss": 0.9}),
        Metrics(0, 100, 2.0, {"val_loss": 0.7}),
        Metrics(0, 100, 2.5, {"train_loss": 0.8}, epoch_done=True),
        Metrics(1, 200, 4.0, {"train_loss": 0.4, "val_loss": 0.5}, epoch_done=True),
    )
    assert [(row.epoch, row.step, row.time_s, row.done, row.values) for row in state.rows.values()] == [
        (0, 100, 1.5, True, {"val_loss": 0.7, "train_loss": 0.8}),
        (1, 200, 1.5, True, {"train_loss": 0.4, "val_loss": 0.5}),
    ]
    assert state.metrics == ["train_loss", "val_loss"]
    assert state.charts["loss"][LineKey("val", False)].points(9) == [(50, 0.9), (100, 0.7), (200, 0.5)]


def test_train_validation_and_step_values_of_a_metric_share_a_chart():
    state = fold(
        started(),
        step(0, 1, 0.1, train_loss_step=1.0, loss=1.0),
        Metrics(0, 100, 1.0, {"train_loss_epoch": 0.5, "val_loss": 0.4, "val/accuracy": 0.9, "lr-Adam": 0.1}),
    )
    assert {title: list(lines) for title, lines in state.charts.items()} == {
        "loss": [LineKey("train", True), LineKey("train", False), LineKey("val", False)],
        "accuracy": [LineKey("val", False)],
        "lr-Adam": [LineKey("", False)],
    }


def test_the_loss_of_a_dev_split_shares_the_chart_of_the_training_loss():
    state = fold(started(), Metrics(0, 100, 1.0, {"train_loss": 0.5, "dev_loss": 0.4}))
    assert {title: list(lines) for title, lines in state.charts.items()} == {
        "loss": [LineKey("train", False), LineKey("val", False)]
    }
    assert state.best_metric == "dev_loss"


def test_values_that_are_not_finite_are_in_the_table_but_not_in_the_curves():
    state = fold(started(), step(0, 1, 0.1, loss=math.nan), Metrics(0, 1, 0.2, {"val_loss": math.inf}))
    assert state.charts == {}
    assert state.rows[0].values == {"val_loss": math.inf}
    assert state.best("val_loss") is None


def test_the_best_row_goes_by_the_metric_and_the_monitored_metric_goes_first():
    state = fold(*fit(epochs=3, monitor="val_loss"))
    assert state.best_metric == "val_loss"
    assert state.best("val_loss").epoch == 2
    assert state.best("val_accuracy").epoch == 1
    assert fold(*fit(epochs=3)).best_metric == "val_accuracy"
    assert fold(*fit(epochs=3, monitor="unknown")).best_metric == "val_accuracy"
    assert fold(started(), Metrics(0, 1, 1.0, {"train_loss": 1.0})).best_metric is None


def test_speed_is_measured_within_a_stage_only():
    state = fold(started(), step(0, 0, 0.0), step(0, 50, 0.5))
    assert state.steps_per_s == pytest.approx(100)
    state.apply(step(0, 1, 10.0, batches=10, stage="validate"))
    assert state.steps_per_s is None
    state.apply(step(0, 6, 11.0, batches=10, stage="validate"))
    assert state.steps_per_s == pytest.approx(5)
    state.apply(step(1, 1, 60.0))
    assert state.steps_per_s == pytest.approx(100)


def test_speed_is_smoothed():
    state = fold(started(), step(0, 0, 0.0), step(0, 10, 1.0), step(0, 30, 2.0))
    assert state.steps_per_s == pytest.approx(13)


def test_where_epochs_are_too_short_the_speed_is_over_all_of_the_time():
    assert fold(started(), *(step(epoch, 1, float(epoch)) for epoch in range(3))).steps_per_s == pytest.approx(100)


@pytest.mark.parametrize(
    ("limits", "events", "fraction", "left_s"),
    [
        ({}, [step(0, 0, 2.0), step(1, 0, 5.0)], 0.25, 9.0),
        ({}, [step(0, 0, 2.0), step(1, 0, 5.0), step(1, 5, 6.0, 10, "validate")], 0.25, 8.0),
        ({}, [step(2, 0, 1.0), step(3, 0, 2.0)], 0.75, 1.0),
        ({"max_epochs": None, "max_steps": 200}, [step(0, 0, 0.0), step(0, 50, 1.0)], 0.25, 3.0),
        ({"max_steps": 100}, [step(0, 0, 0.0), step(0, 50, 1.0)], 0.5, 1.0),
        ({"max_epochs": None}, [step(1, 0, 10.0), step(1, 50, 11.0)], None, 1.0),
        ({}, [step(0, 10, 0.0, None), step(1, 50, 1.0, None)], 0.25, None),
        ({}, [step(0, 1, 0.0)], 0.0025, None),
        ({}, [], None, None),
        ({"verb": "test"}, [step(0, 1, 1.0, 10, "test"), step(0, 6, 2.0, 10, "test")], 0.6, 0.8),
    ],
)
def test_time_left_is_of_the_run_if_its_end_is_known_else_of_the_epoch(limits, events, fraction, left_s):
    state = fold(started(**limits), *events)
    assert state.fraction == pytest.approx(fraction)
    assert state.left_s == pytest.approx(left_s)


def test_nothing_is_left_of_a_run_that_has_ended():
    assert fold(*fit()).left_s is None


def test_a_notice_is_kept_once_and_many_are_counted():
    state = fold(started(), *[Notice("few workers")] * 3, *(Notice(str(i)) for i in range(30)))
    assert [notice.text for notice in state.notices][:2] == ["few workers", "0"]
    assert (len(state.notices), state.omitted_notices) == (20, 11)


def test_results_are_kept():
    assert fold(started(verb="test"), Results([{"test_loss": 1.0}])).results == [{"test_loss": 1.0}]


def test_a_run_whose_end_was_not_told_has_failed():
    state = fold(started(), step(0, 10, 3.0))
    state.end()
    assert state.ended == Ended("failed", 3.0, error="ended unexpectedly")
    done = fold(*fit())
    done.end()
    assert done.ended.status == "completed"


def test_many_metrics_and_steps_keep_a_bounded_number_of_points():
    state = fold(started(), *(step(0, i, float(i), **{f"m{i % 300}": 1.0}) for i in range(50_000)))
    curves = [curve for lines in state.charts.values() for curve in lines.values()]
    assert len(curves) == 100
    assert max(len(curve.xs) for curve in curves) <= 500


def test_metric_without_a_stage_that_comes_by_step_is_of_training_by_epoch_too():
    state = fold(started(), step(0, 1, 0.1, generator_loss=1.0), Metrics(0, 1, 0.2, {"generator_loss": 0.5}))
    assert {line.stage for line in state.charts["generator_loss"]} == {"train"}


LAUNCHED = Launched("Net/version_0", "test", 0.0, 2)


def test_a_launched_run_is_starting_until_it_has_started_or_ended():
    state = fold(LAUNCHED)
    assert (state.run, state.verb, state.starting, state.several_ranks) == ("Net/version_0", "test", True, True)
    assert not fold(LAUNCHED, started(verb="test")).starting
    assert not fold(LAUNCHED, Ended("failed", 0.1)).starting
    assert (RunState().run, RunState().starting) == ("", False)


def test_ranks_are_told_apart_where_there_are_several():
    assert not fold(Launched("Net/version_0", "fit", 0.0, 1)).several_ranks
    assert not fold(started()).several_ranks


def test_a_launched_run_whose_end_was_not_told_never_began():
    state = fold(LAUNCHED)
    state.end()
    assert state.ended == Ended("failed", 0.0, error="ended before it started")


def test_what_is_printed_is_kept_and_is_something_new_to_draw():
    events = list(spawned(processes=2, epochs=1, lines=2))
    state = fold(*events[:2])
    points = state.points
    state.apply(events[2])
    assert state.points > points
    assert state.prints.last() == [(0, "0.0 of 0"), (0, "0.1 of 0"), (1, "0.0 of 1"), (1, "0.1 of 1")]
