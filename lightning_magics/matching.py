"""Whether a model and the data that it is to run on go together, found out before anything starts.

What can be told of the data alone is the part of `texts`.
"""

from __future__ import annotations

import shlex
from typing import Any

import torch

from .definition import load
from .errors import InputError
from .pretrained import BALANCED
from .sentences import is_of_texts
from .texts import cuts

_PLAIN = (str, int, float, type(None))


def check(model: Any, datamodule: Any, name: str, data: str, trained_on: Any = None) -> tuple[str, ...]:
    """Check that a model can run on data, as far as texts are concerned.

    Args:
        model: LightningModule instance.
        datamodule: its DataModule, or None.
        name: of the model.
        data: name of the data.
        trained_on: reader of the texts that the model was trained on (`sentences`), None where that is not known.

    Returns:
        What the user should know.

    Raises:
        InputError: it cannot.
    """
    if not is_of_texts(datamodule):
        if getattr(model, "hparams", {}).get("class_weights") == BALANCED:
            raise InputError(
                f"--class_weights {BALANCED} counts the labels of texts (%lightning_data --text), and {data or 'this'} "
                f"is other data. Type the weights: --class_weights 0.5 2"
            )
        return ()
    load(datamodule)
    tokenizer, classes, splits = datamodule.data
    if trained_on is not None:
        _check_same(trained_on, datamodule, name, data)
    size = _embedding_size(model)
    if size is not None and len(tokenizer) > size:
        raise InputError(
            f"the tokenizer of {data} has {len(tokenizer):,} tokens, and the embedding of {name} has {size:,}. Give "
            f"the tokenizer that goes with it (%lightning_data {data} --tokenizer NAME), or make the embedding larger"
        )
    cut, total, longest = cuts(splits)
    for config in _configs(model):
        _check_config(config, tokenizer, len(classes), longest, (name, data))
    return (f"{cut:,} of {total:,} texts are cut at {longest} tokens",) if cut else ()


def check_hyperparameters(model: Any, datamodule: Any, name: str, data: str) -> None:
    """Check that a hyperparameter that a model and its data both have has one value: it is logged once.

    Raises:
        InputError: it has two, which Lightning refuses.
    """
    if not (getattr(model, "_log_hyperparams", False) and getattr(datamodule, "_log_hyperparams", False)):
        return
    ours, theirs = model.hparams_initial, datamodule.hparams_initial
    for key in sorted(ours.keys() & theirs.keys() - {"_class_path"}):
        pair = ours[key], theirs[key]
        if all(isinstance(value, _PLAIN) for value in pair) and (type(pair[0]), pair[0]) != (type(pair[1]), pair[1]):
            raise InputError(
                f"{name} and {data} both have a hyperparameter {key}, {pair[0]!r} and {pair[1]!r}, and Lightning logs "
                f"one. Give both the same, --model.{key} {shlex.quote(str(pair[1]))}, or call one of them otherwise"
            )


def _check_same(trained_on: Any, datamodule: Any, name: str, data: str) -> None:
    """Check that texts are encoded as those that a model was trained on."""
    tokenizer, classes, _ = datamodule.data
    if tokenizer is not trained_on.tokenizer and tokenizer.get_vocab() != trained_on.tokenizer.get_vocab():
        raise InputError(
            f"{data} has another vocabulary than the texts that {name} was trained on. Define it with the tokenizer of "
            f"that run: %lightning_data {data} --tokenizer {{run.log_dir}}/tokenizer"
        )
    if classes != trained_on.classes:
        raise InputError(
            f"{data} has the classes {', '.join(classes)}, and {name} was trained on {', '.join(trained_on.classes)}"
        )


def _embedding_size(model: Any) -> int | None:
    """Number of token ids that a model takes, None where it has no embedding."""
    for part in model.modules():
        if any(base.__name__ == "PreTrainedModel" for base in type(part).__mro__):
            found = part.get_input_embeddings()
            return int(found.num_embeddings) if hasattr(found, "num_embeddings") else None
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return max((part.num_embeddings for part in model.modules() if isinstance(part, kinds)), default=None)


def _configs(model: Any) -> list[Any]:
    """Configurations of the transformers models in a model, with the class that each is of, the outermost alone."""
    for part in model.modules():
        if any(base.__name__ == "PreTrainedModel" for base in type(part).__mro__):
            return [(part.config, type(part).__name__)]
    return []


def _check_config(found: Any, tokenizer: Any, classes: int, longest: int, names: tuple[str, str]) -> None:
    config, cls = found
    name, data = names
    places = getattr(config, "max_position_embeddings", None)
    if isinstance(places, int) and longest > places > 0:
        raise InputError(
            f"the longest text of {data} has {longest:,} tokens, and {name} takes {places:,}. "
            f"Type %lightning_data {data} --max_length {places}"
        )
    if not cls.endswith("ForSequenceClassification") or getattr(config, "problem_type", None) is not None:
        return
    if config.num_labels < classes:
        raise InputError(f"{data} has {classes} classes, and {name} is made for num_labels={config.num_labels}")
    if getattr(config, "pad_token_id", None) is None:
        raise InputError(
            f"{name} knows no token that fills up a batch. Write from_pretrained(…, "
            f"pad_token_id={tokenizer.pad_token_id}), which is what {data} fills up with"
        )
