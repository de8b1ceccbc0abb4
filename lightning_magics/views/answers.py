"""What a classifier says of single texts: the most likely class, and the probability of each.

The predictions come from a run (`launch/run`); `tables` formats them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import formats
from ..formats import one_line
from . import tables
from .tables import TableCells


class Answers(list[dict[str, Any]]):
    """A dict for each text: ``text``, ``label``, ``probability`` of it, and ``probabilities`` of all by name."""

    def _repr_html_(self) -> str:
        return tables.html_cells(self._table(), left_aligned=("text", "label"))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(tables.text_table(self._table(), left_aligned=("text", "label")))

    def _table(self) -> TableCells:
        """The table that is shown: of many texts the first, of many classes the likeliest."""
        names = list(self[0]["probabilities"])[:_MAX_CLASSES] if self else []
        rows = [
            [
                formats.clip(one_line(answer["text"]), _MAX_TEXT),
                formats.clip(answer["label"], _MAX_LABEL),
                *(f"{answer['probabilities'][name]:.3f}" for name in names),
            ]
            for answer in self[:_MAX_ROWS]
        ]
        if len(self) > _MAX_ROWS:
            rows.append([f"… {len(self) - _MAX_ROWS:,} more", *[""] * (1 + len(names))])
        return ["text", "label", *(formats.clip(name, _MAX_LABEL) for name in names)], rows


_MAX_ROWS = 50
_MAX_CLASSES = 8
_MAX_TEXT = 120
_MAX_LABEL = 24


def answers(texts: Sequence[str], classes: Sequence[str], logits: Any) -> Any:
    """Return what logits say of texts; anything but logits of these classes as it is.

    Args:
        texts: that were predicted for.
        classes: names, in the order of the logits.
        logits: ``(texts, classes)`` float, or ``(texts, 1)`` or ``(texts,)`` of the second of two classes.
    """
    shape = tuple(getattr(logits, "shape", ()))
    if len(classes) == 2 and shape in ((len(texts), 1), (len(texts),)):
        second = logits.float().reshape(-1).sigmoid()
        rows = [[1 - value, value] for value in second.tolist()]
    elif len(shape) == 2 and shape[0] == len(texts) and shape[1] >= len(classes):
        rows = logits.float().softmax(dim=1).tolist()
    else:
        return logits
    answers = Answers()
    for text, row in zip(texts, rows, strict=True):
        probabilities = dict(zip(classes, row, strict=False))  # a model may have room for more classes
        label = max(probabilities, key=probabilities.__getitem__)
        answers.append(
            {"text": text, "label": label, "probability": probabilities[label], "probabilities": probabilities}
        )
    return answers
