"""What a block has done once before a run that is made in it: its statements, without the loop and without the run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..definitions.scopes import binds
from .changes import DEFINITIONS, changed_names, nodes_outside_functions

_IN_LOOP = "it changes from one iteration of a loop to the next. Create it inside the loop, before the fit"
_IN_BLOCK = "it was created in {} block, which is not recorded. Create it outside that block"
_AFTER_JUMP = "it was created after a {} that may have skipped it. Create it before that line"
_PARAMETER = "it was passed to {}. Create it inside that function, or assign it to a variable of the notebook first"
# Context managers that make no difference to what is made within them.
_TRANSPARENT = ("open", "redirect_stdout", "redirect_stderr", "catch_warnings", "capture_output")


@dataclass(frozen=True)
class SkippedCode:
    """Names whose values are all that is known: no statement gives them alone.

    Attributes:
        binds: names that the code gave a value; `changes`, names whose object it changed.
        reason: what to say of one that is not a plain value.
    """

    binds: frozenset[str]
    changes: frozenset[str]
    reason: str


def executed_in_block(
    tree: ast.stmt, line: int | None, is_run: Callable[[ast.stmt], bool]
) -> Iterator[ast.stmt | SkippedCode]:
    """Yield what has run in a block, in its last iteration; a statement with a run in it gives values alone.

    Args:
        tree: the block: a loop, a condition, or the like.
        line: that runs now, or that failed; None of a block that has ended.
        is_run: whether a statement makes a run; it is asked when all that was yielded before is known.
    """
    kind = type(tree).__name__.removeprefix("Async").removesuffix("Star").lower()
    in_block = _skipped(_IN_BLOCK.format(f"an {kind}" if kind == "if" else f"a {kind}"), tree)
    if isinstance(tree, ast.For | ast.AsyncFor | ast.While):
        yield _skipped(_IN_LOOP, tree)
        if _includes(tree.orelse, line):
            yield from executed_in_body(tree.orelse, line, is_run)
            return
        yield from executed_in_body(tree.body, line, is_run)
        yield from [_skipped(in_block.reason, *tree.orelse)] if line is None else ()
    elif isinstance(tree, ast.If):
        branch = next((branch for branch in (tree.body, tree.orelse) if _includes(branch, line)), [])
        yield in_block if not branch else _skipped(in_block.reason, tree.test)
        yield from executed_in_body(branch, line, is_run)
    elif isinstance(tree, ast.With | ast.AsyncWith) and all(map(_is_transparent, tree.items)):
        yield _skipped(in_block.reason, *tree.items)
        yield from executed_in_body(tree.body, line, is_run)
    elif isinstance(tree, ast.Try) and (_includes(tree.body, line) or _includes(tree.orelse, line)):
        yield from executed_in_body(tree.body, line, is_run)
        yield from executed_in_body(tree.orelse, line, is_run)
    else:
        yield in_block


def parameter_reason(function: str) -> str:
    """The message for a function parameter that is not a plain value."""
    return _PARAMETER.format(f"{function}()" if function.isidentifier() else "a comprehension")


def is_lost(reason: str) -> bool:
    """Whether what is said of a name tells that it had its value in a block or function alone."""
    return reason.startswith(tuple(text.partition("{")[0] for text in (_IN_LOOP, _IN_BLOCK, _AFTER_JUMP, _PARAMETER)))


def executed_in_body(
    statements: Sequence[ast.stmt], line: int | None, is_run: Callable[[ast.stmt], bool]
) -> Iterator[ast.stmt | SkippedCode]:
    """Yield the same of statements that follow each other: a block's, or those of a function that runs."""
    for place, tree in enumerate(statements):
        if line is not None and (tree.end_lineno or 0) >= line:
            if is_block(tree) and tree.lineno <= line:
                yield from executed_in_block(tree, line, is_run)
            return
        if isinstance(tree, ast.Delete):
            continue
        if word := _jump_word(tree):
            yield _skipped(_AFTER_JUMP.format(word), *(statements[place:] if line is None else [tree]))
            if line is None:
                return
        elif is_block(tree) and is_run(tree):
            yield from executed_in_block(tree, None, is_run)
        else:
            yield tree


def _skipped(reason: str, *trees: ast.AST) -> SkippedCode:
    return SkippedCode(
        frozenset(binds(trees)), frozenset(name for tree in trees for name in changed_names(tree)), reason
    )


def is_block(tree: ast.stmt) -> bool:
    """Whether a statement holds others that run with it."""
    return (hasattr(tree, "body") and not isinstance(tree, DEFINITIONS)) or isinstance(tree, ast.Match)


def _includes(statements: Sequence[ast.stmt], line: int | None) -> bool:
    """Whether a line is one of some statements."""
    return line is not None and any(tree.lineno <= line <= (tree.end_lineno or 0) for tree in statements)


def _is_transparent(item: ast.withitem) -> bool:
    manager = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
    return ast.unparse(manager).rpartition(".")[2] in _TRANSPARENT


def _jump_word(tree: ast.stmt) -> str:
    """Which word in a statement may end the loop or function that it is in, empty where none does."""
    nodes = list(nodes_outside_functions(tree))
    loops = [node for node in nodes if isinstance(node, ast.For | ast.AsyncFor | ast.While)]
    loop_nodes = {id(inner) for loop in loops for inner in nodes_outside_functions(loop)}
    words = {
        ast.Return: "return",
        ast.Yield: "yield",
        ast.YieldFrom: "yield",
        ast.Break: "break",
        ast.Continue: "continue",
    }
    jumps = [node for node in nodes if type(node) in words]
    jumps = [node for node in jumps if not (isinstance(node, ast.Break | ast.Continue) and id(node) in loop_nodes)]
    return words[type(jumps[0])] if jumps else ""
