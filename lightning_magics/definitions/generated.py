"""The generated class as code: pieces of it from fixed texts, its text, and compiling it with the right lines.

The pieces that a class is made of are in `definitions/model/steps`, `definitions/model/optimizers` and
`definitions/data/loaders`; its imports are in `imports`.
"""

from __future__ import annotations

import ast
import linecache
import types
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from .cell import CellSource, future_flags

Node = TypeVar("Node", bound=ast.AST)
_POSITION = ("lineno", "col_offset", "end_lineno", "end_col_offset")


def strip_positions(node: Node) -> Node:
    """Mark a tree as generated: nodes without a place in the cell. Returns it."""
    for part in ast.walk(node):
        for attribute in _POSITION:
            vars(part).pop(attribute, None)
    return node


def has_position(node: ast.AST) -> bool:
    """Whether any part of a tree stands in the cell."""
    return any(hasattr(part, "lineno") for part in ast.walk(node))


def snippet(text: str, **parts: Any) -> list[ast.stmt]:
    """Return the statements of a fixed text, its capital names replaced by other trees.

    Args:
        text: Python code, a constant of the package.
        parts: what stands for a name: an expression, or a list of statements where the name is a statement.
    """
    tree = strip_positions(ast.parse(text))
    return _PlaceholderFiller(parts).visit(tree).body  # type: ignore[no-any-return]


def method(text: str, **parts: Any) -> ast.FunctionDef:
    """Return the one function of a `snippet`."""
    (function,) = snippet(text, **parts)
    assert isinstance(function, ast.FunctionDef)
    return function


def expression(text: str, **parts: Any) -> ast.expr:
    """Return the expression of a fixed text; see `snippet`."""
    (statement,) = snippet(text, **parts)
    assert isinstance(statement, ast.Expr)
    return statement.value


class _PlaceholderFiller(ast.NodeTransformer):
    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Name) and isinstance(self.parts.get(node.value.id), list):
            return self.parts[node.value.id]
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        return self.parts.get(node.id, node)


@dataclass(frozen=True)
class GeneratedCode:
    """Classes ready to be executed, and the text of all of it."""

    text: str
    code: types.CodeType


def assemble(
    before: list[ast.stmt], classes: list[ast.ClassDef], name: str, source: CellSource | None
) -> GeneratedCode:
    """Compile generated classes.

    Methods that hold nothing of the cell belong to the file ``<lightning_source NAME>``, which is the text of all;
    everything else stays on the lines of the cell.

    Args:
        before: statements that ran already (imports, the notebook's part of the cell), for the text alone.
        classes: the classes.
        name: of the text.
        source: cell that parts of the classes come from.
    """
    filename = f"<lightning_source {name}>"
    before = sorted(before, key=lambda item: not (isinstance(item, ast.ImportFrom) and item.module == "__future__"))
    flags = future_flags(before)
    # Unparsing asks for line numbers, which generated nodes only get below.
    text = ast.unparse(ast.fix_missing_locations(deepcopy(ast.Module([*before, *classes], [])))) + "\n"
    register_source(filename, text)
    in_text = ast.parse(text, filename).body[len(before) :]
    generated_members: dict[str, set[str]] = {}
    for item, reparsed in zip(classes, in_text, strict=True):
        assert isinstance(reparsed, ast.ClassDef)
        generated_members[item.name] = set()
        for position, member in enumerate(item.body):
            if has_position(member):
                fill_positions(member)
            else:
                item.body[position] = reparsed.body[position]
                generated_members[item.name].add(getattr(member, "name", ""))
        ast.copy_location(item, reparsed)
        for part in (*item.bases, *item.decorator_list):
            for node in ast.walk(part):
                ast.copy_location(node, reparsed)
    place = source.filename if source else filename
    code = compile(ast.Module(list(classes), []), place, "exec", flags, dont_inherit=True)
    if source is not None:
        register_source(source.filename, cell_text(source))
    return GeneratedCode(text, _with_generated_file(code, generated_members, filename))


def cell_text(source: CellSource) -> str:
    """Return a whole cell as Python reads it: what stands above the body is a comment."""
    return "# the magic's line\n" * (source.first_line - 1) + source.text


def register_source(filename: str, text: str) -> None:
    """Let tracebacks, debuggers and `inspect` find a text that no file holds; replaces what is known of it."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    # Without a modification time the entry survives linecache.checkcache.
    linecache.cache[filename] = (len(text), None, lines, filename)


def fill_positions(tree: Node) -> Node:
    """Give generated nodes among the cell's the place of the nearest node of the cell. Returns the tree."""
    nodes = list(_preorder(tree))
    following: ast.AST | None = None
    nearest: dict[int, ast.AST] = {}
    for node in reversed(nodes):
        following = node if hasattr(node, "lineno") else following
        if following is not None:
            nearest[id(node)] = following
    previous: ast.AST | None = None
    for node in nodes:
        previous = node if hasattr(node, "lineno") else previous
        place = nearest.get(id(node), previous)
        if not hasattr(node, "lineno") and "lineno" in node._attributes and place is not None:
            ast.copy_location(node, place)
    return ast.fix_missing_locations(tree)  # where nothing is of the cell


def _preorder(node: ast.AST) -> Iterable[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _preorder(child)


def _with_generated_file(code: types.CodeType, generated_members: dict[str, set[str]], filename: str) -> types.CodeType:
    """Return a module's code with the generated methods of its classes in a file of their own."""

    def methods(cls: types.CodeType) -> types.CodeType:
        return _with_codes(
            cls,
            lambda inner: _with_filename(inner, filename) if inner.co_name in generated_members[cls.co_name] else inner,
        )

    return _with_codes(code, methods)


def _with_filename(code: types.CodeType, filename: str) -> types.CodeType:
    return _with_codes(code, lambda inner: _with_filename(inner, filename)).replace(co_filename=filename)


def _with_codes(code: types.CodeType, change: Callable[[types.CodeType], types.CodeType]) -> types.CodeType:
    consts = tuple(change(item) if isinstance(item, types.CodeType) else item for item in code.co_consts)
    return code.replace(co_consts=consts)
