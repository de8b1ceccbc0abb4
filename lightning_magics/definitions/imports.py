"""The imports of generated code: those that it needs itself, and those that the notebook made for the user's code."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

from .generated import strip_positions
from .scopes import binds, names_read, reads

# What generated code may need, and the import that gives it.
_IMPORTS = {
    "torch": "import torch",
    "torchmetrics": "import torchmetrics",
    "numpy": "import numpy",
    "islice": "from itertools import islice",
    "deepcopy": "from copy import deepcopy",
    "fnmatchcase": "from fnmatch import fnmatchcase",
    "Path": "from pathlib import Path",
    "Mapping": "from collections.abc import Mapping",
    **{
        name: f"import {name}"
        for name in ("csv", "datasets", "html", "os", "pandas", "re", "tokenizers", "transformers", "unicodedata")
    },
}

# Names of Python that a notebook may use for something else.
_BUILTINS = (
    *("bool", "dict", "enumerate", "float", "int", "isinstance", "iter", "len", "list", "map", "max", "min"),
    *("range", "round", "set", "sorted", "str", "sum", "tuple", "type", "zip"),
)


def bind_imports(classes: Sequence[ast.ClassDef], package: str, namespace: dict[str, Any]) -> list[ast.stmt]:
    """Make sure that the notebook has what generated code needs; return the import statements.

    A name that the notebook uses for something else keeps its value: the generated code then uses an alias.
    """
    known = {**_IMPORTS, "pl": f"import {package} as pl"}
    known |= {name: f"from builtins import {name}" for name in _BUILTINS if name in namespace}
    needed = {node.id for node in _generated_names(classes)} & known.keys()
    statements: list[ast.stmt] = []
    for name in sorted(needed, key=lambda name: known[name]):
        statement = ast.parse(known[name]).body[0]
        assert isinstance(statement, ast.Import | ast.ImportFrom)
        imported: dict[str, Any] = {}
        exec(known[name], imported)
        if not _is_same(namespace.setdefault(name, imported[name]), imported[name]):
            alias = f"_{name}"
            namespace[alias] = imported[name]
            statement.names[0].asname = alias
            for node in _generated_names(classes):
                if node.id == name:
                    node.id = alias
        statements.append(strip_positions(statement))
    return statements


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values are one; a module may have put another object in its own place since it was imported."""
    modules = isinstance(value, types.ModuleType) and isinstance(other, types.ModuleType)
    return value is other or (modules and value.__name__ == other.__name__)


def _generated_names(classes: Iterable[ast.ClassDef]) -> list[ast.Name]:
    return [read.node for item in classes for read in reads(item) if not hasattr(read.node, "lineno")]


def notebook_imports(known: Sequence[ast.stmt], code: Sequence[ast.AST], namespace: dict[str, Any]) -> list[ast.stmt]:
    """Return the imports that give what code of a cell reads from other cells, as far as imports can.

    They are for the reader of the class's text: the notebook has the names already.

    Args:
        known: statements that bind names in the text.
        code: the classes, and what else of the cell is in the text.
        namespace: the notebook's globals.
    """
    missing = sorted((names_read(*code) & namespace.keys()) - binds([*known, *code]))
    lines = [import_of(name, namespace[name]) for name in missing]
    return [strip_positions(ast.parse(text).body[0]) for text in sorted(filter(None, lines))]


def import_of(name: str, value: Any) -> str:
    """Return the import statement that binds a value to a name, empty if there is none."""
    if isinstance(value, types.ModuleType):
        if sys.modules.get(value.__name__) is not value or value.__name__ in ("__main__", "builtins"):
            return ""
        package, _, last = value.__name__.rpartition(".")
        if last == name:
            return f"from {package} import {name}" if package else f"import {name}"
        return f"import {value.__name__} as {name}"
    own, module = getattr(value, "__name__", ""), getattr(value, "__module__", None)
    if not isinstance(own, str) or not own.isidentifier() or not isinstance(module, str) or module == "__main__":
        return ""
    # The shortest package that offers it is the one that people import it from.
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), own, None) is value:
            return f"from {package} import {own}" + ("" if own == name else f" as {name}")
    return ""
