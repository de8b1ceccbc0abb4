"""Two fits side by side: whether their numbers agree, and the reasons that their records show where they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from .. import formats
from ..runs.record import RunRecord
from ..views import tables
from ..views.tables import Column
from .recipe import Recipe

_TOLERANCE = 1e-3  # relative: sums in another order, on another processor, are apart by less for a while


class Agreement:
    """What came of training a run once more, shown in a notebook or a terminal.

    Args:
        before: record of the run; `after` of its repetition.
        changed: options that were given anew, as they are typed.
        repeats: whether a fit without a seed began with the random numbers of the run.

    Attributes:
        verdict: ``identical``, ``within tolerance``, ``different``, or ``nothing`` where neither logged a metric.
        reasons: why the numbers may differ, as far as the records show.
    """

    def __init__(self, before: RunRecord, after: RunRecord, changed: Sequence[str] = (), repeats: bool = False) -> None:
        self._before, self._after = before, after
        names = [*before.metrics, *(name for name in after.metrics if name not in before.metrics)]
        self._rows = [(name, before.metrics.get(name), after.metrics.get(name)) for name in names]
        verdicts = {_value_verdict(one, other) for _, one, other in self._rows} or {"nothing"}
        self.verdict = next(
            item for item in ("different", "within tolerance", "identical", "nothing") if item in verdicts
        )
        compared = self.verdict in ("different", "within tolerance")
        self.reasons = _reasons(before, after, changed, repeats) if compared else []

    def __repr__(self) -> str:
        """The table as text."""
        table = ["", tables.text(self._columns())] if self._rows else []
        return "\n".join([self._headline(), *table, *self._reason_lines()])

    def _repr_html_(self) -> str:
        """The table as html, with inline styles only."""
        below = "".join(
            f'<div style="opacity:.8;font-size:.92em">{escape(line)}</div>' for line in self._reason_lines()
        )
        sign, colour = _SIGNS[self.verdict]
        mark = f'<span style="color:{colour}">{sign}</span>'
        return (
            f'<div style="margin:2px 0 6px"><div style="margin-bottom:4px">{mark} {escape(self._headline())}</div>'
            f"{tables.html(self._columns()) if self._rows else ''}{below}</div>"
        )

    def _headline(self) -> str:
        relations = {
            "identical": "gives the same numbers as",
            "within tolerance": f"agrees within {_TOLERANCE:.1%} with",
            "different": "differs from",
            "nothing": "logged no metrics to compare with",
        }
        return f"{self._after.run} {relations[self.verdict]} {self._before.run}"

    def _columns(self) -> list[Column]:
        return [
            Column("metric", [formats.clip(name, 40) for name, _, _ in self._rows], left_aligned=True),
            Column(self._before.run, [_exact(one) for _, one, _ in self._rows]),
            Column(self._after.run, [_exact(other) for _, _, other in self._rows]),
            Column("agrees", [_value_verdict(one, other) for _, one, other in self._rows], left_aligned=True),
        ]

    def _reason_lines(self) -> list[str]:
        if self.verdict in ("identical", "nothing"):
            return [f"· {ending}" for ending in _endings(self._before, self._after)]
        if not self.reasons:
            return ["The records show no cause. Likely ones: nondeterministic operations, or changed files."]
        return [f"· {reason}" for reason in self.reasons]


_SIGNS = {
    "identical": ("✓", "#2da44e"),
    "within tolerance": ("≈", "#bf8700"),
    "different": ("≠", "#d9534f"),
    "nothing": ("–", "#888"),
}


def _value_verdict(one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return "different"
    if one == other or (math.isnan(one) and math.isnan(other)):
        return "identical"
    return "within tolerance" if math.isclose(one, other, rel_tol=_TOLERANCE) else "different"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def _reasons(before: RunRecord, after: RunRecord, changed: Sequence[str], repeats: bool) -> list[str]:
    """What in the records may be the reason."""
    recipe = Recipe.of(before)
    reasons = [f"changed: {option}" for option in changed]
    weights = before.fingerprint.get("weights")
    same_weights = weights is not None and weights == after.fingerprint.get("weights")
    reasons += variation_reasons(
        before.run, recipe, after.seed, repeats, same_weights or before.precision != after.precision
    )
    if before.seed != after.seed:
        reasons.append(f"seed: {_seed(before)} → {_seed(after)}")
    reasons += _endings(before, after)
    for one, other in ((before, after), (after, before)):
        reasons += [
            f"the hyperparameter {name} is only in {one.run}"
            for name in one.hyperparameters
            if name not in other.hyperparameters
        ]
    hyperparameters = {
        name: value for name, value in before.hyperparameters.items() if f"--model.{name} " not in " ".join(changed)
    }
    reasons += _differences(
        "the hyperparameter", _without_addresses(hyperparameters), _without_addresses(after.hyperparameters)
    )
    data = {name: text for name, text in before.fingerprint.items() if name != "weights"}
    reasons += _differences("data", data, after.fingerprint)
    if not reasons and before.precision == after.precision and _differences("", before.fingerprint, after.fingerprint):
        instance = ": the model is an instance, created before the fit started" if _is_instance(recipe) else ""
        reasons.append(f"the initial weights differ from those of {before.run}{instance}")
    reasons += _differences("", before.versions, after.versions)
    facts: tuple[str, ...] = ("devices", "precision")
    reasons += [
        f"{name}: {getattr(before, name)} → {getattr(after, name)}"
        for name in facts
        if getattr(before, name) != getattr(after, name)
    ]
    reasons += _differences("", before.hardware, after.hardware)
    if before.git.get("commit") != after.git.get("commit"):
        reasons.append("the git commit of the working folder has changed: imported modules may differ")
    return reasons


def _is_instance(recipe: Recipe) -> bool:
    return recipe.arguments is None or recipe.remade


def variation_reasons(
    run: str, recipe: Recipe, seed: int | None, repeats: bool, same_weights: bool = False
) -> list[str]:
    """What of a fit comes out otherwise each time that it is run from its source.

    Args:
        run: its name.
        recipe: how it was put together.
        seed: of ``--seed``, or None.
        repeats: whether the random numbers are the run's without one.
        same_weights: whether the initial weights are known to be the run's.
    """
    reasons = []
    if seed is None and not repeats:
        reasons.append("no seed was set: initial weights and data order differ each time. Set one: --seed 1")
    if recipe.trained:
        reasons.append(f"{run} continued from an instance that was already trained; this run starts from scratch")
    elif not same_weights and seed is not None and _is_instance(recipe) and recipe.model.isidentifier():
        reasons.append("the model is an instance, created before the fit set its seed")
    if recipe.drawn:
        reasons.append(
            f"{run} drew {formats.first_few(recipe.drawn)} in a loop or function, and its source draws "
            "different random numbers. Set a seed just before that line: torch.manual_seed(fold)"
        )
    return reasons


def _seed(record: RunRecord) -> str:
    return "none" if record.seed is None else str(record.seed)


def _endings(*records: RunRecord) -> list[str]:
    """How runs ended that did not reach their end."""
    return [
        f"{record.run} {'failed' if record.status == 'failed' else f'was {record.status}'}, "
        f"after {formats.plural(record.steps, 'step')}"
        for record in records
        if record.status != "completed"
    ]


def _without_addresses(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if " at 0x" not in str(value)}


def _differences(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What two records have both and differ in."""
    return [
        f"{' '.join(filter(None, [kind, name]))}: {before[name]} → {after[name]}"
        for name in before
        if name in after and before[name] != after[name]
    ]
