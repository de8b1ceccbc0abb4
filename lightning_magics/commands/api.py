"""The functions behind the magics: the same calls from Python, in a cell, a function or a script.

A magic parses its line and calls one of these. Everything that can be checked is, before a run starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..definitions.cell import CellSource
from ..errors import InputError, RunError, short_traceback
from ..launch import spawned, start, stopping
from ..launch.run import Run
from ..options import parser
from ..replay.recorded import Recalled
from ..runs import catalog, removal
from ..runs import folder as runs
from ..runs.dataframe import Framed
from ..shell import show
from ..views.board import frame, servers
from ..views.comparison import Comparison
from ..views.listing import Listing
from .call import Call
from .session import Session, current


def fit(net: Any, /, *datas: Any, **asked: Any) -> Run:
    """Train a model and return the `Run`; ``%lightning_fit`` from Python.

    A class, or the name of a definition, trains a fresh instance. An instance is trained in place, and one that was
    fitted before continues: weights, optimizer, schedulers, epoch and step; `max_epochs` and `max_steps` then count
    what is added.

    Args:
        net: name of a model, LightningModule class or instance.
        datas: name of data, DataModule, or training and validation data: DataLoaders, Datasets, tensors.
        asked: any option of ``%lightning_fit`` (`ddp`, `background`, `amp`, `early_stop`, `monitor`, `seed`, `resume`,
            `logger`, `quiet`, `weights_only`, `nodes`, `cluster`), any argument of Trainer, the dicts `model` and
            `data` for hyperparameters, and `slurm` (the name of the engine) for its parameters.

    Raises:
        InputError: an argument cannot be used; nothing was started.
        KeyboardInterrupt: interrupted twice; the first interrupt returns the run with its weights.
    """
    return Call.of("fit", asked).start(net, datas)


def validate(net: Any, /, *datas: Any, **asked: Any) -> Run:
    """Validate a trained model; ``%lightning_validate`` from Python.

    Args:
        net: `Run`, ``last``, a LightningModule instance, or the name of a model that was trained in this session.
        datas: name of data, DataModule, or any number of DataLoaders, Datasets or tensors; the fit's data by default.
        asked: `amp`, `seed`, `quiet`, `ckpt_path` (``best`` or a path), any argument of Trainer, and the dict `data`
            for hyperparameters.

    Returns:
        The run; its `results` hold a row of metrics for each dataloader.

    Raises:
        InputError: an argument cannot be used; nothing was started.
    """
    return Call.of("validate", asked).start(net, datas)


def test(net: Any, /, *datas: Any, **asked: Any) -> Run:
    """Test a trained model; ``%lightning_test`` from Python. Arguments, result and errors are as for `validate`."""
    return Call.of("test", asked).start(net, datas)


def predict(net: Any, /, *datas: Any, **asked: Any) -> Run:
    """Predict with a trained model; ``%lightning_predict`` from Python. Arguments and errors are as for `validate`.

    Returns:
        The run; its `predictions` are in input order: the batches' outputs joined, a list of these for several
        dataloaders.
    """
    return Call.of("predict", asked).start(net, datas)


def attach(asked: Any) -> Run:
    """Show a run that is running elsewhere or has ended, and return it; ``%lightning_attach`` from Python.

    Args:
        asked: name of a run (``Digits/version_3``), its folder, ``last``, or a `Run`.

    Returns:
        The run. Its `model` is built from the definition of that name in this notebook, with the run's weights.

    Raises:
        RunError: there is no such run.
    """
    from ..views.view import open_view

    session = current()
    folder = session.folder(asked)
    view = open_view(
        refresh_s=session.settings.refresh_s,
        log_dir=runs.shown(folder.path),
        on_stop=functools.partial(stopping.ask_to_stop, folder),
        background=True,
    )
    run = spawned.attach(folder, view, session.built)
    session.started(run)
    return run


def stop(asked: Any, now: bool = False) -> str:
    """Ask a run in progress to stop after the current batch; ``%lightning_stop`` from Python.

    Args:
        asked: as of `attach`.
        now: end its processes immediately, without saving.

    Returns:
        A sentence that describes the outcome.

    Raises:
        RunError: there is no such run, or it cannot be stopped from here.
    """
    folder = current().folder(asked)
    if not folder.is_alive():
        return f"{folder.name} has ended already: {folder.status(folder.read())}"
    if now:
        stopping.kill(folder)
    else:
        stopping.ask_to_stop(folder)
    return f"{folder.name} {'will stop after the current batch and be saved' if folder.is_alive() else 'was stopped'}"


def load(asked: Any, checkpoint: str | None = None, weights_only: bool = True) -> Any:
    """Load a run's model with its weights; ``%lightning_load`` from Python.

    The recorded source is executed in a namespace of its own, and its model and data are registered under their
    names: `fit`, `validate` and `predict` take them. Nothing else is executed, and nothing is downloaded.

    Args:
        asked: name of a fit (``Digits/version_3``), its folder, ``last``, or a `Run`.
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
    recalled = Recalled.of(session.folder(asked), session.namespace, session.history()[0])
    if checkpoint not in (None, "best", "last"):
        checkpoint = session.text(checkpoint)
    return restore(session, recalled, checkpoint, weights_only)


def rerun(asked: Any, **changed: Any) -> Run:
    """Train a run again from its record, and compare the results; ``%lightning_rerun`` from Python.

    Args:
        asked: as of `load`.
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
    recalled = Recalled.of(session.folder(asked), session.namespace, session.history()[0])
    recipe = recalled.recipe
    codes = [*recipe.model_codes, *recipe.data_codes, *recipe.codes]
    print(recalled.announced(codes))  # noqa: T201 -- told first
    engine = str(changed.get("cluster", recipe.options.get("cluster")) or "")
    if recipe.options.get(engine):
        print(f"submitting with the recorded parameters of {engine}: {recipe.options[engine]}")  # noqa: T201 -- likewise
    run, agreement = train_again(session, recalled, changed)
    show(agreement)
    return run


def export(asked: Any, *names: Any, notebook: bool = False, overwrite: bool = False) -> Path:
    """Write a fit as a plain Lightning script; ``%lightning_export`` from Python.

    Args:
        asked: a fit, as of `load`; or a model, by name or as a class, trained or not.
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
        return write(current(), asked, names, notebook, overwrite)


def board(*asked: Any, **given: Any) -> None:
    """Show TensorBoard; ``%lightning_board`` from Python.

    Args:
        asked: runs, each as of `attach`, or folders to show; all runs by default.
        given: `height` of the frame in pixels, and `port` of the server.

    Raises:
        BoardError: TensorBoard does not start.
        MissingPackage: it is not installed.
        RunError: there is no such run.
    """
    made = parser.make("board", given)
    servers.check_installed()
    session = current()
    locals_ = [session.local_names.get(item) if isinstance(item, str) else None for item in asked]
    named = [local if isinstance(local, Run) else item for local, item in zip(locals_, asked, strict=True)]
    frame.show(frame.BoardRequest(session.source(asked), _command(named, given), made.height, made.port))


def _command(asked: Sequence[Any], given: Mapping[str, Any]) -> str:
    """The line that shows a board again."""
    names = (item.name if isinstance(item, Run) else shlex.quote(str(item)) for item in asked)
    return " ".join(["%lightning_board", *names, *(f"--{name} {value}" for name, value in given.items())])


def list_runs(pattern: str = "", **asked: Any) -> Framed:
    """List, compare or delete runs; ``%lightning_runs`` from Python.

    Args:
        pattern: part of a run's name, or a pattern with ``*``; all runs if empty.
        asked: the options of ``%lightning_runs``: `model`, `sort`, `plot`, `compare`, `delete`, `keep` and `yes`. Runs
            are names, or `Run` objects.

    Returns:
        The runs: their `rows`, their DataFrame `df`, and their own display. After a deletion, the remaining runs.

    Raises:
        InputError: there is no such model or metric, or the options cannot be combined.
        RunError: there is no such run, or it may not be deleted; then none was.
    """
    session, given = current(), parser.make("runs", asked)
    given = dataclasses.replace(
        given, model=session.text(given.model), sort=_metric(session, given.sort), plot=_metric(session, given.plot)
    )
    root = Path(session.settings.run_dir).expanduser()
    _check_alone(pattern, given)
    if given.compare:
        return Comparison(root, [row.run for row in _rows(session, root, given.compare)])
    if given.delete:
        print(removal.delete(root, _rows(session, root, given.delete)))  # noqa: T201 -- the cell's answer
        return Listing(root)
    listed = Listing(root, pattern, given.model or "", given.sort or "", given.plot or "")
    if given.keep is None:
        return listed
    counted = [row for row in listed.rows if row.record is not None and row.record.verb == "fit"]
    counted = [row for row in counted if not given.sort or given.sort in row.best]
    beyond = [row for row in counted if not removal.obstacle(root, row)][given.keep :]
    if given.yes and beyond:
        print(removal.delete(root, beyond))  # noqa: T201 -- the cell's answer
        return Listing(root, pattern)
    would = f"would delete {removal.described(beyond)}. To delete: {_with_yes(pattern, given)}"
    print(would if beyond else f"nothing to delete: --keep {given.keep} keeps every run")  # noqa: T201 -- likewise
    return listed


def _metric(session: Session, typed: str | None) -> str | None:
    """The name of a metric: as it was typed where a run has it, else what a variable of that name holds."""
    held = session.text(typed)
    return typed if held == typed or typed in session.metric_names() else held


def _check_alone(pattern: str, given: Any) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: names them.
    """
    names = ("model", "sort", "plot", "compare", "delete", "keep")
    found = [f"--{name}" for name in names if getattr(given, name) not in (None, ())]
    for name in ("--compare", "--delete"):
        others = [item for item in [pattern, *found] if item and item != name]
        if name in found and others:
            raise InputError(f"{name} cannot be combined with {others[0]}. Type one or the other")
    if given.yes and given.keep is None:
        raise InputError(
            "--yes has no effect without --keep N, the number of runs to keep. Type %lightning_runs --keep N --yes"
        )


def _with_yes(pattern: str, given: Any) -> str:
    """The line that deletes what ``--keep`` leaves over."""
    words = [pattern] if pattern else []
    for name in ("model", "sort", "keep"):
        if getattr(given, name) is not None:
            words += [f"--{name}", str(getattr(given, name))]
    return " ".join(["%lightning_runs", *(repr(word) if " " in word else word for word in words), "--yes"])


def _rows(session: Session, root: Path, asked: Sequence[Any]) -> list[catalog.RunRow]:
    """The listed runs that are meant by name; a `Run`, a variable that holds one, ``last`` and a path are taken too.

    Raises:
        RunError: there is no such run, or it lies elsewhere.
    """
    listed = catalog.rows(root)
    names, places = {row.run for row in listed}, {row.path.resolve(): row.run for row in listed}
    found = []
    for item in asked:
        if isinstance(item, str) and item in names:
            found.append(item)
            continue
        held = session.find_run(item) or (session.scope.get(item) if isinstance(item, str) else item)
        if isinstance(held, str) and held in names:
            found.append(held)
            continue
        path = held.folder.path if isinstance(held, Run) else Path(str(session.text(item))).expanduser()
        path = session.folder(item).path if item == "last" else path
        if isinstance(held, Run) and path.resolve() not in places:
            raise RunError(
                f"{held.name} is in {path}, outside the run folder {root}. Set %config LightningMagics.run_dir first"
            )
        found.append(places.get(path.resolve(), str(item)))
    return catalog.named(listed, found, str(root))


def define_model(name: str | None, definition: Any, **asked: Any) -> Any:
    """Register a model under a name; ``%lightning_model`` from Python.

    Args:
        name: to register under; the class's own name if None.
        definition: LightningModule or nn.Module class, nn.Module instance, or callable that returns a module.
        asked: the options of ``%%lightning_model``: `loss`, `metrics`, `optimizer`, `lr` and the others.

    Returns:
        The `Definition`; its `source` is the code that runs.

    Raises:
        InputError: the options do not fit the definition.
    """
    from ..definitions.model.model import define_model as define

    session = current()
    with session.defining("model", [name]), short_traceback(), _syntax_in_a_line():
        made = define(
            name, definition, parser.make("model", asked), session.namespace, session.package(), session.local_names
        )
    session.add_model(made, adopted=not isinstance(definition, CellSource))
    if session.settings.prewarm and session.settings.start_method == "forkserver":
        start.prewarm(made.package)
    return made


def define_data(name: str | None, definition: Any, **asked: Any) -> Any:
    """Register data under a name; ``%lightning_data`` from Python. Like `define_model`."""
    from ..definitions.data.datamodule import define_data as define

    session = current()
    with session.defining("data", [name or "data"]), short_traceback(), _syntax_in_a_line():
        asked_for, local = parser.make("data", asked), session.local_names
        before = session.datas.get(name or "data")
        made = define(name, definition, asked_for, session.namespace, session.package(), local, before)
    session.add_data(made, adopted=not isinstance(definition, CellSource))
    return made


@contextlib.contextmanager
def _syntax_in_a_line() -> Iterator[None]:
    """Say a syntax error of a cell in a line: IPython would show its traceback, down to our frames."""
    try:
        yield
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise InputError(f"the cell cannot be parsed: {error.msg}, in line {error.lineno}: {text}") from error
