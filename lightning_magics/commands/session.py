"""What one shell has defined and run, and how the names that a user types are found in it.

Making classes is in `definitions/model/model` and `definitions/data/datamodule`, running them in `launch/kernel`.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import inspect
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from ..definitions.definition import Definition, is_module, possible_names, uncompiled
from ..definitions.scopes import names_read
from ..errors import InputError, RunError, did_you_mean
from ..formats import first_few
from ..options.declared import DEFAULT_START_METHOD
from ..options.tokens import Expression, to_value
from ..replay import recipe
from ..replay.history import History, SourceCode, frames_of, notebook_history, variables_of
from ..replay.shared import redefined_names
from ..runs import catalog, provenance
from ..runs import folder as runs
from ..runs.record import RunRecord
from ..shell import cell_number, running_shell
from ..training.main_module import source_namespace
from ..views.board import servers

if TYPE_CHECKING:
    from ..launch.run import Run
    from ..runs.columns import TableSchema
    from ..training.origins import Origin

_MAX_COMPLETED_RUNS = 200  # runs whose metrics are offered: to read thousands takes longer than a user waits
_OBJECT_REPR = re.compile(r"<|[A-Za-z_][\w.]*\(")  # how the repr of most objects begins


class Settings(Protocol):
    """Defaults that ``%config LightningMagics`` sets."""

    run_dir: str
    refresh_s: float
    logger: list[str]
    package: str
    prewarm: bool
    start_method: str
    slurm: dict[str, Any]
    engines: dict[str, dict[str, Any]]


@dataclass
class DefaultSettings:
    """The settings where no shell holds others."""

    run_dir: str = "lightning_logs"
    refresh_s: float = 0.25
    logger: list[str] = field(default_factory=lambda: ["tensorboard"])
    package: str = ""
    prewarm: bool = False
    start_method: str = DEFAULT_START_METHOD
    slurm: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Session:
    """The models, data and runs of one shell.

    Attributes:
        namespace: the notebook's variables.
        settings: defaults of the options.
        models: what ``%%lightning_model`` defined, by name; `datas` what ``%%lightning_data`` did.
        last: the run that was started last; `fits` the newest of each model that trained at all. Other runs live
            as long as the user holds them: a run holds its model, optimizer and data.
        origins: of each live model that was trained here, brought back or looked up, where its weights come from.
        interrupted: whether a fit of the cell that runs now was interrupted.
        sources: code that came into the notebook other than as text of its cells.
        failed: of each cell that failed, the line that it failed in.
        refused: kind (``model`` or ``data``) and name of definitions that failed since they were made last.
        outdated: of each class whose cell failed before it defined the class anew, the one that is still there.
        rerun_source: source of the run that runs once more; its names come before the notebook's.
        busy: held while something runs; what Lightning and this package change meanwhile is the process's.
        local_names: variables of the function that calls a magic, which come before the notebook's; see `scope`.
        replaced: variables of the notebook that got their values from loaded runs, with these values.
    """

    namespace: dict[str, Any]
    settings: Settings = field(default_factory=DefaultSettings)
    models: dict[str, Definition] = field(default_factory=dict)
    datas: dict[str, Definition] = field(default_factory=dict)
    last: Run | None = None
    fits: dict[str, Run] = field(default_factory=dict)
    origins: weakref.WeakKeyDictionary[Any, Origin] = field(default_factory=weakref.WeakKeyDictionary)
    interrupted: bool = False
    sources: list[SourceCode] = field(default_factory=list)
    failed: dict[int, int] = field(default_factory=dict)
    refused: set[tuple[str, str]] = field(default_factory=set)
    outdated: dict[str, Any] = field(default_factory=dict)
    rerun_source: SourceCode | None = None
    busy: threading.RLock = field(default_factory=threading.RLock)
    local_names: Mapping[str, Any] = field(default_factory=dict)
    replaced: dict[str, Any] = field(default_factory=dict)
    _named: weakref.WeakValueDictionary[str, Run] = field(default_factory=weakref.WeakValueDictionary)
    _data_names: dict[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> dict[str, Any]:
        """What names and expressions of a line mean: in a function its own variables, then the notebook's."""
        return {**self.namespace, **self.local_names} if self.local_names else self.namespace

    @contextlib.contextmanager
    def caller_scope(self, local_names: Mapping[str, Any] | None) -> Iterator[None]:
        """Look names up as the code that calls a magic does.

        Args:
            local_names: its local variables; those of a cell are the notebook's.
        """
        before = self.local_names
        self.local_names = {}
        if local_names is not None and local_names is not self.namespace:
            frames = frames_of(self.namespace)
            is_function = bool(frames) and frames[0].f_code.co_name != "<module>"
            self.local_names = {**(variables_of(frames[0]) if is_function else {}), **local_names}
        try:
            yield
        finally:
            self.local_names = before

    def reads_local_names(self, text: str) -> bool:
        """Whether a text is an expression over variables of the function that calls a magic."""
        return is_code(text, self.scope) and bool(names_read(ast.parse(text, mode="eval")) & self.local_names.keys())

    def engine_settings(self, engine: str) -> Mapping[str, Any]:
        """Parameters of an engine that the settings give."""
        return {**self.settings.engines.get(engine, {}), **(self.settings.slurm if engine == "slurm" else {})}

    def package(self) -> str:
        """Lightning package for a model whose code does not say: the one that the notebook imported."""
        if self.settings.package:
            return self.settings.package
        packages = {_origin(value) for value in self.scope.values()}
        return "lightning.pytorch" if "lightning" in packages else "pytorch_lightning"

    def prewarm(self, package: str) -> None:
        """Start the warm process that runs are forked from, where the settings want one."""
        from ..launch import start

        if self.settings.prewarm and self.settings.start_method == "forkserver":
            start.prewarm(package)

    def add_model(self, definition: Definition) -> None:
        """Register a model."""
        self.models[definition.name] = definition
        self.refused.discard(("model", definition.name))
        self._add_source(definition)

    @contextlib.contextmanager
    def defining(self, kind: str, name: str | None, source: Any) -> Iterator[None]:
        """Context in which a name is defined; if that fails, the name's earlier definition is marked as outdated.

        Args:
            kind: ``model`` or ``data``.
            name: None where `source` gives it.
            source: as of `possible_names`.
        """
        try:
            yield
        except BaseException:
            self.refused |= {(kind, item) for item in ([name] if name else possible_names(kind, source))}
            raise

    def is_outdated(self, kind: str, definition: Any) -> str:
        """Say that a definition or a class is not the newest that was typed, which failed; empty if it is."""
        if isinstance(definition, Definition):
            known = self.models if kind == "model" else self.datas
            name = definition.name
            is_old = known.get(name) is definition and (kind, name) in self.refused
        else:
            name = getattr(definition, "__name__", "")
            is_old = isinstance(definition, type) and self.outdated.get(name) is definition
        notice = f"the last definition of {name} failed, so the earlier one is used. Fix its cell and run it again"
        return notice if is_old else ""

    def loaded_notice(self, value: Any) -> str:
        """Name the definitions of its run that a loaded class uses and that differ from the notebook's, if any."""
        cls = value.cls if isinstance(value, Definition) else value if isinstance(value, type) else type(value)
        namespace = source_namespace(cls)
        is_loaded = any(source.namespace is namespace for source in self.sources)
        names = redefined_names(self.history()[0], cls) if is_loaded else []
        if not names:
            return ""
        return (
            f"{cls.__name__} was loaded from a run and uses the run's definition of {first_few(names)}, not this "
            f"notebook's. To use this notebook's, run the cell that defines {cls.__name__} again"
        )

    def add_loaded_source(self, source: SourceCode) -> None:
        """Take note of the source of a run that was brought into the notebook."""
        self.sources.append(dataclasses.replace(source, cell=cell_number()))

    def history(self) -> tuple[History, int]:
        """What the notebook has run so far, and where in it names are to be looked up first."""
        history = notebook_history(self.namespace, self.sources, self.failed)
        history.replaced = self.replaced
        return history, history.add_home(self.rerun_source) if self.rerun_source is not None else 0

    def _add_source(self, definition: Definition) -> None:
        """Take note of a class that was made; one that the notebook had already stands in a cell."""
        if definition.form != "class" or definition.cell:
            self.sources.append(SourceCode(recipe.with_loading(definition), cell_number(), definition.cell))

    def add_data(self, definition: Definition) -> None:
        """Register data, and what its name meant in the notebook at that time."""
        self.datas[definition.name] = definition
        self.refused.discard(("data", definition.name))
        self._add_source(definition)
        self._data_names[definition.name] = self.scope.get(definition.name)

    def note_started(self, run: Run) -> None:
        """Take note of a run that has begun."""
        self.last = self._named[run.name] = run

    def note_ended(self, run: Run) -> None:
        """Take note of a run that is over; one that was refused has no folder any more, and is forgotten."""
        from ..training.trust import vouch_for_marked

        if not run.folder.path.exists():
            self._named.pop(run.name, None)
            if self.last is run:
                self.last = next(reversed(list(self._named.values())), None)
        if run.verb == "fit" and run._state.ended is not None and run._state.ended.saved:
            with contextlib.suppress(OSError):  # a folder that goes meanwhile
                vouch_for_marked(run.folder.all_checkpoints(), run._state.ended.saved)
        if run.verb == "fit" and run.record.steps:
            self.fits[run.record.model] = run
            if run.has_weights:
                self.add_trained(run._model, run.folder, run.table)

    def add_trained(self, model: Any, folder: runs.RunFolder, table: TableSchema | None) -> None:
        """Take note that a live model has the weights of a run, and of what that learned of its table."""
        from ..training.origins import attach_origin

        self.origins[model] = origin = attach_origin(model, table, folder)
        origin.reader = self.reader_of(folder)

    def reader_of(self, folder: runs.RunFolder) -> Any:
        """What makes sentences input as in a fit of this session; None for one that is not held, or of other data."""
        from ..definitions.data.sentences import reader

        fits = (run for run in [*self.fits.values(), *self._named.values()] if run.verb == "fit")
        run = next((run for run in fits if run.folder.path == folder.path), None)
        return reader(run.data[0]) if run is not None else None

    def add_loaded(self, run: Run) -> None:
        """Take note of a run whose model was loaded from its folder."""
        self.fits[run.record.model] = run
        self._named.setdefault(run.name, run)

    def origin_of(self, weights: Mapping[str, Any], model: Any = None) -> Origin | None:
        """Return where weights come from, None where no run is known to have them.

        Args:
            weights: by name.
            model: that has them, or None.

        Raises:
            RunError: the folder of the run is damaged.
        """
        from ..training.origins import find_origin, weights_mark

        live = [(origin, item) for item, origin in list(self.origins.items()) if item is not model and origin.is_known]
        live = [(origin, item) for origin, item in live if not origin.is_outdated and origin.mark == weights_mark(item)]
        fits = [run for run in [*self.fits.values(), *self._named.values()] if run.verb == "fit"]
        root = runs.root_folder(self.settings.run_dir)
        paths = dict.fromkeys([*(root / name for name in self.run_names()), *(run.folder.path for run in fits)])
        return find_origin(weights, live, [runs.RunFolder(path) for path in paths if runs.is_fit(path)])

    def build_model(self, record: RunRecord) -> Any:
        """Return an instance of the model of a run that another kernel started.

        Raises:
            RunError: this notebook has no model of that name, or a hyperparameter is an object that it lacks.
        """
        definition = self.models.get(record.model) or self.namespace.get(record.model)
        is_class = isinstance(definition, type) and is_module(definition)
        if definition is not None and (is_class or isinstance(definition, Definition)):
            from ..definitions.data.sentences import name_outputs

            make = definition.new if isinstance(definition, Definition) else definition
            cls: Any = definition.cls if isinstance(definition, Definition) else definition
            model = make(**self._hyperparameters(cls, record))
            with contextlib.suppress(RunError):  # its folder is gone
                name_outputs(model, self.folder(record.run))
            return model
        raise RunError(
            f"the model of {record.run} is not defined in this notebook. Run the cell that defines {record.model}, "
            f"and try again, or load it from the run's own source: %lightning_load {record.run}"
        )

    def _hyperparameters(self, cls: type, record: RunRecord) -> dict[str, Any]:
        """Hyperparameters of a record; for what JSON does not hold, the notebook's own by its name or the default.

        Raises:
            RunError: one is given by other code, which is not run here.
        """
        codes, parameters = recipe.Recipe.of(record).arguments or {}, inspect.signature(cls).parameters
        hyperparameters = dict(record.hyperparameters)
        texts = {name: value for name, value in hyperparameters.items() if isinstance(value, str)}
        for name, value in texts.items():
            code, default = codes.get(name, ""), parameters[name].default if name in parameters else ""
            first, *rest = code.split(".")
            if code and isinstance(to_value(code), Expression):
                if first in self.namespace and all(map(str.isidentifier, rest)):
                    hyperparameters[name] = functools.reduce(getattr, rest, self.namespace[first])
                elif _OBJECT_REPR.match(value):
                    raise RunError(
                        f"the hyperparameter {name} of {record.run} is {code}, which is not evaluated here. Load the "
                        f"model from the run's own source: %lightning_load {record.run}"
                    )
            elif not code and not isinstance(default, str):
                text = provenance.json_values({name: default})[name]
                if isinstance(text, str) and (text == value or value.startswith("<")):
                    del hyperparameters[name]
        return hyperparameters

    def find_model(self, argument: Any) -> Any:
        """Return what a model argument stands for: a Definition, or any object.

        A variable of the notebook wins over the definition of the same name when it is a model of its own,
        as after ``Digits = Digits(hidden=64)``.

        Raises:
            InputError: the text is no name of a model and no expression that works.
        """
        if not isinstance(argument, str):
            return next((item for item in self.models.values() if item.cls is argument), argument)
        definition = self.models.get(argument)
        value = self.scope.get(argument)
        if definition is not None and (value is None or value is definition.cls or not _is_lightning(value)):
            return definition
        return self.evaluate(argument, "model", self.models)

    def find_data(self, argument: Any) -> Any:
        """Return what a data argument stands for: a Definition, or any object.

        Raises:
            InputError: the text is no name of data and no expression that works.
        """
        if not isinstance(argument, str):
            return next((item for item in self.datas.values() if item.cls is argument), argument)
        definition = self.datas.get(argument)
        if definition is None:
            return self.evaluate(argument, "data", self.datas)
        value = self.scope.get(argument, definition.cls)
        if value is not self._data_names[argument] and value is not definition.cls:
            if argument in self.local_names:
                return value
            raise InputError(
                f"the data {argument!r} was defined before the variable {argument} got its current value. "
                f"To use the new value, type %lightning_data {argument} again; otherwise rename one"
            )
        return definition

    def texts(self, arguments: Sequence[Any]) -> list[str] | None:
        """Return the texts that arguments are, None where one is data, or something else.

        What was typed is a text, unless it is the name of data or an expression over the notebook's variables.
        """
        texts: list[str] = []
        for item in arguments:
            if isinstance(item, str):
                if item in self.datas and item not in self.local_names:
                    return None
                value = self.evaluate(item, "data", ()) if is_code(item, self.scope) else item
                item = item if isinstance(value, bool | int | float | None) else value  # such as "not a"
            if isinstance(item, str):
                texts.append(item)
                continue
            if not _are_texts(item):
                return None
            texts.extend(map(str, item))
        return texts

    def may_be_texts(self, arguments: Sequence[Any]) -> bool:
        """Whether arguments may be texts, as far as that is seen without running code: see `texts`."""
        return all(self._may_be_text(item) for item in arguments)

    def _may_be_text(self, item: Any) -> bool:
        if not isinstance(item, str):
            return _are_texts(item)
        if item in self.datas and item not in self.local_names:
            return False
        if not is_code(item, self.scope):
            return True
        tree = ast.parse(item, mode="eval").body
        if isinstance(tree, ast.Name) and tree.id in self.scope:
            value = self.scope[tree.id]
            return isinstance(value, bool | int | float | None) or _are_texts(value)  # as `texts` reads them
        parts = tree.elts if isinstance(tree, ast.Tuple | ast.List) else []
        return all(_are_texts(self.scope.get(part.id, "")) for part in parts if isinstance(part, ast.Name))

    def definition_source(self, words: Sequence[str], kind: str) -> Any:
        """Return what a line without a cell turns into a definition: the object that it names, or files of data.

        Args:
            words: the name, which is that of the object where no files follow; a file is a path, or code of a value.
            kind: ``model`` or ``data``.

        Raises:
            InputError: an expression cannot be evaluated.
        """
        files = tuple(self._path_or_value(item, kind) for item in words[1:])
        return self.evaluate(words[0], kind, ()) if not files else files[0] if len(files) == 1 else files

    def _path_or_value(self, text: str, kind: str) -> Any:
        """A path that was typed as text, anything else as the notebook's value of it."""
        known = text in self.scope or any(sign in text for sign in "([{")
        return self.evaluate(text, kind, ()) if known else str(Path(text).expanduser())

    def find_run(self, name: Any) -> Run | None:
        """Return the run of this session that is meant: ``last`` or ``Digits/version_3``; else None."""
        if not isinstance(name, str):
            return None
        return self.last if name == "last" else self._named.get(name)

    def run_names(self) -> list[str]:
        """Names of the runs on disk, the newest first."""
        return runs.names(self.settings.run_dir)

    def metric_names(self) -> list[str]:
        """Names of the metrics of the newest runs on disk, those that tell most first."""
        return catalog.metric_names(catalog.newest(self.settings.run_dir, _MAX_COMPLETED_RUNS))

    def folder(self, run: Any) -> runs.RunFolder:
        """Return the folder of the run that is meant: a `Run`, a variable that holds one, ``last``, a name or a path.

        Raises:
            RunError: there is no such run.
        """
        if isinstance(run, str):  # of two runs of this name, the one that is listed
            listed = Path(self.settings.run_dir).expanduser() / run
            if run and os.path.isfile(listed / runs.RECORD):
                return runs.find(self.settings.run_dir, str(listed))
        value = self.find_run(run) or (self.scope.get(run) if isinstance(run, str) else run)
        folder = getattr(value, "folder", None)
        if isinstance(folder, runs.RunFolder):
            return folder
        if run == "last":
            return runs.newest(self.settings.run_dir)
        return runs.find(self.settings.run_dir, str(self.text(run)))

    def text(self, name: Any) -> Any:
        """Return the text that a variable holds, or the path, where its name was typed; anything else as it is."""
        value = self.scope.get(name) if isinstance(name, str) else None
        return str(value) if isinstance(value, str | PurePath) else name

    def board_source(self, places: Sequence[Any]) -> servers.BoardSource:
        """Return what a board is to show: all runs; or a folder; or these runs and folders alone.

        Raises:
            RunError: there is no such run or folder.
            InputError: a run has nothing that TensorBoard could show.
        """
        if not places:
            return servers.BoardSource.of_folder(self.settings.run_dir)
        return servers.BoardSource.of_places(self._log_folder(item) for item in places)

    def _log_folder(self, place: Any) -> runs.RunFolder | Path:
        """A run, or the path of a folder that is none: the user's own, or that of all runs of a model."""
        for root in ("", self.settings.run_dir):
            path = Path(root).expanduser() / Path(place).expanduser() if isinstance(place, str | Path) else None
            if path is not None and os.path.isdir(path) and not (path / runs.RECORD).exists():
                return runs.absolute(path).resolve()
        folder = self.folder(place)
        if not folder.has_summaries() and not folder.is_alive():
            raise InputError(f"{folder.name} has no TensorBoard logs. To write them, fit with --logger tensorboard")
        return folder

    def evaluate(self, text: str, kind: str, known: Iterable[str]) -> Any:
        """Evaluate an expression of the notebook.

        Args:
            text: the expression.
            kind: what it is for: model or data.
            known: names to suggest.

        Raises:
            InputError: it names something unknown, or is no expression.
        """
        try:
            code = compile(text, f"<{kind}>", "eval")
        except SyntaxError as error:
            raise InputError(f"the {kind} {text!r} is neither a name nor an expression: {error.msg}") from error
        try:
            return eval(code, self.scope)  # the user's own code, in their notebook
        except NameError as error:
            inner = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
            if inner is not None:  # in a function that the expression calls
                raise
            known = list(dict.fromkeys([*known, *(self.candidates() if kind == "model" else ())]))
            near = did_you_mean(text, [*known, *(name for name in self.scope if not name.startswith("_"))])
            listed = f" Defined here: {', '.join(known)}." if known else ""
            define = f"Define it with %%lightning_{kind} {text}" if text.isidentifier() else str(error)
            raise InputError(f"no {kind} {text!r} was found.{near}{listed} {define}") from error
        except KeyError as error:
            item = ast.parse(text, mode="eval").body
            if not isinstance(item, ast.Subscript) or not isinstance(item.slice, ast.Constant):
                raise
            owner = ast.unparse(item.value)
            columns = [str(name) for name in self.evaluate(owner, kind, ())]  # as of a DataFrame, or of a dict
            near = did_you_mean(str(item.slice.value), columns)
            raise InputError(f"{owner} has no {item.slice.value!r}.{near} It has {first_few(columns)}") from error

    def candidates(self) -> list[str]:
        """Names of the caller's own models, classes and instances; classes that were made for others are left out."""
        generated = [item.cls for item in self.models.values() if item.name != item.cls.__name__]
        named = [(name, value) for name, value in self.scope.items() if not name.startswith("_")]
        return [name for name, value in named if _is_lightning(value) and not any(value is cls for cls in generated)]


def is_code(text: str, namespace: Mapping[str, Any] | None = None) -> bool:
    """Whether a text is an expression; of a namespace, where one is given: it reads some of it, or is a list."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    if namespace is None:
        return True
    names = names_read(tree)
    is_plain = isinstance(tree.body, ast.List)
    is_known = all(name in namespace or hasattr(builtins, name) for name in names)
    return is_known and (is_plain or bool(names & namespace.keys()))


def _are_texts(value: Any) -> bool:
    """Whether a value is a text, or several."""
    if isinstance(value, str):
        return True
    is_list = isinstance(value, list | tuple) or type(value).__name__ in ("Series", "ndarray")
    return is_list and getattr(value, "ndim", 1) == 1 and all(isinstance(text, str) for text in value)


def current() -> Session:
    """The session of the shell that runs this; a fresh one where the extension is not loaded."""
    shell = running_shell()
    if shell is None:
        return Session(vars(sys.modules["__main__"]))
    magics = shell.magics_manager.registry.get("LightningMagics")
    return magics.session if magics is not None else Session(shell.user_ns)


def _origin(value: Any) -> str:
    """The top package that a value of the notebook was imported from: of a module, a class or a function."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return name.partition(".")[0] if isinstance(name, str) else ""


def _is_lightning(value: Any) -> bool:
    """Whether a value is a LightningModule, class or instance, without importing Lightning."""
    value = uncompiled(value)
    bases = getattr(value if isinstance(value, type) else type(value), "__mro__", ())
    return any(
        base.__name__ == "LightningModule" and base.__module__.startswith(("pytorch_lightning.", "lightning."))
        for base in bases
    )
