"""Resolves the model argument of a call: a definition, class, instance or run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..definitions.definition import Definition, check_hyperparameters, is_module, package_of, uncompiled
from ..errors import InputError
from ..launch.run import Run
from ..launch.spawned import attach
from ..options import parser
from ..replay.recipe import CallArgument
from ..runs import folder as runs
from ..runs.events import Verb
from ..views.state import RunState
from ..views.view import HiddenView
from .knowledge import Knowledge
from .session import Session


@dataclass(frozen=True)
class Subject:
    """The resolved model argument."""

    name: str
    package: str
    make: Callable[[], Any]
    argument: CallArgument
    knowledge: Knowledge
    instance: Any = None  # where there is one already
    compiler: Any = None  # torch's, where what was given is a compiled instance
    run: Run | None = None  # whose model is evaluated
    is_redefined: bool = False  # whether its definition has been run again since
    checkpoint: Path | None = None  # that the weights come from, in place of those that the model has

    @property
    def shown(self) -> str:
        """What to type to refer to it."""
        return self.argument.original if isinstance(self.argument.original, str) else self.name

    def weights_notice(self, verb: Verb) -> tuple[str, ...]:
        """Name the run whose weights an evaluation uses, where a run was named or stands for its model."""
        if verb != "fit" and self.checkpoint is not None:
            return (f"weights of {runs.display_path(self.checkpoint)}",)
        if self.run is None:
            return ()
        run, origin = self.run, self.knowledge.origin
        folder = None if origin.is_outdated else origin.folder
        if run.verb != "fit" and folder is not None:
            notice = f"weights of {folder.name}"
        elif origin.is_outdated:
            changed = f"the model of {run.name} has changed since its fit"
            notice = f"the current weights do not belong to any recorded run: {changed}"
        elif folder is not None and folder.path.absolute() != run.folder.path.absolute():
            notice = f"weights of {folder.name}: the model of {run.name} has changed since its fit"
        else:
            notice = f"weights of {run.name}"
        return (f"{notice} (trained before {self.name} was redefined)" if self.is_redefined else notice,)


def resolve_model(session: Session, verb: Verb, argument: Any, hyperparameters: Mapping[str, Any]) -> Subject:
    """Resolve the model argument of a call.

    Args:
        session: of the notebook.
        verb: of the call.
        argument: as it was given.
        hyperparameters: that were given with it.

    Raises:
        InputError: the argument is not a model.
    """
    if verb != "fit":
        return _find_trained(session, verb, argument, hyperparameters)
    model = session.find_model(argument)
    if isinstance(model, Run):
        model = model.model
    return _describe(session, model, argument, hyperparameters)


def _describe(session: Session, model: Any, argument: Any, hyperparameters: Mapping[str, Any]) -> Subject:
    """Describe a definition, a LightningModule class or an instance."""
    overrides = {
        name: parser.resolve(value, session.scope, f"--model.{name}") for name, value in hyperparameters.items()
    }
    call_argument = CallArgument(model, argument, overrides, hyperparameters)
    if isinstance(model, Definition):
        knowledge = Knowledge(session, model.package, None)
        return Subject(model.name, model.package, lambda: model.new(**overrides), call_argument, knowledge)
    compiler = None if uncompiled(model) is model else model.dynamo_ctx
    model = uncompiled(model)
    package = package_of(model)
    cls = model if isinstance(model, type) else type(model)
    if package is None or not is_module(model):
        raise InputError(_not_a_model(model, argument))
    if isinstance(model, type):
        check_hyperparameters(model, overrides)
        knowledge = Knowledge(session, package, None)
        return Subject(cls.__name__, package, lambda: model(**overrides), call_argument, knowledge)
    if overrides:
        raise InputError(
            f"--model.{next(iter(overrides))} is a constructor argument, but {cls.__name__} is already an instance. "
            f"Give the class: %lightning_fit {cls.__name__} --model.{next(iter(overrides))} …"
        )
    definition = next((item for item in session.models.values() if item.cls is cls), None)
    name = definition.name if definition else cls.__name__
    return Subject(name, package, lambda: model, call_argument, Knowledge(session, package, model), model, compiler)


def _find_trained(session: Session, verb: Verb, argument: Any, hyperparameters: Mapping[str, Any]) -> Subject:
    """Find a model that has trained weights.

    Raises:
        InputError: there is none.
    """
    run = session.find_run(argument) or _find_recorded(session, verb, argument)
    value = run or session.find_model(argument)
    if isinstance(value, Run):
        run = value
    if run is None and not isinstance(value, type) and is_module(uncompiled(value)):
        return _describe(session, value, argument, hyperparameters)
    if run is None:
        name = str(getattr(value, "name", None) or getattr(value, "__name__", argument))
        run = session.fits.get(name)
        if run is None:
            raise InputError(
                f"{name} was not trained in this session, so there are no weights to {verb} with. "
                f"Train it first: %lightning_fit {name} DATA, or pass a run or an instance."
            )
    subject = _describe(session, run.model, argument, hyperparameters)
    is_redefined = isinstance(value, Definition) and value.cls is not type(run.model)
    return dataclasses.replace(subject, name=run.record.model, run=run, is_redefined=is_redefined)


def _find_recorded(session: Session, verb: Verb, name: Any) -> Run | None:
    """A fit of another session by its name, None where there is none; its model is made by this notebook's code.

    Raises:
        InputError: the notebook lacks the model's code, or the run is still running or is not a fit.
    """
    if not isinstance(name, str) or "/" not in name or name not in session.run_names():
        return None
    folder = session.folder(name)
    record = folder.read()
    if record.verb != "fit":
        raise InputError(f"{name} is a {record.verb} run, which does not train a model. Choose a fit: %lightning_runs")
    model = record.model
    if model not in session.models and not is_module(session.namespace.get(model)):
        raise InputError(
            f"{name} is a run from another session. Load its model first: net = %lightning_load {name}, then "
            f"%lightning_{verb} net"
        )
    if folder.is_alive():
        raise InputError(
            f"{name} is still running in other processes. Wait until it ends, or watch it: %lightning_attach {name}"
        )
    return attach(folder, HiddenView(RunState()), session.build_model)


def _not_a_model(value: Any, argument: Any) -> str:
    """The message for a model argument that is no LightningModule."""
    shown = argument if isinstance(argument, str) else type(value).__name__
    kind = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    return (
        f"the model {shown!r} is {kind}, not a LightningModule. If it is an nn.Module, define how it trains: "
        f"%lightning_model {shown if str(shown).isidentifier() else 'NAME'} --loss cross_entropy"
    )
