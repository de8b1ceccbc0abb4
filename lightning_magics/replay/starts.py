"""Which code starts a run: by this package's functions, by its magics, or by a Trainer."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable

PACKAGE = __name__.partition(".")[0]
DEFINING_MAGICS = ("lightning_model", "lightning_data")
TRAINER_METHODS = ("fit", "validate", "test", "predict", "train")


def imports_package(tree: ast.stmt, name: str = "") -> bool:
    """Whether a statement imports from this package; `name` asks for one of the names that it binds."""
    if isinstance(tree, ast.ImportFrom):
        return (tree.module or "").partition(".")[0] == PACKAGE
    aliases = tree.names if isinstance(tree, ast.Import) else []
    aliases = [item for item in aliases if name in ("", item.asname, item.name.partition(".")[0])]
    return any(item.name.partition(".")[0] == PACKAGE for item in aliases)


@functools.lru_cache(maxsize=4096)
def starts_a_run(tree: ast.stmt) -> bool:
    """Whether code starts a run, as far as it tells without the names that it reads from outside."""
    nodes = list(ast.walk(tree))
    trainers = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and is_trainer(node)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return (
        any(isinstance(node, ast.Import | ast.ImportFrom) and imports_package(node) for node in nodes)
        or any(map(_is_magic, nodes))
        or any(is_run_of_trainer(receiver, trainers, name) for receiver, name in method_calls(tree))
    )


@functools.lru_cache(maxsize=4096)
def method_calls(tree: ast.AST) -> tuple[tuple[ast.expr, str], ...]:
    """What methods are called on, each with the method's name."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return tuple((item.value, item.attr) for item in functions if isinstance(item, ast.Attribute))


def called_class(node: ast.AST | None) -> str:
    """Name of what a call, or the assignment of one, calls, as of the class of an object; empty for other code."""
    call = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else node
    return ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""


def is_run_of_trainer(receiver: ast.AST, trainers: Iterable[str], method: str) -> bool:
    """Whether a method that is called is one that starts a run, if what it is called on is a Trainer."""
    name = getattr(receiver, "id", "")
    return method in TRAINER_METHODS and (is_trainer(receiver) or name in trainers or "trainer" in name.lower())


def is_trainer(node: ast.AST) -> bool:
    """Whether code makes a Trainer, or assigns one."""
    return called_class(node).endswith("Trainer")


def _is_magic(node: ast.AST) -> bool:
    """Whether a node calls one of the magics that run something, or bring a run back."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
        return False
    first = getattr(node.args[0], "value", None)
    is_ours = isinstance(first, str) and first.startswith("lightning_") and first not in DEFINING_MAGICS
    return is_ours and node.func.attr in ("run_line_magic", "run_cell_magic")
