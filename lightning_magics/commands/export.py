"""A run, or a model of the notebook, written to a file as a script or a notebook of plain Lightning."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..definitions.data.sentences import is_of_texts
from ..definitions.definition import is_module, uncompiled
from ..errors import InputError
from ..formats import plural
from ..launch.run import Run
from ..replay.agreement import variation_reasons
from ..replay.history import sets_a_seed
from ..replay.recipe import RecipeWriter
from ..replay.recorded import RecordedRun
from ..replay.script import Script, parse_module
from ..runs import folder
from .data_argument import Data, resolve_data
from .model_argument import Subject, resolve_model
from .session import Session


def export(session: Session, source: Any, names: Sequence[Any], notebook: bool, overwrite: bool) -> Path:
    """Write a script.

    Args:
        session: of the notebook.
        source: a run, or a model.
        names: data for a model, followed by the file.
        notebook: whether a notebook is written.
        overwrite: whether an existing file is replaced.

    Raises:
        InputError: something cannot be exported, or the file exists.
        RunError: there is no such run.
    """
    if not names:
        raise InputError(
            "%lightning_export takes a run or a model, and a file: %lightning_export Digits/version_3 train.py"
        )
    ending = ".ipynb" if notebook else ".py"
    filename = str(names[-1])
    path = Path(filename if filename.endswith(ending) else session.text(filename)).expanduser()
    if path.suffix != ending:
        other = ". For a notebook add --notebook" if path.suffix == ".ipynb" else ""
        raise InputError(f"%lightning_export writes a file that ends with {ending}; found {path}{other}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. To replace it, add --overwrite")
    model = _model(session, source)
    if model is None:
        if len(names) > 1:
            raise InputError(f"a run already has its data. Leave out {names[0]!r}: %lightning_export {source} {path}")
        script, about, differences = _run_script(session, source)
    else:
        script, about = _model_script(session, model, names[:-1])
        differences = []
    try:
        folder.write_text(path, script.notebook(about) if notebook else script.python(about))
        path.chmod(0o644)  # unlike a run, it is there to be given away
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    for text in differences:
        print(f"the numbers of the script may differ from the run's: {text}")  # noqa: T201 -- as its docstring says
    return path


def _model(session: Session, source: Any) -> Any:
    """The model that is meant; None where a run is."""
    if isinstance(source, Run) or session.find_run(source) is not None:
        return None
    if (
        isinstance(source, str)
        and source not in session.models
        and not is_module(uncompiled(session.scope.get(source)))
    ):
        return None
    return source


def _run_script(session: Session, run: Any) -> tuple[Script, str, list[str]]:
    """The script of a run, its first sentence, and why its numbers are not the run's."""
    recorded_run = RecordedRun.of(session.folder(run), {})
    record, recipe = recorded_run.record, recorded_run.recipe
    seeds_itself = record.seed is None and sets_a_seed(recorded_run.text)
    reasons = variation_reasons(record.run, recipe, record.seed, repeats=seeds_itself)
    if seeds_itself:
        reasons.insert(
            0, "the code sets its own seed: random numbers drawn in other cells of the notebook are not reproduced"
        )
    differences = list(reasons)
    if recipe.options.get("resume") and recipe.options.get("weights_only") is False:
        reasons.append(
            "the run read its checkpoint with weights_only=False, which runs code that the checkpoint may contain. If "
            "you trust it, add weights_only=False to fit"
        )
    nodes, devices = record.trainer.get("num_nodes", 1), record.trainer.get("devices", 1)
    if recipe.options.get("cluster") and (nodes, devices) != (1, 1):
        reasons.append(
            f"the run used {plural(nodes, 'node')} with {plural(devices, 'process')} each: start the script on every "
            f"node with torchrun --nnodes {nodes} --nproc_per_node {devices}"
        )
    if recipe.plain_yaml:
        reasons.append(
            "where OmegaConf is installed, Lightning cannot write these hyperparameters to hparams.yaml with it, so "
            "the script disables it"
        )
    notes = [f"{reason[0].upper()}{reason[1:]}." for reason in reasons]
    script = Script(
        record.model,
        recipe,
        parse_module(recorded_run.text, recipe.missing),
        precision=record.precision,
        devices=str(record.trainer.get("devices", 1)) if recipe.options.get("ddp") else "",
        strategy=str(record.trainer.get("strategy", "")) if recipe.options.get("ddp") else "",
        notes=tuple(notes),
        directions=record.directions,
        checkpoint_metric=record.checkpoint_metric,
    )
    script.check(record.run)
    return script, f"Train {record.model} as in {record.run}.", differences


def _model_script(session: Session, model: Any, datas: Sequence[Any]) -> tuple[Script, str]:
    """The script of a model that need not have been trained; it trains for some epochs, as one would begin."""
    subject = resolve_model(session, "fit", model, {})
    data = resolve_data(session, "fit", datas, {}, subject)
    writer = RecipeWriter(*session.history(), session.local_names)
    writer.add_model(subject.argument, subject.package, trained=False)
    writer.add_data(data.arguments, data.forms)
    if data.arguments and is_of_texts(getattr(data.arguments[0].value, "cls", data.arguments[0].value)):
        _number_classes(subject, data, writer)
    recipe, module = writer.result()
    recipe = dataclasses.replace(recipe, trainer={"max_epochs": "5"})
    if not recipe.data and not _brings_data(subject.argument.value):
        raise InputError(f"the script needs data to train on: %lightning_export {subject.name} DATA FILE")
    script = Script(subject.name, recipe, module)
    script.check(subject.name)
    return script, f"Train {subject.name}."


def _number_classes(subject: Subject, data: Data, writer: RecipeWriter) -> None:
    """Let the script number the labels of texts, and name the outputs of the model, as a fit would."""
    from ..definitions import matching
    from ..definitions.model.fine_tuning import quiet_transformers
    from ..runs.randomness import preserve_random_state

    with preserve_random_state(), quiet_transformers():
        model, (datamodule, _) = subject.make(), data.make()
        trained_on = subject.knowledge.encoding
        model = model if subject.instance is None else copy.deepcopy(model)
        matching.check(model, datamodule, subject.name, data.name, trained_on, (), trains=True)
    writer.add_classes(datamodule, data.arguments[0])
    writer.add_outputs(model, datamodule)


def _brings_data(model: Any) -> bool:
    """Whether a model has a dataloader of its own."""
    value = getattr(model, "cls", model)
    bases = (value if isinstance(value, type) else type(value)).__mro__
    own_bases = (base for base in bases if not base.__module__.startswith(("pytorch_lightning.", "lightning.")))
    return any("train_dataloader" in vars(base) for base in own_bases)
