import functools

import pytest
import torch
from notebook import SMALL_RUNS, loader, model, namespace, trainer
from torch.optim import SGD, lr_scheduler

from lightning_magics.errors import InputError

pytestmark = SMALL_RUNS


def configured(names=None, cell="nn.Linear(4, 3)", **asked):
    """Return what configure_optimizers of a model gives."""
    return model(cell, names=names, loss="cross_entropy", **asked).new().configure_optimizers()


@pytest.mark.parametrize(
    ("asked", "cls", "expected"),
    [
        ({}, "Adam", {"lr": 1e-3, "weight_decay": 0}),
        ({"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.5}, "AdamW", {"lr": 0.1, "weight_decay": 0.5}),
        ({"optimizer": "SGD(momentum=0.9)", "lr": 0.2}, "SGD", {"lr": 0.2, "momentum": 0.9}),
        ({"optimizer": "SGD(lr=0.3, weight_decay=0.1)"}, "SGD", {"lr": 0.3, "weight_decay": 0.1}),
        ({"optimizer": "torch.optim.Adadelta"}, "Adadelta", {"lr": 1.0}),
        ({"optimizer": "partial(SGD, lr=0.4)"}, "SGD", {"lr": 0.4}),
        ({"optimizer": "mine", "lr": 0.5}, "SGD", {"lr": 0.5, "momentum": 0.1}),
        ({"optimizer": "fixed"}, "SGD", {"lr": 0.6}),
        ({"optimizer": "lambda parameters: SGD(parameters, lr=0.7)"}, "SGD", {"lr": 0.7}),
        ({"optimizer": torch.optim.RMSprop, "lr": 0.8}, "RMSprop", {"lr": 0.8}),
        ({"optimizer": functools.partial(SGD, momentum=0.2), "lr": 0.9}, "SGD", {"lr": 0.9, "momentum": 0.2}),
    ],
)
def test_an_optimizer_may_be_a_name_a_call_or_a_callable(asked, cls, expected):
    names = namespace(SGD=SGD, partial=functools.partial)
    names["mine"] = lambda parameters, lr=1.0: SGD(parameters, lr=lr, momentum=0.1)
    names["fixed"] = lambda parameters: SGD(parameters, lr=0.6)
    found = configured(names, **asked)
    assert type(found).__name__ == cls
    assert {name: found.param_groups[0][name] for name in expected} == expected


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_notebooks_own_names_are_not_hidden(scheduled):
    names = namespace(optimizer=functools.partial(SGD, lr=0.3))
    names["scheduler"] = lambda optimizer: lr_scheduler.StepLR(optimizer, 5)
    found = configured(names, optimizer="optimizer", scheduler="scheduler" if scheduled else None)
    assert isinstance(found["optimizer"] if scheduled else found, SGD)


def test_rates_are_hyperparameters():
    definition = model("nn.Linear(4, 3)", loss="cross_entropy", optimizer="SGD(lr=0.3)", weight_decay=0.1)
    group = definition.new(lr=0.5, weight_decay=0.2).configure_optimizers().param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.2)


def test_a_call_may_use_hyperparameters():
    definition = model(
        "momentum: float = 0.8\nnn.Linear(4, 3)", loss="cross_entropy", optimizer="SGD(momentum=momentum)"
    )
    assert definition.new(momentum=0.6).configure_optimizers().param_groups[0]["momentum"] == 0.6


@pytest.mark.parametrize(
    ("asked", "cls", "interval", "steps_to"),
    [
        ("CosineAnnealingLR", "CosineAnnealingLR", "step", 0.0),
        ("onecyclelr", "OneCycleLR", "step", None),
        ("OneCycleLR(max_lr=1.0, pct_start=0.5)", "OneCycleLR", "step", None),
        ("LinearLR(start_factor=1.0, end_factor=0.5)", "LinearLR", "step", 0.05),
        ("PolynomialLR", "PolynomialLR", "step", 0.0),
        ("CosineAnnealingLR(T_max=10)", "CosineAnnealingLR", "epoch", None),
        ("StepLR(step_size=1, gamma=0.5)", "StepLR", "epoch", 0.025),
        ("lr_scheduler.ExponentialLR(0.5)", "ExponentialLR", "epoch", 0.025),
        ("mine", "StepLR", "epoch", 0.1),
    ],
)
def test_a_scheduler_is_stepped_over_the_whole_run(asked, cls, interval, steps_to):
    names = namespace(lr_scheduler=lr_scheduler, mine=lambda optimizer: lr_scheduler.StepLR(optimizer, 5))
    asked = {"optimizer": "SGD", "lr": 0.1, "scheduler": asked}
    instance = model("nn.Linear(4, 3)", names=names, loss="cross_entropy", **asked).new()
    run = trainer(max_epochs=2)
    run.fit(instance, loader(torch.randn(8, 4), torch.arange(8) % 3))
    (config,) = run.lr_scheduler_configs
    assert (type(config.scheduler).__name__, config.interval) == (cls, interval)
    if steps_to is not None:
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(steps_to)


def test_a_plateau_is_one_of_the_validation_loss():
    instance = model("nn.Linear(4, 3)", loss="cross_entropy", scheduler="ReduceLROnPlateau(patience=0)").new()
    run = trainer(max_epochs=2)
    data = loader(torch.randn(8, 4), torch.arange(8) % 3)
    run.fit(instance, data, data)
    (config,) = run.lr_scheduler_configs
    assert (config.monitor, config.scheduler.patience) == ("val_loss", 0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"optimizer": "Adamm"},
            r"--optimizer Adamm: neither torch nor the notebook has 'Adamm'. Did you mean 'Adam'\?",
        ),
        (
            {"optimizer": "SGD(momentm=1)"},
            r"--optimizer SGD\(momentm=1\): there is no argument 'momentm'. Did you mean 'mome",
        ),
        ({"optimizer": "SGD(lr=1)", "lr": 0.1}, r"--lr 0.1 and --optimizer SGD\(lr=1\) both set lr. Leave one out"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, r"--weight_decay has no effect: --optimizer Rprop takes no"),
        ({"optimizer": "number"}, r"--optimizer number is of type int; it takes the name of a class in torch.optim"),
        ({"scheduler": "StepLr"}, r"--scheduler StepLr needs step_size. Type --scheduler \"StepLR\(step_size=10\)\""),
        (
            {"scheduler": "CyclicLR(base_lr=1)"},
            r"needs max_lr. Type --scheduler \"CyclicLR\(base_lr=1e-4, max_lr=1e-2\)\"",
        ),
        ({"scheduler": "CosineLR"}, r"--scheduler CosineLR: neither torch nor the notebook has .* Did you mean"),
        ({"scheduler": "StepLR(size=1)"}, r"there is no argument 'size'.*It takes optimizer, step_size"),
    ],
)
def test_what_cannot_be_used_is_said(asked, message):
    with pytest.raises(InputError, match=message):
        configured(namespace(number=3), **asked)
