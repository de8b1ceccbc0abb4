"""What is recorded about a model's training data: its table, tokenizer and classes, and the run that holds them.

The record belongs to the weights: loading another run's weights also brings that run's record. See `origins`.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.data import sentences
from ..runs import columns
from ..runs import folder as runs

if TYPE_CHECKING:
    from ..training.origins import Origin
    from .session import Session


class Knowledge:
    """What is known about one model, for one call: each part is looked up once, when first needed.

    Args:
        session: of the notebook.
        package: the model's Lightning package.
        model: the live instance, None for one that is made for the call.
        checkpoint: that the weights come from, in place of those that the model has.
        trusted: whether the checkpoint may hold other objects than tensors.
    """

    def __init__(
        self, session: Session, package: str, model: Any, checkpoint: Path | None = None, trusted: bool = False
    ) -> None:
        self._session = session
        self._package = package
        self._model = model
        self._checkpoint = checkpoint
        self._trusted = trusted
        self._is_outdated = False  # whether what was used is of earlier weights

    def of_checkpoint(self, checkpoint: Path | None, trusted: bool) -> Knowledge:
        """What is known where the weights are those of a checkpoint; the same where there is none."""
        return self if checkpoint is None else Knowledge(self._session, self._package, None, checkpoint, trusted)

    def notices(self, name: str) -> tuple[str, ...]:
        """What the user should know of what was used, of a model of that name."""
        if not self._is_outdated:
            return ()
        return (
            f"the weights of {name} have changed since its last recorded fit and do not match any recorded run. "
            f"Columns, labels and texts are handled as in that fit",
        )

    @property
    def table(self) -> columns.TableSchema | None:
        """What the model learned of its table; None where that is not known, or it was trained on other data.

        Raises:
            RunError: the folder of the run is damaged.
        """
        self._is_outdated |= self._origin.is_outdated and self._origin.table is not None
        return self._origin.table

    @property
    def own_table(self) -> columns.TableSchema | None:
        """The same for data without names, which is not matched: no other runs are searched for a fresh model."""
        is_fresh = self._checkpoint is None and self._carried is None and self._model not in self._session.origins
        return None if is_fresh else self._origin.table

    @property
    def is_of_texts(self) -> bool:
        """Whether the model was trained on texts."""
        origin = self._origin
        return origin.reader is not None or (origin.folder is not None and origin.folder.texts_path.is_file())

    @property
    def is_of_numbers(self) -> bool:
        """Whether the model was trained, and on data without names: no table, class names or texts."""
        is_of_numbers = self._origin.is_known and self._origin.table is None and not self.is_of_texts
        self._is_outdated |= self._origin.is_outdated and is_of_numbers
        return is_of_numbers

    @functools.cached_property
    def reader(self) -> Any:
        """What turns sentences into input of the model, None if it was trained on other data.

        Raises:
            InputError: the texts were cleaned, by code that is not there.
            RunError: the folder of the run is damaged.
        """
        origin = self._origin
        if origin.reader is None and origin.folder is not None:
            origin.reader = self._session.reader_of(origin.folder)
        if origin.reader is None and origin.folder is not None and origin.folder.texts_path.is_file():
            data = self._session.datas.get(origin.folder.read().data)
            origin.reader = sentences.recorded_reader(origin.folder, self._package, data)
        self._is_outdated |= origin.is_outdated and origin.reader is not None
        return origin.reader

    @functools.cached_property
    def encoding(self) -> tuple[Any, list[str]] | None:
        """Tokenizer and classes of the texts that the model was trained on; None where there are none.

        Raises:
            RunError: the folder of the run is damaged.
        """
        origin = self._origin
        self._is_outdated |= origin.is_outdated and self.is_of_texts
        if origin.reader is not None:
            tokenizer, classes, _ = origin.reader.data
            return tokenizer, classes
        recorded = sentences.load_encoding(origin.folder) if origin.folder is not None else None
        return (recorded[0], recorded[1].classes) if recorded is not None else None

    @property
    def origin(self) -> Origin:
        """Where the weights come from."""
        return self._origin

    @functools.cached_property
    def _origin(self) -> Origin:
        """Where the weights come from: of a live model, that is looked for once for each state of its weights."""
        from ..training import origins

        if self._checkpoint is not None:
            state = origins.read_checkpoint(self._checkpoint, self._trusted)
            origin = origins.of_checkpoint(state, self._checkpoint)
            return origin if origin.is_known else self._session.origin_of(state.get("state_dict", {})) or origin
        if self._model is None:
            return origins.Origin()
        known, mark = self._session.origins, origins.weights_mark(self._model)
        before, carried = known.get(self._model), self._carried
        searched = str(runs.root_folder(self._session.settings.run_dir))
        if carried is not None and carried.mark == mark and carried.folder is not None:
            path = before.folder.path if before is not None and before.folder is not None else None
            origin = before if before is not None and path == carried.folder.path else carried
        elif before is not None and before.mark == mark and before.searched in ("", searched):
            origin = before
        else:
            origin = self._search_origin(mark, searched, before or carried)
        known[self._model] = origin
        return origin

    def _search_origin(self, mark: str, searched: str, last: Origin | None) -> Origin:
        """Where weights come from that the model was not seen to get.

        Args:
            mark: of the weights.
            searched: the folder of the runs.
            last: where those came from that the model is known to have had, if it had any.
        """
        from ..training.origins import Origin

        origin = self._session.origin_of(self._model.state_dict(), self._model)
        if origin is not None:
            return dataclasses.replace(origin, mark=mark)
        if last is None:
            return Origin(mark, searched=searched)
        return dataclasses.replace(
            last, mark=mark, is_outdated=last.mark != mark or last.is_outdated, searched=searched
        )

    @functools.cached_property
    def _carried(self) -> Origin | None:
        """What the live model carries of its last fit."""
        from ..training import origins

        return origins.carried_origin(self._model) if self._model is not None else None
