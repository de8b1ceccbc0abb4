from __future__ import annotations

import logging
import warnings

import pytest

from lightning_magics.training.messages import redirected_messages, reworded


def warn_from(filename, text, category=UserWarning, registry=None):
    warnings.warn_explicit(
        text,
        category,
        filename,
        1,
        module=filename.rpartition("site-packages/")[2].removesuffix(".py").replace("/", "."),
        registry=registry,
    )


def test_what_lightning_logs_goes_to_the_file_and_its_handlers_come_back(tmp_path, capfd):
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = list(logging.getLogger("pytorch_lightning").handlers)
    with redirected_messages(tmp_path / "log", lambda text: None):
        logger.info("GPU available: False")
        logging.getLogger("lightning.pytorch").info("TPU available: False")
    log = (tmp_path / "log").read_text()
    assert "INFO GPU available: False" in log
    assert log.count("TPU available: False") == 1
    assert logging.getLogger("pytorch_lightning").handlers == before
    assert capfd.readouterr() == ("", "")


def test_warning_of_a_library_is_noticed_and_logged_once_in_each_run(tmp_path):
    for speaker in ("pytorch_lightning/loops.py", "torch/optim/lr_scheduler.py"):
        registry = {}
        for name in ("first", "second"):
            notices, log = [], tmp_path / f"{name}.log"
            with redirected_messages(log, notices.append):
                for _ in range(3):
                    warn_from(f"/x/site-packages/{speaker}", f"{speaker} is at fault", registry=registry)
            assert notices == [f"{speaker} is at fault"]
            assert log.read_text().count(f"{speaker} is at fault") == 1


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null/no-such-folder"])
def test_a_log_that_cannot_be_written_disturbs_nothing(tmp_path, capfd, place):
    (tmp_path / "rank_0.log").symlink_to(place)
    logger = logging.getLogger("pytorch_lightning")
    notices = []
    with redirected_messages(tmp_path / "rank_0.log", notices.append):
        logger.info("x" * 100_000)
        logger.info("%d is no number", "this")
        warn_from("/x/site-packages/pytorch_lightning/loops.py", "Total length is zero." + "x" * 100_000)
        logger.info("still here")
    assert [text[:21] for text in notices] == ["Total length is zero."]
    assert capfd.readouterr() == ("", "")


def test_a_log_that_fails_only_when_it_is_closed_disturbs_nothing(tmp_path):
    (tmp_path / "rank_0.log").symlink_to("/dev/full")
    with redirected_messages(tmp_path / "rank_0.log", lambda text: None):
        warn_from("/x/site-packages/pytorch_lightning/loops.py", "stays in the buffer")


def test_text_that_utf8_cannot_hold_is_logged(tmp_path):
    with redirected_messages(tmp_path / "log", lambda text: None):
        logging.getLogger("pytorch_lightning").info("bad \udce9")
    assert "bad \\udce9" in (tmp_path / "log").read_text()


def test_what_was_changed_in_the_meantime_stays(tmp_path):
    logger, shown = logging.getLogger("pytorch_lightning"), []
    mine, before = logging.NullHandler(), list(logger.handlers)
    with warnings.catch_warnings():
        with redirected_messages(tmp_path / "log", lambda text: None):
            warnings.showwarning = theirs = lambda *args: shown.append(str(args[0]))
            logger.addHandler(mine)
        assert warnings.showwarning is theirs
    assert logger.handlers == [*before, mine]
    logger.removeHandler(mine)


def test_runs_that_overlap_leave_warnings_working_and_closed_logs_silent(tmp_path, capfd):
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning", "lightning.pytorch")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    shown, notices = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args: shown.append(str(args[0]))
        first, second = (redirected_messages(tmp_path / name, notices.append) for name in "ab")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        warn_from("/x/site-packages/pytorch_lightning/loops.py", "in the second")
        second.__exit__(None, None, None)
        warn_from("/x/site-packages/pytorch_lightning/loops.py", "after both")
        logging.getLogger("pytorch_lightning").info("to nobody")
    assert (notices, shown) == (["in the second"], ["after both"])
    assert capfd.readouterr() == ("", "")
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_warning_of_the_users_own_code_is_shown_as_ever(tmp_path):
    notices = []
    with pytest.warns(UserWarning, match="mind the step"), redirected_messages(tmp_path / "log", notices.append):
        warn_from("/tmp/ipykernel_1/2.py", "mind the step")
    assert notices == []


def test_deprecations_inside_libraries_are_only_logged(tmp_path):
    notices = []
    with redirected_messages(tmp_path / "log", notices.append):
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
            "No validation data: only training metrics are shown. Pass a second data argument, or use --val_split.",
        ),
        (
            "`max_epochs` was not set. Setting it to 1000 epochs. To train without an epoch limit, set it to -1.",
            "No limit was set, so Lightning will train for 1000 epochs. "
            "Set --max_epochs N, --max_steps N or --max_time.",
        ),
        (
            "The `srun` command is available on your system but is not used. HINT: If your intention is to run "
            "Lightning on SLURM, prepend your python command with `srun` like so: srun python ...",
            "",
        ),
        ("Some\n  new warning", "Some new warning"),
    ],
)
def test_warnings_are_said_for_a_user_of_the_magics(said, shown):
    assert reworded(said) == shown
