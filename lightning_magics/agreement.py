"""Two fits side by side: whether their numbers agree, and the reasons that their records show where they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from . import formats, report
from .recipe import Recipe
from .runs import RunRecord

_TOLERANCE = 1e-3  # relative: sums in another order, on another processor, are apart by less for a while
_LEFT = ("metric", "agrees")


class Agreement:
    """What came of training a run once more, shown in a notebook or a terminal.

    Args:
        before: record of the run; `after` of its repetition.
        changed: options that were given anew, as they are typed.

    Attributes:
        verdict: ``identical``, ``within tolerance`` or ``different``.
        reasons: why the numbers may differ, as far as the records show.
    """

    def __init__(self, before: RunRecord, after: RunRecord, changed: Sequence[str] = ()) -> None:
        self._before, self._after = before, after
        names = [*before.metrics, *(name for name in after.metrics if name not in before.metrics)]
        self._rows = [(name, before.metrics.get(name), after.metrics.get(name)) for name in names]
        found = {_how(one, other) for _, one, other in self._rows} or {"different"}
        self.verdict = next(item for item in ("different", "within tolerance", "identical") if item in found)
        self.reasons = [] if self.verdict == "identical" else _reasons(before, after, changed)

    def __repr__(self) -> str:
        """The table as text."""
        labels, rows = self._table()
        return "\n".join([self._headline(), "", report.text_table((labels, rows), left=_LEFT), *self._said()])

    def _repr_html_(self) -> str:
        """The table as html, with inline styles only."""
        labels, rows = self._table()
        head = "".join(_cell("th", label, label) for label in labels)
        body = "".join(
            f"<tr>{''.join(_cell('td', label, cell) for label, cell in zip(labels, row, strict=True))}</tr>"
            for row in rows
        )
        below = "".join(f'<div style="opacity:.8;font-size:.92em">{escape(line)}</div>' for line in self._said())
        sign, colour = _SIGNS[self.verdict]
        mark = f'<span style="color:{colour}">{sign}</span>'
        return (
            f'<div style="margin:2px 0 6px"><div style="margin-bottom:4px">{mark} {escape(self._headline())}</div>'
            '<div style="overflow-x:auto"><table style="margin:0;border-collapse:collapse;'
            f'font-variant-numeric:tabular-nums"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            f"{below}</div>"
        )

    def _headline(self) -> str:
        how = {
            "identical": "gives the same numbers as",
            "within tolerance": f"agrees within {_TOLERANCE:.1%} with",
            "different": "differs from",
        }
        return f"{self._after.run} {how[self.verdict]} {self._before.run}"

    def _table(self) -> report.Table:
        labels = ["metric", self._before.run, self._after.run, "agrees"]
        cells = [[name, _exact(one), _exact(other), _how(one, other)] for name, one, other in self._rows]
        return labels, [[formats.clip(row[0], 40), *row[1:]] for row in cells]

    def _said(self) -> list[str]:
        if self.verdict == "identical":
            return []
        if not self.reasons:
            return ["No reason is to be seen: operations that are not deterministic, or files that changed, are two."]
        return [f"· {reason}" for reason in self.reasons]


_SIGNS = {"identical": ("✓", "#2da44e"), "within tolerance": ("≈", "#bf8700"), "different": ("≠", "#d9534f")}


def _how(one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return "different"
    if one == other or (math.isnan(one) and math.isnan(other)):
        return "identical"
    return "within tolerance" if math.isclose(one, other, rel_tol=_TOLERANCE) else "different"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def _reasons(before: RunRecord, after: RunRecord, changed: Sequence[str]) -> list[str]:
    """What in the records may be the reason."""
    recipe = Recipe.of(before)
    found = [f"changed: {option}" for option in changed]
    if before.seed is None and after.seed is None:
        found.append("no seed: weights and the order of the data were drawn anew. Give one: --seed 1")
    if recipe.trained:
        found.append(f"{before.run} went on from an instance that had been trained; this began anew")
    elif recipe.model and recipe.arguments is None and recipe.model.isidentifier():
        found.append("the model is an instance: it was made before the seed was set")
    if before.status != "completed":
        found.append(f"{before.run} was {before.status}, after {formats.plural(before.steps, 'step')}")
    found += _differing("data", before.fingerprint, after.fingerprint)
    found += _differing("", before.versions, after.versions)
    facts: tuple[str, ...] = ("devices", "precision")
    found += [
        f"{name}: {getattr(before, name)} → {getattr(after, name)}"
        for name in facts
        if getattr(before, name) != getattr(after, name)
    ]
    found += _differing("", before.hardware, after.hardware)
    if before.git.get("commit") != after.git.get("commit"):
        found.append("the git commit of the working folder is another one: modules that are imported may have changed")
    return found


def _differing(what: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What two records have both and differ in."""
    return [
        f"{' '.join(filter(None, [what, name]))}: {before[name]} → {after[name]}"
        for name in before
        if name in after and before[name] != after[name]
    ]


def _cell(kind: str, label: str, content: str) -> str:
    side = "left" if label in _LEFT else "right"
    return f'<{kind} style="text-align:{side};padding:2px 8px;white-space:nowrap">{escape(content)}</{kind}>'
