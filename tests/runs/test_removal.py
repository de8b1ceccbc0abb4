from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from recorded import add, fitted, plain

from lightning_magics import list_runs
from lightning_magics.errors import InputError, RunError
from lightning_magics.launch.run import Run
from lightning_magics.runs import catalog, removal
from lightning_magics.views.state import RunState

ROOT = Path("lightning_logs")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return sorted(row.run for row in catalog.rows(ROOT))


def test_runs_that_are_named_are_deleted_at_once_and_it_says_how_much_that_frees(capsys):
    for place in range(3):
        folder = add(ROOT, started=place)
        (folder.checkpoints_path / "last.ckpt").write_bytes(b"\0" * 1_000_000)
    left = list_runs(delete=["Digits/version_0", "Digits/version_2"])
    assert [row.run for row in left.rows] == names() == ["Digits/version_1"]
    assert capsys.readouterr().out == "deleted 2 runs (2.0 MB): Digits/version_0, Digits/version_2\n"
    list_runs(delete=["Digits/version_1"])
    assert os.listdir(ROOT) == []


def test_a_running_run_is_never_deleted_and_with_it_nothing_is():
    add(ROOT)
    held = add(ROOT, status="running").lock()
    try:
        with pytest.raises(
            RunError, match=r"^Digits/version_1 is running\. Stop it first: %lightning_stop Digits/version_1"
        ):
            list_runs(delete=["Digits/version_0", "Digits/version_1"])
        list_runs(keep=0, yes=True)
        assert names() == ["Digits/version_1"]
    finally:
        os.close(held)
    list_runs(delete=["Digits/version_1"])
    assert names() == []


def test_a_run_whose_record_says_nothing_is_not_deleted_while_it_is_locked():
    folder = add(ROOT)
    folder.record_path.write_text("{")
    held = folder.lock()
    try:
        with pytest.raises(RunError, match=r"is running\. .*Nothing was deleted$"):
            list_runs(delete=["Digits/version_0"])
    finally:
        os.close(held)
    list_runs(delete=["Digits/version_0"])
    assert names() == []


def test_a_run_of_another_machine_is_left_to_that():
    add(ROOT, status="running", host="far-away", pid=1)
    with pytest.raises(
        RunError, match=r"^Digits/version_0 is running on far-away, according to its record\. Delete it there"
    ):
        list_runs(delete=["Digits/version_0"])


@pytest.mark.parametrize("name", ["Digits", "Digits/version_7", "../outside", ".", "Digits/*"])
def test_what_is_no_run_is_refused(name):
    add(ROOT)
    Path("outside").mkdir()
    with pytest.raises(RunError, match=r"^no run .* was found\."):
        list_runs(delete=[name])
    assert names() == ["Digits/version_0"]
    assert Path("outside").exists()


def test_no_link_is_followed_out_of_the_run_folder(tmp_path):
    outside = add(tmp_path / "elsewhere").path
    (outside / "keep").write_text("x")
    ROOT.mkdir()
    (ROOT / "Linked").symlink_to(outside.parent)
    with pytest.raises(
        RunError, match=r"^Linked/version_0 is a symbolic link to .*elsewhere/Digits/version_0\. Delete it yourself"
    ):
        list_runs(delete=["Linked/version_0"])
    inside = add(ROOT)
    (inside.path / "data").symlink_to(outside)
    (inside.path.parent / "again").symlink_to(inside.path)
    with pytest.raises(RunError, match=r"^Digits/again is a symbolic link to"):
        list_runs(delete=["Digits/again"])
    list_runs(delete=["Digits/version_0"])
    assert (outside / "keep").exists()
    assert not inside.path.exists()


def test_runs_of_plain_lightning_are_left_to_the_user():
    plain(ROOT / "version_0")
    with pytest.raises(
        RunError, match=r"^version_0 was written by plain Lightning, .*: lightning_logs/version_0\. Nothing"
    ):
        list_runs(delete=["version_0"])
    list_runs(keep=0, yes=True)
    assert names() == ["version_0"]


def test_keep_says_what_would_go_and_deletes_it_when_yes_is_added(capsys):
    for place, loss in enumerate((0.3, 0.1, 0.2, 0.4)):
        fitted(ROOT, {"val_loss": [loss]}, started=place)
    add(ROOT, "Text", 9)
    listed = list_runs("Digits", sort="val_loss", keep=2)
    told = capsys.readouterr().out
    assert told.startswith("would delete 2 runs (")
    assert told.endswith(
        "): Digits/version_0, Digits/version_3. To delete: %lightning_runs Digits --sort val_loss --keep 2 --yes\n"
    )
    assert len(listed.rows) == 4
    assert len(names()) == 5
    left = list_runs("Digits", sort="val_loss", keep=2, yes=True)
    assert capsys.readouterr().out.startswith("deleted 2 runs (")
    assert sorted(row.run for row in left.rows) == ["Digits/version_1", "Digits/version_2"]
    list_runs("Digits", keep=1, yes=True)  # the newest
    assert names() == ["Digits/version_2", "Text/version_0"]
    capsys.readouterr()
    list_runs(keep=5)
    assert capsys.readouterr().out == "nothing to delete: --keep 5 keeps every run\n"
    list_runs(model="Text", sort=None, keep=0, yes=True)
    assert names() == ["Digits/version_2"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"delete": ["a"], "keep": 1}, r"^--delete cannot be combined with --keep"),
        ({"pattern": "Dig", "compare": ["a", "b"]}, r"^--compare cannot be combined with Dig"),
        (
            {"yes": True},
            r"^--yes has no effect without --keep N, the number of runs to keep. Type %lightning_runs --keep N --yes",
        ),
        ({"keep": -1}, r"^--keep takes a whole number of at least 0; found -1"),
        (
            {"sort": "loss"},
            r"^--sort loss: none of the listed runs has this metric\. None of .* has metrics$",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(asked, message):
    add(ROOT)
    with pytest.raises(InputError, match=message):
        list_runs(**asked)
    assert names() == ["Digits/version_0"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete everything")
def test_a_disk_that_refuses_is_told_and_the_run_can_be_named_again():
    folder = add(ROOT)
    (folder.checkpoints_path / "last.ckpt").write_bytes(b"x")
    folder.checkpoints_path.chmod(0o500)
    with pytest.raises(RunError, match=r"^Digits/version_0 cannot be deleted: Permission denied: .*last\.ckpt"):
        list_runs(delete=["Digits/version_0"])
    folder.checkpoints_path.chmod(0o700)
    list_runs(delete=["Digits/version_0"])


def test_what_is_interrupted_can_be_named_again(monkeypatch):
    folder = add(ROOT)

    def interrupted(path, *more):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(
            RunError, match=r"^Digits/version_0 cannot be deleted: Input/output error: .*checkpoints\. Already"
        ):
            removal.delete(ROOT, catalog.rows(ROOT))
    assert folder.record_path.exists()
    removal.delete(ROOT, catalog.rows(ROOT))
    assert names() == []


def test_keep_counts_fits_alone_and_those_that_have_the_metric():
    fitted(ROOT, {"val_loss": [0.3]}, started=1)
    fitted(ROOT, {"other": [0.3]}, started=2)
    for place in range(2):
        add(ROOT, verb="test", started=5 + place, metrics={"test_loss": 0.5})
    list_runs(keep=2, yes=True)
    assert names() == ["Digits/test_0", "Digits/test_1", "Digits/version_0", "Digits/version_1"]
    list_runs(sort="val_loss", keep=0, yes=True)
    assert names() == ["Digits/test_0", "Digits/test_1", "Digits/version_1"]


def test_a_folder_that_may_be_no_run_is_left_to_the_user():
    (ROOT / "src" / "app").mkdir(parents=True)
    (ROOT / "src" / "app" / "run.json").write_text('{"scripts": 1}')
    with pytest.raises(RunError, match=r"^src/app has an unreadable record and may not be a run\. .*src/app"):
        list_runs(delete=["src/app"])
    list_runs(keep=0, yes=True)
    assert (ROOT / "src" / "app" / "run.json").exists()


def test_a_link_to_a_models_folder_deletes_nothing_twice():
    for place in range(2):
        fitted(ROOT, {"val_loss": [0.3]}, started=place)
    (ROOT / "alias").symlink_to("Digits")
    list_runs("Digits", keep=1, yes=True)
    assert names() == ["Digits/version_1", "alias/version_1"]
    with pytest.raises(RunError, match=r"^alias/version_1 is a symbolic link to "):
        list_runs(delete=["alias/version_1"])


def test_a_run_of_another_folder_is_not_taken_for_its_namesake(tmp_path):
    add(ROOT)
    other = add(tmp_path / "other")
    run = Run(other, other.read(), RunState(), None)
    with pytest.raises(
        RunError, match=r"^Digits/version_0 is in .*other/Digits/version_0, outside the run folder lightning_logs"
    ):
        list_runs(delete=[run])
    assert names() == ["Digits/version_0"]
    list_runs(delete=[str(ROOT / "Digits" / "version_0")])  # by its path
    assert names() == []
