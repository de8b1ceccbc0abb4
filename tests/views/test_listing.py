from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from recorded import add, fitted, plain

from lightning_magics import clusters
from lightning_magics.commands.session import DefaultSettings, Session
from lightning_magics.errors import InputError, MissingPackage
from lightning_magics.launch.slurm import jobs
from lightning_magics.options.completion import complete
from lightning_magics.runs import catalog
from lightning_magics.views import charts, listing


def table(found: listing.Listing) -> list[dict[str, str]]:
    """The rows of the html table as text, by the labels of the columns."""
    head, *rows = re.findall(r"<tr.*?>(.*?)</tr>", found._repr_html_())
    labels = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<th.*?>(.*?)</th>", head)]
    cells = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]
    return [dict(zip(labels, row, strict=True)) for row in cells]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Path("lightning_logs")


def test_runs_are_listed_newest_first_with_what_they_reached(root):
    metrics = {"train_loss": 0.1, "val_loss": 0.2, "val_accuracy": 0.9}
    best = {"val_loss": {"value": 0.15, "epoch": 3}}
    on = {"devices": "2 × cpu", "precision": "bf16-mixed"}
    add(root, elapsed_s=41.2, epochs=5, metrics=metrics, best_metrics=best, **on)
    add(root, "Text", 60, verb="test", elapsed_s=0.4, metrics={"test_loss": 0.3})
    add(root, started=30, status="interrupted", elapsed_s=412, epochs=2)
    found = listing.Listing(root)
    assert [row.run for row in found.rows] == ["Text/test_0", "Digits/version_1", "Digits/version_0"]
    test, interrupted, fit = table(found)
    labels = ["run", "status", "started", "took", "epochs", "val_accuracy", "val_loss", "test_loss", "train_loss"]
    assert list(fit) == [*labels, "ran on"]
    del fit["started"]
    shown = ["Digits/version_0", "✓ completed", "41 s", "5", "0.9000", "0.1500", "", "0.1000", "2 × cpu · bf16-mixed"]
    assert list(fit.values()) == shown
    assert (test["status"], test["took"], test["epochs"], test["test_loss"]) == ("✓ completed", "0.4 s", "", "0.3000")
    assert (interrupted["status"], interrupted["took"]) == ("■ interrupted", "6:52 min")
    lines = repr(found).splitlines()
    assert lines[0] == "3 runs in lightning_logs · best value of each metric"
    assert lines[2].split() == [*labels, "ran", "on"]
    assert re.match(r"Text/test_0 {7}✓ completed {4}2026-09-2\d \d\d:\d\d {5}0\.4 s .* 0\.3000$", lines[3])


def test_a_run_is_running_only_while_something_works_on_it(root):
    alive = add(root, status="running")
    add(root, started=1, status="running")
    held = alive.lock()
    try:
        found = listing.Listing(root)
    finally:
        os.close(held)
    assert [row.status for row in found.rows] == ["failed", "running"]
    dead, running = table(found)
    assert (dead["status"], dead["took"]) == ("✗ failed", "")
    assert "✗ Digits/version_1: ended unexpectedly" in repr(found)
    assert running["status"] == "● running"
    assert running["took"] != ""
    assert "2 runs in lightning_logs · 1 running" in repr(found)


def test_a_failed_run_says_why(root):
    add(root, status="failed", error="ValueError: wrong\n  shape")
    found = listing.Listing(root)
    for text in (repr(found), found._repr_html_()):
        assert "✗ Digits/version_0: ValueError: wrong shape" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "run.json cannot be read: Expecting property name enclosed in double quotes"),
        ('{"run": 3}', "run.json cannot be read: RunRecord.run cannot be 3"),
        ("[" * 100_000, "run.json cannot be read: maximum recursion depth exceeded"),
        (
            '{"run": "a", "verb": "fit", "model": "b", "status": "completed", "started": 1e20}',
            "run.json cannot be read: invalid start time",
        ),
    ],
)
def test_a_broken_folder_is_a_row_that_says_so(root, content, problem):
    add(root)
    add(root).record_path.write_text(content)
    found = listing.Listing(root)
    assert [row.run for row in found.rows if row.problem] == ["Digits/version_1"]
    (row,) = [row for row in table(found) if row["run"] == "Digits/version_1"]
    assert row["status"] == "⚠ broken"
    assert f"⚠ Digits/version_1: {problem}" in repr(found)
    assert f"⚠ broken{' ' * 5}" in repr(found)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["Digits/version_0", "Digits/version_1", "my_net/version_0"]),
        ("Digits", ["Digits/version_0", "Digits/version_1"]),
        ("version_0", ["Digits/version_0", "my_net/version_0"]),
        ("D*_1", ["Digits/version_1"]),
        ("my net", ["my_net/version_0"]),
        ("Nothing", []),
    ],
)
def test_a_pattern_chooses_by_name_or_model(root, pattern, expected):
    for model in ("Digits", "Digits", "my net"):
        add(root, model)
    assert sorted(row.run for row in catalog.rows(root, pattern)) == expected


def test_a_model_is_chosen_by_its_whole_name_and_an_unknown_one_names_those_that_there_are(root):
    for model in ("Digits", "Digit"):
        add(root, model)
    assert [row.run for row in catalog.rows(root, model="Digit")] == ["Digit/version_0"]
    with pytest.raises(
        InputError, match=r"^--model Digts: no run of this model was found\. Did you mean 'Digits'\? Models: D"
    ):
        catalog.rows(root, model="Digts")


def test_where_there_are_none_it_says_what_to_type(root):
    assert repr(listing.Listing(root)) == "no runs in lightning_logs: %lightning_fit MODEL DATA starts one"
    add(root)
    found = listing.Listing(root, "<Net>")
    assert repr(found) == "no runs for '<Net>' in lightning_logs: %lightning_runs lists all"
    assert "&lt;Net&gt;" in found._repr_html_()


def test_of_many_runs_the_newest_fifty_are_shown_and_the_others_counted(root):
    for place in range(60):
        add(root, started=place, metrics={"val_loss": float(place)})
    found = listing.Listing(root)
    assert len(found) == len(found.rows) == 60
    assert [row["run"] for row in table(found)] == [f"Digits/version_{i}" for i in range(59, 9, -1)]
    for text in (repr(found), found._repr_html_()):
        assert "60 runs in lightning_logs" in text
        assert "… 10 older runs; %lightning_runs PATTERN lists fewer" in text
    assert "… 10 more runs; %lightning_runs PATTERN" in repr(listing.Listing(root, sort="val_loss"))


def test_what_a_record_holds_is_escaped(root):
    bad = "<img src=x>"
    add(root, devices=bad, metrics={bad: 1.0}, hyperparameters={bad: bad})
    add(root, status="failed", error=bad, hyperparameters={bad: "other"})
    html = listing.Listing(root)._repr_html_()
    assert bad not in html
    assert html.count("&lt;img src=x&gt;") == 5


def test_a_narrow_terminal_sets_the_table_in_parts(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    add(root, elapsed_s=1.0, metrics={"val_loss": 0.5}, devices="2 × NVIDIA H200", precision="bf16-mixed")
    text = repr(listing.Listing(root))
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("Digits/version_0") == 2


def test_hyperparameters_that_differ_are_columns(root):
    data = {"options": {"data": {"batch_size": 32}}}
    add(root, hyperparameters={"hidden": 64, "lr": 1e-3, "act": "relu", "new": 1}, **data)
    add(root, started=-1, hyperparameters={"hidden": 128, "lr": 1e-3, "act": "gelu"}, options={"data": {}})
    add(root, "Text", -2, hyperparameters={"lr": 1e-3, "words": 7})
    first, second, text = table(listing.Listing(root))
    names = [name for name in first if name not in ("run", "status", "started")]
    assert names == ["hidden", "act", "new", "data.batch_size"]
    assert [first[name] for name in names] == ["64", "relu", "1", "32"]
    assert [second[name] for name in names] == ["128", "gelu", "", ""]
    assert [text[name] for name in names] == ["", "", "", ""]


def test_what_has_no_room_is_told(root):
    for place in range(2):
        hyperparameters = {f"h{i}": place for i in range(8)}
        add(root, hyperparameters=hyperparameters, metrics={f"m{i}": 1.0 for i in range(5)})
    assert "… 2 hyperparameters and 1 metric more: the DataFrame, .df, has all" in repr(listing.Listing(root))


def test_the_best_by_a_metric_come_first_and_runs_without_it_last(root):
    for place, values in enumerate(([0.5, 0.3], [0.1, 0.9], [float("nan")], [0.2])):
        fitted(root, {"val_loss": values, "val_accuracy": [1 - value for value in values]}, started=place)
    add(root, "Other", 9)
    found = listing.Listing(root, sort="val_loss")
    assert [row.run for row in found.rows] == [
        *("Digits/version_1", "Digits/version_3", "Digits/version_0"),
        *("Other/version_0", "Digits/version_2"),
    ]
    assert [row["val_loss"] for row in table(found)] == ["0.1000&nbsp;★", "0.2000", "0.3000", "", "nan"]
    assert "the best val_loss first (lower is better)" in repr(found)
    assert listing.Listing(root, sort="val_accuracy").rows[0].run == "Digits/version_1"


@pytest.mark.parametrize("option", ["sort", "plot"])
def test_a_metric_that_no_run_has_is_refused_with_those_that_there_are(root, option):
    add(root, metrics={"val_loss": 0.1, "train_loss": 0.2})
    message = (
        rf"^--{option} vall_oss: none of the listed runs has this metric\. Did you mean 'val_loss'\? Metrics: val_loss"
    )
    with pytest.raises(InputError, match=message):
        listing.Listing(root, **{option: "vall_oss"})


def test_curves_of_a_metric_are_drawn_over_one_another(root):
    for place in range(3):
        fitted(root, {"val_loss": [1.0 + place, 0.5, 0.2 * place]}, started=place)
    add(root, started=9, metrics={"val_loss": 1.0})  # without events
    found = listing.Listing(root, plot="val_loss")
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == 1
    assert [html.count(f'<span style="color:{colour};') for colour in charts.RUN_COLOURS[:4]] == [1, 1, 1, 0]
    assert "… 1 more curve not drawn" in html
    lines = repr(found).splitlines()
    assert lines[2] == "val_loss"
    assert re.match(r"  Digits/version_2  3\.000 [▁▂▃▄▅▆▇█]{32} 0\.400$", lines[3])
    assert re.match(r"  Digits/version_0  1\.0 [▁▂▃▄▅▆▇█]{32} 0\.0$", lines[5].replace("000", "0"))


def test_what_is_saved_of_a_plot_stays_small(root):
    for place in range(60):
        series = [1 / (1 + epoch) + 0.01 * ((epoch * 7919 + place) % 13) for epoch in range(300)]
        fitted(root, {"val_loss": series}, hyperparameters={f"h{i}": i + place for i in range(9)}, started=place)
    found = listing.Listing(root, plot="val_loss")
    assert len(found._repr_html_().encode()) + len(repr(found).encode()) < 100_000
    assert "… 50 more curves not drawn" in repr(found)


def test_the_value_acts_as_its_dataframe(root):
    fitted(root, {"val_loss": [0.5, 0.3, 0.4]}, hyperparameters={"hidden": 64, "status": "x"}, seed=1)
    fitted(root, {"val_loss": [0.2, 0.1]}, hyperparameters={"hidden": 128}, started=1)
    found = listing.Listing(root, sort="val_loss")
    assert found.df.index.name == "run"
    assert list(found.sort_values("val_loss", ascending=False).index) == ["Digits/version_0", "Digits/version_1"]
    assert found["hidden"].tolist() == [128, 64]
    worse = found.loc["Digits/version_0"]
    assert (worse["val_loss"], worse["last val_loss"], worse["seed"], worse["took_s"]) == (0.3, 0.4, 1, 1.0)
    assert (worse["status"], worse["model.status"], worse["started"].year) == ("completed", "x", 2026)
    assert "val_loss" in list(found)
    with pytest.raises(AttributeError):
        found._nothing  # noqa: B018


def test_a_look_at_the_runs_does_not_need_pandas_and_its_dataframe_says_what_to_install(root, monkeypatch):
    add(root)
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = listing.Listing(root)
    assert "1 run in lightning_logs" in repr(found)
    with pytest.raises(
        MissingPackage, match=r"^a DataFrame of the runs needs the package 'pandas'.* %pip install pandas"
    ):
        found.sort_values("val_loss")


def test_runs_of_plain_lightning_are_listed_too(root):
    add(root)
    plain(root / "version_0", table="epoch,step,val_loss\n0,9,0.5\n1,19,0.25\n")
    plain(root / "mine/version_2", "hidden: 32")
    (root / "empty/version_0").mkdir(parents=True)
    found = listing.Listing(root, sort="val_loss")
    first, *others = table(found)
    assert (first["run"], first["status"], first["ran on"]) == ("version_0", "· unknown", "plain Lightning")
    assert (first["epochs"], first["hidden"], first["val_loss"]) == ("2", "64", "0.2500&nbsp;★")
    assert {row["run"] for row in others} == {"Digits/version_0", "mine/version_2"}


def test_metrics_of_plain_lightning_are_read_as_far_as_that_is_quick(root, monkeypatch):
    monkeypatch.setattr(catalog, "_MAX_FOREIGN", 100)
    for place in range(3):
        path = plain(root / f"version_{place}", table="step,val_loss\n" + "9,0.5\n" * 10) / "metrics.csv"
        os.utime(path, (place, place))
        os.utime(path.parent / "hparams.yaml", (place, place))
    found = listing.Listing(root)
    assert [(row.run, row.best) for row in found.rows] == [
        *(("version_2", {"val_loss": 0.5}), ("version_1", {}), ("version_0", {}))
    ]
    assert "… the metrics of 2 runs of plain Lightning are not read; %lightning_runs PATTERN" in repr(found)
    assert [row.best for row in listing.Listing(root, "version_0").rows] == [{"val_loss": 0.5}]


def test_a_job_of_a_cluster_is_queued_or_gone_as_the_cluster_says(root, monkeypatch):
    for job in "1234":
        folder = add(root, status="running")
        folder.events_path.touch()
        folder.write_submission("slurm", job)
    told = {
        "1": clusters.State("queued", "PENDING", "waiting for resources (Resources)"),
        "2": clusters.State("running", "RUNNING"),
        "3": clusters.State("unknown", "", "no answer"),
    }
    unknown = add(root, status="running")
    unknown.events_path.touch()
    unknown.write_submission("of_another_package", "5")
    monkeypatch.setattr(jobs, "states", lambda asked: {job: told[job] for job in asked if job in told})
    found = listing.Listing(root)
    assert {row.run[-1]: row.standing for row in found.rows} == {
        "0": "queued",
        "1": "running",
        "2": "running",
        "3": "failed",
        "4": "running",
    }
    assert "5 runs in" in repr(found)
    assert "3 running · 1 queued" in repr(found)
    assert "Digits/version_0: waiting for resources (Resources)" in repr(found)


def test_a_listing_without_jobs_asks_no_cluster(root, monkeypatch):
    add(root)
    monkeypatch.setattr("lightning_magics.launch.slurm.client.ask", lambda *command: pytest.fail("it was asked"))
    monkeypatch.setattr("lightning_magics.launch.slurm.jobs.ask", lambda *command: pytest.fail("it was asked"))
    assert len(listing.Listing(root).rows) == 1


def test_metric_names_are_completed_from_the_newest_runs_alone(root):
    session = Session({}, DefaultSettings(str(root)))
    add(root, started=0, metrics={"val_old": 0.1})
    for place in range(200):
        add(root, started=1 + place, metrics={"val_new": 0.1})
    plain(root / "mine", table="epoch,step,val_own\n0,9,0.5\n")
    assert session.metric_names() == ["val_new", "val_own"]
    for verb, option in (("runs", "--sort"), ("fit", "--monitor"), ("fit", "--early_stop")):
        known = complete(verb, f"Net {option} val_", "val_", ["Net"], [], [], metrics=session.metric_names)
        assert known == ["val_new", "val_own"], option
