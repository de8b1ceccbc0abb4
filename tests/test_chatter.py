from __future__ import annotations

import logging
import warnings

import pytest

from lightning_magics.chatter import chatter, reworded


def warn_from(filename, text, category=UserWarning):
    warnings.warn_explicit(
        text,
        category,
        filename,
        1,
        module=filename.rpartition("site-packages/")[2].removesuffix(".py").replace("/", "."),
    )


def test_what_lightning_logs_goes_to_the_file_and_its_handlers_come_back(tmp_path, capfd):
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = list(logging.getLogger("pytorch_lightning").handlers)
    with chatter(tmp_path / "log", lambda text: None):
        logger.info("GPU available: False")
        logging.getLogger("lightning.pytorch").info("TPU available: False")
    log = (tmp_path / "log").read_text()
    assert "INFO GPU available: False" in log
    assert log.count("TPU available: False") == 1
    assert logging.getLogger("pytorch_lightning").handlers == before
    assert capfd.readouterr() == ("", "")


def test_warning_of_a_library_is_noticed_once_and_logged_each_time(tmp_path):
    notices = []
    with chatter(tmp_path / "log", notices.append):
        for _ in range(2):
            warn_from("/x/site-packages/pytorch_lightning/loops.py", "Total length is zero.")
    assert notices == ["Total length is zero."]
    assert (tmp_path / "log").read_text().count("Total length is zero.") == 2


def test_warning_of_the_users_own_code_is_shown_as_ever(tmp_path):
    notices = []
    with pytest.warns(UserWarning, match="mind the step"), chatter(tmp_path / "log", notices.append):
        warn_from("/tmp/ipykernel_1/2.py", "mind the step")
    assert notices == []


def test_deprecations_inside_libraries_are_only_logged(tmp_path):
    notices = []
    with chatter(tmp_path / "log", notices.append):
        warn_from("/x/site-packages/torch/a.py", "old", FutureWarning)
    assert notices == []
    assert "FutureWarning: old" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Checkpoint directory /x/checkpoints exists and is not empty.", ""),
        (
            "The number of training batches (8) is smaller than the logging interval Trainer(log_every_n_steps=50).",
            "",
        ),
        (
            "The 'val_dataloader' does not have many workers which may be a bottleneck.",
            "Data is loaded in the training process (num_workers=0). If loading is slow, type --data.num_workers 2.",
        ),
        (
            "You defined a `validation_step` but have no `val_dataloader`. Skipping val loop.",
            "No validation data: only training metrics are shown. "
            "Give a second data argument, or --val_split to the data.",
        ),
        (
            "`max_epochs` was not set. Setting it to 1000 epochs. To train without an epoch limit, set it to -1.",
            "No end was asked for, so Lightning trains 1000 epochs: say --max_epochs N, --max_steps N or --max_time.",
        ),
        ("Some\n  new warning", "Some new warning"),
    ],
)
def test_warnings_are_said_for_a_user_of_the_magics(said, shown):
    assert reworded(said) == shown
