"""Definitions that the notebook has of the same source as a run: the run uses the notebook's own objects.

Then ``is`` and ``isinstance`` hold between the two, as for the members of an Enum.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from .closure import Closure
from .history import History


def definition_of(notebook: History, name: str, source: History) -> Any:
    """The class or function of a name that the notebook has of the same source, else None.

    Args:
        notebook: what it has run.
        name: that is defined.
        source: the recorded statements; what they need of each other is the same in the notebook too.
    """
    value = notebook.namespaces[0].get(name)
    closure = Closure(source)
    closure.need_code(name)
    if not isinstance(value, type | FunctionType) or closure.definitions is None:
        return None
    for home, namespace in notebook.namespaces.items():
        if namespace.get(name) is not value or home == notebook.local_home:
            continue
        own = Closure(notebook)
        own.need_code(name, home)
        if own.definitions == closure.definitions:
            return value
    return None
