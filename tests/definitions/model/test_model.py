import copy
import inspect
import linecache
import pickle
import random
import sys
import traceback

import cloudpickle
import numpy as np
import pytest
import torch
from notebook import CELL, SMALL_RUNS, adopt, batches, loader, model, namespace, source, trainer, validated
from torch import nn

from lightning_magics.definitions.definition import PACKAGES, package_of
from lightning_magics.definitions.model import model as models
from lightning_magics.errors import InputError
from lightning_magics.training.batches import input_conversions

pytestmark = SMALL_RUNS
NETWORK = """
hidden: int = 5
nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
"""
HOOKS = """
hidden: int = 5
scale = 2.0

def helper(x):
    return x * scale

def __init__(self, extra=1):
    self.layer = nn.Linear(4, hidden)
    self.head = nn.Linear(hidden, 3)

def forward(self, x):
    return self.head(helper(self.layer(x)))

@property
def doubled(self):
    return hidden * 2

def training_step(self, batch, batch_idx):
    x, y = batch
    loss = F.cross_entropy(self(x), y)
    self.log("train_loss", loss)
    return loss

def configure_optimizers(self):
    return torch.optim.SGD(self.parameters(), lr=0.1)
"""
X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def fit(instance, package="lightning.pytorch", **asked):
    run = trainer(package, **asked)
    run.fit(instance, loader(X, Y), loader(X, Y))
    return {name: value.item() for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_network_trains_in_both_packages(package):
    definition = model(NETWORK, package=package, loss="cross_entropy", metrics=("accuracy",), lr=0.01)
    instance = definition.new(hidden=7)
    before = copy.deepcopy(instance.net[0].weight)
    values = fit(instance, package)
    assert set(values) == {"train_loss", "train_loss_step", "train_accuracy", "val_loss", "val_accuracy"}
    assert (definition.form, definition.package) == ("network", package)
    assert package_of(instance) == package
    assert dict(instance.hparams) == {"hidden": 7, "lr": 0.01}
    assert not torch.equal(before, instance.net[0].weight)


def test_the_source_is_plain_lightning_and_gives_the_same_numbers():
    names = namespace()
    definition = model(NETWORK, names=names, loss="cross_entropy", metrics=("accuracy", "f1"), optimizer="SGD")
    assert "lightning_magics" not in definition.source
    alone = {"__name__": "script"}
    exec(definition.source, alone)
    results = []
    for cls in (names["Digits"], alone["Digits"]):
        torch.manual_seed(1)
        results.append(fit(cls(hidden=6), max_epochs=2))
    assert results[0] == results[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_bare_hooks_become_methods(package):
    names = namespace()
    definition = model(HOOKS, names=names, package=package)
    instance = definition.new(hidden=6, extra=2)
    fit(instance, package)
    assert (definition.form, instance.doubled, instance.layer.out_features) == ("hooks", 12, 6)
    assert dict(instance.hparams) == {"extra": 2, "hidden": 6}
    assert names["scale"] == 2.0
    assert "validation_step" not in vars(names["Digits"])


def test_missing_steps_and_optimizer_of_hooks_come_from_options():
    cell = "def __init__(self):\n    self.layer = nn.Linear(4, 3)\ndef forward(self, x):\n    return self.layer(x)"
    values = fit(model(cell, loss="cross_entropy", metrics=("accuracy",), lr=0.1).new())
    assert {"train_loss", "val_loss", "val_accuracy"} <= set(values)


def test_the_users_own_initialisation_is_kept_where_it_is_whole():
    cell = """
def __init__(self, width=3, lr=0.5):
    '''Mine.'''
    first = 1
    super().__init__()
    self.save_hyperparameters("width")
    self.layer = nn.Linear(4, width)

def forward(self, x):
    return self.layer(x)
"""
    definition = model(cell, loss="cross_entropy", weight_decay=0.1, optimizer="SGD")
    assert definition.source.count("super().__init__()") == 1
    assert definition.source.count("save_hyperparameters") == 2
    assert dict(definition.new().hparams) == {"width": 3, "weight_decay": 0.1}
    assert list(inspect.signature(definition.cls).parameters) == ["width", "lr", "weight_decay"]


def test_zero_argument_super_works_in_hooks():
    cell = HOOKS + "\ndef on_fit_start(self):\n    super().on_fit_start()\n    self.started = True\n"
    instance = model(cell).new()
    fit(instance)
    assert instance.started


def test_hooks_may_name_their_own_class():
    cell = HOOKS.replace("self.layer =", "super(Digits, self).__init__()\n    self.layer =", 1)
    definition = model(cell)
    assert definition.cls.__name__ == "Digits"
    fit(definition.new())


def test_a_network_beside_hooks_is_wrapped_and_the_hooks_go_first():
    cell = """
classes = 3
def forward(self, x):
    assert classes == 3
    return self.net(x) * 2

nn.Linear(4, classes)
"""
    definition = model(cell, loss="cross_entropy")
    instance = definition.new()
    assert torch.equal(instance(X), instance.net(X) * 2)
    assert definition.source.count("def forward") == 1
    assert "self.classes" in definition.source


def test_methods_of_the_user_keep_their_names():
    cell = "def _step(self):\n    return 'mine'\nnn.Linear(4, 3)"
    instance = model(cell, loss="cross_entropy").new()
    fit(instance)
    assert instance._step() == "mine"


def test_a_lightning_module_class_is_taken_as_it_is():
    for package in PACKAGES:
        names = namespace()
        cell = f"""
import {package} as pl
class Base(pl.LightningModule):
    pass
class Mine(Base):
    def __init__(self, width: int = 2):
        super().__init__()
        self.save_hyperparameters()
print_nothing = None
"""
        definition = model(cell, name="Other", names=names)
        assert definition.cls is names["Mine"] is names["Other"]
        assert (definition.form, definition.package, definition.name) == ("class", package, "Other")
        assert definition.new(width=3).hparams.width == 3
        assert model(cell, name="Base", names=names).cls is names["Base"]


def test_options_for_a_complete_class_are_refused():
    cell = "import lightning.pytorch as pl\nclass Mine(pl.LightningModule): pass"
    with pytest.raises(InputError, match=r"--loss, --lr would have no effect: Mine is a complete LightningModule"):
        model(cell, loss="cross_entropy", lr=0.1)


def test_a_network_class_keeps_its_name_and_gives_its_parameters():
    cell = """
class Net(nn.Module):
    def __init__(self, width: int = 5, activation=nn.ReLU, *, bias=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width, bias=bias), activation(), nn.Linear(width, 3))
    def forward(self, x):
        return self.layers(x)
"""
    names = namespace()
    definition = model(cell, name="Net", names=names, loss="cross_entropy")
    assert (definition.name, definition.cls.__name__) == ("Net", "LitNet")
    assert issubclass(names["Net"], nn.Module)
    parameters = inspect.signature(definition.cls).parameters
    assert {name: item.default for name, item in parameters.items()} == {
        "width": 5,
        "activation": nn.ReLU,
        "bias": True,
        "lr": 1e-3,
    }
    assert parameters["width"].annotation is int
    instance = definition.new(width=2, activation=nn.Tanh)
    assert (instance.net.layers[0].out_features, type(instance.net.layers[1])) == (2, nn.Tanh)
    assert model(cell, name="Digits", names=names, loss="cross_entropy").cls.__name__ == "Digits"


def test_a_network_class_that_needs_a_hyperparameter_is_built_with_it():
    cell = """
width: int = 5
class Net(nn.Module):
    def __init__(self, depth=1):
        super().__init__()
        self.layer = nn.Linear(4, width)
    def forward(self, x):
        return self.layer(x)
"""
    instance = model(cell, loss="cross_entropy").new(width=3)
    assert instance.net.layer.out_features == 3
    assert set(instance.hparams) == {"width", "depth", "lr"}


def test_every_instance_is_fresh_and_the_random_state_untouched():
    names = namespace(made=[])
    torch.manual_seed(0)
    definition = model("made.append(1)\nlayer = nn.Linear(4, 3)\nlayer", names=names, loss="cross_entropy")
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    first, second = definition.new(), definition.new()
    assert first.net is not second.net
    assert not torch.equal(first.net.weight, second.net.weight)
    assert len(names["made"]) == 3
    assert "deepcopy" not in definition.source


def test_an_object_of_the_notebook_is_copied_for_every_instance():
    names = namespace(net=nn.Linear(4, 3), nets=[nn.Linear(4, 3)])
    definition = adopt("net", names["net"], names, loss="cross_entropy")
    assert (definition.name, definition.cls.__name__) == ("net", "LitNet")
    assert isinstance(names["net"], nn.Linear)
    instance = definition.new()
    assert instance.net is not names["net"]
    assert torch.equal(instance.net.weight, names["net"].weight)
    in_cell = model("nets[0]", names=names, loss="cross_entropy").new()
    assert torch.equal(in_cell.net.weight, names["nets"][0].weight)
    assert in_cell.net is not names["nets"][0]


@pytest.mark.parametrize(
    "cell",
    [
        "nn.Sequential(backbone, nn.Linear(4, 3))",
        "net = nn.Sequential(backbone, nn.Linear(4, 3))\nnet",
        "backbone.extra = nn.Linear(4, 4)\nbackbone.register_buffer('mine', torch.zeros(1))\nbackbone",
    ],
)
def test_a_part_from_the_notebook_is_copied_for_every_instance(cell):
    names = namespace(backbone=nn.Linear(4, 4), deepcopy=2)
    weight = names["backbone"].weight.clone()
    definition = model(cell, names=names, loss="cross_entropy", lr=0.5)
    instance = definition.new()
    fit(instance)
    assert torch.equal(names["backbone"].weight, weight)
    assert set(dict(names["backbone"].named_modules())) == {""}
    shared = {id(parameter) for parameter in definition.new().parameters()}
    assert not shared & {id(parameter) for parameter in (*instance.parameters(), *names["backbone"].parameters())}


def test_copied_parts_share_what_they_shared():
    names = namespace(one=nn.Sequential(nn.Linear(4, 4)))
    names["two"] = names["one"][0]
    net = model("nn.Sequential(one, two, one)", names=names, loss="cross_entropy").new().net
    assert net[0][0] is net[1] is net[2][0] is not names["two"]


def test_networks_that_a_cell_assigns_are_parts_of_the_model_where_its_hooks_read_them_of_self():
    parts = "encoder = nn.Linear(4, 5)\nhead = nn.Linear(5, 3)\n"
    definition = model(f"{parts}def forward(self, x):\n    return self.head(self.encoder(x))", loss="cross_entropy")
    first, second = definition.cls(), definition.cls()
    assert sorted(name for name, _ in first.named_parameters()) == [
        "encoder.bias",
        "encoder.weight",
        "head.bias",
        "head.weight",
    ]
    assert first.encoder is not second.encoder
    assert fit(first).keys() >= {"train_loss", "val_loss"}


def test_the_network_of_a_cell_may_be_named_net_and_read_of_self():
    cell = "net = nn.Linear(4, 3)\ndef forward(self, x):\n    return self.net(x)"
    for text in (cell, f"{cell}\nnet"):
        assert [name for name, _ in model(text, loss="cross_entropy").cls().named_parameters()] == [
            "net.weight",
            "net.bias",
        ]


def test_networks_that_hooks_read_as_variables_of_the_notebook_are_refused():
    with pytest.raises(
        InputError,
        match=r"the model has no parameters to train: its hooks use head from the notebook\. "
        r"Type self\.head instead, or end the cell with the network",
    ):
        model("head = nn.Linear(4, 3)\ndef forward(self, x):\n    return head(x)", loss="cross_entropy")


def test_a_hook_reads_the_instances_copy_of_a_part():
    names = namespace(backbone=nn.Linear(4, 4))
    cell = "def on_fit_start(self):\n    backbone.requires_grad_(False)\nnn.Sequential(backbone, nn.Linear(4, 3))"
    instance = model(cell, names=names, loss="cross_entropy").new()
    fit(instance)
    assert not instance.net[0].weight.requires_grad
    assert names["backbone"].weight.requires_grad


def test_a_function_that_makes_a_network_is_called_for_every_instance():
    def make(width=5, *, depth: int = 1):
        return nn.Sequential(nn.Linear(4, width), *[nn.Linear(width, width) for _ in range(depth)])

    definition = adopt("make", make, namespace(make=make), loss="cross_entropy")
    instance = definition.new(width=3, depth=2)
    assert (len(instance.net), instance.net[0].out_features, definition.cls.__name__) == (3, 3, "LitMake")
    assert "make(width=width, depth=depth)" in definition.source


def test_an_object_without_a_name_gets_one_in_the_notebook():
    names = namespace()
    definition = adopt("Small", nn.Linear(4, 3), names, loss=nn.CrossEntropyLoss(), metrics=("accuracy",))
    fit(definition.new())
    assert definition.cls.__name__ == "Small"
    assert isinstance(names["_Small_network"], nn.Linear)


def test_an_existing_class_is_registered_by_name():
    for package in PACKAGES:
        names = namespace()
        exec(f"import {package} as pl\nclass Mine(pl.LightningModule): pass", names)
        assert adopt(None, names["Mine"], names).name == "Mine"


def test_a_required_hyperparameter_must_be_given():
    definition = model("hidden: int\nnn.Linear(4, hidden)", loss="cross_entropy")
    with pytest.raises(InputError, match=r"Digits needs a value for hidden. Add --model.hidden VALUE"):
        definition.new()
    assert definition.new(hidden=3).net.out_features == 3


def test_an_unknown_hyperparameter_is_named_with_the_nearest():
    with pytest.raises(
        InputError, match=r"Digits has no hyperparameter 'hiden'. Did you mean 'hidden'\? It has hidden, lr"
    ):
        model(NETWORK, loss="cross_entropy").new(hiden=3)


def test_a_hyperparameter_named_like_a_rate_is_that_rate():
    definition = model("lr: float = 0.3\nweight_decay: float = 0.2\nnn.Linear(4, 3)", loss="cross_entropy")
    group = definition.new(lr=0.5).configure_optimizers().param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.2)
    over = model("lr: float = 0.3\nnn.Linear(4, 3)", loss="cross_entropy", lr=0.7)
    assert over.new().hparams.lr == 0.7


def test_running_the_cell_again_redefines():
    names = namespace()
    first = model(NETWORK, names=names, loss="cross_entropy")
    second = model(NETWORK.replace("5", "6"), names=names, loss="cross_entropy")
    assert names["Digits"] is second.cls is not first.cls
    assert (first.new().hparams.hidden, second.new().hparams.hidden) == (5, 6)


@pytest.mark.parametrize(
    "cell",
    [
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3)\n",
        "def inner(): return nn.Linear(4, 3)\ndef Net(): return inner()\nNet()",
        "import lightning.pytorch as pl\ndef inner(): return nn.Linear(4, 3)\nclass NAME(pl.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = inner()",
    ],
)
def test_a_part_that_another_cell_replaced_is_said(cell):
    names = namespace()

    def defined(name, text):
        asked = {} if "NAME" in cell else {"loss": "cross_entropy"}
        return model(text.replace("NAME", name), name=name, names=names, **asked)

    first, second = defined("A", cell), defined("B", cell.replace("3", "5"))
    with pytest.raises(InputError, match=r"A's (Net|inner) was replaced by another cell. Rename one of them, or run A"):
        first.new()
    assert second.new().net.out_features == 5
    assert defined("A", cell).new().net.out_features == 3


def test_a_default_that_the_cell_changes_is_each_instances_own():
    definition = model("sizes: list = [4]\nsizes.append(3)\nnn.Linear(*sizes)", loss="cross_entropy")
    assert [definition.new().net.out_features for _ in range(2)] == [3, 3]
    assert definition.new().hparams.sizes == [4]


def test_names_of_the_notebook_keep_their_values():
    names = namespace(pl="mine", Mapping=1, deepcopy=2, net=nn.Linear(4, 3))
    definition = adopt("net", names["net"], names, loss="cross_entropy")
    fit(definition.new())
    assert (names["pl"], names["Mapping"], names["deepcopy"]) == ("mine", 1, 2)
    assert "import lightning.pytorch as _pl" in definition.source


def test_methods_of_the_cell_stand_on_its_lines():
    names = namespace()
    cell = HOOKS + "\ndef on_fit_start(self):\n    raise KeyError('mine')\n"
    definition = model(cell, names=names)
    assert inspect.getsource(names["Digits"].forward).startswith("def forward(self, x):\n    return self.head(helper(")
    assert inspect.getsource(names["helper"]) == "def helper(x):\n    return x * scale\n"
    with pytest.raises(KeyError) as caught:
        fit(definition.new())
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    text = ("\n" + cell.lstrip("\n")).splitlines()
    assert (last.filename, last.line, text[last.lineno - 1].strip()) == (CELL, "raise KeyError('mine')", last.line)


def test_an_error_while_the_network_is_made_stands_on_its_line():
    definition = model("hidden: int = 5\n\nnn.Sequential(\n    nn.Linear(4, hidden),\n)", loss="cross_entropy")
    with pytest.raises((TypeError, RuntimeError)) as caught:
        definition.new(hidden="x")
    frame = next(item for item in traceback.extract_tb(caught.value.__traceback__) if item.filename == CELL)
    assert (frame.lineno, frame.line) == (5, "nn.Linear(4, hidden),")


def test_generated_methods_stand_in_the_source_that_is_shown():
    definition = model(NETWORK, loss="cross_entropy")
    code = definition.cls._step.__code__
    assert code.co_filename == "<lightning_source Digits>"
    assert inspect.getsource(definition.cls._step) in definition.source
    linecache.checkcache()
    assert linecache.getline(code.co_filename, code.co_firstlineno).strip().startswith("def _step")
    assert definition.cls.__init__.__code__.co_filename == CELL
    with pytest.raises(TypeError) as caught:
        definition.new()._unpack(3)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line.startswith("raise TypeError")


def test_the_cells_first_line_is_a_comment_for_tracebacks():
    model(NETWORK, loss="cross_entropy")
    assert linecache.getline(CELL, 1).startswith("#")
    assert linecache.getline(CELL, 2) == "hidden: int = 5\n"


def test_a_trained_model_is_copied_pickled_and_trained_on():
    instance = model(NETWORK, loss="cross_entropy", metrics=("accuracy", "auroc")).new()
    fit(instance)
    copied = copy.deepcopy(instance)
    assert fit(copied).keys() == fit(instance).keys()
    assert torch.equal(cloudpickle.loads(cloudpickle.dumps(instance)).net[0].weight, instance.net[0].weight)


def test_classes_travel_by_value_to_another_process(elsewhere):
    names = namespace()
    model(
        "def double(x): return 2 * x\nhidden: int = 5\nnn.Linear(4, 3)",
        names=names,
        loss="cross_entropy",
        metrics=("f1",),
    )
    names["__main__"] = None
    definition = model(HOOKS, name="Hooked", names=names)
    payload = cloudpickle.dumps((definition.new(hidden=4), names["Digits"], X))
    code = (
        "import pickle, sys\n"
        "hooked, cls, x = pickle.load(sys.stdin.buffer)\n"
        "print(tuple(hooked(x).shape), tuple(cls(hidden=2)(x).shape), cls.__module__)"
    )
    done = elsewhere.run(code, given=payload)
    assert done.stdout.strip() == "(8, 3) (8, 3) __main__", done.stderr
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(names["Digits"])


def test_checkpoints_load_strictly_and_resume(tmp_path):
    definition = model(NETWORK, loss="nn.CrossEntropyLoss(weight=torch.ones(3))", metrics=("accuracy", "f1"))
    instance = definition.new(hidden=6)
    run = trainer(max_epochs=2)
    run.fit(instance, loader(X, Y), loader(X, Y))
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path)
    loaded = definition.cls.load_from_checkpoint(path, strict=True, weights_only=True)
    assert loaded.hparams.hidden == 6
    resumed = trainer(max_epochs=3)
    resumed.fit(loaded, loader(X, Y), loader(X, Y), ckpt_path=path, weights_only=True)
    assert (resumed.current_epoch, "val_accuracy" in resumed.callback_metrics) == (3, True)


def test_predictions_leave_the_target_out():
    instance = model(NETWORK, loss="cross_entropy").new()
    expected = instance(X)
    for batch in ((X, Y), [X], X):
        (found,) = trainer().predict(instance, batches(batch))
        assert torch.equal(found, expected)
    two = model("def forward(self, a, b):\n    return a + b\n", loss="mse_loss").new()
    for batch in ((X, X), (X, X, Y)):
        assert torch.equal(two.predict_step(batch, 0), X + X)
    named = model("def forward(self, first):\n    return first\n", loss="mse_loss").new()
    assert torch.equal(named.predict_step({"first": X, "label": Y}, 0), X)


def test_names_of_python_may_be_hyperparameters_or_the_notebooks():
    taken = dict.fromkeys(("max", "map", "len", "list", "str", "tuple", "type"), 3)
    instance = model("float: int = 3\nnn.Linear(4, float)", names=namespace(**taken), loss="cross_entropy").new()
    fit(instance)
    assert len(trainer().predict(instance, loader(X, Y))) == 3
    instance = model("len: int = 3\nnn.Linear(4, len)", loss="cross_entropy").new()
    fit(instance)
    assert len(trainer().predict(instance, loader(X, Y))) == 3


def test_hooks_that_take_the_whole_batch_make_no_predictions():
    cell = "def forward(self, batch): return batch[0].sum()\ndef training_step(self, batch, i): return self(batch)"
    assert "predict_step" not in model(cell).source


def test_batches_by_name_and_by_position_train():
    cell = "def forward(self, a, b=0):\n    return self.net(a + b)\nnn.Linear(4, 3)"
    instance = model(cell, loss="cross_entropy").new()
    for batch in ({"a": X, "b": X, "target": Y}, (X, X, Y), [X, Y]):
        run = trainer(max_steps=1)
        run.fit(instance, batches(batch))
        assert torch.isfinite(run.callback_metrics["train_loss"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([X], r"a batch is \(\*inputs, target\) or a dict with labels; found a list of length 1"),
        (X, r"found a Tensor"),
        ({"x": X, "z": Y}, r"a dict batch needs the key labels, label, target, targets or y; found x, z"),
    ],
)
def test_a_batch_that_fits_nothing_is_described(batch, message):
    with pytest.raises(TypeError, match=message):
        trainer().fit(model(NETWORK, loss="cross_entropy").new(), batches(batch))


@pytest.mark.parametrize(
    ("cell", "asked", "message"),
    [
        ("nn.Linear(4, 3)", {}, r"the network needs a loss to train. Type --loss cross_entropy"),
        (
            "3 + 4",
            {"loss": "mse_loss"},
            r"the last expression is of type int, which is not a network. A model cell takes",
        ),
        (
            "x = 1",
            {"loss": "mse_loss"},
            r"the cell contains no model \(add a last line: x\). A model cell takes a LightningModule class",
        ),
        ("int", {"loss": "mse_loss"}, r"the last expression is of type type, which is not a network"),
        (
            "def f(): return 3\nf",
            {"loss": "mse_loss"},
            r"f returns a value of type int. A model takes a function",
        ),
        ("nn.Linear(4, 3)", {"loss": "mse_loss", "task": "binary"}, r"--task would have no effect without --metrics"),
        (HOOKS, {"lr": 0.1}, r"--lr would have no effect: the cell defines configure_optimizers"),
        (HOOKS, {"optimizer": "Adam", "scheduler": "StepLR"}, r"--optimizer, --scheduler would have no effect"),
        (HOOKS, {"metrics": ("accuracy",)}, r"--metrics would have no effect without --loss"),
        ("def training_step(self, b, i): pass", {"loss": "mse_loss"}, r"--loss needs a network: end the cell with one"),
        ("def f(self): pass", {}, r"the cell has no training_step, and it needs a loss to train"),
        (
            "".join(f"def {name}_step(self, b, i): pass\n" for name in ("training", "validation", "test")),
            {"loss": "mse_loss"},
            r"--loss would have no effect: the cell defines all steps",
        ),
        (
            "def __init__(self, lr=1): pass\ndef forward(self, x): return x",
            {"loss": "mse_loss", "lr": 0.1},
            r"--lr would have no effect: __init__ in the cell has its own lr.*--model.lr 0.1",
        ),
        (
            "wl = nn.CrossEntropyLoss()\nnn.Linear(4, 3)",
            {"loss": "wl"},
            r"--loss wl: the cell creates its own 'wl' for each instance. Define it in another cell",
        ),
        (
            "nn.Linear(4, 3)",
            {"loss": "cross_entropy", "metrics": ("f1",), "task": "binary"},
            r"--task binary cannot be combined with --loss cross_entropy, which is for one class out of several. Leave "
            r"--task out",
        ),
        (
            "logger = print\ndef on_fit_start(self): logger(1)\nnn.Sequential(logger and nn.Linear(4, 3))",
            {"loss": "mse_loss"},
            r"hooks read 'logger', .* has another attribute with that name. Rename it",
        ),
        (
            "net = nn.Linear(4, 3)\ndef on_fit_start(self): net.eval()\nnn.Sequential(net)",
            {"loss": "mse_loss"},
            r"hooks read 'net', .* has another attribute with that name",
        ),
        (
            "loss = nn.Linear(4, 3)\ndef on_fit_start(self): loss.eval()\nnn.Sequential(loss)",
            {"loss": "MSELoss"},
            r"hooks read 'loss', .* has another attribute with that name",
        ),
    ],
)
def test_what_cannot_be_used_is_said(cell, asked, message):
    with pytest.raises(InputError, match=message):
        model(cell, **asked)


def test_a_model_needs_a_name_that_a_class_can_have():
    with pytest.raises(InputError, match=r"'my-model' is not a valid class name"):
        model("nn.Linear(4, 3)", name="my-model", loss="mse_loss")


def test_instances_of_lightning_are_not_wrapped():
    names = namespace()
    exec("import lightning.pytorch as pl\nclass Mine(pl.LightningModule): pass\nmine = Mine()", names)
    with pytest.raises(InputError, match=r"mine is already a LightningModule instance. Pass it to %lightning_fit"):
        adopt("mine", names["mine"], names)
    with pytest.raises(InputError, match=r"the last expression is the LightningModule Mine itself"):
        model("mine", names=names, loss="mse_loss")


def test_the_users_own_errors_pass_as_they_are():
    with pytest.raises(ZeroDivisionError) as caught:
        model("x = 1\nnn.Linear(4, 1 // 0)", loss="mse_loss")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].lineno == 3
    with pytest.raises(SyntaxError) as broken:
        models.model_definition("A", source("x = (\n"), None, namespace(), "pytorch_lightning")
    assert (broken.value.filename, broken.value.lineno) == (CELL, 2)


def test_without_a_name_a_model_is_called_model():
    assert model("nn.Linear(4, 3)", name=None, loss="mse_loss").name == "Model"


def test_a_cell_can_rebind_a_variable_of_the_notebook():
    names = namespace(width=2)
    definition = model("width += 1\nnn.Linear(4, width)", names=names, loss="cross_entropy")
    assert definition.new().net.out_features == definition.new().net.out_features == 3
    assert names["width"] == 2


def test_a_property_keeps_its_getter_and_its_setter():
    cell = """
@property
def scale(self):
    return self._scale

@scale.setter
def scale(self, value):
    self._scale = value

nn.Linear(4, 3)
"""
    instance = model(cell, loss="cross_entropy").new()
    instance.scale = 7
    assert instance.scale == 7


def test_a_class_inside_a_hook_has_names_of_its_own():
    cell = """
hidden: int = 5
def on_train_start(self):
    class C:
        hidden = 7
        y = hidden
    return C.y
nn.Linear(4, hidden)
"""
    assert model(cell, loss="cross_entropy").new().on_train_start() == 7


def test_future_annotations_hold_for_the_whole_cell_and_its_text():
    cell = """
from __future__ import annotations
hidden: int = 5
def forward(self, x: Nonexistent): return self.net(x)
def make() -> Nonexistent: return nn.Linear(4, hidden)
make()
"""
    definition = model(cell, loss="cross_entropy")
    assert definition.new(hidden=3).net.out_features == 3
    assert definition.source.startswith("from __future__ import annotations\n")
    exec(compile(definition.source, "script.py", "exec", dont_inherit=True), namespace())


def test_a_cells_own_import_tells_its_package():
    definition = model("import pytorch_lightning as pl\nnn.Linear(4, 3)", loss="cross_entropy")
    assert definition.package == package_of(definition.cls) == "pytorch_lightning"


def test_what_imports_of_a_cell_need_runs_before_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "made_of_test.py").write_text("from torch import nn\ndef make(): return nn.Linear(4, 3)")
    cell = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport made_of_test\nmade_of_test.make()"
    assert model(cell, loss="cross_entropy").new().net.out_features == 3


def test_defining_leaves_every_random_state_alone():
    names = namespace(np=np, random=random)
    states = (random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist())
    cell = "rate: float = torch.rand(1).item()\nw = np.random.rand(3)\nr = random.random()\nnn.Linear(4, 3)"
    model(cell, names=names, loss="CrossEntropyLoss(weight=torch.rand(3))")
    assert states == (random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist())


def test_defining_evaluates_a_default_once_beside_the_class_itself():
    names = namespace(made=[])
    exec("def size():\n    made.append(1)\n    return 3", names)
    model(
        "hidden: int = size()\nclass Net(nn.Linear):\n    pass\ndef net():\n    return Net(4, hidden)\nnet",
        names=names,
        loss="mse_loss",
    )
    assert len(names["made"]) == 2


def test_a_default_that_fails_shows_its_line():
    with pytest.raises(ZeroDivisionError) as caught:
        model("hidden: int = 3\nrate: float = 1 / 0\nnn.Linear(4, hidden)", loss="mse_loss")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (CELL, 3)


@pytest.mark.parametrize(
    "cell",
    [
        "Base = LP.LightningModule\nclass M(Base):\n    pass",
        "if True:\n    class M(LP.LightningModule):\n        x = 1\nelse:\n    class N(LP.LightningModule): x = 1",
        "class G(LP.LightningModule, typing.Generic[T]):\n    pass\nclass M(G[int]):\n    pass",
    ],
)
def test_a_class_is_found_by_another_name_of_its_base_and_in_a_branch(cell):
    cell = f"import typing, lightning.pytorch as LP\nT = typing.TypeVar('T')\n{cell}"
    definition = model(cell, name=None)
    assert (definition.name, definition.form) == ("M", "class")


def test_a_last_line_that_prints_is_no_network():
    cell = "hidden: int\ndef training_step(self, batch, batch_idx):\n    return hidden\nprint(hidden)"
    assert "self.net" not in model(cell).source


INPUTS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
LABELS = torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize(
    ("inputs", "labels", "told"),
    [
        (INPUTS, LABELS, ""),
        (INPUTS.double(), LABELS, "float64 inputs are converted to float32"),
        (INPUTS.half(), LABELS, "float16 inputs are converted to float32"),
        (INPUTS.bfloat16(), LABELS, "bfloat16 inputs are converted to float32"),
        (INPUTS.byte(), LABELS, "uint8 inputs are converted to float32 without scaling (0 to 255)"),
        (INPUTS, LABELS.int(), "int32 labels are converted to class indices"),
        (INPUTS, LABELS.float(), "float32 labels are converted to class indices"),
        (INPUTS, LABELS.double(), "float64 labels are converted to class indices"),
        (INPUTS, LABELS.reshape(4, 1), "labels of shape (4, 1) are reshaped to (4,), one class per sample"),
        (INPUTS, LABELS.float().reshape(4, 1), "labels of shape (4, 1) are reshaped to (4,), one class per sample"),
        (INPUTS, nn.functional.one_hot(LABELS), "labels of shape (4, 3) are converted to class probabilities"),
        (INPUTS, nn.functional.one_hot(LABELS).double(), "float64 labels are converted to float32"),
        (INPUTS, nn.functional.one_hot(LABELS).half(), "float16 labels are converted to float32"),
        (INPUTS, nn.functional.one_hot(LABELS).float(), ""),
    ],
)
def test_batches_are_brought_to_the_type_and_the_shape_that_the_network_takes(inputs, labels, told):
    instance = model("nn.Linear(2, 3)", loss="cross_entropy", metrics=("accuracy",)).new()
    expected = torch.nn.functional.cross_entropy(instance(INPUTS), LABELS)
    found = validated(instance, inputs, labels)
    assert found["val_loss"] == pytest.approx(float(expected.detach()))
    assert found["val_accuracy"] == pytest.approx(float((instance(INPUTS).argmax(1) == LABELS).float().mean()))
    trainer().fit(instance, loader(inputs, labels))
    predicted = torch.cat(trainer().predict(instance, loader(inputs, labels)))
    assert torch.allclose(predicted, instance(INPUTS))
    assert input_conversions(instance, (inputs, labels)) == told


def test_labels_with_fractions_are_no_classes():
    instance = model("nn.Linear(2, 3)", loss="cross_entropy").new()
    with pytest.raises(ValueError, match="the labels are not integers, but the loss expects class indices"):
        trainer().fit(instance, loader(INPUTS, LABELS + 0.5))


@pytest.mark.parametrize("loss", ["mse_loss", "huber_loss", "l1_loss", "smooth_l1_loss", "BCEWithLogitsLoss"])
def test_targets_of_floats_are_taken_as_the_network_computes(loss):
    instance = model("nn.Linear(2, 1)", loss=loss).new()
    target = torch.tensor([0.0, 1.0, 1.0, 0.0])
    expected = validated(instance, INPUTS, target)["val_loss"]
    assert validated(instance, INPUTS, target.double())["val_loss"] == expected
    trainer().fit(instance, loader(INPUTS.double(), target.double()))
    assert input_conversions(instance, (INPUTS, target.double())) == "float64 targets are converted to float32"
    for dtype, name in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
        assert (
            validated(instance, INPUTS.to(dtype), target.to(dtype))["val_loss"]
            == validated(instance, INPUTS, target)["val_loss"]
        )
        trainer().fit(instance, loader(INPUTS.to(dtype), target.to(dtype)))
        assert input_conversions(instance, (INPUTS, target.to(dtype))) == f"{name} targets are converted to float32"
    double = model("nn.Linear(2, 1).double()", loss=loss).new()
    trainer().fit(double, loader(INPUTS.double(), target.double()))
    assert not input_conversions(double, (INPUTS.double(), target.double()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float32_data_is_brought_to_a_network_of_another_type(dtype):
    instance = model("nn.Linear(2, 3)", loss="cross_entropy", metrics=("accuracy",)).new().to(dtype)
    trainer().fit(instance, loader(INPUTS, LABELS))
    predicted = torch.cat(trainer().predict(instance, loader(INPUTS, LABELS)))
    assert torch.allclose(predicted, instance(INPUTS.to(dtype)))


def test_an_input_of_a_type_that_one_of_the_parameters_has_keeps_it():
    cell = "net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2).half())\nnet"
    instance = model(cell, loss="cross_entropy").new()
    assert instance._input(INPUTS.half()).dtype == torch.float16
    assert instance._input(INPUTS.double()).dtype == torch.float32


def test_a_network_in_float64_keeps_its_inputs():
    instance = model("nn.Linear(2, 3).double()", loss="cross_entropy").new()
    assert instance._input(INPUTS.double()).dtype == torch.float64
    trainer().fit(instance, loader(INPUTS.double(), LABELS))
