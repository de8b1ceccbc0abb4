import datetime
import pathlib
import typing

import lightning
import pytest
import pytorch_lightning
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy

from lightning_magics.errors import InputError
from lightning_magics.options.parser import check_trainer


class Mine(Callback):
    pass


class MineOfTheOther(lightning.Callback):
    pass


STOP = EarlyStopping("val_loss")
NAMESPACE = {
    "EarlyStopping": EarlyStopping,
    "DDPStrategy": DDPStrategy,
    "OtherStop": lightning.pytorch.callbacks.EarlyStopping,
    "MineOfTheOther": MineOfTheOther,
    "Slurm": lightning.fabric.plugins.environments.SLURMEnvironment,
    "stop": STOP,
    "mine": Mine(),
    "n": 3,
    "gpus": [0, 1],
    "kind": "bf16-mixed",
    "cpu": "a variable called as an accelerator",
    "home": pathlib.Path("/runs"),
    "runs": [1, 2],
}


def check(name, value, trainer_cls=pytorch_lightning.Trainer):
    return check_trainer(trainer_cls, {name: value}, NAMESPACE)[name]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("max_epochs", "3", 3),
        ("max_epochs", 3, 3),
        ("max_epochs", "None", None),
        ("max_epochs", "n", 3),
        ("max_epochs", "n + 1", 4),
        ("max_steps", "-1", -1),
        ("limit_train_batches", "10", 10),
        ("limit_train_batches", "0.5", 0.5),
        ("limit_val_batches", "1.0", 1.0),
        ("val_check_interval", "0.25", 0.25),
        ("fast_dev_run", True, True),
        ("fast_dev_run", "3", 3),
        ("deterministic", "warn", "warn"),
        ("benchmark", "False", False),
        ("precision", "bf16-mixed", "bf16-mixed"),
        ("precision", "kind", "bf16-mixed"),
        ("accelerator", "cpu", "cpu"),
        ("strategy", "ddp", "ddp"),
        ("profiler", "simple", "simple"),
        ("gradient_clip_algorithm", "norm", "norm"),
        ("devices", "auto", "auto"),
        ("devices", "2", 2),
        ("devices", "-1", -1),
        ("devices", "0,1", [0, 1]),
        ("devices", "gpus", [0, 1]),
        ("max_time", "00:00:01:00", "00:00:01:00"),
        ("max_time", "{'minutes': 1}", {"minutes": 1}),
        ("max_time", datetime.timedelta(minutes=1), datetime.timedelta(minutes=1)),
        ("default_root_dir", "my runs/x", "my runs/x"),
        ("default_root_dir", "home / 'x'", pathlib.Path("/runs/x")),
        ("default_root_dir", "runs", "runs"),
        ("callbacks", "stop", STOP),
        ("callbacks", STOP, STOP),
        ("callbacks", (STOP,), [STOP]),
        ("callbacks", "[stop, mine]", [STOP, NAMESPACE["mine"]]),
        ("plugins", [], []),
        ("logger", "False", False),
    ],
)
def test_values_are_typed_by_the_signature(name, given, expected):
    found = check(name, given)
    assert found == expected
    assert type(found) is type(expected)


def test_whole_numbers_stay_whole_whatever_unions_were_made_before():
    assert typing.Union[float, int, None]  # noqa: UP007 -- equal to the annotation, and may stand in for it
    for given in (10, "10"):
        found = check("limit_train_batches", given)
        assert (found, type(found)) == (10, int)


def test_what_the_signature_takes_makes_a_trainer():
    values = {"max_epochs": "2", "precision": "32", "devices": "1", "accelerator": "cpu", "callbacks": "[mine]"}
    trainer = pytorch_lightning.Trainer(
        **check_trainer(pytorch_lightning.Trainer, values, NAMESPACE), logger=False, barebones=False
    )
    assert trainer.max_epochs == 2
    assert NAMESPACE["mine"] in trainer.callbacks


def test_expressions_make_objects(tmp_path):
    assert isinstance(check("strategy", "DDPStrategy()"), DDPStrategy)
    assert check("callbacks", "[EarlyStopping('val_loss', patience=2)]")[0].patience == 2
    logger, profiler = CSVLogger(tmp_path), SimpleProfiler()
    assert check("logger", logger) is logger
    assert check("logger", [logger]) == [logger]
    assert check("profiler", profiler) is profiler


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("max_epochs", "three", r"--max_epochs takes a whole number; found 'three'\."),
        ("max_epochs", [1], r"--max_epochs takes a whole number; found \[1\]\."),
        ("max_epochs", 2.5, r"--max_epochs takes a whole number; found 2\.5\."),
        ("max_epochs", "1e3", r"--max_epochs takes a whole number; found 1000\.0 from '1e3'\."),
        ("max_epochs", "m * 2", r"--max_epochs 'm \* 2' cannot be evaluated: NameError: name 'm' is not defined\."),
        ("overfit_batches", "x", r"--overfit_batches takes a number; found 'x'\."),
        ("detect_anomaly", "maybe", r"--detect_anomaly takes true or false; found 'maybe'\."),
        ("deterministic", "warm", r"--deterministic takes true or false or 'warn'; found 'warm'\. Did you mean 'warn'"),
        (
            "precision",
            "16-mixd",
            r"--precision '16-mixd' is not one of: 64, 32, 16, .*bf16-mixed.*\. Did you mean '16-mixed'\?$",
        ),
        ("precision", [16], r"--precision \[16\] is not one of: 64, 32, 16, "),
        ("accelerator", "gppu", r"--accelerator 'gppu' is not one of: auto, gpu, .*\. Did you mean 'gpu'\?$"),
        ("strategy", "dpp", r"--strategy 'dpp' is not one of: auto, ddp, .*\. Did you mean 'ddp'\?$"),
        ("strategy", "cpu", r"--strategy 'a variable called as an accelerator' from 'cpu' is not one of: auto, ddp, "),
        ("profiler", "simpl", r"--profiler 'simpl' is not one of: simple, advanced, .* Did you mean 'simple'\?$"),
        ("gradient_clip_algorithm", "nrm", r"--gradient_clip_algorithm 'nrm' is not one of: norm, value\. Did you"),
        ("devices", "many", r"--devices takes a whole number or 'auto' or a list of them; found 'many'\."),
        ("max_time", "01:00", r"--max_time takes a timedelta or DD:HH:MM:SS or a dict; found '01:00'\."),
        ("callbacks", "stpo", r"--callbacks takes a Callback or a list of them; found 'stpo'\. Did you mean 'stop'\?"),
        ("callbacks", [3], r"--callbacks takes a Callback or a list of them; found \[3\]\."),
        ("callbacks", {"class_path": "x"}, r"--callbacks takes a Callback or a list of them; found \{"),
        (
            "callbacks",
            "EarlyStopping",
            r"--callbacks .*; found 'EarlyStopping'\. EarlyStopping is a class\. Type: Early",
        ),
        ("callbacks", "EarlyStopping()", r"--callbacks 'EarlyStopping\(\)' cannot be evaluated: TypeError: .*monitor"),
        ("callbacks", "[EarlyStoping('x')]", r"--callbacks .* NameError: .*\. Did you mean 'EarlyStopping'\?$"),
        (
            "callbacks",
            "ModelCheckpoint()",
            r"--callbacks .* NameError: .*\. Type: from pytorch_lightning.callbacks import ModelCheckpoint$",
        ),
        ("max_epoch", "3", r"--max_epoch is not an argument of Trainer\. Did you mean 'max_epochs'\?"),
    ],
)
def test_what_does_not_fit_is_one_line_for_a_user(name, given, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        check(name, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "shown", "imported"),
    [
        ("callbacks", "[stop, OtherStop('x')]", "EarlyStopping", "pytorch_lightning.callbacks import EarlyStopping"),
        ("callbacks", MineOfTheOther(), "MineOfTheOther", "pytorch_lightning.callbacks import Callback"),
        ("plugins", "Slurm()", "SLURMEnvironment", "lightning_fabric.plugins.environments import SLURMEnvironment"),
    ],
)
def test_objects_of_lightning_do_not_go_into_a_trainer_of_pytorch_lightning(name, given, shown, imported):
    message = (
        rf"^--{name}: {shown} is from lightning\.(pytorch|fabric), but the model uses pytorch_lightning\. "
        rf"Type: from {imported}$"
    )
    with pytest.raises(InputError, match=message):
        check(name, given)


@pytest.mark.parametrize(
    ("name", "given", "imported"),
    [
        ("callbacks", "[stop]", "lightning.pytorch.callbacks import EarlyStopping"),
        ("callbacks", "mine", "lightning.pytorch.callbacks import Callback"),
        ("strategy", "DDPStrategy()", "lightning.pytorch.strategies import DDPStrategy"),
    ],
)
def test_objects_of_pytorch_lightning_do_not_go_into_a_trainer_of_lightning(name, given, imported):
    with pytest.raises(InputError, match=f"is from pytorch_lightning, .* lightning.pytorch. Type: from {imported}$"):
        check(name, given, lightning.Trainer)


def test_a_trainer_of_lightning_takes_objects_of_lightning():
    assert isinstance(check("callbacks", "MineOfTheOther()", lightning.Trainer), MineOfTheOther)
