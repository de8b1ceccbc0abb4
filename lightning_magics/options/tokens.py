"""How the text of a magic's line becomes tokens, and a token becomes a value.

The options and the values they take are declared in `declared`.
"""

from __future__ import annotations

import ast
import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False}
_BRACKETS_OR_QUOTES = re.compile(r"[()\[\]{}'\"]")
# Operators that also join the parts of names and paths: bert-base-uncased, data/train.csv.
_JOINING = (ast.Sub, ast.Div)


@dataclass(frozen=True)
class Expression:
    """A value typed as text that is no Python literal: see `resolve`."""

    text: str


def tokenize(line: str, posix: bool = os.name == "posix") -> list[str]:
    """Split a magic's line as IPython's ``arg_split`` does, but keep what stands in brackets together.

    Whitespace within (), [] and {} does not split, and quotes within them stay, so that an expression such as
    ``[EarlyStopping('val_loss', patience=2)]`` is one token. A token that is a lone ``#`` starts a comment.

    Args:
        line: what was typed after the magic's name.
        posix: whether a backslash outside quotes escapes the next character; on Windows it is part of a path.

    Raises:
        InputError: a quote or a bracket is never closed.
    """
    return _Tokenizer(line, posix).tokens()


class _Tokenizer:
    """Reads one line, a character or a quoted part at a time."""

    def __init__(self, line: str, posix: bool) -> None:
        self.line = line
        self.posix = posix
        self.at = 0

    def tokens(self) -> list[str]:
        tokens: list[str] = []
        while True:
            while self.at < len(self.line) and self.line[self.at].isspace():
                self.at += 1
            rest = self.line[self.at :]
            if not rest or rest == "#" or (rest[0] == "#" and rest[1].isspace()):
                return tokens
            tokens.append(self._token())

    def _token(self) -> str:
        text = ""
        while self.at < len(self.line) and not self.line[self.at].isspace():
            char = self.line[self.at]
            if char in "'\"":
                text += self._quoted(char)
            elif char in _CLOSING:
                text += self._bracketed()
            elif char == "\\" and self.posix and self.at + 1 < len(self.line):
                text += self.line[self.at + 1]
                self.at += 2
            else:
                text += char
                self.at += 1
        return text

    def _quoted(self, quote: str) -> str:
        """Read a quoted part and return its content, as a POSIX shell reads it."""
        start, text = self.at, ""
        self.at += 1
        while self.at < len(self.line):
            char = self.line[self.at]
            self.at += 1
            if char == quote:
                return text
            if char == "\\" and quote == '"' and self.line[self.at : self.at + 1] in ('"', "\\"):
                char = self.line[self.at]
                self.at += 1
            text += char
        other = ', or put text with an apostrophe in double quotes: "it\'s"' if quote == "'" else ""
        raise InputError(
            f"The quote {quote} before {self.line[start + 1 :]!r} is never closed. Add the closing {quote}{other}"
        )

    def _bracketed(self) -> str:
        """Read up to the bracket that closes the one here; what is within stays as it was typed."""
        start, open_brackets = self.at, ""
        while self.at < len(self.line):
            char = self.line[self.at]
            if char in "'\"":
                begin = self.at
                self._string(char)
                if self.at >= len(self.line) and self.line[begin:].count(char) < 2:
                    break
                continue
            self.at += 1
            if char in _CLOSING:
                open_brackets += char
            elif open_brackets and char == _CLOSING[open_brackets[-1]]:
                open_brackets = open_brackets[:-1]
                if not open_brackets:
                    return self.line[start : self.at]
        text = self.line[start:]
        raise InputError(f"{text!r} has a bracket or quote that is never closed. Add the closing one")

    def _string(self, quote: str) -> None:
        """Step over a Python string."""
        self.at += 1
        while self.at < len(self.line) and self.line[self.at] != quote:
            self.at += 2 if self.line[self.at] == "\\" else 1
        self.at += 1


def to_value(text: str) -> Any:
    """Return the value of a Python literal (``true`` and ``false`` too), anything else as an `Expression`."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return Expression(text)


def resolve(value: Any, namespace: Mapping[str, Any], option: str) -> Any:
    """Return what an `Expression` stands for in a namespace; other values, and those in lists, as they are.

    Words stay text: a name that the namespace does not have, and names joined as in ``bert-base-uncased`` and
    ``data/train.csv``. Everything else is evaluated.

    Args:
        value: an `Expression`, a list of them, or any other value.
        namespace: names that an expression may use.
        option: what the value was given to, such as ``--model.hidden``, for the message.

    Raises:
        InputError: the expression cannot be evaluated.
    """
    if type(value) in (list, tuple):  # not one of the user's, such as a NamedTuple
        return type(value)(resolve(item, namespace, option) for item in value)
    if not isinstance(value, Expression):
        return value
    return evaluate(value.text, namespace, option) if is_expression(value.text, namespace) else value.text


def is_expression(text: str, namespace: Mapping[str, Any]) -> bool:
    """Whether a text is to be evaluated, rather than being a word (see `resolve`)."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return bool(_BRACKETS_OR_QUOTES.search(text))  # meant as an expression: evaluating it says what is wrong
    nodes = list(ast.walk(tree.body))
    is_word = all(
        isinstance(node, (ast.Name, ast.Attribute, ast.Constant, ast.BinOp, ast.expr_context, *_JOINING))
        for node in nodes
    )
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return not is_word or names <= namespace.keys()


def evaluate(text: str, namespace: Mapping[str, Any], option: str) -> Any:
    """Evaluate an expression in a namespace.

    Raises:
        InputError: the text itself is at fault, as by a name that does not exist; names the option and the cause.
        Exception: what code that the expression calls raised, as it is: its traceback leads to the cause.
    """
    scope = namespace if isinstance(namespace, dict) else dict(namespace)
    filename = f"<{option}>"
    try:
        return eval(compile(text.strip(), filename, "eval"), scope)
    except Exception as error:
        if not failed_itself(filename, error):
            raise
        cause = error.msg if isinstance(error, SyntaxError) else str(error)
        message = f"{option} {text!r} cannot be evaluated: {type(error).__name__}: {cause}"
        raise InputError(" ".join(message.split())) from error


def failed_itself(filename: str, error: Exception) -> bool:
    """Whether an expression failed by itself, rather than in code that it calls; to ask where it was evaluated.

    Args:
        filename: under which the expression was compiled.
        error: what compiling or evaluating it raised.
    """
    _, *frames = traceback.walk_tb(error.__traceback__)  # the first is of who evaluates
    return all(frame.f_code.co_filename == filename for frame, _ in frames)
