"""The names of a classifier's outputs: those of its configuration, matched with the labels of texts, and written there.

A model of transformers names its outputs by `id2label`; one that was never told has LABEL_0, LABEL_1, ….
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .definition import has_base

_PLAIN = "label {}"


def classifier(model: Any) -> Any:
    """The classifier of transformers in a model, None where there is none that has an output for each class."""
    for part in model.modules():
        kinds = [base.__name__ for base in type(part).__mro__]
        if has_base(part, "PreTrainedModel") and any(kind.endswith("ForSequenceClassification") for kind in kinds):
            config = part.config
            is_one_of = getattr(config, "problem_type", None) in (None, "single_label_classification")
            return part if is_one_of and getattr(config, "num_labels", 0) > 1 else None
    return None


def names_of(model: Any) -> list[str] | None:
    """The names of a classifier's outputs in their order, None where they are not known."""
    part = classifier(model)
    if part is None:
        return None
    try:
        names = {int(number): str(name) for number, name in part.config.id2label.items()}
        return [names[number] for number in range(part.config.num_labels)]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def are_plain(names: Sequence[str]) -> bool:
    """Whether outputs have no names but those that transformers gives, which say nothing."""
    return all(_normal(name) == _PLAIN.format(number) for number, name in enumerate(names))


def match_classes(names: Sequence[str], classes: Sequence[str]) -> list[str] | None:
    """Return the classes in the order of a model's outputs, None where not each of them is one of these.

    Args:
        names: of the outputs.
        classes: labels of texts: such names, perhaps in another case; ``LABEL_1``; or whole numbers. A number is that
            of the one name that holds it, such as ``4 stars``, and where names hold none the place of an output.

    Returns:
        For each output its class, or its own name where no text has it.
    """
    places = _by_name(names, classes) or _by_number(names, classes)
    if places is None:
        return None
    order = list(names)
    for name, place in zip(classes, places, strict=True):
        order[place] = name
    while are_plain(names) and len(order) > max(places) + 1:
        order.pop()
    return order if len(set(order)) == len(order) else None


def _normal(name: str) -> str:
    """A name without what people write differently: case, and what stands between words."""
    return re.sub(r"(?<=\w)[-\s]+(?=\w)|_+", " ", name.casefold()).strip()


def _by_name(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    for normal in (str, _normal):
        known = {normal(name): place for place, name in enumerate(names)}
        places = [known.get(normal(name)) for name in classes]
        if len(known) == len(names) and None not in places and len(set(places)) == len(places):
            return [place for place in places if place is not None]
    return None


def _by_number(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    numbers = [re.fullmatch(r"(?:label )?(\d+)", _normal(name), re.ASCII) for name in classes]
    digits = [re.findall(r"\d+", name) for name in names]
    known = {number: number for number in range(len(names))}
    if any(digits) and not any(number and number[0] != number[1] for number in numbers):
        known = {int(parts[0]): place for place, parts in enumerate(digits) if len(parts) == 1}
        known = known if len(known) == len(names) else {}
    places = [known.get(int(number[1])) if number else None for number in numbers]
    if None in places or len(set(places)) != len(places):
        return None
    return [place for place in places if place is not None]


def name_outputs(model: Any, classes: Sequence[str]) -> None:
    """Name the outputs of a classifier that have no names yet, for whoever loads it once it is saved."""
    names = names_of(model)
    if names is None or not are_plain(names) or len(classes) > len(names):
        return
    names[: len(classes)] = classes
    config = classifier(model).config
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def named_part(model: Any, classes: Sequence[str]) -> tuple[str, list[str]] | None:
    """The path of the classifier in a model whose outputs are named by classes, and their names; None without one."""
    names = names_of(model)
    if names is None or are_plain(names) or names[: len(classes)] != list(classes):
        return None
    part = classifier(model)
    return next(path for path, item in model.named_modules() if item is part), names
