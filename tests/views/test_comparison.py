from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from recorded import add, fitted, plain

from lightning_magics.errors import InputError, RunError
from lightning_magics.runs import events
from lightning_magics.views import histories
from lightning_magics.views.comparison import Comparison

FACTS = {
    "data": "digits",
    "versions": {"torch": "2.13.0", "python": "3.11.7"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return Path("lightning_logs")


def pair(root: Path) -> Comparison:
    for place, hidden in enumerate((64, 256)):
        folder = fitted(
            root,
            {"val_loss": [0.9, 0.3 - place / 10, 0.4], "val_accuracy": [0.5, 0.8, 0.7 + place / 10]},
            hyperparameters={"hidden": hidden, "lr": 0.001},
            options={"max_epochs": "3", "seed": 1, "amp": True, "model": {"hidden": hidden}, "data": {}},
            trainer={"max_epochs": 3, "callbacks": f"[<Mine object at 0x{place}a>]", "precision": None},
            seed=1,
            **{**FACTS, "git": {**FACTS["git"], "dirty": bool(place)}},
        )
        folder.source_path.write_text(f"hidden = {place}")
    return Comparison(root, ["Digits/version_0", "Digits/version_1"])


def lines(found: Comparison) -> dict[str, list[str]]:
    """The table as text, by what is compared."""
    cells = [re.split(r"  +", line.strip()) for line in repr(found).splitlines()]
    return {first: rest for first, *rest in cells}


def test_what_was_asked_differently_and_what_was_reached_stand_side_by_side(root):
    found = pair(root)
    assert repr(found).splitlines()[0] == "2 runs side by side · 3 differences"
    shown = lines(found)
    assert shown["hidden"] == ["64", "256"]
    assert shown["git commit"] == ["0123456789", "0123456789 with changes"]
    assert len(set(shown["code in source.py"])) == 2
    assert shown["status"] == ["✓ completed", "✓ completed"]
    assert shown["best val_loss"] == ["epoch 2: 0.3000", "epoch 2: 0.2000 ★"]
    assert shown["last val_loss"] == ["0.4000 ★", "0.4000 ★"]
    assert shown["best val_accuracy"] == ["epoch 2: 0.8000 ★", "epoch 2: 0.8000 ★"]
    assert "callbacks" not in shown
    (equal,) = [line for line in repr(found).splitlines() if line.startswith("equal: ")]
    assert equal == "equal: lr 0.001 · model Digits · data digits · max_epochs 3 · seed 1 · amp True · 6 more"


def test_curves_lie_over_one_another_in_a_picture_and_in_text(root):
    found = pair(root)
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == 1
    assert html.count("━") == 2
    assert "<b>epoch 2: 0.2000</b>" in html
    text = repr(found)
    assert re.search(r"^val_loss\n  Digits/version_0  0\.9000 [▁-█]{32} 0\.4000\n  Digits/version_1 ", text, re.M)
    assert len(html.encode()) < 60_000


def test_runs_that_were_asked_for_alike_say_so(root):
    for _ in range(2):
        add(root, verb="test", metrics={"test_loss": 0.5}, hyperparameters={"hidden": 3})
    found = Comparison(root, ["Digits/test_0", "Digits/test_1"])
    assert "no settings differ" in repr(found)
    assert lines(found)["test_loss"] == ["0.5000 ★", "0.5000 ★"]
    assert "data:image" not in found._repr_html_()


def test_a_run_of_plain_lightning_and_a_broken_one_can_be_compared(root):
    fitted(root, {"val_loss": [0.5, 0.4]}, hyperparameters={"hidden": 3})
    plain(root / "version_3", table="epoch,step,val_loss\n0,9,0.5\n1,19,0.25\n")
    add(root).record_path.write_text("{")
    found = Comparison(root, ["Digits/version_0", "version_3", "Digits/version_1"])
    shown = lines(found)
    assert shown["hidden"] == ["3", "64", "–"]
    assert shown["status"] == ["✓ completed", "· unknown", "⚠ broken"]
    assert shown["best val_loss"] == ["epoch 2: 0.4000", "0.2500 ★"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["Digits/version_0"], InputError, r"^--compare takes 2 to 10 different runs; found 1$"),
        (["Digits/version_0"] * 2, InputError, r"found 1$"),
        ([f"Digits/version_{i}" for i in range(11)], InputError, r"found 11$"),
        (
            ["Digits/version_0", "Digts/version_1"],
            RunError,
            r"^no run 'Digts/version_1' was found\. Did you mean 'Digits/version_1'\? Latest runs in lightning_logs: D",
        ),
    ],
)
def test_runs_that_cannot_be_compared(root, names, error, message):
    for _ in range(11):
        add(root)
    with pytest.raises(error, match=message):
        Comparison(root, names)


def test_what_runs_say_is_escaped(root):
    bad = "<img src=x>"
    for value in (1.0, 2.0):
        fitted(root, {bad: [value, value]}, hyperparameters={bad: f"{bad}{value}"}, model="Net")
    html = Comparison(root, ["Net/version_0", "Net/version_1"])._repr_html_()
    assert bad not in html


def test_a_metric_of_one_epoch_has_its_curve_by_step(root):
    folder = fitted(root, {"train_loss": [0.5], "val_loss": [0.4]})
    with folder.events_path.open("a") as file:
        for step in range(3):
            event = events.Step("train", 0, step, 3, step, 0.1, values={"train_loss_step": 1.0 / (1 + step)})
            file.write(events.to_json(event) + "\n")
        file.write('{"event": "Step"')
    found = histories.curves(folder.path)
    assert found["train_loss"].points(5) == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert found["val_loss"].points(5) == [(10, 0.4)]


def test_a_value_that_is_not_finite_is_no_point(root):
    folder = fitted(root, {"val_loss": [0.5, float("nan"), 0.4]})
    assert [y for _, y in histories.curves(folder.path)["val_loss"].points(5)] == [0.5, 0.4]
    assert json.loads(folder.record_path.read_text())["best_metrics"] == {"val_loss": {"value": 0.4, "epoch": 2}}


def test_options_that_differ_late_and_those_called_as_a_hyperparameter_are_told_apart(root):
    for end in "xy":
        path = "/data/" + "long/" * 20 + end
        add(root, hyperparameters={"precision": 3}, trainer={"precision": "32-true"}, options={"resume": path})
    found = Comparison(root, ["Digits/version_0", "Digits/version_1"])
    assert lines(found)["resume"][0].endswith("…")
    assert "1 difference" in repr(found)
    assert "equal: precision 3 · model Digits" in repr(found)
