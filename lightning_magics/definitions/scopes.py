"""Which names a piece of code reads from outside itself, and which it binds: Python's scoping over `ast`.

What is done with them (moving statements, rewriting hyperparameters) is in `cell`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

Tree = TypeVar("Tree", bound=ast.AST)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Read:
    """A name that is read and that no function around it binds.

    Attributes:
        node: the node that reads it.
        inner: the names that the functions between it and the outermost one bind.
        outermost: whether it stands outside every function: a decorator, a default, a statement of the cell.
    """

    node: ast.Name
    inner: frozenset[str]
    outermost: bool


def reads(*nodes: ast.AST) -> list[Read]:
    """Return what the nodes read from outside themselves; each is taken as code at a module's top level.

    A class body reads from outside what it has not bound yet.
    """
    walker = _ReadCollector()
    for node in nodes:
        walker.visit(node)
    return walker.reads


def names_read(*nodes: ast.AST) -> set[str]:
    """Return the names that the nodes read from outside themselves."""
    return {read.node.id for read in reads(*nodes)}


def replace_names(tree: Tree, places: Sequence[ast.Name], values: Mapping[str, ast.expr]) -> Tree:
    """Put values in the place of names.

    Args:
        tree: an expression or more; it is changed.
        places: nodes in it.
        values: what stands for each name.
    """
    return _NameReplacer(places, values).visit(tree)  # type: ignore[no-any-return]


def binds(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that the statements bind in the scope that they stand in."""
    binder = _bind(statements)
    return binder.names - binder.elsewhere


def stores(statements: Iterable[ast.AST]) -> list[ast.Name]:
    """Return the nodes of names that the statements assign in the scope that they stand in."""
    return _bind(statements).nodes


def read_first(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that the statements read from outside before they bind them, where they run in order.

    What only some branch binds counts as not bound; what a function reads counts where it is defined.
    """
    names: set[str] = set()
    _in_order(statements, set(), names)
    return names


def binds_surely(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that the statements bind whichever branches are taken; a loop is taken to run."""
    return _in_order(statements, set(), set())


def _in_order(statements: Iterable[ast.AST], bound: set[str], read: set[str]) -> set[str]:
    """Add to `read` what is read before it is bound; return what is bound at the end."""
    bound = set(bound)
    for statement in statements:
        if isinstance(statement, ast.If):
            read |= names_read(statement.test) - bound
            bound |= binds([statement.test])
            bound = _in_order(statement.body, bound, read) & _in_order(statement.orelse, bound, read)
            continue
        blocks = [getattr(statement, name, []) for name in ("body", "handlers", "orelse", "finalbody")]
        if isinstance(
            statement, ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.ExceptHandler
        ):
            heads = [node for node in ast.iter_child_nodes(statement) if not any(node in block for block in blocks)]
            read |= names_read(*heads) - bound
            bound |= binds(heads) | {name for name in [getattr(statement, "name", None)] if name}
            for block in blocks:
                bound = _in_order(block, bound, read)
            continue
        read |= names_read(statement) - bound
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            read |= {statement.target.id} - bound
        bound |= binds([statement])
    return bound


def _bind(statements: Iterable[ast.AST]) -> _Binder:
    binder = _Binder()
    for statement in statements:
        binder.visit(statement)
    return binder


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """Return every parameter of a function, in the order of its signature."""
    starred = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def rename_variables(function: Function, names: Mapping[str, str]) -> Function:
    """Return a function whose own variables have other names; functions in it that bind such a name keep theirs."""
    function = deepcopy(function)
    for node in [*(read.node for read in reads(*function.body)), *stores(function.body)]:
        node.id = names.get(node.id, node.id)
    for statement in function.body:
        for inner in ast.walk(statement):
            if isinstance(inner, (*_FUNCTIONS, ast.ClassDef)):
                inner.name = names.get(inner.name, inner.name)
            elif isinstance(inner, ast.alias) and (inner.asname or inner.name) in names:
                inner.asname = names[inner.asname or inner.name]
    return function


class _NameReplacer(ast.NodeTransformer):
    def __init__(self, places: Sequence[ast.Name], values: Mapping[str, ast.expr]) -> None:
        self.places = places
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return deepcopy(self.values[node.id]) if node in self.places else node


class _ReadCollector(ast.NodeVisitor):
    def __init__(self) -> None:
        self.scopes: list[frozenset[str]] = []
        self.of_class: frozenset[str] = frozenset()  # what the class body around has bound; functions see none of it
        self.reads: list[Read] = []

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and not any(node.id in scope for scope in (*self.scopes, self.of_class)):
            self.reads.append(Read(node, frozenset().union(*self.scopes[1:]), outermost=not self.scopes))

    def visit_FunctionDef(self, node: Function) -> None:
        for outside in (*node.decorator_list, node.returns):
            if outside is not None:
                self.visit(outside)
        self._function(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 -- ast's own spelling

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        outer, self.of_class = self.of_class, frozenset()
        for statement in node.body:
            self.visit(statement)
            self.of_class |= binds([statement])
        self.of_class = outer

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node.args, [node.body])

    def _function(self, arguments: ast.arguments, body: Iterable[ast.AST]) -> None:
        """Defaults and annotations belong to the scope around the function, the body to its own."""
        own = parameters(arguments)
        for outside in (*arguments.defaults, *arguments.kw_defaults, *(arg.annotation for arg in own)):
            if outside is not None:
                self.visit(outside)
        self._inside({arg.arg for arg in own} | binds(body), body)

    def _inside(self, bound: set[str], nodes: Iterable[ast.AST]) -> None:
        self.scopes.append(frozenset(bound))
        outer, self.of_class = self.of_class, frozenset()
        for node in nodes:
            self.visit(node)
        self.of_class = outer
        self.scopes.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        """The first iterable is evaluated outside; the targets are the comprehension's own."""
        self.visit(node.generators[0].iter)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        conditions = [test for generator in node.generators for test in generator.ifs]
        targets: list[ast.AST] = [generator.target for generator in node.generators]
        bound = binds(targets)
        # A comprehension of the cell's top level is no function of its own: `self` cannot be shadowed there.
        self._inside(bound, [*(g.iter for g in node.generators[1:]), *conditions, *results, *targets])

    visit_ListComp = _comprehension  # noqa: N815 -- ast's own spelling
    visit_SetComp = _comprehension  # noqa: N815
    visit_GeneratorExp = _comprehension  # noqa: N815
    visit_DictComp = _comprehension  # noqa: N815


class _Binder(ast.NodeVisitor):
    """Collects what is bound in one scope: never looks inside functions, classes or comprehensions of it."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.nodes: list[ast.Name] = []
        self.elsewhere: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.names.add(node.id)
            self.nodes.append(node)

    def visit_FunctionDef(self, node: Function | ast.ClassDef) -> None:
        self.names.add(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 -- ast's own spelling
    visit_ClassDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def _comprehension(self, node: ast.AST) -> None:
        """Only `:=` reaches out of a comprehension."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                self.visit_Name(inner.target)

    visit_ListComp = _comprehension  # noqa: N815 -- ast's own spelling
    visit_SetComp = _comprehension  # noqa: N815
    visit_GeneratorExp = _comprehension  # noqa: N815
    visit_DictComp = _comprehension  # noqa: N815

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)

    visit_ImportFrom = visit_Import  # noqa: N815 -- ast's own spelling

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.elsewhere.update(node.names)

    visit_Nonlocal = visit_Global  # noqa: N815 -- ast's own spelling

    def generic_visit(self, node: ast.AST) -> None:
        """Exception handlers and match patterns hold the names that they bind as plain text."""
        for text in (getattr(node, "name", None), getattr(node, "rest", None)):
            if isinstance(text, str) and isinstance(node, ast.ExceptHandler | ast.pattern):
                self.names.add(text)
        super().generic_visit(node)
