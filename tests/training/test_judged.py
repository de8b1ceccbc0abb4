from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from notebook import SMALL_RUNS, batches, loader, trainer

from lightning_magics.training.classification import classification_callback

pytestmark = SMALL_RUNS

X = torch.eye(3)
FIRST = torch.tensor([0, 1, 1])


class Same(pl.LightningModule):
    """Says what it is given; the last of its input is a weight."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x):
        return x * 5

    def test_step(self, batch, batch_idx):
        self(batch["x"] if isinstance(batch, dict) else batch[0])


def judged(data, **known):
    told = []
    callback = classification_callback("pytorch_lightning", SimpleNamespace(**known), told.append)
    trainer("pytorch_lightning", callbacks=[callback]).test(Same(), data, verbose=False)
    return told


def test_a_classifier_is_held_against_the_truth():
    (found,) = judged(loader(X, FIRST), classes=["a", "b", "c"])
    assert found.matrix == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert [(item["actual"], item["predicted"]) for item in found.mistakes] == [("b", "c")]


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (loader(X, FIRST), {}),  # whose classes nobody knows
        (loader(X, FIRST), {"classes": 3}),
        (loader(X, FIRST), {"classes": []}),
        (loader(X, FIRST), {"classes": ["a", "b"], "more": "than it has outputs"}),
        (loader(X, torch.tensor([0, -100, 1])), {"classes": ["a", "b", "c"]}),
        (loader(X, torch.tensor([0, 7, 1])), {"classes": ["a", "b", "c"]}),
        (loader(X, torch.rand(3)), {"classes": ["a", "b", "c"]}),
        (loader(X, torch.zeros(3, 3, dtype=torch.long)), {"classes": ["a", "b", "c"]}),
        (batches({"x": X}), {"classes": ["a", "b", "c"]}),
        (batches(X), {"classes": ["a", "b", "c"]}),
    ],
)
def test_what_is_no_such_classifier_is_let_be(data, known):
    found = judged(data, **known)
    if known.get("more"):  # outputs that no class has a name for are left out
        assert found[0].matrix == [[1, 0], [1, 1]]
    else:
        assert found == []
