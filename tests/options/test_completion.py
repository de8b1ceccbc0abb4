import sys
import types

import pytest
from IPython.core.completer import provisionalcompleter

from lightning_magics.options import completion
from lightning_magics.options.completion import complete

MODELS, DATA, NAMES = ["Digits", "Deep"], ["digits"], ["loader"]


def candidates(verb, line, **params):
    word = "" if line.endswith(" ") else line.split(" ")[-1]
    return complete(verb, line, word, MODELS, DATA, NAMES, **params)


@pytest.mark.parametrize(
    ("verb", "line", "expected"),
    [
        ("fit", "D", ["Digits", "Deep"]),
        ("fit", "", ["Digits", "Deep", "digits", "loader"]),
        ("fit", "Digits ", ["digits", "loader", "Digits", "Deep"]),
        ("fit", "--amp Di", ["Digits"]),
        ("fit", "--early_stop val_loss Dig", ["Digits"]),
        ("fit", "--seed ", []),
        ("fit", "Digits --max_ep", ["--max_epochs"]),
        ("fit", "Digits --max-ep", ["--max-epochs"]),
        ("fit", "Digits --see", ["--seed"]),
        ("fit", "Digits --seed 3 --see", []),
        ("fit", "Digits --early_stop a --early", ["--early_stop"]),
        ("fit", "--precision bf16", ["bf16-true", "bf16-mixed", "bf16"]),
        ("fit", "--precision=bf16-m", ["--precision=bf16-mixed"]),
        ("fit", "--accelerator ", ["auto", "cpu", "gpu", "cuda", "mps", "tpu", "loader"]),
        ("fit", "--strategy d", ["ddp", "ddp_find_unused_parameters_true", "deepspeed"]),
        ("fit", "--benchmark T", ["True"]),
        ("fit", "--benchmark True D", ["Digits", "Deep"]),
        ("fit", "--logger ", ["tensorboard", "csv", "mlflow", "wandb", "false", "loader"]),
        ("fit", "--logger csv te", ["tensorboard"]),
        ("fit", "--logger csv di", ["digits"]),
        ("fit", "--resume l", ["last", "loader"]),
        ("fit", "--mod", ["--model_registry", "--model."]),
        ("fit", "--callbacks [Earl", []),
        ("fit", "--callbacks [a, Earl", []),
        ("fit", "--slu", ["--slurm."]),
        ("fit", "--slurm.part", ["--slurm.partition"]),
        ("fit", "--slurm.signal-d", ["--slurm.signal-delay-s"]),
        ("fit", "--slurm.setup ls --slurm.time 3 --slurm.set", ["--slurm.setup"]),
        ("fit", "--slurm.setup ls --slurm.time 3 --slurm.ti", []),
        ("fit", "--slurm.inside D", ["Digits", "Deep"]),
        ("fit", "--slurm.account ", []),
        ("fit", "--cluster ", ["slurm"]),
        ("predict", "Digits -o", []),
        ("predict", "Digits --o", ["--output", "--overfit_batches"]),
        ("model", "Net --task ", ["binary", "multiclass", "multilabel"]),
        ("model", "Net --metrics accuracy f1", ["f1_score"]),
        ("model", "Net --max", []),
        ("data", "dig", ["digits"]),
        ("source", "", ["Digits", "Deep", "digits"]),
        ("source", "--h", ["--help"]),
        ("load", "--checkpoint ", ["best", "last"]),
        ("load", "Digits/version_0 --ch", ["--checkpoint"]),
        ("rerun", "Digits/version_0 --max_ep", ["--max_epochs"]),
        ("rerun", "Digits/version_0 D", []),
        ("export", "Digits ", ["digits", "loader"]),
        ("export", "Digits digits t", []),
        ("export", "Digits t.py --over", ["--overwrite"]),
    ],
)
def test_candidates(verb, line, expected):
    assert candidates(verb, line) == expected


def test_where_nothing_positional_can_follow_options_are_offered():
    assert "--val_split" in candidates("data", "digits ")


def test_constructor_arguments_are_offered_under_their_prefix():
    params = {"model_params": ["hidden", "dropout"], "data_params": ["folder"]}
    assert candidates("fit", "Digits --model.", **params) == ["--model.hidden", "--model.dropout"]
    assert candidates("fit", "Digits --model.hidden 3 --model.", **params) == ["--model.dropout"]
    assert candidates("fit", "Digits --data.f", **params) == ["--data.folder"]


def test_names_of_torch_are_offered_once_it_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.optim", raising=False)
    assert candidates("model", "Net --optimizer L") == []
    import torch

    monkeypatch.setitem(sys.modules, "torch.optim", torch.optim)
    assert candidates("model", "Net --optimizer LB") == ["LBFGS"]
    assert "StepLR" in candidates("model", "Net --scheduler S")
    assert "smooth_l1_loss" in candidates("model", "Net --loss s")


class Session:
    def __init__(self):
        self.models = {"Digits": types.SimpleNamespace(cls=Digits)}
        self.datas = {"digits": types.SimpleNamespace(cls=Digits)}

    def run_names(self) -> list[str]:
        return ["Digits/version_1", "Digits/version_0"]

    def metric_names(self) -> list[str]:
        return ["val_loss", "val_accuracy"]


class Digits:
    def __init__(self, hidden=1, dropout=0.1, **more):
        pass


@pytest.fixture
def completing(shell):
    completion.install(shell, Session)
    yield shell
    completion.uninstall(shell)


def offered(shell, text):
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return [text[: item.start] + item.text for item in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run = %lightning_fit Dig", ["run = %lightning_fit Digits"]),
        ("x = 1\n%lightning_fit Digits dig", ["x = 1\n%lightning_fit Digits digits"]),
        ("    %lightning_fit Digits --max_ep", ["    %lightning_fit Digits --max_epochs"]),
        ("%lightning_fit Digits --max-ep", ["%lightning_fit Digits --max-epochs"]),
        ("%lightning_fit Digits --model.dr", ["%lightning_fit Digits --model.dropout"]),
        ("%lightning_fit Digits --precision=16-m", ["%lightning_fit Digits --precision=16-mixed"]),
        ("%lightning_fit Digits --precision 16-m", ["%lightning_fit Digits --precision 16-mixed"]),
        ("%%lightning_model Net --lo", ["%%lightning_model Net --loss"]),
        ("\n%%lightning_model Net --lo", ["\n%%lightning_model Net --loss"]),
        ("%lightning_fit mine", ["%lightning_fit mine_of_user"]),
        ("%lightning_fit Digits --ddp=F", ["%lightning_fit Digits --ddp=False"]),
        ("%lightning_attach Dig", ["%lightning_attach Digits/version_1", "%lightning_attach Digits/version_0"]),
        ("%lightning_stop Digits/version_0 --n", ["%lightning_stop Digits/version_0 --now"]),
        (
            "%lightning_runs --compare Digits/version_0 Dig",
            [f"%lightning_runs --compare Digits/version_0 Digits/version_{n}" for n in (1, 0)],
        ),
        ("%lightning_runs --delete Digits/version_1", ["%lightning_runs --delete Digits/version_1"]),
        ("%lightning_runs --sort val_a", ["%lightning_runs --sort val_accuracy"]),
        ("%lightning_runs --plot val_l", ["%lightning_runs --plot val_loss"]),
        ("%lightning_runs --model Di", ["%lightning_runs --model Digits"]),
        ("%lightning_runs --ke", ["%lightning_runs --keep"]),
        ("%lightning_fit Digits --resume Dig", [f"%lightning_fit Digits --resume Digits/version_{n}" for n in (1, 0)]),
    ],
)
def test_a_shell_completes_lines_of_these_magics(completing, text, expected):
    completing.user_ns["mine_of_user"] = 3
    assert offered(completing, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "import jso",
        "impor",
        "mine_of_us",
        "'%lightning_fit'.upp",
        "%lightning_fi",
        "%timeit mine_of",
        "%%lightning_model Net\nmine_of",
        "%%timeit\n%lightning_fit Digits\nmine_of",
        "x = 1\n%%lightning_model Net --lo",
    ],
)
def test_completion_elsewhere_is_as_it_was(completing, text):
    completing.user_ns["mine_of_user"] = 3
    with_ours = offered(completing, text)
    completion.uninstall(completing)
    assert with_ours == offered(completing, text)


def test_uninstall_leaves_no_matcher_and_install_adds_one(shell):
    before = list(shell.Completer.custom_matchers)
    completion.uninstall(shell)
    without = len(shell.Completer.custom_matchers)
    completion.install(shell, Session)
    completion.install(shell, Session)
    assert len(shell.Completer.custom_matchers) == without + 1
    completion.uninstall(shell)
    assert len(shell.Completer.custom_matchers) == without
    assert len(before) - without in (0, 1)


@pytest.mark.parametrize(("verb", "more"), [("load", []), ("rerun", []), ("export", ["Digits", "Deep"])])
def test_runs_are_offered_where_one_is_meant(verb, more):
    runs = ["Digits/version_1", "Digits/version_0"]
    assert candidates(verb, "D", runs=lambda: runs) == [*more, *runs]
