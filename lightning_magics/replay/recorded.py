"""A run brought back from its folder: its source runs in a namespace of its own, and model and data are defined by it.

Only this module executes anything from a run folder. What is then done with them is in `commands/load` and
`commands/rerun`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.cell import future_flags
from ..definitions.definition import Definition, is_datamodule, package_of, uncompiled
from ..errors import RunError
from ..formats import plural
from ..options.tokens import Expression, to_value
from ..runs import folder as runs
from ..runs.folder import RunFolder
from ..runs.record import RunRecord
from ..training import main_module
from .changes import DEFINITIONS
from .closure import Closure
from .history import History, Statement, Unit, sets_a_seed
from .recipe import Recipe
from .shared import definition_of
from .starts import PACKAGE

if TYPE_CHECKING:
    from ..runs.randomness import RandomState

_MOST_SHOWN = 4000  # characters of an expression, which is shown whole before it is evaluated


@dataclass
class Recalled:
    """A fit, as its folder tells of it.

    Attributes:
        folder: of the run.
        record: what ``run.json`` holds; `recipe` how the fit was put together.
        text: the source.
        namespace: in which the source runs; empty until something is asked for.
        notebook: whose definitions of the same source take the place of the run's; None for none.
    """

    folder: RunFolder
    record: RunRecord
    recipe: Recipe
    text: str
    namespace: dict[str, Any]
    notebook: History | None = None
    _done: set[int] = field(default_factory=set)
    _random: Any = None  # the random state that its statements left
    _failed: Exception | None = None  # of a statement that the data alone needs

    @classmethod
    def of(cls, folder: RunFolder, known: dict[str, Any], notebook: History | None = None) -> Recalled:
        """Read a run; nothing is executed.

        Args:
            folder: of the run.
            known: the notebook's globals: what the source lacks is taken from there.
            notebook: what it has run.

        Raises:
            RunError: it is no fit, its folder does not tell how it was put together, or its source would train.
        """
        record = folder.read()
        if record.verb != "fit":
            raise RunError(
                f"{folder.name} is a {record.verb} run, which does not train a model. Choose a fit: %lightning_runs"
            )
        if not record.recipe:
            raise RunError(
                f"{folder.name} does not record its model and data: it was written by another tool or version"
            )
        try:
            recipe = Recipe.of(record)
            text = runs.read_text(folder.source_path)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{folder.name} has no source: {error}. Its weights are in {folder.checkpoints_path}"
            ) from error
        lacking = {name: known[name] for name in recipe.missing if name in known and name not in recipe.lost}
        found = cls(
            folder, record, recipe, text, {"__name__": "__main__", "__builtins__": builtins, **lacking}, notebook
        )
        found._check_trains_nothing()
        return found

    @property
    def unit(self) -> Unit:
        """The source, as what fits of this notebook are made of."""
        return Unit(self.text, namespace=self.namespace)

    @property
    def value_types(self) -> set[str]:
        """Enums, dataclasses and named tuples of the source, by the names that pickle writes."""
        trees = [statement.tree for statement, _ in self._history.statements]
        named = [(tree.name, [*tree.bases, *tree.decorator_list]) for tree in trees if isinstance(tree, ast.ClassDef)]
        kinds = ("Enum", "Flag", "NamedTuple", "dataclass")
        return {
            f"__main__.{name}" for name, codes in named if any(kind in ast.unparse(c) for c in codes for kind in kinds)
        }

    def announced(self, codes: Iterable[str]) -> str:
        """What is going to be executed, in a line: of the source, and expressions of the record beside it.

        Raises:
            RunError: an expression is too long for a reader.
        """
        codes = list(codes)
        statements = [self._history.statements[place] for place in self._places(codes)]
        kinds = {"import": 0, "function": 0, "class": 0, "other statement": 0}
        for statement, _ in statements:
            kinds[_kind(statement)] += 1
        counted = ", ".join(plural(number, kind) for kind, number in kinds.items() if number)
        record = runs.display_path(self.folder.record_path)
        expressions = [_visible(code) for code in dict.fromkeys(codes) if _is_evaluated(code)]
        for text in expressions:
            if len(text) > _MOST_SHOWN:
                raise RunError(
                    f"{record} holds an expression of {len(text):,} characters, which is too long to show before "
                    f"evaluating it: {text[:60]}… Assign it to a name in {runs.display_path(self.folder.source_path)}, "
                    "and put that name in the record"
                )
        beside = f"; evaluating from {record}: {', '.join(expressions)}" if expressions else ""
        return f"executing {runs.display_path(self.folder.source_path)}: {counted}{beside}"

    def execute(self, codes: Iterable[str], of_data: Iterable[str] = ()) -> None:
        """Run the statements that some code needs, each once and in their order, with random numbers of their own.

        Settings of torch stay as they make them, since the run's model was trained with these; it is told.

        Args:
            codes: it.
            of_data: code of the data. What it alone needs may fail, which is raised where the data is asked for: a
                file may be gone.

        Raises:
            RunError: the source lacks something.
            Exception: what the source raises.
        """
        from ..runs.randomness import RandomState, preserve_random_state
        from ..training.numerics import NumericState

        before = NumericState.capture()
        path = str(self.folder.source_path)
        trees = [statement.tree for statement, _ in self._history.statements]
        codes = list(codes)
        needed = self._places(codes)
        with preserve_random_state():
            if self._random is not None:
                self._random.restore()
            for place in self._places([*codes, *of_data]):
                if place in self._done:
                    continue
                self._done.add(place)
                if self._takes_from_notebook(trees[place]):
                    continue
                code = compile(ast.Module([trees[place]], []), path, "exec", future_flags(trees), dont_inherit=True)
                try:
                    with self._lacking_nothing(), main_module.main_definitions(self.namespace):
                        exec(code, self.namespace)
                except Exception as error:
                    if place in needed:
                        raise
                    self._failed = self._failed or error
            self._random = RandomState.capture()
        for text in NumericState.capture().settings_since(before):
            print(f"the run's source changed torch's {text}; the change remains in effect")  # noqa: T201 -- of the whole notebook

    def _takes_from_notebook(self, tree: ast.stmt) -> bool:
        """Take a definition from the notebook, where it has the same; returns whether it was taken."""
        if self.notebook is None or not isinstance(tree, DEFINITIONS):
            return False
        value = definition_of(self.notebook, tree.name, self._history)
        if value is not None:
            self.namespace[tree.name] = value
        return value is not None

    def begins_with(self) -> RandomState | None:
        """The random state that the fit began with; None where it had a seed, or nothing tells.

        Of a run whose folder does not tell, what the source has left, if that sets a seed.

        Raises:
            RunError: what tells it cannot be read.
        """
        from ..runs.randomness import RandomState

        path = self.folder.random_path
        if self.record.seed is not None:
            return None
        if not path.is_file():
            return self._random if sets_a_seed(self.text) else None
        try:
            return RandomState.of_text(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"the random state of {self.folder.name} cannot be read from {runs.display_path(path)}: {error}. "
                "Delete the file, or set a seed: --seed 1"
            ) from error

    def value(self, code: str) -> Any:
        """The value of an expression; what it needs has run.

        Raises:
            RunError: the source lacks something.
        """
        with self._lacking_nothing():
            return eval(code, self.namespace)

    def values(self, codes: dict[str, str] | None) -> dict[str, Any]:
        """The values of several."""
        return {name: self.value(code) for name, code in (codes or {}).items()}

    def model(self) -> Any:
        """A definition of the model; where the model was an instance that was made in the notebook, such an instance.

        Raises:
            RunError: the source lacks something.
            Exception: what the source raises.
        """
        recipe = self.recipe
        self.execute(recipe.model_codes)
        found = self.value(recipe.model)
        if recipe.arguments is None:
            return uncompiled(found)
        return self._definition(self.record.model, found, recipe.model_codes)

    def data(self) -> Any:
        """A definition of the data, a DataModule instance, or a list of what its dataloaders are of; None for none.

        Raises:
            RunError: the source lacks something.
            Exception: what the source raises.
        """
        recipe = self.recipe
        if not recipe.data:
            return None
        if "data" in recipe.missing:  # the record has the name of its type in its place
            raise RunError(f"the data of {self.folder.name} was not recorded: {recipe.missing['data']}")
        self.execute(recipe.data_codes)
        if self._failed is not None:
            raise self._failed
        found = [self.value(code) for code in recipe.data]
        if not (isinstance(found[0], type) and is_datamodule(found[0])):
            return found[0] if recipe.forms[0] == "datamodule" else found
        loaded = self.value(recipe.loaded) if recipe.loaded else None
        return self._definition(self.record.data, found[0], recipe.data_codes, loaded=loaded, draws=bool(recipe.loaded))

    def checkpoint(self, asked: str | None) -> Path:
        """The checkpoint that is meant: ``best``, ``last``, a path; the last by default.

        Raises:
            RunError: there is none.
        """
        folder = self.folder
        best = self.record.best_model_path
        if asked == "best":
            found = [folder.moved_path(best), Path(best)] if best else []
        elif asked in (None, "last"):
            newest = folder.newest_checkpoint()
            found = [folder.last_checkpoint_path, *([newest] if newest else [])]
        else:
            found = [Path(asked).expanduser(), folder.checkpoints_path / asked]
        for path in found:
            if os.path.isfile(path):
                return path
        kept = ", ".join(sorted(str(path.relative_to(folder.checkpoints_path)) for path in folder.all_checkpoints()))
        has = f"It has {kept} in" if kept else "There are none in"
        raise RunError(
            f"{folder.name} has no checkpoint {asked or 'last'}. {has} {runs.display_path(folder.checkpoints_path)}"
        )

    def _definition(self, name: str, cls: type, codes: Iterable[str], **more: Any) -> Definition:
        """A definition as a cell would have made it, over the namespace of the source."""
        closure = Closure(self._history)
        for code in codes:
            closure.need_code(code)
        text = closure.module().text
        package = package_of(cls) or self.recipe.package
        return Definition(name, cls, text, "", "class", package, notebook=self.namespace, **more)

    @functools.cached_property
    def _history(self) -> History:
        history = History(self.namespace, [name for name, why in self.recipe.missing.items() if PACKAGE in why])
        history.add_text(self.text)
        return history

    def _check_trains_nothing(self) -> None:
        """Refuse source that starts a run itself, as earlier versions recorded of a loop of fits.

        Raises:
            RunError: names the line.
        """
        held = next((statement for statement, _ in self._history.statements if statement.held), None)
        if held is None:
            return
        line, model = _visible(held.text.splitlines()[0]), self.record.model
        raise RunError(
            f"{self.folder.name} cannot be repeated: its recorded source starts a run in line {held.tree.lineno} "
            f"({line}). For its weights, run the cell that defines {model}, then type "
            f"run = %lightning_attach {self.folder.name}"
        )

    def _places(self, codes: Iterable[str]) -> list[int]:
        closure = Closure(self._history)
        for code in codes:
            closure.need_code(code)
        return closure.places

    def _lacking_nothing(self) -> Any:
        return _Lacking(self.folder.name, self.recipe)


class _Lacking:
    """Says what a run's source lacks, where Python says that a name is not defined."""

    def __init__(self, run: str, recipe: Recipe) -> None:
        self._run = run
        self._recipe = recipe

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, NameError) and error.name in self._recipe.missing:
            why, is_lost = self._recipe.missing[error.name], error.name in self._recipe.lost
            otherwise = "" if is_lost else f". Or define {error.name} in this notebook first, and try again"
            raise RunError(f"{self._run} needs {error.name}, which its source lacks: {why}{otherwise}") from error


def typed(codes: dict[str, str] | None) -> dict[str, Any]:
    """Code as it is typed in a line: plain values, and expressions."""
    return {name: to_value(code) for name, code in (codes or {}).items()}


def _kind(statement: Statement) -> str:
    if statement.is_import:
        return "import"
    if isinstance(statement.tree, ast.ClassDef):
        return "class"
    return "function" if isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef) else "other statement"


def _is_evaluated(code: str) -> bool:
    """Whether code is more than a name or a plain value."""
    return not code.isidentifier() and isinstance(to_value(code), Expression)


def _visible(code: str) -> str:
    """Code in one line, of which a terminal hides nothing."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(code.split()))
