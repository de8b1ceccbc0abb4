import dataclasses
import inspect
import re
import subprocess
import sys

import lightning
import numpy as np
import pytest
import pytorch_lightning
from pytorch_lightning.loggers import CSVLogger

from lightning_magics.errors import InputError, MissingPackage
from lightning_magics.options import parser
from lightning_magics.options.declared import DECLARED
from lightning_magics.options.help import full_help, help_text
from lightning_magics.options.parser import Expression, ParsedLine, check_names, make, parse
from lightning_magics.options.trainer_arguments import trainer_options


def test_importing_and_parsing_imports_nothing_heavy():
    code = (
        "import sys; from lightning_magics.options import completion, help as shown, parser as options;"
        "options.parse('fit', 'Net --max_epochs 3 --precision 16-mixed'); shown.full_help('fit', True);"
        "completion.complete('fit', '--precision ', '', [], [], []);"
        "print([name for name in ('torch', 'lightning', 'pytorch_lightning', 'lightning_fabric', 'jsonargparse',"
        " 'IPython') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("line", ["--max_epochs 3", "--max-epochs 3", "--max_epochs=3", "--max-epochs=3"])
def test_dashes_and_the_equals_sign_are_the_same(line):
    assert parse("fit", line).trainer == {"max_epochs": "3"}


def test_a_line_is_sorted_into_its_parts():
    found = parse(
        "fit",
        "Digits digits --model.hidden 256 --model.act relu --data.batch-size 32 --seed 1"
        " --callbacks [a, b] --resume last",
    )
    assert found == ParsedLine(
        positional=["Digits", "digits"],
        options={"seed": 1, "resume": "last"},
        trainer={"callbacks": "[a, b]"},
        model={"hidden": 256, "act": Expression("relu")},
        data={"batch_size": 32},
    )


def test_parameters_of_slurm_are_text_unless_they_are_literals_and_setup_lines_add_up():
    found = parse(
        "fit",
        "--slurm.inside Net data --slurm.time 120 --slurm.partition gpu --slurm.setup 'module load cuda'"
        " --slurm.setup=ls --slurm.additional-parameters {'reservation':'x'} --slurm.exclusive=user --slurm.qos 1-2",
    )
    assert found.positional == ["Net", "data"]
    assert found.engines["slurm"] == {
        "inside": True,
        "time": 120,
        "partition": "gpu",
        "setup": ["module load cuda", "ls"],
        "additional_parameters": {"reservation": "x"},
        "exclusive": "user",
        "qos": "1-2",
    }
    assert parse("fit", "--slurm.setup ['a','b']").engines["slurm"] == {"setup": ["a", "b"]}
    assert parse("fit", "--slurm.inside false Net").engines["slurm"] == {"inside": False}


def test_flags_leave_what_follows_positional():
    found = parse("fit", "--fast_dev_run Net --amp data --deterministic other")
    assert found.positional == ["Net", "data", "other"]
    assert found.trainer == {"fast_dev_run": True, "deterministic": True}
    assert found.options == {"amp": True}


def test_flags_take_what_reads_as_their_value():
    found = parse("fit", "--fast_dev_run 3 --deterministic warn --benchmark False --amp false Net")
    assert found.positional == ["Net"]
    assert found.trainer == {"fast_dev_run": "3", "deterministic": "warn", "benchmark": "False"}
    assert found.options == {"amp": False}


def test_a_flag_takes_a_number_only_where_its_type_does():
    assert parse("fit", "Net --benchmark 3").positional == ["Net", "3"]


def test_negative_numbers_are_values():
    found = parse("fit", "Net --max_steps -1 --model.shift -0.5")
    assert (found.trainer, found.model) == ({"max_steps": "-1"}, {"shift": -0.5})


def test_several_values_go_on_to_the_next_option():
    found = parse("model", "Net --metrics accuracy F1Score(average='macro') --loss cross_entropy --lr 1e-3")
    assert found.positional == ["Net"]
    assert found.options == {
        "metrics": ("accuracy", "F1Score(average='macro')"),
        "loss": "cross_entropy",
        "lr": 1e-3,
    }


def test_early_stop_takes_one_value_and_can_be_repeated():
    found = parse("fit", "--early_stop val_loss:3 Net data --early-stop val_accuracy")
    assert found.options == {"early_stop": ("val_loss:3", "val_accuracy")}
    assert found.positional == ["Net", "data"]


def test_logger_goes_on_only_with_names_of_loggers():
    found = parse("fit", "--logger csv tensorboard Net data --logger mine")
    assert found.options == {"logger": ("csv", "tensorboard", Expression("mine"))}
    assert found.positional == ["Net", "data"]


@pytest.mark.parametrize(("typed", "value"), [("false", ()), ("False", ()), ("none", ()), ("true", None)])
def test_logger_can_be_switched_off_and_on(typed, value):
    assert parse("fit", f"Net --logger {typed}").options == {"logger": value}


def test_a_short_flag_is_the_long_one():
    assert parse("predict", "m data -o preds") == parse("predict", "m data --output preds")


def test_an_option_that_holds_by_default_shows_that_it_takes_a_value():
    assert "--weights_only true|false  " in full_help("fit")
    assert "--shuffle true|false  " in help_text("data")
    assert "--quiet  " in full_help("fit")


@pytest.mark.parametrize("line", ["--help", "Net -h", "--nonsense --help"])
def test_help_is_answered_before_anything_is_refused(line):
    assert parse("fit", line) == ParsedLine(options={"help": True})
    assert parse("fit", f"{line} --help-all") == ParsedLine(options={"help_all": True})


@pytest.mark.parametrize(
    ("verb", "line", "message"),
    [
        ("fit", "--max_epoch 3", r"--max_epoch is not an option of %lightning_fit\. Did you mean '--max_epochs'\?"),
        ("fit", "--sede 3", r"--sede is not an option of %lightning_fit\. Did you mean '--seed'\?"),
        (
            "fit",
            "--qqq",
            r"--qqq is not an option of %lightning_fit\. To set a hyperparameter, type --model\.qqq VALUE or "
            r"--data\.qqq VALUE\. For all options, type %lightning_fit --help\.$",
        ),
        ("fit", "--partition gpu", r"--partition is not .*\. It is a parameter of slurm: --slurm\.partition VALUE"),
        ("fit", "--slurm partition=gpu", r"--slurm is not .*\. It is a prefix: --slurm\.NAME VALUE"),
        ("fit", "--cluster --nodes 2", r"--cluster needs a value\. Type: --cluster slurm"),
        ("fit", "-x", r"-x is not an option of %lightning_fit\."),
        (
            "fit",
            "--lr 3",
            r"--lr is not an option of %lightning_fit\. It is a hyperparameter .*: --model\.lr VALUE",
        ),
        (
            "model",
            "Net --max-epochs 3",
            r"--max-epochs is not an option of %lightning_model\. It belongs to %lightning_fit\.",
        ),
        (
            "model",
            "Net --model.x 3",
            r"--model.x is not an option of %lightning_model\. It belongs to %lightning_fit\.",
        ),
        ("fit", "--max_epochs", r"--max_epochs needs a value\. Type: --max_epochs VALUE"),
        ("fit", "--seed --amp", r"--seed needs a value\. Type: --seed N"),
        ("fit", "--model.hidden", r"--model.hidden needs a value\. Type: --model.hidden VALUE"),
        ("fit", "--slurm.time", r"--slurm.time needs a value\. Type: --slurm.time VALUE"),
        ("fit", "--slurm.time 1 --slurm.time 2", r"--slurm.time is given twice\. Type it once\."),
        ("fit", "--cluster slrum", r"--cluster 'slrum' is not one of: slurm\. Did you mean 'slurm'\?"),
        ("fit", "--nodes 0", r"--nodes takes a whole number of at least 1; found 0\."),
        (
            "runs",
            "--slurm.time 1",
            r"--slurm.time is not an option of %lightning_runs\. It belongs to %lightning_fit\.",
        ),
        ("fit", "--seed x", r"--seed takes a whole number; found 'x'\. For a variable's value type \{x\}\."),
        ("fit", "--seed 1.5", r"--seed takes a whole number; found '1.5'\."),
        ("fit", "--seed -1", r"--seed takes a whole number of at least 0; found -1\."),
        ("fit", "--seed 4294967296", r"--seed takes a whole number of at most 4294967295; found 4294967296\."),
        ("predict", "a -o import", r"-o takes the name of a variable; found 'import'"),
        ("predict", "a --output 1x", r"-o takes the name of a variable; found '1x'"),
        ("fit", "--amp=maybe", r"--amp takes true or false; found 'maybe'\."),
        ("fit", "--seed 1 --seed 2", r"--seed is given twice\. Type it once\."),
        ("fit", "--max-epochs 1 --max_epochs 2", r"--max_epochs is given twice\. Type it once\."),
        ("fit", "--model.a-b 1 --model.a_b 2", r"--model.a_b is given twice\. Type it once\."),
        ("fit", "--early_stop val_loss:x", r"--early_stop takes METRIC\[:PATIENCE\]\[:min\|max\], such as val_loss:3"),
        ("fit", "--logger csv false", r"--logger false cannot be combined with another logger\. Remove one of them$"),
        ("model", "a b", r"%lightning_model takes one name; found 'a b'\. Put values with spaces in quotes\."),
        ("model", "--lr high", r"--lr takes a number; found 'high'\."),
        ("model", "--task multi", r"--task 'multi' is not one of: binary, multiclass, multilabel\. Did you mean"),
        ("data", "--batch_size 0", r"--batch_size takes a whole number of at least 1; found 0\."),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(verb, line, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        parse(verb, line)
    assert "\n" not in str(caught.value)


def test_every_trainer_argument_is_known_with_its_default():
    signature = inspect.signature(pytorch_lightning.Trainer.__init__).parameters
    found = trainer_options()
    assert list(found) == [name for name in signature if name != "self"]
    assert {name: item.default for name, item in found.items()} == {
        name: repr(item.default) for name, item in signature.items() if name != "self"
    }


def test_the_other_lightning_package_has_the_same_arguments():
    assert trainer_options(("lightning",)).keys() == trainer_options().keys()


def test_choices_and_types_are_read_through_imports():
    found = trainer_options()
    assert {"16-mixed", "bf16", "64"} <= set(found["precision"].choices)
    assert found["deterministic"].annotation == "bool | warn | None"
    assert found["default_root_dir"].annotation == "str | Path | None"
    assert found["max_epochs"].help == "Stop training once this number of epochs is reached"


def test_a_missing_lightning_is_named_with_its_installation():
    with pytest.raises(MissingPackage, match=r"Type: %pip install pytorch-lightning"):
        trainer_options(("no_such_lightning",))


def test_defaults_of_the_declarations():
    data, fit = make("data", {}), make("fit", {})
    assert (data.batch_size, data.num_workers, data.shuffle, data.split_seed) == (32, 0, True, 0)
    assert (fit.early_stop, fit.logger, fit.weights_only, fit.seed) == ((), None, True, None)


def test_options_made_of_python_objects_are_checked_likewise():
    loss = np.mean
    assert make("model", {"loss": loss, "metrics": "accuracy", "lr": np.float32(0.5)}) == parser.ModelOptions(
        loss=loss, metrics=("accuracy",), lr=np.float32(0.5)
    )
    assert make("fit", {"seed": 3, "early_stop": ["a:1", "b"], "logger": False}) == parser.FitOptions(
        seed=3, early_stop=("a:1", "b"), logger=()
    )
    assert make("fit", {"seed": None}) == parser.FitOptions()
    with pytest.raises(InputError, match=r"^--seed takes a whole number; found True\."):
        make("fit", {"seed": True})
    with pytest.raises(InputError, match=r"^'sed' is not an argument of fit\(\)\. Did you mean 'seed'\?"):
        make("fit", {"sed": 3})


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("fit", {}).seed = 3


def test_keyword_names_of_python_are_checked():
    check_names("fit", ["max_epochs", "seed", "callbacks"])
    with pytest.raises(InputError, match=r"^'max_epoch' is not an argument of fit\(\)\. Did you mean 'max_epochs'\?"):
        check_names("fit", ["max_epoch"])


def test_a_variable_for_the_predictions_is_named_to_the_magic_alone():
    assert parse("predict", "a -o preds").options == {"output": "preds"}
    with pytest.raises(InputError, match=r"^'output' is not an argument of predict\(\)\."):
        check_names("predict", ["output"])


def test_loggers_resolve_to_names_and_objects(tmp_path):
    mine, other = CSVLogger(tmp_path), lightning.pytorch.loggers.CSVLogger(tmp_path)
    found = parser.resolve_loggers(
        ("csv", Expression("mine"), Expression("[mine, other]"), other), {"mine": mine, "other": other}
    )
    assert found == ["csv", mine, mine, other, other]


@pytest.mark.parametrize(("given", "found"), [(Expression("3"), "3"), (object, "<class 'object'>"), (["scv"], "'scv'")])
def test_an_object_that_is_no_logger_is_refused(given, found):
    message = rf"^--logger takes tensorboard, csv, mlflow, wandb, false or a Lightning Logger; found {found}\."
    with pytest.raises(InputError, match=message):
        parser.resolve_loggers((given,), {})


def test_an_unknown_logger_is_named():
    with pytest.raises(
        InputError, match=r"--logger 'tensorbord' is not one of: tensorboard, csv, mlflow, wandb, false\. Did you"
    ):
        parser.resolve_loggers((Expression("tensorbord"),), {})


def test_metric_and_mode():
    assert parser.metric_and_mode("val_x:min") == ("val_x", "min")
    assert parser.metric_and_mode("val_x:3:max") == ("val_x:3", "max")
    assert parser.metric_and_mode("val:loss") == ("val:loss", None)
    for text in ("", ":min", "val_x:", "val_x:maximum"):
        with pytest.raises(InputError, match=r"is not a valid metric\. Type METRIC\[:min\|max\], such as val_loss:min"):
            parser.metric_and_mode(text)


def test_metric_and_patience():
    assert parser.metric_and_patience("val_loss:3") == ("val_loss", 3)
    assert parser.metric_and_patience("val/loss") == ("val/loss", None)


def test_the_table_of_options_is_aligned():
    lines = help_text("data").splitlines()
    assert lines[0] == "  --batch_size N              samples in a batch (default 32)"
    assert len({len(line) - len(line[21:]) for line in lines}) == 1
    assert "-o, --output NAME" in help_text("predict")


def test_full_help_has_every_option_and_argument():
    text = full_help("fit", everything=True)
    assert text.startswith("%lightning_fit MODEL [DATA …] [options]")
    for name in parser.own_options("fit"):
        assert f"--{name}" in text
    assert "  --max_epochs  int | None = None\n      Stop training once" in text
    assert text.count("--logger") == 1, "the magic's own option stands for the Trainer's"
    assert full_help("source") == full_help("source", everything=True) == "%lightning_source NAME"


@pytest.mark.parametrize("verb", list(DECLARED))
def test_help_fits_a_screen_and_names_every_option(verb):
    text = full_help(verb)
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 120
    for name in {*parser.own_options(verb), *(trainer_options() if verb in parser.RUNNING else ())}:
        assert re.search(rf"--{name}\b", text)


@pytest.mark.parametrize("typed", ["accuracy f1", "accuracy,f1", "'accuracy f1'", "'accuracy, f1'"])
def test_several_metrics_can_be_typed_with_spaces_or_commas(typed):
    given = parse("model", f"Net --metrics {typed}").options
    assert make("model", given).metrics == ("accuracy", "f1")


def test_a_metric_with_arguments_is_one_expression():
    given = parse("model", "Net --metrics Accuracy(num_classes=3,top_k=2)").options
    assert make("model", given).metrics == ("Accuracy(num_classes=3,top_k=2)",)


def test_zero_is_an_option_that_was_given(shell):
    from lightning_magics.commands.call import Call

    assert Call.of("fit", {"seed": 0}).own_options["seed"] == 0
    assert "seed" not in Call.of("fit", {}).own_options
