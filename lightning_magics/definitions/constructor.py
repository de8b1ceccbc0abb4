"""The `__init__` of a generated class: from hyperparameters alone, or the user's own with what it lacks.

Its other statements are in `definitions/model/model` and `definitions/data/datamodule`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .cell import Hyperparameter, calls
from .generated import method, snippet
from .scopes import Function, parameters


def constructor(hyperparameters: Mapping[str, Hyperparameter], body: list[ast.stmt]) -> Function:
    """Return an `__init__` that saves its hyperparameters, then runs a body."""
    init = method("def __init__(self):\n    super().__init__()\n    self.save_hyperparameters()\n    BODY", BODY=body)
    init.args = _signature_of(hyperparameters)
    init.args.args.insert(0, ast.arg("self"))
    return init


def _signature_of(hyperparameters: Mapping[str, Hyperparameter]) -> ast.arguments:
    """Return hyperparameters as parameters: the required ones first, as Python asks."""
    items = sorted(hyperparameters.values(), key=lambda item: item.default is not None)
    arguments = ast.arguments([], [], None, [], [], None, [])
    arguments.args = [ast.arg(item.name, item.annotation) for item in items]
    arguments.defaults = [item.default for item in items if item.default is not None]
    return arguments


def complete_constructor(
    init: Function, hyperparameters: Mapping[str, Hyperparameter], body: list[ast.stmt]
) -> Function:
    """Put into the user's `__init__` what it lacks: parameters, `super().__init__()`, saving, and a body.

    New parameters are for keywords only, so that the ones that the user wrote keep their places.
    """
    has = {arg.arg for arg in parameters(init.args)}
    added = [item for item in hyperparameters.values() if item.name not in has]
    init.args.kwonlyargs += [ast.arg(item.name, item.annotation) for item in added]
    init.args.kw_defaults += [item.default for item in added]
    start = 1 if ast.get_docstring(init, clean=False) is not None else 0
    position = next((at + 1 for at, item in enumerate(init.body) if calls([item], "__init__")), None)
    inserted = [] if position is not None else snippet("super().__init__()")
    saves = calls(init.body, "save_hyperparameters")
    if not saves:
        inserted += snippet("self.save_hyperparameters()")
    elif all(call.args for call in saves) and added:
        # The user saves some by name: those that were added are read from hparams too.
        saved = [ast.Constant(item.name) for item in added]
        (statement,) = snippet("self.save_hyperparameters()")
        statement.value.args = saved  # type: ignore[attr-defined]
        inserted.append(statement)
    at = start if position is None else position
    init.body[at:at] = [*inserted, *body]
    return init
