"""Which names' objects a statement plainly changes, as ``name.append(…)`` and ``name["a"] = …`` do."""

from __future__ import annotations

import ast
from collections.abc import Iterator

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What a method's name says: it shows or writes, and leaves its object as it is.
_READ_ONLY = ("to_", "plot", "hist", "show", "save", "head", "tail", "describe", "info", "summary", "print")


def nodes_outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run with a statement itself, not when something is called."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, (*DEFINITIONS, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)


def changed_names(tree: ast.AST) -> set[str]:
    """Names whose object a statement, or a part of one, plainly changes."""
    names: set[str] = set()
    for node in nodes_outside_functions(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names |= _root_name(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            names |= _names_changed_by(node.value)
    return names


def _names_changed_by(call: ast.Call) -> set[str]:
    """Names whose object a call changes, where nothing is done with what it returns."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    names = {item for argument in call.args for item in _root_name(argument)} if _changes_arguments(name) else set()
    if isinstance(call.func, ast.Attribute) and not name.startswith(_READ_ONLY):
        names |= _root_name(call.func)
    return names


def _changes_arguments(name: str) -> bool:
    """Whether a function's name says that it changes what it is given, as ``shuffle`` and torch's ``zeros_`` do."""
    return name == "shuffle" or (name.endswith("_") and not name.startswith("_"))


def _root_name(node: ast.AST) -> set[str]:
    """The name that a chain of attributes, items and calls begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()
