from __future__ import annotations

import math
import re
import sys

import pytest
from simulated import fit, spawned

from lightning_magics.runs.events import Ended, Launched, Metrics, Notice, Printed, Queued, Results, Started, Step
from lightning_magics.views import report
from lightning_magics.views.state import RunState


def fold(*events, log_dir: str = "") -> RunState:
    state = RunState(log_dir)
    for event in events:
        state.apply(event)
    return state


def other(verb: str, *events, **ended) -> RunState:
    begun = Started("Digits/version_4", verb, 0.0, parameters=9000, trainable_parameters=9000)
    return fold(begun, *events, Ended(**{"status": "completed", "elapsed_s": 0.31, **ended}))


def test_a_fit_as_text():
    best = {
        "best_model_path": "logs/Digits/version_3/checkpoints/best.ckpt",
        "best_model_score": 0.85,
        "monitor": "val_accuracy",
    }
    state = fold(*fit(epochs=3, **best), Notice("few workers"), log_dir="logs/Digits/version_3")
    assert report.text(state) == (
        "Digits · version_3 · 2 × cpu · bf16-mixed · 1.24 M parameters\n"
        "completed: 3 epochs, 1,980 steps in 2.0 s\n"
        "\n"
        "epoch  train_loss  val_loss  val_accuracy   time\n"
        "    1      0.2671    0.3329      0.7772    0.7 s\n"
        "    2      0.0714    0.1108      0.9168 ★  0.7 s\n"
        "    3      0.0191    0.0369      0.9000    0.7 s\n"
        "\n"
        "⚠ few workers\n"
        "best val_accuracy 0.9168 in epoch 2 (higher is better)\n"
        "logs/Digits/version_3\n"
        "best checkpoint checkpoints/best.ckpt (val_accuracy 0.8500)"
    )
    assert report.summary_line(state) == (
        "Digits/version_3 · completed: 3 epochs, 1,980 steps in 2.0 s · "
        "best val_accuracy 0.9168 in epoch 2 (higher is better)"
    )


def test_paths_below_the_working_folder_are_shown_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs/Digits/version_3"
    for best, told in (("version_3/last.ckpt", "last.ckpt"), ("mine.ckpt", "logs/Digits/mine.ckpt")):
        ended = {"best_model_path": str(folder.parent / best)}
        found = report.footer(fold(*fit(epochs=1, **ended), log_dir=str(folder)))
        assert found == ["logs/Digits/version_3", f"last checkpoint {told}"]
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert report.footer(fold(*fit(epochs=1), log_dir=str(folder.parent))) == [str(folder.parent)]


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ({"status": "failed", "error": "ValueError: wrong shape"}, "failed in epoch 1: ValueError: wrong shape"),
        ({"status": "failed"}, "failed in epoch 1: no error was recorded"),
        ({"status": "failed", "error": "E: a\n  b\n\nc \udce9"}, "failed in epoch 1: E: a b c \\udce9"),
        ({"status": "failed", "error": "E: " + "x" * 700}, f"failed in epoch 1: E: {'x' * 596}…"),
        ({"status": "interrupted", "steps": 412}, "interrupted in epoch 1, after 412 steps; weights kept"),
        (
            {"status": "completed", "reason": "EarlyStopping: val_loss did not improve"},
            "completed: 1 epoch, 1 step in 65 s · EarlyStopping: val_loss did not improve",
        ),
    ],
)
def test_how_a_fit_ended(ended, expected):
    state = fold(*list(fit(epochs=1))[:4], Ended(**{"elapsed_s": 65, "epochs": 1, "steps": 1, **ended}))
    assert report.summary(state) == expected.replace("65 s", "1:05 min")


def test_a_fit_that_ended_before_its_first_step():
    begun = next(fit())
    assert report.summary(fold(begun)) == "running"
    assert report.summary(fold(begun, Ended("failed", 0.1, error="E: x"))) == "failed: E: x"
    assert report.summary(fold(begun, Ended("interrupted", 0.1))) == "interrupted, after 0 steps; weights kept"


def test_test_results_of_one_dataloader_are_one_row():
    state = other("test", Step("test", 0, 10, 10, 0, 0.3), Results([{"test_loss": 0.3123, "test_accuracy": 0.9}]))
    assert report.text(state).splitlines()[1:5] == [
        "test completed: 10 batches in 0.3 s",
        "",
        "test_loss  test_accuracy",
        "   0.3123         0.9000",
    ]


def test_results_of_several_dataloaders_are_a_row_each_under_common_names():
    rows = [{f"val_loss/dataloader_idx_{i}": 0.3 + i, f"val_acc/dataloader_idx_{i}": 0.9 - i / 10} for i in range(2)]
    assert report.text(other("validate", Results(rows))).splitlines()[3:6] == [
        "dataloader  val_loss  val_acc",
        "         0     0.300   0.9000",
        "         1     1.300   0.8000",
    ]


def test_prediction_and_what_was_cut_short():
    step = Step("predict", 0, 3, 10, 0, 0.3)
    assert report.summary(other("predict", step)) == "predict completed: 3 batches in 0.3 s"
    assert report.summary(other("test", step, status="interrupted")) == "test interrupted after 3 batches in 0.3 s"
    assert report.summary(other("test", step, status="failed", error="E: x")) == "test failed: E: x"


def test_parameters_that_do_not_train_are_told():
    begun = Started("Net/version_0", "fit", 0.0, parameters=7_240_000_000, trainable_parameters=4_000_000)
    assert report.header(fold(begun)) == ("Net", "version_0 · 1 × cpu · 32-true · 7.24 B parameters (4 M trainable)")


def test_the_html_holds_table_image_notices_and_needs_no_style_element():
    html = report.mimebundle(fold(*fit(epochs=3), Notice("few workers")))["text/html"]
    assert re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", html)[:4] == ["epoch", "train_loss", "val_loss", "val_accuracy"]
    assert html.count("★") == 1
    assert 'src="data:image/png;base64,' in html
    assert "⚠ few workers" in html
    assert "<style" not in html
    assert "<script" not in html


def test_where_matplotlib_is_broken_the_table_stays_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    bundle = report.mimebundle(fold(*fit(epochs=3)))
    assert "<table" in bundle["text/html"]
    assert "<img" not in bundle["text/html"]
    assert "(The curves cannot be drawn: ModuleNotFoundError: import of matplotlib.figure halted" in bundle["text/html"]


def test_where_html_cannot_be_made_the_text_says_how_the_run_ended(monkeypatch):
    monkeypatch.setitem(report.SIGNS, "completed", None)
    bundle = report.mimebundle(fold(*fit(epochs=3)))
    assert set(bundle) == {"text/plain"}
    assert "completed: 3 epochs" in bundle["text/plain"]
    assert "(The report cannot be drawn: TypeError: " in bundle["text/plain"]


def test_everything_from_the_run_is_escaped():
    bad = "<img src=x onerror=alert(1)>"
    state = fold(
        Started(f"{bad}/v", "fit", 0.0, devices=bad, precision=bad),
        Notice(bad),
        *(Metrics(epoch, epoch, 1.0, {bad: 1.0, f"val_{bad}": 2.0}) for epoch in range(3)),
        Ended("failed", 1.0, error=bad, best_model_path=bad, monitor=bad, best_model_score=1.0),
        log_dir=bad,
    )
    state.apply(Printed(0, bad))
    for html in (report.html(state), report.html_status(state, bad), report.html_body(state)):
        assert "<img src=x" not in html
        assert "&lt;img src=x" in html


def test_of_many_epochs_the_first_the_best_and_the_last_are_shown():
    state = fold(*(Metrics(e, e, 1.0, {"val_loss": abs(e - 50) / 10 + 1}, True) for e in range(5000)))
    _, cells = report.table(state)
    assert [row[0] for row in cells][:7] == ["1", "2", "3", "…", "51", "…", "4985"]
    assert cells[4][1] == "1.0 ★"
    assert cells[-1][0] == "5000"


@pytest.mark.parametrize(("epochs", "sent", "more"), [(1, 100_000, 0), (5000, 1, 0), (50, 10, 200)])
def test_the_report_stays_small_whatever_the_length(epochs, sent, more):
    events = list(fit(epochs, batches=100_000, sent=sent))
    wide = [Metrics(e, e, 1.0, {f"val_{'x' * 200}_{i}": e * i % 7 for i in range(more)}) for e in range(epochs)]
    noise = [Notice(f"{i} " + "long " * 1000) for i in range(100)]
    noise += [Printed(rank, text * 100_000) for rank, text in enumerate("&x🚀" * 7)]
    bundle = report.mimebundle(fold(*events[:-1], *wide, *noise, Ended("failed", 1.0, error="x" * 100_000)))
    assert sum(len(part.encode()) for part in bundle.values()) <= 100_000


def test_what_is_left_out_is_told():
    state = fold(
        *(Metrics(e, e, 1.0, {f"val_m{i}": e for i in range(18)}) for e in range(2)),
        *map(Notice, "abcdefghijklmnopqrstuvw"),
    )
    assert report.remarks(state)[-3:] == [
        "3 more notices in the run's log",
        "2 of 18 metrics are not shown here",
        "12 more curves not drawn here",
    ]


def test_metrics_of_training_give_way_where_the_table_is_full():
    values = {**{f"train_m{i}": 1.0 for i in range(20)}, "val_loss": 1.0}
    labels, _ = report.table(fold(Metrics(0, 1, 1.0, values)))
    assert len(labels) == 18
    assert labels[-2] == "val_loss"


def test_the_live_status_tells_where_the_run_is():
    events = list(fit())
    status = report.html_status(fold(*events[:15]), "a hint")
    for text in ("epoch 2/5", "step 132/660", "1,000 steps/s", "3 s left", "1.0 GB", "a hint", 'aria-valuenow="20"'):
        assert text in status, text
    assert "sanity check 2/2" in report.html_status(fold(*events[:2]))
    assert "preparing …" in report.html_status(fold(*events[:1]))


def test_code_is_escaped_and_coloured_by_the_theme():
    html = report.html_code('if a < b:\n    print("<b>")  # done\n')
    assert "<b>" not in html
    assert '<span style="color:var(--jp-mirror-editor-keyword-color,#2e8b57)">if</span>' in html
    assert re.sub("<[^>]*>", "", html) == "if a &lt; b:\n    print(&quot;&lt;b&gt;&quot;)  # done\n"


def test_evaluation_of_a_model_that_logs_nothing_has_no_table():
    state = other("validate", Results([{}]))
    assert report.text(state).splitlines()[1] == "validate completed: 0 batches in 0.3 s"
    assert "<table" not in report.html(state)


def test_fit_that_was_ended_at_once_does_not_say_that_weights_were_kept():
    state = fold(*fit(epochs=1, status="interrupted", error="stopped immediately by a second interrupt"))
    assert report.summary(state) == "interrupted in epoch 1, after 660 steps; stopped immediately by a second interrupt"


LAUNCHED = Launched("Digits/version_3", "fit", 0.0, 2)


def test_while_processes_start_the_header_says_so_and_there_are_no_bars():
    state = fold(LAUNCHED)
    assert report.text(state) == "Digits · version_3 · starting 2 processes …"
    assert report.summary_line(state) == "Digits/version_3 · starting"
    status = report.html_status(state, "a hint")
    assert "version_3 · starting 2 processes …" in status
    assert "a hint" in status
    assert "progressbar" not in status
    assert "starting" not in report.html_status(fold(LAUNCHED, next(fit())))


@pytest.mark.parametrize(
    ("verb", "ended", "expected"),
    [
        ("fit", Ended("failed", 0.1, error="E: no port"), "failed: E: no port"),
        ("test", Ended("failed", 0.1, error="E: no port"), "test failed: E: no port"),
        ("fit", Ended("interrupted", 0.1), "interrupted before it began"),
        ("predict", Ended("interrupted", 0.1, reason="stopped"), "predict interrupted before it began · stopped"),
    ],
)
def test_a_run_that_ended_before_it_began(verb, ended, expected):
    state = fold(Launched("Digits/version_3", verb, 0.0, 2), ended, log_dir="logs/Digits/version_3")
    assert report.text(state) == f"Digits · version_3 · 2 processes\n{expected}\nlogs/Digits/version_3"
    assert expected in report.html(state)


def test_a_run_that_died_before_it_began_says_so():
    state = fold(LAUNCHED)
    state.end()
    assert report.summary(state) == "failed: ended before it started"


def test_what_ranks_printed_is_in_the_text_under_what_was_left_out():
    many = Printed(1, "\n".join(map(str, range(2000))))
    state = fold(LAUNCHED, many, Printed(0, "\x1b[31mhello"), Ended("completed", 1.0))
    lines = report.text(state).splitlines()
    assert lines[2:6] == ["", "… 1,981 lines before: run.logs(1)", "rank 0 │ hello", "rank 1 │ 1981"]
    assert lines[-1] == "rank 1 │ 1999"
    state.apply(Printed(0, "\n" * 30))
    assert "… 2,012 lines before: run.logs(rank)" in report.text(state)


def test_tags_of_many_ranks_line_up_and_a_single_rank_has_none():
    assert report.rank_prefix(fold(Launched("Net/version_0", "fit", 0.0, 16)), 3) == "rank  3 │ "
    assert report.rank_prefix(fold(Launched("Net/version_0", "fit", 0.0, 1)), 0) == ""


def test_what_ranks_printed_is_shown_live_and_stays():
    state = fold(*spawned(epochs=1, lines=1))
    for html in (report.html_body(state), report.html(state)):
        (block,) = re.findall("<pre.*?>(.*?)</pre>", html, re.S)
        assert block.splitlines()[0] == "rank 0 │ 4.0 of 0"
        assert block.splitlines()[-1] == "rank 1 │ 13.0 of 1"
        assert "… 8 lines before: run.logs(rank)" in html
    assert "<pre" not in report.html(fold(*spawned(epochs=1, lines=0)))


def test_a_run_that_was_read_from_its_files_looks_as_it_did_live():
    events = list(spawned(epochs=1))
    prints = [event for event in events if isinstance(event, Printed)]
    others = [event for event in events if not isinstance(event, Printed)]
    afterwards = fold(*others, *sorted(prints, key=lambda event: -event.rank))
    assert report.mimebundle(afterwards) == report.mimebundle(fold(*events))


WAITING = Queued("waiting for resources (Resources)", 2, 5, 1_790_000_000.0)


def test_a_job_in_the_queue_says_how_it_waits_and_has_no_bars():
    state = fold(LAUNCHED, WAITING)
    said = "in the queue, 2 of 5: waiting for resources (Resources) · expected to begin 20"
    assert report.text(state).splitlines()[0] == "Digits · version_3 · 2 processes"
    assert report.text(state).splitlines()[1].startswith(said)
    assert said in report.html_status(state)
    assert report.waiting(fold(LAUNCHED, Queued("waiting for another job (Dependency)"))) == (
        "in the queue: waiting for another job (Dependency)"
    )
    assert report.waiting(fold(LAUNCHED, WAITING, Queued(""))) == ""
    assert "in the queue" not in report.text(fold(LAUNCHED, WAITING, Ended("interrupted", 1.0)))


def test_a_job_that_waits_again_shows_that_in_place_of_its_bars():
    events = list(fit(epochs=1))[:10]
    state = fold(LAUNCHED, *events, WAITING)
    assert "in the queue, 2 of 5" in report.html_status(state)
    assert "progressbar" not in report.html_status(state)
    again = fold(LAUNCHED, *events, WAITING, events[0])
    assert "in the queue" not in report.html_status(again)


def test_a_job_that_begins_again_is_timed_anew():
    first = [Metrics(0, 10, 8.0, {"train_loss": 1.0}, epoch_done=True), Metrics(1, 20, 16.0, {}, epoch_done=True)]
    begun = next(fit())
    state = fold(begun, *first, WAITING, begun, Metrics(1, 20, 3.0, {"train_loss": 0.5}, epoch_done=True))
    assert state.rows[1].time_s == 3.0


def diverged(**row) -> RunState:
    rows = [{"train_loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.9}, {"val_accuracy": 0.95, **row}]
    begun = Started("Net/version_0", "fit", 0.0, max_epochs=2)
    events = [Metrics(epoch, 4 * epoch + 4, 0.1, values, epoch_done=True) for epoch, values in enumerate(rows)]
    return fold(begun, *events, Ended("completed", 0.2, epochs=2, steps=8))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"train_loss": math.nan, "val_loss": math.nan}, "train_loss, val_loss are NaN or infinite from epoch 2 on"),
        ({"train_loss": 0.4, "val_loss": math.inf}, "val_loss is NaN or infinite from epoch 2 on"),
    ],
)
def test_a_fit_whose_loss_is_no_number_is_no_success(row, said):
    state = diverged(**row)
    assert report.summary(state) == f"completed: 2 epochs, 8 steps in 0.2 s · {said}"
    assert report.SIGNS["diverged"][0] in report.html(state)
    assert report.SIGNS["completed"][0] not in report.html(state)
    assert report.best(state) == "best val_accuracy 0.9000 in epoch 1 (higher is better)"


def test_other_metrics_may_be_nan_and_a_loss_may_recover():
    state = diverged(train_loss=0.4, val_loss=0.3, val_auroc=math.nan)
    assert report.summary(state) == "completed: 2 epochs, 8 steps in 0.2 s"
    assert report.SIGNS["completed"][0] in report.html(state)
    assert "val_accuracy 0.9500 in epoch 2" in report.best(state)
    state.apply(Metrics(2, 12, 0.3, {"val_loss": math.nan}, epoch_done=True))
    state.apply(Metrics(3, 16, 0.4, {"val_loss": 0.2}, epoch_done=True))
    assert state.diverged == {}


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_fit_that_ended_before_the_first_step_of_an_epoch_ended_in_that_epoch(status):
    events = [event for event in fit(epochs=3) if not isinstance(event, Ended)]
    first = events[: next(place for place, event in enumerate(events) if isinstance(event, Metrics)) + 1]
    assert f"{status} in epoch 2" in report.summary(fold(*first, Ended(status, 1.0, epochs=1, steps=660)))
    assert f"{status} in epoch 3" in report.summary(fold(*events, Ended(status, 1.0, epochs=3, steps=1980)))


def test_after_an_interrupt_the_last_checkpoint_is_named_beside_the_best(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").touch()
    best = {"best_model_path": str(checkpoints / "best.ckpt"), "best_model_score": 0.85, "monitor": "val_accuracy"}
    state = fold(*fit(epochs=1, status="interrupted", **best), log_dir=str(tmp_path))
    assert report.footer(state)[1:] == [
        "best checkpoint checkpoints/best.ckpt (val_accuracy 0.8500)",
        "last checkpoint checkpoints/last.ckpt",
    ]
    alone = {"best_model_path": str(checkpoints / "last.ckpt"), "monitor": "val_accuracy"}
    state = fold(*fit(epochs=1, status="interrupted", **alone), log_dir=str(tmp_path))
    assert report.footer(state)[1:] == ["last checkpoint checkpoints/last.ckpt"]


def test_the_live_view_brings_a_background_and_an_ink_that_belong_together():
    state = fold(*fit(epochs=2))
    for html in (report.html_status(state), report.html_body(state)):
        first = html[: html.index(">")]
        assert "background:var(--vscode-editor-background,var(--jp-layout-color0,Canvas))" in first
        assert "color:var(--vscode-editor-foreground,var(--jp-ui-font-color1,CanvasText))" in first
        assert "jp-RenderedHTMLCommon" not in html
