"""Checkpoints that are written straight to their files."""

import importlib
from pathlib import Path

import pytest
import torch

from lightning_magics import checkpoints


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def straight(request: pytest.FixtureRequest):
    return checkpoints.straight_io(request.param)


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
