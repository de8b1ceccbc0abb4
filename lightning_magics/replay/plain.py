"""Values that code can hold as they are written: numbers, texts, and tuples, lists, dicts and sets of such."""

from __future__ import annotations

import ast
import sys
from typing import Any

_MAX_LENGTH = 100_000  # characters that a plain value may take


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None, or a tuple, list, dict or set of such, of no great size."""
    if isinstance(value, list | tuple | dict | set | str | bytes) and len(value) > _MAX_LENGTH:
        return False
    if not isinstance(value, list | tuple | dict | set | str | bytes | int | float | complex | bool | None):
        return False
    text = repr(value)
    try:
        return len(text) <= _MAX_LENGTH and bool(ast.literal_eval(text) == value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def is_plain_or_array(value: Any) -> bool:
    """Whether a value is plain, or a tensor, an array or a subset of a dataset: what drawing random numbers gives."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    kinds = (torch.Tensor, torch.utils.data.Subset) if torch else ()
    return type(value) in (*kinds, *((numpy.ndarray,) if numpy else ())) or is_plain(value)
