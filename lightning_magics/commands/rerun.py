"""Training a run once more from its record, and saying how the numbers compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import clusters
from ..definitions.definition import Definition
from ..errors import InputError, RunError, short_traceback
from ..launch.run import Run
from ..options.parser import own_options
from ..options.tokens import evaluate
from ..options.trainer_arguments import trainer_options
from ..replay.agreement import Agreement
from ..replay.recorded import RecordedRun, to_values
from ..runs import columns
from .call import Call
from .session import Session

_RETYPED_OPTIONS = ("weights_only", "quiet", "background")  # a record may be another's: trust in a checkpoint is typed


def rerun(session: Session, recorded_run: RecordedRun, changed: Mapping[str, Any]) -> tuple[Run, Agreement]:
    """Train a run once more.

    Args:
        session: of the notebook.
        recorded_run: the run.
        changed: options of the fit that take the place of the recorded ones; `model`, `data` and those of an
            engine are dicts.

    Raises:
        InputError: an option cannot be changed, or does not fit.
        RunError: the run cannot be trained from its record.
    """
    from ..runs.randomness import preserve_random_state

    if changed.get("background"):
        raise InputError("%lightning_rerun waits for the run to end, to compare the results. Leave --background out")
    recipe, record = recorded_run.recipe, recorded_run.record
    replaced = {f"--{name}" for name in changed}
    live = {name: why for name, why in recipe.missing.items() if not name.isidentifier() or name in ("model", "data")}
    if not recipe.model or live.keys() - replaced:
        raise RunError(f"{record.run} cannot be run again: {_listed(live or recipe.missing)}")
    call = Call.of("fit", fit_arguments(recorded_run, _with_local_values(session, changed)))
    if recipe.options.get("resume") and not Path(str(call.options.resume)).is_file() and "resume" not in changed:
        raise RunError(
            f"{record.run} resumed from {recipe.options['resume']}, which no longer exists. To start from scratch, "
            f"add --resume none"
        )
    with short_traceback(), preserve_random_state():
        model, datas, rerun_session = _recorded_parts(session, recorded_run)
    random_state = recorded_run.initial_random_state() if call.options.seed is None else None
    if random_state is not None:
        print(f"random state: the initial state of {record.run}, which had no --seed")  # noqa: T201 -- of what it is
    table = columns.load_schema(recorded_run.folder) if recipe.arguments is None else None
    path = recorded_run.folder.initial_weights_path
    resumes = str(call.options.resume).lower() not in ("none", "false")
    weights = path if path.is_file() and not changed.get("model") and not resumes else None
    if weights is not None:
        print(f"initial weights: those of {record.run}")  # noqa: T201 -- likewise
    call = dataclasses.replace(call, session=rerun_session, random=random_state, table=table, weights=weights)
    run = dataclasses.replace(call, remade=recipe.remade).start(model, datas)
    session.note_started(run)
    session.interrupted |= rerun_session.interrupted
    return run, Agreement(record, run.record, _changed_options(changed), repeats=random_state is not None)


def fit_arguments(recorded_run: RecordedRun, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The fit's keyword arguments: as recorded, with what was changed."""
    recipe = recorded_run.recipe
    names = (
        {*clusters.names(), *own_options("fit")} - {*_RETYPED_OPTIONS} - ({"ddp"} if "devices" in changed else set())
    )
    own = {name: value for name, value in recipe.options.items() if name in names}
    arguments = {**_plain_values(recipe.trainer), **own, **changed}
    if arguments.get("logger") == []:
        arguments["logger"] = False
    engine = arguments.get("cluster")
    for other in {*clusters.names()} - {engine, *changed}:  # what was recorded for it means nothing to this engine
        arguments.pop(other, None)
    if engine is None and "nodes" not in changed:
        arguments.pop("nodes", None)
    if engine is not None:
        arguments[engine] = {**own.get(engine, {}), **(changed.get(engine) or {})}
    for part, codes in (("model", recipe.arguments), ("data", recipe.data_arguments)):
        arguments[part] = {**to_values(codes), **(changed.get(part) or {})}
    return arguments


def _with_local_values(session: Session, changed: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed, with values for expressions over local variables of the function that calls."""

    def value_of(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {inner: value_of(f"{name}.{inner}", item) for inner, item in value.items()}
        argument = trainer_options().get(name)
        text = value if isinstance(value, str) and argument is not None else getattr(value, "text", None)
        if text is None or not session.reads_local_names(text) or (argument is not None and text in argument.choices):
            return value
        return evaluate(text, session.scope, f"--{name}")

    return {name: value_of(name, value) for name, value in changed.items()}


def _plain_values(codes: dict[str, str]) -> dict[str, Any]:
    """Trainer's arguments: plain values as they are, other code as text, which the call evaluates."""
    return {name: getattr(value, "text", value) for name, value in to_values(codes).items()}


def _changed_options(changed: Mapping[str, Any]) -> list[str]:
    """What was changed, as it is typed."""
    parts = ("model", "data", *clusters.names())
    options = {name: value for name, value in changed.items() if name not in (*parts, "quiet")}
    for part in parts:
        options |= {f"{part}.{name}": value for name, value in (changed.get(part) or {}).items()}
    return [f"--{name} {getattr(value, 'text', value)}" for name, value in options.items()]


def _recorded_parts(session: Session, recorded_run: RecordedRun) -> tuple[Any, list[Any], Session]:
    """Model, data, and a session whose names are the recorded run's, and otherwise the notebook's.

    What was given as an expression is evaluated by the call, as it was the first time.
    """
    recipe = recorded_run.recipe
    recorded_run.execute([*recipe.model_codes, *recipe.data_codes, *recipe.codes])
    model, data = recorded_run.model(), recorded_run.data()
    rerun_session = dataclasses.replace(
        session,
        namespace={**session.namespace, **recorded_run.namespace},
        models={},
        datas={},
        rerun_source=recorded_run.source_code,
        local_names={},
        _data_names={},
    )
    model = recipe.model if recipe.arguments is None else model
    return model, [data] if isinstance(data, Definition) else list(recipe.data), rerun_session


def _listed(missing: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in missing.items()) or "its record is incomplete"
