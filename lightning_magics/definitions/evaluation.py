"""Runs parts of a cell while it is being defined: what stays in the notebook, and its last expression, once.

What follows from the value is in `definitions/model/model` and `definitions/data/datamodule`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import torch

from .cell import Cell, CellSource, statements_of
from .definition import is_datamodule, is_module
from .generated import cell_text, fill_positions, register_source, snippet
from .scopes import names_read

UNKNOWN = object()  # a value that only the hyperparameters of an instance can tell


def execute(statements: list[ast.stmt], source: CellSource, namespace: dict[str, Any]) -> None:
    """Run statements of a cell in the notebook; errors of the user's code pass."""
    register_source(source.filename, cell_text(source))
    exec(compile(ast.Module(deepcopy(statements), []), source.filename, "exec", dont_inherit=True), namespace)


def run_complete_class(
    name: str | None, classes: Sequence[str], tree: ast.Module, source: CellSource, namespace: dict[str, Any]
) -> str | None:
    """Run a cell of complete classes, and return the name of the one that is meant; None where there are none."""
    if not classes:
        return None
    execute(tree.body, source, namespace)
    classes = [item for item in classes if item in namespace]  # of an if, one branch ran
    return name if name in classes else classes[-1]


def evaluate_cell(
    cell: Cell, source: CellSource | None, namespace: dict[str, Any], local_variables: dict[str, Any] | None = None
) -> Any:
    """Return the value of a cell's last expression with the default hyperparameters.

    Args:
        cell: the cell; what stays in the notebook ran already.
        source: where it stands.
        namespace: the notebook's globals.
        local_variables: takes the names that the cell's statements bound, if it is given.

    Returns:
        The value, or `UNKNOWN` where it depends on a hyperparameter without a default.
    """
    assert cell.expression is not None
    if any(item.default is None for item in cell.hyperparameters.values()):
        if names_read(cell.expression) & cell.local_names:
            return UNKNOWN
        cell = Cell(notebook=cell.notebook, expression=cell.expression)
    text = "def cell():\n    BODY\n    return (VALUE, locals())"
    function = snippet(text, BODY=cell.inner, VALUE=cell.expression)[0]
    assert isinstance(function, ast.FunctionDef)
    function.args.args = [ast.arg(name) for name in cell.hyperparameters]
    function = deepcopy(function)
    scope: dict[str, Any] = {}
    code = compile(ast.Module([fill_positions(function)], []), _filename(source), "exec", cell.flags, dont_inherit=True)
    exec(code, namespace, scope)
    value, bound = scope["cell"](**default_values(cell, source, namespace))
    if local_variables is not None:
        local_variables |= bound
    return value


def default_values(cell: Cell, source: CellSource | None, namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters' default values, None for one that has none; each is evaluated once."""
    for name, item in cell.hyperparameters.items():
        if name not in cell.values:
            value = None
            if item.default is not None:
                code = ast.Expression(fill_positions(deepcopy(item.default)))
                value = eval(compile(code, _filename(source), "eval", cell.flags, dont_inherit=True), namespace)
            cell.values[name] = value
    # What a cell does to a list of its own, such as sizes.append(10), must not show in the next use of it.
    values = {name: cell.values[name] for name in cell.hyperparameters}
    return {name: deepcopy(value) if isinstance(value, list | dict | set) else value for name, value in values.items()}


def _filename(source: CellSource | None) -> str:
    return source.filename if source else "<notebook>"


def called_class(code: ast.expr, cell: Cell, namespace: dict[str, Any]) -> type | None:
    """Return the class that a call makes an instance of, without calling it, where the notebook can tell."""
    if not isinstance(code, ast.Call) or names_read(code.func) & cell.local_names:
        return None
    function = eval(ast.unparse(code.func), namespace)
    cls = getattr(function, "__self__", function)  # a class method, such as from_pretrained
    return cls if isinstance(cls, type) else None


Kind = Literal["lightning", "module", "data"]


def class_kinds(tree: ast.Module, namespace: dict[str, Any]) -> dict[str, Kind]:
    """Return the classes of a cell that are models, networks or data, before the cell runs.

    Bases are looked up in the notebook and in what the cell imports; one that is not found is known by its name.
    """
    scope = {**namespace, **_imported(tree)}
    kinds: dict[str, Kind] = {}
    for node in statements_of(tree.body):
        targets = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute):
            kind = _kind(node.value, kinds, scope)
            kinds |= {name: kind for name in targets if kind is not None}
        elif isinstance(node, ast.ClassDef):
            base_kinds = [kind for base in node.bases if (kind := _kind(base, kinds, scope)) is not None]
            if base_kinds:
                kinds[node.name] = next((kind for kind in base_kinds if kind != "module"), "module")
    classes = {node.name for node in statements_of(tree.body) if isinstance(node, ast.ClassDef)}
    return {name: kind for name, kind in kinds.items() if name in classes}


def _imported(tree: ast.Module) -> dict[str, Any]:
    imported: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(compile(ast.Module([node], []), "<imports>", "exec", dont_inherit=True), imported)
            except Exception:  # running the cell raises it where the user sees it
                continue
    return imported


def _kind(base: ast.expr, kinds: dict[str, Kind], scope: dict[str, Any]) -> Kind | None:
    text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)  # Base[int]
    if text in kinds:
        return kinds[text]
    first, *rest = text.split(".")
    value = scope.get(first)
    for name in rest:
        value = getattr(value, name, None)
    if isinstance(value, type):
        if is_module(value) or is_datamodule(value):
            return "lightning" if is_module(value) else "data"
        return "module" if issubclass(value, torch.nn.Module) else None
    by_name: dict[str, Kind] = {"LightningModule": "lightning", "Module": "module", "LightningDataModule": "data"}
    return by_name.get(text.rpartition(".")[2])
