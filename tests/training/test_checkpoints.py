"""Checkpoints that are written straight to their files."""

import argparse
import datetime
import enum
import importlib
import os
import pickle
import re
import shutil
import sys
import time
from collections import UserDict, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from lightning_magics.errors import InputError
from lightning_magics.training import checkpoints, train, trust


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def straight(request: pytest.FixtureRequest):
    return checkpoints.direct_io(request.param)


def test_a_trainer_of_the_package_takes_it(straight, request):
    package = request.node.callspec.params["straight"]
    trainer = importlib.import_module(package).Trainer(accelerator="cpu", logger=False, plugins=[straight])
    assert trainer.strategy.checkpoint_io is straight


def test_the_file_is_whole_and_read_as_lightnings_own(straight, tmp_path: Path):
    path = tmp_path / "made" / "here" / "last.ckpt"
    for value in (1.0, 2.0):  # anew, and over the one that is there
        straight.save_checkpoint({"weights": torch.full((3,), value), "epoch": 4}, str(path))
        found = straight.load_checkpoint(path)
        assert found["weights"].tolist() == [value] * 3
        assert found["epoch"] == 4
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]


def test_what_fails_leaves_the_last_one_and_says_why(straight, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    straight.save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        straight.save_checkpoint({"epoch": lambda: 2}, path)
    assert straight.load_checkpoint(path) == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_the_error_of_the_disk(straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: opened(Path("/dev/full"), mode))
    with pytest.raises(OSError, match="No space left on device"):
        straight.save_checkpoint({"weights": torch.rand(1_000_000)}, tmp_path / "last.ckpt")


class Act(enum.Enum):
    tanh = "tanh"


class Mode(enum.StrEnum):
    fast = "fast"


class Pair(NamedTuple):
    one: float
    other: float = 0.0


@dataclass
class Sizes:
    scale: float = 1.0


def noise(x):
    return x


HARMLESS = [
    *(np.array(["a"]), np.logspace(-3, -1, 3), np.arange(4).reshape(2, 2)[:, ::-1], np.datetime64("2024-01-01")),
    *(Path("x"), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(3), Decimal("0.1")),
    *(argparse.Namespace(rate=np.float64(0.1)), SimpleNamespace(a=1), {"a": Fraction(1, 3)}, frozenset([1]), range(3)),
    *(Act.tanh, Mode.fast, Pair(2.0), Sizes(3.0), float),
    OmegaConf.create({"a": 1, "b": [1, 2.5, {"c": "x"}]}),
    *(deque([1, Act.tanh], 3), defaultdict(list, a=[1]), UserDict(a=1), re.compile("a+", re.I), np.float32),
    *(pd.Timestamp("2024-01-02", tz="Europe/Berlin"), pd.Timedelta(days=1), ZoneInfo("Europe/Berlin")),
]


@pytest.mark.parametrize("value", HARMLESS, ids=[type(value).__name__ for value in HARMLESS])
def test_harmless_hyperparameters_need_no_trust(value, straight, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    straight.save_checkpoint({"state_dict": {}, "hyper_parameters": {"value": value}}, path)
    train.check_checkpoint(path)
    found = train.load_state(path, trusted=False)["hyper_parameters"]["value"]
    assert type(found) is type(value)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    with pytest.raises(pickle.UnpicklingError):  # and only within it
        torch.load(path, weights_only=True)


def test_a_partial_of_a_harmless_type_needs_no_trust(straight, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    straight.save_checkpoint({"state_dict": {}, "hyper_parameters": {"read": partial(int, base=2)}}, path)
    assert train.load_state(path, trusted=False)["hyper_parameters"]["read"]("11") == 3


def test_a_checkpoint_of_this_process_is_its_own_until_it_is_touched(straight, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    straight.save_checkpoint({"state_dict": {}, "hyper_parameters": {"noise": noise}}, path)
    assert trust.is_own_with_objects(path)
    copy = tmp_path / "copy.ckpt"
    shutil.copy2(path, copy)
    assert not trust.is_own_with_objects(copy)
    before, content = path.stat(), path.read_bytes()
    time.sleep(0.02)
    path.write_bytes(content)  # of the same length, and with the same times
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not trust.is_own_with_objects(path)
    straight.save_checkpoint({"state_dict": {}, "hyper_parameters": {"rate": 0.1}}, path)
    assert trust.is_vouched_for(path)
    assert not trust.is_own_with_objects(path)  # it holds nothing that asks for it


def test_scalars_of_numpy_are_stored_as_numbers(straight, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    given = {"rate": np.float64(0.1), "sizes": [np.int64(3), (np.bool_(True),)], "more": {"a": np.float32(0.5)}}
    straight.save_checkpoint({"state_dict": {}, "hyper_parameters": given}, path)
    found = torch.load(path, weights_only=True)["hyper_parameters"]
    assert found == {"rate": 0.1, "sizes": [3, (True,)], "more": {"a": 0.5}}
    assert [type(found["rate"]), type(found["sizes"][0]), type(found["sizes"][1][0])] == [float, int, bool]
    assert type(given["rate"]) is np.float64  # the model's own stay as they are


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"hyper_parameters": {"lr": 0.1, "noise": noise}}, "the hyperparameter noise (test_checkpoints.noise)"),
        (
            {"hyper_parameters": {"net": [Pair(torch.nn.ReLU)]}},
            "the hyperparameter net (torch.nn.modules.activation.ReLU)",
        ),
        ({"hyper_parameters": {"zone": ZoneInfo("Europe/Berlin")}}, "the hyperparameter zone (builtins.getattr)"),
        ({"hyper_parameters": {"act": partial(noise, 1)}}, "the hyperparameter act (test_checkpoints.noise)"),
        ({"hyper_parameters": {"sizes": pd.Series([1, 2])}}, "the hyperparameter sizes (pandas.Series)"),
        ({"datamodule_hyper_parameters": {"a": Evil()}}, "the hyperparameter a (posix.system)"),
        ({"extra": {"a": Evil()}}, "extra (posix.system)"),
    ],
)
def test_what_needs_trust_is_named_and_does_not_run(state, named, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(2)}, **state}, path)
    with pytest.raises(InputError) as raised:
        train.check_checkpoint(path)
    assert str(raised.value) == (
        f"the checkpoint {path} contains Python objects other than tensors ({named}), and loading them runs code. "
        "If you trust it, type --weights_only false"
    )
    assert not (tmp_path / "evil").exists()


LIBRARY = """
import dataclasses, enum, pathlib, typing

@dataclasses.dataclass
class Config:
    path: str = "a"
    def __post_init__(self):
        pathlib.Path(self.path).touch()

class Kind(enum.Enum):
    a = "evil"
    @classmethod
    def _missing_(cls, value):
        pathlib.Path(value).touch()

class Point(typing.NamedTuple):
    path: str
"""


class Called:
    def __init__(self, cls, *arguments):
        self.made = cls, arguments

    def __reduce__(self):
        return self.made


@pytest.fixture
def library(tmp_path: Path, monkeypatch):
    """A module of an installed package; `Mine` of this module is made from its `Config`."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "outside.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(folder)
    outside = importlib.import_module("outside")
    mine = dataclass(type("Mine", (outside.Config,), {"__module__": __name__}))
    monkeypatch.setitem(globals(), "Mine", mine)
    monkeypatch.setattr("__main__.Config", outside.Config, raising=False)
    monkeypatch.chdir(tmp_path)
    yield outside
    del sys.modules["outside"]


@pytest.mark.parametrize("name", ["outside.Config", "outside.Kind", "outside.Point", "test_checkpoints.Mine"])
def test_a_class_of_a_library_is_not_created_without_trust(name, library, tmp_path: Path):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "last.ckpt"
    called = Called(getattr(sys.modules[module], attribute), "evil")
    torch.save({"state_dict": {}, "hyper_parameters": {"config": called}}, path)
    with pytest.raises(InputError, match=re.escape(f"tensors (the hyperparameter config ({name})), and")):
        train.check_checkpoint(path)
    with pytest.raises(InputError, match="contains Python objects other than tensors"):
        train.load_state(path, trusted=False)
    assert not Path("evil").exists()


def test_names_of_a_library_in_the_notebook_are_the_librarys(library):
    names = [
        "__main__.Config",
        "enum.Enum",
        "http.HTTPStatus",
        "lightning_magics.runs.record.RunRecord",
        "omegaconf.OmegaConf",
    ]
    assert [trust._resolved(name) for name in names] == [None] * len(names)
    assert trust._resolved("test_checkpoints.Sizes") is Sizes
