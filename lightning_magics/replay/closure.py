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
from .history import History, Statement, calls_seeding, draws, sets, statements_of
from .layout import laid_out, wrapped
from .plain import is_plain, is_value
from .starts import PACKAGE, imports_package


@dataclass(frozen=True)
class Module:
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
        return laid_out("\n".join(self.imports), self.body)


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
        self._taken: dict[int, set[str]] = {}  # places, each with the names that are wanted of it
        self._asked: set[tuple[str, int, int]] = set()
        self._visited: set[tuple[int, int]] = set()
        self._values: dict[int, dict[str, str]] = {}  # statements that give names values, by the places of what did
        self._made: dict[str, str] = {}  # statements for what no statement gave: imports, plain values
        self._appended: list[Statement] = []

    def need_code(self, code: str, home: int = 0) -> None:
        """Collect what an expression needs."""
        for statement in statements_of(code.strip()):
            for name in statement.at_once | statement.later:
                known = home and self._history.bound(name, self._end, home)
                self._need(name, self._end, self._history.home_of(name, home if known else 0))

    def need_class(self, cls: type, source: str) -> None:
        """Collect a class of a notebook.

        Args:
            cls: it.
            source: its text, for a class that no statement of the notebook's top level made; empty if unknown.
        """
        name = cls.__name__
        place = self._history.class_place(name)
        if place is not None:
            now = self._history.namespaces[self._history.statements[place][1]].get(name)
            if now is cls or type(now) is cls or not source:
                self._take(place, self._end, name)
                home = self._history.statements[place][1]
                self._take_changes(name, self._history.changed(name, place, self._end, home), self._end, True)
                return
        if any(isinstance(item.tree, ast.ClassDef) and item.tree.name == name for item in statements_of(source)):
            statements = statements_of(source)
            own = {bound for statement in statements for bound in statement.binds}
            self._appended += statements
            for read in sorted({read for item in statements for read in item.at_once | item.later} - own):
                self._need(read, self._end, 0)
        else:
            self.missing[name] = "its source is not available: define it in a cell"

    def need_import(self, name: str, value: Any) -> bool:
        """Collect the import that gives an object of a library; returns whether there is one."""
        text = import_of(name, value)
        if text and not text.startswith((f"import {PACKAGE}", f"from {PACKAGE}")):
            self._made[name] = text
        return name in self._made

    @property
    def places(self) -> list[int]:
        """Places of the statements that were collected, and of settings that hold for all."""
        self._take_settings(seeded=False)
        return sorted(self._taken)

    @property
    def trees(self) -> list[ast.stmt] | None:
        """What was collected, each import with the one name that is wanted of it; None where something is missing."""
        texts = [text for given in (self._made, *self._values.values()) for text in given.values()]
        found = []
        for place, names in self._taken.items():
            tree = self._history.statements[place][0].tree
            if isinstance(tree, ast.Import | ast.ImportFrom):
                texts += [text for _, text in _aliases(tree, names)]
            else:
                found.append(tree)
        return None if self.missing else found + [tree for text in texts for tree in ast.parse(text).body]

    def module(self, seeded: bool = False) -> Module:
        """Return what was collected.

        Args:
            seeded: whether all is seeded after it has run; seeds that nothing follows are then left out.
        """
        self._take_settings(seeded)
        self._check_homes()
        chosen = [(self._history.statements[place][0], self._taken[place], place) for place in self._once_each()]
        chosen += [(statement, set(statement.binds), self._end) for statement in self._appended]
        hoisted: dict[str, None] = dict.fromkeys(_futures(self._history))
        body: list[str] = [text for text in self._made.values() if not _imports(text)]
        for text in self._made.values():
            hoisted |= dict.fromkeys([text] if _imports(text) else [])
        fixed = self._fixed([(statement, names) for statement, names, _ in chosen])
        values = dict(sorted(self._values.items()))
        fixed |= {name for given in values.values() for name in given}
        for statement, names, place in chosen:
            for earlier in [item for item in values if item < place]:
                body += values.pop(earlier).values()
            if not statement.is_import:
                body.append(statement.text)
                continue
            for name, text in _aliases(statement.tree, names):
                if name in fixed:
                    body.append(text)
                else:
                    hoisted[text] = None
        body += [text for given in values.values() for text in given.values()]
        drawn = {name for item, names, _ in chosen if item.in_block and draws(item.tree) for name in names}
        return Module(sorted_imports(hoisted), tuple(body), dict(self.missing), tuple(sorted(drawn)))

    def _need(self, name: str, before: int, home: int) -> None:
        """Collect what a name means at a moment.

        Args:
            name: it.
            before: place of the statement that reads it; the end for what is called later.
            home: of the code that reads it.
        """
        home = self._history.home_of(name, home, before)
        if (name, before, home) in self._asked:
            return
        self._asked.add((name, before, home))
        places = self._history.bound(name, before, home)
        statement = self._history.statements[places[-1]][0] if places else None
        if statement is None:
            self._need_otherwise(name, home)
            return
        changes = self._history.changed(name, places[-1], before, home)
        held = [item for place in (places[-1], *changes) if (item := self._history.statements[place][0]).held]
        if held and not statement.is_import:
            self._need_value(name, places[-1], before, home, held[-1].held)
            return
        if statement.in_block and self._takes_value(name, places[-1], before, home, is_value):
            return
        if self._is_outdated(name, statement, before, home):
            self._need_otherwise(name, home)
            return
        if imports_package(statement.tree, name):
            self.missing[name] = f"it belongs to {PACKAGE}, and the code must run without that package: remove its use"
            return
        if isinstance(statement.tree, ast.Import):  # import xml.dom adds to what import xml.sax bound
            for place in places[:-1]:
                if isinstance(self._history.statements[place][0].tree, ast.Import):
                    self._take(place, before, name)
        self._take(places[-1], before, name)
        if not statement.is_import or name != "os":  # which holds secrets, too
            self._take_changes(name, changes, before, statement.is_import)

    def _take_changes(self, name: str, places: Iterable[int], before: int, assigned: bool) -> None:
        """Take the statements that changed an object; `assigned` says that only assignments count."""
        for place in places:
            change = self._history.statements[place][0]
            if not change.held and (not assigned or isinstance(change.tree, ast.Assign | ast.AugAssign)):
                self._take(place, before, name)

    def _take(self, place: int, before: int, name: str) -> None:
        """Take a statement, and what it needs in turn."""
        self._taken.setdefault(place, set()).add(name)
        if (place, before) in self._visited:
            return
        self._visited.add((place, before))
        statement, home = self._history.statements[place]
        defines = isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for read in sorted(statement.at_once):
            if self._history.bound(read, place, home) or read not in statement.binds | statement.later:
                self._need(read, place, home)
        for read in sorted(statement.later):
            if not defines and self._history.bound(read, place, home):
                self._need(read, place, home)  # a comprehension reads at once, a lambda later
            if self._history.bound(read, before, home) or read not in statement.binds:
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
        is_touched = before != self._end and self._history.is_touched(name, before, home)
        return name in self._history.namespaces[home] and not is_touched

    def _need_value(self, name: str, place: int, before: int, home: int, why: str) -> None:
        """Collect the value of a name whose statement is not repeated.

        Args:
            name: it.
            place: of that statement.
            before: place of the statement that reads it.
            home: of the code that reads it.
            why: what to say where the value is not known.
        """
        if self._takes_value(name, place, before, home):
            return
        if not self._is_known(name, before, home) or not self.need_import(name, self._history.namespaces[home][name]):
            self.missing[name] = why

    def _takes_value(
        self, name: str, place: int, before: int, home: int, of: Callable[[Any], bool] = lambda value: True
    ) -> bool:
        """Collect the value of a name, if it is known and one of certain values; returns whether it was collected."""
        value = self._history.namespaces[home].get(name)
        if not self._is_known(name, before, home) or not of(value):
            return False
        if code := self._code_of(value, name, place):
            self._values.setdefault(place, {})[name] = wrapped(f"{name} = {code}")
        return bool(code)

    def _need_otherwise(self, name: str, home: int) -> None:
        """Find what a name means where no statement tells: an import, or a plain value."""
        namespace = self._history.namespaces[home]
        if name == "get_ipython" or (name == "display" and name not in namespace and hasattr(builtins, name)):
            self.missing[name] = "it exists only in IPython: remove its use"
            return
        if name not in namespace:
            return  # Python's own, or in code that was never reached
        value = namespace[name]
        for place in self._history.bound("*", self._end, home):
            star = self._history.statements[place][0].tree
            module = sys.modules.get(getattr(star, "module", None) or "")
            if getattr(module, name, self) is value:
                self._take(place, self._end, "*")
                return
        if self.need_import(name, value):
            return
        if is_plain(value):
            self._made[name] = f"{name} = {value!r}"
        else:
            self.missing[name] = f"no recorded cell created this {type(value).__name__}: create it in a cell"

    def _take_settings(self, seeded: bool) -> None:
        """Take statements that set a path, a default of torch, or a seed that something is drawn after."""
        plain = [place for place in self._taken if not _only_defines(self._history.statements[place][0])]
        homes = {self._history.statements[place][1] for place in self._taken}
        homes |= {0} if self._history.local_home in homes else set()
        functions: dict[int, dict[str, ast.stmt]] = {home: {} for home in homes}
        for place, (statement, home) in enumerate(self._history.statements):
            kind = sets(statement) if home in homes and not statement.held else ""
            if home in homes and isinstance(statement.tree, ast.FunctionDef):
                functions[home][statement.tree.name] = statement.tree
            elif home in homes and calls_seeding(statement, functions[home]):
                kind = "seed"
            if kind == "setting" or (kind == "seed" and (not seeded or any(place < item for item in plain))):
                before = dict(self.missing)
                self._take(place, place, "")
                if self.missing != before:  # it is of no use then
                    self.missing = before
                    del self._taken[place]

    def _once_each(self) -> list[int]:
        """Places of what was collected; what several runs that were loaded have alike is taken from one of them."""
        homes: dict[str, int] = {}
        statements = self._history.statements
        return [
            place
            for place in sorted(self._taken)
            if statements[place][0].is_import
            or homes.setdefault(statements[place][0].text, statements[place][1]) == statements[place][1]
        ]

    def _check_homes(self) -> None:
        """Name what means one thing in the notebook and another in a run that was loaded: a module has one of them."""
        texts: dict[str, tuple[int, str]] = {}
        for place in self._taken:
            statement, home = self._history.statements[place]
            for name in statement.binds if not statement.is_import else ():
                other = texts.setdefault(name, (home, statement.text))
                if other[0] != home and other[1] != statement.text:
                    self.missing[name] = (
                        "the notebook and the loaded run define it differently: rename the one in the notebook"
                    )

    def _fixed(self, chosen: list[tuple[Statement, set[str]]]) -> set[str]:
        """Names whose imports stay in their place: another statement binds them too, or sets the path first."""
        meanings: dict[str, set[str]] = {}
        fixed: set[str] = set()
        path_is_set = False
        for statement, names in chosen:
            if not statement.is_import:
                fixed |= statement.binds
                path_is_set = path_is_set or "sys" in statement.changes
                continue
            for name, text in _aliases(statement.tree, names):
                meanings.setdefault(name, set()).add(text)
                if path_is_set and _is_local(text):
                    fixed.add(name)
        return fixed | {name for name, texts in meanings.items() if len(texts) > 1 and not _are_submodules(texts)}


def _plain_code(value: Any, name: str, place: int) -> str:
    return repr(value) if is_plain(value) else ""


def _imports(text: str) -> bool:
    return text.startswith(("import ", "from "))


def _futures(history: History) -> list[str]:
    """Imports of ``__future__``, which hold for every cell after them."""
    trees = [statement.tree for statement, _ in history.statements]
    return [ast.unparse(tree) for tree in trees if isinstance(tree, ast.ImportFrom) and tree.module == "__future__"]


def _only_defines(statement: Statement) -> bool:
    return statement.is_import or isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _aliases(tree: ast.stmt, names: set[str]) -> list[tuple[str, str]]:
    """Names that an import binds, of those that are wanted, each with an import for it alone."""
    found: list[tuple[str, str]] = []
    if not isinstance(tree, ast.Import | ast.ImportFrom):
        return found
    for alias in tree.names:
        plain = isinstance(tree, ast.Import)
        name = alias.asname or (alias.name.partition(".")[0] if plain else alias.name)
        if name in names:
            one = ast.ImportFrom(tree.module, [alias], tree.level) if isinstance(tree, ast.ImportFrom) else None
            found.append((name, ast.unparse(one or ast.Import([alias]))))
    return found


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
