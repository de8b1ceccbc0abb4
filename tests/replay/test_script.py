import json

import pytest

from lightning_magics.errors import InputError
from lightning_magics.options import parser as options
from lightning_magics.replay.closure import SourceModule
from lightning_magics.replay.recipe import Recipe
from lightning_magics.replay.script import Script, parse_module

SOURCE = "import pytorch_lightning as pl\n\n\nclass Net(pl.LightningModule): ...\n"


def main(source=SOURCE, about="About.", kept=None, **asked):
    """The `main` of a script."""
    recipe = Recipe(**{"model": "Net", "arguments": {}, **asked})
    text = Script("Net", recipe, parse_module(source, {}), **(kept or {})).python(about)
    compile(text, "script.py", "exec")
    return text.partition("def main():\n")[2].partition("\n\n\nif __name__")[0]


def test_a_script_of_a_model_that_brings_its_data():
    assert main() == (
        "    model = Net()\n"
        "    trainer = pl.Trainer(\n"
        '        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),\n'
        '        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),\n'
        "    )\n"
        "    trainer.fit(model)\n"
        "    if trainer.is_global_zero:\n"
        "        for metric, value in trainer.callback_metrics.items():\n"
        '            print(f"{metric}={float(value)}")'
    )


def test_options_are_lightnings_own():
    options = {"seed": 0, "early_stop": ["val_loss:0", "val_acc"], "monitor": "val_acc", "resume": "a.ckpt"}
    kept = {"checkpoint_metric": "val_acc"}
    text = main(options=options, kept=kept, trainer={"callbacks": "[mine]", "max_epochs": "3", "devices": "2"})
    assert text.startswith("    pl.seed_everything(0, workers=True)\n")
    assert '            mine,\n            pl.callbacks.EarlyStopping("val_loss", patience=0, mode="min"),\n' in text
    assert 'pl.callbacks.EarlyStopping("val_acc", patience=3, mode="max")' in text
    assert 'pl.callbacks.ModelCheckpoint(monitor="val_acc", mode="max")' in text
    assert 'devices=int(os.environ.get("LOCAL_WORLD_SIZE", 2))' in text
    assert 'trainer.fit(model, ckpt_path="a.ckpt")' in text
    text = main(kept={"checkpoint_metric": "val_x", "directions": {"val_x": "max"}})
    assert 'pl.callbacks.ModelCheckpoint(monitor="val_x", mode="max")' in text
    assert "ModelCheckpoint(m" not in main(options={"early_stop": ["val_x"]}, trainer={"enable_checkpointing": "False"})
    assert "*callbacks" in main(kept=kept, trainer={"callbacks": "callbacks"})


@pytest.mark.parametrize(
    ("loggers", "code"),
    [
        ([], "logger=False"),
        (["csv"], 'logger=pl.loggers.CSVLogger(".")'),
        (["tensorboard", "mine()"], 'logger=[pl.loggers.TensorBoardLogger("."), mine()]'),
        (["mlflow"], 'pl.loggers.MLFlowLogger(experiment_name="Net", tracking_uri="sqlite:///mlflow.db")'),
        (["wandb"], 'logger=pl.loggers.WandbLogger(project="Net", offline=True)'),
    ],
)
def test_loggers(loggers, code):
    assert code in main(options={"logger": loggers})


def test_every_logger_that_has_a_name_is_made():
    for name in options.LOGGERS:
        assert "logger=pl.loggers." in main(options={"logger": [name]})


def test_devices_that_are_no_number_stay_as_they_are():
    assert 'devices="auto"' in main(trainer={"devices": "'auto'"})
    assert "num_nodes" not in main(trainer={"devices": "[0]"})


def test_datasets_are_loaded_as_a_fit_loads_them():
    text = main(data=["train", "(x, y)"], forms=["dataset", "tensors"], data_arguments={"num_workers": "2"})
    assert text.count("persistent_workers=True") == 2
    assert text.count("shuffle=True") == 1
    assert "torch.utils.data.TensorDataset(*(x, y))" in text
    assert "trainer.fit(model, train_dataloaders=train_loader, val_dataloaders=val_loader)" in text
    assert "trainer.fit(model, datamodule=digits)" in main(data=["digits"], forms=["datamodule"])


def test_names_of_main_hide_none_of_the_notebook():
    text = main(source=f"{SOURCE}model = 1\ntrainer = 2\nos = 3\n", data=["loader(trainer)"], forms=["loaders"])
    assert "    model_ = Net()\n" in text
    assert "    trainer_ = pl.Trainer(" in text
    assert 'os_.environ.get("LOCAL_WORLD_SIZE", 1)' in text
    assert main(model="net", arguments=None).startswith("    trainer = ")


def test_the_names_that_the_metrics_are_printed_with_hide_none_of_the_notebook():
    text = main(source=f"{SOURCE}metric = 1\nvalue = 2\nvalue_ = 3\n", arguments={"rate": "value", "size": "metric"})
    assert "for metric_, value__ in trainer.callback_metrics.items():" in text
    assert 'print(f"{metric_}={float(value__)}")' in text
    assert "model = Net(rate=value, size=metric)" in text


def test_a_function_main_of_the_notebook_stays():
    text = Script("Net", Recipe(model="main()"), parse_module(f"{SOURCE}def main(): return Net()\n", {})).python(
        "About."
    )
    assert "def main_():\n    model = main()\n" in text
    assert text.endswith('if __name__ == "__main__":\n    main_()\n')


def test_both_packages_become_the_models():
    source = f"import lightning.pytorch as _pl\n{SOURCE}class Data(_pl.LightningDataModule): ...\n"
    text = Script("Net", Recipe(model="Net", arguments={}), parse_module(source, {})).python("About.")
    assert "import pytorch_lightning as _pl\nimport pytorch_lightning as pl\n" in text


def test_what_is_missing_is_named_with_what_to_do():
    recipe = Recipe(model="Net", arguments={}, data=["x"], forms=["arrays"], missing={"files": "make it in Python"})
    with pytest.raises(InputError) as refused:
        Script("Net", recipe, SourceModule()).check("Net/version_0")
    assert str(refused.value) == "Net/version_0 cannot be exported. Its source lacks files: make it in Python"
    with pytest.raises(InputError, match="Its source lacks the model"):
        Script("Net", Recipe(), SourceModule()).check("Net/version_0")


@pytest.mark.parametrize(
    ("data", "form", "advice"),
    [
        (["x"], "arrays", "%lightning_data x, then %lightning_fit Net x"),
        (["x"], "table", "%lightning_data x --label COLUMN, then %lightning_fit Net x"),
        (["(a, b)"], "arrays", "data = (a, b) in a cell, then %lightning_data data, then %lightning_fit Net data"),
        (
            ["(a, b)", "(c, d)"],
            "arrays",
            "data = {'train': (a, b), 'val': (c, d)} in a cell, "
            "then %lightning_data data, then %lightning_fit Net data",
        ),
    ],
)
def test_data_without_a_definition_is_refused_with_what_defines_it(data, form, advice):
    recipe = Recipe(model="Net", arguments={}, data=data, forms=[form] * len(data))
    with pytest.raises(InputError) as refused:
        Script("Net", recipe, SourceModule()).check("Net/version_0")
    assert str(refused.value) == (
        f"Net/version_0 cannot be exported: its data {', '.join(data)} was not defined with %lightning_data. "
        f"Run {advice}, and export that run"
    )


def test_a_notebook_has_the_same_in_cells():
    source = f"{SOURCE}\n\ndef f(): ...\n\n\na = 1\nb = 2\n"
    script = Script("Net", Recipe(model="Net", arguments={}), parse_module(source, {}), notes=("A note.",))
    cells = json.loads(script.notebook("About."))["cells"]
    assert [cell["source"].splitlines()[0] for cell in cells] == [
        "# Net",
        "import pytorch_lightning as pl",
        "class Net(pl.LightningModule): ...",
        "def f(): ...",
        "a = 1",
        "model = Net()",
    ]
    assert cells[0]["source"] == "# Net\n\nAbout.\n\nA note."
    assert cells[4]["source"] == "a = 1\nb = 2"
    assert "pl.Trainer(devices=1)" in cells[5]["source"]
