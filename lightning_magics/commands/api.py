"""The functions behind the magics: the same calls from Python, in a cell, a function or a script.

A magic parses its line and calls one of these. Everything that can be checked is, before a run starts.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..definitions.definition import Definition
from ..errors import InputError, did_you_mean, short_traceback
from ..launch import spawned
from ..launch.run import Run
from ..launch.stop_from_outside import ask_to_stop, kill
from ..options import parser
from ..replay.recorded import RecordedRun
from ..runs import folder as runs
from ..shell import show
from ..views.board import frame, servers
from ..views.code import Code
from .call import Call
from .list_runs import list_runs as list_runs
from .session import Session, current


def fit(net: Any, /, *datas: Any, **options: Any) -> Run:
    """Train a model and return the `Run`; ``%lightning_fit`` from Python.

    A class, or the name of a definition, trains a fresh instance. An instance is trained in place, and one that was
    fitted before continues: weights, optimizer, schedulers, epoch and step; `max_epochs` and `max_steps` then count
    what is added.

    Args:
        net: name of a model, LightningModule class or instance.
        datas: name of data, DataModule, or training and validation data: DataLoaders, Datasets, tensors.
        options: any option of ``%lightning_fit`` (`ddp`, `background`, `amp`, `early_stop`, `monitor`, `seed`,
            `resume`, `logger`, `quiet`, `weights_only`, `nodes`, `cluster`), any argument of Trainer, the dicts `model`
            and `data` for hyperparameters, and `slurm` (the name of the engine) for its parameters.

    Raises:
        InputError: an argument cannot be used; nothing was started.
        KeyboardInterrupt: interrupted twice; the first interrupt returns the run with its weights.
    """
    return Call.of("fit", options).start(net, datas)


def validate(net: Any, /, *datas: Any, **options: Any) -> Run:
    """Validate a trained model; ``%lightning_validate`` from Python.

    Args:
        net: `Run`, ``last``, a LightningModule instance, or the name of a model that was trained in this session.
        datas: name of data, DataModule, or any number of DataLoaders, Datasets or tensors; the fit's data by default.
        options: `amp`, `seed`, `quiet`, `ckpt_path` (``best`` or a path), any argument of Trainer, and the dict `data`
            for hyperparameters.

    Returns:
        The run; its `results` hold a row of metrics for each dataloader.

    Raises:
        InputError: an argument cannot be used; nothing was started.
    """
    return Call.of("validate", options).start(net, datas)


def test(net: Any, /, *datas: Any, **options: Any) -> Run:
    """Test a trained model; ``%lightning_test`` from Python. Arguments, result and errors are as for `validate`."""
    return Call.of("test", options).start(net, datas)


def predict(net: Any, /, *datas: Any, **options: Any) -> Run:
    """Predict with a trained model; ``%lightning_predict`` from Python. Arguments and errors are as for `validate`.

    Returns:
        The run; its `predictions` are in input order: the batches' outputs joined, a list of these for several
        dataloaders.
    """
    return Call.of("predict", options).start(net, datas)


def attach(run: Any) -> Run:
    """Show a run that is running elsewhere or has ended, and return it; ``%lightning_attach`` from Python.

    Args:
        run: name of a run (``Digits/version_3``), its folder, ``last``, or a `Run`.

    Returns:
        The run. Its `model` is built from the definition of that name in this notebook, with the run's weights.

    Raises:
        RunError: there is no such run.
    """
    from ..views.view import open_view

    session = current()
    folder = session.folder(run)
    view = open_view(
        refresh_s=session.settings.refresh_s,
        log_dir=runs.display_path(folder.path),
        on_stop=functools.partial(ask_to_stop, folder),
        background=True,
    )
    attached = spawned.attach(folder, view, session.build_model)
    session.note_started(attached)
    return attached


def stop(run: Any, now: bool = False) -> str:
    """Ask a run in progress to stop after the current batch; ``%lightning_stop`` from Python.

    Args:
        run: as of `attach`.
        now: end its processes immediately, without saving.

    Returns:
        A sentence that describes the outcome.

    Raises:
        RunError: there is no such run, or it cannot be stopped from here.
    """
    folder = current().folder(run)
    if not folder.is_alive():
        return f"{folder.name} has ended already: {folder.status(folder.read())}"
    if now:
        kill(folder)
    else:
        ask_to_stop(folder)
    return f"{folder.name} {'will stop after the current batch and be saved' if folder.is_alive() else 'was stopped'}"


def load(run: Any, checkpoint: str | None = None, weights_only: bool = True) -> Any:
    """Load a run's model with its weights; ``%lightning_load`` from Python.

    The recorded source is executed in a namespace of its own, and its model and data are registered under their
    names: `fit`, `validate` and `predict` take them. Nothing else is executed, and nothing is downloaded.

    Args:
        run: name of a fit (``Digits/version_3``), its folder, ``last``, or a `Run`.
        checkpoint: ``best``, ``last`` or a path; the last by default.
        weights_only: load only tensors from it; False also runs code in it.

    Returns:
        The LightningModule instance. A fit of the instance continues from there; a fit of the name starts from scratch.

    Raises:
        RunError: there is no such run or checkpoint, or the source lacks something.
        InputError: the checkpoint holds more than tensors, and `weights_only` is not False.
        Exception: what the source raises.
    """
    from .load import restore

    session = current()
    recorded_run = RecordedRun.of(session.folder(run), session.namespace, session.history()[0])
    if checkpoint not in (None, "best", "last"):
        checkpoint = session.text(checkpoint)
    return restore(session, recorded_run, checkpoint, weights_only)


def rerun(run: Any, **changed: Any) -> Run:
    """Train a run again from its record, and compare the results; ``%lightning_rerun`` from Python.

    Args:
        run: as of `load`.
        changed: options of `fit` that replace the recorded ones.

    Returns:
        The new run.

    Raises:
        RunError: there is no such run, or its source lacks something.
        InputError: an option does not fit.
        Exception: what the recorded code raises.
    """
    from .rerun import rerun as train_again

    session = current()
    recorded_run = RecordedRun.of(session.folder(run), session.namespace, session.history()[0])
    recipe = recorded_run.recipe
    codes = [*recipe.model_codes, *recipe.data_codes, *recipe.codes]
    print(recorded_run.announcement(codes))  # noqa: T201 -- told first
    engine = str(changed.get("cluster", recipe.options.get("cluster")) or "")
    if recipe.options.get(engine):
        print(f"submitting with the recorded parameters of {engine}: {recipe.options[engine]}")  # noqa: T201 -- likewise
    new_run, agreement = train_again(session, recorded_run, changed)
    show(agreement)
    return new_run


def export(source: Any, *names: Any, notebook: bool = False, overwrite: bool = False) -> Path:
    """Write a fit as a plain Lightning script; ``%lightning_export`` from Python.

    Args:
        source: a fit, as of `load`; or a model, by name or as a class, trained or not.
        names: data for a model, followed by the file.
        notebook: write a notebook of the same content.
        overwrite: replace an existing file.

    Returns:
        The file.

    Raises:
        InputError: something cannot be exported, or the file exists.
        RunError: there is no such run.
    """
    from .export import export as write

    with short_traceback():
        return write(current(), source, names, notebook, overwrite)


def board(*places: Any, **options: Any) -> None:
    """Show TensorBoard; ``%lightning_board`` from Python.

    Args:
        places: runs, each as of `attach`, or folders to show; all runs by default.
        options: `height` of the frame in pixels, and `port` of the server.

    Raises:
        BoardError: TensorBoard does not start.
        MissingPackage: it is not installed.
        RunError: there is no such run.
    """
    board_options = parser.make("board", options)
    servers.check_installed()
    session = current()
    locals_ = [session.local_names.get(item) if isinstance(item, str) else None for item in places]
    resolved = [local if isinstance(local, Run) else item for local, item in zip(locals_, places, strict=True)]
    frame.show(
        frame.BoardRequest(
            session.board_source(places), _board_line(resolved, options), board_options.height, board_options.port
        )
    )


def _board_line(places: Sequence[Any], options: Mapping[str, Any]) -> str:
    """The line that shows a board again."""
    names = (item.name if isinstance(item, Run) else shlex.quote(str(item)) for item in places)
    return " ".join(["%lightning_board", *names, *(f"--{name} {value}" for name, value in options.items())])


def define_model(name: str | None, definition: Any, **options: Any) -> Definition:
    """Register a model under a name; ``%lightning_model`` from Python.

    Args:
        name: to register under; the class's own name if None.
        definition: LightningModule or nn.Module class, nn.Module instance, or callable that returns a module.
        options: the options of ``%%lightning_model``: `loss`, `metrics`, `optimizer`, `lr` and the others.

    Returns:
        The `Definition`; its `source` is the code that runs.

    Raises:
        InputError: the options do not fit the definition.
    """
    from ..definitions.model.model import model_definition

    with _defining("model", name, definition) as session:
        model_options, local_names = parser.make("model", options), session.local_names
        model = model_definition(name, definition, model_options, session.namespace, session.package(), local_names)
    session.add_model(model)
    session.prewarm(model.package)
    return model


def define_data(name: str | None, definition: Any, **options: Any) -> Definition:
    """Register data under a name; ``%lightning_data`` from Python. Like `define_model`."""
    from ..definitions.data.datamodule import data_definition

    with _defining("data", name, definition) as session:
        data_options, local_names, known = parser.make("data", options), session.local_names, session.datas
        data = data_definition(name, definition, data_options, session.namespace, session.package(), local_names, known)
    session.add_data(data)
    return data


def source(name: str) -> Code:
    """Return the generated code of a model or of data; ``%lightning_source`` from Python.

    Args:
        name: the name that the model or data is registered under.

    Returns:
        Plain Lightning code, exactly as it runs, as a string that is displayed with highlighting.

    Raises:
        InputError: nothing of that name is defined.
    """
    session = current()
    known = {**session.datas, **session.models}
    if name not in known:
        listed = f" Defined: {', '.join(known)}." if known else " Nothing is defined yet; see %%lightning_model?"
        raise InputError(
            f"%lightning_source takes the name of a model or of data; found {name!r}."
            f"{did_you_mean(name, known)}{listed}"
        )
    return Code(known[name].source)


@contextlib.contextmanager
def _defining(kind: str, name: str | None, source: Any) -> Iterator[Session]:
    """Define something in the current session; its errors are shown without our frames, and a syntax error in a line.

    Raises:
        InputError: the cell cannot be parsed.
    """
    session = current()
    with session.defining(kind, name, source), short_traceback():
        try:
            yield session
        except SyntaxError as error:  # IPython would show its traceback, down to our frames
            text = (error.text or "").strip()
            raise InputError(f"the cell cannot be parsed: {error.msg}, in line {error.lineno}: {text}") from error
