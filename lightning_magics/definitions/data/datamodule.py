"""A cell or an object of the notebook becomes a LightningDataModule class.

Recognizing data is in `samples`, and the methods for it are in `loaders`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import re
import typing
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, did_you_mean
from ...formats import first_few
from ...runs import columns
from ...runs.columns import Labels
from ...runs.fingerprint import of_values
from ...runs.randomness import RandomState, preserve_random_state
from ..cell import (
    Cell,
    CellSource,
    Hyperparameter,
    hparams_read,
    last_name,
    lightning_package,
    own_attributes,
    parse,
    rename_rebound,
    split,
    use_attributes,
)
from ..constructor import complete_constructor, constructor
from ..definition import (
    DEFAULT_NAMES,
    Definition,
    changed_options,
    check_name,
    class_definition,
    default_name,
    is_datamodule,
    option_names,
)
from ..evaluation import UNKNOWN, class_kinds, evaluate_cell, execute, run_complete_class
from ..generated import assemble, expression, method, snippet
from ..imports import bind_imports, notebook_imports
from ..lookup import Notebook, literal
from ..scopes import Function, binds, names_read
from . import text_module, text_sources
from .loaders import (
    has_columns,
    helper_classes,
    loader_methods,
    setup_method,
    split_statements,
    table_attributes,
    table_methods,
)
from .samples import FORMS, Split, SplitData, check_sample, check_sizes, splits_of

if TYPE_CHECKING:
    from ...options.parser import DataOptions

_TEXT_OPTIONS = ("tokenizer", "vocab_size", "max_length")
_OPTIONS = (*_TEXT_OPTIONS, "batch_size", "val_split", "test_split", "num_workers", "shuffle", "split_seed")
_ANNOTATIONS = {"batch_size": "int", "num_workers": "int", "shuffle": "bool", "split_seed": "int"}


def data_definition(
    name: str | None,
    source: CellSource | Any,
    options: DataOptions,
    namespace: dict[str, Any],
    package: str,
    local_names: Mapping[str, Any] | None = None,
    known: Mapping[str, Definition] | None = None,
) -> Definition:
    """Make a LightningDataModule class and bind it in the notebook.

    Args:
        name: to register under; None for the class's own, or ``data``.
        source: the cell, or an object: LightningDataModule class, or data that `samples` or `text_sources` knows.
        options: how the data is split and loaded.
        namespace: the notebook's globals.
        package: Lightning package to build on.
        local_names: variables of the function that calls the magic, for options.
        known: the data that was defined so far, by name.

    Raises:
        InputError: the cell contains no data, or an option does not fit it.
    """
    check_name(name)
    tree = parse(source) if isinstance(source, CellSource) else None
    package = (lightning_package(tree) if tree is not None else None) or package
    importlib.import_module(package)
    if tree is None:
        return _adopt(name, source, options, namespace, package, local_names or {})
    complete_classes = [item for item, kind in class_kinds(tree, namespace).items() if kind == "data"]
    if chosen := run_complete_class(name, complete_classes, tree, source, namespace):
        return class_definition(name or chosen, namespace[chosen], options, namespace, source)
    parts = split(tree)
    if parts.expression is None and not parts.hooks:
        raise InputError(f"the cell contains no data: it does not end in an expression{last_name(tree)}. {FORMS}")
    execute(parts.notebook, source, namespace)
    name = name or DEFAULT_NAMES["data"]
    # What this cell itself has left there is no variable that it reads.
    assigned = known[name].left if known and name in known else {}
    rename_rebound(parts, {item for item, value in namespace.items() if assigned.get(item) != id(value)})
    return _Data(name, parts, options, namespace, package, source, local_names or {}).define()


def _adopt(
    name: str | None,
    value: Any,
    options: DataOptions,
    namespace: dict[str, Any],
    package: str,
    local_names: Mapping[str, Any],
) -> Definition:
    """Make a definition of an object."""
    name = name or default_name("data", value)
    if is_datamodule(value):
        if not isinstance(value, type):
            raise InputError(f"{name} is already a LightningDataModule instance. Pass it to %lightning_fit directly")
        return class_definition(name, value, options, namespace)
    is_bound = namespace.get(name) is value
    code: ast.expr | None = ast.Name(name, ast.Load()) if is_bound else None
    if code is None and text_sources.are_paths(value):
        code = literal(value)
    elif code is None and isinstance(value, str) and text_sources.are_for_texts(options):
        code = text_sources.hub_dataset_code(value, namespace)
    code = code or Notebook(namespace, {}, name).reference(value, "data")
    if hasattr(value, "__next__"):
        raise InputError(
            f"{name} is a {type(value).__name__}, which can be read only once. "
            f"Create it in a cell that starts with %%lightning_data {name}, which recreates it for every epoch"
        )
    return _Data(name, Cell(expression=code), options, namespace, package, None, local_names).define()


@dataclass
class _Data:
    """One DataModule in the making."""

    name: str
    cell: Cell
    options: DataOptions
    namespace: dict[str, Any]
    package: str
    source: CellSource | None
    local_names: Mapping[str, Any]
    parts: dict[Split, SplitData] = field(default_factory=dict)
    value: Any = None
    draws: bool = False
    labels: Labels = "apart"
    label: Any = None
    text: text_module.Text | None = None
    tables: dict[Path, Any] = field(default_factory=dict)
    imported: dict[str, Any] = field(default_factory=dict)
    bound_names: dict[str, int] = field(default_factory=dict)
    bound_code: str = ""

    @preserve_random_state()
    def define(self) -> Definition:
        """Generate the class, bind it in the notebook, and describe it."""
        hooks = {hook.name: hook for hook in self.cell.hooks}
        parameters = frozenset(self.cell.hyperparameters)
        if self.cell.expression is not None:
            self.find_data()
        new_splits = self.new_splits()
        self.add_options(hooks, new_splits)
        form = next(iter(self.parts.values())).form if self.parts else "hooks"
        instance_names = self.instance_names
        # What hooks read of the cell is made where it loads: every instance then loads for itself.
        data = None if form == "stream" or instance_names else self.value
        cls, source = self.compiled(self.methods(hooks, new_splits, instance_names))
        draws = self.draws and data is not None
        cell = self.source.text if self.source else ""
        definition = functools.partial(
            Definition,
            *(self.name, cls, source, cell, form, self.package),
            owned=self.imported,
            notebook=self.namespace,
            left=self.bound_names,
            values=of_values(self.value) if self.bound_names and data is not None and self.text is None else "",
            leaves=self.bound_code,
        )
        if self.text is None:
            return definition(data, parameters, draws)
        encoded = text_sources.encode_texts(cls(), self.text, self.tables)
        summary = text_sources.summary(encoded, self.text.vocabulary is not None)
        prepare = functools.partial(text_sources.encode_texts, text=self.text)
        return definition(
            None if instance_names else encoded, parameters | text_sources.ENCODING, summary=summary, prepare=prepare
        )

    def find_data(self) -> None:
        """Load the data once, with the default hyperparameters, and see what it is."""
        before = RandomState.capture()
        names: dict[str, Any] = {}
        value = evaluate_cell(self.cell, self.source, self.namespace, names)
        self.bind_names(names)
        self.draws = not before.is_present
        if value is UNKNOWN:
            missing = next(item.name for item in self.cell.hyperparameters.values() if item.default is None)
            raise InputError(
                f"data is loaded as soon as it is defined, but {missing!r} has no value. Write {missing}: ... = ..."
            )
        if is_datamodule(value):
            raise InputError("the last expression is already a LightningDataModule. Pass it to %lightning_fit directly")
        if value is None and self.cell.hooks:
            return  # a call for its effect, such as print
        if text_sources.are_for_texts(self.options):
            self.find_texts(value)
            return
        if text_sources.are_paths(value):
            raise InputError(
                f"files are read as texts, which need --text COLUMN, --label COLUMN and --tokenizer NAME; "
                f"found {value!r}. To use other data, read it in a cell, for example with pandas.read_csv"
            )
        _check_sparse(value)
        self.value, self.parts = value, splits_of(value, labelled=self.options.label is not None)
        forms = {part.form for part in self.parts.values()}
        for part in self.parts.values():
            if part.form == "dataset" and not self.cell.hooks:
                check_sample(_item(value, part))
        if "table" in forms:
            self.check_tables(value)
        elif has_columns(self.parts):
            self.check_columns(value)
        elif self.options.label is not None:
            raise InputError(
                f"--label would have no effect: it names a column of a DataFrame; found {type(value).__name__}"
            )

    def bind_names(self, names: Mapping[str, Any]) -> None:
        """Leave the names of the cell in the notebook, but for those of its own that it made of the notebook's."""
        cell = self.cell
        own_names = binds(cell.inner) & self.cell_names
        own_names |= {name for name in cell.hyperparameters if name not in _OPTIONS}
        assigned = {name: names[name] for name in sorted(own_names) if name in names}
        self.namespace.update(assigned)
        self.bound_names = {name: id(value) for name, value in assigned.items()}
        items = cell.hyperparameters.values()
        defaults = [
            ast.Assign([ast.Name(item.name, ast.Store())], item.default) for item in items if item.default is not None
        ]
        tree = deepcopy(ast.Module([*defaults, *cell.inner], []))
        self.bound_code = ast.unparse(ast.fix_missing_locations(tree)) if assigned else ""

    @property
    def cell_names(self) -> set[str]:
        """Names that are assigned in the cell as it was typed."""
        return binds(parse(self.source).body) if self.source is not None else set()

    def find_texts(self, value: Any) -> None:
        """See what texts are in."""
        notebook = Notebook(self.namespace, {}, self.name, local_names=self.local_names)
        self.options = dataclasses.replace(
            self.options, tokenizer=text_sources.resolve_tokenizer(self.options.tokenizer, notebook)
        )
        description, self.tables = text_sources.find_texts(value, self.options, notebook)
        self.value, self.parts = value, {split: SplitData("texts", key) for split, key in description.keys.items()}
        self.text = description

    def check_tables(self, value: Any) -> None:
        """Check that tables have their labels and nothing but numbers beside them, and that all are alike.

        Raises:
            InputError: they have not, or are not.
        """
        parts = sorted(self.parts.items(), key=lambda item: item[0] != "train")  # it is what the others are to be like
        tables = {split: columns.frame_of(_item(value, part)) for split, part in parts}
        schema: columns.TableSchema | None = None
        for name, table in tables.items():
            what = "the table" if len(tables) == 1 else f"the split {name!r}"
            columns.check_names(table, what)
            if schema is None:
                self.label = self.label_of(table)
            features = table.drop(columns=[self.label], errors="ignore")
            if self.label in table.columns:
                labels = _labels_in(table, self.label, schema)
            elif name == "predict" and schema is not None:
                columns.match_features(features, schema, "", what)
                continue
            else:
                raise InputError(f"{what} lacks the label column {self.label}")
            columns.check_features(features, what)
            if schema is None:
                self.labels = labels
                categories = table[self.label].astype("category").cat.categories
                names = [columns.class_name(item) for item in categories] if labels == "classes" else []
                if len(set(names)) < len(names):
                    raise InputError(
                        f"{self.label} has different classes with the same name: {first_few(sorted(names))}"
                    )
                schema = columns.of_frame(features, self.label, labels, names)
            else:
                columns.match_features(features, schema, "", what)
                columns.check_labels(table[self.label], schema, labels, "", what)

    def label_of(self, table: Any) -> Any:
        """The column that holds the labels.

        Raises:
            InputError: none is named, or there is none of that name, or it has missing values.
        """
        label, names = self.options.label, [str(name) for name in table.columns]
        if label is None:
            raise InputError(f"a DataFrame needs a label column. Add --label COLUMN, one of {first_few(names)}")
        column = columns.column_named(label, table)
        if column not in table.columns:
            raise InputError(
                f"--label {label}: there is no such column.{did_you_mean(str(label), names)} It has {first_few(names)}"
            )
        return column

    def check_columns(self, value: Any) -> None:
        """Check that the features of ``(X, y)``, where X is a table, are alike in all splits.

        Raises:
            InputError: they are not, a label is named, or other splits than the training data alone have columns.
        """
        if self.options.label is not None:
            raise InputError(
                f"--label {self.options.label} has no effect: y already holds the labels of (X, y). Leave it out"
            )
        named_splits = {split for split, part in self.parts.items() if part.names}
        table = next((split for split, part in self.parts.items() if part.table is not None), None)
        if table is not None and "train" in self.parts and self.parts["train"].table is None:
            raise InputError(
                f"the split {table!r} is a table, but the split 'train' is not, so its columns cannot be matched by "
                f"name. Use tables in both, or arrays in both, such as table.to_numpy()"
            )
        parts = {
            split: _item(value, part)
            for split, part in self.parts.items()
            if part.table is not None or split in named_splits or (named_splits and split != "predict")
        }
        first = parts.get("train", next(iter(parts.values())))
        schema = columns.of_value(first)
        if named_splits and named_splits != parts.keys():
            other = next(split for split in parts if split not in named_splits)
            raise InputError(
                f"the labels of the split {next(iter(named_splits))!r} are class names, but those of the split "
                f"{other!r} are not. Use class names in all splits"
            )
        assert schema is not None
        self.label, self.labels = columns.label_of(first), schema.labels
        if named_splits and self.label is None:
            self.label = "label" if "label" not in schema.names else "class name"
        for name, item in parts.items():
            what = f"the split {name!r}"
            if columns.frame_of(item) is not None:
                columns.match_features(columns.frame_of(item), schema, "", what)
            if name in named_splits:
                columns.check_labels(columns.label_column(item), schema, "classes", "", what)

    def new_splits(self) -> list[str]:
        """Return the splits to take from the training data.

        Raises:
            InputError: a split cannot be taken.
        """
        options = {"val": self.options.val_split, "test": self.options.test_split}
        sizes = {name: size for name, size in options.items() if size is not None}
        if not sizes or not self.parts:
            return []
        train = self.parts.get("train")
        for name, size in sizes.items():
            if name in self.parts:
                raise InputError(f"--{name}_split {size} would have no effect: the data already has a {name} split")
            if self.text is None and (train is None or train.length is None):
                what = (
                    "has no train split"
                    if train is None
                    else {"loaders": "is a DataLoader"}.get(train.form, "is a stream")
                )
                raise InputError(f"--{name}_split {size} is not possible: the data {what}. Pass the splits as a dict")
        if train is not None and train.length is not None:
            check_sizes(sizes, train.length)
        return list(sizes)

    def add_options(self, hooks: dict[str, Function], new_splits: list[str]) -> None:
        """Add the options that matter as hyperparameters.

        Raises:
            InputError: an option was given that would have no effect.
        """
        useful = self.useful_options(hooks, new_splits)
        used = {"label"} if self.text is None else {"label", *text_sources.OPTIONS}
        changed_names = [name for name in changed_options(self.options) if name not in used]
        useless = [name for name in changed_names if name not in useful]
        if useless:
            advice = f"It takes {option_names(sorted(useful))}" if useful else "Set it in the cell"
            raise InputError(f"{option_names(useless)} would have no effect on this data. {advice}")
        for name in (option for option in _OPTIONS if option in useful):
            value = getattr(self.options, name)
            annotation = ast.Name(_ANNOTATIONS.get(name, type(value).__name__), ast.Load())
            parameter = self.cell.hyperparameters.get(name)
            if parameter is None:
                self.cell.hyperparameters[name] = Hyperparameter(name, annotation, ast.Constant(value))
            elif name in changed_names:
                self.cell.hyperparameters[name] = Hyperparameter(name, parameter.annotation, ast.Constant(value))

    def useful_options(self, hooks: dict[str, Function], new_splits: list[str]) -> set[str]:
        """Return the options that reach something."""
        if not self.parts:
            read = hparams_read(hooks.values())
            # A name that the notebook has is the notebook's, unless the option is given.
            changed_names = changed_options(self.options)
            names = names_read(*hooks.values())
            return read & set(_OPTIONS) | {
                name for name in _OPTIONS if name in names and (name in changed_names or name not in self.namespace)
            }
        if any(part.form == "loaders" for part in self.parts.values()):
            return set()
        useful_names = {"batch_size", "num_workers", *(f"{name}_split" for name in new_splits)}
        useful_names |= {"split_seed"} if new_splits else set()
        if self.text is not None:
            builds_vocabulary, has_tokenizer = self.text.vocabulary is not None, self.text.tokenizer is not None
            useful_names |= {"max_length"} | (
                {"vocab_size"} if builds_vocabulary else set() if has_tokenizer else {"tokenizer"}
            )
        train = self.parts.get("train")
        return useful_names | ({"shuffle"} if train is not None and train.has_order else set())

    def methods(self, hooks: dict[str, Function], new_splits: list[str], instance_names: list[str]) -> list[Function]:
        """Return the methods of the class: the constructor, the user's, then those that were made."""
        cell = self.cell
        user_init = hooks.pop("__init__", None)
        user_hooks = [hook for hook in cell.hooks if hook.name != "__init__"]  # a property's parts are all of one name
        generated: list[ast.FunctionDef] = []
        body: list[ast.stmt] = []
        if self.parts:
            generated = self.data_methods(new_splits, instance_names)
            if "setup" in hooks:
                _prepend_setup(hooks["setup"], generated)
            generated = [method_ for method_ in generated if method_.name not in hooks]
            splits = self.splits_apart and self.text is None
            body = snippet("self.data = None\nself.splits = {}" if splits else "self.data = None")
            body += table_attributes(self.label, self.labels) if has_columns(self.parts) else []
        elif cell.inner:
            body = [*cell.inner, *_attribute_assignments(instance_names)]
        hyperparameters = cell.hyperparameters
        attributes = {name: f"self.hparams.{name}" for name in hyperparameters}
        attributes |= {name: f"self.{name}" for name in instance_names}
        for function in user_hooks:
            use_attributes(function, attributes)
        init = (
            constructor(hyperparameters, body)
            if user_init is None
            else complete_constructor(user_init, hyperparameters, body)
        )
        return [init, *user_hooks, *generated]

    @property
    def instance_names(self) -> list[str]:
        """Names that the cell makes for every instance and that its hooks read."""
        hooks = [hook for hook in self.cell.hooks if hook.name != "__init__"]
        module = importlib.import_module(self.package).LightningDataModule
        attributes = own_attributes(self.cell.hooks) - {"data", "splits", *dir(module)}
        return sorted((names_read(*hooks) | attributes) & binds(self.cell.inner))

    @property
    def splits_apart(self) -> bool:
        """Whether the class keeps splits of its own, rather than loaders of the user's."""
        return not any(part.form == "loaders" for part in self.parts.values())

    def data_methods(self, new_splits: list[str], instance_names: list[str]) -> list[ast.FunctionDef]:
        """Return the methods that load the data and give its loaders."""
        cell = self.cell
        read = names_read(*cell.inner, cell.expression) if cell.expression else set()
        body: list[ast.stmt] = []
        for name in cell.hyperparameters:
            if name in read:
                body += snippet("VALUE = self.hparams.NAME".replace("NAME", name).replace("VALUE", name))
        body += [*cell.inner, *_attribute_assignments(instance_names), ast.Return(cell.expression)]
        load = method('def load(self):\n    """Return the data of the cell."""\n    BODY', BODY=body)
        if self.text is not None:
            self.text = dataclasses.replace(self.text, new_splits=tuple(typing.cast("list[Split]", new_splits)))
            return [load, *self.text.methods(self.stem)]
        names = set(self.parts) | set(new_splits)
        single = set(self.parts) == {"train"} and self.parts["train"].has_order
        names |= {"predict"} if single else set()
        filled = split_statements(self.parts, self.class_name)
        ordered: list[Split] = [name for name in typing.get_args(Split) if name in names]
        tables = table_methods(self.parts, self.labels) if has_columns(self.parts) else []
        return [load, setup_method(self.parts, new_splits, filled), *tables, *loader_methods(self.parts, ordered)]

    @property
    def class_name(self) -> str:
        """The class is named apart, so that the notebook's variable of the name stays."""
        camel = "".join(part[:1].upper() + part[1:] for part in re.split(r"_+", self.name)).removesuffix("Data")
        names = [f"{camel}Data", f"{camel}DataModule", f"Lit{camel}Data"]
        free = [name for name in names if name not in self.namespace or is_datamodule(self.namespace[name])]
        return next(iter(free), f"Lit{camel}DataModule")

    @property
    def stem(self) -> str:
        """What the classes of texts are named after."""
        return self.class_name.removesuffix("Data")

    def compiled(self, methods: list[Function]) -> tuple[type, str]:
        """Compile the class, run its definition in the notebook, and return it with its text."""
        docstring = ast.Expr(ast.Constant(self.cell.docstring or f"The data {self.name} of a notebook."))
        cls = ast.ClassDef(self.class_name, [expression("pl.LightningDataModule")], [], [docstring, *methods], [])
        helpers = (
            text_module.helper_classes(self.stem)
            if self.text is not None
            else helper_classes(self.parts.values(), self.class_name)
        )
        class_definitions = [*helpers, cls]
        imports = bind_imports(class_definitions, self.package, self.namespace)
        self.imported = {name: self.namespace[name] for name in binds(imports)}
        imports += notebook_imports(imports, [*self.cell.in_text, *class_definitions], self.namespace)
        generated = assemble([*imports, *self.cell.in_text], class_definitions, self.class_name, self.source)
        exec(generated.code, self.namespace)
        return self.namespace[self.class_name], generated.text


def _prepend_setup(user_setup: Function, methods: list[ast.FunctionDef]) -> None:
    """Let the user's `setup` begin with the one that was made, under another name."""
    for function in methods:
        if function.name == "setup":
            function.name = "_setup_data"
    start = 1 if ast.get_docstring(user_setup, clean=False) is not None else 0
    user_setup.body[start:start] = snippet("self._setup_data()")


def _attribute_assignments(names: list[str]) -> list[ast.stmt]:
    """Return the statements that keep local names for hooks."""
    return [statement for name in names for statement in snippet(f"self.{name} = {name}")]


def _item(value: Any, part: SplitData) -> Any:
    """The data of a split."""
    return value if part.key is None else value[part.key]


def _labels_in(table: Any, column: Any, schema: columns.TableSchema | None) -> Labels:
    """Return what a column of labels holds; of another split, what that of the training data holds.

    Raises:
        InputError: it has missing values, or whole numbers, which may be either classes or numbers to predict.
    """
    values = table[column]
    if values.isna().any():
        raise InputError(f"columns with missing values: {column}. Fill them (fillna) or drop them in the cell")
    if schema is not None:
        return schema.labels
    if values.dtype.kind == "f":
        return "numbers"
    if values.dtype.kind not in "iu":
        return "classes"
    numbers = sorted(values.unique())
    if numbers != list(range(len(numbers))):
        raise InputError(
            f"{column} contains whole numbers. To predict numbers, write df.astype({{{column!r}: 'float32'}}); "
            f"to predict classes, use 'category' instead of 'float32'"
        )
    return "indices"


def _check_sparse(value: Any) -> None:
    """Check that data is not in sparse matrices.

    Raises:
        InputError: it is.
    """
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]:
        if isinstance(item, tuple | list):
            _check_sparse(tuple(item[:3]))
        elif type(item).__module__.startswith("scipy.sparse"):
            rows, width = (*item.shape, 1)[:2]
            raise InputError(
                f"a sparse matrix ({rows:,} × {width:,}) cannot be loaded as data. Convert it in the cell: "
                f"X.toarray(), which takes {rows * width * 4 / 2**20:,.0f} MiB as float32"
            )
