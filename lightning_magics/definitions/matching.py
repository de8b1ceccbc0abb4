"""Whether a model and the data that it is to run on go together, found out before anything starts.

What can be told of the data alone is in `definitions/data/text_sources`.
"""

from __future__ import annotations

import copy
import inspect
import re
import shlex
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InputError
from ..formats import first_few, plural
from ..runs import columns
from . import labels
from .data.sentences import is_of_texts
from .data.text_sources import truncation_counts
from .definition import has_base, load
from .model import losses
from .model.fine_tuning import BALANCED

_MAX_TRIAL_PARAMETERS = 1_000_000_000  # parameters of a model that is tried on a text
_PLAIN = (str, int, float, type(None))


def check(
    model: Any,
    datamodule: Any,
    name: str,
    data: str,
    trained_on: tuple[Any, list[str]] | None,
    classes: Sequence[str],
    trains: bool,
) -> tuple[str, ...]:
    """Check that a model can run on data, as far as texts are concerned.

    Args:
        model: LightningModule instance.
        datamodule: its DataModule, or None.
        name: of the model.
        data: name of the data.
        trained_on: tokenizer and classes of the texts that the model was trained on, None where that is not known.
        classes: of the labels of loaders that have names, else empty.
        trains: whether it is to be trained, also on texts of another kind.

    Returns:
        What the user should know.

    Raises:
        InputError: it cannot.
    """
    weights = getattr(model, "hparams", {}).get("class_weights")
    _check_loss(model, datamodule, name, data, classes)
    if not is_of_texts(datamodule):
        if weights == BALANCED:
            raise InputError(
                f"--class_weights {BALANCED} is only available for texts (%lightning_data --text), and "
                f"{data or 'this'} is other data. Type the weights: --class_weights 0.5 2"
            )
        return ()
    load(datamodule)
    difference = _difference(trained_on, datamodule, name, data) if trained_on is not None else ""
    if difference and not trains:
        raise InputError(difference)
    order_notice = _order_classes(
        model, datamodule, (name, data), None if trained_on is None else trained_on[1], trains
    )
    tokenizer, classes, splits = datamodule.data
    size = _embedding_size(model)
    if size is not None and len(tokenizer) > size:
        raise InputError(
            f"the tokenizer of {data} has {len(tokenizer):,} tokens, but the embedding of {name} has only {size:,}. "
            f"Use the model's own tokenizer (%lightning_data {data} --tokenizer NAME), or enlarge the embedding"
        )
    cut, total, longest = truncation_counts(splits)
    outermost = _transformers_model(model)
    if outermost is not None:
        _check_config(outermost, tokenizer, len(classes), longest, (name, data))
    outputs, batch_notice = _count_outputs(model, datamodule, (name, data))
    if trains:
        labels.name_outputs(model, classes)
    if outputs == 1 and _is_cross_entropy(model):
        raise InputError(f"{name} has 1 output, but cross_entropy needs one for each of the {len(classes)} classes")
    notices = [f"{cut:,} of {total:,} texts are truncated to {longest} tokens"] if cut else []
    outputs_notice = _check_outputs(outputs, len(classes), weights, (name, data))
    notices += filter(None, (difference, order_notice, batch_notice, outputs_notice))
    return tuple(notices)


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
                f"{name} and {data} have different values for the hyperparameter {key} ({pair[0]!r} and {pair[1]!r}), "
                f"but Lightning logs only one. Set them to the same value: --model.{key} "
                f"{shlex.quote(str(pair[1]))}, or rename one of them"
            )


def _check_loss(model: Any, datamodule: Any, name: str, data: str, classes: Sequence[str]) -> None:
    """Check that classes do not go to a loss that compares numbers, to which they would be 0, 1, 2.

    Raises:
        InputError: they do.
    """
    of_texts = is_of_texts(datamodule)
    is_table = datamodule.labels == "classes" if columns.is_of_table(datamodule) else datamodule is None and classes
    if columns.is_of_table(datamodule) and datamodule.labels == "numbers" and hasattr(model, "_class_labels"):
        values = next(iter(datamodule._tables().values()))[datamodule.label]
        if (values % 1 != 0).any():
            raise InputError(
                f"the labels of {data} are numbers ({values.iloc[0]}, …), but the loss of {name} expects classes. "
                f"Define {name} with --loss mse_loss"
            )
    loss = losses.regression_loss(model) if of_texts or is_table else ""
    if not loss or (is_table and list(classes) == ["False", "True"]):
        return
    remedy = "" if of_texts else ", or convert the labels to numbers: astype('float32')"
    raise InputError(
        f"--loss {loss} expects numbers, but the labels of {data} are classes. Define {name} with "
        f"--loss cross_entropy{remedy}"
    )


def _difference(trained_on: tuple[Any, list[str]], datamodule: Any, name: str, data: str) -> str:
    """How texts differ from those that a model was trained on, with what to do; empty if they do not."""
    tokenizer, classes, _ = datamodule.data
    trained_tokenizer, trained_classes = trained_on
    if tokenizer is not trained_tokenizer and tokenizer.get_vocab() != trained_tokenizer.get_vocab():
        return (
            f"{data} uses a different vocabulary from the one that {name} was trained with. Redefine {data} with the "
            f"tokenizer of the training run: replace --vocab_size with --tokenizer {{run.log_dir}}/tokenizer"
        )
    if not set(_present(datamodule)) <= set(trained_classes):
        return f"{data} has the classes {', '.join(classes)}, and {name} was trained on {', '.join(trained_classes)}"
    return ""


def _present(datamodule: Any) -> list[str]:
    """The classes that texts of the data have."""
    _, classes, splits = datamodule.data
    numbers = torch.cat([texts.labels for texts in splits.values()])
    return [classes[number] for number in sorted(set(numbers.tolist()))]


def _order_classes(
    model: Any, datamodule: Any, names: tuple[str, str], trained_on: list[str] | None, trains: bool
) -> str:
    """Number the labels of texts as a model's outputs are: as it was trained, or as its configuration names them.

    Returns:
        What was not told before: which class is which output.

    Raises:
        InputError: the names of the outputs are others.
    """
    name, data = names
    _, current, _ = datamodule.data
    present, outputs, notice = _present(datamodule), labels.names_of(model), ""
    order = trained_on if trained_on is not None and set(present) <= set(trained_on) else None
    if order is None and outputs is not None:
        order = labels.match_classes(outputs, present)
        if order is None and not labels.are_plain(outputs):
            id2label = "{" + ", ".join(f"{number}: {item!r}" for number, item in enumerate(present[:8])) + "}"
            raise InputError(
                f"the labels of {data} ({first_few(present)}) do not match the outputs of {name} "
                f"({first_few(outputs)}). Rename the labels, or train a model that has them: from_pretrained(…, "
                f"id2label={id2label})"
            )
        if order is not None and order != current:
            notice = f"the outputs of {name} are, in order: {first_few(_paired(order, outputs))}"
        elif order is None and not trains:
            notice = f"the outputs of {name} have no names. The assumed order is {first_few(current)}"
        elif order is None:
            numbered = first_few([f"{number} = {item}" for number, item in enumerate(current)])
            notice = f"the outputs of {name} have no label names. The labels of {data} are numbered {numbered}"
    if order is not None and order != current:
        datamodule.order_classes(list(order))
        load(datamodule)
    return notice


def _paired(classes: list[str], outputs: list[str]) -> list[str]:
    """Classes, each with the name of its output where that is another."""
    pairs = zip(classes, outputs, strict=False)  # of plain names, a model may have more
    return [name if name.casefold() == output.casefold() else f"{name} ({output})" for name, output in pairs]


def _count_outputs(model: Any, datamodule: Any, names: tuple[str, str]) -> tuple[int | None, str]:
    """Number of outputs of a model for a text; None where that cannot be told by its forward.

    Tried are the longest text and the last token id, since it is those that an embedding may be too small for; and the
    shortest beside it and alone.

    Returns:
        The number, and what to know of outputs for a text that depend on the texts beside it.

    Raises:
        InputError: it is too small, or the model does not take a batch as it is.
    """
    tokenizer, _, splits = datamodule.data
    name, data = names
    texts = splits["train"] if "train" in splits else next(iter(splits.values()))
    short, long = (texts[int(place)] for place in (texts.lengths.argmin(), texts.lengths.argmax()))
    batch, alone = texts.collate([short, long]), texts.collate([short])
    longest = batch["input_ids"].shape[1]
    batch["input_ids"][1, -1] = len(tokenizer) - 1
    del batch["labels"], alone["labels"]
    if not _accepts_names(model) or sum(item.numel() for item in model.parameters()) > _MAX_TRIAL_PARAMETERS:
        return None, ""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = _logits(model.eval()(**batch))
            lone_logits = [_logits(model(**alone)) for _ in range(2)]  # of a model that draws, they differ
            depends = _are_alike(*(item[:1] for item in lone_logits)) and not _are_alike(logits[:1], lone_logits[0])
            mixes, side_helps = _batch_effects(model, texts, short, long, lone_logits[0]) if depends else (False, False)
    except IndexError as error:
        raise InputError(
            f"{name} cannot process {data}: the texts have up to {longest:,} tokens, from a vocabulary of "
            f"{len(tokenizer):,}, and an embedding is too small ({error}). Enlarge it, or type %lightning_data {data} "
            f"--max_length N"
        ) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) or not hasattr(model, "_unpack"):
            return None, ""
        raise InputError(
            f"{data} passes its batches to the model as keyword arguments. "
            f"Define forward(self, {', '.join(batch)}) in {name} ({error})"
        ) from error
    except Exception:  # what it needs besides is there when it trains
        return None, ""
    finally:
        for module, training in modes:
            module.training = training
    notice = ""
    if depends:
        notice = _batch_notice(model, tokenizer, texts.padding["padding_side"], names, mixes, side_helps)
    return int(logits.shape[1]) if logits.ndim == 2 and len(logits) == 2 and hasattr(model, "_unpack") else None, notice


def _batch_effects(model: Any, texts: Any, short: Any, long: Any, alone: torch.Tensor) -> tuple[bool, bool]:
    """Whether the output for a text depends on others without padding too, and whether padding on the other side helps.

    Args:
        model: in evaluation mode.
        texts: encoded.
        short: one of them.
        long: another.
        alone: the output for the short one alone.
    """
    flipped = copy.copy(texts)
    flipped.padding = {**texts.padding, "padding_side": _opposite(texts.padding["padding_side"])}
    alike = []
    for batch in (texts.collate([short, short]), flipped.collate([short, long])):
        batch.pop("labels", None)
        alike.append(_are_alike(_logits(model(**batch))[:1], alone))
    return not alike[0], alike[1]


def _opposite(side: str) -> str:
    return "left" if side == "right" else "right"


def _logits(output: Any) -> torch.Tensor:
    """The logits of an output; empty where it is something else."""
    logits = getattr(output, "logits", output)
    return logits if isinstance(logits, torch.Tensor) and logits.ndim else torch.empty(0)


def _are_alike(logits: torch.Tensor, reference: torch.Tensor) -> bool:
    """Whether outputs for a text are the same but for rounding; those of another shape depend on its length."""
    if logits.shape != reference.shape or not logits.is_floating_point():
        return True
    rounding = 1e-3 if logits.dtype in (torch.float32, torch.float64) else 5e-2
    return torch.allclose(logits.float(), reference.float(), rtol=rounding, atol=rounding, equal_nan=True)


def _batch_notice(model: Any, tokenizer: Any, side: str, names: tuple[str, str], mixes: bool, side_helps: bool) -> str:
    """Say that the outputs for a text depend on the texts beside it, and what helps: see `_batch_effects`.

    Raises:
        InputError: it is a classifier that looks for another padding token.
    """
    name, data = names
    classifier, pad_id = labels.classifier(model), tokenizer.pad_token_id
    config = getattr(classifier, "config", None)
    if config is not None and getattr(config, "pad_token_id", pad_id) != pad_id:
        raise InputError(
            f"{name} ignores the padding token {config.pad_token_id}, but {data} is padded with {pad_id}, so the "
            f"output for a text depends on the other texts in the batch. Pass pad_token_id={pad_id} to "
            f"from_pretrained(…)"
        )
    if mixes:
        return f"the output of {name} for a text depends on the other texts in its batch, even without padding"
    if side_helps:
        remedy = f", or set tokenizer.padding_side = {_opposite(side)!r}"
    else:
        remedy = ", for position_ids too" if side == "left" and _transformers_model(model) else ""
    return (
        f"the output of {name} for a text depends on its batch: padding on the {side} is not ignored. "
        f"Use attention_mask{remedy}"
    )


def _accepts_names(model: Any) -> bool:
    """Whether a model's forward takes token ids and a mask by name, as far as is seen."""
    if hasattr(model, "_unpack"):  # the steps are those that options made
        return not any(torch.nn.parameter.is_lazy(item) for item in model.parameters())
    return {"input_ids", "attention_mask"} <= inspect.signature(model.forward).parameters.keys()


def _is_cross_entropy(model: Any) -> bool:
    """Whether steps that options made compare outputs with classes, and not with numbers."""
    step = getattr(type(model), "_step", None)
    try:
        return step is not None and re.search(r"\bcross_entropy\(", inspect.getsource(step)) is not None
    except (OSError, TypeError):
        return False


def _check_outputs(outputs: int | None, classes: int, weights: Any, names: tuple[str, str]) -> str:
    """Check that a model has an output for each class, and each of these a weight; says where it has more."""
    name, data = names
    num_weights = None if weights is None else classes if weights == BALANCED else len(weights)
    if num_weights is not None and num_weights < classes:
        raise InputError(f"--class_weights has {num_weights} numbers, but {data} has {classes} classes")
    if outputs is None:
        return ""
    if outputs < classes and (outputs, classes) != (1, 2):
        raise InputError(f"{name} has {plural(outputs, 'output')}, but {data} has {classes} classes")
    if num_weights is not None and num_weights != outputs:
        raise InputError(
            f"--class_weights gives {num_weights} weights, but {name} has {plural(outputs, 'output')}. It "
            f"needs one for each of the {classes} classes of {data}"
        )
    return f"{name} has {outputs} outputs, but {data} has only {classes} classes" if outputs > classes else ""


def _embedding_size(model: Any) -> int | None:
    """Number of token ids that a model takes, None where it has no embedding."""
    outermost = _transformers_model(model)
    if outermost is not None:
        embedding = outermost.get_input_embeddings()
        return int(embedding.num_embeddings) if hasattr(embedding, "num_embeddings") else None
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return max((part.num_embeddings for part in model.modules() if isinstance(part, kinds)), default=None)


def _transformers_model(model: Any) -> Any:
    """The outermost model of transformers in a model, None where there is none."""
    return next((part for part in model.modules() if has_base(part, "PreTrainedModel")), None)


def _max_tokens(model: Any) -> int | None:
    """Number of tokens that a model of transformers takes: those of Roberta's kind count from behind the padding."""
    places = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(places, int):
        return None
    tables = [part for name, part in model.named_modules() if name.endswith("position_embeddings")]
    paddings = [getattr(table, "padding_idx", None) for table in tables]
    return places - max((padding + 1 for padding in paddings if padding is not None), default=0)


def _check_config(model: Any, tokenizer: Any, classes: int, longest: int, names: tuple[str, str]) -> None:
    config, cls = model.config, type(model).__name__
    name, data = names
    places = _max_tokens(model)
    if isinstance(places, int) and longest > places > 0:
        raise InputError(
            f"the longest text of {data} has {longest:,} tokens, but {name} takes at most {places:,}. "
            f"Type %lightning_data {data} --max_length {places}"
        )
    if not cls.endswith("ForSequenceClassification") or getattr(config, "problem_type", None) is not None:
        return
    if config.num_labels < classes:
        raise InputError(
            f"{data} has {classes} classes, but {name} has num_labels={config.num_labels}. "
            f"Pass num_labels={classes} to from_pretrained(…)"
        )
    if getattr(config, "pad_token_id", None) is None:
        raise InputError(
            f"{name} has no padding token. Pass pad_token_id={tokenizer.pad_token_id}, the padding token of {data}, "
            f"to from_pretrained(…)"
        )
