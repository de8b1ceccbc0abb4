"""The statements that a notebook has run, in the order in which it ran them, and what each of them binds and reads.

Which of them a piece of code needs is in `closure`.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from ..definitions.scopes import binds, binds_surely, read_first, reads, rename_variables
from ..shell import running_shell
from . import blocks
from .changes import DEFINITIONS, changed_names, nodes_outside_functions
from .layout import wrap_code
from .plain import is_plain
from .starts import (
    DEFINING_MAGICS,
    PACKAGE,
    called_class,
    imports_package,
    is_run_of_trainer,
    method_calls,
    starts_a_run,
)

_CODE_MAGICS = ("time", "capture")  # magics whose last argument is code that runs in the notebook
_DRAWING_FUNCTIONS = (  # functions of torch, numpy, random, pandas and scikit-learn
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *("multinomial", "random_split", "uniform", "permutation", "permuted", "shuffle", "choice", "choices", "sample"),
    *("random", "integers", "standard_normal", "train_test_split"),
)
_NO_VALUE = object()  # what a name has that has no value


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement of a cell's top level.

    Attributes:
        tree: the statement; never changed, for it is shared by all who read the same text.
        text: as it was typed, with the comments above it.
        binds: names that it gives a value.
        direct_reads: names that it reads when it runs; `deferred_reads`, when what it defines is called.
        changes: names whose object it plainly changes, as ``name.append(…)`` and ``name["a"] = …`` do.
        last_line: of the cell.
        magic: a magic that it calls, such as ``lightning_model``.
        is_inner: whether its lines are those of a cell in a cell, as of ``%%time``.
        skip_reason: why it is not repeated, as for a run that is made in it: of what it gave, the values are recorded.
        in_block: whether it stands in a block, such as a loop, of which the last iteration is known alone.
    """

    tree: ast.stmt
    text: str
    binds: frozenset[str]
    direct_reads: frozenset[str]
    deferred_reads: frozenset[str]
    changes: frozenset[str]
    last_line: int
    magic: str = ""
    is_inner: bool = False
    skip_reason: str = ""
    in_block: bool = False

    @property
    def needs_ipython(self) -> bool:
        """Whether only IPython can run it, as it can a ``!`` or ``%`` line."""
        return "get_ipython" in self.direct_reads and not isinstance(self.tree, DEFINITIONS)

    @property
    def is_import(self) -> bool:
        """Whether it is an import."""
        return isinstance(self.tree, ast.Import | ast.ImportFrom)


@dataclass(frozen=True, eq=False)
class SourceCode:
    """Code that came into a notebook other than as the text of a cell: a class that a magic made, a run's source.

    Attributes:
        text: the code.
        cell: number of the cell that brought it; None outside IPython.
        cell_text: text of the cell that it was made from; its statements keep their comments.
        namespace: where it ran, if that is not the notebook.
    """

    text: str
    cell: int | None = None
    cell_text: str = ""
    namespace: Mapping[str, Any] | None = None


class History:
    """Statements that ran, oldest first; the place of each is its index.

    Code that ran in a namespace of its own has a home of its own, a number above 0: it sees nothing of the notebook.

    Args:
        namespace: the notebook's globals.
        of_package: names that are known to be of this package.

    Attributes:
        statements: each with its home.
        namespaces: by home.
        local_home: of the function that runs now, which sees the notebook too; None where no function runs.
        local_names: its variables, each with the name that it has in `namespaces` and `statements`.
        replaced: variables of the notebook that got their values from loaded runs, with these values.
    """

    def __init__(self, namespace: Mapping[str, Any], of_package: Iterable[str] = ()) -> None:
        self.statements: list[tuple[Statement, int]] = []
        self.namespaces: dict[int, Mapping[str, Any]] = {0: namespace}
        self.local_home: int | None = None
        self.local_names: dict[str, str] = {}
        self.replaced: Mapping[str, Any] = {}
        self._bindings: dict[tuple[int, str], list[int]] = {}
        self._changes: dict[tuple[int, str], list[int]] = {}
        self._run_names = {(0, name) for name in of_package}  # names that a run gave, or something made of it

    def add_cell(
        self, text: str, sources: Sequence[SourceCode] = (), line: int | None = None, inner_line: int | None = None
    ) -> None:
        """Add what a cell has run.

        Args:
            text: the cell, as IPython made Python of it.
            sources: what came with it; what its magics made stands in the place of these.
            line: line that has not run, because the cell is at work there or failed there.
            inner_line: the same of the cell in a cell that ``%%time`` and the like run.
        """
        generated = iter([source for source in sources if source.namespace is None])
        for statement in statements_of(text):
            if statement.magic in DEFINING_MAGICS:
                source = next(generated, None)
                self._add_all(_generated_statements(source.text, source.cell_text) if source is not None else ())
            else:
                self._add_executed(statement, inner_line if statement.is_inner and inner_line is not None else line)
        for source in generated:
            self._add_all(_generated_statements(source.text, source.cell_text))
        for source in sources:
            if source.namespace is not None:
                self.add_home(source)

    def add_text(self, text: str) -> None:
        """Add recorded source, each statement as it is."""
        self._add_all(statements_of(text))

    def add_home(self, source: SourceCode) -> int:
        """Add code that ran in a namespace of its own; return its home."""
        home = len(self.namespaces)
        self.namespaces[home] = source.namespace or {}
        self._add_all(statements_of(source.text), home)
        return home

    def add_function(self, frame: FrameType) -> None:
        """Add what a function of the notebook has run so far: its parameters, and its statements before the call."""
        home = self.local_home = len(self.namespaces)
        notebook, tree = self.namespaces[0], _function_of(frame)
        variables = {name: value for name, value in variables_of(frame).items() if name.isidentifier()}
        variables = {
            name: value for name, value in variables.items() if notebook.get(name) is not value or is_plain(value)
        }
        for name in variables:
            new = name
            while new in notebook or self.binding_places(new, len(self.statements), 0):
                new = f"local_{new}"
            self.local_names[name] = new
        self.namespaces[home] = {self.local_names[name]: value for name, value in variables.items()}
        reason = blocks.parameter_reason(frame.f_code.co_name)
        self._add_part(blocks.SkippedCode(frozenset(self.local_names.values()), frozenset(), reason), home)
        if tree is not None:
            renames = {name: new for name, new in self.local_names.items() if name != new}
            body = rename_variables(tree, renames).body if renames else tree.body
            for part in blocks.executed_in_body(body, frame.f_lineno, functools.partial(self._is_skipped, home)):
                self._add_part(part, home)

    def home_of(self, name: str, home: int, before: int = sys.maxsize) -> int:
        """The home that code of a home, at a place, finds a name in."""
        local = self.local_home
        if home not in (0, local):
            return home
        if local is not None and (name in self.namespaces[local] or (local, name) in self._bindings):
            return local
        value = self.namespaces[0].get(name, self)
        if self.replaced.get(name, _NO_VALUE) is value:
            for other, namespace in self.namespaces.items():
                if (
                    other not in (0, local)
                    and namespace.get(name, _NO_VALUE) is value
                    and self.binding_places(name, before, other)
                ):
                    return other
        return 0

    def is_changed(self, name: str, since: int, home: int) -> bool:
        """Whether a statement from a place on has given a name a value, or changed its object."""
        places = [*self._bindings.get((home, name), ()), *self._changes.get((home, name), ())]
        return any(place >= since for place in places)

    def _add_executed(self, statement: Statement, line: int | None) -> None:
        """Add a statement of a cell that works, or failed, at a line; None where it has ended."""
        is_over = line is None or statement.last_line < line
        is_block = blocks.is_block(statement.tree)
        if is_over and not (is_block and self._is_skipped(0, statement.tree)):
            self._add(statement, 0)
        elif is_over or (is_block and line is not None and statement.tree.lineno <= line):
            is_skipped = functools.partial(self._is_skipped, 0)
            for part in blocks.executed_in_block(statement.tree, None if is_over else line, is_skipped):
                self._add_part(part, 0)

    def _add_part(self, part: ast.stmt | blocks.SkippedCode, home: int) -> None:
        if isinstance(part, blocks.SkippedCode):
            names = part.binds | self._object_names(part.changes, home)
            self._add(replace(_describe(ast.Pass(), "", ""), binds=names, skip_reason=part.reason), home)
        else:
            self._add(replace(_describe(part, wrap_code(ast.unparse(part)), ""), in_block=True), home)

    def _is_skipped(self, home: int, tree: ast.stmt) -> bool:
        return bool(self._skip_reason(_describe(tree, "", ""), home))

    def _skip_reason(self, statement: Statement, home: int) -> str:
        """Why a statement is not repeated, empty where it is."""
        tree = statement.tree
        if statement.skip_reason or statement.is_import or isinstance(tree, DEFINITIONS):
            return statement.skip_reason
        if statement.needs_ipython:
            return f"a line that only IPython can run created it: {_first_line(statement)}. Create it in Python"
        if self.starts_a_run(statement, home):
            return (
                f"it comes from a line that trains or uses a run: {_first_line(statement)}. Create it on another line"
            )
        return ""

    def starts_a_run(self, statement: Statement, home: int) -> bool:
        """Whether a statement starts a run when it runs, or takes something of one."""
        if starts_a_run(statement.tree) or any(self._is_of_a_run(name, home, set()) for name in statement.direct_reads):
            return True
        return any(self._method_starts_run(receiver, method, home) for receiver, method in method_calls(statement.tree))

    def _method_starts_run(self, receiver: ast.expr, method: str, home: int) -> bool:
        """Whether a method that is called on something starts a run: of a Trainer, or of a class of the notebook."""
        tree: ast.AST = receiver
        if isinstance(receiver, ast.Name):
            places = self.binding_places(receiver.id, len(self.statements), home)
            tree = self.statements[places[-1]][0].tree if places else receiver
        if is_run_of_trainer(tree, (), method):
            return True
        cls = self.binding_places(called_class(tree), len(self.statements), home)
        return bool(cls) and self._methods_start_run(self.statements[cls[-1]][0].tree, [method], home, set())

    def _methods_start_run(self, cls: ast.stmt, methods: Sequence[str], home: int, seen: set[str]) -> bool:
        """Whether some methods of a class start a run."""
        definitions = [item for item in getattr(cls, "body", ()) if getattr(item, "name", "") in methods]
        names = {read.node.id for read in reads(*definitions)}
        return any(map(starts_a_run, definitions)) or any(self._is_of_a_run(name, home, seen) for name in sorted(names))

    def _is_of_a_run(self, name: str, home: int, seen: set[str]) -> bool:
        """Whether a name is this package's, of a run, or of a function that starts one."""
        home = self.home_of(name, home)
        if name in seen:
            return False
        seen.add(name)
        if (home, name) in self._run_names:
            return not is_plain(self.namespaces[home].get(name, self))  # a plain value is recorded as it is
        places = self.binding_places(name, len(self.statements), home)
        if not places:
            return _is_of_package(self.namespaces[home].get(name))
        statement = self.statements[places[-1]][0]
        if statement.is_import:
            return imports_package(statement.tree, name)
        if isinstance(statement.tree, ast.ClassDef):
            of_class = any(self._is_of_a_run(item, home, seen) for item in statement.direct_reads)
            return of_class or self._methods_start_run(statement.tree, ("__init__", "__post_init__"), home, seen)
        if not isinstance(statement.tree, DEFINITIONS):
            return False
        names_read = statement.direct_reads | statement.deferred_reads
        return starts_a_run(statement.tree) or any(self._is_of_a_run(item, home, seen) for item in names_read)

    def _object_names(self, names: Iterable[str], home: int) -> set[str]:
        """Those of some names that are no modules."""
        namespace, objects = self.namespaces[home], set()
        for name in names:
            places = self.binding_places(name, len(self.statements), home)
            is_import = bool(places) and self.statements[places[-1]][0].is_import
            if not is_import and not isinstance(namespace.get(name), ModuleType) and name != "get_ipython":
                objects.add(name)
        return objects

    def _add_all(self, statements: Iterable[Statement], home: int = 0) -> None:
        for statement in statements:
            self._add(statement, home)

    def _add(self, statement: Statement, home: int) -> None:
        if not statement.skip_reason and (reason := self._skip_reason(statement, home)):
            statement = replace(statement, skip_reason=reason)
            self._run_names |= {(home, name) for name in statement.binds | self._object_names(statement.changes, home)}
        else:
            self._run_names -= {(home, name) for name in statement.binds}
        place = len(self.statements)
        self.statements.append((statement, home))
        for names, index in ((statement.binds, self._bindings), (statement.changes, self._changes)):
            for name in names:
                index.setdefault((home, name), []).append(place)

    def binding_places(self, name: str, before: int, home: int) -> list[int]:
        """Places of the statements that bound a name, oldest first."""
        return [place for place in self._bindings.get((home, name), ()) if place < before]

    def change_places(self, name: str, after: int, before: int, home: int) -> list[int]:
        """Places of the statements that changed the object of a name between two others."""
        return [place for place in self._changes.get((home, name), ()) if after < place < before]

    def statement_dump(self, name: str, home: int) -> str:
        """The statement that bound a name last, as `ast` writes it; empty if there is none."""
        places = self.binding_places(name, len(self.statements), home)
        return ast.dump(self.statements[places[-1]][0].tree) if places else ""

    def class_place(self, name: str) -> int | None:
        """Place of the latest definition of a class, in whatever home."""
        for place in range(len(self.statements) - 1, -1, -1):
            tree = self.statements[place][0].tree
            if isinstance(tree, ast.ClassDef) and tree.name == name:
                return place
        return None


def notebook_history(
    namespace: Mapping[str, Any], sources: Sequence[SourceCode] = (), failed: Mapping[int, int] | None = None
) -> History:
    """Return what this notebook has run so far; outside IPython, what the script holds.

    Args:
        namespace: the notebook's globals.
        sources: what came into it other than as text of its cells.
        failed: of each cell that failed, the line that it failed in.
    """
    history, frames = History(namespace), frames_of(namespace)
    lines = [frame.f_lineno for frame in frames if frame.f_code.co_name == "<module>"]
    running, inner = (lines[-1], lines[0]) if lines else (None, None)
    shell = running_shell()
    if shell is None:
        history.add_cell(_script_text(), sources, running)
    else:
        cells = list(shell.user_ns.get("In", ()))
        for number, text in enumerate(cells):
            is_running = number == len(cells) - 1 and bool(frames) and _text_of(frames[-1]).strip() == str(text).strip()
            failed_line = (failed or {}).get(number)
            cell_sources = [source for source in sources if source.cell == number]
            history.add_cell(
                str(text), cell_sources, failed_line or (running if is_running else None), inner if is_running else None
            )
        history.add_cell("", [source for source in sources if source.cell is None or source.cell >= len(cells)])
    if frames and frames[0].f_code.co_name != "<module>":
        history.add_function(frames[0])
    return history


def _script_text() -> str:
    """Text of the script that runs, empty where there is none."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, ValueError):
        return ""


def frames_of(namespace: Mapping[str, Any]) -> list[FrameType]:
    """Frames of the notebook's code that runs now, the innermost first; none where a thread or the like asks."""
    frames, frame = [], sys._getframe().f_back
    while frame is not None:
        if frame.f_globals is namespace:
            frames.append(frame)
        frame = frame.f_back
    return frames


def variables_of(frame: FrameType) -> dict[str, Any]:
    """Variables that a function sees: its own, and those of the functions around it as far as they still run."""
    around, _, _ = frame.f_code.co_qualname.rpartition(".<locals>.")
    outer = frame.f_back if around else None
    while outer is not None and (outer.f_globals is not frame.f_globals or outer.f_code.co_qualname != around):
        outer = outer.f_back
    return {**(variables_of(outer) if outer is not None else {}), **frame.f_locals}


def _text_of(frame: FrameType) -> str:
    """Text that a frame's code is of."""
    return "".join(linecache.getlines(frame.f_code.co_filename))


def _function_of(frame: FrameType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The definition of a function that runs, None where its text is not known."""
    code = frame.f_code
    try:
        tree = ast.parse(_text_of(frame))
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != code.co_name:
            continue
        if min([node.lineno, *(item.lineno for item in node.decorator_list)]) == code.co_firstlineno:
            return node
    return None


def _is_of_package(value: Any) -> bool:
    """Whether a value is this package, or of it."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return isinstance(name, str) and name.partition(".")[0] == PACKAGE


def _first_line(statement: Statement) -> str:
    lines = [line for line in (statement.text or ast.unparse(statement.tree)).splitlines() if line[:1] != "#"]
    line = lines[0].strip()
    return line if len(line) <= 60 else f"{line[:59]}…"


@functools.lru_cache(maxsize=4096)
def statements_of(text: str) -> tuple[Statement, ...]:
    """Return the statements of a text's top level; none of one that is no Python."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return ()
    lines = text.splitlines()
    statements: list[Statement] = []
    for index, tree in enumerate(body):
        is_alone = _stands_alone(body, index)
        magic, inner = _magic(tree)
        if magic in _CODE_MAGICS:
            if ast.unparse(tree.value.func).endswith("run_cell_magic"):  # type: ignore[attr-defined]
                statements += (replace(item, is_inner=True) for item in statements_of(inner))
            else:
                statements += (replace(item, last_line=tree.end_lineno or 0) for item in statements_of(inner))
        elif not isinstance(tree, ast.Delete):
            source = (
                _statement_text(lines, tree) if is_alone else ast.get_source_segment(text, tree) or ast.unparse(tree)
            )
            statements.append(_describe(tree, source, magic))
    return tuple(statements)


@functools.lru_cache(maxsize=1024)
def _generated_statements(text: str, cell_text: str) -> tuple[Statement, ...]:
    """Statements of generated code, those that its cell has too as they were typed."""
    if text == cell_text:
        return statements_of(text)
    cell_texts = {ast.dump(item.tree): item.text for item in statements_of(cell_text)}
    statements = []
    for item in statements_of(text):
        own_text = cell_texts.get(ast.dump(item.tree))
        statements.append(replace(item, text=wrap_code(item.text) if own_text is None else own_text))
    return tuple(statements)


def _describe(tree: ast.stmt, text: str, magic: str) -> Statement:
    read = reads(tree)
    deferred_reads = frozenset(item.node.id for item in read if not item.outermost)
    direct_reads = {item.node.id for item in read if item.outermost}
    if not isinstance(tree, DEFINITIONS):
        direct_reads = read_first([tree])
    for node in nodes_outside_functions(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            direct_reads.add(node.target.id)
    if hasattr(tree, "body") and not isinstance(tree, DEFINITIONS):
        direct_reads |= binds([tree]) - binds_surely([tree])
    bound, changes = frozenset(binds([tree])), frozenset(changed_names(tree))
    return Statement(
        tree, text, bound, frozenset(direct_reads), deferred_reads, changes, getattr(tree, "end_lineno", 0), magic
    )


def _magic(tree: ast.stmt) -> tuple[str, str]:
    """Name of the magic that a statement calls, and its last argument; empty for any other statement."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call) and isinstance(tree.value.func, ast.Attribute):
        function, arguments = tree.value.func, [getattr(item, "value", None) for item in tree.value.args]
        if function.attr in ("run_cell_magic", "run_line_magic") and all(isinstance(item, str) for item in arguments):
            return str(arguments[0]), str(arguments[-1])
    return "", ""


def _stands_alone(body: Sequence[ast.stmt], index: int) -> bool:
    """Whether no other statement is on the lines of one."""
    before, after = body[index - 1] if index else None, body[index + 1] if index + 1 < len(body) else None
    return (before is None or (before.end_lineno or 0) < body[index].lineno) and (
        after is None or after.lineno > (body[index].end_lineno or 0)
    )


def _statement_text(lines: Sequence[str], tree: ast.stmt) -> str:
    """Return the lines of a statement, with its decorators and the comments right above it."""
    start = min([tree.lineno, *(item.lineno for item in getattr(tree, "decorator_list", ()))]) - 1
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : tree.end_lineno]).rstrip()


def setting_kind(statement: Statement) -> str:
    """What a statement sets for all that comes after it: ``seed``, ``setting`` (the path, torch), or nothing."""
    tree = statement.tree
    if _is_seeding(tree):
        return "seed"
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call):
        function = ast.unparse(tree.value.func)
        name = function.rpartition(".")[2]
        of_torch = function.startswith("torch.") and name.startswith(("set_", "use_deterministic"))
        return "setting" if of_torch or function.startswith("sys.path.") else ""
    assigned = isinstance(tree, ast.Assign) and ast.unparse(tree.targets[0]).startswith("torch.backends.")
    return "setting" if assigned else ""


def draws(tree: ast.AST) -> bool:
    """Whether a statement draws random numbers, as far as the names of what it calls tell."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(ast.unparse(item).rpartition(".")[2] in _DRAWING_FUNCTIONS for item in functions)


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
    function = functions.get(tree.value.func.id)
    if not isinstance(function, ast.FunctionDef):
        return False
    return any(map(_seeds_torch, ast.walk(function))) and all(map(_only_sets, function.body))


def _only_sets(tree: ast.stmt) -> bool:
    """Whether a statement of a function that seeds does nothing that could take long."""
    if isinstance(tree, ast.If):
        return all(map(_only_sets, [*tree.body, *tree.orelse]))
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call):
        function = ast.unparse(tree.value.func)
        return _is_seeding(tree) or function.startswith("torch.") or function == "print"
    return not isinstance(tree, ast.For | ast.While | ast.With | ast.Try)


_SEEDS = ("manual_seed", "manual_seed_all", "seed", "seed_all", "seed_everything", "set_seed")


def _is_seeding(tree: ast.AST) -> bool:
    """Whether a statement seeds, and does nothing else."""
    if isinstance(tree, ast.If):
        return all(isinstance(item, ast.Pass) or _is_seeding(item) for item in [*tree.body, *tree.orelse])
    if isinstance(tree, ast.Expr):
        calls = tree.value.elts if isinstance(tree.value, ast.Tuple) else [tree.value]
        return any(isinstance(call, ast.Call) and "seed" in _called_name(call) for call in calls)
    if not (isinstance(tree, ast.Assign | ast.AnnAssign) and isinstance(tree.value, ast.Call)):
        return False
    return _called_name(tree.value) in _SEEDS and not any(
        isinstance(node, ast.Call) for node in ast.walk(tree.value.func)
    )


def _seeds_torch(tree: ast.AST) -> bool:
    """Whether a statement seeds torch, and with a number: ``torch.seed()`` draws one."""
    calls = [node for node in nodes_outside_functions(tree) if isinstance(node, ast.Call)] if _is_seeding(tree) else []
    seeds = [(ast.unparse(call.func), bool(call.args or call.keywords)) for call in calls]
    return any(
        "seed" in name
        and not name.endswith("random.seed")
        and not any(item in name for item in ("(", ".cuda."))
        and (has_arguments or "everything" in name)
        for name, has_arguments in seeds
    )


def _called_name(call: ast.Call) -> str:
    """Last name of what is called."""
    return ast.unparse(call.func).rpartition(".")[2]
