"""The statements that a notebook has run, in the order in which it ran them, and what each of them binds and reads.

Which of them a piece of code needs is in `closure`.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..definitions.scopes import binds, read_first, reads
from ..shell import running_shell
from .layout import wrapped

_RUNS_PYTHON = ("time", "capture")  # magics whose last argument is code that runs in the notebook
_DEFINES = ("lightning_model", "lightning_data")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What a method's name says: it shows or writes, and leaves its object as it is.
_LEAVES_AS_IT_IS = ("to_", "plot", "hist", "show", "save", "head", "tail", "describe", "info", "summary", "print")


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement of a cell's top level.

    Attributes:
        tree: the statement; never changed, for it is shared by all who read the same text.
        text: as it was typed, with the comments above it.
        binds: names that it gives a value.
        at_once: names that it reads when it runs; `later`, when what it defines is called.
        changes: names whose object it plainly changes, as ``name.append(…)`` and ``name["a"] = …`` do.
        last_line: of the cell.
        magic: a magic that it calls, such as ``lightning_model``.
    """

    tree: ast.stmt
    text: str
    binds: frozenset[str]
    at_once: frozenset[str]
    later: frozenset[str]
    changes: frozenset[str]
    last_line: int
    magic: str = ""

    @property
    def asks_ipython(self) -> bool:
        """Whether only IPython can run it, as it can a ``!`` or ``%`` line."""
        return "get_ipython" in self.at_once and not isinstance(self.tree, _DEFINITIONS)

    @property
    def is_import(self) -> bool:
        """Whether it is an import."""
        return isinstance(self.tree, ast.Import | ast.ImportFrom)


@dataclass(frozen=True, eq=False)
class Unit:
    """Code that came into a notebook other than as the text of a cell: a class that a magic made, a run's source.

    Attributes:
        text: the code.
        cell: number of the cell that brought it; None outside IPython.
        typed: text of the cell that it was made from; its statements keep their comments.
        namespace: where it ran, if that is not the notebook.
    """

    text: str
    cell: int | None = None
    typed: str = ""
    namespace: Mapping[str, Any] | None = None


class History:
    """Statements that ran, oldest first; the place of each is its index.

    Code that ran in a namespace of its own has a home of its own, a number above 0: it sees nothing of the notebook.

    Attributes:
        statements: each with its home.
        namespaces: by home.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self.statements: list[tuple[Statement, int]] = []
        self.namespaces: dict[int, Mapping[str, Any]] = {0: namespace}
        self._bound: dict[tuple[int, str], list[int]] = {}
        self._changed: dict[tuple[int, str], list[int]] = {}

    def add_cell(self, text: str, units: Sequence[Unit] = (), before: int | None = None) -> None:
        """Add what a cell has run.

        Args:
            text: the cell, as IPython made Python of it.
            units: what came with it; what its magics made stands in the place of these.
            before: line that has not run, because the cell is at work there or failed there.
        """
        made = iter([unit for unit in units if unit.namespace is None])
        for statement in statements_of(text):
            if statement.magic in _DEFINES:
                unit = next(made, None)
                self._add_all(_as_typed(unit.text, unit.typed) if unit is not None else ())
            elif before is None or statement.last_line < before:
                self._add(statement, 0)
        for unit in made:
            self._add_all(_as_typed(unit.text, unit.typed))
        for unit in units:
            if unit.namespace is not None:
                self.add_home(unit)

    def add_home(self, unit: Unit) -> int:
        """Add code that ran in a namespace of its own; return its home."""
        home = len(self.namespaces)
        self.namespaces[home] = unit.namespace or {}
        self._add_all(statements_of(unit.text), home)
        return home

    def _add_all(self, statements: Iterable[Statement], home: int = 0) -> None:
        for statement in statements:
            self._add(statement, home)

    def _add(self, statement: Statement, home: int) -> None:
        place = len(self.statements)
        self.statements.append((statement, home))
        for names, index in ((statement.binds, self._bound), (statement.changes, self._changed)):
            for name in names:
                index.setdefault((home, name), []).append(place)

    def bound(self, name: str, before: int, home: int) -> list[int]:
        """Places of the statements that bound a name, oldest first."""
        return [place for place in self._bound.get((home, name), ()) if place < before]

    def changed(self, name: str, after: int, before: int, home: int) -> list[int]:
        """Places of the statements that changed the object of a name between two others."""
        return [place for place in self._changed.get((home, name), ()) if after < place < before]

    def class_place(self, name: str) -> int | None:
        """Place of the latest definition of a class, in whatever home."""
        for place in range(len(self.statements) - 1, -1, -1):
            tree = self.statements[place][0].tree
            if isinstance(tree, ast.ClassDef) and tree.name == name:
                return place
        return None


def of_notebook(
    namespace: Mapping[str, Any], units: Sequence[Unit] = (), failed: Mapping[int, int] | None = None
) -> History:
    """Return what this notebook has run so far; outside IPython, what the script holds.

    Args:
        namespace: the notebook's globals.
        units: what came into it other than as text of its cells.
        failed: of each cell that failed, the line that it failed in.
    """
    history = History(namespace)
    shell = running_shell()
    if shell is None:
        history.add_cell(_script(), units)
        return history
    cells = list(shell.user_ns.get("In", ()))
    for number, text in enumerate(cells):
        before = (failed or {}).get(number)
        if number == len(cells) - 1 and number == shell.execution_count:
            before = before or _running_line(shell.user_ns)
        history.add_cell(str(text), [unit for unit in units if unit.cell == number], before)
    history.add_cell("", [unit for unit in units if unit.cell is None or unit.cell >= len(cells)])
    return history


def _script() -> str:
    """Text of the script that runs, empty where there is none."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, ValueError):
        return ""


def _running_line(namespace: Mapping[str, Any]) -> int | None:
    """Line of the cell that runs now, None where a thread or the like asks."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals is namespace:
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


@functools.lru_cache(maxsize=4096)
def statements_of(text: str) -> tuple[Statement, ...]:
    """Return the statements of a text's top level; none of one that is no Python."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return ()
    lines = text.splitlines()
    found: list[Statement] = []
    for at, tree in enumerate(body):
        alone = _stands_alone(body, at)
        magic, inner = _magic(tree)
        if magic in _RUNS_PYTHON:
            found += (replace(item, last_line=tree.end_lineno or 0) for item in statements_of(inner))
        elif not isinstance(tree, ast.Delete):
            cut = _cut(lines, tree) if alone else ast.get_source_segment(text, tree) or ast.unparse(tree)
            found.append(_described(tree, cut, magic))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _as_typed(text: str, cell: str) -> tuple[Statement, ...]:
    """Statements of generated code, those that its cell has too as they were typed."""
    if text == cell:
        return statements_of(text)
    typed = {ast.dump(item.tree): item.text for item in statements_of(cell)}
    found = []
    for item in statements_of(text):
        as_typed = typed.get(ast.dump(item.tree))
        found.append(replace(item, text=wrapped(item.text) if as_typed is None else as_typed))
    return tuple(found)


def _described(tree: ast.stmt, text: str, magic: str) -> Statement:
    read = reads(tree)
    later = frozenset(item.node.id for item in read if not item.outermost)
    at_once = {item.node.id for item in read if item.outermost}
    if not isinstance(tree, _DEFINITIONS):
        at_once = read_first([tree])
    for node in _outside_functions(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            at_once.add(node.target.id)
    bound, changed = frozenset(binds([tree])), frozenset(_changed(tree))
    return Statement(tree, text, bound, frozenset(at_once), later, changed, tree.end_lineno or 0, magic)


def _magic(tree: ast.stmt) -> tuple[str, str]:
    """Name of the magic that a statement calls, and its last argument; empty for any other statement."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call) and isinstance(tree.value.func, ast.Attribute):
        called, arguments = tree.value.func, [getattr(item, "value", None) for item in tree.value.args]
        if called.attr in ("run_cell_magic", "run_line_magic") and all(isinstance(item, str) for item in arguments):
            return str(arguments[0]), str(arguments[-1])
    return "", ""


def _stands_alone(body: Sequence[ast.stmt], at: int) -> bool:
    """Whether no other statement is on the lines of one."""
    before, after = body[at - 1] if at else None, body[at + 1] if at + 1 < len(body) else None
    return (before is None or (before.end_lineno or 0) < body[at].lineno) and (
        after is None or after.lineno > (body[at].end_lineno or 0)
    )


def _cut(lines: Sequence[str], tree: ast.stmt) -> str:
    """Return the lines of a statement, with its decorators and the comments right above it."""
    start = min([tree.lineno, *(item.lineno for item in getattr(tree, "decorator_list", ()))]) - 1
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : tree.end_lineno]).rstrip()


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run with a statement itself, not when something is called."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def _changed(tree: ast.stmt) -> set[str]:
    """Names whose object a statement plainly changes."""
    found: set[str] = set()
    for node in _outside_functions(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found |= _root(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found |= _changed_by(node.value)
    return found


def _changed_by(call: ast.Call) -> set[str]:
    """Names whose object a call changes, where nothing is done with what it returns."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    found = {item for argument in call.args for item in _root(argument)} if _fills(name) else set()
    if isinstance(call.func, ast.Attribute) and not name.startswith(_LEAVES_AS_IT_IS):
        found |= _root(call.func)
    return found


def _fills(name: str) -> bool:
    """Whether a function's name says that it changes what it is given, as ``shuffle`` and torch's ``zeros_`` do."""
    return name == "shuffle" or (name.endswith("_") and not name.startswith("_"))


def _root(node: ast.AST) -> set[str]:
    """The name that a chain of attributes, items and calls begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def sets(statement: Statement) -> str:
    """What a statement sets for all that comes after it: ``seed``, ``setting`` (the path, torch), or nothing."""
    tree = statement.tree
    if _is_seed(tree):
        return "seed"
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call):
        called = ast.unparse(tree.value.func)
        last = called.rpartition(".")[2]
        of_torch = called.startswith("torch.") and last.startswith(("set_", "use_deterministic"))
        return "setting" if of_torch or called.startswith("sys.path.") else ""
    assigned = isinstance(tree, ast.Assign) and ast.unparse(tree.targets[0]).startswith("torch.backends.")
    return "setting" if assigned else ""


def sets_a_seed(text: str) -> bool:
    """Whether code seeds torch, as far as its own statements tell."""
    trees = [statement.tree for statement in statements_of(text)]
    functions = {tree.name: tree for tree in trees if isinstance(tree, ast.FunctionDef)}
    return any(_seeds_torch(tree) or _calls_seeding(tree, functions) for tree in trees)


def calls_seeding(statement: Statement, functions: Mapping[str, ast.stmt]) -> bool:
    """Whether a statement calls one of some functions that does nothing but seed and set."""
    return _calls_seeding(statement.tree, functions)


def _calls_seeding(tree: ast.stmt, functions: Mapping[str, ast.stmt]) -> bool:
    if not (isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call) and isinstance(tree.value.func, ast.Name)):
        return False
    called = functions.get(tree.value.func.id)
    if not isinstance(called, ast.FunctionDef):
        return False
    return any(map(_seeds_torch, ast.walk(called))) and all(map(_only_sets, called.body))


def _only_sets(tree: ast.stmt) -> bool:
    """Whether a statement of a function that seeds does nothing that could take long."""
    if isinstance(tree, ast.If):
        return all(map(_only_sets, [*tree.body, *tree.orelse]))
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call):
        called = ast.unparse(tree.value.func)
        return _is_seed(tree) or called.startswith("torch.") or called == "print"
    return not isinstance(tree, ast.For | ast.While | ast.With | ast.Try)


_SEEDS = ("manual_seed", "manual_seed_all", "seed", "seed_all", "seed_everything", "set_seed")


def _is_seed(tree: ast.AST) -> bool:
    """Whether a statement seeds, and does nothing else."""
    if isinstance(tree, ast.If):
        return all(isinstance(item, ast.Pass) or _is_seed(item) for item in [*tree.body, *tree.orelse])
    if isinstance(tree, ast.Expr):
        calls = tree.value.elts if isinstance(tree.value, ast.Tuple) else [tree.value]
        return any(isinstance(call, ast.Call) and "seed" in _last(call) for call in calls)
    if not (isinstance(tree, ast.Assign | ast.AnnAssign) and isinstance(tree.value, ast.Call)):
        return False
    return _last(tree.value) in _SEEDS and not any(isinstance(node, ast.Call) for node in ast.walk(tree.value.func))


def _seeds_torch(tree: ast.AST) -> bool:
    """Whether a statement seeds torch, and with a number: ``torch.seed()`` draws one."""
    calls = [node for node in _outside_functions(tree) if isinstance(node, ast.Call)] if _is_seed(tree) else []
    named = [(ast.unparse(call.func), bool(call.args or call.keywords)) for call in calls]
    return any(
        "seed" in name
        and not name.endswith("random.seed")
        and not any(item in name for item in ("(", ".cuda."))
        and (given or "everything" in name)
        for name, given in named
    )


def _last(call: ast.Call) -> str:
    """Last name of what is called."""
    return ast.unparse(call.func).rpartition(".")[2]
