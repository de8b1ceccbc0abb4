from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_magics import listing, runs


def add(root: Path, model: str = "Digits", started: float = 0.0, **facts: Any) -> runs.RunFolder:
    folder = runs.create(root, model, facts.get("verb", "fit"))
    known = {"run": folder.name, "verb": "fit", "model": model, "status": "completed"}
    folder.write(runs.RunRecord(**{**known, "started": 1_790_000_000 + started, **facts}))
    return folder


def cells(found: listing.Listing) -> list[list[str]]:
    """The rows of the html table as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", found._repr_html_())[1:]
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Path("lightning_logs")


def test_runs_are_listed_newest_first_with_what_they_reached(root):
    metrics = {"train_loss": 0.1, "val_loss": 0.2, "val_accuracy": 0.9, "epoch_s": 1.0}
    on = {"devices": "2 × cpu", "precision": "bf16-mixed"}
    add(root, elapsed_s=41.2, epochs=5, metrics=metrics, options={"monitor": "val_loss"}, best_model_score=0.15, **on)
    add(root, "Text", 60, verb="test", elapsed_s=0.4, metrics={"test_loss": 0.3})
    add(root, started=30, status="interrupted", elapsed_s=412, epochs=2)
    found = listing.Listing(root)
    assert [row.run for row in found.rows] == ["Text/test_0", "Digits/version_1", "Digits/version_0"]
    assert [row[:2] + row[3:] for row in cells(found)] == [
        ["Text/test_0", "✓ completed", "0.4 s", "", "test_loss 0.3000", ""],
        ["Digits/version_1", "■ interrupted", "6:52 min", "2", "", ""],
        [
            *("Digits/version_0", "✓ completed", "41 s", "5"),
            "best val_loss 0.1500 · val_accuracy 0.9000 · val_loss 0.2000",
            "2 × cpu · bf16-mixed",
        ],
    ]
    lines = repr(found).splitlines()
    assert lines[0] == "3 runs in lightning_logs"
    assert lines[2].split() == ["run", "status", "started", "took", "epochs", "metrics", "ran", "on"]
    assert re.match(r"Text/test_0 {7}✓ completed {4}2026-09-2\d \d\d:\d\d {5}0\.4 s {10}test_loss 0\.3000$", lines[3])


def test_a_run_is_running_only_while_something_works_on_it(root):
    alive = add(root, status="running")
    add(root, started=1, status="running")
    held = alive.lock()
    try:
        found = listing.Listing(root)
    finally:
        os.close(held)
    assert [row.status for row in found.rows] == ["failed", "running"]
    dead, running = cells(found)
    assert dead[1::3] == ["✗ failed", ""]
    assert dead[5] == "stopped before its end"
    assert running[1] == "● running"
    assert running[3] != ""
    assert "2 runs in lightning_logs · 1 running" in repr(found)


def test_a_failed_run_says_why(root):
    add(root, status="failed", error="ValueError: wrong\n  shape")
    assert cells(listing.Listing(root))[0][5] == "ValueError: wrong shape"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "run.json cannot be read: Expecting property name enclosed in double quotes"),
        ('{"run": 3}', "run.json cannot be read: RunRecord.run cannot be 3"),
    ],
)
def test_a_broken_folder_is_a_row_that_says_so(root, content, problem):
    add(root)
    add(root).record_path.write_text(content)
    found = listing.Listing(root)
    assert [row.run for row in found.rows if row.problem] == ["Digits/version_1"]
    (row,) = [row for row in cells(found) if row[0] == "Digits/version_1"]
    assert row[1] == "⚠ broken"
    assert row[5].startswith(problem)
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
    assert sorted(row.run for row in listing.rows(root, pattern)) == expected


def test_where_there_are_none_it_says_what_to_type(root):
    assert repr(listing.Listing(root)) == "no runs in lightning_logs: %lightning_fit MODEL DATA makes one"
    add(root)
    found = listing.Listing(root, "<Net>")
    assert repr(found) == "no runs for '<Net>' in lightning_logs: %lightning_runs lists all"
    assert "&lt;Net&gt;" in found._repr_html_()


def test_of_many_runs_the_newest_fifty_are_shown_and_the_others_counted(root):
    for place in range(60):
        add(root, started=place)
    found = listing.Listing(root)
    assert len(found.rows) == 60
    assert [row[0] for row in cells(found)] == [f"Digits/version_{i}" for i in range(59, 9, -1)]
    for text in (repr(found), found._repr_html_()):
        assert "60 runs in lightning_logs" in text
        assert "… 10 older runs; %lightning_runs PATTERN lists fewer" in text


def test_what_a_record_holds_is_escaped(root):
    bad = "<img src=x>"
    add(root, devices=bad, metrics={bad: 1.0})
    add(root, status="failed", error=bad)
    html = listing.Listing(root)._repr_html_()
    assert bad not in html
    assert html.count("&lt;img src=x&gt;") == 3


def test_a_narrow_terminal_sets_the_table_in_parts(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    add(root, elapsed_s=1.0, metrics={"val_loss": 0.5}, devices="2 × NVIDIA H200", precision="bf16-mixed")
    text = repr(listing.Listing(root))
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("Digits/version_0") == 3
