"""How generated code is laid out for its reader: blank lines, long lines in several, double quotes.

Nothing but the layout changes: what would come to another program stays as it was.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import textwrap
import tokenize
from collections.abc import Iterable

_WIDTH = 100
_MANY_ITEMS, _SHORT_ITEM = 16, 24  # items that share lines, and their most characters
_OPEN, _CLOSE = "([{", ")]}"
_DEFINES = re.compile(r"^(def|class|async def|@)\b|^@", re.MULTILINE)
_INNER = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
_INNER_END = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}


def layout_module(imports: str, statements: Iterable[str]) -> str:
    """Return a module: its imports, then its statements, with two blank lines around functions and classes."""
    text, separate = imports, True
    for statement in statements:
        defines = _DEFINES.search(statement) is not None
        text += ("\n\n\n" if defines or separate else "\n") if text else ""
        text += statement
        separate = defines
    return text + "\n" if text else ""


def wrap_code(code: str) -> str:
    """Return code, as `ast.unparse` writes it, with long lines broken at their brackets, and in double quotes."""
    try:
        lines = [part for line in _double_quoted(code).split("\n") for part in _break_line(line)]
        wrapped_code = "\n".join(lines)
        return wrapped_code if ast.dump(ast.parse(wrapped_code)) == ast.dump(ast.parse(code)) else code
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        return code


def _double_quoted(code: str) -> str:
    """Texts in double quotes, where they hold neither kind of quote nor a backslash."""
    lines = code.split("\n")
    for (row, start), (last, end) in reversed(_string_spans(code)):
        line = lines[row - 1]
        quoted = re.fullmatch(r"([A-Za-z]*)'([^'\"\\]*)'", line[start:end]) if row == last else None
        if quoted:
            lines[row - 1] = f'{line[:start]}{quoted[1]}"{quoted[2]}"{line[end:]}'
    return "\n".join(lines)


def _string_spans(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the texts of code begin and end; from Python 3.12 on, an f-string is several tokens."""
    spans: list[tuple[tuple[int, int], tuple[int, int]]] = []
    starts: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in _INNER:
            starts.append(token.start)
        elif token.type in _INNER_END:
            begin = starts.pop()
            spans += [] if starts else [(begin, token.end)]
        elif token.type == tokenize.STRING and not starts:
            spans.append((token.start, token.end))
    return spans


def _break_line(line: str) -> list[str]:
    """A line, in several where it is long and has a bracket to break at."""
    if len(line) <= _WIDTH:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    span = _longest_bracket(line)
    if span is None:
        return [line]
    start, end, cuts, trailing = span
    inner = indent + "    "
    places = [start + 1, *cuts, end]
    items = [line[begin:stop].strip() for begin, stop in itertools.pairwise(places)]
    items = [item for item in items if item]
    if trailing and items:
        items[-1] += ","
    if len(items) > _MANY_ITEMS and all(len(item) <= _SHORT_ITEM for item in items):
        items = textwrap.wrap(" ".join(items), _WIDTH - len(inner), break_long_words=False, break_on_hyphens=False)
        return [line[: start + 1], *(inner + item for item in items), *_break_line(indent + line[end:])]
    item_lines = [part for item in items for part in _break_line(inner + item)]
    return [line[: start + 1], *item_lines, *_break_line(indent + line[end:])]


def _longest_bracket(line: str) -> tuple[int, int, list[int], bool] | None:
    """The outermost bracket that holds most: its places, where to cut within it, and whether a comma may end it."""
    brackets: list[tuple[int, int, list[int], bool]] = []
    depth, start, cuts, comprehends = 0, 0, list[int](), False
    for kind, text, place in _tokens(line):
        if kind == tokenize.OP and text in _OPEN:
            depth += 1
            if depth == 1:
                start, cuts, comprehends = place, [], False
        elif kind == tokenize.OP and text in _CLOSE:
            depth -= 1
            if depth == 0:
                brackets.append((start, place, cuts, bool(cuts) and not comprehends))
        elif depth == 1 and text == "," and not comprehends:
            cuts.append(place + 1)
        elif depth == 1 and text in ("for", "async") and kind == tokenize.NAME:
            cuts, comprehends = [*(cuts if comprehends else ()), place], True
        elif depth == 1 and text == "if" and comprehends:
            cuts.append(place)
    filled = [item for item in brackets if item[1] - item[0] > 1]
    return max(filled, key=lambda item: item[1] - item[0], default=None)


def _tokens(line: str) -> list[tuple[int, str, int]]:
    """Kind, text and place of the tokens of one line, whatever is open at its end; a text is one token."""
    tokens: list[tuple[int, str, int]] = []
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(line.strip()).readline):
            depth += token.type in _INNER
            if not depth and token.start[0] == 1:
                tokens.append((token.type, token.string, token.start[1] + len(line) - len(line.lstrip())))
            depth -= token.type in _INNER_END
    except (tokenize.TokenError, IndentationError):
        pass  # an item of a bracket need not be a statement
    return tokens
