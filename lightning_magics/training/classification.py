"""Compares what a classifier says in a test with the truth: by class, which for which, and its most confident mistakes.

The result is reported as an event; `views/classification` displays it.
"""

from __future__ import annotations

import heapq
import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import torch

from ..runs.events import Event, Judged

_MOST_MISTAKES = 10
_MOST_CLASSES = 30  # of a matrix that can be read


class _ClassificationCallback:
    """The hooks, without the base class: each of the two Lightning packages has a Callback of its own."""

    def __init__(self, datamodule: Any, emit: Callable[[Event], None], classes: Sequence[str]) -> None:
        self._datamodule = datamodule
        self._names = classes
        self._emit = emit
        self._output: Any = None
        self._matrix: torch.Tensor | None = None
        # The last of each: token ids, or None, and the label.
        self._mistakes: list[tuple[float, int, dict[str, Any], tuple[Any, int]]] = []
        self._number = itertools.count()
        self._hook: Any = None
        self._sample_count = 0  # samples of this rank

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        names = getattr(self._datamodule, "classes", None)
        self._names = names if isinstance(names, list | tuple) else self._names if self._datamodule is None else ()
        if len(self._names) > 1:
            self._matrix = torch.zeros(len(self._names), len(self._names), dtype=torch.long)
            self._hook = pl_module.register_forward_hook(self._take)

    def _take(self, module: Any, inputs: Any, output: Any) -> None:
        if self._output is None:  # a step is itself called as a forward where the model is wrapped
            self._output = output

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        output, self._output = self._output, None
        if self._matrix is None:
            return
        target = batch.get("labels") if isinstance(batch, Mapping) else None
        if isinstance(batch, list | tuple) and len(batch) > 1:
            target = batch[-1]
        probabilities = _probabilities(getattr(output, "logits", output), target, len(self._matrix))
        if probabilities is None:
            self._matrix = None  # no classifier whose output is that of forward: there is nothing to tell
            return
        assert isinstance(target, torch.Tensor)
        target = target.cpu()
        probability, predicted = probabilities.max(dim=1)
        classes, counted = len(self._matrix), self._counted(trainer, len(target))
        pairs = (target * classes + predicted)[counted]
        self._matrix += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        for place in ((predicted != target) & counted).nonzero().flatten().tolist():
            self._mistake(float(probability[place]), int(target[place]), int(predicted[place]), batch, place)

    def _counted(self, trainer: Any, size: int) -> torch.Tensor:
        """Which samples of a batch are not there a second time: ranks are dealt them in turn, to whole rounds."""
        places = (self._sample_count + torch.arange(size)) * trainer.world_size + trainer.global_rank
        self._sample_count += size
        dataset = getattr(trainer.test_dataloaders, "dataset", None)
        length = len(dataset) if isinstance(dataset, Sized) else 0
        is_dealt = trainer.world_size > 1 and length > 0
        return places < length if is_dealt else torch.ones(size, dtype=torch.bool)

    def _mistake(self, probability: float, actual: int, predicted: int, batch: Any, place: int) -> None:
        """Keep a mistake if it is among the most confident ones."""
        if len(self._mistakes) == _MOST_MISTAKES and probability <= self._mistakes[0][0]:
            return
        names = self._names
        mistake = {"actual": names[actual], "predicted": names[predicted], "probability": probability}
        ids = None
        if isinstance(batch, Mapping) and {"input_ids", "attention_mask"} <= batch.keys():
            ids = batch["input_ids"][place][batch["attention_mask"][place] == 1].cpu()
        push = heapq.heappushpop if len(self._mistakes) == _MOST_MISTAKES else heapq.heappush
        push(self._mistakes, (probability, next(self._number), mistake, (ids, actual)))

    def _text(self, ids: Any, label: int, dataset: Any) -> dict[str, str]:
        """The text of token ids and a label: as the data has it, else as the tokenizer gives it back."""
        tokenizer = getattr(self._datamodule, "tokenizer", None)
        if ids is None or tokenizer is None:
            return {}
        text = dataset.text_of(ids, label) if hasattr(dataset, "text_of") else None
        return {"text": tokenizer.decode(ids.tolist(), skip_special_tokens=True) if text is None else text}

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        if self._hook is None:
            return
        self._hook.remove()
        dataset = getattr(trainer.test_dataloaders, "dataset", None)
        rank_mistakes = [(*item, self._text(*sample, dataset) | mistake) for *item, mistake, sample in self._mistakes]
        parts: list[Any] = [(self._matrix, rank_mistakes)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (self._matrix, rank_mistakes))
        if any(matrix is None for matrix, _ in parts) or not parts:
            return
        matrix = sum(matrix for matrix, _ in parts)
        if not int(matrix.sum()):
            return
        mistakes = sorted((item for _, some in parts for item in some), key=lambda item: -item[0])[:_MOST_MISTAKES]
        self._emit(
            Judged(
                classes=list(self._names),
                actual=matrix.sum(dim=1).tolist(),
                predicted=matrix.sum(dim=0).tolist(),
                correct=matrix.diag().tolist(),
                matrix=matrix.tolist() if len(matrix) <= _MOST_CLASSES else [],
                mistakes=[mistake for _, _, mistake in mistakes],
            )
        )


def _probabilities(output: Any, target: Any, classes: int) -> torch.Tensor | None:
    """The probability of each class, ``(batch, classes)`` float on the CPU; None where the output is no such thing."""
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor) or not output.ndim:
        return None
    if target.ndim != 1 or target.dtype != torch.long or len(output) != len(target) or not len(target):
        return None
    if not 0 <= int(target.min()) <= int(target.max()) < classes:
        return None
    output = output.detach().float().cpu()
    if classes == 2 and output.numel() == len(target):
        second = output.reshape(-1).sigmoid()
        return torch.stack([1 - second, second], dim=1)
    return output.softmax(dim=1)[:, :classes] if output.ndim == 2 and output.shape[1] >= classes else None


def classification_callback(
    package: str, datamodule: Any, emit: Callable[[Event], None], classes: Sequence[str] = ()
) -> Any:
    """Return the callback for one of the two Lightning packages.

    Args:
        package: ``pytorch_lightning`` or ``lightning.pytorch``.
        datamodule: with the names of its ``classes`` once it is set up, and a ``tokenizer`` if it is of texts.
        emit: takes the event.
        classes: names of the classes where there is no DataModule.
    """
    base = importlib.import_module(f"{package}.callbacks").Callback
    return type("Judge", (_ClassificationCallback, base), {})(datamodule, emit, classes)
