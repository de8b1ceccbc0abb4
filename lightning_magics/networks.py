"""The network of a model: what the last expression of a cell, or an object, is, and how it is made anew.

The class around it is left to `models`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .cells import Cell, Hyperparameter, Source
from .definition import is_module
from .errors import InputError
from .generated import expression
from .names import Notebook, literal
from .probe import UNKNOWN, called_class, evaluate_cell
from .scopes import names_read

FORMS = (
    "A model cell takes a LightningModule class, functions with self (training_step, …), "
    "a network as its last expression, or an nn.Module class"
)


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        code: makes it, from hyperparameters and the statements of the cell.
        is_transformers: whether it is a transformers model, which has a loss of its own.
        is_causal: whether its logits are compared with the labels that follow.
        inputs: number of inputs that `forward` cannot do without.
    """

    code: ast.expr
    is_transformers: bool = False
    is_causal: bool = False
    inputs: int = 1


def find_network(cell: Cell, source: Source | None, notebook: Notebook) -> Network | None:
    """Find what a cell's expression is, by evaluating it once with the default hyperparameters.

    Parameters of a class or function that makes the network become hyperparameters of the cell.

    Returns:
        The network, or None beside hooks if the expression is something else.

    Raises:
        InputError: it is no network.
    """
    code = cell.expression
    assert code is not None
    value = evaluate_cell(cell, source, notebook.namespace, fork_random=True)
    bare = isinstance(code, ast.Name | ast.Attribute | ast.Subscript)
    if value is UNKNOWN:
        return _described(code, called_class(code, cell, notebook.namespace))
    if is_module(value):
        raise InputError(
            f"the last expression is the LightningModule {getattr(value, '__name__', type(value).__name__)} itself. "
            f"Register a class by %lightning_model NAME, or give an instance to %lightning_fit"
        )
    if isinstance(value, torch.nn.Module):
        outside = bare and not names_read(code) & cell.local_names
        return _described(expression("deepcopy(CODE)", CODE=code) if outside else code, type(value))
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return _described(_called(code, value, cell, notebook), value)
    if bare and callable(value) and not isinstance(value, type):
        return _made_by(value, cell, source, notebook)
    if cell.hooks:
        return None
    raise InputError(f"the last expression is of type {type(value).__name__}, which is no network. {FORMS}")


def _made_by(function: Callable[..., Any], cell: Cell, source: Source | None, notebook: Notebook) -> Network:
    """Return the network that a function makes; called once if it needs no arguments."""
    assert cell.expression is not None
    code = _called(cell.expression, function, cell, notebook)
    called = Cell(hyperparameters=cell.hyperparameters, inner=cell.inner, expression=code)
    value = evaluate_cell(called, source, notebook.namespace, fork_random=True)
    if value is UNKNOWN:
        return _described(code, None)
    if not isinstance(value, torch.nn.Module) or is_module(value):
        name = getattr(function, "__name__", "the function")
        raise InputError(
            f"{name} returns a value of type {type(value).__name__}. A model takes a function that returns an nn.Module"
        )
    return _described(code, type(value))


def _called(code: ast.expr, function: Callable[..., Any], cell: Cell, notebook: Notebook) -> ast.Call:
    """Return a call that passes each of a function's parameters; those become hyperparameters."""
    call = ast.Call(code, [], [])
    for item in inspect.signature(function).parameters.values():
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            continue
        default = None
        if item.default is not item.empty:
            default = literal(item.default) or notebook.reference(item.default, item.name)
        plain = isinstance(item.annotation, type) and item.annotation.__module__ == "builtins"
        annotation = ast.Name(item.annotation.__name__, ast.Load()) if plain else None
        annotation = None if item.annotation is item.empty else annotation
        cell.hyperparameters.setdefault(item.name, Hyperparameter(item.name, annotation, default))
        value = ast.Name(item.name, ast.Load())
        if item.kind is item.POSITIONAL_ONLY:
            call.args.append(value)
        else:
            call.keywords.append(ast.keyword(item.name, value))
    return call


def _described(code: ast.expr, cls: type | None) -> Network:
    """Return a network with what the steps need to know of its class."""
    if cls is None:
        return Network(code)
    bases = [base.__name__ for base in cls.__mro__ if base.__module__.startswith("transformers.")]
    is_transformers = any(name == "PreTrainedModel" or name.startswith("AutoModel") for name in bases)
    is_causal = is_transformers and cls.__name__.endswith(("ForCausalLM", "LMHeadModel"))
    forward = getattr(cls, "forward", None)
    items = list(inspect.signature(forward).parameters.values())[1:] if forward else []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    inputs = sum(item.default is item.empty and item.kind in positional for item in items)
    return Network(code, is_transformers, is_causal, max(1, inputs))
