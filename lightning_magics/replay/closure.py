"""The statements of a notebook that a piece of code needs: found by the names that it reads, and in turn by theirs.

What they come to is a module that stands without the notebook. What ran when is in `history`.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..definitions.imports import import_of
from .history import History, Statement, calls_seeding, draws, setting_kind, statements_of
from .layout import layout_module, wrap_code
from .plain import is_plain, is_plain_or_array
from .starts import PACKAGE, imports_package


@dataclass(frozen=True)
class SourceModule:
    """Code that stands by itself.

    Attributes:
        imports: import statements, sorted; these come first.
        body: the other statements, in the order in which they ran.
        missing: names that are needed and not known, each with what to do about it.
        drawn: names that a statement of a block or function draws anew: how often it had run before is not known.
    """

    imports: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it, laid out as people write modules."""
        return layout_module("\n".join(self.imports), self.body)


class Closure:
    """Collects what code needs.

    Args:
        history: what ran.
        code_of: code of a value that a name has since a place, empty where none is known; of plain values by default.

    Attributes:
        missing: names that are needed and not known, each with what to do about it.
    """

    def __init__(self, history: History, code_of: Callable[[Any, str, int], str] | None = None) -> None:
        self.missing: dict[str, str] = {}
        self._history = history
        self._code_of = code_of or _plain_code
        self._end = len(history.statements)
        self._names_by_place: dict[int, set[str]] = {}  # places, each with the names that are wanted of it
        self._lookups: set[tuple[str, int, int]] = set()
        self._visited: set[tuple[int, int]] = set()
        self._value_codes: dict[int, dict[str, str]] = {}  # assignments of values, by the places of what gave them
        self._extra_statements: dict[str, str] = {}  # statements for what no statement gave: imports, plain values
        self._class_statements: list[Statement] = []

    def need_code(self, code: str, home: int = 0) -> None:
        """Collect what an expression needs."""
        for statement in statements_of(code.strip()):
            for name in statement.direct_reads | statement.deferred_reads:
                is_bound = home and self._history.binding_places(name, self._end, home)
                self._need(name, self._end, self._history.home_of(name, home if is_bound else 0))

    def need_class(self, cls: type, source: str) -> None:
        """Collect a class of a notebook.

        Args:
            cls: it.
            source: its text, for a class that no statement of the notebook's top level made; empty if unknown.
        """
        name = cls.__name__
        place = self._history.class_place(name)
        if place is not None:
            current = self._history.namespaces[self._history.statements[place][1]].get(name)
            if current is cls or type(current) is cls or not source:
                self._collect(place, self._end, name)
                home = self._history.statements[place][1]
                self._collect_changes(name, self._history.change_places(name, place, self._end, home), self._end, True)
                return
        if any(isinstance(item.tree, ast.ClassDef) and item.tree.name == name for item in statements_of(source)):
            statements = statements_of(source)
            own_names = {bound for statement in statements for bound in statement.binds}
            self._class_statements += statements
            for read in sorted(
                {read for item in statements for read in item.direct_reads | item.deferred_reads} - own_names
            ):
                self._need(read, self._end, 0)
        else:
            self.missing[name] = "its source is not available: define it in a cell"

    def need_import(self, name: str, value: Any) -> bool:
        """Collect the import that gives an object of a library; returns whether there is one."""
        text = import_of(name, value)
        if text and not text.startswith((f"import {PACKAGE}", f"from {PACKAGE}")):
            self._extra_statements[name] = text
        return name in self._extra_statements

    @property
    def places(self) -> list[int]:
        """Places of the statements that were collected, and of settings that hold for all."""
        self._collect_settings(seeded=False)
        return sorted(self._names_by_place)

    @property
    def trees(self) -> list[ast.stmt] | None:
        """What was collected, each import with the one name that is wanted of it; None where something is missing."""
        texts = [text for codes in (self._extra_statements, *self._value_codes.values()) for text in codes.values()]
        trees = []
        for place, names in self._names_by_place.items():
            tree = self._history.statements[place][0].tree
            if isinstance(tree, ast.Import | ast.ImportFrom):
                texts += [text for _, text in _alias_imports(tree, names)]
            else:
                trees.append(tree)
        return None if self.missing else trees + [tree for text in texts for tree in ast.parse(text).body]

    def module(self, seeded: bool = False) -> SourceModule:
        """Return what was collected.

        Args:
            seeded: whether all is seeded after it has run; seeds that nothing follows are then left out.
        """
        self._collect_settings(seeded)
        self._check_homes()
        collected = [
            (self._history.statements[place][0], self._names_by_place[place], place)
            for place in self._distinct_places()
        ]
        collected += [(statement, set(statement.binds), self._end) for statement in self._class_statements]
        hoisted: dict[str, None] = dict.fromkeys(_future_imports(self._history))
        body: list[str] = [text for text in self._extra_statements.values() if not _is_import(text)]
        for text in self._extra_statements.values():
            hoisted |= dict.fromkeys([text] if _is_import(text) else [])
        unhoisted = self._unhoisted_names([(statement, names) for statement, names, _ in collected])
        values = dict(sorted(self._value_codes.items()))
        unhoisted |= {name for codes in values.values() for name in codes}
        for statement, names, place in collected:
            for earlier in [item for item in values if item < place]:
                body += values.pop(earlier).values()
            if not statement.is_import:
                body.append(statement.text)
                continue
            for name, text in _alias_imports(statement.tree, names):
                if name in unhoisted:
                    body.append(text)
                else:
                    hoisted[text] = None
        body += [text for codes in values.values() for text in codes.values()]
        drawn = {name for item, names, _ in collected if item.in_block and draws(item.tree) for name in names}
        return SourceModule(sorted_imports(hoisted), tuple(body), dict(self.missing), tuple(sorted(drawn)))

    def _need(self, name: str, before: int, home: int) -> None:
        """Collect what a name means at a moment.

        Args:
            name: it.
            before: place of the statement that reads it; the end for what is called later.
            home: of the code that reads it.
        """
        home = self._history.home_of(name, home, before)
        if (name, before, home) in self._lookups:
            return
        self._lookups.add((name, before, home))
        places = self._history.binding_places(name, before, home)
        statement = self._history.statements[places[-1]][0] if places else None
        if statement is None:
            self._need_unbound(name, home)
            return
        changes = self._history.change_places(name, places[-1], before, home)
        skipped = [item for place in (places[-1], *changes) if (item := self._history.statements[place][0]).skip_reason]
        if skipped and not statement.is_import:
            self._need_value(name, places[-1], before, home, skipped[-1].skip_reason)
            return
        if statement.in_block and self._collect_value(name, places[-1], before, home, is_plain_or_array):
            return
        if self._is_outdated(name, statement, before, home):
            self._need_unbound(name, home)
            return
        if imports_package(statement.tree, name):
            self.missing[name] = f"it belongs to {PACKAGE}, and the code must run without that package: remove its use"
            return
        if isinstance(statement.tree, ast.Import):  # import xml.dom adds to what import xml.sax bound
            for place in places[:-1]:
                if isinstance(self._history.statements[place][0].tree, ast.Import):
                    self._collect(place, before, name)
        self._collect(places[-1], before, name)
        if not statement.is_import or name != "os":  # which holds secrets, too
            self._collect_changes(name, changes, before, statement.is_import)

    def _collect_changes(self, name: str, places: Iterable[int], before: int, assigned: bool) -> None:
        """Take the statements that changed an object; `assigned` says that only assignments count."""
        for place in places:
            change = self._history.statements[place][0]
            if not change.skip_reason and (not assigned or isinstance(change.tree, ast.Assign | ast.AugAssign)):
                self._collect(place, before, name)

    def _collect(self, place: int, before: int, name: str) -> None:
        """Take a statement, and what it needs in turn."""
        self._names_by_place.setdefault(place, set()).add(name)
        if (place, before) in self._visited:
            return
        self._visited.add((place, before))
        statement, home = self._history.statements[place]
        defines = isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for read in sorted(statement.direct_reads):
            if (
                self._history.binding_places(read, place, home)
                or read not in statement.binds | statement.deferred_reads
            ):
                self._need(read, place, home)
        for read in sorted(statement.deferred_reads):
            if not defines and self._history.binding_places(read, place, home):
                self._need(read, place, home)  # a comprehension reads at once, a lambda later
            if self._history.binding_places(read, before, home) or read not in statement.binds:
                self._need(read, before, home)

    def _is_outdated(self, name: str, statement: Statement, before: int, home: int) -> bool:
        """Whether a plain value is not the one that its statement gave, as after ``global counter`` in a function."""
        tree, namespace = statement.tree, self._history.namespaces[home]
        if before != self._end or name not in namespace or not isinstance(tree, ast.Assign):
            return False
        value = namespace[name]
        if not is_plain(value):
            return False
        try:
            return bool(ast.literal_eval(tree.value) != value)
        except (ValueError, TypeError, SyntaxError):
            return False

    def _is_known(self, name: str, before: int, home: int) -> bool:
        """Whether a name still has the value that the statement at a place reads."""
        is_changed = before != self._end and self._history.is_changed(name, before, home)
        return name in self._history.namespaces[home] and not is_changed

    def _need_value(self, name: str, place: int, before: int, home: int, reason: str) -> None:
        """Collect the value of a name whose statement is not repeated.

        Args:
            name: it.
            place: of that statement.
            before: place of the statement that reads it.
            home: of the code that reads it.
            reason: what to say where the value is not known.
        """
        if self._collect_value(name, place, before, home):
            return
        if not self._is_known(name, before, home) or not self.need_import(name, self._history.namespaces[home][name]):
            self.missing[name] = reason

    def _collect_value(
        self, name: str, place: int, before: int, home: int, is_wanted: Callable[[Any], bool] = lambda value: True
    ) -> bool:
        """Collect the value of a name, if it is known and one of certain values; returns whether it was collected."""
        value = self._history.namespaces[home].get(name)
        if not self._is_known(name, before, home) or not is_wanted(value):
            return False
        if code := self._code_of(value, name, place):
            self._value_codes.setdefault(place, {})[name] = wrap_code(f"{name} = {code}")
        return bool(code)

    def _need_unbound(self, name: str, home: int) -> None:
        """Find what a name means where no statement tells: an import, or a plain value."""
        namespace = self._history.namespaces[home]
        if name == "get_ipython" or (name == "display" and name not in namespace and hasattr(builtins, name)):
            self.missing[name] = "it exists only in IPython: remove its use"
            return
        if name not in namespace:
            return  # Python's own, or in code that was never reached
        value = namespace[name]
        for place in self._history.binding_places("*", self._end, home):
            star = self._history.statements[place][0].tree
            module = sys.modules.get(getattr(star, "module", None) or "")
            if getattr(module, name, self) is value:
                self._collect(place, self._end, "*")
                return
        if self.need_import(name, value):
            return
        if is_plain(value):
            self._extra_statements[name] = f"{name} = {value!r}"
        else:
            self.missing[name] = f"no recorded cell created this {type(value).__name__}: create it in a cell"

    def _collect_settings(self, seeded: bool) -> None:
        """Take statements that set a path, a default of torch, or a seed that something is drawn after."""
        plain = [place for place in self._names_by_place if not _only_defines(self._history.statements[place][0])]
        homes = {self._history.statements[place][1] for place in self._names_by_place}
        homes |= {0} if self._history.local_home in homes else set()
        functions: dict[int, dict[str, ast.stmt]] = {home: {} for home in homes}
        for place, (statement, home) in enumerate(self._history.statements):
            kind = setting_kind(statement) if home in homes and not statement.skip_reason else ""
            if home in homes and isinstance(statement.tree, ast.FunctionDef):
                functions[home][statement.tree.name] = statement.tree
            elif home in homes and calls_seeding(statement, functions[home]):
                kind = "seed"
            if kind == "setting" or (kind == "seed" and (not seeded or any(place < item for item in plain))):
                before = dict(self.missing)
                self._collect(place, place, "")
                if self.missing != before:  # it is of no use then
                    self.missing = before
                    del self._names_by_place[place]

    def _distinct_places(self) -> list[int]:
        """Places of what was collected; what several runs that were loaded have alike is taken from one of them."""
        homes: dict[str, int] = {}
        statements = self._history.statements
        return [
            place
            for place in sorted(self._names_by_place)
            if statements[place][0].is_import
            or homes.setdefault(statements[place][0].text, statements[place][1]) == statements[place][1]
        ]

    def _check_homes(self) -> None:
        """Name what means one thing in the notebook and another in a run that was loaded: a module has one of them."""
        texts: dict[str, tuple[int, str]] = {}
        for place in self._names_by_place:
            statement, home = self._history.statements[place]
            for name in statement.binds if not statement.is_import else ():
                other = texts.setdefault(name, (home, statement.text))
                if other[0] != home and other[1] != statement.text:
                    self.missing[name] = (
                        "the notebook and the loaded run define it differently: rename the one in the notebook"
                    )

    def _unhoisted_names(self, collected: list[tuple[Statement, set[str]]]) -> set[str]:
        """Names whose imports stay in their place: another statement binds them too, or sets the path first."""
        meanings: dict[str, set[str]] = {}
        unhoisted: set[str] = set()
        path_is_set = False
        for statement, names in collected:
            if not statement.is_import:
                unhoisted |= statement.binds
                path_is_set = path_is_set or "sys" in statement.changes
                continue
            for name, text in _alias_imports(statement.tree, names):
                meanings.setdefault(name, set()).add(text)
                if path_is_set and _is_local(text):
                    unhoisted.add(name)
        return unhoisted | {name for name, texts in meanings.items() if len(texts) > 1 and not _are_submodules(texts)}


def _plain_code(value: Any, name: str, place: int) -> str:
    return repr(value) if is_plain(value) else ""


def _is_import(text: str) -> bool:
    return text.startswith(("import ", "from "))


def _future_imports(history: History) -> list[str]:
    """Imports of ``__future__``, which hold for every cell after them."""
    trees = [statement.tree for statement, _ in history.statements]
    return [ast.unparse(tree) for tree in trees if isinstance(tree, ast.ImportFrom) and tree.module == "__future__"]


def _only_defines(statement: Statement) -> bool:
    return statement.is_import or isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _alias_imports(tree: ast.stmt, names: set[str]) -> list[tuple[str, str]]:
    """Names that an import binds, of those that are wanted, each with an import for it alone."""
    aliases: list[tuple[str, str]] = []
    if not isinstance(tree, ast.Import | ast.ImportFrom):
        return aliases
    for alias in tree.names:
        is_plain_import = isinstance(tree, ast.Import)
        name = alias.asname or (alias.name.partition(".")[0] if is_plain_import else alias.name)
        if name in names:
            from_import = ast.ImportFrom(tree.module, [alias], tree.level) if isinstance(tree, ast.ImportFrom) else None
            aliases.append((name, ast.unparse(from_import or ast.Import([alias]))))
    return aliases


def _is_local(text: str) -> bool:
    """Whether an import is not of an installed library."""
    package = text.split()[1].partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" not in file and package not in sys.stdlib_module_names


def _are_submodules(texts: set[str]) -> bool:
    """Whether imports bind one name to one package: ``import xml.dom`` and ``import xml.sax``."""
    return all(text.startswith("import ") and " as " not in text for text in texts)


def sorted_imports(imports: Iterable[str]) -> tuple[str, ...]:
    """Imports as people write them: of ``__future__`` first, plain ones, then those from a module, one line each."""
    plain = sorted({text for text in imports if text.startswith("import ")})
    froms: dict[str, set[str]] = {}
    for text in imports:
        if text.startswith("from "):
            module, _, names = text.removeprefix("from ").partition(" import ")
            froms.setdefault(module, set()).update(names.split(", "))
    joined = [
        f"from {module} import {', '.join(sorted(names))}"
        for module, names in sorted(froms.items(), key=lambda item: (item[0] != "__future__", item[0]))
    ]
    future = [text for text in joined if text.startswith("from __future__")]
    return (*future, *plain, *(text for text in joined if text not in future))
