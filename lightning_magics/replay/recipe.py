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
from .closure import Closure, Module
from .history import History
from .plain import is_plain

_MOST_NUMBERS = 10_000  # items of an array that are recorded, and of a list that an object is looked for in


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
        given = [logger] if isinstance(logger, str) else logger
        loggers = [item for item in given if not item.isidentifier()]
        return [*map(_evaluated, self.trainer.values()), *loggers]

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
        found: a definition, a class, an instance, or any data.
        typed: as it was given: text, or the object itself.
        arguments: of its constructor, as values; `typed_arguments` as they were given.
    """

    found: Any
    typed: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    typed_arguments: Mapping[str, Any] = field(default_factory=dict)


def _evaluated(code: str) -> str:
    """The code that a fit evaluates of an argument of Trainer: of a text in quotes its content, if it is code."""
    value = to_value(code)
    return value if isinstance(value, str) and is_expression(value, {}) else code


class Writer:
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
        self._closure = Closure(history, self._value)
        self._recipe = Recipe()
        self._naming: list[str] = []  # names whose values are being looked for

    def model(self, part: CallArgument, package: str, trained: bool, remade: bool = False) -> None:
        """Take in the model.

        Args:
            part: it.
            package: that its class is of.
            trained: whether it is an instance that has been trained, and goes on.
            remade: whether it stands for an instance of another fit.
        """
        self._note(package=package, trained=trained, remade=remade)
        found = part.found
        if isinstance(found, Definition | type):
            self._note(model=self._class(found), arguments=self._arguments("model", part))
            return
        name = self._standing(part.typed)
        name = name if name and self._is_whole(name) else self._name_of(found)
        if name and self._is_whole(name):
            self._note(model=self._code(found, name, "model"), compiled=uncompiled(found) is not found)
            return
        # The object cannot be made as it was made; its class can, with what it was given.
        cls = type(uncompiled(found))
        parameters = inspect.signature(cls).parameters
        saved = {name: value for name, value in _saved(found).items() if name in parameters}
        arguments = self._arguments("model", CallArgument(found, found, saved))
        self._note(model=self._class(cls), arguments=arguments, remade=True)
        unknown = [name for name, item in parameters.items() if name not in saved and _is_required(item)]
        if unknown:
            self._closure.missing["model"] = (
                f"the value of {unknown[0]} of this {cls.__name__} is not recorded. "
                "Call self.save_hyperparameters() in __init__"
            )

    def data(self, parts: Sequence[CallArgument], forms: Sequence[str]) -> None:
        """Take in the data: a DataModule, or what the dataloaders are of."""
        if not parts:
            return
        self._note(forms=list(forms), data_arguments=self._arguments("data", parts[0]))
        first = parts[0].found
        if forms[0] == "datamodule" and isinstance(first, Definition | type):
            self._note(data=[self._class(first)])
            given = parts[0].arguments.keys()
            if isinstance(first, Definition) and first.draws and not first.reloads_for & given:
                name = loaded_name(first.cls.__name__)
                place = self._history.class_place(first.cls.__name__)
                self._closure.need_code(name, 0 if place is None else self._history.statements[place][1])
                self._note(loaded=name)
        else:
            self._note(data=[self._code(part.found, part.typed, "data") for part in parts])
            if forms[0] == "datamodule":
                self._note(data_arguments=None)

    def classes(self, datamodule: Any, part: CallArgument) -> None:
        """Take in the order of the classes of texts, where the model has another than the data."""
        encoded = getattr(datamodule, "data", None)
        if not hasattr(datamodule, "order_classes") or encoded is None:
            return
        own = part.found.loaded if isinstance(part.found, Definition) else None
        if own is None or own[1] != encoded[1]:
            self._note(classes=list(encoded[1]))

    def table(self, datamodule: Any) -> None:
        """Take in the columns and classes of tables, where these are not what the data learns by itself."""
        if not columns.is_of_table(datamodule) or getattr(datamodule, "_own", None) is None:
            return
        own = copy.copy(datamodule)
        columns.reset_datamodule(own)
        columns.of_datamodule(own)
        matched = datamodule.columns if own.columns else {}  # features that are arrays have no names
        if (list(own.columns), own.labels, own.classes) == (list(matched), datamodule.labels, datamodule.classes):
            return
        codes = ", ".join(f"{self._code(name, None, 'data')}: {kind!r}" for name, kind in matched.items())
        table = {"columns": f"{{{codes}}}", "labels": repr(datamodule.labels)}
        self._note(table=table | ({"classes": repr(datamodule.classes)} if datamodule.classes else {}))

    def outputs(self, model: Any, datamodule: Any) -> None:
        """Take in the names of a classifier's outputs, which are those of the labels of texts."""
        encoded = getattr(datamodule, "data", None)
        if not hasattr(datamodule, "order_classes") or encoded is None:
            return
        named = labels.named_part(model, encoded[1])
        if named is not None:
            self._note(classifier=named[0], outputs=named[1])

    def hyperparameters(self, model: Any, datamodule: Any) -> None:
        """Take in whether the values of hyperparameters are such that plain Lightning cannot write them."""
        from ..training.loggers import need_plain_yaml

        self._note(plain_yaml=need_plain_yaml(self._recipe.package, model, datamodule))

    def trainer(self, given: Mapping[str, Any], checked: Mapping[str, Any]) -> None:
        """Take in the Trainer's arguments: as given, and as they were checked."""
        codes = {}
        for name, typed in given.items():
            value = checked.get(name)
            code = self._code(value, typed, f"--{name}")
            several = name != "callbacks" or isinstance(value, list | tuple) or value is None
            codes[name] = code if several else f"[{code}]"
        self._note(trainer=codes)

    def options(self, values: Mapping[str, Any]) -> None:
        """Take in the fit's own options."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if found.get("logger"):
            found["logger"] = [
                item if isinstance(item, str) else self._code(item, item, "--logger") for item in found["logger"]
            ]
        self._note(options=found)

    def written(self) -> tuple[Recipe, Module]:
        """Return the recipe, and the module that its code needs."""
        module = self._closure.module(seeded=self._recipe.options.get("seed") is not None)
        lost = [name for name, why in module.missing.items() if blocks.is_lost(why)]
        drawn = [name for name in module.drawn if name != self._recipe.model]
        return dataclasses.replace(self._recipe, missing=dict(module.missing), lost=lost, drawn=drawn), module

    def _note(self, **changes: Any) -> None:
        self._recipe = dataclasses.replace(self._recipe, **changes)

    def _class(self, found: Definition | type) -> str:
        """Code of a class."""
        cls: type = found if isinstance(found, type) else found.cls
        name = cls.__name__
        if cls.__module__ != "__main__" and self._closure.need_import(name, cls):
            return name
        source = found.source if isinstance(found, Definition) else class_source(cls)
        self._closure.need_class(cls, source)
        return name

    def _arguments(self, prefix: str, part: CallArgument) -> dict[str, str]:
        given = part.typed_arguments
        return {
            name: self._code(value, given.get(name, value), f"--{prefix}.{name}")
            for name, value in part.arguments.items()
        }

    def _code(self, value: Any, typed: Any, what: str, before: int | None = None) -> str:
        """Code of a value.

        Args:
            value: it.
            typed: text that it came from, or anything else.
            what: it is for.
            before: place in the history before which a variable that holds it had its value.
        """
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            value = value.item()
        if is_plain(value):
            return repr(value)
        text = self._standing(typed.text if isinstance(typed, Expression) else typed)
        if text:
            self._closure.need_code(text, self._home)
            return text
        name = self._name_of(value, before)
        if name and not self._is_whole(name):
            made = self._made(value, what)
            if made:
                return made
        if name:
            self._closure.need_code(name)
            return name
        own = getattr(value, "__name__", "")
        if own and self._closure.need_import(own, value):
            return str(own)
        made = self._made(value, what)
        if made:
            return made
        kind = type(value).__name__
        self._closure.missing[what] = f"a {kind} that is not in a variable of the notebook: assign it to one first"
        return kind

    def _standing(self, typed: Any) -> str:
        """Code that was typed, with plain values for local variables; empty where it needs others, or is no text."""
        if type(typed) is not str:  # an enum may be one
            return ""
        tree = ast.parse(typed.strip(), mode="eval")
        places = [read.node for read in reads(tree) if read.node.id in self._local_names]
        values = {node.id: self._local_names[node.id] for node in places}
        codes = {name: repr(value) if is_plain(value) else self._local(name) for name, value in values.items()}
        if not all(codes.values()):
            return ""
        trees = {name: ast.parse(code, mode="eval").body for name, code in codes.items()}
        return ast.unparse(replace_names(tree, places, trees)) if places else typed

    def _local(self, name: str) -> str:
        """The name that a variable of the function has in what is recorded, empty where it has none."""
        is_global = self._history.namespaces[0].get(name, self) is self._local_names[name]
        return self._history.local_names.get(name, name if is_global else "")

    def _made(self, value: Any, what: str) -> str:
        """Code that makes a value anew, empty where its type does not tell how."""
        cls: Any = type(value)
        if cls in (list, tuple):
            items = [self._code(item, item, what) for item in value]
            return f"[{', '.join(items)}]" if cls is list else f"({', '.join(items)},)"
        if cls in (set, frozenset):
            return f"{cls.__name__}([{', '.join(self._code(item, item, what) for item in value)}])"
        if cls in (range, slice, bytearray):
            return repr(value)
        if cls is dict:
            return f"{{{', '.join(f'{key!r}: {self._code(item, item, what)}' for key, item in value.items())}}}"
        if isinstance(value, enum.Enum):
            named = value.name in cls.__members__
            return f"{self._class(cls)}.{value.name}" if named else f"{self._class(cls)}({value.value!r})"
        if dataclasses.is_dataclass(cls):
            given: dict[str, Any] = {
                item.name: getattr(value, item.name) for item in dataclasses.fields(cls) if item.init
            }
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            given = value._asdict()
        elif cls.__module__ == "torch.utils.data.dataset" and cls.__name__ == "Subset":
            indices = value.indices
            given = {"dataset": value.dataset, "indices": indices if hasattr(indices, "shape") else list(indices)}
        elif isinstance(value, PurePath):
            return f"{self._class(Path if isinstance(value, Path) else cls)}({str(value)!r})"
        elif cls.__module__ == "numpy" and cls.__name__ == "ndarray":
            return self._array(value, "numpy.array", f"{str(value.dtype)!r}")
        elif cls.__module__ == "torch" and cls.__name__ == "Tensor" and not value.requires_grad:
            return self._array(value, "torch.tensor", str(value.dtype)) if value.device.type == "cpu" else ""
        else:
            return ""
        codes = [f"{name}={self._code(item, item, what)}" for name, item in given.items()]
        return f"{self._class(cls)}({', '.join(codes)})"

    def _array(self, value: Any, function: str, kind: str) -> str:
        """Code of a small array of numbers, empty of any other."""
        package, _, _ = function.partition(".")
        if math.prod(value.shape) > _MOST_NUMBERS:
            return ""
        items = value.tolist()
        if not is_plain(items) or not self._closure.need_import(package, sys.modules[package]):
            return ""
        return f"{function}({items!r}, dtype={kind})" if 0 not in value.shape else ""

    def _value(self, value: Any, name: str, place: int) -> str:
        """Code of the value that a name has since a place in the history, empty where none is known."""
        if name in self._naming:
            return ""
        self._naming.append(name)
        try:
            with self._tried() as trial:
                self._code(value, None, name, place)
            return self._code(value, None, name, place) if not trial.missing else ""
        finally:
            self._naming.pop()

    def _name_of(self, value: Any, before: int | None = None) -> str:
        """A variable of the notebook that holds an object, alone or among others; empty if there is none.

        Args:
            value: the object.
            before: place in the history before which the variable had its value.
        """
        found = []
        for home in {0, self._history.local_home or 0}:
            for name, item in self._history.namespaces[home].items():
                if name.startswith("_") or name in self._naming:
                    continue
                place = "" if item is value else _place_in(item, value)
                bound = self._history.bound(name, sys.maxsize, home)
                if (place or item is value) and (before is None or not bound or bound[-1] < before):
                    found.append(f"{name}{place}")
        found.sort(key=lambda code: not code.isidentifier())
        return next(filter(self._is_whole, found), found[0] if found and found[0].isidentifier() else "")

    def _is_whole(self, code: str) -> bool:
        """Whether all that an expression needs is known."""
        with self._tried() as trial:
            trial.need_code(code, self._home)
        return not trial.missing

    @contextlib.contextmanager
    def _tried(self) -> Iterator[Closure]:
        """Collect into another closure, which tells what would be missing."""
        outer, self._closure = self._closure, Closure(self._history, self._value)
        try:
            yield self._closure
        finally:
            self._closure = outer


def _place_in(holder: Any, value: Any) -> str:
    """Where an object is in a tuple, list or dict, as ``[0]``; empty if it is not."""
    if type(holder) is dict and len(holder) <= _MOST_NUMBERS:
        return next((f"[{key!r}]" for key, item in holder.items() if item is value and is_plain(key)), "")
    if type(holder) in (list, tuple) and len(holder) <= _MOST_NUMBERS:
        return next((f"[{place}]" for place, item in enumerate(holder) if item is value), "")
    return ""


def loaded_name(cls: str) -> str:
    """The name of what was loaded when a generated DataModule was defined."""
    return f"{cls[0].lower()}{cls[1:]}_loaded"


def with_loading(made: Definition) -> str:
    """A definition's source; of data, with the statements whose names the cell has left in the notebook.

    Of data that draws random numbers when it is loaded, also with its loading: the notebook has loaded it where it was
    defined, and went on with the random numbers as if it had not.
    """
    name, text = made.cls.__name__, made.source
    if made.draws or made.leaves:
        text += f"\nfrom {package_of(made.cls)}.utilities.seed import isolate_rng\n"
    if made.leaves:
        text += f"with isolate_rng():\n{textwrap.indent(made.leaves, '    ')}\n"
    if made.draws:
        text += (
            f"with isolate_rng():  # loading it does not change the random numbers drawn elsewhere\n"
            f"    {loaded_name(name)} = {name}().load()\n"
        )
    return text


def _is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must give a value for a parameter."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


def _saved(instance: Any) -> dict[str, Any]:
    """Hyperparameters that an instance has saved."""
    return dict(getattr(instance, "hparams", {}))
