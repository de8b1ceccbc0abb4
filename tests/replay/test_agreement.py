import dataclasses

from lightning_magics.replay.agreement import Agreement
from lightning_magics.replay.recipe import Recipe
from lightning_magics.runs.record import RunRecord

BEFORE = RunRecord(
    run="Net/version_0",
    verb="fit",
    model="Net",
    status="completed",
    started=1.0,
    seed=1,
    metrics={"val_loss": 0.5, "val_accuracy": 0.25},
    recipe=dataclasses.asdict(Recipe(model="Net", arguments={})),
    versions={"torch": "2.6", "python": "3.11"},
    hardware={"processor": "A", "threads": 1},
    devices="1 × cpu",
    precision="32-true",
    fingerprint={"train": "8 of TensorDataset, a"},
)


def after(**changes):
    return dataclasses.replace(BEFORE, run="Net/version_1", **changes)


def test_the_same_numbers_are_identical_and_need_no_reasons():
    found = Agreement(BEFORE, after(versions={"torch": "2.7"}))
    assert found.verdict == "identical"
    assert repr(found) == (
        "Net/version_1 gives the same numbers as Net/version_0\n\n"
        "metric        Net/version_0  Net/version_1  agrees\n"
        "val_loss                0.5            0.5  identical\n"
        "val_accuracy           0.25           0.25  identical"
    )


def test_last_digits_are_within_tolerance():
    found = Agreement(BEFORE, after(metrics={"val_loss": 0.50001, "val_accuracy": 0.25}))
    assert found.verdict == "within tolerance"
    assert repr(found).startswith("Net/version_1 agrees within 0.1% with Net/version_0\n")
    assert "The records show no cause. Likely ones: nondeterministic operations" in repr(found)


def test_nan_agrees_with_nan_and_a_metric_that_is_gone_does_not():
    nan = dataclasses.replace(BEFORE, metrics={"a": float("nan")})
    assert Agreement(nan, after(metrics={"a": float("nan")})).verdict == "identical"
    assert Agreement(nan, after(metrics={})).verdict == "different"


def test_runs_that_log_nothing_have_nothing_to_compare():
    bare = dataclasses.replace(BEFORE, metrics={})
    found = Agreement(bare, after(metrics={}, versions={"torch": "2.7"}))
    assert (found.verdict, found.reasons) == ("nothing", [])
    assert repr(found) == "Net/version_1 logged no metrics to compare with Net/version_0"
    assert "<table" not in found._repr_html_()
    assert "Net/version_1 was interrupted, after 1 step" in repr(
        Agreement(bare, after(metrics={}, status="interrupted", steps=1))
    )


def test_a_repetition_that_did_not_reach_its_end_says_so():
    found = Agreement(BEFORE, after(metrics={"val_loss": 1.0}, status="interrupted", steps=3))
    assert found.reasons == ["Net/version_1 was interrupted, after 3 steps"]
    found = Agreement(dataclasses.replace(BEFORE, status="failed", steps=1), after(metrics={"val_loss": 1.0}))
    assert found.reasons == ["Net/version_0 failed, after 1 step"]
    assert "· Net/version_1 was interrupted, after 3 steps" in repr(
        Agreement(BEFORE, after(status="interrupted", steps=3))  # its numbers are the same all the same
    )


def test_another_seed_is_named():
    assert Agreement(BEFORE, after(metrics={}, seed=2)).reasons == ["seed: 1 → 2"]
    unseeded = dataclasses.replace(BEFORE, seed=None)
    assert Agreement(unseeded, after(metrics={})).reasons == ["seed: none → 1"]


def test_the_reasons_that_the_records_show():
    changes = {
        "metrics": {"val_loss": 0.9},
        "versions": {"torch": "2.7", "python": "3.11"},
        "hardware": {"processor": "B", "threads": 1},
        "devices": "2 × cpu",
        "precision": "bf16-mixed",
        "fingerprint": {"train": "9 of TensorDataset, b"},
        "git": {"commit": "b"},
    }
    assert Agreement(BEFORE, after(**changes), ["--max_epochs 3"]).reasons == [
        "changed: --max_epochs 3",
        "data train: 8 of TensorDataset, a → 9 of TensorDataset, b",
        "torch: 2.6 → 2.7",
        "devices: 1 × cpu → 2 × cpu",
        "precision: 32-true → bf16-mixed",
        "processor: A → B",
        "the git commit of the working folder has changed: imported modules may differ",
    ]


def test_runs_that_cannot_be_repeated_say_why():
    recipes = {
        "no seed": (None, Recipe(model="Net", arguments={}), "completed"),
        "created before the fit set its seed": (1, Recipe(model="net"), "completed"),
        "continued from an instance that was already trained": (1, Recipe(model="net", trained=True), "completed"),
        "Net/version_0 was interrupted, after 7 steps": (1, Recipe(model="Net", arguments={}), "interrupted"),
    }
    for reason, (seed, recipe, status) in recipes.items():
        record = dataclasses.asdict(recipe)
        before = dataclasses.replace(BEFORE, seed=seed, recipe=record, status=status, steps=7)
        found = Agreement(before, after(seed=seed, metrics={"val_loss": 1.0}))
        assert len(found.reasons) == 1
        assert reason in found.reasons[0]


def test_initial_weights_that_are_the_same_are_no_reason():
    recipe = dataclasses.asdict(Recipe(model="Net", arguments={}, remade=True))
    before = dataclasses.replace(BEFORE, recipe=recipe, fingerprint={"weights": "a"})
    other = {"metrics": {"val_loss": 1.0}}
    assert Agreement(before, after(**other, fingerprint={"weights": "a"})).reasons == []
    said = ["the model is an instance, created before the fit set its seed"]
    assert Agreement(before, after(**other, fingerprint={"weights": "b"})).reasons == said
    only = ["the hyperparameter a is only in Net/version_1"]
    assert Agreement(before, after(**other, fingerprint={"weights": "a"}, hyperparameters={"a": 1})).reasons == only


def test_html_is_escaped_and_bounded():
    found = Agreement(BEFORE, after(metrics={"<b>": 1.0, "x" * 100: 2.0}))
    html = found._repr_html_()
    assert "&lt;b&gt;" in html
    assert "x" * 60 not in html
    assert "<script" not in html
