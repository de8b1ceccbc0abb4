"""Resolves the data arguments of a call: definitions, loaders, tables, texts, or the data of a run."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import formats
from ..definitions.definition import Definition, is_datamodule
from ..errors import InputError
from ..launch.run import Run
from ..options import parser
from ..replay.recipe import CallArgument
from ..runs import columns
from ..runs.events import Verb
from ..views.answers import answers
from . import sample_checks
from .alignment import Alignment
from .model_argument import Subject
from .session import Session, is_code


@dataclass(frozen=True)
class Data:
    """The resolved data arguments."""

    name: str = ""
    make: Callable[[], tuple[Any, tuple[Any, ...]]] = lambda: (None, ())  # datamodule, loaders
    arguments: tuple[CallArgument, ...] = ()
    forms: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None  # makes answers of predictions
    notices: tuple[str, ...] = ()
    table: columns.TableSchema | None = None  # what is learned of it
    texts: tuple[str, ...] = ()  # typed for a prediction


def resolve_data(
    session: Session, verb: Verb, arguments: Sequence[Any], hyperparameters: Mapping[str, Any], subject: Subject
) -> Data:
    """Resolve the data arguments of a call.

    Args:
        session: of the notebook.
        verb: of the call.
        arguments: as they were given.
        hyperparameters: that were given with them.
        subject: the model.

    Raises:
        InputError: an argument is not data, or there are too many.
    """
    from ..definitions.data import sentences
    from ..definitions.data.samples import form_of, to_dataloaders

    reader = _reader(session, arguments, subject) if verb == "predict" and arguments else None
    texts = session.texts(arguments) if reader is not None else None
    if texts is not None:
        sentences.check_texts(texts)
        as_typed = all(isinstance(item, str) for item in arguments) and texts == list(arguments)
        notices = sentences.word_notices(texts, subject.shown, session.datas) if as_typed else ()
        return _text_data(texts, reader, notices)
    values = [session.find_data(item) for item in arguments]
    if not values and hyperparameters:
        raise InputError(
            f"--data.{next(iter(hyperparameters))} needs the data that it applies to. Type the data on the line"
        )
    if not values and subject.run is not None:
        return _data_of_run(verb, subject.run, subject)
    if not values:
        return Data()
    overrides = {
        name: parser.resolve(value, session.scope, f"--data.{name}") for name, value in hyperparameters.items()
    }
    notices = ()
    table = _whole_table(session, verb, values, arguments)
    if table is not None:
        notices = (f"{values[0].name} has no {sample_checks.SPLIT_OF[verb]} split, so all rows of the table are used",)
        values = [table]
    call_arguments = tuple(
        CallArgument(item, argument, overrides, hyperparameters)
        for item, argument in zip(values, arguments, strict=True)
    )
    first = values[0]
    names = names_of(arguments)
    name = ", ".join(names)
    if isinstance(first, Definition) or is_datamodule(first):
        if len(values) > 1:
            raise InputError(
                f"data {name}: {names[0]} already contains all splits and cannot be combined with other data"
            )
        return _datamodule(call_arguments[0], name)
    if verb == "fit" and len(values) > 2:
        raise InputError(f"a fit takes training data and, optionally, validation data; found {len(values)}: {name}")
    if verb == "predict" and form_of(first) == "table" and subject.knowledge.is_of_texts:
        raise InputError(f"{subject.name} was trained on texts. Pass a column of texts, such as {name}['text']")
    forms = tuple(form_of(item) or "loaders" for item in values)
    alignment = Alignment(verb, subject.name, subject.knowledge)
    aligned = alignment.align_values(values, names)
    training = [verb == "fit" and place == 0 for place in range(len(aligned))]
    loaders = tuple(to_dataloaders(aligned, training, overrides))
    notices += alignment.notices
    return Data(name, lambda: (None, loaders), call_arguments, forms, notices=notices, table=alignment.table)


def names_of(arguments: Sequence[Any]) -> list[str]:
    """What data arguments are called: as they were typed, or by their type where a call gave the objects."""
    return [item if isinstance(item, str) else type(item).__name__ for item in arguments]


def _whole_table(session: Session, verb: Verb, values: Sequence[Any], arguments: Sequence[Any]) -> Any:
    """The frame of the notebook that a definition of its name was made of, if that has no split for the verb."""
    definition, argument = values[0], arguments[0]
    if verb == "fit" or len(values) > 1 or not isinstance(definition, Definition) or definition.form != "table":
        return None
    value = session.scope.get(argument) if isinstance(argument, str) else None
    has_split = f"{sample_checks.SPLIT_OF[verb]}_dataloader" in vars(definition.cls)
    return value if columns.is_table(value) and not has_split else None


def _reader(session: Session, arguments: Sequence[Any], subject: Subject) -> Any:
    """What turns sentences into input of a model, None if it was trained on other data.

    Raises:
        InputError: it was, and what was typed can be nothing but a sentence; or the texts cannot be read.
    """
    reader = subject.knowledge.reader if session.may_be_texts(arguments) else None
    sentence = next((item for item in arguments if isinstance(item, str) and not is_code(item)), None)
    if reader is not None or sentence is None:
        return reader
    raise InputError(
        f"{sentence!r} is not defined as data, and {subject.name} was not trained on texts in this session. "
        f"Pass data, or train a model on texts first: %lightning_data NAME FILE --text COLUMN …"
    )


def _data_of_run(verb: Verb, run: Run, subject: Subject) -> Data:
    """The data of an earlier run; of a fit on loaders, its validation data, else what the model brings itself.

    Raises:
        InputError: its dataloaders are in the form that other weights were trained on.
    """
    if run.texts:  # encoded for the weights of that time
        reader = subject.knowledge.reader
        if verb != "predict" or reader is None:
            why = "have no labels" if verb != "predict" else f"cannot be encoded for {subject.name}"
            raise InputError(f"the texts of {run.name} {why}. Pass data: %lightning_{verb} {run.name} DATA")
        return _text_data(list(run.texts), reader, ())
    datamodule, loaders = run.data
    if run.verb == "fit" and datamodule is None:
        loaders = loaders[1:] if verb == "validate" else ()
    data = Data(run.record.data, make=lambda: (datamodule, loaders))
    table = run.table if loaders else None
    if table is None:
        return data
    known = subject.knowledge.table
    if known is None:
        return dataclasses.replace(
            data, notices=(columns.unrecorded_notice(subject.name, table.names, table.classes),), table=table
        )
    pairs = {"columns": (table.names, known.names), "classes": (table.classes, known.classes)}
    for kind, (ours, theirs) in pairs.items():
        if ours and theirs and ours != theirs:
            is_kept = os.path.isfile(run.best_model_path)
            own = ", or the weights saved by that run: --ckpt_path best" if is_kept else ""
            raise InputError(
                f"the data of {run.name} has the {kind} {formats.first_few(ours)}, but its model's current "
                f"weights were trained on {formats.first_few(theirs)}. Use other data: "
                f"%lightning_{verb} {run.name} DATA{own}"
            )
    return dataclasses.replace(data, table=known)


def _text_data(texts: list[str], reader: Any, notices: tuple[str, ...]) -> Data:
    """Describe texts to predict for, which are encoded as those that the model was trained on."""
    read = functools.partial(answers, texts, reader.classes)
    name, make = formats.plural(len(texts), "text"), lambda: (None, (reader.texts_dataloader(texts),))
    return Data(name, make, read=read, notices=notices, texts=tuple(texts))


def _datamodule(argument: CallArgument, name: str) -> Data:
    """Describe a data definition, a DataModule class or an instance."""
    value, overrides = argument.value, argument.arguments

    def data_from(name: str, make: Callable[[], Any]) -> Data:
        return Data(name, lambda: (make(), ()), (argument,), ("datamodule",))

    if isinstance(value, Definition):
        data = data_from(value.name, lambda: value.new(**overrides))
        return dataclasses.replace(data, notices=_change_notice(value))
    if isinstance(value, type):
        return data_from(name, lambda: value(**overrides))
    if overrides:
        first = next(iter(overrides))
        raise InputError(f"--data.{first} is a constructor argument, but {name} is already an instance. Pass its class")
    return data_from(name, lambda: value)


def _change_notice(definition: Definition) -> tuple[str, ...]:
    """Says that values of a cell's data were changed in place by a later cell, which its source does not repeat."""
    from ..runs.fingerprint import of_values

    if not definition.values or of_values(definition.loaded) == definition.values:
        return ()
    return (
        f"The values of {definition.name} were changed in place after its cell ran. This run uses the changed values; "
        f"to use the original values, run the cell again",
    )
