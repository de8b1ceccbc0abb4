"""How sentences become the input of a model: by a DataModule like that of the texts it was trained on, without these.

The session holds one for each live model that was trained on texts, and a run's folder keeps what makes one.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, RunError, did_you_mean
from ...runs.events import from_dict
from ...runs.folder import RunFolder, write_text
from .. import labels
from ..definition import Definition, load, package_of
from . import files


def is_of_texts(datamodule: Any) -> bool:
    """Whether a DataModule, instance or class, is one of texts."""
    return hasattr(datamodule, "texts_dataloader")


@dataclass(frozen=True)
class TextsRecord:
    """What ``texts.json`` holds of the texts of a run, beside the tokenizer.

    Attributes:
        classes: names of the labels, in the order of the model's output.
        max_length: tokens that a text is cut at.
        batch_size: texts in a batch.
        cleaned: the method by which the DataModule cleans texts, empty if it does not; it is compared, never run.
    """

    classes: list[str]
    max_length: int
    batch_size: int
    cleaned: str = ""


def reader(datamodule: Any) -> Any:
    """Return a DataModule that reads sentences as another does, and holds no texts; None for one of other data."""
    if not is_of_texts(datamodule):
        return None
    copied = copy.copy(datamodule)
    copied.trainer = None  # which holds the model
    return _with_tokenizer(copied, *datamodule.data[:2])


def save_encoding(folder: RunFolder, datamodule: Any) -> None:
    """Keep with a run what `recorded_reader` needs of its DataModule; nothing of one of other data."""
    if not is_of_texts(datamodule):
        return
    tokenizer, classes, _ = datamodule.data
    hparams = datamodule.hparams
    record = TextsRecord(list(classes), hparams.max_length, hparams.batch_size, _cleaning_source(type(datamodule)))
    tokenizer.save_pretrained(folder.tokenizer_path)
    write_text(folder.texts_path, json.dumps(dataclasses.asdict(record)) + "\n")


def load_encoding(folder: RunFolder) -> tuple[Any, TextsRecord] | None:
    """Return the tokenizer of a run, and what else its folder keeps; None where it was trained on other data.

    Raises:
        RunError: the folder is damaged.
    """
    if not folder.texts_path.is_file():
        return None
    from transformers import AutoTokenizer

    try:
        record: TextsRecord = from_dict(TextsRecord, json.loads(folder.texts_path.read_text(encoding="utf-8")))
        return AutoTokenizer.from_pretrained(folder.tokenizer_path), record
    except (OSError, ValueError) as error:
        raise RunError(f"{folder.name} does not record how its texts were encoded: {error}") from error


def name_outputs(model: Any, folder: RunFolder) -> None:
    """Name the outputs of a run's model that was made anew, as the fit did; nothing of one of other data."""
    if folder.texts_path.is_file():
        with contextlib.suppress(OSError, ValueError):  # said where a sentence is given
            record: TextsRecord = from_dict(TextsRecord, json.loads(folder.texts_path.read_text(encoding="utf-8")))
            labels.name_outputs(model, record.classes)


def recorded_reader(folder: RunFolder, package: str, data: Definition | None) -> Any:
    """Return the reader of a run, from what its folder keeps; None where it was trained on other data.

    Args:
        folder: of the run.
        package: Lightning package of the model.
        data: that the notebook has under the name of the run's, for code that cleans texts.

    Raises:
        InputError: the texts were cleaned, by code that is not there.
        RunError: the folder is damaged.
    """
    recorded = load_encoding(folder)
    if recorded is None:
        return None
    tokenizer, record = recorded
    if not record.cleaned:
        instance = _plain_datamodule(tokenizer, record, package)
    elif data is not None and is_of_texts(data.cls) and _cleaning_source(data.cls) == record.cleaned:
        instance = data.cls(max_length=record.max_length, batch_size=record.batch_size)
    else:
        raise InputError(
            f"the texts of {folder.name} were cleaned by code from its data definition {folder.read().data}, which "
            f"this notebook does not have. Run its cell, or load it from the run's own source: "
            f"%lightning_load {folder.name}"
        )
    return _with_tokenizer(instance, tokenizer, record.classes)


def _cleaning_source(cls: type) -> str:
    """The method by which a DataModule cleans texts, empty if it has none."""
    method = getattr(cls, "clean", None)
    return "" if method is None else inspect.cleandoc(inspect.getsource(method))


def answers_reader(
    datamodule: Any, answers: Callable[[Sequence[str], Sequence[str], Any], Any]
) -> Callable[[Any], Any] | None:
    """Return what makes answers of predictions for a DataModule's own texts; None where it is of other data.

    Args:
        datamodule: whose data is loaded, or None.
        answers: makes them of texts, class names and logits.

    Raises:
        InputError: it has none to predict for.
    """
    if not is_of_texts(datamodule):
        return None
    _, classes, splits = datamodule.data
    overridden = importlib.import_module(f"{package_of(datamodule)}.utilities.model_helpers").is_overridden
    if not overridden("predict_dataloader", datamodule):
        raise InputError(
            f"the data has the splits {', '.join(splits)}, but no predict split. Pass texts: "
            f'%lightning_predict MODEL "a sentence", or a list of them'
        )
    loader = datamodule.predict_dataloader()
    if (
        getattr(loader, "dataset", loader) is not splits.get("predict")
        or type(loader.sampler).__name__ != "SequentialSampler"
    ):
        return None  # a loader of the user's own

    def answers_of(logits: Any) -> Any:
        count = len(logits) if hasattr(logits, "__len__") else 0  # fewer than texts where predictions were limited
        texts = [loader.dataset.text_at(place) for place in range(min(count, len(loader.dataset)))]
        return answers(texts, classes, logits)

    return answers_of


def check_texts(texts: list[str]) -> None:
    """Check that there is something to predict for.

    Raises:
        InputError: there are no texts, or one is empty.
    """
    if not texts:
        raise InputError("the list of texts to predict for is empty")
    empty = next((number for number, text in enumerate(texts, 1) if not text.strip()), None)
    if empty is not None:
        raise InputError(f"text {empty} of {len(texts)} is empty: there is nothing to predict for it")


def word_notices(texts: list[str], model: str, datas: Iterable[str]) -> tuple[str, ...]:
    """What to know of typed texts of a word each, which may not be what was meant.

    Args:
        texts: as they were typed.
        model: what to type for the model.
        datas: names of the notebook's data.

    Raises:
        InputError: one is a file.
    """
    from .text_sources import are_paths

    if any(len(text.split()) > 1 for text in texts):
        return ()
    file = next((text for text in texts if are_paths(text) and Path(text).is_file()), None)
    if file is not None:
        raise InputError(
            f"{file} is a file. To predict for its texts: frame = {files.pandas_call(file)}, and "
            f"%lightning_predict {model} frame['COLUMN']"
        )
    if len(texts) > 1:
        notice = f"{len(texts)} texts of one word each. Put a sentence in quotes: %lightning_predict {model}"
        return (f'{notice} "{" ".join(texts)}"',)
    suggestion = did_you_mean(texts[0], list(datas))
    return (f"{texts[0]!r} was read as a text.{suggestion}",) if suggestion else ()


def _plain_datamodule(tokenizer: Any, record: TextsRecord, package: str) -> Any:
    """A DataModule as `%lightning_data` makes it, of texts that do not matter."""
    from ...options.parser import DataOptions
    from .datamodule import data_definition

    options = DataOptions(tokenizer=tokenizer, max_length=record.max_length, batch_size=record.batch_size)
    return data_definition("texts", [("one", "0"), ("two", "1")], options, {"__name__": "__main__"}, package).new()


def _with_tokenizer(datamodule: Any, tokenizer: Any, classes: list[str]) -> Any:
    """Give a DataModule its tokenizer and its classes, and no texts."""
    datamodule.data = (tokenizer, classes, {})
    load(datamodule)
    return datamodule
