"""Aligns data with what a model was trained on: column order and class numbering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import InputError
from ..runs import columns
from ..runs.columns import TableSchema
from ..runs.events import Verb
from .knowledge import Knowledge


class Alignment:
    """One model's data of one call, aligned with what the model was trained on.

    Args:
        verb: of the call.
        model: name of the model.
        knowledge: what it knows of its data.

    Attributes:
        table: what the data is aligned with: what the model was trained on, which a fit completes by what it learns.
            None where nothing is known of columns or labels.
        notices: what the user should know.
    """

    def __init__(self, verb: Verb, model: str, knowledge: Knowledge) -> None:
        self.table: TableSchema | None = None
        self.notices: tuple[str, ...] = ()
        self._verb = verb
        self._model = model
        self._knowledge = knowledge

    def align_values(self, values: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Align data that is not a DataModule.

        Args:
            values: one part per dataloader: a table, ``(X, y)``, or anything else, which is returned unchanged.
            names: of the parts.

        Raises:
            InputError: it has other columns or classes than the training data, or its labels are of different kinds.
        """
        if self._verb == "predict":
            values = [_without_labels(value) for value in values]
        for value, name in zip(values, names, strict=True):
            columns.check_index(value, name)
        has_names = [columns.has_class_names(value) for value in values]
        if self._verb == "fit" and len(set(has_names)) > 1:
            named, unnamed = names[has_names.index(True)], names[has_names.index(False)]
            raise InputError(
                f"the labels of {named} are class names, but those of {unnamed} are not. "
                f"Use class names for both, or numbers for both"
            )
        has_columns = [columns.frame_of(value) is not None for value in values]
        known = self._training_table(any(has_names) or any(has_columns), any(has_names))
        self.table = self._table_after_fit(known, values[0], names[0]) if self._verb == "fit" and values else known
        pairs = zip(names, values, has_names, strict=True)
        self._note_class_numbers([name for name, value, named in pairs if not named and not columns.is_table(value)])
        is_own = self._verb == "fit" and bool(values) and has_columns[0]  # the columns are those of the training data
        return [
            self._align_table(value, name) if columns.is_table(value) else self._align_pair(value, name, is_own)
            for value, name in zip(values, names, strict=True)
        ]

    def align_datamodule(self, datamodule: Any, name: str) -> None:
        """Align a DataModule of tables, in place; any other DataModule is left unchanged.

        Raises:
            InputError: its columns or labels are not those of the training data.
        """
        if not columns.is_of_table(datamodule):
            if self._verb != "predict":
                self.table = self._knowledge.own_table
                self._note_class_numbers([name])
            return
        columns.reset_datamodule(datamodule)
        known = self._training_table(True, datamodule.labels == "classes")
        learned = columns.of_datamodule(datamodule) if known is None or self._verb == "fit" else None
        if known is None:
            self.table = learned
            if self._verb != "fit" and learned is not None:
                self._add_notices([columns.unrecorded_notice(self._model, learned.names, learned.classes)])
            return

        def match(table: TableSchema) -> tuple[str, ...]:
            return columns.match_datamodule(datamodule, table, self._model, name, is_labelled=self._verb != "predict")

        self.table = known if learned is None else self._completed_table(known, learned, match)
        self._add_notices(match(self.table))
        if datamodule.labels == "apart":
            self._note_class_numbers([name])
        if not self.table.columns and datamodule.columns:
            self._add_notices([columns.unrecorded_notice(self._model, datamodule.columns)])

    def _training_table(self, is_matched: bool, is_named: bool) -> TableSchema | None:
        """What the model was trained on: an empty table stands for numbers, without names of columns or classes.

        Args:
            is_matched: whether the data has columns or class names, so that other runs are searched for the model.
            is_named: whether its labels are class names.
        """
        knowledge = self._knowledge
        table = knowledge.table if is_matched else knowledge.own_table
        if table is None and is_named and knowledge.is_of_numbers:
            return TableSchema({})
        return table

    def _table_after_fit(self, known: TableSchema | None, value: Any, name: str) -> TableSchema | None:
        """What the model knows after a fit on a value."""
        learned = None if columns.is_table(value) else columns.of_value(value)
        if known is None or learned is None:
            return known or learned

        def check(table: TableSchema) -> None:
            frame = columns.frame_of(value)
            if frame is not None:
                columns.match_features(frame, table, self._model, name)
            if columns.has_class_names(value):
                columns.check_labels(columns.label_column(value), table, "classes", self._model, name)

        return self._completed_table(known, learned, check)

    def _completed_table(
        self, known: TableSchema, learned: TableSchema, check: Callable[[TableSchema], object]
    ) -> TableSchema:
        """What a fit learns, with columns and labels as the model knows them where its data has no others.

        Args:
            known: what the model was trained on.
            learned: what the data of the fit is by itself.
            check: raises an InputError where that data does not match a table.
        """
        for completed, described in (
            (columns.with_columns, columns.columns_text),
            (columns.with_labels, columns.labels_text),
        ):
            table = completed(learned, known)
            try:
                check(table)
            except InputError:
                before, after = described(known), described(learned)
                self._add_notices([f"{self._model} was trained on {before}. This fit uses {after} instead"])
            else:
                learned = table
        return learned

    def _align_table(self, value: Any, name: str) -> Any:
        """A table that holds everything: to predict for, or to judge by its column of labels."""
        if self._verb == "fit":
            return value
        frame = columns.frame_of(value)
        self._note_column_order(frame)
        if self._verb == "predict":
            features, notices = columns.feature_tensor(frame, self.table, self._model, name)
            self._add_notices(notices)
            return features
        if self.table is None:
            return value
        pair, notices = columns.labelled_tensors(frame, self.table, self._model, name)
        self._add_notices(notices)
        return pair

    def _align_pair(self, value: Any, name: str, is_own: bool) -> Any:
        """``(X, y)``, where X may be a table and y may be class names; anything else is returned unchanged.

        Args:
            value: the pair.
            name: of it.
            is_own: whether the columns were learned in this call.
        """
        frame = columns.frame_of(value)
        if frame is not None:
            self._note_column_order(frame)
            if self.table is not None:
                frame, notices = columns.match_features(frame, self.table, "" if is_own else self._model, name)
                self._add_notices(notices)
                value = (frame, *value[1:])
        if not columns.has_class_names(value):
            return value
        labels = columns.label_column(value)
        if self.table is None and not columns.are_integers(labels):
            self.table = columns.of_value(value)
            assert self.table is not None
            self._add_notices([columns.unrecorded_notice(self._model, (), self.table.classes)])
        model = "" if self._verb == "fit" else self._model
        return (*value[:-1], columns.class_indices(labels, self.table or TableSchema({}), model, name))

    def _add_notices(self, texts: Iterable[str]) -> None:
        self.notices = tuple(dict.fromkeys((*self.notices, *texts)))

    def _note_class_numbers(self, names: Sequence[str]) -> None:
        """Say which classes the labels of data are, which are numbers where the model was trained on names."""
        if self.table is not None and self._verb != "predict":
            self._add_notices(columns.class_index_notices(names, self.table))

    def _note_column_order(self, frame: Any) -> None:
        """Say in which order columns are used if the model has no record of their names."""
        if self.table is None or not self.table.columns:
            self._add_notices([columns.unrecorded_notice(self._model, frame.columns)])


def _without_labels(value: Any) -> Any:
    """The features of ``(X, y)`` whose labels are names of classes: what is predicted for has none."""
    if not columns.has_class_names(value) or len(value[-1]) != len(value[0]):  # which is refused like other data
        return value
    return value[0] if len(value) == 2 else tuple(value[:-1])
