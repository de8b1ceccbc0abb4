"""How a fit was put together, as code: what makes its model, its data and its Trainer, for its record.

Which statements that code needs is in `closure`; what is done with a recipe is in `recorded`, `script` and
`commands/rerun`.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import enum
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, cast

from ..definitions import labels
from ..definitions.definition import Definition, class_source, package_of, uncompiled
from ..definitions.scopes import reads, replace_names
from ..options.parser import Expression
from ..options.tokens import is_expression, to_value
from ..runs import columns, events
from ..runs.record import RunRecord
from . import blocks
from .closure import Closure, SourceModule
from .history import History
from .plain import is_plain

_MAX_ITEMS = 10_000  # items of an array that are recorded, and of a list that an object is looked for in


@dataclass(frozen=True)
class Recipe:
    """What ``run.json`` holds of how a fit was put together; every text is Python code for the run's source.

    Attributes:
        package: ``pytorch_lightning`` or ``lightning.pytorch``.
        model: the model's class, or an instance.
        arguments: of the class; None where `model` is an instance.
        trained: whether the instance had been trained before, and its fit continued.
        remade: whether the model was an instance that cannot be made as it was made: `model` and `arguments` are its
            class and the hyperparameters that it had saved.
        compiled: whether the instance is what ``torch.compile`` returned.
        data: the DataModule's class or an instance, or what each dataloader is of.
        forms: of each of `data`: ``datamodule``, ``loaders``, ``dataset``, ``tensors`` and the like.
        data_arguments: of the DataModule's class, or of the dataloaders that are made; None for an instance.
        classes: of texts, in the order of the model's outputs where that is not the data's own.
        classifier: path in the model of a classifier of texts whose outputs have their names; `outputs` are these.
        table: of tables, attributes of the DataModule where the fit matched it to what the model was trained on before:
            `columns`, `classes`, `labels`.
        plain_yaml: whether Lightning writes the hyperparameters only where it does not use OmegaConf.
        loaded: what was loaded when the data was defined, where loading draws random numbers.
        trainer: arguments of Trainer.
        options: the fit's own options as JSON: `seed`, `early_stop`, `monitor` and the others; loggers as code.
        missing: names whose source is not known, each with what to do about it.
        lost: those of them that had their value in a block or function alone: a variable of the name is another one.
        drawn: names that the source draws with other random numbers, since the run drew them in a loop or function.
    """

    package: str = "pytorch_lightning"
    model: str = ""
    arguments: dict[str, str] | None = None
    trained: bool = False
    remade: bool = False
    compiled: bool = False
    data: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    data_arguments: dict[str, str] | None = None
    classes: list[str] = field(default_factory=list)
    classifier: str = ""
    outputs: list[str] = field(default_factory=list)
    table: dict[str, str] = field(default_factory=dict)
    plain_yaml: bool = False
    loaded: str = ""
    trainer: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def codes(self) -> list[str]:
        """All code of it but the model's and the data's."""
        logger = self.options.get("logger") or ()
        listed = [logger] if isinstance(logger, str) else logger
        loggers = [item for item in listed if not item.isidentifier()]
        return [*map(_evaluated_code, self.trainer.values()), *loggers]

    @property
    def model_codes(self) -> list[str]:
        """The code that makes the model."""
        return [self.model, *(self.arguments or {}).values()]

    @property
    def data_codes(self) -> list[str]:
        """The code that makes the data."""
        return [*self.data, *(self.data_arguments or {}).values(), *filter(None, [self.loaded])]

    @classmethod
    def of(cls, record: RunRecord) -> Recipe:
        """Read the recipe of a run; an empty one of a run that has none.

        Raises:
            ValueError: it is not whole.
        """
        return cast(Recipe, events.from_dict(cls, record.recipe))


@dataclass(frozen=True)
class CallArgument:
    """A part of a call: what was given, and what it came to.

    Attributes:
        value: a definition, a class, an instance, or any data.
        original: as it was given: text, or the object itself.
        arguments: of its constructor, as values; `original_arguments` as they were given.
    """

    value: Any
    original: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    original_arguments: Mapping[str, Any] = field(default_factory=dict)


def _evaluated_code(code: str) -> str:
    """The code that a fit evaluates of an argument of Trainer: of a text in quotes its content, if it is code."""
    value = to_value(code)
    return value if isinstance(value, str) and is_expression(value, {}) else code


class RecipeWriter:
    """Writes a recipe, and the module that its code needs.

    Args:
        history: what the notebook has run.
        home: where names of texts are looked up first, see `History`.
        local_names: variables of the function that the fit was called in, which come before those.
    """

    def __init__(self, history: History, home: int = 0, local_names: Mapping[str, Any] | None = None) -> None:
        self._history = history
        self._home = home
        self._local_names = local_names or {}
        self._closure = Closure(history, self._value_code)
        self._recipe = Recipe()
        self._names_in_progress: list[str] = []  # names whose values are being looked for

    def add_model(self, argument: CallArgument, package: str, trained: bool, remade: bool = False) -> None:
        """Take in the model.

        Args:
            argument: it.
            package: that its class is of.
            trained: whether it is an instance that has been trained, and goes on.
            remade: whether it stands for an instance of another fit.
        """
        self._update(package=package, trained=trained, remade=remade)
        model = argument.value
        if isinstance(model, Definition | type):
            self._update(model=self._class_code(model), arguments=self._argument_codes("model", argument))
            return
        name = self._typed_code(argument.original)
        name = name if name and self._is_complete(name) else self._variable_of(model)
        if name and self._is_complete(name):
            self._update(model=self._code_of(model, name, "model"), compiled=uncompiled(model) is not model)
            return
        # The object cannot be made as it was made; its class can, with what it was given.
        cls = type(uncompiled(model))
        parameters = inspect.signature(cls).parameters
        hyperparameters = {name: value for name, value in _saved_hyperparameters(model).items() if name in parameters}
        arguments = self._argument_codes("model", CallArgument(model, model, hyperparameters))
        self._update(model=self._class_code(cls), arguments=arguments, remade=True)
        unknown = [name for name, item in parameters.items() if name not in hyperparameters and _is_required(item)]
        if unknown:
            self._closure.missing["model"] = (
                f"the value of {unknown[0]} of this {cls.__name__} is not recorded. "
                "Call self.save_hyperparameters() in __init__"
            )

    def add_data(self, arguments: Sequence[CallArgument], forms: Sequence[str]) -> None:
        """Take in the data: a DataModule, or what the dataloaders are of."""
        if not arguments:
            return
        self._update(forms=list(forms), data_arguments=self._argument_codes("data", arguments[0]))
        first = arguments[0].value
        if forms[0] == "datamodule" and isinstance(first, Definition | type):
            self._update(data=[self._class_code(first)])
            names = arguments[0].arguments.keys()
            if isinstance(first, Definition) and first.draws and not first.reloads_for & names:
                name = loaded_name(first.cls.__name__)
                place = self._history.class_place(first.cls.__name__)
                self._closure.need_code(name, 0 if place is None else self._history.statements[place][1])
                self._update(loaded=name)
        else:
            self._update(data=[self._code_of(argument.value, argument.original, "data") for argument in arguments])
            if forms[0] == "datamodule":
                self._update(data_arguments=None)

    def add_classes(self, datamodule: Any, argument: CallArgument) -> None:
        """Take in the order of the classes of texts, where the model has another than the data."""
        encoded = getattr(datamodule, "data", None)
        if not hasattr(datamodule, "order_classes") or encoded is None:
            return
        encoding = argument.value.loaded if isinstance(argument.value, Definition) else None
        if encoding is None or encoding[1] != encoded[1]:
            self._update(classes=list(encoded[1]))

    def add_table(self, datamodule: Any) -> None:
        """Take in the columns and classes of tables, where these are not what the data learns by itself."""
        if not columns.is_of_table(datamodule) or getattr(datamodule, "_own", None) is None:
            return
        own = copy.copy(datamodule)
        columns.reset_datamodule(own)
        columns.of_datamodule(own)
        matched = datamodule.columns if own.columns else {}  # features that are arrays have no names
        if (list(own.columns), own.labels, own.classes) == (list(matched), datamodule.labels, datamodule.classes):
            return
        codes = ", ".join(f"{self._code_of(name, None, 'data')}: {kind!r}" for name, kind in matched.items())
        table = {"columns": f"{{{codes}}}", "labels": repr(datamodule.labels)}
        self._update(table=table | ({"classes": repr(datamodule.classes)} if datamodule.classes else {}))

    def add_outputs(self, model: Any, datamodule: Any) -> None:
        """Take in the names of a classifier's outputs, which are those of the labels of texts."""
        encoded = getattr(datamodule, "data", None)
        if not hasattr(datamodule, "order_classes") or encoded is None:
            return
        classifier = labels.named_part(model, encoded[1])
        if classifier is not None:
            self._update(classifier=classifier[0], outputs=classifier[1])

    def add_hyperparameters(self, model: Any, datamodule: Any) -> None:
        """Take in whether the values of hyperparameters are such that plain Lightning cannot write them."""
        from ..training.loggers import need_plain_yaml

        self._update(plain_yaml=need_plain_yaml(self._recipe.package, model, datamodule))

    def add_trainer(self, arguments: Mapping[str, Any], checked: Mapping[str, Any]) -> None:
        """Take in the Trainer's arguments: as given, and as they were checked."""
        codes = {}
        for name, original in arguments.items():
            value = checked.get(name)
            code = self._code_of(value, original, f"--{name}")
            several = name != "callbacks" or isinstance(value, list | tuple) or value is None
            codes[name] = code if several else f"[{code}]"
        self._update(trainer=codes)

    def add_options(self, values: Mapping[str, Any]) -> None:
        """Take in the fit's own options."""
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if options.get("logger"):
            options["logger"] = [
                item if isinstance(item, str) else self._code_of(item, item, "--logger") for item in options["logger"]
            ]
        self._update(options=options)

    def result(self) -> tuple[Recipe, SourceModule]:
        """Return the recipe, and the module that its code needs."""
        module = self._closure.module(seeded=self._recipe.options.get("seed") is not None)
        lost = [name for name, why in module.missing.items() if blocks.is_lost(why)]
        drawn = [name for name in module.drawn if name != self._recipe.model]
        return dataclasses.replace(self._recipe, missing=dict(module.missing), lost=lost, drawn=drawn), module

    def _update(self, **changes: Any) -> None:
        self._recipe = dataclasses.replace(self._recipe, **changes)

    def _class_code(self, definition: Definition | type) -> str:
        """Code of a class."""
        cls: type = definition if isinstance(definition, type) else definition.cls
        name = cls.__name__
        if cls.__module__ != "__main__" and self._closure.need_import(name, cls):
            return name
        source = definition.source if isinstance(definition, Definition) else class_source(cls)
        self._closure.need_class(cls, source)
        return name

    def _argument_codes(self, prefix: str, argument: CallArgument) -> dict[str, str]:
        originals = argument.original_arguments
        return {
            name: self._code_of(value, originals.get(name, value), f"--{prefix}.{name}")
            for name, value in argument.arguments.items()
        }

    def _code_of(self, value: Any, original: Any, label: str, before: int | None = None) -> str:
        """Code of a value.

        Args:
            value: it.
            original: text that it came from, or anything else.
            label: of the argument that it is for, in messages.
            before: place in the history before which a variable that holds it had its value.
        """
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            if value.dtype.kind in "mM" and self._closure.need_import("numpy", sys.modules["numpy"]):
                return re.sub(r"^(np|numpy)\.", "numpy.", repr(value[()]))
            value = value.item()
        if is_plain(value):
            return repr(value)
        text = self._typed_code(original.text if isinstance(original, Expression) else original)
        if text:
            self._closure.need_code(text, self._home)
            return text
        name = self._variable_of(value, before)
        if name and not self._is_complete(name):
            code = self._constructor_code(value, label)
            if code:
                return code
        if name:
            self._closure.need_code(name)
            return name
        own_name = getattr(value, "__name__", "")
        if own_name and self._closure.need_import(own_name, value):
            return str(own_name)
        code = self._constructor_code(value, label)
        if code:
            return code
        kind = type(value).__name__
        self._closure.missing[label] = f"a {kind} that is not in a variable of the notebook: assign it to one first"
        return kind

    def _typed_code(self, original: Any) -> str:
        """Code that was typed, with plain values for local variables; empty where it needs others, or is no text."""
        if type(original) is not str:  # an enum may be one
            return ""
        tree = ast.parse(original.strip(), mode="eval")
        places = [read.node for read in reads(tree) if read.node.id in self._local_names]
        values = {node.id: self._local_names[node.id] for node in places}
        codes = {name: repr(value) if is_plain(value) else self._recorded_name(name) for name, value in values.items()}
        if not all(codes.values()):
            return ""
        trees = {name: ast.parse(code, mode="eval").body for name, code in codes.items()}
        return ast.unparse(replace_names(tree, places, trees)) if places else original

    def _recorded_name(self, name: str) -> str:
        """The name that a variable of the function has in what is recorded, empty where it has none."""
        is_global = self._history.namespaces[0].get(name, self) is self._local_names[name]
        return self._history.local_names.get(name, name if is_global else "")

    def _constructor_code(self, value: Any, label: str) -> str:
        """Code that makes a value anew, empty where its type does not tell how."""
        cls: Any = type(value)
        if cls in (list, tuple):
            items = [self._code_of(item, item, label) for item in value]
            return f"[{', '.join(items)}]" if cls is list else f"({', '.join(items)},)"
        if cls in (set, frozenset):
            return f"{cls.__name__}([{', '.join(self._code_of(item, item, label) for item in value)}])"
        if cls in (range, slice, bytearray):
            return repr(value)
        if cls is dict:
            return f"{{{', '.join(f'{key!r}: {self._code_of(item, item, label)}' for key, item in value.items())}}}"
        if isinstance(value, enum.Enum):
            is_member = value.name in cls.__members__
            return f"{self._class_code(cls)}.{value.name}" if is_member else f"{self._class_code(cls)}({value.value!r})"
        if dataclasses.is_dataclass(cls):
            arguments: dict[str, Any] = {
                item.name: getattr(value, item.name) for item in dataclasses.fields(cls) if item.init
            }
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            arguments = value._asdict()
        elif cls.__module__ == "torch.utils.data.dataset" and cls.__name__ == "Subset":
            indices = value.indices
            arguments = {"dataset": value.dataset, "indices": indices if hasattr(indices, "shape") else list(indices)}
        elif isinstance(value, PurePath):
            return f"{self._class_code(Path if isinstance(value, Path) else cls)}({str(value)!r})"
        elif cls.__module__ == "numpy" and cls.__name__ == "ndarray":
            return self._array_code(value, "numpy.array", f"{str(value.dtype)!r}")
        elif cls.__module__ == "torch" and cls.__name__ == "Tensor" and not value.requires_grad:
            return self._array_code(value, "torch.tensor", str(value.dtype)) if value.device.type == "cpu" else ""
        else:
            return ""
        codes = [f"{name}={self._code_of(item, item, label)}" for name, item in arguments.items()]
        return f"{self._class_code(cls)}({', '.join(codes)})"

    def _array_code(self, value: Any, function: str, kind: str) -> str:
        """Code of a small array of numbers, empty of any other."""
        package, _, _ = function.partition(".")
        if math.prod(value.shape) > _MAX_ITEMS:
            return ""
        items = value.tolist()
        if not is_plain(items) or not self._closure.need_import(package, sys.modules[package]):
            return ""
        return f"{function}({items!r}, dtype={kind})" if 0 not in value.shape else ""

    def _value_code(self, value: Any, name: str, place: int) -> str:
        """Code of the value that a name has since a place in the history, empty where none is known."""
        if name in self._names_in_progress:
            return ""
        self._names_in_progress.append(name)
        try:
            with self._trial_closure() as trial:
                self._code_of(value, None, name, place)
            return self._code_of(value, None, name, place) if not trial.missing else ""
        finally:
            self._names_in_progress.pop()

    def _variable_of(self, value: Any, before: int | None = None) -> str:
        """A variable of the notebook that holds an object, alone or among others; empty if there is none.

        Args:
            value: the object.
            before: place in the history before which the variable had its value.
        """
        codes = []
        for home in {0, self._history.local_home or 0}:
            for name, holder in self._history.namespaces[home].items():
                if name.startswith("_") or name in self._names_in_progress:
                    continue
                subscript = "" if holder is value else _subscript(holder, value)
                places = self._history.binding_places(name, sys.maxsize, home)
                if (subscript or holder is value) and (before is None or not places or places[-1] < before):
                    codes.append(f"{name}{subscript}")
        codes.sort(key=lambda code: not code.isidentifier())
        return next(filter(self._is_complete, codes), codes[0] if codes and codes[0].isidentifier() else "")

    def _is_complete(self, code: str) -> bool:
        """Whether all that an expression needs is known."""
        with self._trial_closure() as trial:
            trial.need_code(code, self._home)
        return not trial.missing

    @contextlib.contextmanager
    def _trial_closure(self) -> Iterator[Closure]:
        """Collect into another closure, which tells what would be missing."""
        outer, self._closure = self._closure, Closure(self._history, self._value_code)
        try:
            yield self._closure
        finally:
            self._closure = outer


def _subscript(holder: Any, value: Any) -> str:
    """Where an object is in a tuple, list or dict, as ``[0]``; empty if it is not."""
    if type(holder) is dict and len(holder) <= _MAX_ITEMS:
        return next((f"[{key!r}]" for key, item in holder.items() if item is value and is_plain(key)), "")
    if type(holder) in (list, tuple) and len(holder) <= _MAX_ITEMS:
        return next((f"[{place}]" for place, item in enumerate(holder) if item is value), "")
    return ""


def loaded_name(cls: str) -> str:
    """The name of what was loaded when a generated DataModule was defined."""
    return f"{cls[0].lower()}{cls[1:]}_loaded"


def with_loading(definition: Definition) -> str:
    """A definition's source; of data, with the statements whose names the cell has left in the notebook.

    Of data that draws random numbers when it is loaded, also with its loading: the notebook has loaded it where it was
    defined, and went on with the random numbers as if it had not.
    """
    name, text = definition.cls.__name__, definition.source
    if definition.draws or definition.leaves:
        text += f"\nfrom {package_of(definition.cls)}.utilities.seed import isolate_rng\n"
    if definition.leaves:
        text += f"with isolate_rng():\n{textwrap.indent(definition.leaves, '    ')}\n"
    if definition.draws:
        text += (
            f"with isolate_rng():  # loading it does not change the random numbers drawn elsewhere\n"
            f"    {loaded_name(name)} = {name}().load()\n"
        )
    return text


def _is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must give a value for a parameter."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


def _saved_hyperparameters(instance: Any) -> dict[str, Any]:
    """Hyperparameters that an instance has saved."""
    return dict(getattr(instance, "hparams", {}))
