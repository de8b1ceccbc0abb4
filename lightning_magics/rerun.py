"""Training a run once more from its record, and saying how the numbers compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .calls import Call
from .comparison import Comparison
from .errors import InputError, RunError, short_traceback
from .launch import Run
from .recall import Recalled, typed
from .session import Session


def rerun(session: Session, recalled: Recalled, changed: Mapping[str, Any]) -> tuple[Run, Comparison]:
    """Train a run once more.

    Args:
        session: of the notebook.
        recalled: the run.
        changed: options of the fit that take the place of the recorded ones; `model` and `data` are dicts.

    Raises:
        InputError: an option cannot be changed, or does not fit.
        RunError: the run cannot be trained from its record.
    """
    if changed.get("background"):
        raise InputError("%lightning_rerun compares when the run has ended, and waits for it: leave --background out")
    recipe, record = recalled.recipe, recalled.record
    given = {f"--{name}" for name in changed}
    live = {name: why for name, why in recipe.missing.items() if not name.isidentifier() or name in ("model", "data")}
    if not recipe.model or live.keys() - given:
        raise RunError(f"{record.run} cannot be run again: {_listed(live or recipe.missing)}")
    call = Call.of("fit", asked(recalled, changed))
    if recipe.options.get("resume") and not Path(str(call.options.resume)).is_file() and "resume" not in changed:
        raise RunError(
            f"{record.run} went on from {recipe.options['resume']}, which is gone: --resume none begins anew"
        )
    with short_traceback():
        model, datas, inner = _parts(session, recalled)
    run = dataclasses.replace(call, session=inner).start(model, datas)
    session.started(run)
    session.interrupted |= inner.interrupted
    shown = {
        **changed,
        **{f"{part}.{name}": value for part in ("model", "data") for name, value in _dict(changed, part)},
    }
    lines = [f"--{name} {value}" for name, value in shown.items() if name not in ("model", "data", "quiet")]
    return run, Comparison(record, run.record, lines)


def asked(recalled: Recalled, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The fit's keyword arguments: as recorded, with what was changed."""
    recipe = recalled.recipe
    own = {name: value for name, value in recipe.options.items() if name != "ddp" or "devices" not in changed}
    found = {**_as_typed(recipe.trainer), **own, **changed}
    if "logger" in own and own["logger"] == [] and "logger" not in changed:
        found["logger"] = False
    for part, codes in (("model", recipe.arguments), ("data", recipe.data_arguments)):
        found[part] = {**typed(codes), **dict(_dict(changed, part))}
    return found


def _as_typed(codes: Mapping[str, str]) -> dict[str, Any]:
    """Trainer's arguments: plain values as they are, other code as text, which the call evaluates."""
    values = typed(dict(codes))
    return {name: value if not hasattr(value, "text") else codes[name] for name, value in values.items()}


def _parts(session: Session, recalled: Recalled) -> tuple[Any, list[Any], Session]:
    """Model, data, and a session whose names are the recorded run's, and otherwise the notebook's."""
    recipe = recalled.recipe
    model, data = recalled.model(), recalled.data()
    recalled.execute(recipe.codes)
    inner = dataclasses.replace(
        session,
        namespace={**session.namespace, **recalled.namespace},
        models={},
        datas={},
        source=recalled.unit,
        _data_names={},
    )
    if recipe.arguments is None:
        model = recipe.model  # found by its name, as it was typed
    codes = list(recipe.data)
    return model, codes if isinstance(data, list) or recipe.data_arguments is None else [data] if codes else [], inner


def _dict(changed: Mapping[str, Any], part: str) -> Any:
    return dict(changed.get(part) or {}).items()


def _listed(missing: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in missing.items()) or "its record is not whole"
