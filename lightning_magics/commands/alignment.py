"""Data in the form that a model was trained on: columns in its order, class names by its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import InputError
from ..runs import columns
from ..runs.columns import Table
from ..runs.events import Verb
from .knowledge import Knowledge

_REPLACED = "This fit replaces the columns and labels of the earlier one"


class Alignment:
    """One model's data of one call, aligned with what the model was trained on.

    Args:
        verb: of the call.
        model: name of the model.
        knowledge: what it knows of its data.

    Attributes:
        table: what the model was trained on; of a fit, also what it learns; None for data without columns and classes.
        notices: what the user should know.
    """

    def __init__(self, verb: Verb, model: str, knowledge: Knowledge) -> None:
        self.table: Table | None = None
        self.notices: tuple[str, ...] = ()
        self._verb = verb
        self._model = model
        self._knowledge = knowledge
        self._data = ""

    def values(self, values: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Align data that is not a DataModule.

        Args:
            values: a part for each dataloader: a table, ``(X, y)``, or anything else, which stays as it is.
            names: of the parts.

        Raises:
            InputError: it has other columns or classes than the training data, or its labels are of different kinds.
        """
        self._data = ", ".join(names)
        if self._verb == "predict":
            values = [_unlabelled(value) for value in values]
        has_names = [columns.has_names(value) for value in values]
        if self._verb == "fit" and len(set(has_names)) > 1:
            named, unnamed = names[has_names.index(True)], names[has_names.index(False)]
            raise InputError(
                f"the labels of {named} are class names, but those of {unnamed} are not. "
                f"Use class names for both, or numbers for both"
            )
        is_matched = any(has_names) or any(columns.frame_of(value) is not None for value in values)
        self.table = self._knowledge.table if is_matched else self._knowledge.own_table
        if self._verb != "predict":
            pairs = zip(names, values, has_names, strict=True)
            numeric = [name for name, value, named in pairs if not named and not columns.is_table(value)]
            self._tell_numbers(numeric, self.table)
        if self._verb == "fit" and values and not columns.is_table(values[0]):
            self._learn(values[0])
        return [self._table(value) if columns.is_table(value) else self._pair(value) for value in values]

    def datamodule(self, datamodule: Any, name: str) -> None:
        """Align a DataModule, which is changed; one of other data than tables stays as it is.

        Raises:
            InputError: its columns or labels are not those of the training data.
        """
        is_judged = self._verb in ("validate", "test")
        if not columns.is_of_table(datamodule):
            if is_judged:
                self._tell_numbers([name], self._knowledge.own_table)
            return
        self.table = self._knowledge.table
        try:
            if self.table is not None:
                self._match(datamodule, self.table, name)
        except InputError as error:
            if self._verb != "fit":
                raise
            self.table = None
            self._tell([f"{error}. {_REPLACED}"])
        if self.table is None:
            columns.anew(datamodule)
            self.table = columns.of_datamodule(datamodule)
            if self._verb != "fit" and self.table is not None:
                self._tell([columns.by_place(self._model, self.table.names, self.table.classes)])

    def _match(self, datamodule: Any, table: Table, name: str) -> None:
        is_labelled = self._verb != "predict"
        self._tell(columns.match_datamodule(datamodule, table, self._model, name, is_labelled))
        if is_labelled and datamodule.labels == "apart":
            self._tell_numbers([name], table)
        if self._verb != "fit" and not table.columns and datamodule.columns:
            self._tell([columns.by_place(self._model, datamodule.columns)])

    def _learn(self, value: Any) -> None:
        """Let a fit go by what the model knows, or by its own training data where that is other data."""
        if self.table is None:
            self.table = columns.of_value(value)
            return
        try:
            frame = columns.frame_of(value)
            if frame is not None:
                columns.match(frame, self.table, self._model, self._data)
            if columns.has_names(value):
                columns.check_labels(columns.names_of(value), self.table, "classes", self._model, self._data)
        except InputError as error:
            self.table = columns.of_value(value)
            self._tell([f"{error}. {_REPLACED}"])

    def _table(self, value: Any) -> Any:
        """A table that holds everything: to predict for, or to judge by its column of labels."""
        if self._verb == "fit":
            return value
        frame = columns.frame_of(value)
        self._tell_places(frame)
        if self._verb == "predict":
            features, told = columns.features(frame, self.table, self._model, self._data)
            self._tell(told)
            return features
        if self.table is None:
            return value
        pair, told = columns.labelled(frame, self.table, self._model, self._data)
        self._tell(told)
        return pair

    def _pair(self, value: Any) -> Any:
        """``(X, y)``, whose X may be a table and whose y may be names of classes; anything else stays as it is."""
        frame = columns.frame_of(value)
        if frame is not None:
            if self._verb != "fit":
                self._tell_places(frame)
            if self.table is not None:
                frame, told = columns.match(frame, self.table, self._model, self._data)
                self._tell(told)
                value = (frame, *value[1:])
        if not columns.has_names(value):
            return value
        table = self.table
        if table is None or (table.labels != "classes" and not table.columns):
            self.table = table = columns.of_value(value)
            assert table is not None
            self._tell([columns.by_place(self._model, (), table.classes)])
        labels = columns.numbered(columns.names_of(value), table, self._model, self._data)
        return (*value[:-1], labels)

    def _tell(self, texts: Iterable[str]) -> None:
        self.notices = tuple(dict.fromkeys((*self.notices, *texts)))

    def _tell_numbers(self, names: Sequence[str], table: Table | None) -> None:
        """Say which classes the labels of data are, which are numbers where the model was trained on names."""
        if table is not None:
            self._tell(columns.numbers_of(names, table))

    def _tell_places(self, frame: Any) -> None:
        """Say in which order columns are taken, where the model knows none by name."""
        if self.table is None or not self.table.columns:
            self._tell([columns.by_place(self._model, frame.columns)])


def _unlabelled(value: Any) -> Any:
    """The features of ``(X, y)`` whose labels are names of classes: what is predicted for has none."""
    if not columns.has_names(value) or len(value[-1]) != len(value[0]):  # which is refused like other data
        return value
    return value[0] if len(value) == 2 else tuple(value[:-1])
