import dataclasses
import enum

import pytest
import pytorch_lightning as pl
import torch

from lightning_magics.commands import export
from lightning_magics.commands.load import restore
from lightning_magics.commands.session import DefaultSettings, Session
from lightning_magics.errors import RunError
from lightning_magics.replay.recipe import Recipe
from lightning_magics.replay.recorded import RecordedRun
from lightning_magics.runs import folder as runs
from lightning_magics.runs import provenance
from lightning_magics.runs.randomness import RandomState, preserve_random_state
from lightning_magics.runs.record import RunRecord

SOURCE = """
import pytorch_lightning as pl
import torch

torch.set_default_dtype(torch.float64)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)


net = Net()
"""


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def recorded(root, steps=8, seed=1, **recipe):
    """A run of eight steps, of which the checkpoint of the fourth was kept."""
    folder = runs.create(root, "Net")
    made = Recipe(**{"model": "Net", "arguments": {}, **recipe})
    folder.write(
        RunRecord("Net/version_0", "fit", "Net", "completed", 1.0, steps=steps, seed=seed, recipe=vars(made).copy())
    )
    folder.source_path.write_text(SOURCE)
    state = {"net.weight": torch.ones(1, 1).double(), "net.bias": torch.ones(1).double()}
    torch.save({"state_dict": state, "global_step": 4}, folder.checkpoints_path / "best.ckpt")
    return folder


def test_a_setting_of_torch_that_the_source_makes_is_told(tmp_path, default_dtype, capsys):
    recorded_run = RecordedRun.of(recorded(tmp_path), {})
    recorded_run.model()
    recorded_run.model()
    assert capsys.readouterr().out == (
        "the run's source changed torch's default dtype: torch.float32 → torch.float64; the change remains in effect\n"
    )


def test_weights_that_are_not_the_last_ones_say_so(tmp_path, default_dtype, capsys):
    folder = recorded(tmp_path)
    told = "weights are from step 4 of 8: the run has no later checkpoint\n"
    restore(Session({}), RecordedRun.of(folder, {}), "last", weights_only=True)
    out = capsys.readouterr().out
    assert out.endswith(
        f"weights: {runs.display_path(folder.checkpoints_path / 'best.ckpt')}, which contains only weights: "
        f"a fit of the model starts at epoch 0\n{told}"
    )
    restore(Session({}), RecordedRun.of(folder, {}), "best.ckpt", weights_only=True)
    assert told not in capsys.readouterr().out  # asked for by name


@pytest.mark.parametrize(
    ("run", "note"),
    [
        ({}, None),
        ({"seed": None}, "No seed was set: initial weights and data order differ each time. Set one: --seed 1."),
        ({"model": "net", "arguments": None}, "The model is an instance, created before the fit set its seed."),
        (
            {"trained": True},
            "Net/version_0 continued from an instance that was already trained; this run starts from scratch.",
        ),
    ],
)
def test_a_script_that_cannot_give_the_runs_numbers_says_why(tmp_path, run, note):
    folder = recorded(tmp_path, **run)
    settings = dataclasses.replace(DefaultSettings(), run_dir=str(tmp_path))
    path = export.export(Session({}, settings), folder.name, [tmp_path / "train.py"], notebook=False, overwrite=False)
    about = '"""Train Net as in Net/version_0.'
    assert path.read_text().startswith(f'{about}"""\n' if note is None else f'{about}\n\n{note}\n"""\n')


def test_what_is_evaluated_of_the_record_is_told_before(tmp_path):
    arguments = {"act": "__import__('os').getcwd()", "lr": "0.1", "name": "net", "text": "'a b'"}
    recorded_run = RecordedRun.of(recorded(tmp_path, arguments=arguments, trainer={"callbacks": "[Early('a')]"}), {})
    announcement = recorded_run.announcement([*recorded_run.recipe.model_codes, *recorded_run.recipe.codes])
    record = runs.display_path(recorded_run.folder.record_path)
    assert announcement.endswith(f"; evaluating from {record}: __import__('os').getcwd(), [Early('a')]")
    assert "evaluating" not in RecordedRun.of(recorded(tmp_path), {}).announcement(["Net", "1"])


def test_text_that_a_fit_would_evaluate_is_told_before(tmp_path):
    trainer = {"callbacks": "\"[Early('a')]\"", "accelerator": "'cpu'", "default_root_dir": "'a/b'"}
    recorded_run = RecordedRun.of(recorded(tmp_path, trainer=trainer, options={"logger": "Logs()"}), {})
    assert recorded_run.announcement(recorded_run.recipe.codes).endswith("/run.json: [Early('a')], Logs()")


def test_what_is_evaluated_is_shown_whole(tmp_path):
    hidden = "net\x1b[8m\u202e.__class__\r\n    .mro()"
    long = f"[{', '.join(['0.1'] * 100)}, __import__('os').getcwd()]"
    recorded_run = RecordedRun.of(recorded(tmp_path, arguments={"act": hidden, "lr": long}), {})
    assert recorded_run.announcement(recorded_run.recipe.model_codes).endswith(
        f"/run.json: net\\x1b[8m\\u202e.__class__ .mro(), {long}"
    )
    rates = f"[{', '.join(['0.1'] * 2000)}]"  # a plain value
    recorded_run = RecordedRun.of(recorded(tmp_path, arguments={"rates": rates}), {})
    assert "evaluating" not in recorded_run.announcement(recorded_run.recipe.model_codes)
    folder = recorded(tmp_path, arguments={"rates": f"{rates} + [print('here')]"})
    with pytest.raises(
        RunError, match=r"run\.json holds an expression of 10,018 characters, .*Assign it to a name in .*source\.py"
    ):
        restore(Session({}), RecordedRun.of(folder, {}), "last", weights_only=True)


def test_what_the_record_lacks_is_missing(tmp_path, default_dtype, capsys):
    why = "a DataLoader that is not in a variable of the notebook: assign it to one first"
    folder = recorded(tmp_path, data=["torch"], forms=["loaders"], missing={"data": why})
    session = Session({})
    restore(session, RecordedRun.of(folder, {}), "last", weights_only=True)
    assert (
        f"the data  could not be loaded: RunError: the data of {folder.name} was not recorded: {why}. Pass other data"
        in (capsys.readouterr().out)
    )
    assert "torch" not in session.namespace
    folder = recorded(tmp_path, arguments={"net": "torch"}, missing={"--model.net": "a Linear that nothing holds"})
    with pytest.raises(RunError, match=r"cannot be loaded: --model\.net: a Linear that nothing holds"):
        restore(session, RecordedRun.of(folder, {}), "last", weights_only=True)


def test_a_checkpoint_whose_name_has_a_slash_is_found(tmp_path):
    folder = recorded(tmp_path)
    inner = folder.checkpoints_path / "epoch=1-val" / "loss=0.25.ckpt"
    inner.parent.mkdir()
    (folder.checkpoints_path / "best.ckpt").rename(inner)
    best = f"/elsewhere/Net/version_0/checkpoints/{inner.relative_to(folder.checkpoints_path)}"
    folder.write(dataclasses.replace(folder.read(), best_model_path=best))
    recorded_run = RecordedRun.of(folder, {})
    assert [recorded_run.checkpoint(asked) for asked in ("best", "last", None)] == [inner] * 3
    with pytest.raises(RunError, match=r"It has epoch=1-val/loss=0\.25\.ckpt in"):
        recorded_run.checkpoint("nowhere.ckpt")


def test_the_random_state_that_a_fit_began_with(tmp_path):
    folder = recorded(tmp_path, seed=None)
    assert RecordedRun.of(folder, {}).initial_random_state() is None  # nothing tells, and the source sets no seed
    state = RandomState.capture()
    folder.random_path.write_text(state.text)
    drawn = torch.rand(3)
    with preserve_random_state():
        RecordedRun.of(folder, {}).initial_random_state().take_up()
        assert torch.equal(torch.rand(3), drawn)
    assert RecordedRun.of(recorded(tmp_path), {}).initial_random_state() is None  # it had a seed
    folder.random_path.write_text('{"python": []}')
    with pytest.raises(
        RunError, match=r"random state of Net/version_0 cannot be read from .*: it is not a random state"
    ):
        RecordedRun.of(folder, {}).initial_random_state()


class Act(enum.Enum):
    relu = "relu"
    tanh = "tanh"


class Own(pl.LightningModule):
    def __init__(self, act=Act.relu, used=Act, name="a", size=1, where=None):
        super().__init__()
        self.save_hyperparameters()


def test_an_attached_run_has_the_hyperparameters_that_its_record_cannot_hold(tmp_path):
    arguments = {"act": "Act.tanh", "size": "2 * WIDTH", "name": "LABEL"}
    given = {"act": Act.tanh, "used": Act, "name": "b", "size": 8}
    record = RunRecord("Own/version_0", "fit", "Own", "completed", 1.0, hyperparameters=provenance.json_values(given))
    record = dataclasses.replace(record, recipe=vars(Recipe(model="Own", arguments=arguments)).copy())
    session = Session({"Own": Own, "Act": Act})
    assert dict(session.build_model(record).hparams) == {**given, "where": None}
    record.recipe["arguments"]["act"] = "Act('tanh')"
    with pytest.raises(RunError, match=r"act of Own/version_0 is Act\('tanh'\), which is not evaluated here"):
        session.build_model(record)
