"""Numbers, times and sizes as the user reads them, in the live view, the report and the terminal alike."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

_WHOLE = 1e7  # whole numbers up to here are written in full


def number(value: float) -> str:
    """Return a number with four significant digits: ``0.5123``, ``12.35``, ``1.000e-05``."""
    return column([value])[0]


def column(values: Sequence[float | None]) -> list[str]:
    """Return the numbers of a table's column with one number of decimals, so that they line up; None is empty.

    The largest has four significant digits; the smallest keeps at least two.
    """
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value != 0]
    form = _form(sizes)
    return [
        "" if value is None else _plain(value) if not math.isfinite(value) else form.format(value) for value in values
    ]


def axis(values: Sequence[float]) -> list[str]:
    """Return evenly spaced values with just the decimals that tell them apart: ``0.5``, ``1.0``, ``1.5``."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=0.0)
    if not step or max(map(abs, values)) >= _WHOLE or step < 1e-5:
        return [f"{value:.3g}" for value in values]
    return [f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" for value in values]


def speed(per_s: float) -> str:
    """Return a number of things a second: ``900``, ``98.1``, ``0.52``."""
    return f"{per_s:,.{0 if per_s >= 99.95 else 1 if per_s >= 9.995 else 2}f}"


def _form(sizes: list[float]) -> str:
    """The format of a column with these magnitudes."""
    if not sizes:
        return "{:.0f}"
    top, low = math.floor(math.log10(max(sizes))), math.floor(math.log10(min(sizes)))
    if max(sizes) < _WHOLE and all(size == int(size) for size in sizes) and max(sizes) > 1:
        return "{:.0f}"
    decimals = max(3 - top, min(1 - low, 6), 0)
    if top >= 7 or low < -5 or top < -3 or decimals > 6:
        return "{:.3e}"
    return f"{{:.{decimals}f}}"


def _plain(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def duration(seconds: float) -> str:
    """Return a time as ``0.8 s``, ``42 s``, ``1:05 min`` or ``2:03:10 h``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def clock(seconds: float) -> str:
    """Return a time that goes on, in whole seconds: ``0 s``, ``42 s`` or as `duration`."""
    whole = math.floor(seconds)
    return f"{whole} s" if whole < 60 else duration(whole)


def remaining(seconds: float) -> str:
    """Return a time left, in whole seconds and at least one: finer would only flicker."""
    whole = max(1, math.ceil(seconds))
    return f"{whole} s" if whole < 60 else duration(whole)


def moment(time_s: float) -> str:
    """Return a Unix time in the local zone, as ``2026-11-23 14:32``: true in a notebook that is read next year too."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))


def size(size_bytes: float) -> str:
    """Return a size in bytes as ``980 MB`` or ``1.1 GB`` (powers of 1000)."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            scaled = size_bytes / factor
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def count(value: int) -> str:
    """Return a count as ``4,938``, ``85.2 K``, ``1.24 M`` or ``125 M``."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= factor and value >= 10_000:
            return f"{value / factor:.3g} {unit}" if value / factor < 999.5 else f"{value / factor:.0f} {unit}"
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """Return ``1 epoch``, ``3,300 steps``, ``2 batches`` or ``2 processes``."""
    ending = "" if value == 1 else "es" if noun in ("batch", "process", "class") else "s"
    return f"{value:,} {noun}{ending}"


def clip(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, its end cut off with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_few(items: Iterable[Any], limit: int = 8) -> str:
    """Return the first of some items: ``a, b, …``; what NumPy or torch holds as plain values."""
    texts = [str(item.item() if hasattr(item, "item") else item) for item in itertools.islice(items, limit + 1)]
    return ", ".join(texts[:limit]) + (", …" if len(texts) > limit else "")


def first_and_more(items: Iterable[str], limit: int = 8) -> str:
    """Return the first of some items, and how many more there are: ``a, b and 3 more``."""
    texts = list(items)
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def one_line(text: str) -> str:
    """Return a text in one line that every front end can show: a lone surrogate would break its message."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
