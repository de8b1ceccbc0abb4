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
from .history import History, SourceCode, Statement, sets_a_seed
from .recipe import Recipe
from .shared import shared_definition
from .starts import PACKAGE

if TYPE_CHECKING:
    from ..runs.randomness import RandomState

_MOST_SHOWN = 4000  # characters of an expression, which is shown whole before it is evaluated


@dataclass
class RecordedRun:
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
    _executed_places: set[int] = field(default_factory=set)
    _random_state: Any = None  # the random state that its statements left
    _data_error: Exception | None = None  # of a statement that the data alone needs

    @classmethod
    def of(cls, folder: RunFolder, variables: dict[str, Any], notebook: History | None = None) -> RecordedRun:
        """Read a run; nothing is executed.

        Args:
            folder: of the run.
            variables: the notebook's globals: what the source lacks is taken from there.
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
        substitutes = {
            name: variables[name] for name in recipe.missing if name in variables and name not in recipe.lost
        }
        run = cls(
            folder, record, recipe, text, {"__name__": "__main__", "__builtins__": builtins, **substitutes}, notebook
        )
        run._check_trains_nothing()
        return run

    @property
    def source_code(self) -> SourceCode:
        """The source, as what fits of this notebook are made of."""
        return SourceCode(self.text, namespace=self.namespace)

    @property
    def value_types(self) -> set[str]:
        """Enums, dataclasses and named tuples of the source, by the names that pickle writes."""
        trees = [statement.tree for statement, _ in self._history.statements]
        classes = [(tree.name, [*tree.bases, *tree.decorator_list]) for tree in trees if isinstance(tree, ast.ClassDef)]
        kinds = ("Enum", "Flag", "NamedTuple", "dataclass")
        return {
            f"__main__.{name}"
            for name, codes in classes
            if any(kind in ast.unparse(c) for c in codes for kind in kinds)
        }

    def announcement(self, codes: Iterable[str]) -> str:
        """What is going to be executed, in a line: of the source, and expressions of the record beside it.

        Raises:
            RunError: an expression is too long for a reader.
        """
        codes = list(codes)
        statements = [self._history.statements[place] for place in self._places(codes)]
        kinds = {"import": 0, "function": 0, "class": 0, "other statement": 0}
        for statement, _ in statements:
            kinds[_statement_kind(statement)] += 1
        counts = ", ".join(plural(number, kind) for kind, number in kinds.items() if number)
        record = runs.display_path(self.folder.record_path)
        expressions = [_on_one_line(code) for code in dict.fromkeys(codes) if _is_evaluated(code)]
        for text in expressions:
            if len(text) > _MOST_SHOWN:
                raise RunError(
                    f"{record} holds an expression of {len(text):,} characters, which is too long to show before "
                    f"evaluating it: {text[:60]}… Assign it to a name in {runs.display_path(self.folder.source_path)}, "
                    "and put that name in the record"
                )
        beside = f"; evaluating from {record}: {', '.join(expressions)}" if expressions else ""
        return f"executing {runs.display_path(self.folder.source_path)}: {counts}{beside}"

    def execute(self, codes: Iterable[str], data_codes: Iterable[str] = ()) -> None:
        """Run the statements that some code needs, each once and in their order, with random numbers of their own.

        Settings of torch stay as they make them, since the run's model was trained with these; it is told.

        Args:
            codes: it.
            data_codes: code of the data. What it alone needs may fail, which is raised where the data is asked for: a
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
            if self._random_state is not None:
                self._random_state.restore()
            for place in self._places([*codes, *data_codes]):
                if place in self._executed_places:
                    continue
                self._executed_places.add(place)
                if self._takes_from_notebook(trees[place]):
                    continue
                code = compile(ast.Module([trees[place]], []), path, "exec", future_flags(trees), dont_inherit=True)
                try:
                    with self._missing_names(), main_module.main_definitions(self.namespace):
                        exec(code, self.namespace)
                except Exception as error:
                    if place in needed:
                        raise
                    self._data_error = self._data_error or error
            self._random_state = RandomState.capture()
        for text in NumericState.capture().settings_since(before):
            print(f"the run's source changed torch's {text}; the change remains in effect")  # noqa: T201 -- of the whole notebook

    def _takes_from_notebook(self, tree: ast.stmt) -> bool:
        """Take a definition from the notebook, where it has the same; returns whether it was taken."""
        if self.notebook is None or not isinstance(tree, DEFINITIONS):
            return False
        value = shared_definition(self.notebook, tree.name, self._history)
        if value is not None:
            self.namespace[tree.name] = value
        return value is not None

    def initial_random_state(self) -> RandomState | None:
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
            return self._random_state if sets_a_seed(self.text) else None
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
        with self._missing_names():
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
        model = self.value(recipe.model)
        if recipe.arguments is None:
            return uncompiled(model)
        return self._definition(self.record.model, model, recipe.model_codes)

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
        if self._data_error is not None:
            raise self._data_error
        values = [self.value(code) for code in recipe.data]
        if not (isinstance(values[0], type) and is_datamodule(values[0])):
            return values[0] if recipe.forms[0] == "datamodule" else values
        loaded = self.value(recipe.loaded) if recipe.loaded else None
        return self._definition(
            self.record.data, values[0], recipe.data_codes, loaded=loaded, draws=bool(recipe.loaded)
        )

    def checkpoint(self, name: str | None) -> Path:
        """The checkpoint that is meant: ``best``, ``last``, a path; the last by default.

        Raises:
            RunError: there is none.
        """
        folder = self.folder
        best = self.record.best_model_path
        if name == "best":
            paths = [folder.moved_path(best), Path(best)] if best else []
        elif name in (None, "last"):
            newest = folder.newest_checkpoint()
            paths = [folder.last_checkpoint_path, *([newest] if newest else [])]
        else:
            paths = [Path(name).expanduser(), folder.checkpoints_path / name]
        for path in paths:
            if os.path.isfile(path):
                return path
        names = ", ".join(sorted(str(path.relative_to(folder.checkpoints_path)) for path in folder.all_checkpoints()))
        contents = f"It has {names} in" if names else "There are none in"
        raise RunError(
            f"{folder.name} has no checkpoint {name or 'last'}. {contents} {runs.display_path(folder.checkpoints_path)}"
        )

    def _definition(self, name: str, cls: type, codes: Iterable[str], **fields: Any) -> Definition:
        """A definition as a cell would have made it, over the namespace of the source."""
        closure = Closure(self._history)
        for code in codes:
            closure.need_code(code)
        text = closure.module().text
        package = package_of(cls) or self.recipe.package
        return Definition(name, cls, text, "", "class", package, notebook=self.namespace, **fields)

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
        statement = next((statement for statement, _ in self._history.statements if statement.skip_reason), None)
        if statement is None:
            return
        line, model = _on_one_line(statement.text.splitlines()[0]), self.record.model
        raise RunError(
            f"{self.folder.name} cannot be repeated: its recorded source starts a run in line {statement.tree.lineno} "
            f"({line}). For its weights, run the cell that defines {model}, then type "
            f"run = %lightning_attach {self.folder.name}"
        )

    def _places(self, codes: Iterable[str]) -> list[int]:
        closure = Closure(self._history)
        for code in codes:
            closure.need_code(code)
        return closure.places

    def _missing_names(self) -> Any:
        return _MissingNames(self.folder.name, self.recipe)


class _MissingNames:
    """Says what a run's source lacks, where Python says that a name is not defined."""

    def __init__(self, run: str, recipe: Recipe) -> None:
        self._run = run
        self._recipe = recipe

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, NameError) and error.name in self._recipe.missing:
            why, is_lost = self._recipe.missing[error.name], error.name in self._recipe.lost
            advice = "" if is_lost else f". Or define {error.name} in this notebook first, and try again"
            raise RunError(f"{self._run} needs {error.name}, which its source lacks: {why}{advice}") from error


def to_values(codes: dict[str, str] | None) -> dict[str, Any]:
    """Code as it is typed in a line: plain values, and expressions."""
    return {name: to_value(code) for name, code in (codes or {}).items()}


def _statement_kind(statement: Statement) -> str:
    if statement.is_import:
        return "import"
    if isinstance(statement.tree, ast.ClassDef):
        return "class"
    return "function" if isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef) else "other statement"


def _is_evaluated(code: str) -> bool:
    """Whether code is more than a name or a plain value."""
    return not code.isidentifier() and isinstance(to_value(code), Expression)


def _on_one_line(code: str) -> str:
    """Code in one line, of which a terminal hides nothing."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(code.split()))
