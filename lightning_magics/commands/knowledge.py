"""What a model knows of the data that it was trained on: its table, its tokenizer and classes, and which run has them.

All of it belongs to the weights: those of another run bring what that run learned. See `origins`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.data import sentences
from ..runs import columns
from ..runs import folder as runs

if TYPE_CHECKING:
    from ..training.origins import Remembered, Source
    from .session import Session


class Knowledge:
    """What is known of one model, for one call: each part is looked up when it is first needed, and once.

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
            f"the weights of {name} have changed since its last recorded fit and belong to no known run. "
            f"Columns, labels and texts are matched as in that fit",
        )

    @functools.cached_property
    def table(self) -> columns.Table | None:
        """What the model learned of its table; None where that is not known, or it was trained on other data.

        Raises:
            RunError: the folder of the run is damaged.
        """
        if self._within is not None:
            return self._within
        known = self._remembered
        if known is not None and known.is_unchanged:
            return known.table
        if self.origin is not None:
            return columns.kept(self.origin)
        self._is_outdated |= known is not None and known.table is not None
        return known.table if known is not None else None

    @property
    def own_table(self) -> columns.Table | None:
        """The same without a search, where nothing tells that the model was trained at all."""
        is_fresh = self._checkpoint is None and self._remembered is None
        return None if is_fresh else self.table

    @property
    def is_of_texts(self) -> bool:
        """Whether the model was trained on texts."""
        source = self._source
        return source.reader is not None or (source.folder is not None and source.folder.texts_path.is_file())

    @functools.cached_property
    def reader(self) -> Any:
        """What makes sentences the input of the model, None where it was trained on other data.

        Raises:
            InputError: the texts were cleaned, by code that is not there.
            RunError: the folder of the run is damaged.
        """
        source = self._source
        if source.reader is None and source.folder is not None:
            source.reader = self._session.reader_of(source.folder)
        if source.reader is None and source.folder is not None and source.folder.texts_path.is_file():
            data = self._session.datas.get(source.folder.read().data)
            source.reader = sentences.kept(source.folder, self._package, data)
        self._is_outdated |= source.is_outdated and source.reader is not None
        return source.reader

    @functools.cached_property
    def encoding(self) -> tuple[Any, list[str]] | None:
        """Tokenizer and classes of the texts that the model was trained on; None where there are none.

        Raises:
            RunError: the folder of the run is damaged.
        """
        source = self._source
        self._is_outdated |= source.is_outdated and self.is_of_texts
        if source.reader is not None:
            tokenizer, classes, _ = source.reader.data
            return tokenizer, classes
        kept = sentences.encoding(source.folder) if source.folder is not None else None
        return (kept[0], kept[1].classes) if kept is not None else None

    @property
    def origin(self) -> runs.RunFolder | None:
        """The folder of the run that the weights come from, None where it is not known."""
        return None if self._source.is_outdated else self._source.folder

    @functools.cached_property
    def _source(self) -> Source:
        """Where the weights come from: of a live model, that is looked for once for each state of its weights."""
        from ..training import origins

        if self._checkpoint is not None:
            folder = runs.folder_of(self._checkpoint)
            return origins.Source("", folder or self._session.origin_of(self._state.get("state_dict", {})))
        if self._model is None:
            return origins.Source("")
        mark, before = origins.mark(self._model.state_dict()), self._session.sources.get(self._model)
        known = self._remembered
        folder = known.folder if known is not None and known.is_unchanged else None
        if before is not None and before.mark == mark and (folder is None or folder.path == before.path):
            return before
        source = origins.Source(mark, folder or self._session.origin_of(self._model.state_dict(), self._model))
        if source.folder is None and before is not None:
            source = origins.Source(mark, before.folder, before.reader, is_outdated=True)
        elif source.folder is None and known is not None:
            source = origins.Source(mark, known.folder, is_outdated=not known.is_unchanged)
        self._session.sources[self._model] = source
        return source

    @functools.cached_property
    def _remembered(self) -> Remembered | None:
        """What the live model carries of its training."""
        from ..training import origins

        return origins.remembered(self._model) if self._model is not None else None

    @functools.cached_property
    def _state(self) -> Mapping[str, Any]:
        """The checkpoint, which is read once; empty where there is none."""
        from ..training import origins

        return origins.read(self._checkpoint, self._trusted) if self._checkpoint is not None else {}

    @functools.cached_property
    def _within(self) -> columns.Table | None:
        """What a checkpoint that lies in no run's folder holds of the table."""
        from ..training import origins

        is_alone = self._checkpoint is not None and runs.folder_of(self._checkpoint) is None
        return origins.table_in(self._state) if is_alone else None
