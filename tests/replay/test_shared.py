"""What a loaded run and the notebook both define: the same objects where the source is the same."""

import pytest

HEAD = """
import enum, dataclasses, typing
import torch, pytorch_lightning as pl
import lightning_magics as lm
torch.manual_seed(0)
dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 4), torch.arange(32) % 2))
class Opt(typing.NamedTuple):
    noise: float = 0.5
@dataclasses.dataclass
class Scale:
    by: float = 1.0
"""
ACT = """
class Act(enum.Enum):
    RELU = 1
    TANH = 2
"""
NET = """
class Net(pl.LightningModule):
    def __init__(self, act=Act.RELU, opt=Opt(), scale=Scale()):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, batch_idx):
        x = batch[0]
        if self.hparams.act is Act.TANH:
            x = torch.tanh(x)
        if isinstance(self.hparams.opt, Opt) and isinstance(self.hparams.scale, Scale):
            x = (x + self.hparams.opt.noise) * self.hparams.scale.by
        loss = torch.nn.functional.cross_entropy(self.net(x), batch[1])
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
FIT = """
options = {"act": Act.TANH, "opt": Opt(2.0), "scale": Scale(3.0)}
{} = lm.fit(Net, dl, model=options, max_epochs=1, quiet=True, seed=1)
"""
ONE = "[type(net) is Net, net.hparams.act is Act.TANH, type(net.hparams.opt) is Opt, type(net.hparams.scale) is Scale]"


def run(shell, *cells):
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


def fit(shell, name):
    run(shell, FIT.replace("{} =", f"{name} ="))
    return shell.user_ns[name]


@pytest.mark.parametrize("options", ["", ", weights_only=False"])
def test_a_loaded_run_has_the_notebooks_own_classes_where_their_source_is_the_same(shell, options):
    run(shell, HEAD, ACT, NET)
    first = fit(shell, "first")
    act = shell.user_ns["Act"]
    run(shell, f"net = lm.load(first{options})")
    assert shell.ev(ONE) == [True] * 4
    assert shell.user_ns["Act"] is act
    assert fit(shell, "second").metrics == first.metrics
    run(shell, "net = lm.load(second)", "net = lm.load(first)")
    assert shell.ev(ONE) == [True] * 4
    run(shell, "again = lm.rerun(first, quiet=True)\nnet = again.model")
    assert shell.user_ns["again"].metrics == first.metrics
    assert shell.ev(ONE)[1:] == [True] * 3  # its defaults are objects, so the model's class is the rerun's own


def test_a_loaded_run_has_its_own_classes_where_one_was_edited_since(shell, capsys):
    run(shell, HEAD, ACT, NET)
    first = fit(shell, "first")
    run(shell, ACT.replace("2", "5"), NET.replace("torch.tanh(x)", "torch.tanh(x) - 3"))
    edited = fit(shell, "edited")
    assert edited.metrics != first.metrics
    capsys.readouterr()
    run(shell, "net = lm.load(first)")
    assert "Act of this notebook is replaced by the run's" in capsys.readouterr().out
    assert shell.ev(ONE) == [True] * 4
    assert shell.user_ns["Act"].TANH.value == 2
    assert fit(shell, "second").metrics == first.metrics
    run(shell, "lm.export(second, 'second.py')", "net = lm.load(edited)")
    assert shell.ev(ONE) == [True] * 4
    assert shell.user_ns["Act"].TANH.value == 5
    assert fit(shell, "third").metrics == edited.metrics
    run(shell, "again = lm.rerun(first, quiet=True)")
    assert shell.user_ns["again"].metrics == first.metrics


def test_a_class_that_reads_a_changed_value_is_the_runs_own(shell):
    width = NET.replace("self.hparams.opt.noise", "width")
    run(shell, HEAD, "width = 1", ACT, width)
    first = fit(shell, "first")
    run(shell, "width = 7", "again = lm.rerun(first, quiet=True)", "net = lm.load(first)")
    assert shell.user_ns["again"].metrics == first.metrics
    assert fit(shell, "second").metrics == first.metrics
    assert shell.ev("net.hparams.act is Act.TANH")


STATES = {
    "generator": ("    rng = torch.Generator().manual_seed(0)", "torch.rand(4, generator=self.rng)"),
    "default": (
        "    def __init__(self, rng=torch.Generator().manual_seed(0)):\n        self.rng = rng",
        "torch.rand(4, generator=self.rng)",
    ),
    "counter": (
        "    n = 0",
        "torch.ones(4) * self.count()\n    @classmethod\n    def count(cls):\n        cls.n += 1\n        return cls.n",
    ),
    "type": (
        "    n = 0",
        "torch.ones(4) * self.count()\n    def count(self):\n        type(self).n += 1\n        return self.n",
    ),
    "cache": ("    seen = []", "torch.ones(4) * len(self.seen), self.seen.append(i)"),
    "function": ("", "torch.ones(4) * count(1)"),
    "cached": ("", "torch.ones(4) * drawn(i)"),
}
NOISE = """
import functools
def count(by, seen=[]):
    seen.append(by)
    return len(seen)
@functools.lru_cache
def drawn(i):
    return torch.rand(())
class Noise(torch.utils.data.Dataset):
{}
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return ({},)[0], i % 2
"""


@pytest.mark.parametrize("state", STATES)
def test_state_of_the_notebooks_classes_and_functions_has_no_part_in_a_rerun(shell, state):
    given, item = STATES[state]
    item, _, method = item.partition("\n")
    cell = NOISE.format(given, item) + method
    run(shell, HEAD, ACT, NET, cell, "data = Noise()\nrun = lm.fit(Net, data, max_epochs=2, quiet=True, seed=1)")
    run(shell, "again = lm.rerun(run, quiet=True)", "more = lm.rerun(run, quiet=True)")
    metrics = shell.user_ns["run"].metrics
    assert shell.user_ns["again"].metrics == shell.user_ns["more"].metrics == metrics


def test_an_attribute_that_the_notebook_sets_on_a_class_stays(shell):
    net = NET.replace("lr=0.1", "lr=self.lr").replace("Module):", "Module):\n    lr = 0.1")
    run(shell, HEAD, ACT, net, "Net.lr = 0.1", "Net.lr = 0.5")
    first = fit(shell, "first")
    run(shell, "Net.lr = 0.1", "again = lm.rerun(first, quiet=True)")
    assert shell.user_ns["again"].metrics == first.metrics
    assert shell.user_ns["Net"].lr == 0.1


EDITED = {  # what a hyperparameter is made of, its code, and how it is used
    "function": ("def f(x):\n    return 2 * x", "f", "self.hparams.value(x)"),
    "enum": ("class Kind(enum.Enum):\n    A = 1\n    B = 2", "Kind.B", "x * self.hparams.value.value"),
    "default": ("class Kind(enum.Enum):\n    A = 1\n    B = 2", "", "x * self.hparams.value.value"),
    "tuple of an enum": (
        "class Kind(enum.Enum):\n    A = 1\n    B = 2",
        "Pair(Kind.B, 1)",
        "x * self.hparams.value.kind.value",
    ),
}
PAIR = "class Pair(typing.NamedTuple):\n    kind: object\n    n: int = 1"


@pytest.mark.parametrize("kind", EDITED)
def test_a_hyperparameter_whose_definition_was_edited_since_is_the_runs(shell, kind, capsys):
    defined, code, used = EDITED[kind]
    cell = (
        NET.replace("act=Act.RELU, opt=Opt(), scale=Scale()", "value=Kind.B" if kind == "default" else "value=None")
        .partition("        if self.hparams.act")[0]
        .replace("x = batch[0]", f"x = batch[0]; x = {used}")
        + NET[NET.index("        loss =") :]
    )
    options = f"{{'value': {code}}}" if code else "{}"
    fit = f"run = lm.fit(Net, dl, model={options}, max_epochs=1, quiet=True, seed=1)"
    run(shell, HEAD, defined, PAIR, cell, fit)
    metrics = shell.user_ns["run"].metrics
    for number in ("7", "9"):
        run(shell, defined.replace("2", number), "again = lm.rerun(run, quiet=True)")
        assert shell.user_ns["again"].metrics == metrics
        run(shell, "net = lm.load(run)")
        assert "removes it from hparams" not in capsys.readouterr().out
        assert shell.ev("net.hparams.keys() == {'value'}")
        if not code:  # the loaded class has the run's default
            run(shell, fit.replace("run = ", "second = "))
            assert shell.user_ns["second"].metrics == metrics


def test_a_live_run_keeps_its_hyperparameters_where_its_class_was_replaced_by_that_of_a_loaded_run(shell, capsys):
    cell = """
class Net(Base):
    class Mode(enum.Enum):
        A = 2
    def __init__(self, mode=Mode.A):
        super().__init__()
        self.mode = mode
        self.save_hyperparameters()
    def validation_step(self, batch, batch_idx):
        self.log("val", self.net(batch[0] * self.hparams.mode.value).sum())
"""
    one = "{} = lm.fit(Net, dl, dl, max_epochs=1, quiet=True, seed=1)"
    run(shell, HEAD, ACT, NET.replace("Net(", "Base("), cell, one.format("first"), cell.replace("2", "3"))
    run(shell, one.format("second"), "net = lm.load(first)", "seen = lm.validate(second, dl, quiet=True)")
    assert shell.user_ns["seen"].metrics["val"] == pytest.approx(shell.user_ns["second"].metrics["val"])
    assert "removes it from hparams" not in capsys.readouterr().out


def test_a_loaded_class_that_uses_another_definition_than_the_notebook_says_so(shell, capsys):
    helped = NET.replace("torch.tanh(x)", "helper(x)")
    run(shell, HEAD, ACT, "def helper(x):\n    return 2 * x", helped)
    first = fit(shell, "first")
    run(shell, "del Net", "net = lm.load(first)")
    capsys.readouterr()
    assert fit(shell, "second").metrics == first.metrics
    assert "loaded from a run" not in capsys.readouterr().out
    run(shell, "def helper(x):\n    return 3 * x")
    assert fit(shell, "third").metrics == first.metrics
    said = "Net was loaded from a run and uses the run's definition of helper, not this notebook's. "
    assert said + "To use this notebook's, run the cell that defines Net again" in capsys.readouterr().out
    run(shell, helped)
    assert fit(shell, "fourth").metrics != first.metrics
    assert "loaded from a run" not in capsys.readouterr().out


def test_definitions_that_need_each_other_are_shared_together(shell):
    even = "def even(n):\n    return n == 0 or odd(n - 1)"
    odd = "def odd(n):\n    return n != 0 and even(n - 1)"
    cell = NET.replace("x = batch[0]", "x = batch[0] * even(2)")
    run(shell, HEAD, ACT, even, odd, cell)
    first = fit(shell, "first")
    own = shell.user_ns["even"]
    used = "net.training_step.__func__.__globals__['even']"
    run(shell, "rerun = lm.rerun(first, quiet=True)", "net = lm.load(first)")
    assert shell.user_ns["rerun"].metrics == first.metrics
    assert shell.ev(used) is own
    run(shell, odd.replace("!=", ">"), "net = lm.load(first)")
    assert shell.user_ns["even"] is own
    assert shell.ev(used) is not own


def test_a_function_that_was_edited_since_the_model_was_made_is_an_earlier_definition(shell, capsys):
    defined = "def f(x):\n    return 2 * x"
    init = "def __init__(self, f=None):\n        super().__init__()\n        self.save_hyperparameters()"
    run(shell, HEAD, ACT, NET, defined, f"class Own(Net):\n    {init}", "net = Own(f)", defined.replace("2", "3"))
    run(shell, "lm.fit(net, dl, max_epochs=1, quiet=True)")
    said = "The hyperparameter f is an earlier definition of f, which cannot be pickled, so Lightning removes it from "
    assert said + "hparams. Create the model again to use the current one" in capsys.readouterr().out
