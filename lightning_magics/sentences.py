"""How sentences become the input of a model: by a DataModule like that of the texts it was trained on, without these.

The session holds one for each live model that was trained on texts, and a run's folder keeps what makes one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from .definition import Definition, load
from .errors import InputError, RunError
from .events import read
from .runs import RunFolder, write_text


def is_of_texts(datamodule: Any) -> bool:
    """Whether a DataModule, instance or class, is one of texts."""
    return hasattr(datamodule, "texts_dataloader")


@dataclass(frozen=True)
class Kept:
    """What ``texts.json`` holds of the texts of a run, beside the tokenizer.

    Attributes:
        classes: names of the labels, in the order of the model's output.
        max_length: tokens that a text is cut at.
        batch_size: texts in a batch.
        cleaned: whether the DataModule cleans texts, by code that is not kept here.
    """

    classes: list[str]
    max_length: int
    batch_size: int
    cleaned: bool = False


def reader(datamodule: Any) -> Any:
    """Return a DataModule that reads sentences as another does, and holds no texts; None for one of other data."""
    if not is_of_texts(datamodule):
        return None
    found = copy.copy(datamodule)
    found.trainer = None  # which holds the model
    return _filled(found, *datamodule.data[:2])


def keep(folder: RunFolder, datamodule: Any) -> None:
    """Keep with a run what `kept` needs of its DataModule; nothing of one of other data."""
    if not is_of_texts(datamodule):
        return
    tokenizer, classes, _ = datamodule.data
    hparams = datamodule.hparams
    told = Kept(list(classes), hparams.max_length, hparams.batch_size, hasattr(datamodule, "clean"))
    tokenizer.save_pretrained(folder.tokenizer_path)
    write_text(folder.texts_path, json.dumps(dataclasses.asdict(told)) + "\n")


def kept(folder: RunFolder, package: str, data: Definition | None) -> Any:
    """Return the reader of a run, from what its folder keeps; None where it was trained on other data.

    Args:
        folder: of the run.
        package: Lightning package of the model.
        data: that the notebook has under the name of the run's, for code that cleans texts.

    Raises:
        InputError: the texts were cleaned, by code that is not there.
        RunError: the folder is damaged.
    """
    if not folder.texts_path.is_file():
        return None
    from transformers import AutoTokenizer

    try:
        told: Kept = read(Kept, json.loads(folder.texts_path.read_text(encoding="utf-8")))
        tokenizer = AutoTokenizer.from_pretrained(folder.tokenizer_path)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder.name} does not tell how its texts were encoded: {error}") from error
    if not told.cleaned:
        found = _plain(tokenizer, told, package)
    elif data is not None and is_of_texts(data.cls) and hasattr(data.cls, "clean"):
        found = data.cls(max_length=told.max_length, batch_size=told.batch_size)
    else:
        raise InputError(
            f"the texts of {folder.name} were cleaned, by code of its data {folder.read().data}. Run the cell of that, "
            f"or let the run's own source define it: %lightning_load {folder.name}"
        )
    return _filled(found, tokenizer, told.classes)


def _plain(tokenizer: Any, told: Kept, package: str) -> Any:
    """A DataModule as `%lightning_data` makes it, of texts that do not matter."""
    from .datamodules import define_data
    from .options import DataOptions

    options = DataOptions(tokenizer=tokenizer, max_length=told.max_length, batch_size=told.batch_size)
    return define_data("texts", [("one", "0"), ("two", "1")], options, {"__name__": "__main__"}, package).new()


def _filled(datamodule: Any, tokenizer: Any, classes: list[str]) -> Any:
    """Give a DataModule its tokenizer and its classes, and no texts."""
    datamodule.data = (tokenizer, classes, {})
    load(datamodule)
    return datamodule
