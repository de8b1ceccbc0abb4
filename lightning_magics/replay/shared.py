"""Definitions with the same source in the notebook and in a run: the run uses the notebook's own objects.

Then ``is`` and ``isinstance`` hold between the two, as for the members of an Enum.
A definition that holds state, such as a counter or a generator of random numbers, is the run's own: what the notebook
has done with its own one would change the run, and the run would change it for the notebook.
"""

from __future__ import annotations

import ast
from types import FunctionType
from typing import Any

from ..training.main_module import source_namespace
from .changes import DEFINITIONS
from .closure import Closure
from .history import History

_STATELESS = (  # decorators, and calls in a class body, after which nothing is left that could change
    *("auto", "field", "NamedTuple", "namedtuple", "dataclass", "unique"),
    *("property", "setter", "staticmethod", "classmethod", "abstractmethod", "override", "final"),
    *("no_grad", "inference_mode"),
)
_MUTABLE_NODES = (
    *(ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp),
    *(ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom),
)


def shared_definition(notebook: History, name: str, source: History) -> Any:
    """The class or function of a name that the notebook has of the same source, else None.

    Args:
        notebook: what it has run.
        name: that is defined.
        source: the recorded statements; what they need of each other is the same in the notebook too.
    """
    closure = Closure(source)
    closure.need_code(name)
    others = {tree.name for tree in closure.trees or () if isinstance(tree, DEFINITIONS)} - {name}
    value = _same_definition(notebook, name, source)
    # One of the others that the notebook has defined anew since is another than this one was made with.
    return value if all(_same_definition(notebook, other, source) is not None for other in others) else None


def _same_definition(notebook: History, name: str, source: History) -> Any:
    """The same, whether or not what it was made with is what the notebook has now."""
    value = notebook.namespaces[0].get(name)
    closure = Closure(source)
    closure.need_code(name)
    needed = _without_state(closure.trees)
    if not isinstance(value, type | FunctionType) or needed is None:
        return None
    for home, namespace in notebook.namespaces.items():
        if namespace.get(name) is not value or home == notebook.local_home:
            continue
        own = Closure(notebook)
        own.need_code(name, home)
        if _without_state(own.trees) == needed:
            return value
    return None


def redefined_names(notebook: History, cls: type) -> list[str]:
    """Names that a class of a loaded run uses with the run's definition, where the notebook's differs."""
    loaded, current = source_namespace(cls), notebook.namespaces[0]
    home = next((home for home, namespace in notebook.namespaces.items() if namespace is loaded), 0)
    if not home:
        return []
    closure = Closure(notebook)
    closure.need_code(cls.__name__, home)
    used = {notebook.statements[place][0] for place in closure.places if notebook.statements[place][1] == home}
    names = {name for statement in used if not statement.is_import for name in statement.binds} - {cls.__name__}
    return sorted(
        name
        for name in names
        if name in current and current[name] is not loaded.get(name)
        if notebook.statement_dump(name, 0) not in ("", notebook.statement_dump(name, home))
    )


def _without_state(trees: list[ast.stmt] | None) -> frozenset[str] | None:
    """Statements, to be compared; None where one of them holds state, or their order could make a difference."""
    if trees is None:
        return None
    names = {"cls"} | {tree.name for tree in trees if isinstance(tree, DEFINITIONS)}
    return None if any(_holds_state(tree, names) for tree in trees) else frozenset(map(ast.dump, trees))


def _holds_state(tree: ast.stmt, classes: set[str]) -> bool:
    """Whether a statement does more than define what stays as it is.

    Args:
        tree: a statement of the top level, or of a class.
        classes: names of classes and functions, whose attributes must not be set.
    """
    if isinstance(tree, ast.Import | ast.ImportFrom | ast.Pass):
        return False
    if isinstance(tree, ast.Assign):
        return not all(isinstance(target, ast.Name) for target in tree.targets) or _is_mutable(tree.value)
    if isinstance(tree, ast.AnnAssign):
        return not isinstance(tree.target, ast.Name) or _is_mutable(tree.value)
    if isinstance(tree, ast.Expr):
        return not isinstance(tree.value, ast.Constant)
    if not isinstance(tree, DEFINITIONS) or any(map(_may_keep_state, tree.decorator_list)):
        return True
    if isinstance(tree, ast.ClassDef):
        expressions = [*tree.bases, *(keyword.value for keyword in tree.keywords)]
        return any(map(_is_mutable, expressions)) or any(_holds_state(item, classes) for item in tree.body)
    return any(map(_is_mutable, [*tree.args.defaults, *tree.args.kw_defaults])) or any(
        isinstance(node, ast.Global) or _sets_attribute(node, classes) for node in ast.walk(tree)
    )


def _is_mutable(value: ast.expr | None) -> bool:
    """Whether an expression makes an object that can change."""
    nodes = list(ast.walk(value)) if value is not None else []
    return any(
        isinstance(node, _MUTABLE_NODES) or (isinstance(node, ast.Call) and _may_keep_state(node)) for node in nodes
    )


def _may_keep_state(code: ast.expr) -> bool:
    """Whether a decorator, or a call, may keep something, as ``lru_cache`` does."""
    function = code.func if isinstance(code, ast.Call) else code
    return ast.unparse(function).rpartition(".")[2] not in _STATELESS


def _sets_attribute(node: ast.AST, classes: set[str]) -> bool:
    """Whether a node sets an attribute of a class: ``Net.count``, ``cls.count``, ``type(self).count``."""
    is_call = isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr") and bool(node.args)
    if is_call:
        owner: ast.expr = node.args[0]  # type: ignore[attr-defined]
    elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        owner = node.value
    else:
        return False
    while isinstance(owner, ast.Attribute | ast.Subscript):
        if isinstance(owner, ast.Attribute) and owner.attr == "__class__":
            return True
        owner = owner.value
    if isinstance(owner, ast.Call):
        return ast.unparse(owner.func) == "type"
    return isinstance(owner, ast.Name) and owner.id in classes | {"__class__"}
