"""The source of a cell and its parts: hyperparameters, hooks, what runs in the notebook, what is built anew.

Evaluating it is in `evaluation`, generating classes from it in `definitions/model/model` and
`definitions/data/datamodule`.
"""

from __future__ import annotations
import __future__

import ast
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from ..errors import InputError
from .scopes import Function, binds, names_read, parameters, read_first, reads, stores


@dataclass(frozen=True)
class CellSource:
    """The text under a cell magic, and where it stands.

    Attributes:
        text: the cell's body, without the line of the magic.
        filename: the name under which the executing cell is compiled.
        first_line: line of the cell that the body begins at, from 1.
    """

    text: str
    filename: str
    first_line: int = 2


@dataclass(frozen=True)
class Hyperparameter:
    """A constructor argument: an annotated assignment of the cell, or one that an option adds."""

    name: str
    annotation: ast.expr | None = None
    default: ast.expr | None = None


@dataclass
class Cell:
    """A cell taken apart.

    Attributes:
        docstring: a string that opens the cell, else None.
        hyperparameters: annotated assignments by name.
        hooks: functions with `self`, which become methods.
        notebook: statements that run in the notebook's namespace.
        inner: statements that run anew for every instance.
        expression: the last statement, if it is an expression.
        values: default values of hyperparameters, once they were evaluated.
    """

    docstring: str | None = None
    hyperparameters: dict[str, Hyperparameter] = field(default_factory=dict)
    hooks: list[Function] = field(default_factory=list)
    notebook: list[ast.stmt] = field(default_factory=list)
    inner: list[ast.stmt] = field(default_factory=list)
    expression: ast.expr | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def in_text(self) -> list[ast.stmt]:
        """Statements of the notebook that the class's text shows: no ``!`` and ``%`` lines, which only IPython runs."""
        return [statement for statement in self.notebook if not _is_magic_line(statement)]

    @property
    def flags(self) -> int:
        """Flags for compiling code of the cell, of its ``from __future__ import``."""
        return future_flags(self.notebook)

    @property
    def local_names(self) -> set[str]:
        """Names that belong to an instance, not to the notebook."""
        return set(self.hyperparameters) | binds(self.inner)


def class_names(text: str) -> list[str]:
    """The names of the classes that a cell defines, as far as its text tells without being parsed."""
    return re.findall(r"^class (\w+)", text, re.MULTILINE)


def parse(source: CellSource) -> ast.Module:
    """Parse a cell so that every node, and a SyntaxError too, carries the line of the cell that it stands in."""
    return ast.parse("\n" * (source.first_line - 1) + source.text, source.filename)


def split(tree: ast.Module) -> Cell:
    """Take a cell apart.

    Statements without a place of their own are built anew for every instance where the cell is a network; beside
    hooks they stay in the notebook, but for those that need a hyperparameter or that the network needs.

    Raises:
        InputError: a hyperparameter's default needs what only exists inside an instance.
    """
    cell = Cell()
    body = list(tree.body)
    if len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        cell.docstring = body[0].value.value if isinstance(body[0].value.value, str) else None
        body = body[1:]
    if body and isinstance(body[-1], ast.Expr) and not _is_magic_line(body[-1]):
        cell.expression = body[-1].value
        body = body[:-1]
    rest: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            cell.hyperparameters[name] = Hyperparameter(name, statement.annotation, statement.value)
        elif is_hook(statement):
            cell.hooks.append(statement)
        else:
            rest.append(statement)
    inner = _find_inner(rest, cell)
    cell.inner = [statement for statement in rest if id(statement) in inner]
    cell.notebook = [statement for statement in rest if id(statement) not in inner]
    _check_defaults(cell)
    return cell


def rename_rebound(cell: Cell, known: Collection[str]) -> None:
    """Give names of their own to what instances make from a variable of the notebook of the same name.

    Their statements move into a function, where ``width = width + 1`` would find no `width`.

    Args:
        cell: the cell, changed in place.
        known: names of the notebook, once the cell's own part ran there.

    Raises:
        InputError: the name is bound by something other than an assignment.
    """
    last = [cell.expression] if cell.expression is not None else []
    code: list[ast.AST] = [*cell.inner, *last]
    rebound = read_first(code) & binds(code) & set(known) - cell.hyperparameters.keys()
    cell.inner = [_unaugmented(statement, rebound) for statement in cell.inner]
    code = [*cell.inner, *last]
    used = {node.id for part in (*code, *cell.hooks) for node in ast.walk(part) if isinstance(node, ast.Name)}
    for name in sorted(rebound):
        own = f"{name}_"
        while own in used or own in known or own in cell.hyperparameters:
            own += "_"
        at = next((at for at, item in enumerate(cell.inner) if name in binds([item])), None)
        # Where an assignment comes first, it reads the notebook's; else the name of its own starts as the notebook's.
        plain = at is not None and isinstance(cell.inner[at], ast.Assign) and name not in names_read(*cell.inner[:at])
        of_notebook = {id(read.node) for read in reads(cell.inner[at])} if plain and at is not None else set()
        for node in [*stores(code), *(read.node for read in reads(*code, *cell.hooks))]:
            if node.id == name and id(node) not in of_notebook:
                node.id = own
        if name in binds(code):
            raise InputError(
                f"the cell computes {name} from the notebook's {name}. Give the result a different name, such as {own}"
            )
        if not plain:
            start = ast.Assign([ast.Name(own, ast.Store())], ast.Name(name, ast.Load()))
            cell.inner.insert(0, start)


def _unaugmented(statement: ast.stmt, names: set[str]) -> ast.stmt:
    """Return ``name += value`` as ``name = name + value``, which leaves an array or list of the notebook as it is."""
    if not (isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name)):
        return statement
    if statement.target.id not in names:
        return statement
    read = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement.target)
    value = ast.copy_location(ast.BinOp(read, statement.op, statement.value), statement)
    return ast.copy_location(ast.Assign([statement.target], value), statement)


def last_name(tree: ast.Module) -> str:
    """Return what to say to a cell that ends by giving its result a name, empty for another."""
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Assign) and isinstance(last.targets[-1], ast.Name):
        return f" (add a last line: {last.targets[-1].id})"
    return ""


def is_hook(statement: ast.stmt) -> TypeGuard[Function]:
    """Whether a top-level statement is a method without its class: it takes `self`, or says that it takes none."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    positional = [*statement.args.posonlyargs, *statement.args.args]
    marks = {item.id for item in statement.decorator_list if isinstance(item, ast.Name)}
    return bool(marks & {"staticmethod", "classmethod"}) or bool(positional and positional[0].arg == "self")


def _find_inner(statements: list[ast.stmt], cell: Cell) -> set[int]:
    """Return the ids of the statements that must run inside an instance."""
    stays = {id(item) for item in statements if _stays(item)}
    for position, item in enumerate(statements):
        # What an import may need, such as sys.path.insert(0, "src"), runs before it.
        imports = any(isinstance(later, _IMPORTS) for later in statements[position:])
        if imports and not binds([item]):
            stays.add(id(item))
    chosen = {id(item) for item in statements if not cell.hooks and id(item) not in stays}
    known = set(cell.hyperparameters)
    while True:
        known |= binds(item for item in statements if id(item) in chosen)
        needed = _network_names(statements, cell) if cell.hooks else set()
        dependent = {
            id(item)
            for item in statements
            if not isinstance(item, _IMPORTS)
            and (names_read(item) & known or (id(item) not in stays and binds([item]) & needed))
        }
        if dependent <= chosen:
            return chosen
        chosen |= dependent


_IMPORTS = (ast.Import, ast.ImportFrom)
_DEFINITIONS = (*_IMPORTS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _stays(statement: ast.stmt) -> bool:
    """Whether a statement stays in the notebook where it reads nothing of an instance."""
    if isinstance(statement, ast.If | ast.Try):
        blocks = [node for node in _block(statement) if not isinstance(node, ast.Pass)]
        return any(map(_stays, blocks)) and all(_stays(node) or isinstance(node, ast.Assign) for node in blocks)
    return isinstance(statement, _DEFINITIONS) or _is_magic_line(statement)


def statements_of(statements: Iterable[ast.stmt]) -> list[ast.stmt]:
    """Return statements with those of the branches of ``if`` and ``try`` among them."""
    flat: list[ast.stmt] = []
    for statement in statements:
        flat += statements_of(_block(statement)) if isinstance(statement, ast.If | ast.Try) else [statement]
    return flat


def _block(statement: ast.If | ast.Try) -> list[ast.stmt]:
    """Return the statements of all branches."""
    block = [*statement.body, *statement.orelse]
    if isinstance(statement, ast.Try):
        block += [*statement.finalbody, *(node for handler in statement.handlers for node in handler.body)]
    return block


def _is_magic_line(statement: ast.stmt) -> bool:
    """Whether a statement is a ``!`` or ``%`` line, as IPython writes those in Python."""
    return not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
        "get_ipython" in names_read(statement)
    )


def future_flags(statements: Iterable[ast.stmt]) -> int:
    """Return the flags for `compile` that ``from __future__ import`` among the statements asks for."""
    flags = 0
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            for item in statement.names:
                flags |= getattr(__future__, item.name).compiler_flag
    return flags


def lightning_package(tree: ast.Module) -> Literal["lightning.pytorch", "pytorch_lightning"] | None:
    """Return the Lightning package that a cell imports, None if it imports none."""
    for node in ast.walk(tree):
        names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            if name in ("lightning", "lightning.pytorch") or name.startswith("lightning.pytorch."):
                return "lightning.pytorch"
            if name.partition(".")[0] == "pytorch_lightning":
                return "pytorch_lightning"
    return None


def own_attributes(hooks: Iterable[ast.AST]) -> set[str]:
    """Return the attributes of `self` that hooks read and never set."""
    nodes = [node for hook in hooks for node in ast.walk(hook) if isinstance(node, ast.Attribute)]
    own = [node for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "self"]
    return {node.attr for node in own} - {node.attr for node in own if not isinstance(node.ctx, ast.Load)}


def _network_names(statements: list[ast.stmt], cell: Cell) -> set[str]:
    """Return the names that an instance needs: its network, and attributes of hooks; through other statements too."""
    needed = names_read(cell.expression) if cell.expression is not None else set()
    needed |= own_attributes(cell.hooks)
    for statement in reversed(statements):
        if binds([statement]) & needed:
            needed |= names_read(statement)
    return needed


def _check_defaults(cell: Cell) -> None:
    for item in cell.hyperparameters.values():
        read = names_read(item.default) & cell.local_names if item.default is not None else set()
        if read:
            name = min(read)
            raise InputError(
                f"the default of the hyperparameter {item.name!r} uses {name!r}, which the cell creates for each "
                f"instance. Write the value itself, or use an ordinary assignment: {item.name} = ..."
            )


def use_attributes(function: Function, attributes: dict[str, str]) -> None:
    """Rewrite the bare names that a method reads from outside itself as attributes of `self`.

    Args:
        function: the method, changed in place.
        attributes: name to where it is found, such as ``{"hidden": "self.hparams.hidden"}``.

    Raises:
        InputError: a name stands where there is no `self` to read it from.
    """
    own = {arg.arg for arg in parameters(function.args)}
    targets = {}
    for read in reads(function):
        name = read.node.id
        if name in attributes:
            if read.outermost or "self" in read.inner or "self" not in own:
                raise InputError(
                    f"{function.name} reads {name!r} in line {read.node.lineno}, where the instance is not accessible. "
                    f"Read it in the body of a hook: value = {attributes[name]}"
                )
            targets[id(read.node)] = attributes[name]
    _Rewriter(targets).visit(function)


class _Rewriter(ast.NodeTransformer):
    def __init__(self, targets: dict[int, str]) -> None:
        self.targets = targets

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if id(node) not in self.targets:
            return node
        first, *rest = self.targets[id(node)].split(".")
        attribute_path: ast.expr = ast.Name(first, ast.Load())
        for attribute in rest:
            attribute_path = ast.Attribute(attribute_path, attribute, ast.Load())
        if hasattr(node, "lineno"):
            for part in ast.walk(attribute_path):
                ast.copy_location(part, node)
        return attribute_path


def calls(statements: Iterable[ast.AST], method: str) -> list[ast.Call]:
    """Return the calls of a method of that name, whatever it is called on."""
    return [
        node
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]


def hparams_read(functions: Iterable[ast.AST]) -> set[str]:
    """Return the names that are read as ``hparams.NAME``."""
    return {
        node.attr
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "hparams"
    }
